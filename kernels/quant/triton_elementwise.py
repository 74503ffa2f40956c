"""Rounding an array to a number format element by element: one kernel for all formats without blocks.

A program computes BLOCK contiguous elements; with stochastic rounding, the 4 BLOCK elements of BLOCK counters, so that
no word is generated twice. The format's parameters begin at `numbers` with the replacement of NaN; the formats' files
list the other parameters. Tables follow.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_fixed import fixed, integer, not_lost, sum_of_powers
from .triton_float import small_float
from .triton_modes import (
    COLUMNS,
    FIXED,
    INTEGER,
    LOGARITHMIC,
    ONE,
    POSIT,
    POWERS,
    ROWS,
    SATURATE,
    SMALL_FLOAT,
    STOCHASTIC,
    WIDE_FIXED,
    WIDE_FLOAT,
)
from .triton_other import codes_of, logarithmic, posit, table_index
from .triton_rounding import bits_of, divided, narrowed, random_words, reciprocal, widened
from .triton_wide import wide_fixed, wide_float, wide_value


@triton.jit
def are_powers(scale):
    """Whether scales are normal powers of two"""
    PLACES: tl.constexpr = 52 if scale.dtype == tl.float64 else 23
    exponent = bits_of(scale) >> PLACES
    return (bits_of(scale) == exponent << PLACES) & (exponent > 0)


@triton.jit
def scale_at(scale, offsets, mask, run, count, SHARING: tl.constexpr):
    """The scale (or zero point) of each element i, with index (i // run) % count"""
    if SHARING == ONE:
        return tl.load(scale)
    elif SHARING == ROWS:
        return tl.load(scale + offsets // run, mask=mask, other=1)
    elif SHARING == COLUMNS:
        return tl.load(scale + offsets % count, mask=mask, other=1)
    else:
        return tl.load(scale + (offsets // run) % count, mask=mask, other=1)


@triton.jit
def _quotient(x, s, exact, T: tl.constexpr, INTEGERS: tl.constexpr, MAY_BE_EXACT: tl.constexpr):
    """Return x / s; powers of two are exact scalings, other quotients are rounded to the dtype of x."""
    if MAY_BE_EXACT:
        if exact:
            v = not_lost(x.to(T) * reciprocal(s.to(T)), x.to(T))
        else:
            v = divided(x, s).to(T)
        return v
    elif INTEGERS:
        return divided(x.to(T), s.to(T))
    else:
        return divided(x, s).to(T)


@triton.jit
def _product(y, s, exact, X: tl.constexpr, INTEGERS: tl.constexpr, MAY_BE_EXACT: tl.constexpr):
    T: tl.constexpr = y.dtype
    if MAY_BE_EXACT:
        if exact:
            z = y * s.to(T)
        else:
            z = (y.to(X) * s).to(T)
        return z
    elif INTEGERS:
        return y * s.to(T)
    else:
        return (y.to(X) * s).to(T)


@triton.jit
def _rounded(
    v,
    zero_point,
    words,
    numbers,
    thresholds,
    values,
    k0,
    k1,
    k2,
    KIND: tl.constexpr,
    ROUNDING: tl.constexpr,
    OVERFLOW: tl.constexpr,
    CODES: tl.constexpr,
    SIGNED: tl.constexpr,
    FLAG0: tl.constexpr,
    FLAG1: tl.constexpr,
    FLAG2: tl.constexpr,
    FLAG3: tl.constexpr,
    FLAG4: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Round v to the format; return its value, or its code as a number or as an integer."""
    if KIND == FIXED:
        return fixed(v, words, numbers, ROUNDING, OVERFLOW, SIGNED, FLAG0)
    elif KIND == INTEGER:
        return integer(v, zero_point, words, numbers, ROUNDING, CODES)
    elif KIND == POWERS:
        return sum_of_powers(v, words, numbers, k0, ROUNDING, FLAG1, FLAG0)
    elif KIND == SMALL_FLOAT:
        return small_float(
            v, words, numbers, k0, k1, ROUNDING, OVERFLOW == SATURATE, SIGNED, FLAG0, FLAG1, FLAG2, FLAG3, FLAG4
        )
    elif KIND == WIDE_FLOAT:
        return wide_float(v, words, numbers, k0, k1, ROUNDING, OVERFLOW == SATURATE, SIGNED, FLAG0, FLAG1)
    elif KIND == WIDE_FIXED:
        code = wide_fixed(v, words, k0, k1, k2, ROUNDING, OVERFLOW, SIGNED, FLAG0)
        if CODES:
            return code
        else:
            return tl.where(v != v, v, wide_value(code, tl.load(numbers + 2), SIGNED, FLAG1))
    elif KIND == POSIT:
        return posit(v, words, k0, k1, k2, ROUNDING, CODES)
    elif KIND == LOGARITHMIC:
        return logarithmic(v, numbers, thresholds, values, k0, k1, STEPS, SIGNED, CODES)
    else:
        index = table_index(v, words, thresholds, values, k0, STEPS, ROUNDING == STOCHASTIC)
        if CODES:
            return index
        else:
            return tl.where(v != v, v, tl.load(values + index))


@triton.jit(do_not_specialize=["run", "count", "k0", "k1", "k2", "k3", "k4"])
def quantize_fwd_kernel(
    x_ptr,
    y_ptr,
    scale_ptr,
    zero_ptr,
    powers_ptr,
    seed_ptr,
    missing_ptr,
    numbers,
    thresholds,
    values,
    numel,
    run,
    count,
    k0,
    k1,
    k2,
    k3,
    k4,
    KIND: tl.constexpr,
    ROUNDING: tl.constexpr,
    OVERFLOW: tl.constexpr,
    T: tl.constexpr,
    CODES: tl.constexpr,
    REPLACES: tl.constexpr,
    SIGNED: tl.constexpr,
    FLAG0: tl.constexpr,
    FLAG1: tl.constexpr,
    FLAG2: tl.constexpr,
    FLAG3: tl.constexpr,
    FLAG4: tl.constexpr,
    STEPS: tl.constexpr,
    SHORT: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_ZERO_POINT: tl.constexpr,
    SHARING: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute y = x / scale rounded to the format, times scale, or the codes.

    powers_ptr: whether all scales are powers of two. If missing_ptr is given, it is set to 1 if any x is NaN, which is
    then treated as 0.
    """
    X: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    E: tl.constexpr = y_ptr.dtype.element_ty
    INTEGERS: tl.constexpr = KIND == INTEGER
    MAY_BE_EXACT: tl.constexpr = (KIND == FIXED) | (KIND == POWERS) | (KIND == WIDE_FIXED)
    AS_FLOAT: tl.constexpr = (KIND == SMALL_FLOAT) | (KIND == WIDE_FLOAT)
    RANDOM: tl.constexpr = ROUNDING == STOCHASTIC
    first = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exact = False
    if HAS_SCALE and MAY_BE_EXACT:
        exact = are_powers(tl.load(scale_ptr).to(X)) if SHARING == ONE else tl.load(powers_ptr) != 0
    w0 = tl.zeros((BLOCK,), tl.uint32)
    if RANDOM:
        w0, w1, w2, w3 = random_words(first, tl.load(seed_ptr))
    for w in tl.static_range(4 if RANDOM else 1):
        offsets, words, zero_point = first, w0, 0.0
        if RANDOM:
            offsets = first // 16 * 64 + w * 16 + first % 16
            words = w0 if w == 0 else (w1 if w == 1 else (w2 if w == 2 else w3))
        mask, at = offsets < numel, offsets.to(INDEX)
        x = widened(tl.load(x_ptr + offsets, mask=mask, other=0.0))
        if missing_ptr is not None:
            tl.store(missing_ptr + tl.zeros((BLOCK,), tl.int32), 1, mask=x != x)
            x = tl.where(x != x, 0.0, x)
        if REPLACES:
            x = tl.where(x != x, tl.load(numbers).to(X), x)
        if HAS_ZERO_POINT:
            zero_point = scale_at(zero_ptr, at, mask, run, count, SHARING).to(T)
        v = x.to(T)
        if HAS_SCALE:
            s = scale_at(scale_ptr, at, mask, run, count, SHARING).to(X)
            v = _quotient(x, s, exact, T, INTEGERS, MAY_BE_EXACT)
        y = _rounded(
            v, zero_point, words, numbers, thresholds, values, k0, k1, k2, KIND, ROUNDING, OVERFLOW, CODES, SIGNED,
            FLAG0, FLAG1, FLAG2, FLAG3, FLAG4, STEPS,
        )  # fmt: skip
        if CODES:
            tl.store(y_ptr + offsets, codes_of(y, k0, k1, k2, k3, k4, AS_FLOAT, FLAG0, SHORT, False).to(E), mask=mask)
        else:
            if HAS_SCALE:
                y = _product(y, s, exact, X, INTEGERS, MAY_BE_EXACT)
            tl.store(y_ptr + offsets, narrowed(y, E), mask=mask)
