"""The private ops of the diagonal cells: their calls, and their CPU implementations, which call the kernels.

Forward returns h, the final states (S, B, D), with Newton's method its passes and fallbacks (2, B), and with ``save``
the other states of all steps. Backward returns dwx, the gradients of the initial states (S, B, D), then da and dp if
requested; ``newton``: whether the forward pass used Newton's method, which makes no difference on a CPU.
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


class ParaForward(NamedTuple):
    """A call of the forward op; ``window`` = 0: step by step."""

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

    @property
    def cell(self) -> ParaCell:
        """The cell."""
        return CELLS[self.cell_name]


class ParaBackward(NamedTuple):
    """A call of the backward op: inputs, all states, and the gradients of h and of the final states."""

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

    @property
    def cell(self) -> ParaCell:
        """The cell."""
        return CELLS[self.cell_name]


def _shape(cell: ParaCell, wx: Tensor, reverse: bool, lengths: Tensor | None) -> tuple[Any, ...]:
    batch, time, _, width = wx.shape
    check_values(cell.name, wx.shape[0], wx.shape[1], lengths, None)
    return cell.code, batch, time, width, reverse, lengths


def forward_outputs(call: ParaForward, out: Tensor | None = None) -> list[Tensor]:
    """Allocate the outputs, but ``out`` if it is given."""
    cell, wx = call.cell, call.wx
    batch, time, _, width = wx.shape
    outputs = [empty_steps(wx, (batch, time, width)) if out is None else out]
    outputs.append(empty(wx, (len(cell.states), batch, width)))
    if call.window > 0:
        outputs.append(wx.new_zeros((2, batch), dtype=torch.int64))
    if call.save:
        outputs += [empty_steps(wx, (batch, time, width)) for _ in cell.states[1:]]
    return outputs


def gradients_of(call: ParaBackward) -> list[Tensor]:
    """Allocate the gradients."""
    cell, wx = call.cell, call.wx
    batch, _, _, width = wx.shape
    outputs = [empty_steps(wx, wx.shape), empty(wx, (len(cell.states), batch, width))]
    if call.need_weights:
        outputs.append(call.a.new_empty(call.a.shape))
        if cell.peepholes:
            outputs.append(call.a.new_empty((2, width)))
    return outputs


def forward(call: ParaForward, out: Tensor | None = None) -> list[Tensor]:
    """Run the kernel, which writes h to ``out`` if it is given."""
    wx, a, first = unit_stride(call.wx), contiguous(call.a), [contiguous(x) for x in call.state]
    p, lengths = (None if x is None else contiguous(x) for x in (call.p, call.lengths))
    shape, outputs = _shape(call.cell, wx, call.reverse, lengths), forward_outputs(call, out)
    h, last, *rest = outputs
    newton: Options = (call.window, call.max_steps, call.rtol, call.atol) if call.window else ()
    counts = rest.pop(0) if newton else None
    _core.newton.forward(shape, wx, a, p, first, last, (h, *rest), newton, counts)
    return outputs


def _backward(call: ParaBackward) -> list[Tensor]:
    wx, a, first = unit_stride(call.wx), contiguous(call.a), [contiguous(x) for x in call.state]
    p, dlast, lengths = (None if x is None else contiguous(x) for x in (call.p, call.dlast, call.lengths))
    dh = None if call.dh is None else unit_stride(call.dh)
    states = [unit_stride(x) for x in call.states]
    shape, outputs = _shape(call.cell, wx, call.reverse, lengths), gradients_of(call)
    dwx, dfirst, *weights = outputs
    da, dp = (*weights, None, None)[:2]
    _core.newton.backward(shape, wx, a, p, first, states, dh, dlast, dwx, da, dp, dfirst)
    return outputs


para_fwd = Op("_para_fwd", ParaForward, forward, forward_outputs)
para_bwd = Op("_para_bwd", ParaBackward, _backward, gradients_of)
