"""The private ops of the family rnn: their argument tuples, and their CPU implementations, which call the kernels.

Forward returns h, the final states, each (B, N, D), then, if requested, the other states of all steps and the saved
values. Backward returns dwx, then, if requested, dr, db and the gradients of the initial states. With ``checkpoint`` =
k, forward instead saves the states between chunks of k steps; backward takes them as ``saved``, and only h in
``states``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ... import _core
from ..._torch.op import Op
from ..._torch.ops import (
    are_ordinary,
    contiguous,
    empty,
    empty_by_head,
    empty_steps,
    own_copy,
    unit_stride,
    unwatched,
)
from .._cells import CELLS, Cell
from .work import PLAIN, Options, options_of, work_of


def carried(x: Tensor) -> torch.dtype:
    """Return the dtype of the states other than h, and of the saved values."""
    return torch.float32 if x.dtype.itemsize == 2 else x.dtype


class RnnForward(NamedTuple):
    """The arguments of the forward op. Without ``save`` it returns no saved values."""

    cell_name: str
    wx: Tensor
    r: Tensor
    b: Tensor | None
    state: Sequence[Tensor]
    reverse: bool
    lengths: Tensor | None
    batch_sizes: Tensor | None
    all_states: bool
    save: bool
    cu_seqlens: Tensor | None = None
    reset: Tensor | None = None
    clip_state: float | None = None
    clip_grad: float | None = None
    checkpoint: int = 0

    @property
    def cell(self) -> Cell:
        """The cell."""
        return CELLS[self.cell_name]

    @property
    def options(self) -> Options:
        """The rarely used options."""
        return options_of(*self[10:])


class RnnBackward(NamedTuple):
    """The arguments of the backward op; wx and b are given only with a checkpoint."""

    cell_name: str
    r: Tensor
    state: Sequence[Tensor]
    states: Sequence[Tensor]
    saved: Sequence[Tensor]
    dstates: Sequence[Tensor | None]
    dlast: Sequence[Tensor | None]
    reverse: bool
    lengths: Tensor | None
    batch_sizes: Tensor | None
    need_r: bool
    need_b: bool
    need_state: bool
    cu_seqlens: Tensor | None = None
    reset: Tensor | None = None
    clip_state: float | None = None
    clip_grad: float | None = None
    checkpoint: int = 0
    wx: Tensor | None = None
    b: Tensor | None = None

    @property
    def cell(self) -> Cell:
        """The cell."""
        return CELLS[self.cell_name]

    @property
    def options(self) -> Options:
        """The rarely used options."""
        return options_of(*self[13:18])


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

    def every_step(returned: bool, dtype: torch.dtype, *gates: int) -> Tensor:
        inner = (*gates, heads, width)
        return empty_steps(wx, (*lines, *inner), dtype) if returned or gpu else empty_by_head(wx, lines, inner, dtype)

    if states is not None:
        outputs += states[1:]
    elif all_states or (save and not checkpoint):
        outputs += [every_step(all_states, dtype) for dtype in dtypes[1:]]
    if save and checkpoint:
        # a SymInt while tracing, which is treated as an int here
        between = cast(int, torch.sym_max((lines[1] if time is None else time) - 1, 0)) // checkpoint
        outputs += [empty(wx, (between, batch, heads, width), None, dtype) for dtype in dtypes]
    elif save and cell.saved:
        outputs.append(every_step(False, carried(wx), cell.saved))
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


def forward(call: RnnForward, states: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Run the kernel; `states`: tensors already allocated for the states of all steps."""
    cell, options, lines, (_, heads, width) = call.cell, call.options, call.wx.shape[:-3], call.wx.shape[-3:]
    wx, r, b = unit_stride(call.wx), contiguous(call.r), _bias(call.b, call.wx)
    first = [contiguous(x) for x in call.state]
    work = work_of(cell, lines, heads, width, call.reverse, call.lengths, call.batch_sizes, options)
    outputs = _forward_outputs(
        cell, wx, work[1], call.all_states, call.save, options.checkpoint, False, work[2], states
    )
    count = len(cell.states)
    h, last, others = outputs[0], outputs[1 : 1 + count], outputs[1 + count :]
    by_chunks = call.save and options.checkpoint > 0
    rest = count - 1 if call.all_states or (call.save and not by_chunks) else 0
    saved = others[rest] if call.save and cell.saved and not by_chunks else None
    every, between = (options.checkpoint, others[rest:]) if by_chunks else (0, [])
    _core.rnn.forward(work, wx, r, b, first, last, (h, *others[:rest]), saved, every, between)
    return outputs


def backward(call: RnnBackward) -> list[Tensor]:
    """Run the kernel of the backward pass."""
    cell, options, h, r = call.cell, call.options, call.states[0], contiguous(call.r)
    by_chunks = options.checkpoint > 0
    first = [contiguous(x) for x in call.state]
    final = [None if x is None else contiguous(x) for x in call.dlast]
    work = work_of(cell, h.shape[:-2], h.shape[-2], h.shape[-1], call.reverse, call.lengths, call.batch_sizes, options)
    outputs = _backward_outputs(cell, h, r, work[1], call.need_r, call.need_b, call.need_state)
    wx, b = None if call.wx is None else unit_stride(call.wx), _bias(call.b, h)
    # Saved-tensor hooks may return these with other strides.
    states = [unit_stride(x) for x in call.states]
    saved = [contiguous(x) if by_chunks else unit_stride(x) for x in call.saved]
    dwx, *rest = outputs
    dr = rest.pop(0) if call.need_r else None
    db = rest.pop(0) if call.need_b else None
    gates = saved[0] if saved and not by_chunks else None
    incoming = [None if x is None else unit_stride(x) for x in call.dstates]
    every, between = (options.checkpoint, saved) if by_chunks else (0, [])
    _core.rnn.backward(work, r, first, states, gates, incoming, final, dwx, rest, db, dr, every, between, wx, b)
    return outputs


def _forward_fake(call: RnnForward) -> list[Tensor]:
    batch = _fake_batch(call.wx, call.state, call.batch_sizes, call.cu_seqlens)
    time = None if call.batch_sizes is None else call.batch_sizes.shape[0]
    sizes = (batch, call.all_states, call.save, call.checkpoint)
    return _forward_outputs(call.cell, call.wx, *sizes, call.wx.is_cuda, time)


def _backward_fake(call: RnnBackward) -> list[Tensor]:
    batch = _fake_batch(call.states[0], call.state, call.batch_sizes, call.cu_seqlens)
    needs = (call.need_r, call.need_b, call.need_state)
    return _backward_outputs(call.cell, call.states[0], call.r, batch, *needs)


def _fake_batch(lines: Tensor, state: Sequence[Tensor], batch_sizes: Tensor | None, cu_seqlens: Tensor | None) -> int:
    """Return B; while tracing, that of a packed batch is known only from an initial state."""
    if cu_seqlens is not None:
        return cu_seqlens.shape[0] - 1
    if batch_sizes is None:
        return lines.shape[0]
    return state[0].shape[0] if state else int(torch.library.get_ctx().new_dynamic_size())


FORWARD = Op("_rnn_fwd", RnnForward, forward, _forward_fake)
BACKWARD = Op("_rnn_bwd", RnnBackward, backward, _backward_fake)


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
    options: Options = PLAIN,
) -> list[Tensor]:
    """Run the op; plain dense tensors outside of tracing take one C++ call, in a fraction of the time."""
    if (options is PLAIN or options[2:] == PLAIN[2:]) and batch_sizes is None and unwatched():
        cut = (lengths, options.cu_seqlens, options.reset)
        outputs = _core.rnn.forward_tensors(cell.code, wx, None, r, b, state, cut, reverse, all_states, False)
        if outputs is not None:
            return outputs
    arguments = (wx, r, b, state, reverse, lengths, batch_sizes)
    return FORWARD(RnnForward(cell.name, *arguments, all_states, False, *options))


def rnn_fwd_saved(
    cell: Cell,
    wx: Tensor,
    r: Tensor,
    b: Tensor | None,
    state: Sequence[Tensor],
    reverse: bool,
    lengths: Tensor | None,
    batch_sizes: Tensor | None,
    all_states: bool,
    options: Options = PLAIN,
) -> tuple[list[Tensor], list[Tensor]]:
    """Run the op for a backward pass; return its results, and separate copies of the tensors to save for backward.

    These are all states and the gates, or with a checkpoint, h and the states between chunks.
    """
    count = len(cell.states)
    returned = 2 * count if all_states else 1 + count
    if (options is PLAIN or options[2:] == PLAIN[2:]) and batch_sizes is None and unwatched():
        cut = (lengths, options.cu_seqlens, options.reset)
        outputs = _core.rnn.forward_tensors(cell.code, wx, None, r, b, state, cut, reverse, all_states, True)
        if outputs is not None:
            return outputs[:returned], outputs[returned:]
    arguments = (wx, r, b, state, reverse, lengths, batch_sizes)
    outputs = FORWARD(RnnForward(cell.name, *arguments, all_states, True, *options))
    own = outputs[:1] if options.checkpoint or not all_states else [outputs[0], *outputs[1 + count : returned]]
    return outputs[:returned], [*map(own_copy, own), *outputs[returned:]]


def goes_together(wx: Tensor, r: Tensor, b: Tensor, state: Sequence[Tensor] | None) -> bool:
    """Return whether :func:`rnn_fwd_together` supports these tensors."""
    return unwatched() and wx.dtype in (torch.float32, torch.float64) and are_ordinary((wx, r, b, *(state or ())))


def rnn_fwd_together(
    cell: Cell, wx: Tensor, r: Tensor, b: Tensor | None, state: Sequence[Tensor], save: bool, options: Options
) -> list[Tensor]:
    """Return the states of all steps as one tensor (S, B, T, N, D), the final states, then the saved values."""
    count = len(cell.states)
    every = empty_steps(wx, (*wx.shape[:2], *wx.shape[-2:]), ahead=(count,))
    outputs = forward(RnnForward(cell.name, wx, r, b, state, False, None, None, True, save, *options), every.unbind(0))
    return [every, *outputs[1 : 1 + count], *outputs[2 * count :]]


def fits(cell: Cell, wx: Any, r: Any, b: Any, state: Any) -> bool:
    """Return whether these are dense tensors of matching shapes, which need no further checks."""
    return unwatched() and _core.rnn.fits_tensors(cell.code, wx, r, b, state)


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
    options: Options = PLAIN,
    wx: Tensor | None = None,
    b: Tensor | None = None,
) -> list[Tensor]:
    """Run the op, in one C++ call under the conditions of :func:`rnn_fwd`; wx and b are needed with a checkpoint."""
    if (options is PLAIN or options[2:] == PLAIN[2:]) and batch_sizes is None and unwatched():
        needs, cut = (need_r, need_b, need_state), (lengths, options.cu_seqlens, options.reset)
        steps = (states, saved, dstates, dlast)
        gradients = _core.rnn.backward_tensors(cell.code, None, r, state, *steps, cut, reverse, needs)
        if gradients is not None:
            return gradients
    arguments = (r, state, states, saved, dstates, dlast, reverse, lengths, batch_sizes)
    return BACKWARD(RnnBackward(cell.name, *arguments, need_r, need_b, need_state, *options, wx, b))
