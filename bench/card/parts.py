"""The four parts of a run on a card: their steps and time limits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """A step: the function of bench.card that lists its items, as "module:function", and its limit in seconds."""

    name: str
    where: str
    limit: float


#: Seconds of a part, below the nine minutes after which machines that are lent for commands end one
BUDGET = 520.0

PARTS: dict[int, tuple[Step, ...]] = {
    1: (
        Step("about", "bench.card.about:items", 60),
        Step("latencies", "bench.card.latencies:items", 60),
        Step("correctness", "bench.card.correctness:items", 200),
        Step("hazards", "bench.card.hazards:items", 120),
    ),
    2: (
        Step("rnn", "bench.card.peers:rnn", 200),
        Step("memory", "bench.card.peers:memory", 90),
        Step("chunked", "bench.card.peers:chunked", 80),
        Step("newton", "bench.card.peers:newton", 120),
        Step("products", "bench.card.peers:products", 60),
    ),
    3: (
        Step("plans", "bench.card.plans:items", 260),
        Step("model", "bench.card.model:items", 30),
        Step("profile", "bench.card.profile:items", 170),
        Step("memcheck", "bench.card.profile:memcheck", 90),
    ),
    4: (Step("tests", "bench.card.gpu_tests:items", 510),),
}
STEPS = {step.name: step for steps in PARTS.values() for step in steps}
