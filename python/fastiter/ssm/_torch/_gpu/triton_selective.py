"""Selective scans and their steps on a GPU: launches of kernels/ssm/triton_selective*.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...._check import overlaps_itself
from ...._torch import launch
from ...._torch.ops import contiguous
from ...._torch.sequences import check_values
from ..ops import (
    SELECTIVE_GPU_TILE,
    SelectiveBackward,
    SelectiveForward,
    as_arguments,
    computed,
    count_of,
    empty_gradients,
    forward_outputs,
    plain,
)
from ..step import SelectiveStep, check_rows, selective_step
from .triton_conv import strides_of

#: Threads along time, and consecutive steps per thread: forward, backward
_LANES, _FORWARD, _BACKWARD = SELECTIVE_GPU_TILE // 4, 8, 4
#: Channels per program: by default, in float64, and with aligned reads. More channels mean fewer partial sums in the
#: backward pass, but need more registers, especially in float64 or if steps are read one by one.
_CHANNELS, _CHANNELS_FLOAT64, _CHANNELS_ALIGNED = 8, 4, 16
#: Elements of the state per program of the single-step kernel, and the numbers of axes of its arrays
_STATES, _STEP_AXES = 1024, (4, 3, 3, 3, 3, 3, 2, 3, 2)


class Work(NamedTuple):
    """The sequences of a call, and its sizes."""

    reset: Tensor | None
    lengths: Tensor | None
    starts: Tensor | None
    reset_row: int
    sequences: int
    channels: int
    time: int
    groups: int
    states: int

    @property
    def cut(self) -> tuple[Tensor | None, ...]:
        return self.reset, self.lengths, self.starts


def work_of(call: Any) -> Work:
    batch, channels, time = call.u.shape
    if call.A.is_complex():
        raise NotImplementedError(
            f"selective_scan: A must be real on a CUDA device, got {call.A.dtype}; CPU tensors may have a complex A"
        )
    if time > 2**27:
        raise ValueError(f"selective_scan: u must have at most 2**27 steps on a CUDA device, got {time}")
    check_values("selective_scan", batch, time, call.lengths, call.cu_seqlens)
    lengths, bounds = launch.in_range(call.lengths, call.cu_seqlens, time)
    reset = call.reset
    return Work(
        None if reset is None else reset.contiguous().view(torch.uint8),
        launch.as_int64(lengths, call.u),
        launch.as_int64(bounds, call.u),
        time if reset is not None and reset.dim() == 2 else 0,
        count_of(call, batch),
        channels,
        time,
        max(x.shape[1] if x.dim() == 4 else 1 for x in (call.B, call.C)),
        call.A.shape[1],
    )


def _signal(x: Tensor | None) -> Tensor | None:
    """Return x, or a copy if offsets within a chunk do not fit in 32 bits."""
    x = plain(x)
    if x is None:
        return None
    _, channel, step = strides_of(x)
    return x if max(channel, 1) * 16 + step * 256 < 2**31 else x.contiguous()


def _projection(x: Tensor, steps: int) -> Tensor:
    """Return B or C in the kernels' layout: fixed, or (B, G, N, steps, T / steps), padded with zeros."""
    if x.dim() == 2:
        return contiguous(x)
    padded = pad(x, (0, -x.shape[3] % steps)) if x.shape[3] % steps else x
    return contiguous(padded.unflatten(3, (-1, steps)).transpose(3, 4))


def _aligned(work: Work, signals: Sequence[Tensor | None]) -> bool:
    """Return whether the kernels can read 8 steps at once."""
    strides = [strides_of(x) for x in signals if x is not None]
    return work.time % 8 == 0 and all(time == 1 and row % 8 == channel % 8 == 0 for row, channel, time in strides)


class _Launch(NamedTuple):
    """A launch: kernel, file, channels per program, and its arguments except sizes and constants."""

    name: str
    stem: str
    channels: int
    memory: tuple[Tensor | None, ...]
    signals: tuple[Tensor | None, ...]
    more: dict[str, Any]

    def run(self, work: Work, call: Any) -> None:
        import triton.language as tl

        blocks, rows = _blocks(work, self.channels), call.u.shape[0]
        programs = work.sequences * work.groups * blocks
        if not programs:
            return
        strides = [stride for x in self.signals for stride in ((0, 0, 0) if x is None else strides_of(x))]
        sizes = [work.reset_row, work.channels, work.time, work.groups, blocks]
        sizes += [rows, work.states] if self.name == "bwd" else [work.states]
        kernels = launch.triton_kernels("selective_scan", f"ssm/{self.stem}")
        with launch.on(call.u):
            getattr(kernels, f"selective_{self.name}_kernel")[(programs,)](
                *self.memory,
                *work.cut,
                *strides,
                *sizes,
                SOFTPLUS=call.softplus,
                FIXED_B=call.B.dim() == 2,
                FIXED_C=call.C.dim() == 2,
                ALIGNED=_aligned(work, self.signals),
                CHANNELS=self.channels,
                LANES=_LANES,
                STATE=tl.float64 if call.u.dtype == torch.float64 else tl.float32,
                **self.more,
                num_warps=min(8, self.channels),
                enable_fp_fusion=True,
            )


def _blocks(work: Work, channels: int) -> int:
    """Return the number of blocks of channels in a group."""
    return -(-(work.channels // work.groups) // channels)


def _channels(work: Work, maximum: int) -> int:
    return min(maximum, 1 << max(0, work.channels // work.groups - 1).bit_length())


def begun_outputs(call: SelectiveForward, saved: int) -> list[Tensor]:
    """Allocate the outputs, with the first states in place of the last ones, and with zeros at steps of padding."""
    out, last, *_ = outputs = forward_outputs(call, saved)
    if call.lengths is not None:
        out.zero_()
    if call.state is None:
        last.zero_()
    else:
        last.copy_(call.state)
    return outputs


def forward(call: SelectiveForward) -> list[Tensor]:
    """Run the forward op by Triton's kernels."""
    work = work_of(call)
    out, last, *states = outputs = begun_outputs(call, _BACKWARD * _LANES)
    signals = (*map(_signal, (call.u, call.delta, call.z)), out)
    A, D, bias = (contiguous(x) for x in (call.A, call.D, call.delta_bias))
    B, C = (_projection(x, _FORWARD) for x in (call.B, call.C))
    memory = (*signals[:2], A, B, C, D, signals[2], bias, out, last, states[0] if states else None)
    more = {"STEPS": _FORWARD, "SAVED": _BACKWARD * _LANES}
    _Launch("fwd", "triton_selective", _channels(work, _CHANNELS), memory, signals, more).run(work, call)
    return outputs


def _empty_sums(work: Work, call: SelectiveBackward, blocks: int) -> dict[int, Tensor]:
    """Allocate partial sums, by the index of the argument whose gradient is their sum."""
    gradients: dict[int, Tensor] = {}
    dtype, fill = computed(call.u.dtype), call.lengths is not None
    weights = {2: call.A, 3: call.B, 4: call.C, 5: call.D, 7: call.delta_bias}
    for i, x in weights.items():
        if not call.requested >> i & 1 or x is None:
            continue
        if x.dim() == 4:
            gradients[i] = x.new_empty((blocks, *x.shape), dtype=dtype)
        else:
            gradients[i] = x.new_empty((work.sequences, *x.shape), dtype=dtype)
        if fill or x.dim() == 2:
            gradients[i].zero_()
    return gradients


def begun_gradients(call: SelectiveBackward, work: Work) -> tuple[list[Tensor | None], Tensor, Tensor]:
    """Return the gradients, with zeros at steps of padding, the gradients of the last states, and that of out."""
    gradients = empty_gradients(call)
    du, ddelta, _, _, _, _, dz, _, dfirst = gradients
    if call.lengths is not None:
        for x in (du, ddelta, dz):
            if x is not None:
                x.zero_()
    carry = call.states.new_empty((work.sequences, *call.A.shape)) if dfirst is None else dfirst
    if call.dlast is None:
        carry.zero_()
    else:
        carry.copy_(call.dlast)
    return gradients, carry, call.u.new_zeros(()).expand(call.u.shape) if call.dout is None else call.dout


def add_up(gradients: list[Tensor | None], sums: dict[int, Tensor]) -> None:
    """Add partial sums, by the index of their gradient, along their first axis."""
    for i, parts in sums.items():
        whole = gradients[i]
        assert whole is not None
        torch.sum(parts, 0, out=whole.transpose(2, 3) if whole.dim() == 4 else whole)


def backward(call: SelectiveBackward) -> list[Tensor]:
    """Run the backward op by Triton's kernels."""
    work = work_of(call)
    gradients, carry, dout = begun_gradients(call, work)
    du, ddelta, _, _, _, _, dz, _, _ = gradients
    signals = (*map(_signal, (call.u, call.delta, call.z, dout)), du, ddelta, dz)
    maximum = _CHANNELS_ALIGNED if _aligned(work, signals) else _CHANNELS
    channels = _channels(work, _CHANNELS_FLOAT64 if call.u.dtype == torch.float64 else maximum)
    sums = _empty_sums(work, call, _blocks(work, channels))
    A, D, bias, states = (contiguous(x) for x in (call.A, call.D, call.delta_bias, call.states))
    B, C = (_projection(x, _BACKWARD) for x in (call.B, call.C))
    inputs = (*signals[:2], A, B, C, D, signals[2], bias, states, *signals[3:])
    memory = (*inputs, carry, *[sums.get(i) for i in (2, 3, 4, 5, 7)])
    _Launch("bwd", "triton_selective_gradient", channels, memory, signals, {"STEPS": _BACKWARD}).run(work, call)
    add_up(gradients, sums)
    return as_arguments(call, gradients)


def _with_heads(call: SelectiveStep) -> tuple[Tensor | None, ...]:
    """Return state, x, dt, A, B, C, D, z and dt_bias with an axis of heads, or of groups for B and C."""
    state, x, dt, A, B, C, D, z, bias = map(plain, call[:9])
    B, C = (y[:, None] if y is not None and y.dim() == 2 else y for y in (B, C))
    if call.x.dim() == 3:
        return state, x, dt, A, B, C, D, z, bias
    state, x, dt, z = (None if y is None else y[:, None] for y in (state, x, dt, z))
    A, D, bias = (None if y is None else y[None] for y in (A, D, bias))
    return state, x, dt, A, B, C, D, z, bias


def step(call: SelectiveStep) -> Tensor:
    """Implement the op for one step on a GPU; indices of nonexistent rows count as padding."""
    state, rows = call.state, call.rows
    if rows is not None and rows.is_cpu:
        check_rows(rows, state.shape[0])
    if overlaps_itself(state.shape, state.stride(), 1):
        got = f"strides {state.stride()}"
        raise ValueError(f"selective_state_update: state must have one place for each element, got {got}")
    out, others = call.x.new_empty(call.x.shape), plain(state)
    assert others is not None
    if out.numel():
        _launch_step(call._replace(state=others, rows=launch.as_int64(rows, call.x)), out)
    if others is not state:
        state.copy_(others)
    return out


def _launch_step(call: SelectiveStep, out: Tensor) -> None:
    import triton.language as tl

    arrays = _with_heads(call)
    state, x, _, A, B = arrays[:5]
    assert state is not None and x is not None and A is not None and B is not None
    (batch, heads, channels), (places, states) = x.shape, (state.shape[0], state.shape[3])
    width = 1 << (states - 1).bit_length()
    tile = min(max(1, _STATES // width), 1 << (channels - 1).bit_length())
    blocks = -(-channels // tile)
    strides = [(0,) * axes if y is None else strides_of(y) for y, axes in zip(arrays, _STEP_AXES, strict=True)]
    kernels = launch.triton_kernels("selective_state_update", "ssm/triton_selective_step")
    with launch.on(x):
        kernels.selective_step_kernel[(batch * heads * blocks,)](
            *arrays,
            call.rows,
            out,
            *[stride for some in strides for stride in some],
            *(heads, channels, heads // B.shape[1], places, blocks, states),
            SOFTPLUS=call.softplus,
            ONE_RATE=states > 1 and A.stride(2) == 0,
            BP=tile,
            BN=width,
            STATE=tl.float64 if x.dtype == torch.float64 else tl.float32,
            num_warps=4,
            enable_fp_fusion=True,
        )


selective_step.on_cuda(step)
