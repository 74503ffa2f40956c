"""The private op of rounding's straight-through gradient.

It returns dx and, for each scale, the sum over its elements of dy (y - x) where the rounded number is in range and of
dy y where it is not, from which callers compute the gradient of the scale or binary point.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ... import _core
from ..._torch.op import Op
from ..._torch.ops import contiguous, empty
from .._calibration.limits import is_limited, limits, scaled_limits
from .._formats.base import Format
from .ops import NAMES, absorbed_by, are_powers, as_array, read


class QuantizeBackward(NamedTuple):
    """A call of the op."""

    dy: Tensor
    x: Tensor
    y: Tensor
    fmt: str
    scale: Tensor | None
    zero_point: Tensor | None
    clip: bool
    need_scale: bool


def _side_by_side(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return x with each axis split into (scales, elements per scale), and the scale shaped to broadcast with it."""
    if scale.dim() != x.dim():
        scale = scale.reshape([1] * x.dim())
    parts = [part for each, size in zip(scale.shape, x.shape, strict=True) for part in (each, size // each)]
    return x.reshape(parts), scale.reshape([part for each in scale.shape for part in (each, 1)])


def _ends(x: Tensor, fmt: Format, scale: Tensor | None, zero_point: Tensor | None) -> tuple[float, float] | None:
    """Return the lowest and the highest x in the format's range, or None if they differ between elements."""
    name = NAMES[torch.promote_types(x.dtype, torch.float32)]
    if scale is not None and scale.numel() != 1:
        return None
    zero = 0 if zero_point is None else int(zero_point.item())
    if scale is None:
        return limits(fmt, name, zero)
    factor = scale.item()
    if absorbed_by(fmt, factor) is not None:
        low, high = limits(fmt, name, 0)
        return low * factor, high * factor
    if fmt._scales_in_double and name == "float32":
        return None
    return scaled_limits(fmt, name, zero, factor)


def _inside(x: Tensor, fmt: Format, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    """Return a mask of the elements whose rounded values are in the format's range."""
    wide = torch.promote_types(x.dtype, torch.float32)
    if fmt._point is not None and are_powers(as_array(scale)):  # scaled limits are exact
        low, high = limits(fmt, NAMES[wide], 0)
        parts, factor = _side_by_side(x.to(wide), scale)
        return _between(parts, (low * factor).to(wide), (high * factor).to(wide)).reshape(x.shape)
    parts, factor = _side_by_side(x.to(wide), scale.to(wide))
    v = parts.to(torch.float64) / factor.to(torch.float64) if fmt._scales_in_double else parts / factor
    zeros = [0] if zero_point is None else sorted(set(zero_point.flatten().tolist()))
    ends = {zero: limits(fmt, NAMES[v.dtype], zero) for zero in zeros}
    if len(zeros) == 1:
        return _between(v, *ends[zeros[0]]).reshape(x.shape)
    assert zero_point is not None
    lows, highs = (v.new_tensor([ends[z][k] for z in zero_point.flatten().tolist()]) for k in (0, 1))
    return _between(v, lows.reshape(factor.shape), highs.reshape(factor.shape)).reshape(x.shape)


def _between(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    return (x >= low) & (x <= high)


def _bwd(call: QuantizeBackward) -> list[Tensor]:
    dy, x, y, fmt, scale, zero_point, clip, need_scale = call
    form = read(fmt)
    x, dy = contiguous(x), contiguous(dy)
    limited = is_limited(form, clip, need_scale)
    ends = _ends(x, form, scale, zero_point) if limited else None
    if (not limited or ends is not None) and (scale is None or scale.numel() == 1):
        dx, total = _gradient(dy, x, contiguous(y), ends, clip, need_scale)
        wide = torch.promote_types(x.dtype, torch.float32)
        return [dx] if scale is None or not need_scale else [dx, dx.new_full(scale.shape, total, dtype=wide)]
    assert scale is not None
    inside = _inside(x, form, scale, zero_point) if limited else None
    dx = dy.clone() if inside is None or not clip else torch.where(inside, dy, 0)
    if not need_scale:
        return [dx]
    wide = torch.promote_types(x.dtype, torch.float32)
    inner = x if inside is None else torch.where(inside, x, 0)
    parts, _ = _side_by_side(dy.to(wide) * (y.to(wide) - inner.to(wide)), scale)
    return [dx, parts.sum(list(range(1, parts.dim(), 2))).reshape(scale.shape)]


def _gradient(
    dy: Tensor, x: Tensor, y: Tensor, ends: tuple[float, float] | None, clip: bool, sums: bool
) -> tuple[Tensor, float]:
    """Return dx and the sum for the scale, computed by the kernel (in float32 for 16-bit inputs)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    inputs = [t if t.dtype == wide else t.to(wide) for t in (dy, x, y)]
    dx = empty(inputs[0], x.shape)
    g, v, w, out = (t.data_ptr() for t in (*inputs, dx))
    total = _core.quant.gradient(wide == torch.float64, ends, clip, g, v, w, out, x.numel(), sums)
    return dx if dx.dtype == x.dtype else dx.to(x.dtype), total


def _bwd_fake(call: QuantizeBackward) -> list[Tensor]:
    x, scale = call.x, call.scale
    dx = call.dy.new_empty(x.shape)
    if not call.need_scale:
        return [dx]
    assert scale is not None
    return [dx, scale.new_empty(scale.shape, dtype=torch.promote_types(x.dtype, torch.float32))]


quantize_bwd = Op("_quantize_bwd", QuantizeBackward, _bwd, _bwd_fake)
