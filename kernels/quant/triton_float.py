"""Small floats with every rounding and overflow mode and every set of special values, and their codes.

A format's parameters, from `c`: 1 most, 2 over, 3 under, 4 infinite, 5 minus infinite, 6 negative, 7 least.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_modes import AWAY, DOWN, EVEN, HALF_AWAY, STOCHASTIC, UP
from .triton_rounding import RANDOM_BITS, bits_of, cut, number_of, unsigned, whole, with_sign


@triton.jit
def to_significand(
    x,
    words,
    mantissa,
    min_exponent,
    ROUNDING: tl.constexpr,
    BARE: tl.constexpr,
    HAS_ZERO: tl.constexpr,
    MINUS: tl.constexpr,
):
    """Round x / 2^e to an integer, times 2^e, the value of the last bit. BARE: no mantissa; MINUS: there is -0."""
    PLACES: tl.constexpr = 52 if x.dtype == tl.float64 else 23
    BIAS: tl.constexpr = 1023 if x.dtype == tl.float64 else 127
    S: tl.constexpr = tl.int64 if x.dtype == tl.float64 else tl.int32
    mantissa, min_exponent = mantissa.to(S), min_exponent.to(S)
    # Without a mantissa the factor for 2^bias is not a normal number; 2^bias exceeds the format's range.
    LARGEST: tl.constexpr = 2 * BIAS - 1 if BARE else 2 * BIAS
    field = (bits_of(x) >> PLACES) & (2 * BIAS + 1)
    field = tl.minimum(tl.maximum(field, min_exponent + BIAS), LARGEST)
    v = x * number_of((2 * BIAS + mantissa - field) << PLACES)
    r = whole(v, words, ROUNDING)
    if BARE and ROUNDING == EVEN:
        # Codes number the powers of two: the tie 1.5 goes to the lower power if its code is even.
        FIRST: tl.constexpr = 1 if HAS_ZERO else 0
        odd = (field & 1) != 0
        down_where_odd = ((min_exponent + BIAS) & 1) != FIRST
        lower = (tl.abs(v) == 1.5) & (odd == down_where_odd)
        r = tl.where(lower, with_sign(tl.full(v.shape, 1.0, v.dtype), v), r)
    y = with_sign(r, x) * number_of((field - mantissa) << PLACES)
    if MINUS:
        return y
    else:
        return y + 0.0


@triton.jit
def without_bits(x, words, dropped, ROUNDING: tl.constexpr):
    """Round x by dropping its last bits, for a format with the exponents of x's own dtype, including subnormals."""
    S: tl.constexpr = tl.int64 if x.dtype == tl.float64 else tl.int32
    SIGN: tl.constexpr = 63 if x.dtype == tl.float64 else 31
    dropped = dropped.to(S)
    one = tl.full(x.shape, 1, S)
    sign = (bits_of(x) >> SIGN) << SIGN
    b = bits_of(tl.abs(x))
    last = one << dropped
    half = last >> 1
    if ROUNDING == EVEN:
        add = half - 1 + ((b >> dropped) & 1)
    elif ROUNDING == HALF_AWAY:
        add = half
    elif ROUNDING == AWAY:
        add = last - 1
    elif ROUNDING == DOWN:
        add = tl.where(sign != 0, last - 1, 0)
    elif ROUNDING == UP:
        add = tl.where(sign == 0, last - 1, 0)
    elif ROUNDING == STOCHASTIC:
        r = (words >> 1).to(S)
        add = (r >> tl.maximum(RANDOM_BITS - dropped, 0)) << tl.maximum(dropped - RANDOM_BITS, 0)
    else:
        add = last * 0
    y = number_of(((b + add) & -last) | sign)
    return tl.where((x != x) | (dropped == 0), x, y)


@triton.jit
def signed_range(
    y, x, largest, over, under, infinite, minus_infinite, SATURATES: tl.constexpr, INFINITY_DIFFERS: tl.constexpr
):
    """Apply the range of a signed format to a rounded x."""
    if SATURATES:
        y = cut(y, -largest, largest)
    else:
        y = tl.where(y > largest, over, tl.where(y < -largest, under, y))
        if INFINITY_DIFFERS:
            y = tl.where(x == float("inf"), infinite, tl.where(x == float("-inf"), minus_infinite, y))
    return y


@triton.jit
def _in_range(y, x, c, SATURATES: tl.constexpr, SIGNED: tl.constexpr, INFINITY_DIFFERS: tl.constexpr):
    largest, over, under = tl.load(c + 1), tl.load(c + 2), tl.load(c + 3)
    y = signed_range(y, x, largest, over, under, tl.load(c + 4), tl.load(c + 5), SATURATES, INFINITY_DIFFERS)
    if SIGNED:
        return y
    else:
        above = tl.where(x < 0.0, tl.load(c + 6), y)
        smallest = tl.load(c + 7)
        return tl.where(above < smallest, smallest, above)


@triton.jit
def small_float(
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
    OWN: tl.constexpr,
    INFINITY_DIFFERS: tl.constexpr,
    BARE: tl.constexpr,
):
    """Round x to a small float; OWN: the format has the exponents of x's dtype."""
    PLACES: tl.constexpr = 52 if x.dtype == tl.float64 else 23
    if OWN:
        y = without_bits(x, words, PLACES - mantissa, ROUNDING)
        if not MINUS:
            y = tl.where(y == 0.0, 0.0, y)
    else:
        y = to_significand(x, words, mantissa, min_exponent, ROUNDING, BARE, HAS_ZERO, MINUS)
    return _in_range(y, x, c, SATURATES, SIGNED, INFINITY_DIFFERS)


@triton.jit
def _any_body(a, mantissa, min_exponent, HAS_ZERO: tl.constexpr):
    """Exponent and mantissa of a magnitude in any format"""
    PLACES: tl.constexpr = 52 if a.dtype == tl.float64 else 23
    BIAS: tl.constexpr = 1023 if a.dtype == tl.float64 else 127
    FIRST: tl.constexpr = 1 if HAS_ZERO else 0
    field = bits_of(a) >> PLACES
    fraction = bits_of(a) - (field << PLACES)
    significand = tl.where(field != 0, fraction + (1 << PLACES), fraction)
    below = min_exponent - (tl.maximum(field, 1) - BIAS)
    if PLACES == 52:
        # Subnormal doubles may be normal numbers of the format: the leading bit's position is that of the integer.
        up = 52 + 1023 - (bits_of(significand.to(tl.float64)) >> 52)
        up = tl.where((below < 0) & (field == 0) & (fraction != 0), up, 0)
        significand = significand << up
        fraction = tl.where(up > 0, significand - (1 << PLACES), fraction)
        below = below + up
    shift = PLACES - mantissa + below  # for subnormal numbers, multiples of the smallest normal number's last bit
    subnormal = significand >> tl.minimum(tl.maximum(shift, 0), PLACES + 1)
    normal = ((FIRST - below) << mantissa) + (fraction >> (PLACES - mantissa))
    return tl.where((below > 0) | (significand < (1 << PLACES)), subnormal, normal)


@triton.jit
def float_codes(
    y,
    mantissa,
    min_exponent,
    width,
    nan_code,
    infinity_code,
    HAS_ZERO: tl.constexpr,
    SHORT: tl.constexpr,
    FINITE: tl.constexpr,
):
    """Return the codes (sign, exponent and mantissa) of numbers of the format; FINITE: all of them are finite.

    SHORT: multiplied by 2^(1 - bias of the dtype - min_exponent), normal and subnormal numbers become the dtype's own.
    """
    PLACES: tl.constexpr = 52 if y.dtype == tl.float64 else 23
    BIAS: tl.constexpr = 1023 if y.dtype == tl.float64 else 127
    S: tl.constexpr = tl.int64 if y.dtype == tl.float64 else tl.int32
    U: tl.constexpr = tl.uint64 if y.dtype == tl.float64 else tl.uint32
    mantissa, min_exponent, a = mantissa.to(S), min_exponent.to(S), tl.abs(y)
    if SHORT:
        code = bits_of(a * number_of((1 - min_exponent) << PLACES)) >> (PLACES - mantissa)
    else:
        code = _any_body(a, mantissa, min_exponent, HAS_ZERO)
    has_sign = bits_of(y) < 0
    if not FINITE:
        infinity = tl.full(y.shape, (2 * BIAS + 1) << PLACES, S)
        special = tl.where(bits_of(a) > infinity, nan_code.to(S), infinity_code.to(S))
        code = tl.where(bits_of(a) >= infinity, special, code)
        has_sign = has_sign & (bits_of(a) <= infinity)
    return unsigned(code) | (has_sign.to(U) << (width - 1).to(U))
