"""The private ops of the diagonal cells: schemas, CPU implementations, which call the kernels, and fake versions.

Forward returns h, the final states (S, B, D), with Newton's method its passes and fallbacks (2, B), and with ``save``
the other states of all steps. Backward returns dwx, the gradients of the initial states (S, B, D), then da and dp if
requested; ``newton``: whether the forward pass used Newton's method, which makes no difference on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ... import _core
from ..._sequences import check_lengths
from ..._torch import vmap
from ..._torch.ops import LIBRARY, contiguous, eager, empty, empty_steps, unit_stride
from .._cells import CELLS, Options, ParaCell

LIBRARY.define(
    "_para_fwd(str cell, Tensor wx, Tensor a, Tensor? p, Tensor[] state, bool reverse, Tensor? lengths, int window, "
    "int max_steps, float rtol, float atol, bool save) -> Tensor[]"
)
LIBRARY.define(
    "_para_bwd(str cell, Tensor wx, Tensor a, Tensor? p, Tensor[] state, Tensor[] states, Tensor? dh, Tensor? dlast, "
    "bool reverse, Tensor? lengths, bool need_weights, bool newton) -> Tensor[]"
)


def _shape(cell: ParaCell, wx: Tensor, reverse: bool, lengths: Tensor | None) -> tuple[Any, ...]:
    batch, time, _, width = wx.shape
    check_steps(cell, wx, lengths)
    return cell.code, batch, time, width, reverse, lengths


def check_steps(cell: ParaCell, wx: Tensor, lengths: Tensor | None) -> None:
    """Check the lengths of the rows at run time, as tracing does not know their values.

    Values on a GPU are not read back: its kernels clamp them into range.
    """
    batch, time = wx.shape[:2]
    if lengths is not None and lengths.is_cpu:
        least, most = (int(lengths.min()), int(lengths.max())) if batch else (0, 0)
        check_lengths(cell.name, lengths.shape, least, most, batch, time)


def forward_outputs(cell: ParaCell, wx: Tensor, newton: bool, save: bool) -> list[Tensor]:
    """Allocate the outputs."""
    batch, time, _, width = wx.shape
    outputs = [empty_steps(wx, (batch, time, width)), empty(wx, (len(cell.states), batch, width))]
    if newton:
        outputs.append(wx.new_zeros((2, batch), dtype=torch.int64))
    if save:
        outputs += [empty_steps(wx, (batch, time, width)) for _ in cell.states[1:]]
    return outputs


def backward_outputs(cell: ParaCell, wx: Tensor, a: Tensor, need_weights: bool) -> list[Tensor]:
    """Allocate the gradients."""
    batch, _, _, width = wx.shape
    outputs = [empty_steps(wx, wx.shape), empty(wx, (len(cell.states), batch, width))]
    if need_weights:
        outputs.append(a.new_empty(a.shape))
        if cell.peepholes:
            outputs.append(a.new_empty((2, width)))
    return outputs


def _para_fwd(
    cell_name: str,
    wx: Tensor,
    a: Tensor,
    p: Tensor | None,
    state: Sequence[Tensor],
    reverse: bool,
    lengths: Tensor | None,
    window: int,
    max_steps: int,
    rtol: float,
    atol: float,
    save: bool,
) -> list[Tensor]:
    cell = CELLS[cell_name]
    wx, a, first = unit_stride(wx), contiguous(a), [contiguous(x) for x in state]
    p = None if p is None else contiguous(p)
    lengths = None if lengths is None else contiguous(lengths)
    shape, outputs = _shape(cell, wx, reverse, lengths), forward_outputs(cell, wx, window > 0, save)
    h, last, *rest = outputs
    newton: Options = (window, max_steps, rtol, atol) if window else ()
    counts = rest.pop(0) if newton else None
    _core.para_fwd(shape, wx, a, p, first, last, (h, *rest), newton, counts)
    return outputs


def _para_bwd(
    cell_name: str,
    wx: Tensor,
    a: Tensor,
    p: Tensor | None,
    state: Sequence[Tensor],
    states: Sequence[Tensor],
    dh: Tensor | None,
    dlast: Tensor | None,
    reverse: bool,
    lengths: Tensor | None,
    need_weights: bool,
    newton: bool,
) -> list[Tensor]:
    cell = CELLS[cell_name]
    wx, a, first = unit_stride(wx), contiguous(a), [contiguous(x) for x in state]
    p = None if p is None else contiguous(p)
    dh = None if dh is None else unit_stride(dh)
    dlast = None if dlast is None else contiguous(dlast)
    lengths = None if lengths is None else contiguous(lengths)
    states = [unit_stride(x) for x in states]
    shape, outputs = _shape(cell, wx, reverse, lengths), backward_outputs(cell, wx, a, need_weights)
    dwx, dfirst, *weights = outputs
    da = weights[0] if need_weights else None
    dp = weights[1] if need_weights and cell.peepholes else None
    _core.para_bwd(shape, wx, a, p, first, states, dh, dlast, dwx, da, dp, dfirst)
    return outputs


def _para_fwd_fake(
    cell_name: str,
    wx: Tensor,
    a: Tensor,
    p: Tensor | None,
    state: Sequence[Tensor],
    reverse: bool,
    lengths: Tensor | None,
    window: int,
    max_steps: int,
    rtol: float,
    atol: float,
    save: bool,
) -> list[Tensor]:
    return forward_outputs(CELLS[cell_name], wx, window > 0, save)


def _para_bwd_fake(
    cell_name: str,
    wx: Tensor,
    a: Tensor,
    p: Tensor | None,
    state: Sequence[Tensor],
    states: Sequence[Tensor],
    dh: Tensor | None,
    dlast: Tensor | None,
    reverse: bool,
    lengths: Tensor | None,
    need_weights: bool,
    newton: bool,
) -> list[Tensor]:
    return backward_outputs(CELLS[cell_name], wx, a, need_weights)


LIBRARY.impl("_para_fwd", _para_fwd, "CPU")
LIBRARY.impl("_para_bwd", _para_bwd, "CPU")
torch.library.register_fake("fastiter::_para_fwd", _para_fwd_fake, lib=LIBRARY)
torch.library.register_fake("fastiter::_para_bwd", _para_bwd_fake, lib=LIBRARY)

para_fwd = eager(_para_fwd, torch.ops.fastiter._para_fwd.default)
para_bwd = eager(_para_bwd, torch.ops.fastiter._para_bwd.default)

vmap.register("_para_fwd", "_para_bwd")
