"""The private ops of the family scan: their argument tuples, and their CPU implementations, which call the kernels.

Forward returns h and the final state. Backward returns dx, da and dstate in this order, only those requested.
``a`` (or ``A``) has both axes B and T, of size 1 where it is broadcast, and da has the shape of a.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import _core
from ..._torch.op import Changed, Op
from ..._torch.ops import contiguous, empty_steps, unit_stride
from ..._torch.sequences import check_values

Cut = tuple[bool, Tensor | None, Tensor | None, Tensor | None]  # reverse, reset, lengths, cu_seqlens


class ScanForward(NamedTuple):
    """The arguments of the op that returns h and the final state."""

    a: Tensor
    x: Tensor
    state: Tensor | None
    reverse: bool
    reset: Tensor | None
    lengths: Tensor | None
    cu_seqlens: Tensor | None

    @property
    def cut(self) -> Cut:
        """The division of steps into sequences."""
        return self[3:7]


class ScanOut(NamedTuple):
    """The arguments of the op that writes h to ``out`` and returns the final state."""

    a: Tensor
    x: Tensor
    state: Tensor | None
    reverse: bool
    reset: Tensor | None
    lengths: Tensor | None
    cu_seqlens: Tensor | None
    out: Changed

    @property
    def forward(self) -> ScanForward:
        """The same arguments for the forward op."""
        return ScanForward(*self[:7])


class ScanBackward(NamedTuple):
    """The arguments of the op that returns the requested gradients."""

    a: Tensor
    h: Tensor
    state: Tensor | None
    dh: Tensor | None
    dlast: Tensor | None
    reverse: bool
    reset: Tensor | None
    lengths: Tensor | None
    cu_seqlens: Tensor | None
    need_x: bool
    need_a: bool
    need_h0: bool

    @property
    def cut(self) -> Cut:
        """The division of steps into sequences."""
        return self[5:9]


class Scan(NamedTuple):
    """One of the two scans: its name, its factors' name, whether they are blocks, its dtypes and its kernels."""

    name: str
    factors: str
    blocks: bool
    dtypes: tuple[torch.dtype, ...]
    forward: Callable[..., None]
    backward: Callable[..., None]


_DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
LINEAR = Scan(
    "linear_scan", "a", False, (*_DTYPES, torch.bfloat16), _core.scan.linear_forward, _core.scan.linear_backward
)
BLOCK = Scan("block_scan", "A", True, _DTYPES, _core.scan.block_forward, _core.scan.block_backward)


def carried(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the state: float32 for bfloat16."""
    return torch.float32 if dtype == torch.bfloat16 else dtype


def empty_last(x: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Allocate the final states, or the gradient of the initial states."""
    sequences = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return x.new_empty((sequences, *x.shape[2:]), dtype=carried(x.dtype))


def flat_steps(x: Tensor) -> Tensor:
    """Return x as (B, T, elements per step), contiguous along the last axis."""
    return unit_stride(x if x.dim() == 3 else x.flatten(2))


def _work(scan: Scan, x: Tensor, cut: Cut) -> tuple[Any, ...]:
    """Return the kernels' description of a scan of ``x``: its shape, and K for blocks."""
    (batch, time, *inner), (reverse, *optional) = x.shape, cut
    check_values(scan.name, batch, time, *cut[2:])
    reset, lengths, cu_seqlens = map(contiguous, optional)
    sequences = batch if cu_seqlens is None else len(cu_seqlens) - 1
    shape = (sequences, time, math.prod(inner), reverse, lengths, cu_seqlens, reset)
    return (shape, inner[-1]) if scan.blocks else (shape,)


def forward_into(scan: Scan, call: ScanForward, h: Tensor) -> Tensor:
    """Write h; return the final state."""
    a, x, state, *_, cu_seqlens = call
    first, last = None if state is None else contiguous(state), empty_last(x, cu_seqlens)
    scan.forward(*_work(scan, x, call.cut), flat_steps(a), flat_steps(x), first, flat_steps(h), last)
    return last


def forward_twice(call: ScanForward, h: Tensor, copy: Tensor) -> Tensor:
    """Write h of linear_scan to two tensors in one pass; return the final state of each sequence."""
    a, x, state, *_, cu_seqlens = call
    first, last = None if state is None else contiguous(state), empty_last(x, cu_seqlens)
    _core.scan.linear_forward_twice(_work(LINEAR, x, call.cut)[0], flat_steps(a), flat_steps(x), first, h, last, copy)
    return last


def last_state(call: ScanForward) -> Tensor:
    """Return the final state of linear_scan, without computing h."""
    a, x, state, *_, cu_seqlens = call
    first, last = None if state is None else contiguous(state), empty_last(x, cu_seqlens)
    LINEAR.forward(*_work(LINEAR, x, call.cut), flat_steps(a), flat_steps(x), first, None, last)
    return last


def _forward(scan: Scan, call: ScanForward) -> list[Tensor]:
    h = empty_steps(call.x, call.x.shape)
    return [h, forward_into(scan, call, h)]


def _forward_fake(scan: Scan, call: ScanForward) -> list[Tensor]:
    return [empty_steps(call.x, call.x.shape), empty_last(call.x, call.cu_seqlens)]


def _forward_out(scan: Scan, call: ScanOut) -> Tensor:
    if has_plain_steps(call.out):
        return forward_into(scan, call.forward, call.out)
    h, last = _forward(scan, call.forward)
    call.out.copy_(h)
    return last


def _forward_out_fake(scan: Scan, call: ScanOut) -> Tensor:
    return empty_last(call.x, call.cu_seqlens)


def has_plain_steps(out: Tensor) -> bool:
    """Return whether the elements of each step are contiguous."""
    expected = 1
    for size, stride in zip(out.shape[:1:-1], out.stride()[:1:-1], strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return not out.is_neg() and not out.is_conj()


def _backward(scan: Scan, call: ScanBackward) -> list[Tensor]:
    a, h = call.a, call.h
    dx = empty_steps(h, h.shape) if call.need_x else None
    gradient = empty_factors_gradient(a, h) if call.need_a else None
    dfirst = backward_into(scan, call, dx, gradient)
    of_a = None if gradient is None else gradient.to(a.dtype)
    return [x for x in (dx, of_a, dfirst if call.need_h0 else None) if x is not None]


def backward_into(scan: Scan, call: ScanBackward, dx: Tensor | None, gradient: Tensor | None) -> Tensor:
    """Write the gradients of x and a to ``dx`` and ``gradient`` unless they are None; return that of the initial state.

    The elements of each step are contiguous in both; ``gradient`` has the dtype of :func:`empty_factors_gradient`.
    """
    a, h = call.a, call.h
    dh = None if call.dh is None else flat_steps(call.dh)
    first, dlast = (None if x is None else contiguous(x) for x in (call.state, call.dlast))
    dfirst = empty_last(h, call.cu_seqlens)
    flat_dx, flat_da = (None if x is None else flat_steps(x) for x in (dx, gradient))
    da = (flat_da, None) if _has_all_steps(a, h) else (None, flat_da)  # one for each step, or the sum over the steps
    tensors = (flat_steps(a), flat_steps(h), dh, first, dlast)
    scan.backward(*_work(scan, h, call.cut), *tensors, flat_dx, *da, dfirst)
    return dfirst


def _backward_fake(scan: Scan, call: ScanBackward) -> list[Tensor]:
    a, h = call.a, call.h
    gradients = [empty_steps(h, h.shape)] if call.need_x else []
    gradients += [empty_factors_gradient(a, h).to(a.dtype)] if call.need_a else []
    return gradients + ([empty_last(h, call.cu_seqlens)] if call.need_h0 else [])


def _has_all_steps(a: Tensor, h: Tensor) -> bool:
    return a.shape[:2] == h.shape[:2]


def empty_factors_gradient(a: Tensor, h: Tensor) -> Tensor:
    """Allocate the gradient of a, in the dtype of the state if the kernel sums into it."""
    if _has_all_steps(a, h):
        return empty_steps(a, a.shape)
    return a.new_empty(a.shape, dtype=carried(a.dtype))


class Ops(NamedTuple):
    """The ops of one of the two scans."""

    forward: Op[ScanForward, list[Tensor]]
    out: Op[ScanOut, Tensor]
    backward: Op[ScanBackward, list[Tensor]]


def _ops_of(scan: Scan) -> Ops:
    return Ops(
        Op(f"_{scan.name}_fwd", ScanForward, partial(_forward, scan), partial(_forward_fake, scan)),
        Op(f"_{scan.name}_out", ScanOut, partial(_forward_out, scan), partial(_forward_out_fake, scan)),
        Op(f"_{scan.name}_bwd", ScanBackward, partial(_backward, scan), partial(_backward_fake, scan)),
    )


OPS = {scan.name: _ops_of(scan) for scan in (LINEAR, BLOCK)}
