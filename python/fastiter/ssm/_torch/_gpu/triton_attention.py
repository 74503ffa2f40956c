"""Linear attention on a GPU: launches kernels/ssm/triton_attention*.py, which process the steps in chunks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...._torch.ops import contiguous, unit_stride
from ..ops import GPU_TILE
from ..ops_attention import (
    AttentionBackward,
    AttentionForward,
    as_arguments,
    attention_bwd,
    attention_fwd,
    empty_gradients,
    forward_outputs,
)
from .triton_chunks import Problem, problem_of, run, strides


def states_of(
    problem: Problem, source: Tensor | None, states: Tensor, saved: Tensor | None, last: Tensor | None
) -> None:
    """Compute the states before all chunks, and the states before all tiles and the last states, if given.

    Without ``last``, ``source`` has the states before all tiles instead of the initial states. None means zeros.
    """
    rows, columns = problem.blocks("states")
    split = last is None
    lines = problem.cut.lines(GPU_TILE) if split else problem.cut.sequences
    signals = {"k": problem.k, "v": problem.v, "decay": problem.decay}
    others = {"totals": problem.totals, "source": source, "states": states, "saved": saved, "last": last}
    named = zip(("from_line", "saved_line", "to_line"), (source, saved, last), strict=True)
    apart = {name: 0 if x is None else x.stride(0) for name, x in named}
    arguments = {**signals, **others, **problem.cut.memory(GPU_TILE), **strides(**signals), **apart, "SPLIT": split}
    names = "heads per_key K V BK BV C TILE VECTOR LOG STATE PRECISION"
    run("states", problem, lines * problem.v.shape[2] * rows * columns, arguments, names)


def weights_of(problem: Problem) -> Tensor:
    """Return the weights of the values in the outputs within every chunk, (lines, N, C, C)."""
    lines, heads, steps = problem.cut.lines(problem.steps), problem.v.shape[2], problem.steps
    weights = problem.new(lines, heads, steps, steps)
    signals = {"q": problem.q, "k": problem.k, "decay": problem.decay}
    others = {"bonus": problem.bonus, "weights": weights, "scale": problem.scale}
    arguments = {**signals, **others, **problem.cut.memory(steps), **strides(**signals)}
    run("weights", problem, lines * heads, arguments, "heads per_key K BK C BEFORE VECTOR LOG STATE PRECISION")
    return weights


class Levels(NamedTuple):
    """Signals of long chunks that contain decays, the weights (lines, N, C, C), and the products of chunks' decays."""

    reads: Tensor
    writes: Tensor | None
    others: Tensor | None
    weights: Tensor
    other_weights: Tensor | None
    totals: Tensor | None


def levels_of(part: Problem, others: Tensor | None = None, writes: bool = True) -> Levels:
    """Return the queries times the decays since the starts of their chunks, and the weights of the values.

    With ``writes``, also the keys times the decays to the ends of their chunks. ``others`` are another kind of keys,
    whose weights, in the dtype of the arithmetic if the queries read before their step, are those of other values.
    """
    heads, steps, keys = part.v.shape[2], part.steps, part.sizes[0]
    lines = part.cut.lines(steps)

    def signal(needed: bool) -> Tensor | None:
        return part.new(*part.v.shape[:3], keys, dtype=part.stored) if needed else None

    def square(dtype: torch.dtype) -> Tensor:
        return part.new(lines, heads, steps, steps, dtype=dtype)

    reads, two = part.new(*part.v.shape[:3], keys, dtype=part.stored), others is not None
    other_weights = square(part.state if part.before else part.stored) if two else None
    totals = part.new(lines, heads, keys) if writes else None
    found = Levels(reads, signal(writes), signal(two and writes), square(part.stored), other_weights, totals)
    signals = {"q": part.q, "k": part.k, "b": others, "decay": part.decay}
    signals |= {"reads": reads, "writes": found.writes, "b_writes": found.others}
    memory = {"bonus": part.bonus, "weights": found.weights, "b_weights": other_weights, "totals": totals}
    arguments = {**signals, **memory, **part.cut.memory(steps), **strides(**signals), "scale": part.scale}
    names = "heads per_key K BK C BEFORE VECTOR LEVELS LOG STATE PRECISION"
    run("levels_fwd", part, lines * heads, arguments, names, "two_levels_fwd" if two else None)
    return found


def by_levels(part: Problem, found: Levels) -> Problem:
    """Return the problem with signals that contain decays, and with the weights."""
    cut = part.cut._replace(reset=None, reset_row=0)
    k = part.k if found.writes is None else found.writes
    return part._replace(q=found.reads, k=k, decay=None, cut=cut, totals=found.totals, weights=found.weights)


def _weights_bytes(problem: Problem) -> int:
    """Return the bytes of the weights of a head, and of its queries, keys and decays at all levels."""
    lines, steps, keys = problem.cut.lines(problem.steps), problem.steps, problem.sizes[0]
    if not problem.vector:
        return 0
    if not problem.rounded:
        return lines * steps**2 * problem.state.itemsize
    batch, time = problem.v.shape[:2]
    signals = lines * steps**2 + 2 * batch * time * keys
    return signals * problem.stored.itemsize + lines * keys * problem.state.itemsize


def outputs_of(
    part: Problem, states: Tensor | None, o: Tensor, w: Tensor | None = None, w_weights: Tensor | None = None
) -> None:
    """Compute o from the states before all chunks, None means zeros, and from other values ``w`` with their weights."""
    steps = part.steps
    signals = {"q": part.q, "k": part.k, "v": part.v, "w": w, "decay": part.decay}
    weights = weights_of(part) if part.vector and part.weights is None else part.weights
    memory = {"bonus": part.bonus, "states": states, "weights": weights, "w_weights": w_weights, "o": o}
    arguments = {**signals, **memory, **part.cut.memory(steps), **strides(**signals, o=o), "scale": part.scale}
    programs = part.cut.lines(steps) * part.v.shape[2] * part.blocks("fwd")[1]
    run("fwd", part, programs, arguments, "heads per_key K V BK BV C BEFORE VECTOR LOG STATE PRECISION")


def forward(call: AttentionForward) -> list[Tensor]:
    """Implement the forward op on a GPU."""
    outputs = forward_outputs(call, GPU_TILE)
    problem = problem_of("linear_attention", call)
    if call.lengths is not None:
        outputs[0].zero_()
    first = contiguous(call.state)
    for own, part in problem.parts(1, _weights_bytes(problem)):
        saved = outputs[2][:, own] if call.save else None
        _forward_part(part, None if first is None else first[:, own], outputs[0][:, :, own], outputs[1][:, own], saved)
    return outputs


def _forward_part(part: Problem, first: Tensor | None, o: Tensor, last: Tensor, saved: Tensor | None) -> None:
    states = part.new_states()
    prepared = by_levels(part, levels_of(part)) if part.vector and part.rounded else part
    states_of(prepared, first, states, saved, last)
    outputs_of(prepared, states, o)


def states_for(part: Problem, saved: Tensor | None) -> Tensor:
    """Return the states before all chunks, computed from those before all tiles; None means zeros."""
    states = part.new_states()
    states_of(part, saved, states, None, None)
    return states


def _state_gradients(part: Problem, d_o: Tensor | None, dlast: Tensor | None, dfirst: Tensor | None) -> Tensor:
    """Return the gradients of the states after all chunks, without their chunks' own outputs; write the first."""
    heads, steps = part.v.shape[2], part.steps
    dstates = part.new_states()
    signals = {"q": part.q, "decay": part.decay, "d_o": d_o}
    others = {"dlast": dlast, "dstates": dstates, "dfirst": dfirst, "scale": part.scale}
    apart = {"from_line": 0 if dlast is None else dlast.stride(0), "to_line": 0 if dfirst is None else dfirst.stride(0)}
    rows, columns = part.blocks("bwd_states")
    arguments = {**signals, **others, **part.cut.memory(steps), **strides(**signals), **apart}
    names = "heads per_key K V BK BV C BEFORE VECTOR LOG STATE PRECISION"
    run("bwd_states", part, part.cut.sequences * heads * rows * columns, arguments, names)
    return dstates


def value_gradients(part: Problem, d_o: Tensor | None, dstates: Tensor | None, dv: Tensor) -> None:
    """Compute dv from the gradients of the states after all chunks; None means zeros."""
    steps = part.steps
    signals = {"q": part.q, "k": part.k, "decay": part.decay, "d_o": d_o}
    weights = None if d_o is None or not part.vector else weights_of(part)
    others = {"bonus": part.bonus, "dstates": dstates, "weights": weights, "dv": dv, "scale": part.scale}
    arguments = {**signals, **others, **part.cut.memory(steps), **strides(**signals, dv=dv)}
    programs = part.cut.lines(steps) * part.v.shape[2] * part.blocks("bwd_values")[1]
    run("bwd_values", part, programs, arguments, "heads per_key K V BK BV C BEFORE VECTOR LOG STATE PRECISION")


class KeyGradients(NamedTuple):
    """Memory for gradients that are sums over the columns; ddecay of a shared decay is (blocks of rows, B, T, N)."""

    dq: Tensor
    dk: Tensor
    ddecay: Tensor | None
    dbonus: Tensor | None

    @classmethod
    def of(cls, part: Problem, needs_decay: bool, needs_bonus: bool) -> KeyGradients:
        """Allocate the gradients."""
        shape, (keys, _) = part.v.shape[:3], part.sizes
        dq, dk = part.new(*shape, keys), part.new(*shape, keys)
        own = (*shape, keys) if part.vector else (part.blocks("bwd_keys")[0], *shape)
        ddecay = part.new(*own) if needs_decay else None
        dbonus = part.new(part.cut.lines(part.steps), shape[2], keys) if needs_bonus else None
        if part.cut.lengths is not None:
            for x in (dq, dk, ddecay):
                if x is not None:
                    x.zero_()
        return cls(dq, dk, ddecay, dbonus)

    @classmethod
    def nbytes(cls, problem: Problem, needs_decay: bool, needs_bonus: bool) -> int:
        """Return the bytes of the gradients of a head."""
        (batch, time), (keys, _) = problem.v.shape[:2], problem.sizes
        own = keys if problem.vector else problem.blocks("bwd_keys")[0]
        steps = batch * time * (2 * keys + (own if needs_decay else 0))
        return (steps + (problem.cut.lines(problem.steps) * keys if needs_bonus else 0)) * problem.state.itemsize


def key_gradients(
    part: Problem, d_o: Tensor | None, states: Tensor | None, dstates: Tensor | None, to: KeyGradients
) -> None:
    """Compute the gradients that are sums over columns, from states before and after all chunks; None means zeros."""
    steps = part.steps
    signals = {"q": part.q, "k": part.k, "v": part.v, "decay": part.decay, "d_o": d_o}
    shared = to.ddecay is not None and not part.vector
    gradients = {"dq": to.dq, "dk": to.dk, "ddecay": to.ddecay[0] if shared and to.ddecay is not None else to.ddecay}
    apart = {"ddecay_block": to.ddecay.stride(0) if shared and to.ddecay is not None else 0}
    others = {"bonus": part.bonus, "states": states, "dstates": dstates, "dbonus": to.dbonus, "scale": part.scale}
    arguments = {**signals, **others, **gradients, **part.cut.memory(steps), **strides(**signals, **gradients), **apart}
    arguments |= {"ddecay": to.ddecay}
    programs = part.cut.lines(steps) * part.v.shape[2] * part.blocks("bwd_keys")[0]
    run("bwd_keys", part, programs, arguments, "heads per_key K V BK BV C BEFORE VECTOR LOG STATE PRECISION")


def _put(part: Problem, own: slice, gradients: list[Tensor | None], from_kernel: KeyGradients) -> None:
    """Write the requested gradients of some heads, summed over the value heads that share q and k."""
    per_key = part.v.shape[2] // part.q.shape[2]
    shared = slice(own.start // per_key, own.stop // per_key)
    for to, x in zip(gradients[:2], from_kernel[:2], strict=True):
        if to is not None:
            to[:, :, shared] = x.unflatten(2, (-1, per_key)).sum(3) if per_key > 1 else x
    if gradients[3] is not None and from_kernel.ddecay is not None:
        gradients[3][:, :, own] = from_kernel.ddecay if part.vector else from_kernel.ddecay.sum(0)
    if gradients[4] is not None and from_kernel.dbonus is not None:
        gradients[4][0, own] = from_kernel.dbonus.sum(0)


def backward(call: AttentionBackward) -> list[Tensor]:
    """Implement the backward op on a GPU."""
    gradients = empty_gradients(call)
    problem = problem_of("linear_attention", call)
    if problem.rounded:
        problem = problem._replace(precision="tf32x3")
    d_o = None if call.dout is None else unit_stride(call.dout)
    dlast, saved, dv = contiguous(call.dlast), contiguous(call.states), gradients[2]
    if gradients[4] is not None:
        gradients[4] = problem.new(1, *gradients[4].shape[1:])
    if dv is not None and call.lengths is not None:
        dv.zero_()
    needs = (gradients[3] is not None, gradients[4] is not None)
    for own, part in problem.parts(2, _weights_bytes(problem) + KeyGradients.nbytes(problem, *needs)):
        heads_o, heads_dlast = None if d_o is None else d_o[:, :, own], None if dlast is None else dlast[:, own]
        _backward_part(part, own, heads_o, heads_dlast, saved[:, own], gradients)
    return as_arguments(call, gradients)


def _backward_part(
    part: Problem,
    own: slice,
    d_o: Tensor | None,
    dlast: Tensor | None,
    saved: Tensor,
    gradients: list[Tensor | None],
) -> None:
    """Write the gradients of the heads ``own``; the other tensors have these heads alone."""
    dv, dfirst = gradients[2], gradients[5]
    dstates = _state_gradients(part, d_o, dlast, None if dfirst is None else dfirst[:, own])
    if dv is not None:
        value_gradients(part, d_o, dstates, dv[:, :, own])
    if any(gradients[i] is not None for i in (0, 1, 3, 4)):
        to = KeyGradients.of(part, gradients[3] is not None, gradients[4] is not None)
        key_gradients(part, d_o, states_for(part, saved), dstates, to)
        _put(part, own, gradients, to)


attention_fwd.on_cuda(forward)
attention_bwd.on_cuda(backward)
