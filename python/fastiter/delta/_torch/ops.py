"""The private ops of the delta rule: their argument tuples, and their CPU implementations, which call the kernels.

Forward returns o and the final states; with ``save``, it also returns e = v - S^T k of every factor and the state
before each period, for the backward pass. Backward returns dq, dk, dv, dbeta, then ddecay and dstate if requested.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import _core
from ..._torch.op import Op
from ..._torch.ops import contiguous, empty, unit_stride
from ..._torch.sequences import check_values
from .._plan import Plan, Sizes, plan


class DeltaForward(NamedTuple):
    """The arguments of the forward op, which without ``save`` returns the first two outputs."""

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    decay: Tensor | None
    state: Tensor | None
    reset: Tensor | None
    lengths: Tensor | None
    cu_seqlens: Tensor | None
    method: str
    chunk: int
    save: bool

    @property
    def sizes(self) -> Sizes:
        """The sizes of the call."""
        return sizes_of(self.q, self.k, self.v.shape[-1])


class DeltaBackward(NamedTuple):
    """The arguments of the backward op: inputs, tensors saved by the forward op, and the gradients of its outputs."""

    q: Tensor
    k: Tensor
    beta: Tensor
    decay: Tensor | None
    e: Tensor
    states: Tensor
    d_o: Tensor | None
    dlast: Tensor | None
    reset: Tensor | None
    lengths: Tensor | None
    cu_seqlens: Tensor | None
    method: str
    chunk: int
    need_h0: bool

    @property
    def sizes(self) -> Sizes:
        """The sizes of the call."""
        return sizes_of(self.q, self.k, self.e.shape[-1])


def sizes_of(q: Tensor, k: Tensor, values: int) -> Sizes:
    """Return the sizes of a call."""
    batch, time, heads, keys = q.shape
    return Sizes(batch, time, k.shape[2] if k.dim() == 5 else 1, heads, keys, values)


def carried(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of states: float32 for 16-bit signals, else the signals' own."""
    return torch.float32 if dtype.itemsize == 2 else dtype


def rows_of(sizes: Sizes, cu_seqlens: Tensor | None) -> int:
    """Return the number of sequences."""
    return sizes.batch if cu_seqlens is None else cu_seqlens.shape[0] - 1


def _work(
    sizes: Sizes, how: Plan, chunk: int, reset: Tensor | None, lengths: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Any, ...]:
    """Return the kernels' description of the work."""
    check_values("delta_scan", sizes.batch, sizes.time, lengths, cu_seqlens)
    if lengths is None and cu_seqlens is not None:
        lengths = cu_seqlens.diff()
    starts, valid, flags = (None if x is None else x.contiguous() for x in (cu_seqlens, lengths, reset))
    numbers = (sizes.time, sizes.factors, sizes.heads, sizes.keys, sizes.values)
    return rows_of(sizes, cu_seqlens), *numbers, starts, valid, flags, chunk, how.period


def forward_outputs(call: DeltaForward, out: Tensor | None = None) -> list[Tensor]:
    """Allocate the outputs, except ``out`` if it is given."""
    sizes, q = call.sizes, call.q
    rows, state = rows_of(sizes, call.cu_seqlens), (sizes.heads, sizes.keys, sizes.values)
    dtype = carried(q.dtype)
    outputs = [empty(q, (*q.shape[:3], sizes.values)) if out is None else out, empty(q, (rows, *state), dtype=dtype)]
    if call.save:
        how = plan("delta_scan", call.method, call.chunk, sizes.factors)
        lines = how.saved_states(sizes, rows, call.cu_seqlens is not None)
        outputs += [empty(q, call.v.shape), empty(q, (lines, *state), dtype=dtype)]
    return outputs


def forward(call: DeltaForward, out: Tensor | None = None) -> list[Tensor]:
    """Run the kernel, which writes o to ``out`` if it is given."""
    outputs, sizes = forward_outputs(call, out), call.sizes
    how = plan("delta_scan", call.method, call.chunk, sizes.factors)
    q, k, v, beta = unit_stride(call.q), unit_stride(call.k), unit_stride(call.v), contiguous(call.beta)
    decay, state = (None if x is None else contiguous(x) for x in (call.decay, call.state))
    work = _work(sizes, how, how.forward, call.reset, call.lengths, call.cu_seqlens)
    _core.delta.forward(work, q, k, v, beta, decay, state, *outputs, *([] if call.save else [None, None]))
    return outputs


def gradients_of(call: DeltaBackward) -> list[Tensor]:
    """Allocate the gradients."""
    q = call.q
    gradients = [empty(q, x.shape) for x in (q, call.k, call.e, call.beta)]
    if call.decay is not None:
        gradients.append(empty(q, call.decay.shape))
    if call.need_h0:
        shape = (rows_of(call.sizes, call.cu_seqlens), *call.states.shape[1:])
        gradients.append(empty(q, shape, dtype=call.states.dtype))
    return gradients


def backward(call: DeltaBackward, into: list[Tensor] | None = None) -> list[Tensor]:
    """Run the kernel, which writes the gradients to ``into`` if they are given.

    Only the gradients of q, k and v may be slices, with a contiguous last axis; all others are contiguous.
    """
    gradients, sizes = gradients_of(call) if into is None else into, call.sizes
    how = plan("delta_scan", call.method, call.chunk, sizes.factors)
    q, k, beta = unit_stride(call.q), unit_stride(call.k), contiguous(call.beta)
    e, states = contiguous(call.e), contiguous(call.states)
    decay, dlast = (None if x is None else contiguous(x) for x in (call.decay, call.dlast))
    d_o = None if call.d_o is None else unit_stride(call.d_o)
    work = _work(sizes, how, how.backward, call.reset, call.lengths, call.cu_seqlens)
    dq, dk, dv, dbeta, *rest = gradients
    ddecay, dstate = None if decay is None else rest[0], rest[-1] if call.need_h0 else None
    _core.delta.backward(work, q, k, beta, decay, e, states, d_o, dlast, dq, dk, dv, dbeta, ddecay, dstate)
    return gradients


delta_fwd = Op("_delta_fwd", DeltaForward, forward, forward_outputs)
delta_bwd = Op("_delta_bwd", DeltaBackward, backward, gradients_of)
