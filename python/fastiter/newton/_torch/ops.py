"""The private ops of the diagonal cells: their argument tuples, and their CPU implementations, which call the kernels.

Forward returns h, the final states (S, B, D), with Newton's method also its passes and fallbacks (2, B), and with
``save`` the other states of all steps. Backward returns dwx, the gradients of the initial states (S, B, D), then da and
dp if requested; ``newton`` is whether the forward pass used Newton's method, which makes no difference on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import _core
from ..._torch.op import Op
from ..._torch.ops import contiguous, empty, empty_steps, unit_stride
from ..._torch.sequences import check_values
from .._cells import CELLS, Options, ParaCell
from .._segments import Segments, segments


class ParaForward(NamedTuple):
    """The arguments of the forward op; ``window`` = 0 means step by step."""

    cell_name: str
    wx: Tensor
    a: Tensor
    p: Tensor | None
    state: Sequence[Tensor]
    reverse: bool
    lengths: Tensor | None
    window: int
    max_steps: int
    rtol: float
    atol: float
    save: bool
    reset: Tensor | None = None
    cu_seqlens: Tensor | None = None

    @property
    def cell(self) -> ParaCell:
        """The cell."""
        return CELLS[self.cell_name]


class ParaBackward(NamedTuple):
    """The arguments of the backward op: inputs, all states, and the gradients of h and of the final states."""

    cell_name: str
    wx: Tensor
    a: Tensor
    p: Tensor | None
    state: Sequence[Tensor]
    states: Sequence[Tensor]
    dh: Tensor | None
    dlast: Tensor | None
    reverse: bool
    lengths: Tensor | None
    need_weights: bool
    newton: bool
    reset: Tensor | None = None
    cu_seqlens: Tensor | None = None

    @property
    def cell(self) -> ParaCell:
        """The cell."""
        return CELLS[self.cell_name]


def rows_of(call: ParaForward | ParaBackward) -> int:
    """Return the number of sequences."""
    return call.wx.shape[0] if call.cu_seqlens is None else call.cu_seqlens.shape[0] - 1


def _cut(call: ParaForward | ParaBackward) -> Segments | None:
    """Check lengths and cu_seqlens, and return the segments, or None if each row is a single segment."""
    batch, time = call.wx.shape[:2]
    check_values(call.cell.name, batch, time, call.lengths, call.cu_seqlens)
    cut = [None if x is None else x.numpy() for x in (call.reset, call.lengths, call.cu_seqlens)]
    return segments(batch, time, call.reverse, *cut)


def _shape(call: ParaForward | ParaBackward, cut: Segments | None) -> tuple[Any, ...]:
    """Return the kernels' description of the work."""
    batch, time, _, width = call.wx.shape
    if cut is not None:
        rows = (len(cut.lines), cut.longest, width, call.reverse)
        return call.cell.code, *rows, cut.lengths, cut.lines, cut.starts
    lengths = None if call.lengths is None else contiguous(call.lengths)
    return call.cell.code, batch, time, width, call.reverse, lengths, None, None


def _spread(x: Tensor, cut: Segments | None, at: str) -> Tensor:
    """Scatter x (..., sequences, D) to the first or last segment of each sequence; the other segments are zero."""
    if cut is None:
        return x
    every = x.new_zeros((*x.shape[:-2], len(cut.lines), x.shape[-1]))
    every[..., torch.from_numpy(getattr(cut, at)), :] = x
    return every


def _room(x: Tensor, cut: Segments | None) -> Tensor:
    """Return x (S, sequences, D) itself, or new memory for all segments."""
    return x if cut is None else x.new_empty((x.shape[0], len(cut.lines), x.shape[2]))


def _gather(x: Tensor, every: Tensor, cut: Segments | None, at: str) -> None:
    """Gather into x the values of ``every`` at the first or last segment of each sequence."""
    if cut is not None:
        x.copy_(every[:, torch.from_numpy(getattr(cut, at))])


def _clear_padding(call: ParaForward | ParaBackward, cut: Segments | None, *steps: Tensor) -> None:
    """Set the steps beyond each row's length to zero, as segments do not cover them."""
    if cut is None or call.lengths is None:
        return
    past = torch.arange(call.wx.shape[1]) >= call.lengths.unsqueeze(1)
    for x in steps:
        x[past] = 0


def forward_outputs(call: ParaForward, out: Tensor | None = None) -> list[Tensor]:
    """Allocate the outputs, except ``out`` if it is given."""
    cell, wx = call.cell, call.wx
    batch, time, _, width = wx.shape
    outputs = [empty_steps(wx, (batch, time, width)) if out is None else out]
    outputs.append(empty(wx, (len(cell.states), rows_of(call), width)))
    if call.window > 0:
        outputs.append(wx.new_zeros((2, rows_of(call)), dtype=torch.int64))
    if call.save:
        outputs += [empty_steps(wx, (batch, time, width)) for _ in cell.states[1:]]
    return outputs


def gradients_of(call: ParaBackward) -> list[Tensor]:
    """Allocate the gradients."""
    cell, wx = call.cell, call.wx
    width = wx.shape[3]
    outputs = [empty_steps(wx, wx.shape), empty(wx, (len(cell.states), rows_of(call), width))]
    if call.need_weights:
        outputs.append(call.a.new_empty(call.a.shape))
        if cell.peepholes:
            outputs.append(call.a.new_empty((2, width)))
    return outputs


def forward(call: ParaForward, out: Tensor | None = None) -> list[Tensor]:
    """Run the kernel, which writes h to ``out`` if it is given."""
    cut = _cut(call)
    wx, a, first = unit_stride(call.wx), contiguous(call.a), [_spread(contiguous(x), cut, "firsts") for x in call.state]
    p, outputs = None if call.p is None else contiguous(call.p), forward_outputs(call, out)
    h, last, *rest = outputs
    newton: Options = (call.window, call.max_steps, call.rtol, call.atol) if call.window else ()
    counts = rest.pop(0) if newton else None
    every, passes = _room(last, cut), counts
    if cut is not None and counts is not None:
        passes = counts.new_zeros((2, len(cut.lines)))
    _core.newton.forward(_shape(call, cut), wx, a, p, first, every, (h, *rest), newton, passes)
    _gather(last, every, cut, "lasts")
    _clear_padding(call, cut, h, *rest)
    if cut is not None and counts is not None and passes is not None:
        counts.copy_(torch.from_numpy(cut.counts(passes.numpy())))
    return outputs


def _backward(call: ParaBackward) -> list[Tensor]:
    cut = _cut(call)
    wx, a, first = unit_stride(call.wx), contiguous(call.a), [_spread(contiguous(x), cut, "firsts") for x in call.state]
    p = None if call.p is None else contiguous(call.p)
    dlast = None if call.dlast is None else _spread(contiguous(call.dlast), cut, "lasts")
    dh = None if call.dh is None else unit_stride(call.dh)
    states = [unit_stride(x) for x in call.states]
    outputs = gradients_of(call)
    dwx, dfirst, *weights = outputs
    da, dp = (*weights, None, None)[:2]
    every = _room(dfirst, cut)
    _core.newton.backward(_shape(call, cut), wx, a, p, first, states, dh, dlast, dwx, da, dp, every)
    _gather(dfirst, every, cut, "firsts")
    _clear_padding(call, cut, dwx)
    return outputs


para_fwd = Op("_para_fwd", ParaForward, forward, forward_outputs)
para_bwd = Op("_para_bwd", ParaBackward, _backward, gradients_of)
