"""Matrix products whose accumulator is rounded between terms: a program has a tile and loops over k in order.

x (K, M) and w (K, N) are contiguous, so that each step reads contiguous memory. Sums are rounded once: in floating
point they are first rounded to odd as doubles (docs/quant/fixed_theory.md), in fixed point they are integers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_float import signed_range, to_significand
from .triton_modes import BELOW, DOWN, FAR, HALF_AWAY, HALF_DOWN, HALF_UP, HALF_ZERO, SATURATE, TO_ZERO, WRAP, ZERO
from .triton_rounding import bits_of, number_of, signed, unsigned
from .triton_wide import wide_value, wrapped


@triton.jit
def _tile(M, N, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows and columns of a program's tile"""
    across = tl.cdiv(N, COLUMNS)
    program = tl.program_id(0)
    return program // across * ROWS + tl.arange(0, ROWS), program % across * COLUMNS + tl.arange(0, COLUMNS)


@triton.jit
def _store(y_ptr, y, m, n, M, N):
    offsets = m.to(tl.int64)[:, None] * N + n[None, :]
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=(m < M)[:, None] & (n < N)[None, :])


@triton.jit
def _factors(x_ptr, w_ptr, k, m, n, M, N, T: tl.constexpr):
    """A column of the tile's factors from x, and a row from w"""
    x = tl.load(x_ptr + M.to(tl.int64) * k + m, mask=m < M, other=0)
    w = tl.load(w_ptr + N.to(tl.int64) * k + n, mask=n < N, other=0)
    return x.to(T)[:, None], w.to(T)[None, :]


# ---- floating point -------------------------------------------------------------------------------------------------


@triton.jit
def _sum_to_odd(a, b):
    """Return a + b; if the sum is not a double, the odd one of the two neighbouring doubles."""
    total = a + b
    from_b = total - a
    error = (a - (total - from_b)) + (b - from_b)  # exact; NaN if the sum is not finite
    bits = bits_of(total)
    outward = ((bits ^ bits_of(error)) >> 63) | 1  # 1 away from zero, -1 toward it
    return number_of(tl.where((tl.abs(error) > 0.0) & ((bits & 1) == 0), bits + outward, bits))


@triton.jit(do_not_specialize=["M", "N", "K", "every", "mantissa", "min_exponent"])
def quant_matmul_float_fwd_kernel(
    x_ptr,
    w_ptr,
    y_ptr,
    numbers,
    M,
    N,
    K,
    every,
    mantissa,
    min_exponent,
    ROUNDING: tl.constexpr,
    SATURATES: tl.constexpr,
    MINUS: tl.constexpr,
    INFINITY_DIFFERS: tl.constexpr,
    BARE: tl.constexpr,
    GROUPED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Compute y = round(y + x w) for k in order.

    Every `every`-th sum and the last one are rounded to the small float, the others to the dtype of y. The format's
    parameters are as in triton_float.py; GROUPED: `every` is more than 1.
    """
    m, n = _tile(M, N, ROWS, COLUMNS)
    highest, over, under = tl.load(numbers + 1), tl.load(numbers + 2), tl.load(numbers + 3)
    infinite, minus_infinite = tl.load(numbers + 4), tl.load(numbers + 5)
    y = tl.zeros((ROWS, COLUMNS), tl.float64)
    for first in range(0, K, every):
        if GROUPED:
            for k in range(first, tl.minimum(first + every, K) - 1):
                x, w = _factors(x_ptr, w_ptr, k, m, n, M, N, tl.float64)
                if y_ptr.dtype.element_ty == tl.float64:
                    y = x * w + y
                else:
                    y = _sum_to_odd(x * w, y).to(tl.float32).to(tl.float64)
        x, w = _factors(x_ptr, w_ptr, tl.minimum(first + every, K) - 1, m, n, M, N, tl.float64)
        total = _sum_to_odd(x * w, y)  # the product is exact: float32 has 24 bits
        y = to_significand(total, 0, mantissa, min_exponent, ROUNDING, BARE, True, MINUS)
        y = signed_range(y, total, highest, over, under, infinite, minus_infinite, SATURATES, INFINITY_DIFFERS)
    _store(y_ptr, y, m, n, M, N)


# ---- fixed point ----------------------------------------------------------------------------------------------------


@triton.jit
def _rounded(code, p, right, ones, ROUNDING: tl.constexpr):
    """The floor of code + p / 2^right, and the sum rounded to an integer; ones: mask of the dropped bits of p"""
    floor, rest, half = code + (p >> right), p & ones, (ones >> 1) + 1
    if ROUNDING == DOWN:
        up = rest != rest
    elif ROUNDING == ZERO:
        up = (floor < 0) & (rest != 0)
    elif ROUNDING == HALF_UP:
        up = rest >= half
    elif ROUNDING == HALF_DOWN:
        up = rest > half
    else:
        if ROUNDING == HALF_ZERO:
            tie_up = floor < 0
        elif ROUNDING == HALF_AWAY:
            tie_up = floor >= 0
        else:
            tie_up = (floor & 1) != 0
        up = (rest > half) | ((rest == half) & tie_up)
    return floor, floor + up.to(code.dtype)


@triton.jit
def _in_range(
    total, floor, negative, far, lowest, highest, width, saturated, OVERFLOW: tl.constexpr, SIGNED: tl.constexpr
):
    """Apply the overflow mode to a rounded sum; far: the sum is out of range whatever its low bits."""
    if OVERFLOW == SATURATE:
        return tl.where(far, tl.where(negative, lowest, highest), tl.minimum(tl.maximum(total, lowest), highest))
    elif OVERFLOW == TO_ZERO:
        return tl.where(far | (total < lowest) | (total > highest), 0, total)
    elif OVERFLOW == WRAP:
        if SIGNED:
            unused = tl.full((), total.dtype.primitive_bitwidth, total.dtype) - width.to(total.dtype)
            return (total << unused) >> unused
        else:
            return total & highest
    else:
        ones = unsigned(((width * 0 + 1).to(tl.int64) << width) - 1)
        above = unsigned(floor.to(tl.int64) >> width) & 1
        u = wrapped(unsigned(total.to(tl.int64)) & ones, negative, above, width, saturated, OVERFLOW, SIGNED)
        if SIGNED:
            u = tl.where(((u >> (width - 1).to(tl.uint64)) & 1) != 0, u | ~ones, u)
        return tl.where(far | (total < lowest) | (total > highest), signed(u).to(total.dtype), total)


@triton.jit
def _assigned(
    code,
    p,
    places,
    lowest,
    highest,
    width,
    saturated,
    POINT: tl.constexpr,
    ROUNDING: tl.constexpr,
    OVERFLOW: tl.constexpr,
    SIGNED: tl.constexpr,
):
    """The code of code + p / 2^places, or of code + p 2^places; |p| and codes are below 2^(BITS - 2)"""
    if POINT == BELOW:
        floor, total = _rounded(code, p, places, ~((code * 0 - 1) << places), ROUNDING)
    else:
        total = code + (p << places)
        floor = total
    if POINT == FAR:
        free = tl.maximum(p.dtype.primitive_bitwidth - 2 - places, 0)
        far = (tl.abs(p) >> free) != 0
        negative = tl.where(far, p < 0, total < 0)
    else:
        far = total != total
        negative = total < 0
    return _in_range(total, floor, negative, far, lowest, highest, width, saturated, OVERFLOW, SIGNED)


@triton.jit(do_not_specialize=["M", "N", "K", "every", "places", "width", "saturated"])
def quant_matmul_fixed_fwd_kernel(
    x_ptr,
    w_ptr,
    y_ptr,
    numbers,
    M,
    N,
    K,
    every,
    places,
    width,
    saturated,
    POINT: tl.constexpr,
    ROUNDING: tl.constexpr,
    OVERFLOW: tl.constexpr,
    SIGNED: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    GROUPED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Compute the value of code = assigned(code + the exact sum of `every` products) for k in order, for codes x and w.

    The format's parameters are as in triton_fixed.py; the type of the codes is wide enough for sums (`_assigned`).
    """
    S: tl.constexpr = x_ptr.dtype.element_ty
    m, n = _tile(M, N, ROWS, COLUMNS)
    places = places.to(S)
    one = places * 0 + 1
    if SIGNED:
        highest = (one << (width - 1).to(S)) - 1
        lowest = -highest if SYMMETRIC else -highest - 1
    else:
        highest = (one << width.to(S)) - 1
        lowest = one - one
    code = tl.zeros((ROWS, COLUMNS), S)
    for first in range(0, K, every):
        x, w = _factors(x_ptr, w_ptr, first, m, n, M, N, S)
        p = x * w
        if GROUPED:
            for k in range(first + 1, tl.minimum(first + every, K)):
                x, w = _factors(x_ptr, w_ptr, k, m, n, M, N, S)
                p += x * w
        code = _assigned(code, p, places, lowest, highest, width, saturated, POINT, ROUNDING, OVERFLOW, SIGNED)
    bits = code.to(tl.int64).to(tl.uint64, bitcast=True)
    _store(y_ptr, wide_value(bits, tl.load(numbers + 2), True, False), m, n, M, N)
