"""Rounding to integers in every mode, the bits of floats, and the random numbers of stochastic rounding.

The arithmetic, and so every bit, equals that of csrc/quant/cpu/rounding.hpp. Launches disable the fusion of products
and sums. Integers are used where the interpreter and the GPU compilers would compute floats differently.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.random import philox_impl

from .triton_modes import AWAY, DOWN, EVEN, HALF_AWAY, HALF_DOWN, HALF_UP, HALF_ZERO, UP, ZERO

#: Number of bits used of a random word
RANDOM_BITS = tl.constexpr(31)


@triton.jit
def bits_of(x):
    """The bits of floats as signed integers"""
    if x.dtype == tl.float64:
        return x.to(tl.int64, bitcast=True)
    else:
        return x.to(tl.int32, bitcast=True)


@triton.jit
def number_of(bits):
    """The float with these bits"""
    if bits.dtype == tl.int64:
        return bits.to(tl.float64, bitcast=True)
    else:
        return bits.to(tl.float32, bitcast=True)


@triton.jit
def unsigned(bits):
    """The same bits as unsigned integers"""
    if bits.dtype == tl.int64:
        return bits.to(tl.uint64, bitcast=True)
    else:
        return bits.to(tl.uint32, bitcast=True)


@triton.jit
def signed(bits):
    """The same bits as signed integers"""
    if bits.dtype == tl.uint64:
        return bits.to(tl.int64, bitcast=True)
    else:
        return bits.to(tl.int32, bitcast=True)


@triton.jit
def with_sign(magnitude, x):
    """The magnitude with the sign of x"""
    SHIFT: tl.constexpr = 63 if x.dtype == tl.float64 else 31
    sign = (bits_of(x) >> SHIFT) << SHIFT
    return number_of(bits_of(tl.abs(magnitude)) | sign)


@triton.jit
def reciprocal(power):
    """1 / p for a positive normal power of two; for the largest one the result is not normal"""
    TWICE_ONE: tl.constexpr = 2046 << 52 if power.dtype == tl.float64 else 254 << 23
    SUBNORMAL: tl.constexpr = 1 << 51 if power.dtype == tl.float64 else 1 << 22
    return number_of(tl.maximum(TWICE_ONE - bits_of(power), SUBNORMAL))


@triton.jit
def divided(a, b):
    """Return a / b, rounded once, as the float32 operator is not correctly rounded on a GPU."""
    if a.dtype == tl.float64:
        return a / b
    else:
        return tl.div_rn(a, b)


@triton.jit
def cut(x, low, high):
    """Clamp x to the range from low to high; NaN stays NaN."""
    at_least = tl.where(x < low, low, x)
    return tl.where(at_least > high, high, at_least)


# ---- memory ---------------------------------------------------------------------------------------------------------


@triton.jit
def widened(x):
    """Elements of an array as float32, or float64"""
    if x.dtype == tl.bfloat16:
        return number_of(x.to(tl.int16, bitcast=True).to(tl.int32) << 16)
    elif x.dtype == tl.float16:
        return x.to(tl.float32)
    else:
        return x


@triton.jit
def _to_odd(x):
    """Round a double to odd as a float, before it is rounded to 16 bits."""
    near = x.to(tl.float32)
    bits = bits_of(near)
    exact = (near.to(tl.float64) == x) | (x != x) | ((bits & 1) != 0)
    too_large = tl.abs(near.to(tl.float64)) > tl.abs(x)
    return number_of(tl.where(exact, bits, tl.where(too_large, bits - 1, bits + 1)))


@triton.jit
def narrowed(y, ELEMENT: tl.constexpr):
    """Convert float32 or float64 to elements of an array, rounded once."""
    if ELEMENT == tl.float64:
        return y.to(tl.float64)
    elif ELEMENT == tl.float32:
        return y.to(tl.float32)
    else:
        if y.dtype == tl.float64:
            halfway = _to_odd(y)
        else:
            halfway = y
        if ELEMENT == tl.float16:
            return halfway.to(tl.float16)
        else:
            bits = unsigned(bits_of(halfway))
            rounded = (bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16
            brain = tl.where(halfway != halfway, (bits >> 16) | 0x40, rounded)
            return brain.to(tl.uint16).to(tl.bfloat16, bitcast=True)


# ---- integers -------------------------------------------------------------------------------------------------------


@triton.jit
def _nearest(a):
    """Round a magnitude to the nearest integer: adding 2^mantissa leaves no bits for a fraction."""
    LIMIT: tl.constexpr = 4503599627370496.0 if a.dtype == tl.float64 else 8388608.0
    limit = tl.full(a.shape, LIMIT, a.dtype)
    return tl.where(a < limit, (a + limit) - limit, a)  # larger magnitudes, and NaN, have no fraction


@triton.jit
def nearest_even(v):
    """The nearest integer, ties to even"""
    return with_sign(_nearest(tl.abs(v)), v)


@triton.jit
def floor(v):
    """The floor; not tl.floor, which flushes subnormal floats to zero on a GPU"""
    r = nearest_even(v)
    return tl.where(r > v, r - 1.0, r)


@triton.jit
def ceiling(v):
    """The ceiling"""
    r = nearest_even(v)
    return with_sign(tl.where(r < v, r + 1.0, r), v)


@triton.jit
def toward_zero(v):
    """The integer part"""
    a = tl.abs(v)
    r = _nearest(a)
    return with_sign(tl.where(r > a, r - 1.0, r), v)


@triton.jit
def carries(f, words):
    """Whether the fraction f in [0, 1) plus the random number carries, with probability f, truncated to 31 bits"""
    random = words >> 1
    if f.dtype == tl.float64:
        return f * 2147483648.0 >= 2147483648.0 - random.to(tl.float64)
    else:
        scaled = tl.where(f < 1.0, f * 2147483648.0, 2147483648.0)  # NaN cannot be converted to an integer
        return scaled.to(tl.uint32) + random >= 2147483648


@triton.jit
def whole(v, words, ROUNDING: tl.constexpr):
    """Round v to an integer; the remainders that are compared are exact where it matters."""
    if ROUNDING == DOWN:
        return floor(v)
    elif ROUNDING == UP:
        return ceiling(v)
    elif ROUNDING == ZERO:
        return toward_zero(v)
    elif ROUNDING == EVEN:
        return nearest_even(v)
    elif ROUNDING == HALF_UP:
        below = floor(v)
        return tl.where(v - below >= 0.5, below + 1.0, below)
    elif ROUNDING == HALF_DOWN:
        above = ceiling(v)
        return tl.where(above - v >= 0.5, above - 1.0, above)
    else:
        t = toward_zero(v)
        rest = tl.abs(v - t)
        if ROUNDING == HALF_AWAY:
            further = rest >= 0.5
        elif ROUNDING == HALF_ZERO:
            further = rest > 0.5
        elif ROUNDING == AWAY:
            further = t != v
        else:
            further = carries(rest, words)
        return tl.where(further, tl.where(v < 0.0, t - 1.0, t + 1.0), t)


# ---- random numbers -------------------------------------------------------------------------------------------------


@triton.jit
def random_words(counters, seed):
    """The four words of each counter: word w of counter c is for element 64 (c div 16) + 16 w + c mod 16."""
    key = seed.to(tl.uint64, bitcast=True)
    low = (counters & 0xFFFFFFFF).to(tl.uint32)
    high = (counters >> 32).to(tl.uint32)
    zero = low * 0
    key0 = (key & 0xFFFFFFFF).to(tl.uint32)
    key1 = (key >> 32).to(tl.uint32)
    return philox_impl(low, high, zero, zero, key0, key1, 10)


@triton.jit
def random_word(elements, seed):
    """The word of each element, for arbitrary elements"""
    within = elements % 64
    w0, w1, w2, w3 = random_words(elements // 64 * 16 + within % 16, seed)
    word = within // 16
    return tl.where(word < 2, tl.where(word == 0, w0, w1), tl.where(word == 2, w2, w3))
