"""The scans on a GPU: division of time into segments, and launches of kernels/scan/triton_*.py.

A scan with enough elements per step reads and writes memory once. One with few elements would leave most of the device
idle, so it is also parallel over segments of time: each segment computes its effect on a state (a summary), a scan over
the summaries gives the state before each segment, and then all segments run, so that a and x are read twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..._torch import launch
from ..._torch.ops import contiguous, empty_steps
from ..._torch.sequences import check_values
from .ops import (
    BLOCK,
    LINEAR,
    OPS,
    Cut,
    Scan,
    ScanBackward,
    ScanForward,
    ScanOut,
    carried,
    empty_last,
    flat_steps,
    has_plain_steps,
)

#: Minimum steps per segment
_SHORTEST = 64
#: Maximum lanes per program, and maximum bytes of a step's matrices in a program
_LANES, _TILE = 64, 8192
#: Bytes of one operand (or matrix element) that a lane prefetches, forward and backward, limited by registers
_AHEAD = {"linear_scan": (128, 64), "block_scan": (8, 8)}
#: The same of a linear scan for steps that do not exist in every lane of a program, and for less than a block
_REST = (64, 32)


class _Work(NamedTuple):
    """The sequences of a call and their segments of time, in the order of the kernels' arguments."""

    reset: Tensor | None
    lengths: Tensor | None
    starts: Tensor | None
    reset_row: int
    sequences: int
    time: int
    width: int  # elements per step, or blocks of elements
    segment: int
    segments: int
    direction: int


def _work(scan: Scan, x: Tensor, cut: Cut) -> _Work:
    reverse, reset, lengths, cu_seqlens = cut
    check_values(scan.name, x.shape[0], x.shape[1], lengths, cu_seqlens)
    if reset is not None:
        reset = reset.contiguous().view(torch.uint8)
    time, width = x.shape[1], x.shape[2]
    lengths, cu_seqlens = launch.in_range(lengths, cu_seqlens, time)
    sequences = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    segment = _segment(scan, x, sequences * width)
    return _Work(
        reset,
        launch.as_int64(lengths, x),
        launch.as_int64(cu_seqlens, x),
        time if reset is not None and reset.dim() == 2 else 0,
        sequences,
        time,
        width,
        segment,
        max(1, -(-time // segment)),
        -1 if reverse else 1,
    )


def _segment(scan: Scan, x: Tensor, lanes: int) -> int:
    """Return the steps per segment: all steps if there are enough lanes to saturate the memory bandwidth.

    A block scan needs a program for each multiprocessor. A lane of a linear scan always prefetches the next steps, so
    programs for half of the multiprocessors suffice. Its segments are multiples of the blocks of steps that the kernels
    compute without masks, 32 or a power of two below.
    """
    time, programs = x.shape[1], launch.multiprocessors(x)
    enough = programs * _lanes(scan, x)
    if lanes >= (enough if scan.blocks else enough // 2) or lanes == 0:
        return max(1, time)
    unit = 1 if scan.blocks else max(1, _SHORTEST // 2)
    return max(_SHORTEST, -(-time // (4 * enough // lanes * unit)) * unit)


def _lanes(scan: Scan, x: Tensor) -> int:
    """Return the lanes per program."""
    if not scan.blocks:
        return _LANES
    return max(1, min(_LANES, _TILE // (_block_size(x) ** 2 * x.element_size())))


def _block_size(x: Tensor) -> int:
    """Return K rounded up to a power of two, as the kernels need."""
    return 1 << (x.shape[-1] - 1).bit_length()


def _launch(
    scan: Scan,
    direction: str,
    x: Tensor,
    work: _Work,
    memory: Sequence[Tensor | None],
    strided: Sequence[Tensor | None],
    columns: int = 1,
) -> None:
    """Launch a kernel on all lanes, with the tensors ``memory`` and the row and time strides of ``strided``."""
    lanes = work.segments * work.sequences * work.width * columns
    if not lanes or not x.shape[-1]:
        return
    import triton.language as tl

    kernels = launch.triton_kernels(scan.name, "scan/triton_block" if scan.blocks else "scan/triton_linear")
    state = carried(x.dtype)
    is_backward = direction.startswith("bwd")
    ahead = _AHEAD[scan.name][is_backward] // state.itemsize
    if work.reset is not None and state.itemsize == 4 and not scan.blocks:  # masks of resets take registers, too
        ahead //= 2
    more = {"K": x.shape[-1], "KP": _block_size(x)} if scan.blocks else {"REST": _REST[is_backward] // state.itemsize}
    with launch.on(x):
        getattr(kernels, f"{scan.name}_{direction}_kernel")[(-(-lanes // _lanes(scan, x)),)](
            *[None if y is None else torch.view_as_real(y) if y.is_complex() else y for y in memory],
            *work[:3],
            *[stride for y in strided for stride in _strides(y)],
            *work[3:],
            STATE=tl.float64 if state in (torch.float64, torch.complex128) else tl.float32,
            COMPLEX=x.is_complex(),
            LANES=_lanes(scan, x),
            UNROLL=max(1, ahead),
            **more,
            num_warps=4 if scan.blocks else 2,
            enable_fp_fusion=False,
        )


def _strides(x: Tensor | None) -> tuple[int, int]:
    """Return the strides of the axes B and T in real elements, 0 for an axis of size 1."""
    if x is None:
        return 0, 0
    unit = 2 if x.is_complex() else 1
    row, time = (0 if size == 1 else stride * unit for size, stride in zip(x.shape[:2], x.stride()[:2], strict=True))
    return row, time


def _empty_summaries(a: Tensor, x: Tensor, work: _Work) -> tuple[Tensor, Tensor]:
    """Allocate the segments' summaries (factor, state): h_end = factor h_begin + state."""
    leading, dtype = (work.sequences, work.segments), carried(x.dtype)
    return x.new_empty((*leading, *a.shape[2:]), dtype=dtype), x.new_empty((*leading, *x.shape[2:]), dtype=dtype)


def _forward_into(scan: Scan, call: ScanForward, h: Tensor) -> Tensor:
    a, x, state, *_ = call
    work, factors, flat = _work(scan, x, call.cut), flat_steps(a), flat_steps(x)
    first, last, carry = None if state is None else contiguous(state), empty_last(x, call.cu_seqlens), None
    if work.segments > 1:
        factor, offset = _empty_summaries(a, x, work)
        if scan.blocks:
            memory = (factors, flat, None, None, None, None, factor, offset)
            _launch(scan, "fwd", x, work, memory, (factors, flat, None), x.shape[-1] + 1)
        else:
            _launch(scan, "fwd_summary", x, work, (factors, flat, factor, offset), (factors, flat))
        carry = forward(scan, ScanForward(factor, offset, first, False, None, None, None))[0]
    nowhere = (None, None) if scan.blocks else ()
    _launch(scan, "fwd", x, work, (factors, flat, first, carry, h, last, *nowhere), (factors, flat, h))
    return last


def forward(scan: Scan, call: ScanForward) -> list[Tensor]:
    """Implement the forward op on a GPU."""
    h = empty_steps(call.x, call.x.shape)
    return [h, _forward_into(scan, call, h)]


def forward_out(scan: Scan, call: ScanOut) -> Tensor:
    """Implement the op that writes to a given tensor on a GPU."""
    if has_plain_steps(call.out):
        return _forward_into(scan, call.forward, call.out)
    h, last = forward(scan, call.forward)
    call.out.copy_(h)
    return last


def _carry_backward(
    scan: Scan, a: Tensor, factors: Tensor, h: Tensor, dh: Tensor | None, dlast: Tensor | None, work: _Work
) -> Tensor | None:
    """Return the gradient of the state at the end of each segment, at the index of the next segment."""
    if work.segments == 1:
        return None
    factor, offset = _empty_summaries(a, h, work)
    if scan.blocks:
        memory = (factors, flat_steps(h), None, dh, *(None,) * 6, factor, offset)
        _launch(scan, "bwd", h, work, memory, (factors, None, dh, None, None), h.shape[-1] + 1)
    else:
        _launch(scan, "bwd_summary", h, work, (factors, dh, factor, offset), (factors, dh))
    return forward(scan, ScanForward(factor, offset, dlast, True, None, None, None))[0]


def backward(scan: Scan, call: ScanBackward) -> list[Tensor]:
    """Implement the backward op on a GPU."""
    a, h = call.a, call.h
    work, factors, flat = _work(scan, h, call.cut), flat_steps(a), flat_steps(h)
    dh = None if call.dh is None else flat_steps(call.dh)
    first, dlast = (None if y is None else contiguous(y) for y in (call.state, call.dlast))
    dx, dfirst = empty_steps(h, h.shape) if call.need_x else None, empty_last(h, call.cu_seqlens)
    da, da_sum = _empty_factors_gradient(a, h, work) if call.need_a else (None, None)
    carry = _carry_backward(scan, a, factors, h, dh, dlast, work)
    memory = (factors, flat, first, dh, dlast, carry, dx, da, da_sum, dfirst, *((None, None) if scan.blocks else ()))
    _launch(scan, "bwd", h, work, memory, (factors, flat, dh, dx, da))
    gradient = da if da_sum is None else da_sum.sum(1, keepdim=True)
    if gradient is not None and a.shape[0] != gradient.shape[0]:
        gradient = gradient.sum(0, keepdim=True)
    if gradient is not None:
        gradient = gradient.to(a.dtype)
    return [y for y in (dx, gradient, dfirst if call.need_h0 else None) if y is not None]


def _empty_factors_gradient(a: Tensor, h: Tensor, work: _Work) -> tuple[Tensor | None, Tensor | None]:
    """Allocate the gradient of all factors, or of its sums over the steps of each segment.

    It has the dtype of the state if it is summed afterwards.
    """
    if a.shape[1] != h.shape[1]:
        return None, _empty_summaries(a, h, work)[0]
    shape = (*h.shape[:2], *a.shape[2:])
    if a.shape[0] == h.shape[0]:
        return empty_steps(a, shape), None
    return a.new_empty(shape, dtype=carried(a.dtype)), None


for _scan in (LINEAR, BLOCK):
    OPS[_scan.name].forward.on_cuda(partial(forward, _scan))
    OPS[_scan.name].out.on_cuda(partial(forward_out, _scan))
    OPS[_scan.name].backward.on_cuda(partial(backward, _scan))
