"""The ops of the family rnn on a GPU: CUDA kernels where CuPy launches them, else Triton's; r's gradient by products.

The arguments are those of the CPU implementations in `_rnn_op.py`. Steps lie in dense lines, one for each row and step,
in the order of wx: the kernels need two strides for all of them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._backend import BackendError
from .._rnn import CELLS, Cell
from . import _gpu, _rnn_cuda, _rnn_triton
from ._op import LIBRARY, contiguous, empty_steps
from ._rnn_cuda import Work
from ._rnn_op import PLAIN, Options, _backward_outputs, _forward_outputs
from ._rnn_plan import Plan


def choose(cell: Cell, dtype: torch.dtype, width: int) -> str:
    """Return "cuda" where CuPy can launch, else "triton" where its kernels reach, else say what to install."""
    if importlib.util.find_spec("cupy") is not None:
        return "cuda"
    reaches = _rnn_triton.reaches(cell, width, dtype)
    if reaches and importlib.util.find_spec("triton") is not None:
        return "triton"
    why = "nor is Triton" if reaches else f"and Triton's kernels do not reach {dtype} with D = {width}"
    function = cell.name.split("_")[0]
    raise BackendError(
        f"{function}: CuPy launches the CUDA kernels and is not installed, {why} (pip install fastiter[gpu])"
    )


def _refuse(cell: Cell, more: Sequence[Any]) -> None:
    for name, value, default in zip(Options._fields, more, PLAIN, strict=False):
        if value is not default and value != default:
            function = cell.name.split("_")[0]
            raise BackendError(f"{function}: {name} must be None on a GPU, as its kernels do not have it, got {value}")


def _is_time_major(x: Tensor) -> bool:
    return x.stride(1) > x.stride(0)


def _dense(x: Tensor, time_major: bool) -> Tensor:
    """Return ``x``, or a copy, as dense lines in the order that all steps of a call have."""
    return contiguous(x.transpose(0, 1)).transpose(0, 1) if time_major else contiguous(x)


def _work(
    cell: Cell,
    lines: Sequence[int],
    time_major: bool,
    x: Tensor,
    reverse: bool,
    lengths: Tensor | None,
    batch_sizes: Tensor | None,
) -> Work:
    """Describe the work; ``x`` ends in (N, D) and is where it happens."""
    heads, width = x.shape[-2:]
    if batch_sizes is None:
        batch, time = lines
        row, step = (1, batch) if time_major else (time, 1)
        return Work(cell, batch, time, heads, width, row, step, _gpu.as_int64(lengths, x), None, reverse)
    batch, time = int(batch_sizes[0]) if len(batch_sizes) else 0, len(batch_sizes)
    offsets = torch.cumsum(batch_sizes, 0) - batch_sizes
    whole = (batch_sizes > torch.arange(batch).unsqueeze(1)).sum(1)
    moved = _gpu.as_int64(whole, x), _gpu.as_int64(offsets, x)
    return Work(cell, batch, time, heads, width, 0, 0, *moved, reverse)


def rnn_fwd(
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
    backend: str | None = None,
    plan: Plan | None = None,
) -> list[Tensor]:
    """`_rnn_fwd` on a GPU. ``backend`` ("cuda", "stepwise" or "triton") and ``plan`` are for tests."""
    cell = CELLS[cell_name]
    _refuse(cell, more)
    time_major = batch_sizes is None and _is_time_major(wx)
    wx, r = _dense(wx, time_major), contiguous(r)
    b = None if b is None else contiguous(b)
    first = [contiguous(x) for x in state]
    work = _work(cell, wx.shape[:-3], time_major, wx, reverse, lengths, batch_sizes)
    outputs = _forward_outputs(cell, wx, work.batch, all_states, save, 0, on_gpu=True)
    if work.batch == 0:
        return outputs
    count = len(cell.states)
    h, last, kept = outputs[0], outputs[1 : 1 + count], outputs[1 + count :]
    rest = count - 1 if kept else 0
    saved = kept[rest] if save and cell.saved else None
    given = (work, wx, r, b, first, last, [h, *kept[:rest]], saved)
    backend = backend or ("cuda" if plan else choose(cell, wx.dtype, work.width))
    if backend == "triton":
        _rnn_triton.forward(*given)
    elif plan := plan or (_rnn_cuda.fused(work, r, False) if backend == "cuda" else None):
        _rnn_cuda.forward_fused(plan, *given)
    else:
        _rnn_cuda.forward_stepwise(*given)
    return outputs


def rnn_bwd(
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
    backend: str | None = None,
    plan: Plan | None = None,
) -> list[Tensor]:
    """`_rnn_bwd` on a GPU."""
    cell, r = CELLS[cell_name], contiguous(r)
    time_major = batch_sizes is None and _is_time_major(states[0])
    states = [_dense(x, time_major) for x in states]
    keep = _dense(saved[0], time_major) if saved else None
    flows = [None if x is None else _dense(x, time_major) for x in dstates]
    final = [None if x is None else contiguous(x) for x in dlast]
    first, h = [contiguous(x) for x in state], states[0]
    work = _work(cell, h.shape[:-2], time_major, h, reverse, lengths, batch_sizes)
    outputs = _backward_outputs(cell, h, r, work.batch, need_r, need_b, need_state, on_gpu=True)
    dq = empty_steps(h, h.shape) if cell.name == "gru" else None
    dfirst = outputs[-len(cell.states) :] if need_state else []
    if work.batch:
        given = (work, r, first, states, keep, flows, final, outputs[0], dq, dfirst)
        backend = backend or ("cuda" if plan else choose(cell, h.dtype, work.width))
        if backend == "triton":
            _rnn_triton.backward(*given)
        elif plan := plan or (_rnn_cuda.fused(work, r, True) if backend == "cuda" else None):
            _rnn_cuda.backward_fused(plan, *given)
        else:
            _rnn_cuda.backward_stepwise(*given)
    gradients = (_lines(outputs[0], time_major, 3), None if dq is None else _lines(dq, time_major, 2))
    if need_r:
        before = _lines(_before(h, first, work, batch_sizes), time_major, 2)
        _into_r(outputs[1], *gradients, before)
    if need_b:
        _into_b(outputs[1 + need_r], *gradients)
    return outputs


def _lines(x: Tensor, time_major: bool, inner: int) -> Tensor:
    """Return steps (B, T, ...) as one axis of lines, in the order of memory."""
    x = x.transpose(0, 1) if time_major else x
    return x.flatten(0, 1) if x.dim() == 2 + inner else x


def _before(h: Tensor, first: Sequence[Tensor], work: Work, batch_sizes: Tensor | None) -> Tensor:
    """Return the h' that each step had multiplied by r, in the order of h."""
    if batch_sizes is not None:
        return _before_packed(h, first, work, batch_sizes)
    before = torch.empty_like(h)
    if work.time == 0:
        return before
    to, source, entry = (slice(-1), slice(1, None), -1) if work.reverse else (slice(1, None), slice(-1), 0)
    before[:, to] = h[:, source]
    before[:, entry] = first[0] if first else 0
    if first and work.reverse and work.lengths is not None:  # rows enter at their last step; padding meets dp = 0
        rows = torch.arange(work.batch, device=h.device)
        before[rows, (work.lengths - 1).clamp(min=0)] = first[0]
    return before


def _before_packed(h: Tensor, first: Sequence[Tensor], work: Work, batch_sizes: Tensor) -> Tensor:
    count, by = h.shape[0], 1 if work.reverse else -1
    offsets = torch.cumsum(batch_sizes, 0) - batch_sizes
    t = torch.repeat_interleave(torch.arange(work.time), batch_sizes)
    row, at = torch.arange(count) - offsets[t], (t + by).clamp(0, max(work.time - 1, 0))
    is_there = (t + by >= 0) & (t + by < work.time) & (row < batch_sizes[at])
    line = torch.where(is_there, offsets[at] + row, count + row)
    begin = first[0] if first else h.new_zeros(work.batch, work.heads, work.width)
    return torch.cat([h, begin]).index_select(0, line.to(h.device, non_blocking=True))


def _into_r(dr: Tensor, dwx: Tensor, dq: Tensor | None, before: Tensor) -> None:
    """dr_g = sum over lines of dp_g h'^T: a product for each gate, over all heads."""
    by_head = before.transpose(0, 1)
    for g in range(len(dr)):
        dp = dq if dq is not None and g == len(dr) - 1 else dwx[:, g]
        torch.bmm(dp.permute(1, 2, 0), by_head, out=dr[g])


def _into_b(db: Tensor, dwx: Tensor, dq: Tensor | None) -> None:
    torch.sum(dwx, 0, out=db)
    if dq is not None:
        torch.sum(dq, 0, out=db[-1])


LIBRARY.impl("_rnn_fwd", rnn_fwd, "CUDA")
LIBRARY.impl("_rnn_bwd", rnn_bwd, "CUDA")
