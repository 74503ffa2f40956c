"""The private ops of the family rnn: schemas, CPU implementations, which call the kernels, and fake versions.

Forward returns h, the final states, each (B, N, D), then, if requested, the other states of all steps and the saved
values. Backward returns dwx, then, if requested, dr, db and the gradients of the initial states. With ``checkpoint`` =
k, forward instead saves the states between chunks of k steps; backward takes them as ``saved``, and only h in
``states``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ... import _core
from ..._torch import vmap
from ..._torch.ops import (
    LIBRARY,
    are_ordinary,
    contiguous,
    eager,
    empty,
    empty_by_head,
    empty_steps,
    own_copy,
    unit_stride,
    unwatched,
)
from .._cells import CELLS, Cell
from .work import PLAIN, Options, work_of


def carried(x: Tensor) -> torch.dtype:
    """Return the dtype of the states other than h, and of the saved values."""
    return torch.float32 if x.dtype.itemsize == 2 else x.dtype


LIBRARY.define(
    "_rnn_fwd(str cell, Tensor wx, Tensor r, Tensor? b, Tensor[] state, bool reverse, Tensor? lengths, "
    "Tensor? batch_sizes, bool all_states, bool save, Tensor? cu_seqlens=None, Tensor? reset=None, "
    "float? clip_state=None, float? clip_grad=None, int checkpoint=0) -> Tensor[]"
)
LIBRARY.define(
    "_rnn_bwd(str cell, Tensor r, Tensor[] state, Tensor[] states, Tensor[] saved, Tensor?[] dstates, Tensor?[] dlast, "
    "bool reverse, Tensor? lengths, Tensor? batch_sizes, bool need_r, bool need_b, bool need_state, "
    "Tensor? cu_seqlens=None, Tensor? reset=None, float? clip_state=None, float? clip_grad=None, int checkpoint=0, "
    "Tensor? wx=None, Tensor? b=None) -> Tensor[]"
)


def _dtypes(cell: Cell, x: Tensor) -> list[torch.dtype]:
    """Return the dtypes of the states."""
    return [x.dtype] + [carried(x)] * (len(cell.states) - 1)


def _bias(b: Tensor | None, x: Tensor) -> Tensor | None:
    """Return b in the dtype of the kernels' sums: float32 for bfloat16 inputs, where b may have either dtype."""
    return None if b is None else contiguous(b.to(carried(x)))


def _forward_outputs(
    cell: Cell,
    wx: Tensor,
    batch: int,
    all_states: bool,
    save: bool,
    checkpoint: int,
    gpu: bool,
    time: int | None = None,
    states: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Allocate all outputs; `states`: tensors already allocated for the states of all steps."""
    lines, (heads, width) = wx.shape[:-3], wx.shape[-2:]
    outputs = [empty_steps(wx, (*lines, heads, width)) if states is None else states[0]]
    dtypes = _dtypes(cell, wx)
    outputs += [empty(wx, (batch, heads, width), None, dtype) for dtype in dtypes]

    def kept(seen: bool, dtype: torch.dtype, *gates: int) -> Tensor:
        inner = (*gates, heads, width)
        return empty_steps(wx, (*lines, *inner), dtype) if seen or gpu else empty_by_head(wx, lines, inner, dtype)

    if states is not None:
        outputs += states[1:]
    elif all_states or (save and not checkpoint):
        outputs += [kept(all_states, dtype) for dtype in dtypes[1:]]
    if save and checkpoint:
        # a SymInt while tracing, which is treated as an int here
        between = cast(int, torch.sym_max((lines[1] if time is None else time) - 1, 0)) // checkpoint
        outputs += [empty(wx, (between, batch, heads, width), None, dtype) for dtype in dtypes]
    elif save and cell.saved:
        outputs.append(kept(False, carried(wx), cell.saved))
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
        outputs += [h.new_empty((batch, heads, width), dtype=dtype) for dtype in _dtypes(cell, h)]
    return outputs


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
    *more: Any,
    states: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    cell, lines, (_, heads, width) = CELLS[cell_name], wx.shape[:-3], wx.shape[-3:]
    how = Options(*more) if more else PLAIN
    wx, r = unit_stride(wx), contiguous(r)
    b = _bias(b, wx)
    first = [contiguous(x) for x in state]
    work = work_of(cell, lines, heads, width, reverse, lengths, batch_sizes, how)
    outputs = _forward_outputs(cell, wx, work[1], all_states, save, how.checkpoint, False, work[2], states)
    count = len(cell.states)
    h, last, kept = outputs[0], outputs[1 : 1 + count], outputs[1 + count :]
    by_chunks = save and how.checkpoint > 0
    rest = count - 1 if all_states or (save and not by_chunks) else 0
    saved = kept[rest] if save and cell.saved and not by_chunks else None
    every, between = (how.checkpoint, kept[rest:]) if by_chunks else (0, [])
    _core.rnn_fwd(work, wx, r, b, first, last, (h, *kept[:rest]), saved, every, between)
    return outputs


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
    *more: Any,
) -> list[Tensor]:
    cell, h, r = CELLS[cell_name], states[0], contiguous(r)
    how = Options(*more[:5]) if more else PLAIN
    wx, b = (*more[5:], None, None)[:2]  # torch omits trailing arguments that equal their defaults
    by_chunks = how.checkpoint > 0
    first = [contiguous(x) for x in state]
    final = [None if x is None else contiguous(x) for x in dlast]
    work = work_of(cell, h.shape[:-2], h.shape[-2], h.shape[-1], reverse, lengths, batch_sizes, how)
    outputs = _backward_outputs(cell, h, r, work[1], need_r, need_b, need_state)
    wx, b = None if wx is None else unit_stride(wx), _bias(b, h)
    # Saved-tensor hooks may have returned these with other strides.
    states = [unit_stride(x) for x in states]
    saved = [contiguous(x) if by_chunks else unit_stride(x) for x in saved]
    dwx, *rest = outputs
    dr = rest.pop(0) if need_r else None
    db = rest.pop(0) if need_b else None
    gates = saved[0] if saved and not by_chunks else None
    incoming = [None if x is None else unit_stride(x) for x in dstates]
    every, between = (how.checkpoint, saved) if by_chunks else (0, [])
    _core.rnn_bwd(work, r, first, states, gates, incoming, final, dwx, rest, db, dr, every, between, wx, b)
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
    *more: Any,
) -> list[Tensor]:
    how = Options(*more)
    batch = _fake_batch(wx, state, batch_sizes, how)
    time = None if batch_sizes is None else batch_sizes.shape[0]
    sizes = (batch, all_states, save, how.checkpoint)
    return _forward_outputs(CELLS[cell_name], wx, *sizes, wx.is_cuda, time)


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
    *more: Any,
) -> list[Tensor]:
    batch = _fake_batch(states[0], state, batch_sizes, Options(*more[:5]))
    return _backward_outputs(CELLS[cell_name], states[0], r, batch, need_r, need_b, need_state)


def _fake_batch(lines: Tensor, state: Sequence[Tensor], batch_sizes: Tensor | None, how: Options) -> int:
    """Return B; for a packed batch it is known while tracing only from an initial state."""
    if how.cu_seqlens is not None:
        return how.cu_seqlens.shape[0] - 1
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
    how: Options = PLAIN,
) -> list[Tensor]:
    """Run the op; plain dense tensors outside of tracing take one C++ call, in a fraction of the time."""
    if how is PLAIN and lengths is None and batch_sizes is None and unwatched():
        outputs = _core.rnn_fwd_tensors(cell.layout, wx, r, b, state, reverse, all_states, False)
        if outputs is not None:
            return outputs
    return _longer_rnn_fwd(cell.name, wx, r, b, state, reverse, lengths, batch_sizes, all_states, False, *how)


def rnn_fwd_kept(
    cell: Cell,
    wx: Tensor,
    r: Tensor,
    b: Tensor | None,
    state: Sequence[Tensor],
    reverse: bool,
    lengths: Tensor | None,
    batch_sizes: Tensor | None,
    all_states: bool,
    how: Options = PLAIN,
) -> tuple[list[Tensor], list[Tensor]]:
    """Run the op for a backward pass; return its results, and separate copies of the tensors that pass reads.

    These are all states and the gates, or with a checkpoint h and the states between chunks.
    """
    count = len(cell.states)
    seen = 2 * count if all_states else 1 + count
    if how is PLAIN and lengths is None and batch_sizes is None and unwatched():
        outputs = _core.rnn_fwd_tensors(cell.layout, wx, r, b, state, reverse, all_states, True)
        if outputs is not None:
            return outputs[:seen], outputs[seen:]
    outputs = _longer_rnn_fwd(cell.name, wx, r, b, state, reverse, lengths, batch_sizes, all_states, True, *how)
    own = outputs[:1] if how.checkpoint or not all_states else [outputs[0], *outputs[1 + count : seen]]
    return outputs[:seen], [*map(own_copy, own), *outputs[seen:]]


def goes_together(wx: Tensor, r: Tensor, b: Tensor, state: Sequence[Tensor] | None) -> bool:
    """Return whether :func:`rnn_fwd_together` takes these tensors."""
    return unwatched() and wx.dtype in (torch.float32, torch.float64) and are_ordinary((wx, r, b, *(state or ())))


def rnn_fwd_together(
    cell: Cell, wx: Tensor, r: Tensor, b: Tensor | None, state: Sequence[Tensor], save: bool, how: Options
) -> list[Tensor]:
    """Return the states of all steps as one tensor (S, B, T, N, D), the final states, then the saved values."""
    count = len(cell.states)
    every = empty_steps(wx, (*wx.shape[:2], *wx.shape[-2:]), ahead=(count,))
    outputs = _rnn_fwd(cell.name, wx, r, b, state, False, None, None, True, save, *how, states=every.unbind(0))
    return [every, *outputs[1 : 1 + count], *outputs[2 * count :]]


def fits(cell: Cell, wx: Any, r: Any, b: Any, state: Any) -> bool:
    """Return whether these are dense tensors of matching shapes, which need no further checks."""
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
    how: Options = PLAIN,
    wx: Tensor | None = None,
    b: Tensor | None = None,
) -> list[Tensor]:
    """Run the op, in one C++ call under the conditions of :func:`rnn_fwd`; wx and b are needed with a checkpoint."""
    if how is PLAIN and lengths is None and batch_sizes is None and unwatched():
        needs = (need_r, need_b, need_state)
        gradients = _core.rnn_bwd_tensors(cell.layout, r, state, states, saved, dstates, dlast, reverse, *needs)
        if gradients is not None:
            return gradients
    given = (r, state, states, saved, dstates, dlast, reverse, lengths, batch_sizes)
    return _longer_rnn_bwd(cell.name, *given, need_r, need_b, need_state, *how, wx, b)


vmap.register("_rnn_fwd", "_rnn_bwd")
