"""The private ops of the family scan: schemas, CPU implementations, which call the kernels, and fake versions.

Forward returns h and the final state. Backward returns the requested ones of dx, da and dh0, in this order. ``a`` (or
``A``) has both axes B and T, of size 1 where it is broadcast, and da has the shape of a.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import _core
from ..._sequences import check_bounds, check_lengths
from ..._torch import vmap
from ..._torch.ops import LIBRARY, contiguous, eager, empty_steps, unit_stride

Cut = tuple[bool, Tensor | None, Tensor | None, Tensor | None]  # reverse, reset, lengths, cu_seqlens


class Scan(NamedTuple):
    """A kind of scan: its name, its factors' name, whether they are blocks, its dtypes and its kernels."""

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
SCANS = {scan.name: scan for scan in (LINEAR, BLOCK)}

_CUT = "bool reverse, Tensor? reset, Tensor? lengths, Tensor? cu_seqlens"
for _name in SCANS:
    LIBRARY.define(f"_{_name}_fwd(Tensor a, Tensor x, Tensor? h0, {_CUT}) -> Tensor[]")
    LIBRARY.define(f"_{_name}_out(Tensor a, Tensor x, Tensor? h0, {_CUT}, Tensor(out!) out) -> Tensor")
    LIBRARY.define(
        f"_{_name}_bwd(Tensor a, Tensor h, Tensor? h0, Tensor? dh, Tensor? dlast, {_CUT}, bool need_x, bool need_a, "
        "bool need_h0) -> Tensor[]"
    )


def carried(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the state: float32 for bfloat16."""
    return torch.float32 if dtype == torch.bfloat16 else dtype


def empty_last(x: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Allocate the final states, or the gradient of the initial states."""
    sequences = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return x.new_empty((sequences, *x.shape[2:]), dtype=carried(x.dtype))


def flat_steps(x: Tensor) -> Tensor:
    """Return x as (B, T, numbers per step), contiguous along the last axis."""
    return unit_stride(x if x.dim() == 3 else x.flatten(2))


def check_cut(scan: Scan, x: Tensor, cut: Cut) -> None:
    """Check lengths and cu_seqlens at run time, as tracing does not know their values.

    Values on a GPU are not read back: its kernels clamp them into range.
    """
    _, _, lengths, cu_seqlens = cut
    batch, time = x.shape[:2]
    if cu_seqlens is not None and cu_seqlens.is_cpu:
        falls = bool((cu_seqlens[1:] < cu_seqlens[:-1]).any())
        check_bounds(scan.name, cu_seqlens.shape, int(cu_seqlens[0]), int(cu_seqlens[-1]), falls, time)
    if lengths is not None and lengths.is_cpu:
        least, most = (int(lengths.min()), int(lengths.max())) if batch else (0, 0)
        check_lengths(scan.name, lengths.shape, least, most, batch, time)


def _work(scan: Scan, x: Tensor, cut: Cut) -> tuple[Any, ...]:
    """Return the kernels' description of a scan of ``x``: its shape, and K with blocks."""
    check_cut(scan, x, cut)
    reverse, *optional = cut
    reset, lengths, cu_seqlens = (None if y is None else y.contiguous() for y in optional)
    sequences = x.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    shape = (sequences, x.shape[1], math.prod(x.shape[2:]), reverse, lengths, cu_seqlens, reset)
    return (shape, x.shape[-1]) if scan.blocks else (shape,)


def _forward_into(scan: Scan, a: Tensor, x: Tensor, h0: Tensor | None, cut: Cut, h: Tensor) -> Tensor:
    first, last = None if h0 is None else contiguous(h0), empty_last(x, cut[3])
    scan.forward(*_work(scan, x, cut), flat_steps(a), flat_steps(x), first, flat_steps(h), last)
    return last


def _forward(scan: Scan, a: Tensor, x: Tensor, h0: Tensor | None, cut: Cut) -> list[Tensor]:
    h = empty_steps(x, x.shape)
    return [h, _forward_into(scan, a, x, h0, cut, h)]


def _forward_out(scan: Scan, a: Tensor, x: Tensor, h0: Tensor | None, cut: Cut, out: Tensor) -> Tensor:
    if not has_plain_steps(out):
        h, last = _forward(scan, a, x, h0, cut)
        out.copy_(h)
        return last
    return _forward_into(scan, a, x, h0, cut, out)


def has_plain_steps(out: Tensor) -> bool:
    """Return whether the numbers of each step are contiguous."""
    expected = 1
    for size, stride in zip(out.shape[:1:-1], out.stride()[:1:-1], strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return not out.is_neg() and not out.is_conj()


def _backward(
    scan: Scan,
    a: Tensor,
    h: Tensor,
    h0: Tensor | None,
    dh: Tensor | None,
    dlast: Tensor | None,
    cut: Cut,
    need_x: bool,
    need_a: bool,
    need_h0: bool,
) -> list[Tensor]:
    dh = None if dh is None else flat_steps(dh)
    first = None if h0 is None else contiguous(h0)
    dlast = None if dlast is None else contiguous(dlast)
    dfirst = empty_last(h, cut[3])
    dx = empty_steps(h, h.shape) if need_x else None
    gradient, summed = _empty_factors_gradient(a, h) if need_a else (None, False)
    flat_dx, flat_da = (None if x is None else flat_steps(x) for x in (dx, gradient))
    da = (None, flat_da) if summed else (flat_da, None)  # for each step, or summed over steps
    given = (flat_steps(a), flat_steps(h), dh, first, dlast)
    scan.backward(*_work(scan, h, cut), *given, flat_dx, *da, dfirst)
    of_a = None if gradient is None else gradient.to(a.dtype)
    return [x for x in (dx, of_a, dfirst if need_h0 else None) if x is not None]


def _empty_factors_gradient(a: Tensor, h: Tensor) -> tuple[Tensor, bool]:
    """Allocate the gradient of a; also return whether the kernel sums into it, then in the dtype of the state."""
    if a.shape[:2] == h.shape[:2]:
        return empty_steps(a, a.shape), False
    return a.new_empty(a.shape, dtype=carried(a.dtype)), True


def _register(scan: Scan, kind: str, real: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Register an op's implementations; return the function to call."""
    name = f"_{scan.name}_{kind}"
    LIBRARY.impl(name, real, "CPU")
    torch.library.register_fake(f"fastiter::{name}", fake, lib=LIBRARY)
    return eager(real, getattr(torch.ops.fastiter, name).default)


def _forward_op(scan: Scan) -> Callable[..., list[Tensor]]:
    def real(a: Tensor, x: Tensor, h0: Tensor | None, *cut: Any) -> list[Tensor]:
        return _forward(scan, a, x, h0, cut)

    def fake(a: Tensor, x: Tensor, h0: Tensor | None, *cut: Any) -> list[Tensor]:
        return [empty_steps(x, x.shape), empty_last(x, cut[3])]

    return _register(scan, "fwd", real, fake)


def _out_op(scan: Scan) -> Callable[..., Tensor]:
    def real(a: Tensor, x: Tensor, h0: Tensor | None, *cut_and_out: Any) -> Tensor:
        return _forward_out(scan, a, x, h0, cut_and_out[:4], cut_and_out[4])

    def fake(a: Tensor, x: Tensor, h0: Tensor | None, *cut_and_out: Any) -> Tensor:
        return empty_last(x, cut_and_out[3])

    return _register(scan, "out", real, fake)


def _backward_op(scan: Scan) -> Callable[..., list[Tensor]]:
    def real(
        a: Tensor, h: Tensor, h0: Tensor | None, dh: Tensor | None, dlast: Tensor | None, *cut_and_needs: Any
    ) -> list[Tensor]:
        return _backward(scan, a, h, h0, dh, dlast, cut_and_needs[:4], *cut_and_needs[4:])

    def fake(
        a: Tensor, h: Tensor, h0: Tensor | None, dh: Tensor | None, dlast: Tensor | None, *cut_and_needs: Any
    ) -> list[Tensor]:
        need_x, need_a, need_h0 = cut_and_needs[4:]
        gradients = [empty_steps(h, h.shape)] if need_x else []
        gradients += [_empty_factors_gradient(a, h)[0].to(a.dtype)] if need_a else []
        return gradients + ([empty_last(h, cut_and_needs[3])] if need_h0 else [])

    return _register(scan, "bwd", real, fake)


_FORWARD = {scan.name: _forward_op(scan) for scan in (LINEAR, BLOCK)}
_OUT = {scan.name: _out_op(scan) for scan in (LINEAR, BLOCK)}
_BACKWARD = {scan.name: _backward_op(scan) for scan in (LINEAR, BLOCK)}


def scan_fwd(scan: Scan, a: Tensor, x: Tensor, h0: Tensor | None, cut: Cut) -> list[Tensor]:
    """Return h and the final state."""
    return _FORWARD[scan.name](a, x, h0, *cut)


def scan_out(scan: Scan, a: Tensor, x: Tensor, h0: Tensor | None, cut: Cut, out: Tensor) -> Tensor:
    """Write h to ``out``; return the final state."""
    return _OUT[scan.name](a, x, h0, *cut, out)


def scan_bwd(
    scan: Scan,
    a: Tensor,
    h: Tensor,
    h0: Tensor | None,
    dh: Tensor | None,
    dlast: Tensor | None,
    cut: Cut,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Return the needed ones of dx, da and dh0."""
    return _BACKWARD[scan.name](a, h, h0, dh, dlast, *cut, *needs)


vmap.register("_linear_scan_fwd", "_linear_scan_bwd", "_block_scan_fwd", "_block_scan_bwd")
