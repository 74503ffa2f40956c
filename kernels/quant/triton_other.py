"""Posits, tables and logarithms."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_float import float_codes
from .triton_modes import EVEN
from .triton_rounding import RANDOM_BITS, bits_of, carries, cut, divided, number_of, signed, unsigned, with_sign


@triton.jit
def posit(x, words, n, es, max_exponent, ROUNDING: tl.constexpr, CODES: tl.constexpr):
    """Round on the posit's bit string without forming it: see csrc/quant/cpu/posit.cpp and docs/quant/theory.md."""
    PLACES: tl.constexpr = 52 if x.dtype == tl.float64 else 23
    BIAS: tl.constexpr = 1023 if x.dtype == tl.float64 else 127
    BITS: tl.constexpr = 64 if x.dtype == tl.float64 else 32
    S: tl.constexpr = tl.int64 if x.dtype == tl.float64 else tl.int32
    U: tl.constexpr = tl.uint64 if x.dtype == tl.float64 else tl.uint32
    n, es, top = n.to(S), es.to(S), max_exponent.to(S)
    places = PLACES + es
    gap = (BITS - 2 - places).to(U)
    unread = BITS - (n - 1)
    a = tl.abs(x)
    clamped = cut(a, number_of((BIAS - top) << PLACES), number_of((BIAS + top) << PLACES))
    bits = bits_of(clamped) - (BIAS << PLACES)
    k = bits >> places
    below_one = k >> (BITS - 1)
    one = tl.full(x.shape, 1, U)
    prefix = one << (BITS - 1 + below_one).to(U)  # 10 or 01, then exponent and fraction
    t = prefix | (unsigned(bits - (k << places)) << gap)
    regime = unsigned(k ^ below_one)
    dropped = regime + unread.to(U)
    last = one << dropped
    if ROUNDING == EVEN:
        add = (last >> 1) - 1 + ((t >> dropped) & 1)
    else:
        more = signed(dropped) - RANDOM_BITS
        add = ((words >> 1).to(U) << tl.maximum(more, 0).to(U)) >> tl.maximum(-more, 0).to(U)
    rounded = (t + add) & (one * 0 - last)
    if CODES:
        ones = unsigned(signed(rounded) >> signed(regime))  # zeros for strings that begin with 0
        string = tl.where(below_one != 0, rounded >> regime, ones) >> unread.to(U)
        all_codes = tl.full(x.shape, 1, tl.uint64) << n.to(tl.uint64)
        code = string.to(tl.uint64)
        code = tl.where(x < 0.0, all_codes - code, code)
        code = tl.where(a == 0.0, 0, code)
        return tl.where(a < float("inf"), code, all_codes >> 1)
    else:
        base = ((k << es) + BIAS) << PLACES
        y = with_sign(number_of(base + signed((rounded - prefix) >> gap)), x)
        y = tl.where(a == 0.0, 0.0, y)
        return tl.where(a < float("inf"), y, float("nan"))


# ---- tables ---------------------------------------------------------------------------------------------------------


@triton.jit
def find(v, thresholds, count, STEPS: tl.constexpr):
    """The number of the count - 1 thresholds that are at most v, by bisection in STEPS steps"""
    index = tl.zeros(v.shape, tl.int32)
    for k in tl.static_range(STEPS):
        step = 1 << (STEPS - 1 - k)
        probe = index + (step - 1)
        inside = probe < count - 1
        threshold = tl.load(thresholds + probe, mask=inside, other=float("inf"))
        index = tl.where(inside & (v >= threshold), index + step, index)
    return index


@triton.jit
def find_random(v, words, thresholds, values, count, STEPS: tl.constexpr):
    """Round stochastically to one of the two neighbours; thresholds are the values without the first."""
    inside = cut(v, tl.load(values), tl.load(values + count - 1))
    below = find(inside, thresholds, count, STEPS)
    above = tl.minimum(below + 1, count - 1)
    low, high = tl.load(values + below), tl.load(values + above)
    gap = high - low
    f = divided(inside - low, tl.where(gap > 0.0, gap, 1.0))
    return tl.where(carries(f, words), above, below)


@triton.jit
def table_index(v, words, thresholds, values, count, STEPS: tl.constexpr, RANDOM: tl.constexpr):
    """The index of the value that v is rounded to"""
    if RANDOM:
        return find_random(v, words, thresholds, values, count, STEPS)
    else:
        return find(v, thresholds, count, STEPS)


@triton.jit
def logarithmic(
    x, c, thresholds, values, count, min_exponent, STEPS: tl.constexpr, SIGNED: tl.constexpr, CODES: tl.constexpr
):
    """Round to 2^e m with m from the table, clamped to the range; from `c`: 1 most, 6 the sign's code, 7 least."""
    PLACES: tl.constexpr = 52 if x.dtype == tl.float64 else 23
    BIAS: tl.constexpr = 1023 if x.dtype == tl.float64 else 127
    smallest = tl.load(c + 7)
    a = tl.abs(x)
    inside = cut(a, smallest * 0.5, tl.load(c + 1))
    bits = bits_of(inside)
    field = bits >> PLACES
    power = number_of(field << PLACES)
    significand = number_of(bits - ((field - BIAS) << PLACES))
    index = find(significand, thresholds, count, STEPS)
    value = tl.load(values + index) * power
    gone = (value < smallest) | (a == 0.0)
    if not SIGNED:
        gone = gone | (x < 0.0)
    if CODES:
        step = (field - BIAS - min_exponent) * (count - 1) + index + 1
        sign = tl.load(c + 6).to(tl.int64)
        return tl.where(gone, 0, tl.where(x < 0.0, step + sign, step.to(tl.int64)))
    else:
        y = tl.where(gone, 0.0, with_sign(value, x))
        return tl.where(x != x, x, y)


@triton.jit
def codes_of(
    y,
    mantissa,
    min_exponent,
    width,
    nan_code,
    infinity_code,
    AS_FLOAT: tl.constexpr,
    HAS_ZERO: tl.constexpr,
    SHORT: tl.constexpr,
    FINITE: tl.constexpr,
):
    """Convert a kernel's result to integer codes: the bits of small floats, or integers."""
    if AS_FLOAT:
        return float_codes(y, mantissa, min_exponent, width, nan_code, infinity_code, HAS_ZERO, SHORT, FINITE)
    elif y.dtype.is_floating():
        return y.to(tl.int64)
    else:
        return y
