"""The straight-through gradient of rounding, the terms of a scale's gradient, and the step of a binary point.

dx = dy where the rounded number is in range, and elsewhere 0 or, with "pass", dy. The gradient of a scale is the sum of
dy (y - x) over its elements in range and of dy y over the others.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_elementwise import are_powers, scale_at
from .triton_modes import NOTHING, ONE, ONE_SUM, STOCHASTIC
from .triton_rounding import divided, narrowed, nearest_even, number_of, whole, widened


@triton.jit
def _integers_inside(x, s, zero_point, limits, T: tl.constexpr, ROUNDING: tl.constexpr, HAS_SCALE: tl.constexpr):
    """Whether codes are in range, relative to the zero point, without the random numbers"""
    v = x.to(T)
    if HAS_SCALE:
        v = divided(v, s.to(T))
    low, high = tl.load(limits).to(T), tl.load(limits + 1).to(T)
    if ROUNDING == STOCHASTIC:
        return (v >= low - zero_point) & (v <= high - zero_point)
    else:
        code = whole(v, v, ROUNDING) + zero_point
        return (code >= low) & (code <= high)


@triton.jit
def _numbers_inside(x, s, exact, limits, HAS_SCALE: tl.constexpr, MAY_BE_EXACT: tl.constexpr):
    """Whether x / scale is between the lowest and the highest number in range; for powers of two limits are scaled."""
    low, high = tl.load(limits).to(x.dtype), tl.load(limits + 1).to(x.dtype)
    if HAS_SCALE:
        inside = divided(x, s)
        inside = (inside >= low) & (inside <= high)
        if MAY_BE_EXACT:
            inside = tl.where(exact, (x >= low * s) & (x <= high * s), inside)
        return inside
    else:
        return (x >= low) & (x <= high)


@triton.jit(do_not_specialize=["run", "count"])
def quantize_bwd_kernel(
    dy_ptr,
    x_ptr,
    y_ptr,
    dx_ptr,
    sums_ptr,
    scale_ptr,
    zero_ptr,
    powers_ptr,
    limits_ptr,
    numel,
    run,
    count,
    ROUNDING: tl.constexpr,
    T: tl.constexpr,
    LIMITED: tl.constexpr,
    CLIPS: tl.constexpr,
    INTEGERS: tl.constexpr,
    MAY_BE_EXACT: tl.constexpr,
    SUMS: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_ZERO_POINT: tl.constexpr,
    SHARING: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute dx, and the products for the gradient of the scale, with limits of codes or numbers if LIMITED."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < numel
    dy = tl.load(dy_ptr + offsets, mask=mask, other=0.0)
    x = widened(tl.load(x_ptr + offsets, mask=mask, other=0.0))
    inside = mask
    if LIMITED:
        at, zero_point, s, exact = offsets.to(INDEX), 0.0, x, mask
        if HAS_ZERO_POINT:
            zero_point = scale_at(zero_ptr, at, mask, run, count, SHARING).to(T)
        if HAS_SCALE:
            s = scale_at(scale_ptr, at, mask, run, count, SHARING).to(x.dtype)
            if MAY_BE_EXACT:
                exact = are_powers(tl.load(scale_ptr)) if SHARING == ONE else tl.load(powers_ptr) != 0
        if INTEGERS:
            inside = _integers_inside(x, s, zero_point, limits_ptr, T, ROUNDING, HAS_SCALE)
        else:
            inside = _numbers_inside(x, s, exact, limits_ptr, HAS_SCALE, MAY_BE_EXACT)
    E: tl.constexpr = dx_ptr.dtype.element_ty
    dx = tl.where(inside, widened(dy), 0.0) if CLIPS else widened(dy)
    tl.store(dx_ptr + offsets, narrowed(dx, E), mask=mask)
    if SUMS != NOTHING:
        y = widened(tl.load(y_ptr + offsets, mask=mask, other=0.0))
        product = widened(dy) * (y - tl.where(inside, x, 0.0))
        if SUMS == ONE_SUM:
            tl.store(sums_ptr + tl.program_id(0), tl.sum(tl.where(mask, product, 0.0).to(tl.float64), 0))
        else:
            tl.store(sums_ptr + offsets, product, mask=mask)


@triton.jit
def step_fwd_kernel(point_ptr, step_ptr, numel, BLOCK: tl.constexpr):
    """Compute step = 2^-round(point), with the point clamped to -126 .. 126."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < numel
    point = widened(tl.load(point_ptr + offsets, mask=mask, other=0.0))
    near = nearest_even(point)
    near = tl.where(near < -126.0, -126.0, tl.where(near > 126.0, 126.0, near))
    whole_point = tl.where(point == point, near, 0.0).to(tl.int64)
    step = number_of((1023 - whole_point) << 52)
    tl.store(step_ptr + offsets, tl.where(point == point, step, float("nan")), mask=mask)
