"""The private ops of the family rnn: their schemas, their CPU implementations on the kernels, their fake versions.

Forward: h, the final states (B, N, D) each, then, as far as they were asked for, the other states of all steps and the
saved values. Backward: dwx, then, as far as they were asked for, dr, db and the gradients of the initial states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _core
from .._rnn import CELLS, Cell, check_lengths
from ._op import LIBRARY, Steps, contiguous, eager, empty, empty_steps, state_steps, steps, unit_stride, unwatched

_FORWARD = {torch.float32: _core.rnn_fwd_f32, torch.float64: _core.rnn_fwd_f64}
_BACKWARD = {torch.float32: _core.rnn_bwd_f32, torch.float64: _core.rnn_bwd_f64}

LIBRARY.define(
    "_rnn_fwd(str cell, Tensor wx, Tensor r, Tensor? b, Tensor[] state, bool reverse, Tensor? lengths, "
    "Tensor? batch_sizes, bool all_states, bool save) -> Tensor[]"
)
LIBRARY.define(
    "_rnn_bwd(str cell, Tensor r, Tensor[] state, Tensor[] states, Tensor[] saved, Tensor?[] dstates, Tensor?[] dlast, "
    "bool reverse, Tensor? lengths, Tensor? batch_sizes, bool need_r, bool need_b, bool need_state) -> Tensor[]"
)

Work = tuple[int, int, int, int, int, bool, int, int, int]


def _forward_outputs(cell: Cell, wx: Tensor, batch: int, all_states: bool, save: bool) -> list[Tensor]:
    lines, (heads, width) = wx.shape[:-3], wx.shape[-2:]
    outputs = [empty_steps(wx, (*lines, heads, width))]
    outputs += [empty(wx, (batch, heads, width)) for _ in cell.states]
    if all_states or save:
        outputs += [empty_steps(wx, (*lines, heads, width)) for _ in cell.states[1:]]
    if save and cell.saved:
        outputs.append(empty_steps(wx, (*lines, cell.saved, heads, width)))
    return outputs


def _backward_outputs(
    cell: Cell, h: Tensor, r: Tensor, batch: int, need_r: bool, need_b: bool, need_state: bool
) -> list[Tensor]:
    lines, (heads, width) = h.shape[:-2], h.shape[-2:]
    outputs = [empty_steps(h, (*lines, cell.gates, heads, width))]
    if need_r:
        outputs.append(empty(r, r.shape))
    if need_b:
        outputs.append(r.new_empty((cell.gates, heads, width)))
    if need_state:
        outputs += [h.new_empty((batch, heads, width)) for _ in cell.states]
    return outputs


def _work(
    cell: Cell,
    lines: Sequence[int],
    heads: int,
    width: int,
    reverse: bool,
    lengths: Tensor | None,
    batch_sizes: Tensor | None,
) -> tuple[Work, tuple[Tensor, ...]]:
    """Return the kernels' description of the work, and the tensors that it points into."""
    if batch_sizes is not None:
        return _packed_work(cell, lines[0], heads, width, reverse, batch_sizes)
    batch, time = lines
    if lengths is None:
        return (cell.code, batch, time, heads, width, reverse, 0, 0, 0), ()
    least, most = (int(lengths.min()), int(lengths.max())) if batch else (0, 0)
    check_lengths(cell.name, lengths.shape, least, most, batch, time)
    lengths = lengths.contiguous()
    return (cell.code, batch, time, heads, width, reverse, lengths.data_ptr(), 0, 0), (lengths,)


def _packed_work(
    cell: Cell, rows: int, heads: int, width: int, reverse: bool, batch_sizes: Tensor
) -> tuple[Work, tuple[Tensor, ...]]:
    offsets = torch.cumsum(batch_sizes, 0) - batch_sizes
    batch, time = int(batch_sizes[0]) if len(batch_sizes) else 0, len(batch_sizes)
    lengths = (batch_sizes > torch.arange(batch).unsqueeze(1)).sum(1)
    work = (cell.code, batch, time, heads, width, reverse, lengths.data_ptr(), offsets.data_ptr(), rows)
    return work, (lengths, offsets)


def _rnn_fwd(
    cell_name: str,
    wx: Tensor,
    r: Tensor,
    b: Tensor | None,
    state: Sequence[Tensor],
    reverse: bool,
    lengths: Tensor | None,
    batch_sizes: Tensor | None,
    all_states: bool,
    save: bool,
) -> list[Tensor]:
    cell, lines, (_, heads, width) = CELLS[cell_name], wx.shape[:-3], wx.shape[-3:]
    wx, r = unit_stride(wx), contiguous(r)
    b = None if b is None else contiguous(b)
    first = [contiguous(x) for x in state]
    work, kept_alive = _work(cell, lines, heads, width, reverse, lengths, batch_sizes)
    outputs = _forward_outputs(cell, wx, work[1], all_states, save)
    count = len(cell.states)
    h, last, kept = outputs[0], outputs[1 : 1 + count], outputs[1 + count :]
    rest = count - 1 if kept else 0
    _FORWARD[wx.dtype](
        work,
        steps(wx),
        r.data_ptr(),
        0 if b is None else b.data_ptr(),
        tuple([x.data_ptr() for x in first]),
        tuple([x.data_ptr() for x in last]),
        (state_steps(h), *[state_steps(x) for x in kept[:rest]]),
        steps(kept[rest]) if save and cell.saved else (),
    )
    del kept_alive
    return outputs


def _optional_steps(x: Tensor | None, kept_alive: list[Tensor]) -> Steps:
    if x is None:
        return ()
    kept_alive.append(unit_stride(x))
    return state_steps(kept_alive[-1])


def _rnn_bwd(
    cell_name: str,
    r: Tensor,
    state: Sequence[Tensor],
    states: Sequence[Tensor],
    saved: Sequence[Tensor],
    dstates: Sequence[Tensor | None],
    dlast: Sequence[Tensor | None],
    reverse: bool,
    lengths: Tensor | None,
    batch_sizes: Tensor | None,
    need_r: bool,
    need_b: bool,
    need_state: bool,
) -> list[Tensor]:
    cell, h, r = CELLS[cell_name], states[0], contiguous(r)
    first = [contiguous(x) for x in state]
    final = [None if x is None else contiguous(x) for x in dlast]
    work, kept_alive = _work(cell, h.shape[:-2], h.shape[-2], h.shape[-1], reverse, lengths, batch_sizes)
    outputs = _backward_outputs(cell, h, r, work[1], need_r, need_b, need_state)
    dq = empty_steps(h, h.shape) if cell.name == "gru" else None
    copies: list[Tensor] = []
    _BACKWARD[h.dtype](
        work,
        r.data_ptr(),
        tuple([x.data_ptr() for x in first]),
        tuple([state_steps(x) for x in states]),
        steps(saved[0]) if saved else (),
        tuple([_optional_steps(x, copies) for x in dstates]),
        tuple([0 if x is None else x.data_ptr() for x in final]),
        steps(outputs[0]),
        () if dq is None else state_steps(dq),
        tuple([x.data_ptr() for x in outputs[-len(cell.states) :]]) if need_state else (),
        outputs[1 + need_r].data_ptr() if need_b else 0,
        outputs[1].data_ptr() if need_r else 0,
    )
    del kept_alive, copies
    return outputs


def _rnn_fwd_fake(
    cell_name: str,
    wx: Tensor,
    r: Tensor,
    b: Tensor | None,
    state: Sequence[Tensor],
    reverse: bool,
    lengths: Tensor | None,
    batch_sizes: Tensor | None,
    all_states: bool,
    save: bool,
) -> list[Tensor]:
    return _forward_outputs(CELLS[cell_name], wx, _fake_batch(wx, state, batch_sizes), all_states, save)


def _rnn_bwd_fake(
    cell_name: str,
    r: Tensor,
    state: Sequence[Tensor],
    states: Sequence[Tensor],
    saved: Sequence[Tensor],
    dstates: Sequence[Tensor | None],
    dlast: Sequence[Tensor | None],
    reverse: bool,
    lengths: Tensor | None,
    batch_sizes: Tensor | None,
    need_r: bool,
    need_b: bool,
    need_state: bool,
) -> list[Tensor]:
    batch = _fake_batch(states[0], state, batch_sizes)
    return _backward_outputs(CELLS[cell_name], states[0], r, batch, need_r, need_b, need_state)


def _fake_batch(lines: Tensor, state: Sequence[Tensor], batch_sizes: Tensor | None) -> int:
    """Return B; of a packed batch it is known while tracing only from its initial state."""
    if batch_sizes is None:
        return lines.shape[0]
    return state[0].shape[0] if state else int(torch.library.get_ctx().new_dynamic_size())


LIBRARY.impl("_rnn_fwd", _rnn_fwd, "CPU")
LIBRARY.impl("_rnn_bwd", _rnn_bwd, "CPU")
torch.library.register_fake("fastiter::_rnn_fwd", _rnn_fwd_fake, lib=LIBRARY)
torch.library.register_fake("fastiter::_rnn_bwd", _rnn_bwd_fake, lib=LIBRARY)

_longer_rnn_fwd = eager(_rnn_fwd, torch.ops.fastiter._rnn_fwd.default)


def rnn_fwd(
    cell: Cell,
    wx: Tensor,
    r: Tensor,
    b: Tensor | None,
    state: Sequence[Tensor],
    reverse: bool,
    lengths: Tensor | None,
    batch_sizes: Tensor | None,
    all_states: bool,
    save: bool,
) -> list[Tensor]:
    """Run the op; on small dense tensors that nothing watches in one call, which takes a fraction of the time."""
    if lengths is None and batch_sizes is None and unwatched():
        outputs = _core.rnn_fwd_tensors(cell.layout, wx, r, b, state, reverse, all_states, save)
        if outputs is not None:
            return outputs
    return _longer_rnn_fwd(cell.name, wx, r, b, state, reverse, lengths, batch_sizes, all_states, save)


def fits(cell: Cell, wx: Any, r: Any, b: Any, state: Any) -> bool:
    """Say whether these are small dense tensors of matching shapes, of which no check need say more."""
    return unwatched() and _core.rnn_fits_tensors(cell.layout, wx, r, b, state)


_longer_rnn_bwd = eager(_rnn_bwd, torch.ops.fastiter._rnn_bwd.default)


def rnn_bwd(
    cell: Cell,
    r: Tensor,
    state: Sequence[Tensor],
    states: list[Tensor],
    saved: list[Tensor],
    dstates: list[Tensor | None],
    dlast: Sequence[Tensor | None],
    reverse: bool,
    lengths: Tensor | None,
    batch_sizes: Tensor | None,
    need_r: bool,
    need_b: bool,
    need_state: bool,
) -> list[Tensor]:
    """Run the op, in one call where :func:`rnn_fwd` would."""
    if lengths is None and batch_sizes is None and unwatched():
        needs = (need_r, need_b, need_state)
        gradients = _core.rnn_bwd_tensors(cell.layout, r, state, states, saved, dstates, dlast, reverse, *needs)
        if gradients is not None:
            return gradients
    given = (r, state, states, saved, dstates, dlast, reverse, lengths, batch_sizes)
    return _longer_rnn_bwd(cell.name, *given, need_r, need_b, need_state)
