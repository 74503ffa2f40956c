"""Calls of recurrences with sharded steps: their checks, the agreement of the ranks, and the choice of a method."""

from __future__ import annotations

import math
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..._check import check_choice, check_flag, count
from ..._sequences import check_bounds_shape, check_packing
from ..ops import check_reset, checked_integers, refuse_transforms
from ..sequences import Integers, Sequences
from .borders import Border, divided
from .collectives import Agreement, Line, Ranks
from .in_place import Kernels, Optional
from .sharded import Affine, Call, Entered, Split, sharded
from .speculative import Shard, segments

Exchange: TypeAlias = Literal["auto", "pipeline", "scan", "speculative"]
EXCHANGES = ("auto", "pipeline", "scan", "speculative")
#: Default number of chunks per rank after the first: filling and draining the pipeline then takes a ninth of the time.
CHUNKS = 8

#: Parts of docstrings: the final state of a pipeline, and the parameters of every function with sharded steps
PARTS = {
    "final": """
        state : tuple of Tensor
            The final states, on the rank with the last step of the sequence and zero on the others: their sum over the
            ranks is the result of one process.
    """,
    "group": """
        group : ProcessGroup or DeviceMesh, optional
            The ranks, in the order of the steps; a mesh has one axis. The default group if None.
    """,
    "exchange": """
        exchange : {"auto", "pipeline", "scan", "speculative"}
            "pipeline": a rank computes one chunk of the independent rows or channels after another, each when its state
            has arrived. "scan": each rank reduces its steps to one affine map, the maps are exchanged in ceil(log2 P)
            rounds, and then the steps are computed. "speculative" (linear_scan on CPUs without ``lengths`` and
            ``cu_seqlens``): each rank computes its steps from a zero state, and repeats the leading steps whose results
            differ once its state has arrived. "auto" is "speculative" if a sample of the factors indicates that these
            are a small part of every shard, else the pipeline if it has at least P - 1 chunks, else the scan.
    """,
    "chunks": """
        chunks : int, optional
            The maximum number of chunks of the pipeline; by default 8 for each rank after the first, in ``linear_scan``
            with at least 128 channels per chunk.
    """,
    "state": """
        state : Tensor or tuple of Tensor, optional
            As for one process, the same on every rank. It is read where the sequence starts, and its gradient is zero
            on the other ranks: the sum over the ranks is that of one process.
    """,
    "initial_state": """
        initial_state : Tensor or tuple of Tensor, optional
            As for one process, the same on every rank. It is read where the sequence starts, and its gradient is zero
            on the other ranks: the sum over the ranks is that of one process.
    """,
    "reverse": """
        reverse : bool
            Run from the last step of the last rank to the first step of the first.
    """,
    "reset": """
        reset : bool Tensor (B, T) or (T,), optional
            True where a new sequence begins, for the steps of this rank.
    """,
    "lengths": """
        lengths : integers (B,), optional
            Valid steps of each row over all ranks, the same on every rank.
    """,
    "cu_seqlens": """
        cu_seqlens : integers (S + 1,), optional
            S sequences packed into one row (B = 1) over all ranks, the same on every rank: sequence s is the steps
            cu_seqlens[s] to cu_seqlens[s + 1], and may cross any number of borders.
    """,
    "errors": """
        TypeError, ValueError
            For a wrong type or dtype; for a wrong shape or value; and on every rank, before data is exchanged, for
            arguments that differ between ranks or that another rank has refused.
        BackendError
            For a device without kernels, or without a backend in the group.
        RuntimeError
            If torch.distributed is not initialized; CommunicationError, a subclass, if a rank does not respond.
    """,
    "last": """
        last : Tensor or tuple of Tensor
            The final states, on the rank with the last step of the sequence (the last rank for sequences that are not
            packed) and zero on the others: their sum over the ranks is the result of one process.
    """,
}


class Maps(NamedTuple):
    """The affine maps of a family: the function of the tensors, reset and lengths that returns M, and the kind of M."""

    transition: Callable[[Optional, Tensor | None, Tensor | None], Tensor]
    kind: Literal["numbers", "rows", "vector", "matrix"]


class Meeting(NamedTuple):
    """The information about the steps of all ranks that every rank has: their order and numbers, and the borders."""

    line: Line
    border: Border
    local: Sequences
    steps: tuple[int, ...]
    is_open: Tensor
    needs_grad: bool


@dataclass
class Problem:
    """A family's call on the steps of this rank.

    Attributes
    ----------
    tensors : mapping of str to (Tensor or None)
        The arguments, by name.
    timed : mapping of str to int
        The arguments with steps, and their time axis, counted from the front.
    batch, steps : int
        The numbers of rows, and of steps on this rank.
    state : sequence of Tensor, optional
        The parts of the initial state.
    default : list of Tensor
        The parts of the default initial states.
    splits : list of Split
        Axes that can be divided into chunks, the preferred one first. ``results`` is 0 for the axis of rows.
    run : callable
        Computes chunks from a state and a local division into sequences.
    maps : Maps, optional
        The affine maps; None for a family that is not affine in the state.
    kernels : Kernels, optional
        Kernels that compute chunks in place, used instead of ``run``.
    entered : callable, optional
        Finds the initial states by an exchange, for a family without maps; returns None on all ranks if that fails.
    """

    tensors: Mapping[str, Tensor | None]
    timed: Mapping[str, int]
    batch: int
    steps: int
    state: Sequence[Tensor] | None
    default: list[Tensor]
    splits: list[Split]
    run: Callable[[Optional, Sequence[Tensor] | None, Sequences], tuple[Sequence[Tensor], Sequence[Tensor]]]
    maps: Maps | None = None
    kernels: Kernels | None = None
    entered: Callable[[Meeting], Entered | None] | None = None


class Options(NamedTuple):
    """The options that all families have."""

    group: Any
    exchange: str
    chunks: int | None
    reverse: bool
    reset: Tensor | None
    lengths: Integers | None
    cu_seqlens: Integers | None
    others: tuple[tuple[str, object], ...] = ()
    exchanges: tuple[str, ...] = EXCHANGES


_UNTRACED: list[Callable[..., Any]] = []


def run_sharded(
    function: str, options: Options, prepare: Callable[[Options, Sequences], Problem]
) -> tuple[list[Tensor], list[Tensor]]:
    """Check the call with ``prepare``, agree with the other ranks, and compute this rank's steps.

    Dynamo does not trace this function: it is a graph break.
    """
    dynamo = sys.modules.get("torch._dynamo")  # not imported here, as that takes longer than the call
    if dynamo is None:
        return _run(function, options, prepare)
    if not _UNTRACED:
        _UNTRACED.append(dynamo.disable(_run))
    found: tuple[list[Tensor], list[Tensor]] = _UNTRACED[0](function, options, prepare)
    return found


def _run(
    function: str, options: Options, prepare: Callable[[Options, Sequences], Problem]
) -> tuple[list[Tensor], list[Tensor]]:
    """Check, agree, compute.

    An error from the checks of one rank is raised there and reported on all others, so that no rank waits.
    """
    ranks = Ranks(function, options.group)
    problem, given, failure = None, Sequences(None, None, None), None
    memory = math.inf
    try:
        given = _checked(function, options)
        problem = prepare(options, given)
        first = next(x for x in problem.tensors.values() if x is not None)
        ranks.check_device(first.device)
        if options.reset is not None:
            check_reset(function, options.reset, first, problem.batch, problem.steps, next(iter(problem.tensors)))
        memory = _memory(function, options, given, problem)
    except Exception as error:  # raised again by agree
        failure = error
    described = {} if problem is None or failure is not None else _described(function, options, given, problem)
    steps, needs = (problem.steps, _needs(problem)) if problem is not None else (0, False)
    forgets = memory < math.inf and (steps == 0 or len(segments(steps, memory)) > 2)
    agreement = ranks.agree(described, steps, needs, failure, forgets)
    assert problem is not None  # otherwise agree has raised
    line = Line(ranks, options.reverse)
    border, local = divided(function, line, agreement.steps, given, problem.batch)
    call, extra = _call(function, options, problem, line, border, local, agreement)
    speculates = options.exchange == "speculative" or (agreement.forget and line.size > 1)
    if problem.kernels is not None and speculates:
        timed = [*(problem.timed.get(name) for name in problem.tensors), -1]
        bounds = segments(problem.steps, memory)
        call.shard = Shard(line, border, problem.kernels, timed, bounds, problem.default)
    if problem.entered is not None:
        is_open = _open(border, local, problem)
        met = Meeting(line, border, local, agreement.steps, is_open, agreement.needs_grad)
        call.entered = problem.entered(met)
        if call.entered is not None:  # otherwise by the pipeline
            call.chunks, call.affine = [call.split.size], Affine(_no_transition, is_open, "parts")
    return sharded(call, [*problem.tensors.values(), *extra], problem.state, agreement.needs_grad)


def _no_transition(tensors: Optional) -> Tensor:
    raise AssertionError("the Jacobian is that of Entered")


def _checked(function: str, options: Options) -> Sequences:
    refuse_transforms(function)
    check_choice(function, "exchange", options.exchange, options.exchanges)
    if options.chunks is not None:
        count(function, "chunks", options.chunks, 1)
    check_flag(function, "reverse", options.reverse)
    lengths, bounds = (
        None if x is None else checked_integers(function, name, x).cpu()
        for name, x in (("lengths", options.lengths), ("cu_seqlens", options.cu_seqlens))
    )
    if bounds is not None:
        check_bounds_shape(function, bounds.shape)
    return Sequences(options.reset, lengths, bounds)


def check_rows(function: str, given: Sequences, batch: int, name: str) -> int:
    """Check that cu_seqlens is consistent with this number of rows; return the number of sequences."""
    if given.cu_seqlens is not None:
        check_packing(function, batch, given.lengths, name)
    return given.count(batch)


def _needs(problem: Problem) -> bool:
    every = [*problem.tensors.values(), *(problem.state or ())]
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in every)


def _memory(function: str, options: Options, given: Sequences, problem: Problem) -> float:
    """Return the number of steps after which a state is forgotten; infinity if it is unknown or irrelevant."""
    if options.exchange not in ("auto", "speculative"):
        return math.inf
    divided = next((name for name in ("lengths", "cu_seqlens") if getattr(given, name) is not None), None)
    if problem.kernels is not None and problem.kernels.forgets is not None and divided is None:
        return problem.kernels.forgets(list(problem.tensors.values())) if problem.steps else 0.0
    if options.exchange == "speculative":
        beside = f" with {divided}" if divided else ""
        raise ValueError(f"{function}: exchange must be 'auto', 'pipeline' or 'scan'{beside}, got 'speculative'")
    return math.inf


def _described(function: str, options: Options, given: Sequences, problem: Problem) -> dict[str, str]:
    """Return as text the properties that must be the same on every rank."""
    found = {"function": function, "batch": f"{problem.batch} rows", "grad mode": str(torch.is_grad_enabled())}
    for name, x in problem.tensors.items():
        found[name] = "None" if x is None else _shape(x, problem.timed.get(name))
    parts = problem.state or ()
    found["state"] = " and ".join(_shape(x, None) for x in parts) or "None"
    for name in ("exchange", "chunks", "reverse"):
        found[name] = repr(getattr(options, name))
    found |= {name: repr(value) for name, value in options.others}
    found["reset"] = "None" if options.reset is None else f"flags with {options.reset.dim()} axes"
    for name, values in (("lengths", given.lengths), ("cu_seqlens", given.cu_seqlens)):
        found[name] = "None" if values is None else _integers(values.tolist())
    return found


def _shape(x: Tensor, time: int | None) -> str:
    sizes = [*(str(n) for n in x.shape)]
    if time is not None and x.dim() > time:
        sizes[time] = "T"
    return f"{x.dtype} ({', '.join(sizes)})"


def _integers(values: list[int]) -> str:
    if len(values) <= 16:
        return str(values)
    return f"[{', '.join(map(str, values[:8]))}, ...] with checksum {zlib.crc32(str(values).encode()):08x}"


def _call(
    function: str,
    options: Options,
    problem: Problem,
    line: Line,
    border: Border,
    local: Sequences,
    agreement: Agreement,
) -> tuple[Call, tuple[Tensor | None, Tensor | None]]:
    """Return the call, and the tensors of reset and lengths, which are divided into chunks like the others."""
    fewest, asked = line.size - 1, options.chunks
    if sum(steps > 0 for steps in agreement.steps) < 2:  # no two ranks can compute at the same time
        fewest = asked = 1
    every = [one.sizes(one.paying(CHUNKS * (line.size - 1)) if asked is None else asked) for one in problem.splits]
    chunks = max(every, key=len)  # the first with the maximum number of chunks
    split = problem.splits[every.index(chunks)]
    scans = problem.maps is not None and (
        options.exchange == "scan" or (options.exchange == "auto" and len(chunks) < fewest)
    )
    rows = split.results == 0
    reset, lengths, bounds = local
    axes = (0 if rows and reset is not None and reset.dim() == 2 else None, 0 if rows else None)
    split = split._replace(tensors=(*split.tensors, *axes))

    def run(tensors: Optional, state: Sequence[Tensor] | None) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        return problem.run(tensors[:-2], state, Sequences(tensors[-2], tensors[-1], bounds))

    affine = None
    if scans and problem.maps is not None:
        chunks, maps = [split.size], problem.maps

        def transition(tensors: Optional) -> Tensor:
            return maps.transition(tensors[:-2], tensors[-2], tensors[-1])

        affine = Affine(transition, _open(border, local, problem), maps.kind)
    call = Call(function, line, border, run, split, chunks, problem.default, affine, problem.kernels, bounds)
    return call, (reset, lengths)


def _open(border: Border, local: Sequences, problem: Problem) -> Tensor:
    """Return for each row whether its state passes through this rank, crossing both borders without a reset."""
    reset, lengths, _ = local
    first = next(x for x in problem.tensors.values() if x is not None)
    closed = torch.zeros(1 if border.packed else problem.batch, dtype=torch.bool, device=first.device)
    if reset is not None:
        flags = reset.expand(problem.batch, problem.steps)
        if lengths is not None:
            flags = flags & (torch.arange(problem.steps, device=flags.device) < lengths.to(flags.device).unsqueeze(1))
        closed = flags.any(1)
    return ~closed if border.is_crossed else torch.zeros_like(closed)
