"""Formats too wide for floating-point arithmetic: doubles are rounded as integers, exactly for all formats."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_modes import (
    AWAY,
    DOWN,
    EVEN,
    HALF_AWAY,
    HALF_DOWN,
    HALF_UP,
    SATURATE,
    STOCHASTIC,
    TO_ZERO,
    UP,
    WRAP,
    WRAP_SOME,
    ZERO,
)
from .triton_rounding import RANDOM_BITS, bits_of, number_of, signed, unsigned


@triton.jit
def _parts(x):
    """Sign, significand and exponent, with x = +-significand 2^exponent"""
    bits = bits_of(tl.abs(x))
    field = bits >> 52
    fraction = bits - (field << 52)
    one = bits * 0 + 1
    significand = unsigned(tl.where(field != 0, fraction + (one << 52), fraction))
    return bits_of(x) < 0, significand, tl.maximum(field, 1) - 1075


@triton.jit
def _without(m, places, negative, odd, words, ROUNDING: tl.constexpr):
    """Round m by dropping its last `places` bits, and return whether any of them was set; m if places < 1."""
    one = m * 0 + 1
    far = places >= 64  # m is then below a quarter
    shift = tl.minimum(tl.maximum(places, 0), 63).to(tl.uint64)
    low_bits = tl.where(far, 0, m >> shift)
    rest = tl.where(far, m, m & ((one << shift) - 1))
    half = tl.where(far, 0xFFFFFFFFFFFFFFFF, (one << shift) >> 1)
    if ROUNDING == DOWN:
        up = negative & (rest != 0)
    elif ROUNDING == UP:
        up = (negative == 0) & (rest != 0)
    elif ROUNDING == ZERO:
        up = rest != rest
    elif ROUNDING == AWAY:
        up = rest != 0
    elif ROUNDING == STOCHASTIC:
        over = places - RANDOM_BITS
        right = tl.minimum(tl.maximum(over, 0), 63).to(tl.uint64)
        left = tl.minimum(tl.maximum(-over, 0), 63).to(tl.uint64)
        fraction = tl.where(over < 64, (rest >> right) << left, 0)
        up = fraction + (words >> 1).to(tl.uint64) >= (one << RANDOM_BITS)
    else:
        if ROUNDING == HALF_UP:
            tie_up = negative == 0
        elif ROUNDING == HALF_DOWN:
            tie_up = negative
        elif ROUNDING == HALF_AWAY:
            tie_up = rest == rest
        elif ROUNDING == EVEN:
            tie_up = odd
        else:
            tie_up = rest != rest
        up = (rest > half) | ((rest == half) & tie_up)
    up = up & (places > 0)
    return low_bits + up.to(tl.uint64), (rest != 0) & (places > 0)


@triton.jit
def wrapped(u, negative, above, width, saturated, OVERFLOW: tl.constexpr, SIGNED: tl.constexpr):
    """Wrap the low bits u of a code out of range, as HLS does; above: bit `width` of the number before rounding."""
    one = u * 0 + 1
    top, low_bits = (width - 1).to(tl.uint64), (width - saturated).to(tl.uint64)
    ones = ((one << top) - 1) * 2 + 1
    low = tl.where(low_bits >= 64, ones, (one << tl.minimum(low_bits, 63)) - 1)
    sign = negative.to(tl.uint64)
    many = tl.maximum(saturated - 1, 0).to(tl.uint64)
    high = tl.where(saturated > 0, ((one << many) - 1 + sign) << tl.minimum(low_bits, 63), 0)
    if (OVERFLOW == WRAP) | (OVERFLOW == WRAP_SOME):
        if SIGNED:
            return tl.where(saturated == 0, u, (u & low) | high)
        else:
            return tl.where(saturated == 0, u, u | (ones ^ low))
    else:
        first = (u >> top) & 1
        at_low = (u >> tl.minimum(low_bits, 63)) & 1
        differs = tl.where(saturated == 1, sign, above) != first
        u = tl.where(tl.where(saturated > 1, at_low == sign, differs), u ^ ones, u)
        return tl.where(saturated > 1, (u & low) | high, u)


@triton.jit
def wide_fixed(
    x,
    words,
    width,
    fraction,
    saturated,
    ROUNDING: tl.constexpr,
    OVERFLOW: tl.constexpr,
    SIGNED: tl.constexpr,
    SYMMETRIC: tl.constexpr,
):
    """The code of a double in fixed point, its low 64 bits; integers of 128 bits are two halves."""
    negative, significand, exponent = _parts(x)
    zero = significand * 0
    one = zero + 1
    up = tl.where(significand != 0, exponent + fraction, 0)
    shift = tl.minimum(tl.maximum(-up, 0), 63).to(tl.uint64)
    odd = (up > -64) & (((significand >> shift) & 1) != 0)
    rounded, inexact = _without(significand, -up, negative, odd, words, ROUNDING)
    left = tl.minimum(tl.maximum(up, 0), 63).to(tl.uint64)
    # The exponent of infinity is so large that it has no low bits.
    low = tl.where(up > 0, tl.where(up > 63, 0, significand << left), rounded)
    high = tl.where(up > 0, tl.where(up > 63, significand, (significand >> 1) >> (63 - left)), 0)
    high = tl.where(up > 64, one << 36, high)
    # Bit `width` of the number rounded down
    low_bits = tl.where(up > 0, low, tl.where(up > -64, significand >> shift, 0))
    borrow = (inexact & negative).to(tl.uint64)
    floor_low = tl.where(negative, zero - low_bits - borrow, low_bits)
    below = tl.where(negative & ((low_bits | borrow) != 0), zero - high - 1, tl.where(negative, zero - high, high))
    above = tl.where(width >= 64, below, floor_low >> tl.minimum(width, 63).to(tl.uint64)) & 1
    # Overflow
    largest = (one << tl.maximum(width - 1, 0).to(tl.uint64)) - 1
    if SIGNED:
        limit = tl.where(negative, largest + (0 if SYMMETRIC else 1), largest)
    else:
        limit = tl.where(negative, zero, largest * 2 + 1)
    out = (high != 0) | (low > limit)
    bits = tl.where(negative, zero - low, low)
    if OVERFLOW == SATURATE:
        fits = tl.where(negative, zero - limit, limit)
    elif OVERFLOW == TO_ZERO:
        fits = zero
    else:
        ones = largest * 2 + 1
        u = wrapped(bits & ones, negative & ((low | high) != 0), above, width, saturated, OVERFLOW, SIGNED)
        if SIGNED:
            fits = tl.where(((u >> (width - 1).to(tl.uint64)) & 1) != 0, u | ~ones, u)
        else:
            fits = u
    return tl.where(out, fits, bits)


@triton.jit
def wide_value(code, from_code, SIGNED: tl.constexpr, TO_ODD: tl.constexpr):
    """The value of a code as a double; TO_ODD: rounded to odd, as it will be rounded once more."""
    if SIGNED:
        negative = signed(code) < 0
        m = tl.where(negative, code * 0 - code, code)
    else:
        negative = code != code
        m = code
    if TO_ODD:
        wide = m >= (m * 0 + (1 << 53))
        m = tl.where(wide, ((m >> 11) | (m != ((m >> 11) << 11)).to(tl.uint64)) << 11, m)
    magnitude = m.to(tl.float64)
    return tl.where(negative, -magnitude, magnitude) * from_code


@triton.jit
def _power(e):
    """2^e for every exponent of doubles, including subnormal numbers"""
    one = e * 0 + 1
    subnormal = one << tl.maximum(e + 1074, 0)
    return number_of(tl.where(e < -1022, tl.where(e < -1074, 0, subnormal), (e + 1023) << 52))


@triton.jit
def wide_float(
    x,
    words,
    c,
    mantissa,
    min_exponent,
    ROUNDING: tl.constexpr,
    SATURATES: tl.constexpr,
    SIGNED: tl.constexpr,
    HAS_ZERO: tl.constexpr,
    MINUS: tl.constexpr,
):
    """Round a double to any small float; parameters from `c` are as in triton_float.py."""
    FIRST: tl.constexpr = 1 if HAS_ZERO else 0
    negative, significand, exponent = _parts(x)
    largest = tl.load(c + 1)
    # The position of the leading bit is that of the significand converted to a double.
    leading = exponent + (bits_of(significand.to(tl.float64)) >> 52) - 1023
    last = tl.maximum(leading, min_exponent) - mantissa
    places = last - exponent
    shift = tl.minimum(tl.maximum(places, 0), 63).to(tl.uint64)
    bare = (mantissa == 0) & (leading >= min_exponent)  # codes number the powers of two
    by_exponent = ((leading - min_exponent + FIRST) & 1) != 0
    odd = tl.where(bare, by_exponent, (places < 64) & (((significand >> shift) & 1) != 0))
    m, _ = _without(significand, places, negative, odd, words, ROUNDING)
    r = tl.where(last > 1023, float("inf"), m.to(tl.float64) * _power(tl.minimum(last, 1023)))
    r = tl.where(negative, -r, r)
    r = tl.where((places > 0) & (significand != 0) & (tl.abs(x) < float("inf")), r, x)
    if SATURATES:
        y = tl.where(r > largest, largest, tl.where(r < -largest, -largest, r))
    else:
        y = tl.where(r > largest, tl.load(c + 2), tl.where(r < -largest, tl.load(c + 3), r))
        y = tl.where(x == float("inf"), tl.load(c + 4), tl.where(x == float("-inf"), tl.load(c + 5), y))
    if not SIGNED:
        y = tl.where(x < 0.0, tl.load(c + 6), y)
        smallest = tl.load(c + 7)
        y = tl.where(y < smallest, smallest, y)
    if not MINUS:
        y = tl.where(y == 0.0, 0.0, y)
    return tl.where(x != x, x, y)
