"""Functions of sequences whose steps are sharded over ranks: checks, the agreement of the ranks, choice of a method."""

from __future__ import annotations

import math
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor

from ..._check import check_choice, check_flag, count
from ..._sequences import check_bounds_shape, check_packing
from ..ops import check_reset, checked_integers, refuse_transforms
from ..sequences import Sequences
from .affine import Affine
from .borders import Border, divided
from .collectives import Line, Ranks
from .engine import Call, computed_steps
from .in_place import Kernels, Optional
from .sharding import Checked, Meeting, Request, Sharding, as_state
from .speculative import Shard, segments

Exchange: TypeAlias = Literal["auto", "pipeline", "scan", "speculative"]
R = TypeVar("R")
#: Default number of chunks per rank after the first: filling and draining the pipeline then takes a ninth of the time.
CHUNKS = 8

_UNTRACED: list[Callable[..., Any]] = []


def sharded(function: Sharding[R], arguments: Mapping[str, Any]) -> R:
    """Call a function on this rank's steps: check the arguments, agree with the other ranks, compute.

    Dynamo does not trace the call: it is a graph break.

    Parameters
    ----------
    function : Sharding
        The declaration of the function.
    arguments : mapping
        The arguments of the public function by name: tensors and state, ``group`` and ``chunks``, ``exchange`` if there
        is a choice, the division into sequences, and the options of the one-process function.
    """
    options = dict(arguments)
    tensors = {name: options.pop(name) for name in function.tensors}
    state, group, chunks = (options.pop(name) for name in ("state", "group", "chunks"))
    sequences = Sequences(*(options.pop(name) for name in Sequences._fields))
    exchange = options.pop("exchange", "pipeline")
    results, last = _untraced()(Request(function, tensors, state, sequences, options, group, exchange, chunks))
    return function.pack(results[0], tuple(last))


def _untraced() -> Callable[[Request], tuple[list[Tensor], list[Tensor]]]:
    dynamo = sys.modules.get("torch._dynamo")  # not imported here, as that takes longer than the call
    if dynamo is None:
        return _run
    if not _UNTRACED:
        _UNTRACED.append(dynamo.disable(_run))
    return _UNTRACED[0]


def _run(request: Request) -> tuple[list[Tensor], list[Tensor]]:
    """Check, agree, compute.

    An error from the checks of one rank is raised there and reported on all others, so that no rank waits.
    """
    function = request.function
    ranks = Ranks(function.name, request.group)
    checked, kernels, described, failure, memory = None, None, {}, None, math.inf
    try:
        request.sequences = _checked_options(request)
        checked = request.check()
        first = next(x for x in checked.tensors.values() if x is not None)
        ranks.check_device(first.device)
        if function.kernels is not None and first.is_cpu:
            kernels = function.kernels(request.options)
        if request.sequences.reset is not None:
            name = next(iter(checked.tensors))
            check_reset(function.name, request.sequences.reset, first, request.rows, request.steps, name)
        memory = _memory(request, checked, kernels)
        described = _described(request, checked)
    except Exception as error:  # raised again by agree
        failure = error
    needs = checked is not None and _needs(checked)
    forgets = memory < math.inf and (request.steps == 0 or len(segments(request.steps, memory)) > 2)
    agreement = ranks.agree(described, request.steps, needs, failure, forgets)
    assert checked is not None  # otherwise agree has raised
    line = Line(ranks, request.reverse)
    border, local = divided(function.name, line, agreement.steps, request.sequences, request.rows)
    is_open = _open(request, border, local, first)
    met = Meeting(line, border, local, agreement.steps, is_open, agreement.needs_grad)
    call = _call(request, checked, kernels, met)
    if kernels is not None and (request.exchange == "speculative" or (agreement.forget and line.size > 1)):
        call.shard = _speculative(request, checked, kernels, met, memory)
    if function.entered is not None:
        call.entered = function.entered(request, met)
        if call.entered is not None:  # otherwise by the pipeline
            call.chunks, call.affine = [call.split.size], Affine(_no_transition, is_open, "parts")
    inputs = [*checked.tensors.values(), local.reset, local.lengths]
    return computed_steps(call, inputs, checked.state, agreement.needs_grad)


def _no_transition(tensors: Optional) -> Tensor:
    raise AssertionError("the Jacobian is that of Entered")


def _checked_options(request: Request) -> Sequences:
    """Check the options that all functions have; return the division into sequences as tensors."""
    function = request.function.name
    refuse_transforms(function)
    check_choice(function, "exchange", request.exchange, request.function.exchanges)
    if request.chunks is not None:
        count(function, "chunks", request.chunks, 1)
    check_flag(function, "reverse", request.options.get("reverse", False))
    reset, *cuts = request.sequences
    lengths, bounds = (
        None if x is None else checked_integers(function, name, x).cpu()
        for name, x in zip(("lengths", "cu_seqlens"), cuts, strict=True)
    )
    if bounds is not None:
        check_bounds_shape(function, bounds.shape)
    return Sequences(reset, lengths, bounds)


def check_rows(function: str, sequences: Sequences, batch: int, name: str) -> int:
    """Check that cu_seqlens is consistent with this number of rows; return the number of sequences."""
    if sequences.cu_seqlens is not None:
        check_packing(function, batch, sequences.lengths, name)
    return sequences.count(batch)


def _needs(checked: Checked) -> bool:
    every = [*checked.tensors.values(), *(checked.state or ())]
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in every)


def _memory(request: Request, checked: Checked, kernels: Kernels | None) -> float:
    """Return the number of steps after which a state is forgotten; infinity if it is unknown or irrelevant."""
    if request.exchange not in ("auto", "speculative"):
        return math.inf
    divided = next((name for name in ("lengths", "cu_seqlens") if getattr(request.sequences, name) is not None), None)
    if kernels is not None and kernels.forgets is not None and divided is None:
        return kernels.forgets(list(checked.tensors.values())) if request.steps else 0.0
    if request.exchange == "speculative":
        beside = f" with {divided}" if divided else ""
        name = request.function.name
        raise ValueError(f"{name}: exchange must be 'auto', 'pipeline' or 'scan'{beside}, got 'speculative'")
    return math.inf


def _described(request: Request, checked: Checked) -> dict[str, str]:
    """Return as text the properties that must be the same on every rank."""
    grad = str(torch.is_grad_enabled())
    result = {"function": request.function.name, "batch": f"{request.rows} rows", "grad mode": grad}
    timed = request.function.timed(checked.tensors)
    for name, x in checked.tensors.items():
        result[name] = "None" if x is None else _shape(x, timed.get(name))
    result["state"] = " and ".join(_shape(x, None) for x in checked.state or ()) or "None"
    result |= {"exchange": repr(request.exchange), "chunks": repr(request.chunks)}
    result |= {name: repr(value) for name, value in request.options.items()}
    reset, *divided = request.sequences
    result["reset"] = "None" if reset is None else f"flags with {reset.dim()} axes"
    for name, values in zip(("lengths", "cu_seqlens"), divided, strict=True):
        result[name] = "None" if values is None else _integers(values.tolist())
    return result


def _shape(x: Tensor, time: int | None) -> str:
    sizes = [*(str(n) for n in x.shape)]
    if time is not None:
        sizes[time] = "T"
    return f"{x.dtype} ({', '.join(sizes)})"


def _integers(values: list[int]) -> str:
    if len(values) <= 16:
        return str(values)
    return f"[{', '.join(map(str, values[:8]))}, ...] with checksum {zlib.crc32(str(values).encode()):08x}"


def _call(request: Request, checked: Checked, kernels: Kernels | None, met: Meeting) -> Call:
    """Return the call; its tensors end with reset and lengths, which are divided into chunks like the others."""
    function, line, names = request.function, met.line, list(checked.tensors)
    fewest, requested, early = line.size - 1, request.chunks, kernels is not None and kernels.last is not None
    if sum(steps > 0 for steps in met.steps) < 2:  # no two ranks can compute at the same time
        fewest, requested, early = 1, 1, False
    splits = function.splits(checked.tensors)
    if kernels is not None and early and line.size == 2:  # one rank waits less for whole rows than narrow chunks cost
        wide = kernels.wide // next(x for x in checked.tensors.values() if x is not None).element_size()
        splits = [one if one.results == 0 else one._replace(smallest=max(wide, 1)) for one in splits]
    default = CHUNKS * (line.size - 1)
    every = [one.sizes(one.paying(default) if requested is None else requested) for one in splits]
    chunks = max(every, key=len)  # the first with the maximum number of chunks
    split = splits[every.index(chunks)]
    is_few = request.exchange == "auto" and len(chunks) < fewest
    rows = split.results == 0
    reset, _, bounds = met.local
    axes = (0 if rows and reset is not None and reset.dim() == 2 else None, 0 if rows else None)
    split = split._replace(tensors=(*split.tensors, *axes))

    def run(tensors: Optional, state: Sequence[Tensor] | None) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        *own, reset, lengths = tensors
        named, cut = dict(zip(names, own, strict=True)), Sequences(reset, lengths, bounds)
        return function.run(named, as_state(state), cut, request.options)

    call = Call(
        function.name, line, met.border, run, split, chunks, checked.default, None, kernels, bounds, early=early
    )
    if function.maps is not None and (request.exchange == "scan" or is_few):
        maps = function.maps

        def transition(tensors: Optional) -> Tensor:
            *own, _, lengths = tensors
            return maps.transition(dict(zip(names, own, strict=True)), lengths, request.options)

        call.chunks, call.affine = [split.size], Affine(transition, met.is_open, maps.kind)
    return call


def _speculative(request: Request, checked: Checked, kernels: Kernels, met: Meeting, memory: float) -> Shard:
    """Return the segments of this rank's steps, which are computed before the initial state has arrived."""
    timed = request.function.timed(checked.tensors)
    axes = [*(timed.get(name) for name in checked.tensors), -1]
    return Shard(met.line, met.border, kernels, axes, segments(request.steps, memory), checked.default)


def _open(request: Request, border: Border, local: Sequences, first: Tensor) -> Tensor:
    """Return for each row whether its state passes through this rank, crossing both borders without a reset."""
    reset, lengths, _ = local
    closed = torch.zeros(1 if border.packed else request.rows, dtype=torch.bool, device=first.device)
    if reset is not None:
        flags = reset.expand(request.rows, request.steps)
        if lengths is not None:
            flags = flags & (torch.arange(request.steps, device=flags.device) < lengths.to(flags.device).unsqueeze(1))
        closed = flags.any(1)
    return ~closed if border.is_crossed else torch.zeros_like(closed)
