"""Matrix products whose accumulator is rounded between terms: a program has a tile and loops over k in order.

x (K, M) and w (K, N) are contiguous, so that each step reads contiguous memory. Sums are rounded once: in floating
point they are first rounded to odd, in float32 if it holds them, else as doubles (docs/quant/fixed_theory.md); in fixed
point they are integers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_float import signed_range, to_significand, without_bits
from .triton_modes import BELOW, DOWN, FAR, HALF_AWAY, HALF_DOWN, HALF_UP, HALF_ZERO, SATURATE, TO_ZERO, WRAP, ZERO
from .triton_rounding import signed, unsigned
from .triton_sums import add_product, signed_zero, sum_to_odd
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
def _to_format(
    total,
    numbers,
    mantissa,
    min_exponent,
    ROUNDING: tl.constexpr,
    SATURATES: tl.constexpr,
    MINUS: tl.constexpr,
    INFINITY_DIFFERS: tl.constexpr,
    BARE: tl.constexpr,
    OWN: tl.constexpr,
):
    """Round a sum to the small float; OWN: it has the exponents of the sum's type."""
    T: tl.constexpr = total.dtype
    highest, over, under = tl.load(numbers + 1).to(T), tl.load(numbers + 2).to(T), tl.load(numbers + 3).to(T)
    infinite, minus_infinite = tl.load(numbers + 4).to(T), tl.load(numbers + 5).to(T)
    if OWN:
        y = without_bits(total, 0, 23 - mantissa, ROUNDING)
        if not MINUS:
            y = y + 0.0
    else:
        y = to_significand(total, 0, mantissa, min_exponent, ROUNDING, BARE, True, MINUS)
    return signed_range(y, total, highest, over, under, infinite, minus_infinite, SATURATES, INFINITY_DIFFERS)


@triton.jit
def _sums_in_float32(
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
    OWN: tl.constexpr,
    WHOLE: tl.constexpr,
    GROUPED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Compute a tile of the kernel below with sums of three float32 numbers, none of which leaves its range.

    WHOLE: the format is float32 itself, so that all sums are rounded in the same way.
    """
    m, n = _tile(M, N, ROWS, COLUMNS)
    y = tl.zeros((ROWS, COLUMNS), tl.float32)
    if WHOLE:
        for k in range(K):
            x, w = _factors(x_ptr, w_ptr, k, m, n, M, N, tl.float32)
            high, low = add_product(y, x, w)
            y = signed_zero(high + low, y, x, w)
        if not MINUS:
            y = y + 0.0
    else:
        for first in range(0, K, every):
            if GROUPED:
                for k in range(first, tl.minimum(first + every, K) - 1):
                    x, w = _factors(x_ptr, w_ptr, k, m, n, M, N, tl.float32)
                    high, low = add_product(y, x, w)
                    y = signed_zero(high + low, y, x, w)
            x, w = _factors(x_ptr, w_ptr, tl.minimum(first + every, K) - 1, m, n, M, N, tl.float32)
            high, low = add_product(y, x, w)
            total = signed_zero(sum_to_odd(high, low), y, x, w)
            y = _to_format(
                total, numbers, mantissa, min_exponent, ROUNDING, SATURATES, MINUS, INFINITY_DIFFERS, BARE, OWN
            )
    _store(y_ptr, y, m, n, M, N)


@triton.jit
def _sums_in_float64(
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
    """Compute a tile of the kernel below with sums of two float64 numbers."""
    m, n = _tile(M, N, ROWS, COLUMNS)
    y = tl.zeros((ROWS, COLUMNS), tl.float64)
    for first in range(0, K, every):
        if GROUPED:
            for k in range(first, tl.minimum(first + every, K) - 1):
                x, w = _factors(x_ptr, w_ptr, k, m, n, M, N, tl.float64)
                if y_ptr.dtype.element_ty == tl.float64:
                    y = x * w + y
                else:
                    y = sum_to_odd(x * w, y).to(tl.float32).to(tl.float64)
        x, w = _factors(x_ptr, w_ptr, tl.minimum(first + every, K) - 1, m, n, M, N, tl.float64)
        total = sum_to_odd(x * w, y)  # the product is exact: float32 has 24 bits
        y = _to_format(
            total, numbers, mantissa, min_exponent, ROUNDING, SATURATES, MINUS, INFINITY_DIFFERS, BARE, False
        )
    _store(y_ptr, y, m, n, M, N)


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
    narrow,
    ROUNDING: tl.constexpr,
    SATURATES: tl.constexpr,
    MINUS: tl.constexpr,
    INFINITY_DIFFERS: tl.constexpr,
    BARE: tl.constexpr,
    OWN: tl.constexpr,
    WHOLE: tl.constexpr,
    GROUPED: tl.constexpr,
    NARROW: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Compute y = round(y + x w) for k in order.

    Every `every`-th sum and the last one are rounded to the small float, the others to the dtype of y. The format's
    parameters are as in triton_float.py; GROUPED: `every` is more than 1. narrow: a flag whether float32 holds all sums
    without an error, or None if it cannot for this format; a launch whose NARROW differs from the flag does nothing.
    """
    is_mine = True
    if narrow is not None:
        is_mine = tl.load(narrow).to(tl.int32) == (1 if NARROW else 0)
    if is_mine:
        if NARROW:
            _sums_in_float32(
                x_ptr, w_ptr, y_ptr, numbers, M, N, K, every, mantissa, min_exponent,
                ROUNDING, SATURATES, MINUS, INFINITY_DIFFERS, BARE, OWN, WHOLE, GROUPED, ROWS, COLUMNS,
            )  # fmt: skip
        else:
            _sums_in_float64(
                x_ptr, w_ptr, y_ptr, numbers, M, N, K, every, mantissa, min_exponent,
                ROUNDING, SATURATES, MINUS, INFINITY_DIFFERS, BARE, GROUPED, ROWS, COLUMNS,
            )  # fmt: skip


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
