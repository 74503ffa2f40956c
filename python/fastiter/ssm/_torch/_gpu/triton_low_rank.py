"""The generalised delta rule on a GPU: linear attention that writes and reads twice per step.

The kernels of kernels/ssm/triton_low_rank.py compute w, and its gradient, chunk by chunk. Then q reads what k with v
and b with w have written, and a reads the same before the step: the gradients are sums over these four pairs.

Forward, signals of 16 bits are processed in longer chunks by kernels/ssm/triton_low_rank_chunks.py, which keeps states
in registers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from ...._torch.ops import contiguous, unit_stride
from ..ops import GPU_TILE, plain
from ..ops_low_rank import (
    LowRankBackward,
    LowRankForward,
    as_arguments,
    empty_gradients,
    forward_outputs,
    low_rank_bwd,
    low_rank_fwd,
)
from .triton_attention import (
    KeyGradients,
    by_levels,
    key_gradients,
    levels_of,
    outputs_of,
    states_for,
    value_gradients,
    weights_of,
)
from .triton_chunks import PRECISIONS, Problem, cut_of, run, strides

#: Maximum K of states in registers
LONGEST_KEY = 128
_CONSTANTS = "heads K V BK BV C VECTOR LOG STATE PRECISION"
_LONG_CONSTANTS = "heads K V BK BV C STATE PRECISION"


class _Pairs(NamedTuple):
    """The problems of linear attention into which the rule decomposes, by reader and writer. b's lack the values w."""

    q_k: Problem
    q_b: Problem
    a_k: Problem
    a_b: Problem

    def of(self, own: slice) -> _Pairs:
        """Return the problems for some heads."""

        def part(x: Problem) -> Problem:
            decay = None if x.decay is None else x.decay[:, :, own]
            return x._replace(q=x.q[:, :, own], k=x.k[:, :, own], v=x.v[:, :, own], decay=decay)

        return _Pairs(*(part(x) for x in self))


def _pairs_of(call: Any, rounded: bool) -> _Pairs:
    """Return the problems of a call; with ``rounded``, products round to the precision of signals of 16 bits."""
    per_key = call.v.shape[2] // call.q.shape[2]
    decay = plain(call.decay)
    if decay is not None and decay.dim() == 4:
        decay = unit_stride(decay)
    q, k, v, a, b = (unit_stride(x) for x in (call.q, call.k, call.v, call.a, call.b))
    if per_key > 1:
        q, k = (x.repeat_interleave(per_key, 2) for x in (q, k))
    cut, precision = cut_of("dplr_delta_rule", call), "tf32x3" if q.dtype.itemsize == 2 else "ieee"
    if rounded and q.shape[3] <= LONGEST_KEY:
        precision = PRECISIONS.get(q.dtype, precision)
    first = Problem(q, k, v, decay, None, call.form == 1, call.scale, cut, False, precision)
    late = first._replace(q=a, scale=1.0, before=True)
    return _Pairs(first, first._replace(k=b), late, late._replace(k=b))


def _solve(pairs: _Pairs, others: Tensor, transposed: bool) -> tuple[Tensor, Tensor]:
    """Return (I - L)^-1, where L are the weights with which a reads b w^T, and its product with ``others``."""
    weights = weights_of(pairs.a_b)
    inverse, products = pairs.q_k.new(*weights.shape), pairs.q_k.new(*weights.shape)
    arguments = {"weights": weights, "others": others, "inverse": inverse, "products": products}
    programs = weights.shape[0] * weights.shape[1]
    run("low_rank_inverse_fwd", pairs.q_k, programs, {**arguments, "TRANSPOSED": transposed}, "C PRECISION")
    return inverse, products


def _squares_bytes(problem: Problem) -> int:
    """Return the bytes of a matrix of weights at each chunk of a head, in the dtype of the arithmetic."""
    return problem.cut.lines(problem.steps) * problem.steps**2 * problem.state.itemsize


def _forward_bytes(problem: Problem, save: bool) -> int:
    """Return the bytes of a head's scratch memory besides its states."""
    (batch, time), (keys, values), lines = problem.v.shape[:2], problem.sizes, problem.cut.lines(problem.steps)
    squares, signals = _squares_bytes(problem), batch * time * values * problem.state.itemsize
    w = 0 if save else signals
    if not problem.rounded:
        return 4 * squares + 2 * signals + w
    low, wide = problem.stored.itemsize, problem.state.itemsize
    moved = lines * keys * (problem.steps * low + wide)
    return squares + 3 * squares // wide * low + 4 * batch * time * keys * low + moved + w


def _backward_bytes(problem: Problem, needs_decay: bool) -> int:
    """Return the bytes of a head's scratch memory besides its states."""
    signals = problem.v.shape[0] * problem.v.shape[1] * problem.sizes[1] * problem.state.itemsize
    return 4 * _squares_bytes(problem) + 3 * signals + 4 * KeyGradients.nbytes(problem, needs_decay, False)


def _memory(problem: Problem, *without: str) -> dict[str, Any]:
    """Return the arguments that divide the rows into sequences, except some."""
    return {name: x for name, x in problem.cut.memory(problem.steps).items() if name not in without}


def _forward_long_chunks(pairs: _Pairs, o: Tensor, w: Tensor, last: Tensor, saved: Tensor | None) -> None:
    """Compute what ``_forward_part`` does in chunks of 64 steps, with operands of products rounded."""
    first, none = pairs.q_k, ("reset", "reset_row")
    read, queried = levels_of(pairs.a_k, pairs.a_b.k), levels_of(first, pairs.q_b.k, writes=False)
    lines, heads = first.cut.lines(first.steps), first.v.shape[2]
    moved, states = first.new(lines, heads, first.steps, first.sizes[0], dtype=first.stored), first.new_states()
    signals: dict[str, Tensor | None] = {"a": read.reads, "v": first.v, "w": w}
    others = {"system": read.other_weights, "weights": read.weights, "moved": moved}
    arguments = {**signals, **others, **_memory(first, *none), **strides(**signals)}
    run("low_rank_products_fwd", first, lines * heads, arguments, _LONG_CONSTANTS)
    signals = {"k": read.writes, "v": first.v, "b": read.others, "w": w}
    others = {"totals": read.totals, "moved": moved, "state": last, "states": states, "saved": saved}
    apart = {"state_line": last.stride(0), "saved_line": 0 if saved is None else saved.stride(0)}
    arguments = {**signals, **others, **_memory(first, *none, "owner"), **strides(**signals), **apart}
    programs = first.cut.sequences * heads * first.blocks("low_rank_states_fwd")[1]
    run("low_rank_states_fwd", first, programs, arguments, _LONG_CONSTANTS)
    prepared = by_levels(first, queried._replace(totals=read.totals))
    outputs_of(prepared, states, o, w, queried.other_weights)


def _forward_part(pairs: _Pairs, o: Tensor, w: Tensor, last: Tensor, saved: Tensor | None) -> None:
    """Compute the outputs of some heads; ``last`` initially contains the initial states."""
    first = pairs.q_k
    inverse, products = _solve(pairs, weights_of(pairs.a_k), False)
    states = first.new_states()
    signals = {"k": first.k, "v": first.v, "decay": first.decay, "a": pairs.a_k.q, "b": pairs.q_b.k, "w": w}
    others = {"inverse": inverse, "products": products, "state": last, "states": states, "saved": saved}
    apart = {"state_line": last.stride(0), "saved_line": 0 if saved is None else saved.stride(0)}
    programs = first.cut.sequences * first.v.shape[2] * first.blocks("low_rank_fwd")[1]
    arguments = {**signals, **others, **_memory(first, "owner"), **strides(**signals), **apart}
    run("low_rank_fwd", first, programs, arguments, f"TILE {_CONSTANTS}")
    both = first.new(2, *o.shape)
    if first.cut.lengths is not None:
        both.zero_()
    outputs_of(first, states, both[0])
    outputs_of(pairs.q_b._replace(v=w), None, both[1])
    o.copy_(both[0].add_(both[1]))


def forward(call: LowRankForward) -> list[Tensor]:
    """Implement the forward op on a GPU."""
    o, last, *others = outputs = forward_outputs(call, GPU_TILE)
    pairs = _pairs_of(call, True)
    w, saved = others or (None, None)
    if call.lengths is not None:
        for x in (o, w):
            if x is not None:
                x.zero_()
    if call.state is None:
        last.zero_()
    else:
        last.copy_(call.state)
    compute = _forward_long_chunks if pairs.q_k.rounded else _forward_part
    for own, part in pairs.q_k.parts(1, _forward_bytes(pairs.q_k, call.save)):
        values = part.new(*part.v.shape) if w is None else w[:, :, own]
        compute(pairs.of(own), o[:, :, own], values, last[:, own], None if saved is None else saved[:, own])
    return outputs


def _w_gradients(pairs: _Pairs, d_o: Tensor | None, dw: Tensor, dstate: Tensor) -> Tensor:
    """Return the gradients of the states after all chunks; ``dstate`` is updated from the last to the first states'."""
    first = pairs.q_k
    inverse, products = _solve(pairs, weights_of(pairs.q_b), True)
    dstates = first.new_states()
    signals = {"q": first.q, "decay": first.decay, "a": pairs.a_k.q, "b": pairs.q_b.k, "d_o": d_o, "dw": dw}
    others = {"inverse": inverse, "products": products, "dstate": dstate, "dstates": dstates, "scale": first.scale}
    arguments = {**signals, **others, **_memory(first, "owner"), **strides(**signals), "state_line": dstate.stride(0)}
    programs = first.cut.sequences * first.v.shape[2] * first.blocks("low_rank_bwd")[1]
    run("low_rank_bwd", first, programs, arguments, _CONSTANTS)
    return dstates


def _backward_part(
    pairs: _Pairs, w: Tensor, saved: Tensor, d_o: Tensor | None, dstate: Tensor, needs_decay: bool
) -> list[Tensor | None]:
    """Return dq, dk, dv, ddecay, da, db of some heads, in the dtype of the arithmetic."""
    first = pairs.q_k
    pairs = pairs._replace(q_b=pairs.q_b._replace(v=w), a_b=pairs.a_b._replace(v=w))
    dw, both = first.new(*w.shape), first.new(2, *w.shape)
    if first.cut.lengths is not None:
        for x in (dw, both):
            x.zero_()
    dstates = _w_gradients(pairs, d_o, dw, dstate)
    value_gradients(first, d_o, dstates, both[0])
    value_gradients(pairs.a_k, dw, None, both[1])
    states = states_for(first, saved).add_(states_for(pairs.q_b, None))
    ends = ((states, dstates), (None, dstates), (states, None), (None, None))
    gradients = []
    for problem, outputs, (before, after) in zip(pairs, (d_o, d_o, dw, dw), ends, strict=True):
        to = KeyGradients.of(problem, needs_decay, False)
        key_gradients(problem, outputs, before, after, to)
        gradients.append(to)
    q_k, q_b, a_k, a_b = gradients
    dq, dk = q_k.dq.add_(q_b.dq), q_k.dk.add_(a_k.dk)
    da, db = a_k.dq.add_(a_b.dq), q_b.dk.add_(a_b.dk)
    decays = [x.ddecay for x in gradients if x.ddecay is not None]
    ddecay = sum(decays[1:], decays[0]) if decays else None
    if ddecay is not None and not first.vector:
        ddecay = ddecay.sum(0)
    return [dq, dk, both[0].add_(both[1]), ddecay, da, db]


def _put(gradients: list[Tensor | None], parts: list[Tensor | None], own: slice, per_key: int) -> None:
    """Write the requested gradients of some heads, summed over the value heads that share q and k."""
    shared = slice(own.start // per_key, own.stop // per_key)
    for place, (to, x) in enumerate(zip(gradients, parts, strict=False)):
        if to is None or x is None:
            continue
        if place < 2:
            to[:, :, shared] = x.unflatten(2, (-1, per_key)).sum(3) if per_key > 1 else x
        else:
            to[:, :, own] = x


def backward(call: LowRankBackward) -> list[Tensor]:
    """Implement the backward op on a GPU."""
    gradients = empty_gradients(call)
    pairs = _pairs_of(call, False)
    per_key = call.v.shape[2] // call.q.shape[2]
    d_o = None if call.dout is None else unit_stride(call.dout)
    w, saved, dlast = contiguous(call.w), contiguous(call.states), contiguous(call.dlast)
    dstate = pairs.q_k.new(pairs.q_k.cut.sequences, *saved.shape[1:]) if gradients[7] is None else gradients[7]
    if dlast is None:
        dstate.zero_()
    else:
        dstate.copy_(dlast)
    needs_decay = gradients[3] is not None
    for own, _ in pairs.q_k.parts(3, _backward_bytes(pairs.q_k, needs_decay), per_key):
        heads_o = None if d_o is None else d_o[:, :, own]
        _put(
            gradients,
            _backward_part(pairs.of(own), w[:, :, own], saved[:, own], heads_o, dstate[:, own], needs_decay),
            own,
            per_key,
        )
    return as_arguments(call, gradients)


low_rank_fwd.on_cuda(forward)
low_rank_bwd.on_cuda(backward)
