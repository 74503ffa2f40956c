"""The diagonal cells on a GPU: step by step in Triton (kernels/newton/triton_newton.py), or Newton's method in CUDA."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..._torch import launch
from ..._torch.ops import contiguous, unit_stride
from ..._torch.sequences import check_values
from .._cells import ParaCell
from . import cuda
from .ops import ParaBackward, ParaForward, forward_outputs, gradients_of, para_bwd, para_fwd

#: Lanes per program, and bytes per gate that a lane prefetches
_LANES, _AHEAD = 64, 16
#: Maximum registers per thread for float64. Without it Triton 3.6.0 compiles the backward pass of paraslstm for sm_90,
#: in the variant of tests/newton/gpu_variants, to 128 and 8 spilled bytes; 3.9.0 to 164 and none.
_REGISTERS = 168


def _launch(
    name: str,
    cell: ParaCell,
    wx: Tensor,
    memory: Sequence[Tensor | None],
    strided: Sequence[Tensor | None],
    reverse: bool,
    ahead: int,
) -> None:
    """Launch a kernel with a lane for each unit of each row; ``strided`` contains the tensors with a time axis."""
    import triton.language as tl

    batch, time, _, width = wx.shape
    if not batch * width:
        return
    strides = [stride for x in strided for stride in ((0, 0) if x is None else x.stride()[:-1])]
    with launch.on(wx):
        getattr(launch.triton_kernels(cell.name, "newton/triton_newton"), f"para_{name}_kernel")[
            (-(-batch * width // _LANES),)
        ](
            *memory,
            *strides,
            *(batch, time, width, -1 if reverse else 1),
            CELL=cell.name,
            GATES=cell.gates,
            STATES=len(cell.states),
            STATE=tl.float64 if wx.dtype == torch.float64 else tl.float32,
            UNROLL=max(1, ahead // wx.element_size()),
            LANES=_LANES,
            num_warps=_LANES // 32,
            maxnreg=_REGISTERS if wx.dtype == torch.float64 else None,
            enable_fp_fusion=True,
        )


def _first(state: Sequence[Tensor]) -> Tensor | None:
    return torch.stack([contiguous(x) for x in state]) if state else None


def forward(call: ParaForward) -> list[Tensor]:
    """Implement the forward op on a GPU."""
    cell = call.cell
    cuda.check_method(cell.name, call.window > 0)
    check_values(cell.name, call.wx.shape[0], call.wx.shape[1], call.lengths, None)
    lengths, _ = launch.in_range(call.lengths, None, call.wx.shape[1])
    wx, a, p = unit_stride(call.wx), contiguous(call.a), None if call.p is None else contiguous(call.p)
    outputs = forward_outputs(call._replace(wx=wx))
    if call.window:
        newton = (call.window, call.max_steps, call.rtol, call.atol)
        cuda.forward(cell, wx, a, p, _first(call.state), call.reverse, lengths, newton, outputs)
        return outputs
    h, last, *rest = outputs
    if lengths is not None:  # the kernel zeros h itself
        for x in rest:
            x.zero_()
    others = (*rest, None, None, None)[:3]
    memory = (wx, a, p, _first(call.state), h, *others, last, launch.as_int64(lengths, wx))
    _launch("fwd", cell, wx, memory, (wx, h), call.reverse, _AHEAD)
    return outputs


def backward(call: ParaBackward) -> list[Tensor]:
    """Implement the backward op on a GPU."""
    cell = call.cell
    check_values(cell.name, call.wx.shape[0], call.wx.shape[1], call.lengths, None)
    lengths, _ = launch.in_range(call.lengths, None, call.wx.shape[1])
    wx, a, p = unit_stride(call.wx), contiguous(call.a), None if call.p is None else contiguous(call.p)
    dh = None if call.dh is None else unit_stride(call.dh)
    dlast = None if call.dlast is None else contiguous(call.dlast)
    dwx, dfirst, *weights = gradients_of(call._replace(wx=wx, a=a))
    h, *rest = [unit_stride(x) for x in call.states]
    rest = [x if x.stride() == h.stride() else torch.empty_like(h).copy_(x) for x in rest]
    rows = [x.new_empty((wx.shape[0], *x.shape)) for x in weights]  # sums per row, summed over the rows afterwards
    da, dp = (*rows, None, None)[:2]
    others, results = (*rest, None, None, None)[:3], (dwx, dfirst, da, dp)
    if call.newton:
        memory: tuple[Tensor | None, ...] = (wx, a, p, _first(call.state), h, others[0], dh, dlast, *results)
        cuda.backward(cell, memory, call.reverse, lengths)
    else:
        memory = (wx, a, p, _first(call.state), h, *others, dh, dlast, *results, launch.as_int64(lengths, wx))
        _launch("bwd", cell, wx, memory, (wx, h, dh, dwx), call.reverse, _AHEAD // 2)
    return [dwx, dfirst, *(x.sum(0) for x in rows)]


para_fwd.on_cuda(forward)
para_bwd.on_cuda(backward)
