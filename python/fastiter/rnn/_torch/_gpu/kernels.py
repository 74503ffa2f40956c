"""The ops of the family rnn on a GPU: CUDA kernels if they can run, else Triton's; dr is a separate product.

The arguments are those of the CPU implementations in `ops.py`. Tensors are dense lines, one for each row and step, in
the memory order of wx, so that the same two strides apply to all tensors in the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...._backend import OLDEST, BackendError, is_installed
from ...._torch import launch
from ...._torch.ops import contiguous, empty_steps
from ..._cells import Cell
from ..ops import BACKWARD, FORWARD, RnnBackward, RnnForward, _forward_outputs, carried
from ..work import Options, rows_of
from . import cuda, stepwise, triton
from .cuda import Work
from .launch_plan import Plan, card


def choose(cell: Cell, r: Tensor, width: int) -> str:
    """Return "cuda" if CuPy is installed and the card recent, "triton" if its kernels reach the call, or else raise."""
    missing, remedy = "need CuPy, which is not installed", " (pip install fastiter-kernels[gpu])"
    if is_installed("cupy"):
        capability = card(r).capability
        if capability >= OLDEST:
            return "cuda"
        missing, remedy = "need compute capability {}.{} or more, got {}.{}".format(*OLDEST, *capability), ""
    reaches = triton.reaches(width, r.dtype)
    if reaches and is_installed("triton"):
        return "triton"
    why = "nor is Triton installed" if reaches else f"and Triton's do not reach {r.dtype} with D = {width}"
    function = cell.name.split("_")[0]
    raise BackendError(f"{function}: the CUDA kernels {missing}, {why}{remedy}")


def _dense(x: Tensor, time_major: bool) -> Tensor:
    """Return ``x``, or a copy, as dense lines in the call's memory order."""
    return contiguous(x.transpose(0, 1)).transpose(0, 1) if time_major else contiguous(x)


def _work(
    cell: Cell,
    lines: Sequence[int],
    time_major: bool,
    x: Tensor,
    reverse: bool,
    lengths: Tensor | None,
    batch_sizes: Tensor | None,
    options: Options,
) -> Work:
    """Describe the work; ``x`` has the trailing axes (N, D) and determines device and dtype."""
    heads, width = x.shape[-2:]
    starts = offsets = reset = None
    row, step = 0, 0
    if batch_sizes is not None:
        batch, time = int(batch_sizes[0]) if len(batch_sizes) else 0, len(batch_sizes)
        lengths = (batch_sizes > torch.arange(batch, device=batch_sizes.device).unsqueeze(1)).sum(1)
        offsets = torch.cumsum(batch_sizes, 0) - batch_sizes
    elif options.cu_seqlens is not None:
        starts, batch, row, step = options.cu_seqlens, len(options.cu_seqlens) - 1, lines[1], 1
        time = _longest(starts, lines[1])
    else:
        batch, time = lines
        row, step = (1, batch) if time_major else (time, 1)
    if options.reset is not None:
        reset = _dense(options.reset.expand(lines), time_major).view(torch.uint8)
    lengths, starts, offsets = (launch.as_int64(numbers, x) for numbers in (lengths, starts, offsets))
    bound = None if options.clip_state is None else float(torch.tensor(options.clip_state, dtype=x.dtype, device="cpu"))
    return Work(
        cell, batch, time, heads, width, row, step, lengths, starts, offsets, reset, bound, options.clip_grad, reverse
    )


def _longest(starts: Tensor, time: int) -> int:
    """Return the length of the longest sequence; if ``starts`` is on the GPU, the total length as an upper bound."""
    return time if starts.is_cuda or len(starts) == 1 else int(starts.diff().max())


def _check(cell: Cell, lines: Sequence[int], lengths: Tensor | None, cu_seqlens: Tensor | None) -> None:
    """Check lengths and cu_seqlens if they are on the CPU, as the public functions cannot while tracing."""
    if all(x is None or x.is_cpu for x in (lengths, cu_seqlens)):
        rows_of(cell, lines, 1, 1, False, lengths, None, cu_seqlens)


def _is_time_major(x: Tensor, batch_sizes: Tensor | None, options: Options) -> bool:
    return batch_sizes is None and options.cu_seqlens is None and x.stride(1) > x.stride(0)


def forward(call: RnnForward, backend: str | None = None, plan: Plan | None = None) -> list[Tensor]:
    """Implement the forward op on a GPU. ``backend`` ("cuda", "stepwise" or "triton") and ``plan`` are for tests."""
    if call.batch_sizes is None:
        _check(call.cell, call.wx.shape[:2], call.lengths, call.cu_seqlens)
    if call.save and call.checkpoint:
        return _forward_by_chunks(call, backend)
    return _forward(call, backend, plan)


def _forward(call: RnnForward, backend: str | None, plan: Plan | None = None) -> list[Tensor]:
    cell, options = call.cell, call.options
    time_major = _is_time_major(call.wx, call.batch_sizes, options)
    wx, r = _dense(call.wx, time_major), contiguous(call.r)
    b = None if call.b is None else contiguous(call.b)
    first = [contiguous(x) for x in call.state]
    work = _work(cell, wx.shape[:-3], time_major, wx, call.reverse, call.lengths, call.batch_sizes, options)
    outputs = _forward_outputs(cell, wx, work.batch, call.all_states, call.save, 0, True)
    if work.batch == 0:
        return outputs
    count = len(cell.states)
    h, last, others = outputs[0], outputs[1 : 1 + count], outputs[1 + count :]
    rest = count - 1 if others else 0
    saved = others[rest] if call.save and cell.saved else None
    arguments = (work, wx, r, b, first, last, [h, *others[:rest]], saved)
    backend = backend or ("cuda" if plan else choose(cell, r, work.width))
    if backend == "triton":
        triton.forward(*arguments)
    elif plan := plan or (cuda.fused(work, r, False) if backend == "cuda" else None):
        cuda.forward_fused(plan, *arguments)
    else:
        stepwise.forward_stepwise(*arguments)
    return outputs


def backward(call: RnnBackward, backend: str | None = None, plan: Plan | None = None) -> list[Tensor]:
    """Implement the backward op on a GPU."""
    cell, options, h, r, state = call.cell, call.options, call.states[0], call.r, call.state
    time_major = _is_time_major(h, call.batch_sizes, options)
    work = _work(cell, h.shape[:-2], time_major, h, call.reverse, call.lengths, call.batch_sizes, options)
    final = [None if x is None else x.to(carried(h)) for x in call.dlast]
    if options.checkpoint:
        back = _backward_by_chunks(work, call, final, backend)
    else:
        arguments = (state, call.states, call.saved, call.dstates, final)
        back = _backward(work, time_major, r, *arguments, call.need_state, backend, plan)
    outputs = [back.dwx]
    gradients = (_lines(back.dwx, time_major, 3), None if back.dq is None else _lines(back.dq, time_major, 2))
    if call.need_r:
        before = _before(_dense(h, time_major), state, work, call.batch_sizes, options.reset)
        outputs.append(torch.empty_like(r, memory_format=torch.contiguous_format))
        _into_r(outputs[-1], *gradients, _lines(before, time_major, 2))
    if call.need_b:
        outputs.append(r.new_empty(r.shape[:3]))
        _into_b(outputs[-1], *gradients)
    return outputs if not call.need_state else [*outputs, back.dfirst[0].to(h.dtype), *back.dfirst[1:]]


class _Back(NamedTuple):
    """Gradients of wx, of the GRU's product for gate n (dq), and of the initial states in their carried dtype."""

    dwx: Tensor
    dq: Tensor | None
    dfirst: list[Tensor]


def _backward(
    work: Work,
    time_major: bool,
    r: Tensor,
    state: Sequence[Tensor],
    states: Sequence[Tensor],
    saved: Sequence[Tensor],
    dstates: Sequence[Tensor | None],
    final: Sequence[Tensor | None],
    need_first: bool,
    backend: str | None,
    plan: Plan | None = None,
) -> _Back:
    states, r = [_dense(x, time_major) for x in states], contiguous(r)
    gates = _dense(saved[0], time_major) if saved else None
    d_outputs = [None if x is None else _dense(x, time_major) for x in dstates]
    final = [None if x is None else contiguous(x) for x in final]
    first = [contiguous(x) for x in state]
    back = _empty_back(work, states[0], len(work.cell.states) if need_first else 0)
    if work.batch == 0:
        return back
    arguments = (work, r, first, states, gates, d_outputs, final, *back)
    backend = backend or ("cuda" if plan else choose(work.cell, r, work.width))
    if backend == "triton":
        triton.backward(*arguments)
    elif plan := plan or (cuda.fused(work, r, True) if backend == "cuda" else None):
        cuda.backward_fused(plan, *arguments)
    else:
        stepwise.backward_stepwise(*arguments)
    return back


def _empty_back(work: Work, h: Tensor, states: int) -> _Back:
    dwx = empty_steps(h, (*h.shape[:-2], work.cell.gates, *h.shape[-2:]))
    dq = empty_steps(h, h.shape) if work.cell.separates else None
    return _Back(dwx, dq, [h.new_empty((work.batch, *h.shape[-2:]), dtype=carried(h)) for _ in range(states)])


# ---- checkpointing: the backward pass recomputes the gates, a chunk of steps at a time (csrc/rnn/checkpoint.cpp) ----


def _chunks(time: int, every: int, reverse: bool) -> list[tuple[int, slice]]:
    """Return the chunks' numbers and steps in the order of the computation."""
    chunks = [(k, slice(k * every, min((k + 1) * every, time))) for k in range(max(1, -(-time // every)))]
    return chunks[::-1] if reverse else chunks


def _part(steps: slice, lengths: Tensor | None, options: Options) -> tuple[Tensor | None, Options]:
    """Return the chunk's options and row lengths, which the kernels clamp to the range from 0 to the chunk's steps."""
    reset = None if options.reset is None else options.reset[..., steps]
    return None if lengths is None else lengths - steps.start, options._replace(reset=reset, checkpoint=0)


def _forward_by_chunks(call: RnnForward, backend: str | None) -> list[Tensor]:
    """Run the forward pass chunk by chunk, and save the states between chunks."""
    cell, wx, state, every = call.cell, call.wx, call.state, call.checkpoint
    outputs = _forward_outputs(cell, wx, wx.shape[0], call.all_states, True, every, True)
    count, lengths = len(cell.states), launch.as_int64(call.lengths, wx)
    last, between = outputs[1 : 1 + count], outputs[-count:]
    everywhere = [outputs[0], *outputs[1 + count : -count]]
    for k, steps in _chunks(wx.shape[1], every, call.reverse):
        valid, options = _part(steps, lengths, call.options)
        arguments = (wx[:, steps], call.r, call.b, state, call.reverse, valid, None)
        h, *rest = _forward(RnnForward(call.cell_name, *arguments, call.all_states, False, *options), backend)
        state = rest[:count]
        for whole, x in zip(everywhere, [h, *rest[count:]], strict=True):
            whole[:, steps] = x
        leaving = k - 1 if call.reverse else k
        for saved, x in zip(between, state, strict=True):
            if 0 <= leaving < len(saved):
                saved[leaving] = x
    for whole, x in zip(last, state, strict=True):
        whole.copy_(x)
    return outputs


def _backward_by_chunks(work: Work, call: RnnBackward, final: Sequence[Tensor | None], backend: str | None) -> _Back:
    """Run the backward pass chunk by chunk: recompute each chunk's saved values just before its backward pass."""
    wx, r, between, reverse, count = call.wx, call.r, call.saved, call.reverse, len(call.cell.states)
    assert wx is not None
    back = _empty_back(work, wx[:, :, 0], 0)
    for k, steps in _chunks(work.time, call.checkpoint, not reverse):
        lengths, options = _part(steps, work.lengths, call.options)
        entering = k if reverse else k - 1
        begins = not 0 <= entering < len(between[0])
        first = call.state if begins else [x[entering] for x in between]
        arguments = (wx[:, steps], r, call.b, first, reverse, lengths, None)
        h, *rest = _forward(RnnForward(call.cell_name, *arguments, True, True, *options), backend)
        states, saved = [h, *rest[count : 2 * count - 1]], rest[2 * count - 1 :]
        d_outputs = [None if x is None else x[:, steps] for x in call.dstates]
        time_major = _is_time_major(h, None, options)
        part = _work(call.cell, h.shape[:2], time_major, h, reverse, lengths, None, options)
        around = (first, states, saved, d_outputs, final, call.need_state or not begins)
        result = _backward(part, time_major, r, *around, backend)
        back.dwx[:, steps] = result.dwx
        if back.dq is not None and result.dq is not None:
            back.dq[:, steps] = result.dq
        final = result.dfirst
    return back._replace(dfirst=result.dfirst)


# ---- the gradients of r and b, from those of wx ----------------------------------------------------------------------


def _lines(x: Tensor, time_major: bool, inner: int) -> Tensor:
    """Flatten (B, T, ...) to one axis of lines, in memory order."""
    x = x.transpose(0, 1) if time_major else x
    return x.flatten(0, 1) if x.dim() == 2 + inner else x


def _before(h: Tensor, first: Sequence[Tensor], work: Work, batch_sizes: Tensor | None, reset: Tensor | None) -> Tensor:
    """Return h', the previous h that each step multiplies by r, in the order of h."""
    if batch_sizes is not None:
        return _before_packed(h, first, work, batch_sizes)
    before = torch.empty_like(h)
    if h.shape[1] == 0:
        return before
    to, source, entry = (slice(-1), slice(1, None), -1) if work.reverse else (slice(1, None), slice(-1), 0)
    before[:, to] = h[:, source]
    if work.starts is not None:
        _enter(before[0], first, work.starts, work.reverse)
    else:
        before[:, entry] = first[0] if first else 0
    if first and work.reverse and work.lengths is not None:  # rows start at their last step; in the padding dp = 0
        rows = torch.arange(work.batch, device=h.device)
        before[rows, (work.lengths - 1).clamp(0, work.time - 1)] = first[0]
    return before if reset is None else before.masked_fill_(reset[..., None, None], 0)


def _enter(before: Tensor, first: Sequence[Tensor], starts: Tensor, reverse: bool) -> None:
    """Write the initial h, or 0, to the first step of each of the concatenated sequences."""
    step = torch.arange(len(before), device=before.device)
    of = (torch.searchsorted(starts, step, right=True) - 1).clamp(0, len(starts) - 2)
    begins = (step + 1 == starts[of + 1] if reverse else step == starts[of])[:, None, None]
    torch.where(begins, first[0].index_select(0, of) if first else torch.zeros_like(before), before, out=before)


def _before_packed(h: Tensor, first: Sequence[Tensor], work: Work, batch_sizes: Tensor) -> Tensor:
    count, by = h.shape[0], 1 if work.reverse else -1
    offsets = torch.cumsum(batch_sizes, 0) - batch_sizes
    t = torch.repeat_interleave(torch.arange(work.time, device=batch_sizes.device), batch_sizes)
    row, at = torch.arange(count, device=t.device) - offsets[t], (t + by).clamp(0, max(work.time - 1, 0))
    is_there = (t + by >= 0) & (t + by < work.time) & (row < batch_sizes[at])
    line = torch.where(is_there, offsets[at] + row, count + row)
    begin = first[0] if first else h.new_zeros(work.batch, work.heads, work.width)
    return torch.cat([h, begin]).index_select(0, line.to(h.device, non_blocking=True))


def _into_r(dr: Tensor, dwx: Tensor, dq: Tensor | None, before: Tensor) -> None:
    """Compute dr_g = sum over lines of dp_g h'^T: one product per gate, batched over heads."""
    by_head = before.transpose(0, 1)
    for g in range(len(dr)):
        dp = dq if dq is not None and g == len(dr) - 1 else dwx[:, g]
        torch.bmm(dp.permute(1, 2, 0), by_head, out=dr[g])


def _into_b(db: Tensor, dwx: Tensor, dq: Tensor | None) -> None:
    torch.sum(dwx, 0, out=db)
    if dq is not None:
        torch.sum(dq, 0, out=db[-1])


FORWARD.on_cuda(forward)
BACKWARD.on_cuda(backward)
