"""The common part of every family's contests: the task, the entrants, the correctness gate, and the timed race."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

import fastiter
from bench.harness import gate
from bench.harness.record import BOTH as BOTH
from bench.harness.record import FORWARD as FORWARD
from bench.harness.record import FRESH as FRESH
from bench.harness.record import MODES as MODES
from bench.harness.record import REUSED as REUSED
from bench.harness.record import Record as Record
from bench.harness.timing import Competitor, Timing, collect_garbage, fastest, interleave, load_average, use_threads

Call = Callable[[], object]
Results = dict[str, Tensor]
Tensors = Tensor | Sequence[Tensor]


def run(call: Callable[[], Tensors], inputs: Sequence[Tensor], cotangent: Tensors, mode: str) -> Call:
    """The timed call: forward, or forward and the gradients of all inputs."""
    if mode == FORWARD:
        return call
    return lambda: torch.autograd.grad(call(), inputs, cotangent)


def with_gradients(h: Tensor, inputs: dict[str, Tensor], cotangent: Tensor) -> Results:
    """Results by name, for the gate."""
    gradients = torch.autograd.grad(h, list(inputs.values()), cotangent)
    return {"h": h.detach(), **{f"d{name}": gradient for name, gradient in zip(inputs, gradients, strict=True)}}


# # ---- The task
# -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """The task: our function, and a trusted loop over the steps that autograd differentiates."""

    name: str
    ours: Callable[..., Tensor]
    loop: Callable[..., Tensor]
    inputs: dict[str, Tensor]
    cotangent: Tensor
    length: int

    @cached_property
    def expected(self) -> Results:
        """The loop's results in twice the precision, rounded."""
        inputs = {name: value.detach().double().requires_grad_() for name, value in self.inputs.items()}
        exact = with_gradients(self.loop(*inputs.values()), inputs, self.cotangent.double())
        return {name: value.to(self.cotangent.dtype) for name, value in exact.items()}

    def results(self) -> Results:
        return with_gradients(self.ours(*self.inputs.values()), self.inputs, self.cotangent)

    def check(self) -> float:
        """Raise if ours is wrong; else return the largest relative difference."""
        return self.compare(self.name, self.results())

    def compare(self, name: str, results: Results) -> float:
        """Raise if the results are wrong; else return the largest relative difference."""
        return gate.check(name, results, self.expected, self.length)

    def timed(self, mode: str) -> Call:
        values = list(self.inputs.values())
        return run(lambda: self.ours(*values), values, self.cotangent, mode)

    def forms(self) -> dict[str, Call]:
        """Our function, forward and backward."""
        both = self.timed(BOTH)
        return {FRESH: on_fresh_pages(both), REUSED: both}


class Contested(Protocol):
    """The subject of a race: a task with gradients, or another one that can check a result."""

    @property
    def name(self) -> str: ...
    def check(self) -> float: ...
    def compare(self, name: str, results: Results) -> float: ...
    def forms(self) -> dict[str, Call]: ...


def leaves(**tensors: Tensor) -> dict[str, Tensor]:
    """Inputs that require gradients."""
    return {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}


def on_fresh_pages(call: Call) -> Call:
    """The call without reused memory; the time to return pages to the system counts, as it does for peers."""

    def fresh() -> None:
        call()
        fastiter.release_memory()

    return fresh


# # ---- The entrants
# ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entrant:
    """A peer: the timed call, and its results by name, for the gate."""

    name: str
    call: Call
    results: Callable[[], Results]
    variant: str = ""  # name of the variant, if there are several; the fastest counts
    fixed_threads: bool = False  # keeps the number of threads it starts with


@dataclass(frozen=True)
class Absent:
    """A peer that is not available, and the reason."""

    name: str
    reason: str


def torch_entrant(name: str, function: Callable[..., Tensor], work: Work, variant: str = "") -> Entrant:
    """An entrant from a function of the task's inputs that autograd differentiates."""
    values = list(work.inputs.values())
    return Entrant(
        name,
        run(lambda: function(*values), values, work.cotangent, BOTH),
        lambda: with_gradients(function(*values), work.inputs, work.cotangent),
        variant,
    )


def thread_counts(entrant: Entrant, threads: int) -> list[int]:
    """The thread counts at which the peer may be fastest."""
    return [threads] if threads == 1 or entrant.fixed_threads else [1, threads]


# ---- The race -------------------------------------------------------------------------------------------------------


def reason_against(entrant: Entrant, work: Contested) -> str | None:
    """Return why the peer cannot be timed, or None if its results are right. Triggers compilation."""
    try:
        work.compare(entrant.name, entrant.results())
    except gate.GateError as error:
        return str(error)
    except Exception as error:  # half of the peers are prototypes: their own failures are reported
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return None


def ways(peer: Entrant, threads: int) -> list[Competitor]:
    """The peer at each thread count at which it may be fastest."""
    competitors = []
    for count in thread_counts(peer, threads):
        variant = ", ".join([*filter(None, [peer.variant]), f"{count} thread{'s' * (count > 1)}"])
        competitors.append(Competitor(f"{peer.name} ({variant})", peer.call, count, variant_of=peer.name))
    return competitors


def admit(peers: Iterable[Entrant | Absent], work: Contested, threads: int) -> tuple[list[Competitor], Record]:
    """The peers with right results, in all their variants, and the reasons why others do not run."""
    admitted: list[Competitor] = []
    out: Record = {}
    for peer in peers:
        if isinstance(peer, Absent):
            out[peer.name] = peer.reason
            continue
        for way in ways(peer, threads):
            use_threads(way.threads)
            if (reason := reason_against(peer, work)) is None:
                admitted.append(way)
            else:
                out[way.name] = reason
    for name, reason in out.items():
        print(f"not timed: {name}: {reason}", flush=True)
    return admitted, out


def pass_gate(work: Contested, peers: Iterable[Entrant | Absent], threads: int) -> tuple[list[Competitor], Record]:
    """The competitors to time besides ours, and the findings of the gate."""
    use_threads(threads)
    worst = work.check()
    admitted, out = admit(peers, work, threads)
    return admitted, {"difference": worst, "out": out}


def race(
    work: Contested, peers: Iterable[Entrant | Absent], threads: int, budget: float, stir: Call | None = None
) -> Record:
    """The gate, then ours and all peers against the clock."""
    admitted, facts = pass_gate(work, peers, threads)
    return {**facts, **timed(work, admitted, threads, budget, stir)}


def timed(
    work: Contested, peers: Sequence[Competitor], threads: int, budget: float, stir: Call | None = None
) -> Record:
    """Time ours, on fresh and on reused memory, and all peers, in turn."""
    use_threads(threads)
    ours = work.forms()
    competitors = [Competitor(form, call, threads, often=True) for form, call in ours.items()]
    timings = interleave([*competitors, *peers], budget, stir)
    collect_garbage()
    return {
        "work": work.name,
        "threads": threads,
        "ours": {form: milliseconds(timings[form]) for form in ours},
        "peers": against_ours(timings, peers, list(ours)),
        "load": load_average(),
    }


def milliseconds(timing: Timing) -> Record:
    return {"ms": 1e3 * timing.minimum, "median_ms": 1e3 * timing.median, "samples": len(timing.seconds)}


def against_ours(timings: dict[str, Timing], peers: Sequence[Competitor], forms: Sequence[str]) -> Record:
    """The fastest variant of each peer, and its time relative to ours."""
    records: Record = {}
    for name in dict.fromkeys(peer.variant_of for peer in peers):
        key = fastest(timings, [peer.name for peer in peers if peer.variant_of == name])
        theirs = timings[key]
        records[name] = {
            **milliseconds(theirs),
            "how": key[len(name) + 2 : -1],
            "ratio": {form: theirs.minimum / timings[form].minimum for form in forms},
            "ratio_median": {form: theirs.median / timings[form].median for form in forms},
        }
    return records


def backward_against_forward(work: Work, threads: int, budget: float, stir: Call | None = None) -> Record:
    """The gradients alone, against the preceding forward pass; and the forward pass without gradients."""
    use_threads(threads)
    work.check()
    values = list(work.inputs.values())
    h = work.ours(*values)

    def without_gradients() -> Tensor:
        with torch.no_grad():
            return work.ours(*values)

    calls: dict[str, Call] = {
        "inference": without_gradients,
        "forward": lambda: work.ours(*values),
        "backward": lambda: torch.autograd.grad(h, values, work.cotangent, retain_graph=True),
    }
    timings = interleave([Competitor(name, call, threads) for name, call in calls.items()], budget, stir)
    return {
        "work": work.name,
        "threads": threads,
        **{name: milliseconds(timings[name]) for name in calls},
        "ratio": timings["backward"].minimum / timings["forward"].minimum,
        "load": load_average(),
    }
