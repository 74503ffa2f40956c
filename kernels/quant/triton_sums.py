"""Sums of an accumulator and a product without an error: of two numbers, and of three in float32.

A product of floats is p + e, p rounded and e exact (Dekker). The sum y + p + e is high + low, where high is rounded and
low is rounded to odd, so that high + low, rounded once more, is rounded as the exact sum (Boldo and Melquiond): to the
nearest float, or to odd for formats with two bits less. docs/quant/fixed_theory.md has the conditions.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_rounding import bits_of, number_of


@triton.jit
def sum_with_error(a, b):
    """(a + b rounded, its exact error); the error is NaN if the sum is not finite"""
    total = a + b
    from_b = total - a
    return total, (a - (total - from_b)) + (b - from_b)


@triton.jit
def sum_to_odd(a, b):
    """Return a + b; if the sum is not a number of the type, the odd one of its two neighbours."""
    SIGN: tl.constexpr = 63 if a.dtype == tl.float64 else 31
    total, error = sum_with_error(a, b)
    bits = bits_of(total)
    outward = ((bits ^ bits_of(error)) >> SIGN) | 1  # 1 away from zero, -1 toward it
    return number_of(tl.where((tl.abs(error) > 0.0) & ((bits & 1) == 0), bits + outward, bits))


@triton.jit
def halves(x):
    """x as the sum of two numbers of 12 bits, whose products are exact"""
    scaled = x * 4097.0
    high = scaled - (scaled - x)
    return high, x - high


@triton.jit
def add_product(y, x, w):
    """(high, low) with high + low = y + x w up to the rounding of low to odd, for x (M, 1) and w (1, N)"""
    x_high, x_low = halves(x)
    w_high, w_low = halves(w)
    p = x * w
    e = ((x_high * w_high - p) + x_high * w_low + x_low * w_high) + x_low * w_low
    near, rest = sum_with_error(y, e)
    high, more = sum_with_error(p, near)
    low = sum_to_odd(rest, more)
    return high, tl.where(tl.abs(high) < float("inf"), low, 0.0)


@triton.jit
def signed_zero(total, y, x, w):
    """The total, but a zero with the sign of the zero y + x w"""
    return tl.where(total == 0.0, x * w + y, total)
