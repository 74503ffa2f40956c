"""The three parts of a run on a card: their steps, most valuable first, and the time that these are expected to take.

The expectations are estimates for an H100 and 16 cores, as no card has run this yet. The time of a step is that of a
start and of its items, whose estimates are beside them in the modules: NVRTC compiles a kernel in 1 to 13 s of one core
(docs/gpu.md), 16 at once; timed calls repeat eight times what docs/gpu.md estimates, which is below 10 ms but for the
loops of the step newton; 800 tests take 3 s each, in 14 processes. If a step takes longer, the items that are left at
its end are recorded as such.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Seconds that a process is expected to need until its first item, mostly for the import of torch and a context
START = 8.0


@dataclass(frozen=True)
class Step:
    """A step: the function of bench.card that lists its items, as "module:function", and its expected seconds."""

    name: str
    where: str
    expected: float


#: Seconds of a part, of the ten minutes after which machines that are lent for commands end one
BUDGET = 570.0

PARTS: dict[int, tuple[Step, ...]] = {
    1: (  # in the time that the build leaves
        Step("about", "bench.card.steps.about:items", 14),
        Step("kernels", "bench.card.steps.kernels:items", 160),
        Step("correctness", "bench.card.steps.correctness:items", 110),
        Step("sanitizer", "bench.card.steps.sanitizer:items", 130),
    ),
    2: (
        Step("rnn", "bench.card.steps.peers:rnn", 118),
        Step("families", "bench.card.steps.families:items", 190),
        Step("memory", "bench.card.steps.peers:memory", 36),
        Step("newton", "bench.card.steps.peers:newton", 134),
        Step("products", "bench.card.steps.peers:products", 28),
        Step("profile", "bench.card.steps.profile:items", 60),
    ),
    3: (
        Step("tests", "bench.card.steps.gpu_tests:items", 230),
        Step("hazards", "bench.card.steps.hazards:items", 112),
        Step("plans", "bench.card.steps.plans:items", 160),
        Step("model", "bench.card.steps.model:items", 10),
        Step("latencies", "bench.card.steps.latencies:items", 28),
    ),
}
STEPS = {step.name: step for steps in PARTS.values() for step in steps}
#: A step of dry runs alone, whose items fail on purpose
PLANTED = Step("planted", "bench.card.steps.planted:items", 60)
