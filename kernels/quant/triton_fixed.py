"""Fixed point with every rounding and overflow mode, in floating-point arithmetic; integers; sums of powers of two.

A format's parameters, from `c`: 1 to_code, 2 from_code, 3 least, 4 most (the extreme codes), 5 low, 6 high (the
replacements beyond them), 7 2^width, 8 2^(width - saturated bits), 9 and 10 the saturated bits of a negative and a
positive number.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_modes import SATURATE, SIGN_MAGNITUDE, SIGN_MAGNITUDE_ONE, TO_ZERO, WRAP, WRAP_SOME
from .triton_rounding import bits_of, cut, floor, nearest_even, number_of, reciprocal, whole, with_sign


@triton.jit
def _turns(v, size):
    """Return v / size; a v too large to have low bits, or infinite, is replaced by a multiple of size."""
    BOUND: tl.constexpr = 1152921504606846976.0 if v.dtype == tl.float64 else 1073741824.0
    return cut(v * reciprocal(size), -BOUND, BOUND)


@triton.jit
def _modulo(v, size):
    t = _turns(v, size)
    return (t - floor(t)) * size


@triton.jit
def _signed_modulo(v, size):
    t = _turns(v, size)
    rest = t - nearest_even(t)
    return tl.where(rest == 0.5, -0.5, rest) * size


@triton.jit
def _inverted_where(m, s):
    """Return s with its bits inverted, which is -1 - s, where m is true."""
    return tl.where(m, -1.0 - s, s)


@triton.jit
def _wrapped(r, v, negative, c, OVERFLOW: tl.constexpr):
    """Wrap codes that are out of range; v is the number before rounding."""
    size, wrapped = tl.load(c + 7), tl.load(c + 8)
    saturated = tl.where(negative, tl.load(c + 9), tl.load(c + 10))
    if OVERFLOW == WRAP_SOME:
        return _modulo(r, wrapped) + saturated
    elif OVERFLOW == SIGN_MAGNITUDE:
        s = _signed_modulo(r, size)
        turns = _turns(floor(v) * 0.5, size)  # the bit above the highest one, before rounding
        return _inverted_where((turns - floor(turns) >= 0.5) != (s < 0.0), s)
    elif OVERFLOW == SIGN_MAGNITUDE_ONE:
        s = _signed_modulo(r, size)
        return _inverted_where(negative != (s < 0.0), s)
    else:
        low = _modulo(r, wrapped * 2.0)
        bit = low >= wrapped
        rest = tl.where(bit, low - wrapped, low)
        return tl.where(bit != negative, rest, wrapped - 1.0 - rest) + saturated


@triton.jit
def _in_range(r, v, c, OVERFLOW: tl.constexpr, SIGNED: tl.constexpr):
    if OVERFLOW == SATURATE:
        return cut(r, tl.load(c + 5), tl.load(c + 6))
    elif OVERFLOW == WRAP:
        if SIGNED:
            return _signed_modulo(r, tl.load(c + 7))
        else:
            return _modulo(r, tl.load(c + 7))
    else:
        out = (r < tl.load(c + 3)) | (r > tl.load(c + 4))
        if OVERFLOW == TO_ZERO:
            return tl.where(out, 0.0, r)
        else:
            return tl.where(out, _wrapped(r, v, r < 0.0, c, OVERFLOW), r)


@triton.jit
def not_lost(v, x):
    """Return v = x / 2^k, but not 0 for a nonzero x far below a step, as directed rounding must see it."""
    tiny = (tl.abs(v) < 8.673617379884035e-19) & (x != 0.0)  # 2^-60
    smallest = tl.full(v.shape, 8.673617379884035e-19, v.dtype)
    return tl.where(tiny, with_sign(smallest, x), v)


@triton.jit
def _scaled(x, to_code, COARSE: tl.constexpr):
    """Return x to_code; COARSE: a step is more than 1, so that x may underflow."""
    v = x * to_code
    if COARSE:
        return not_lost(v, x)
    else:
        return v


@triton.jit
def fixed(x, words, c, ROUNDING: tl.constexpr, OVERFLOW: tl.constexpr, SIGNED: tl.constexpr, COARSE: tl.constexpr):
    """Return overflow(round(x to_code)) from_code; + 0, as there is no -0."""
    v = _scaled(x, tl.load(c + 1), COARSE)
    code = _in_range(whole(v, words, ROUNDING), v, c, OVERFLOW, SIGNED)
    return code * tl.load(c + 2) + 0.0


@triton.jit
def integer(x, zero_point, words, c, ROUNDING: tl.constexpr, CODES: tl.constexpr):
    """Return the code clip(round(x) + zero point), or its value, minus the zero point; parameters: 1 low, 2 high."""
    code = cut(whole(x, words, ROUNDING) + zero_point, tl.load(c + 1), tl.load(c + 2))
    if CODES:
        return code
    else:
        return code - zero_point + 0.0


@triton.jit
def _power(a, NEAREST: tl.constexpr):
    """The power of two at or below a magnitude, or the nearest one: adding half an exponent carries from 1.5."""
    MANTISSA: tl.constexpr = 52 if a.dtype == tl.float64 else 23
    bits = bits_of(a)
    if NEAREST:
        bits = bits + (1 << (MANTISSA - 1))
    return tl.where(a != 0.0, number_of((bits >> MANTISSA) << MANTISSA), 0.0)


@triton.jit
def sum_of_powers(x, words, c, terms, ROUNDING: tl.constexpr, NEAREST: tl.constexpr, COARSE: tl.constexpr):
    """Round to fixed point with saturation, with a code that is the sum of at most ``terms`` powers of two."""
    v = _scaled(x, tl.load(c + 1), COARSE)
    rest = cut(whole(v, words, ROUNDING), tl.load(c + 5), tl.load(c + 6))
    total = rest * 0.0
    for _ in range(terms):
        term = with_sign(_power(tl.abs(rest), NEAREST), rest)
        total += term
        rest -= term
    return tl.where(x != x, x, total * tl.load(c + 2) + 0.0)
