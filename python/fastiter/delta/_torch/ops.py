"""The private ops of the delta rule: their argument tuples, and their CPU implementations, which call the kernels.

Forward returns o and the final states; with ``save``, it also returns e = v - S^T k of every factor and the state
before each period, for the backward pass. Backward returns the requested gradients in the order of the arguments; the
kernels write those of q, k, v, beta and, if it is given, decay in any case.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import _core
from ..._torch.differentiable import Differentiable
from ..._torch.op import Op
from ..._torch.ops import contiguous, empty, unit_stride
from ..._torch.sequences import check_values
from .._plan import Plan, Sizes, plan
from .double_backward import replay


class DeltaForward(NamedTuple):
    """The arguments of the forward op, which without ``save`` returns the first two outputs."""

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    decay: Tensor | None
    state: Tensor | None
    method: str
    chunk: int
    reset: Tensor | None
    lengths: Tensor | None
    cu_seqlens: Tensor | None
    save: bool

    @property
    def sizes(self) -> Sizes:
        """The sizes of the call."""
        return sizes_of(self.q, self.k, self.v.shape[-1])


class DeltaBackward(NamedTuple):
    """The arguments of the backward op: inputs, tensors saved by the forward op, and the gradients of its outputs.

    Bit i of ``requested`` refers to argument i of the forward op, from q to state.
    """

    q: Tensor
    k: Tensor
    beta: Tensor
    decay: Tensor | None
    state: Tensor | None
    e: Tensor
    states: Tensor
    dout: Tensor | None
    dlast: Tensor | None
    method: str
    chunk: int
    reset: Tensor | None
    lengths: Tensor | None
    cu_seqlens: Tensor | None
    requested: int

    @property
    def needs_state(self) -> bool:
        """Whether the gradient of the initial state is requested."""
        return bool(self.requested >> 5 & 1)

    @property
    def sizes(self) -> Sizes:
        """The sizes of the call."""
        return sizes_of(self.q, self.k, self.e.shape[-1])


def sizes_of(q: Tensor, k: Tensor, values: int) -> Sizes:
    """Return the sizes of a call."""
    batch, time, heads, keys = q.shape
    return Sizes(batch, time, k.shape[2] if k.dim() == 5 else 1, heads, keys, values)


#: The dtype of saved states by that of the signals, where they differ: as products of 16-bit signals round them
STORED = {torch.float16: torch.bfloat16}


def carried(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of states: float32 for 16-bit signals, else the signals' own."""
    return torch.float32 if dtype.itemsize == 2 else dtype


def stored(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of saved states."""
    return STORED.get(dtype, dtype)


def rows_of(sizes: Sizes, cu_seqlens: Tensor | None) -> int:
    """Return the number of sequences."""
    return sizes.batch if cu_seqlens is None else cu_seqlens.shape[0] - 1


def _work(
    sizes: Sizes, chosen: Plan, chunk: int, reset: Tensor | None, lengths: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Any, ...]:
    """Return the kernels' description of the work."""
    check_values("delta_scan", sizes.batch, sizes.time, lengths, cu_seqlens)
    if lengths is None and cu_seqlens is not None:
        lengths = cu_seqlens.diff()
    starts, valid, flags = map(contiguous, (cu_seqlens, lengths, reset))
    return rows_of(sizes, cu_seqlens), *sizes[1:], starts, valid, flags, chunk, chosen.period


def forward_outputs(call: DeltaForward, out: Tensor | None = None) -> list[Tensor]:
    """Allocate the outputs, except ``out`` if it is given."""
    sizes, q = call.sizes, call.q
    rows, state = rows_of(sizes, call.cu_seqlens), sizes[3:]
    dtype = carried(q.dtype)
    outputs = [empty(q, (*q.shape[:3], sizes.values)) if out is None else out, empty(q, (rows, *state), dtype=dtype)]
    if call.save:
        chosen = plan(call.method, call.chunk, sizes.factors)
        lines = chosen.saved_states(sizes, rows, call.cu_seqlens is not None)
        outputs += [empty(q, call.v.shape), empty(q, (lines, *state), dtype=STORED.get(q.dtype, q.dtype))]
    return outputs


def forward(call: DeltaForward, out: Tensor | None = None) -> list[Tensor]:
    """Run the kernel, which writes o to ``out`` if it is given."""
    outputs, sizes = forward_outputs(call, out), call.sizes
    chosen = plan(call.method, call.chunk, sizes.factors)
    q, k, v = unit_stride(call.q), unit_stride(call.k), unit_stride(call.v)
    beta, decay, state = contiguous(call.beta), contiguous(call.decay), contiguous(call.state)
    work = _work(sizes, chosen, chosen.forward, call.reset, call.lengths, call.cu_seqlens)
    _core.delta.forward(work, q, k, v, beta, decay, state, *outputs, *(() if call.save else (None, None)))
    return outputs


def gradients_of(call: DeltaBackward) -> list[Tensor]:
    """Allocate the gradients."""
    q = call.q
    gradients = [empty(q, x.shape) for x in (q, call.k, call.e, call.beta)]
    if call.decay is not None:
        gradients.append(empty(q, call.decay.shape))
    if call.needs_state:
        shape = (rows_of(call.sizes, call.cu_seqlens), *call.states.shape[1:])
        gradients.append(empty(q, shape, dtype=carried(q.dtype)))
    return gradients


def backward(call: DeltaBackward, into: list[Tensor] | None = None) -> list[Tensor]:
    """Run the kernel, which writes the gradients to ``into`` if they are given.

    Only the gradients of q, k and v may be slices, with a contiguous last axis; all others are contiguous.
    """
    gradients, sizes = gradients_of(call) if into is None else into, call.sizes
    chosen = plan(call.method, call.chunk, sizes.factors)
    q, k, beta = unit_stride(call.q), unit_stride(call.k), contiguous(call.beta)
    e, states = contiguous(call.e), contiguous(call.states)
    decay, dlast = contiguous(call.decay), contiguous(call.dlast)
    d_o = None if call.dout is None else unit_stride(call.dout)
    work = _work(sizes, chosen, chosen.backward, call.reset, call.lengths, call.cu_seqlens)
    dq, dk, dv, dbeta, *rest = gradients
    ddecay, dstate = None if decay is None else rest[0], rest[-1] if call.needs_state else None
    _core.delta.backward(work, q, k, beta, decay, e, states, d_o, dlast, dq, dk, dv, dbeta, ddecay, dstate)
    return gradients


def requested(call: DeltaBackward, gradients: list[Tensor]) -> list[Tensor]:
    """Return those of the gradients that are requested."""
    places = [0, 1, 2, 3, *([] if call.decay is None else [4]), *([5] if call.needs_state else [])]
    return [x for place, x in zip(places, gradients, strict=True) if call.requested >> place & 1]


def _backward(call: DeltaBackward) -> list[Tensor]:
    return requested(call, backward(call))


def _backward_outputs(call: DeltaBackward) -> list[Tensor]:
    return requested(call, gradients_of(call))


delta_fwd = Op("_delta_fwd", DeltaForward, forward, forward_outputs)
delta_bwd = Op("_delta_bwd", DeltaBackward, _backward, _backward_outputs)
#: The gradient of e = v - S^T k equals that of v, so second derivatives need no v.
delta = Differentiable("delta_scan", delta_fwd, delta_bwd, "out last e states", replay, {"e": "v"})
