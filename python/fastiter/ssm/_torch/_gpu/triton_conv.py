"""Causal convolutions on a GPU: launches of kernels/ssm/triton_conv.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...._check import overlaps_itself
from ...._torch import launch
from ...._torch.ops import contiguous
from ...._torch.sequences import check_values
from ..ops import computed, plain
from ..ops_conv import (
    ConvBackward,
    ConvForward,
    ConvUpdate,
    conv_bwd,
    conv_fwd,
    conv_update,
    empty_gradients,
    forward_outputs,
)
from ..step import check_rows

#: Channels and steps per tile, by whether steps are contiguous
_FORWARD = {True: (4, 256), False: (64, 16)}
_BACKWARD = {True: (2, 256), False: (32, 8)}
#: Tiles whose sums a program adds up if the taps are unrolled, and the maximum number of unrolled taps
_SUMMED, _UNROLLED = 8, 8
#: Channels per program for the kernels that handle states
_CHANNELS = 64


def strides_of(x: Tensor) -> tuple[int, ...]:
    """Return the strides, with 0 for axes of size 1, as code is specialised for strides of 1."""
    return tuple(0 if size == 1 else stride for size, stride in zip(x.shape, x.stride(), strict=True))


class _Work(NamedTuple):
    """The sequences of a call, in the order of the kernels' arguments, and its sizes."""

    labels: Tensor | None
    bounds: Tensor | None
    lengths: Tensor | None
    sequences: int
    rows: int
    channels: int
    time: int
    width: int

    @property
    def cut(self) -> tuple[Tensor | None, ...]:
        return self.labels, self.bounds, self.lengths


def _work(call: Any) -> _Work:
    batch, channels, time = call.x.shape
    if time >= 2**31:
        raise ValueError(f"causal_conv1d: x must have fewer than 2**31 steps on a CUDA device, got {time}")
    check_values("causal_conv1d", batch, time, call.lengths, call.cu_seqlens)
    lengths, bounds = launch.in_range(call.lengths, call.cu_seqlens, time)
    lengths, bounds = launch.as_int64(lengths, call.x), launch.as_int64(bounds, call.x)
    labels = launch.as_int64(call.seq_idx, call.x)
    if bounds is not None:
        labels = torch.searchsorted(bounds[1:], torch.arange(time, device=bounds.device), right=True)
    count = batch if bounds is None else bounds.shape[0] - 1
    return _Work(labels, bounds, lengths, count, batch, channels, time, call.weight.shape[1])


def _launch(name: str, x: Tensor, grid: Sequence[int], args: Sequence[Tensor | int | None], **constants: Any) -> None:
    """Launch a kernel with blocks of channels; ``grid`` has rows or sequences, blocks, and segments of time."""
    import triton.language as tl

    programs = grid[0] * grid[1] * grid[2]
    if not programs:
        return
    kernel = getattr(launch.triton_kernels("causal_conv1d", "ssm/triton_conv"), f"causal_conv_{name}_kernel")
    if not name.startswith("last"):
        constants["STATE"] = tl.float64 if x.dtype == torch.float64 else tl.float32
    with launch.on(x):
        kernel[(programs,)](*args, **constants, num_warps=4, enable_fp_fusion=True)


def _blocks(channels: int, of: int) -> int:
    return -(-channels // of)


def _power_of_two(x: int) -> int:
    return 1 << max(0, x - 1).bit_length()


def forward(call: ConvForward) -> list[Tensor]:
    """Implement the forward op on a GPU."""
    work, x = _work(call), plain(call.x)
    assert x is not None
    out, *last = outputs = forward_outputs(call)
    weight, bias = contiguous(call.weight), contiguous(call.bias)
    first = contiguous(call.state) if work.width > 1 else None
    channels, steps = _FORWARD[x.stride(1) >= x.stride(2)]
    blocks, segments = _blocks(work.channels, channels), _blocks(work.time, steps)
    arguments = (x, weight, bias, first, *work.cut, out, *strides_of(x), *strides_of(out))
    sizes = (work.channels, work.time, blocks, segments)
    constants = {"W": work.width, "SILU": call.silu}
    _launch("fwd", x, (work.rows, blocks, segments), (*arguments, *sizes), **constants, BD=channels, BT=steps)
    if last and work.width > 1:
        blocks = _blocks(work.channels, _CHANNELS)
        arguments = (x, first, work.bounds, work.lengths, last[0], *strides_of(x), work.channels, work.time, blocks)
        tile = {"W": work.width, "BD": _CHANNELS, "BW": _power_of_two(work.width - 1)}
        _launch("last", x, (work.sequences, blocks, 1), arguments, **tile)
    return outputs


def backward(call: ConvBackward) -> list[Tensor]:
    """Implement the backward op on a GPU."""
    work, x = _work(call), plain(call.x)
    gradients = dx, dweight, dbias, dfirst = empty_gradients(call)
    dout = call.x.new_zeros(()).expand(call.x.shape) if call.dout is None else plain(call.dout)
    assert x is not None and dout is not None
    first, dlast = (contiguous(y) if work.width > 1 else None for y in (call.state, call.dlast))
    inputs = (x, contiguous(call.weight), contiguous(call.bias), first, *work.cut, dout, dlast)
    strides, constants = (*strides_of(x), *strides_of(dout)), {"W": work.width, "SILU": call.silu}
    channels, steps = _BACKWARD[x.stride(1) >= x.stride(2)]
    tiles = _SUMMED if work.width <= _UNROLLED else 1
    blocks, segments = _blocks(work.channels, channels), _blocks(work.time, steps * tiles)
    sums = None
    if dweight is not None or dbias is not None:
        shape = (work.rows * segments, work.width + 1, work.channels)
        sums = x.new_empty(shape, dtype=computed(x.dtype))
    arguments = (*inputs, dx, sums, *strides, *(strides_of(dx) if dx is not None else (0, 0, 0)))
    sizes = (work.channels, work.time, blocks, segments)
    tile = {"TILES": tiles, "BD": channels, "BT": steps}
    if dx is not None or sums is not None:
        _launch("bwd", x, (work.rows, blocks, segments), (*arguments, *sizes), **constants, **tile)
    if sums is not None:
        total = sums.sum(0)
        if dweight is not None:
            dweight.copy_(total[:-1].T)
        if dbias is not None:
            dbias.copy_(total[-1])
    if dfirst is not None and work.width > 1:
        blocks = _blocks(work.channels, _CHANNELS)
        arguments = (*inputs, dfirst, *strides, work.channels, work.time, blocks)
        tile = {"BD": _CHANNELS, "BW": _power_of_two(work.width - 1)}
        _launch("bwd_first", x, (work.sequences, blocks, 1), arguments, **constants, **tile)
    return [g for g in gradients if g is not None]


def update(call: ConvUpdate) -> Tensor:
    """Implement the op for the next steps on a GPU; indices of nonexistent rows count as padding."""
    function, state, x = "causal_conv1d_update", call.conv_state, plain(call.x)
    assert x is not None
    if call.rows is not None and call.rows.is_cpu:
        check_rows(call.rows, state.shape[0], function, "conv_state_indices", "conv_state")
    if overlaps_itself(state.shape, state.stride(), 1):
        got = f"strides {state.stride()}"
        raise ValueError(f"{function}: conv_state must have one place for each element, got {got}")
    out = x.new_empty(x.shape)
    memory = plain(state)
    weight, bias = plain(call.weight), plain(call.bias)
    assert memory is not None and weight is not None
    (batch, channels, steps), blocks = x[..., None].shape[:3], _blocks(x.shape[1], _CHANNELS)
    positions, rows = launch.as_int64(call.cache_seqlens, x), launch.as_int64(call.rows, x)
    strides = (*strides_of(x), 0)[:3]
    weights = (*strides_of(weight), 0 if bias is None else strides_of(bias)[0])
    arguments = (x, memory, weight, bias, positions, rows, out, *strides, *strides_of(memory), *weights)
    sizes = (channels, steps, memory.shape[2], memory.shape[0], blocks)
    tile = {"W": weight.shape[1], "SILU": call.silu, "BD": _CHANNELS, "BN": _power_of_two(memory.shape[2])}
    if steps:
        _launch("update", x, (batch, blocks, 1), (*arguments, *sizes), **tile)
    if memory is not state:
        state.copy_(memory)
    return out


conv_fwd.on_cuda(forward)
conv_bwd.on_cuda(backward)
conv_update.on_cuda(update)
