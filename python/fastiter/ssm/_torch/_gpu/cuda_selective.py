"""Selective scans by CUDA kernels: launches of kernels/ssm/selective*.cu."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...._torch import launch
from ...._torch.ops import contiguous
from ..ops import SELECTIVE_GPU_TILE, SelectiveBackward, SelectiveForward, as_arguments, plain
from .triton_conv import strides_of
from .triton_selective import Work, add_up, begun_gradients, begun_outputs, work_of

#: The kernels' storage types
_ELEMENTS = {torch.float32: "float", torch.float16: "Half", torch.bfloat16: "BFloat16"}
#: Lanes per channel and states per lane
_LANES, _PER_LANE = 4, (1, 2, 4)
#: Channels per block; consecutive steps that a lane reads at once; threads
_CHANNELS, _WIDE, _THREADS = 32, 4, 128
#: Shared memory per block, in bytes: what does not depend on the number of states per lane, and what each adds to it
_FORWARD_BYTES, _BACKWARD_BYTES = (13056, 2048), (16768, 14848)


def reaches(call: Any) -> bool:
    """Return whether there is a kernel: for up to 16 states and varying B and C, but not in float64."""
    varying = call.B.dim() == call.C.dim() == 4
    return varying and call.u.dtype in _ELEMENTS and call.A.shape[1] <= _LANES * _PER_LANE[-1]


def _per_lane(work: Work) -> int:
    return next(per for per in _PER_LANE if work.states <= _LANES * per)


def _defines(work: Work, call: Any) -> dict[str, object]:
    return {"ELEMENT": _ELEMENTS[call.u.dtype], "PER": _per_lane(work), "RESET": int(work.reset is not None)}


def _projection(x: Tensor, work: Work) -> Tensor:
    """Return B or C in the kernels' layout, float32 (B, G, T, states of all lanes), padded with zeros."""
    batch, groups, states, time = x.shape
    width = _LANES * _per_lane(work)
    padded = x.new_empty((batch, groups, time, width), dtype=torch.float32)
    padded[..., :states].copy_(x.transpose(2, 3))
    if states < width:
        padded[..., states:].zero_()
    return padded


def _is_wide(signals: tuple[Tensor | None, ...]) -> bool:
    """Return whether the kernels can read and write several steps at once."""
    for x in signals:
        if x is None:
            continue
        row, channel, time = strides_of(x)
        if time != 1 or row % _WIDE or channel % _WIDE or x.data_ptr() % (_WIDE * x.element_size()):
            return False
    return True


def _blocks(work: Work) -> int:
    """Return the number of blocks for the channels of a group."""
    return -(-(work.channels // work.groups) // _CHANNELS)


def _run(
    name: str,
    stem: str,
    work: Work,
    call: Any,
    memory: tuple[Tensor | None, ...],
    signals: tuple[Tensor | None, ...],
    shared: tuple[int, int],
    more: tuple[np.int32, ...] = (),
) -> None:
    """Launch a kernel; its arguments are `memory`, the sequences, the strides of `signals`, and the sizes."""
    blocks = _blocks(work)
    grid = work.sequences * work.groups * blocks
    if not grid:
        return
    strides = [stride for x in signals for stride in ((0, 0, 0) if x is None else strides_of(x))]
    sizes = (*strides, work.reset_row, work.channels, work.time)
    counts = (np.int32(work.groups), np.int32(blocks), *more, np.int32(work.states))
    flags = (np.int32(call.softplus), np.int32(_is_wide(signals)))
    args: list[launch.Argument] = [*memory, *work.cut, *map(np.int64, sizes), *counts, *flags]
    fixed, per_state = shared
    launch.launch_cuda(
        stem,
        name,
        (grid,),
        (_THREADS,),
        args,
        shared=fixed + _per_lane(work) * per_state,
        defines=_defines(work, call),
    )


def forward(call: SelectiveForward) -> list[Tensor]:
    """Run the forward op by a CUDA kernel."""
    work = work_of(call)
    out, last, *states = outputs = begun_outputs(call, SELECTIVE_GPU_TILE)
    u, delta, z = map(plain, (call.u, call.delta, call.z))
    A, D, bias = (contiguous(x) for x in (call.A, call.D, call.delta_bias))
    B, C = (_projection(x, work) for x in (call.B, call.C))
    memory = (u, delta, A, B, C, D, z, bias, out, last, states[0] if states else None)
    _run("selective_fwd", "ssm/selective", work, call, memory, (u, delta, z, out), _FORWARD_BYTES)
    return outputs


def _empty_sums(work: Work, call: SelectiveBackward) -> dict[int, Tensor]:
    """Allocate the sums of each sequence or block, by the index of the argument whose gradient is their sum."""
    sums: dict[int, Tensor] = {}
    rows, _, time = call.u.shape
    shape = (_blocks(work), rows, work.groups, time, _LANES * _per_lane(work))
    for i, x in {2: call.A, 3: call.B, 4: call.C, 5: call.D, 7: call.delta_bias}.items():
        if x is None or not call.requested >> i & 1:
            continue
        if x.dim() < 4:
            sums[i] = x.new_empty((work.sequences, *x.shape))
        else:
            sums[i] = x.new_empty(shape, dtype=torch.float32)
            if call.lengths is not None:
                sums[i].zero_()
    return sums


def backward(call: SelectiveBackward) -> list[Tensor]:
    """Run the backward op by a CUDA kernel."""
    work = work_of(call)
    gradients, carry, dout = begun_gradients(call, work)
    du, ddelta, _, _, _, _, dz, _, _ = gradients
    sums = _empty_sums(work, call)
    u, delta, z, dy = map(plain, (call.u, call.delta, call.z, dout))
    A, D, bias, states = (contiguous(x) for x in (call.A, call.D, call.delta_bias, call.states))
    B, C = (_projection(x, work) for x in (call.B, call.C))
    memory = (u, delta, A, B, C, D, z, bias, states, dy, du, ddelta, dz, carry, *map(sums.get, (2, 3, 4, 5, 7)))
    rows = (np.int32(call.u.shape[0]),)
    signals = (u, delta, z, dy, du, ddelta, dz)
    _run("selective_bwd", "ssm/selective_gradient", work, call, memory, signals, _BACKWARD_BYTES, rows)
    for i in (3, 4):
        if i in sums:
            sums[i] = sums[i][..., : work.states].mT
    add_up(gradients, sums)
    return as_arguments(call, gradients)
