"""Formats whose elements share a scale: it follows from the largest magnitude of a block, then elements are rounded.

A program computes ROWS blocks, each in a row of WIDE elements, padded if the block is shorter. Blocks do not cross rows
of n elements. DENSE: blocks have WIDE elements and divide rows evenly, so that the elements of a program are
contiguous. A format's parameters, from `c`: 0 the replacement of NaN, 1 most, 2 to_code, 3 from_code.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_float import to_significand
from .triton_modes import AWAY, DOWN, EVEN, MX, NVFP4, STOCHASTIC, TABLE, UP
from .triton_other import codes_of, table_index
from .triton_rounding import (
    bits_of,
    cut,
    divided,
    narrowed,
    number_of,
    random_word,
    random_words,
    whole,
    widened,
    with_sign,
)


@triton.jit
def _power(k):
    """2^k; for floats also 2^-127, which is subnormal"""
    PLACES: tl.constexpr = 52 if k.dtype == tl.int64 else 23
    BIAS: tl.constexpr = 1023 if k.dtype == tl.int64 else 127
    field = k + BIAS
    return number_of(tl.where(field == 0, 1 << (PLACES - 1), field << PLACES))


@triton.jit
def _power_scale(largest, carry, max_exponent):
    """The k of the scale 2^k: the exponent of the largest magnitude, rounded up by `carry`, minus max_exponent"""
    PLACES: tl.constexpr = 52 if largest.dtype == tl.int64 else 23
    BIAS: tl.constexpr = 1023 if largest.dtype == tl.int64 else 127
    exponent = ((largest + carry) >> PLACES) - (BIAS + max_exponent)
    return tl.minimum(tl.maximum(exponent, -127), 127).to(largest.dtype)


@triton.jit
def _float_scale(largest, g):
    """The scale s in e4m3fn, from (largest / 6) / g, and its code; every operation rounds once."""
    PLACES: tl.constexpr = 52 if largest.dtype == tl.int64 else 23
    BIAS: tl.constexpr = 1023 if largest.dtype == tl.int64 else 127
    a = number_of(largest)
    sixth = divided(a, tl.full(a.shape, 6.0, a.dtype))
    wanted = cut(divided(sixth, g), 0.001953125, 448.0)
    wanted = tl.where(wanted == wanted, wanted, 448.0)  # for a block with NaN or infinity
    zero = largest.to(tl.uint32) * 0
    three = tl.full(a.shape, 3, tl.int32)
    s = to_significand(wanted, zero, three, three - 9, EVEN, False, True, True)
    field = (bits_of(s) >> (PLACES - 3)) - ((BIAS - 7) << 3)
    return s, tl.where(s < 0.015625, (s * 512.0).to(largest.dtype), field)


@triton.jit
def _words(first, offsets, seed, ROWS: tl.constexpr, WIDE: tl.constexpr, DENSE: tl.constexpr):
    """The random words of a tile; DENSE: its elements are contiguous, starting at `first`."""
    if DENSE and ROWS * WIDE % 64 == 0:
        COUNTERS: tl.constexpr = ROWS * WIDE // 4
        w0, w1, w2, w3 = random_words(first // 4 + tl.arange(0, COUNTERS), seed)
        four = tl.join(tl.join(w0, w2), tl.join(w1, w3)).reshape(COUNTERS // 16, 16, 4)
        return tl.permute(four, (0, 2, 1)).reshape(ROWS, WIDE)
    else:
        return random_word(offsets, seed)


@triton.jit
def _lost(v, x, ROUNDING: tl.constexpr):
    """Return v, but not 0 for a nonzero x whose quotient underflows, as directed rounding must see it."""
    if (ROUNDING == UP) | (ROUNDING == DOWN) | (ROUNDING == AWAY):
        SMALLEST: tl.constexpr = 1 << 52 if x.dtype == tl.float64 else 1 << 23
        smallest = number_of(bits_of(x) * 0 + SMALLEST)
        return tl.where((v == 0.0) & (x != 0.0), with_sign(smallest, x), v)
    else:
        return v


@triton.jit
def _power_block(
    x,
    largest,
    words,
    c,
    carry,
    max_exponent,
    mantissa,
    min_exponent,
    KIND: tl.constexpr,
    ROUNDING: tl.constexpr,
    CODES: tl.constexpr,
    MINUS: tl.constexpr,
):
    """Return element(x 2^-k) 2^k for floats or integers as elements, and the codes of the scales."""
    k = _power_scale(largest, carry, max_exponent)
    v = _lost(x * _power(-k)[:, None], x, ROUNDING)
    bound = tl.load(c + 1)
    if KIND == MX:
        q = cut(to_significand(v, words, mantissa, min_exponent, ROUNDING, False, True, MINUS), -bound, bound)
    else:
        q = cut(whole(v * tl.load(c + 2), words, ROUNDING), -bound, bound) * tl.load(c + 3) + 0.0
    if CODES:
        return q, k + 127
    else:
        return q * _power(k)[:, None], k + 127


@triton.jit
def _float_block(x, largest, words, c, g, mantissa, min_exponent, ROUNDING: tl.constexpr, CODES: tl.constexpr):
    """((e2m1(x / (s g))) s) g, and the codes of s"""
    s, code = _float_scale(largest, g)
    v = divided(x, (s * g)[:, None])
    bound = tl.load(c + 1)
    q = cut(to_significand(v, words, mantissa, min_exponent, ROUNDING, False, True, True), -bound, bound)
    if CODES:
        return q, code
    else:
        return q * s[:, None] * g, code


@triton.jit
def _table_block(
    x,
    largest,
    words,
    thresholds,
    values,
    count,
    STEPS: tl.constexpr,
    ROUNDING: tl.constexpr,
    CODES: tl.constexpr,
):
    """Return value(x / a) a for the largest magnitude a; codes are indices."""
    a = number_of(largest)
    bad = (a < float("inf")) == 0
    v = divided(x, tl.where(a > 0.0, a, 1.0)[:, None])
    index = table_index(v, words, thresholds, values, count, STEPS, ROUNDING == STOCHASTIC)
    scale = tl.where(bad, float("nan"), a)
    if CODES:
        return tl.where(bad[:, None], 0, index), scale
    else:
        return tl.load(values + index) * scale[:, None] + 0.0, scale


@triton.jit(
    do_not_specialize=["blocks", "n", "per_line", "size", "carry", "max_exponent", "k0", "k1", "k2", "k3", "k4"]
)
def quantize_blocks_fwd_kernel(
    x_ptr,
    y_ptr,
    scales_ptr,
    g_ptr,
    seed_ptr,
    numbers,
    thresholds,
    values,
    blocks,
    n,
    per_line,
    size,
    carry,
    max_exponent,
    k0,
    k1,
    k2,
    k3,
    k4,
    KIND: tl.constexpr,
    ROUNDING: tl.constexpr,
    T: tl.constexpr,
    CODES: tl.constexpr,
    REPLACES: tl.constexpr,
    MINUS: tl.constexpr,
    STEPS: tl.constexpr,
    SHORT: tl.constexpr,
    DENSE: tl.constexpr,
    ROWS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Compute y = x rounded block by block, or its codes and those of the scales."""
    begin = tl.program_id(0).to(tl.int64) * ROWS
    block = begin + tl.arange(0, ROWS)
    place = tl.arange(0, WIDE)
    if DENSE:
        offsets = (block * WIDE)[:, None] + place[None, :]
        mask = (block < blocks)[:, None] & (place >= 0)[None, :]
    else:
        start = block % per_line * size
        offsets = (block // per_line * n + start)[:, None] + place[None, :]
        mask = (block < blocks)[:, None] & (place[None, :] < tl.minimum(size, n - start)[:, None])
    x = widened(tl.load(x_ptr + offsets, mask=mask, other=0.0)).to(T)
    if REPLACES:
        x = tl.where(x != x, tl.load(numbers), x)
    magnitudes = bits_of(tl.abs(x))
    largest = tl.max(magnitudes, 1)  # compares bits: those of NaN are above those of infinity
    words = offsets.to(tl.uint32)
    if ROUNDING == STOCHASTIC:
        words = _words(begin * WIDE, offsets, tl.load(seed_ptr), ROWS, WIDE, DENSE)
    if KIND == TABLE:
        y, scale = _table_block(x, largest, words, thresholds, values, k0, STEPS, ROUNDING, CODES)
    else:
        INFINITY: tl.constexpr = 2047 << 52 if T == tl.float64 else 255 << 23
        if KIND == NVFP4:
            g = tl.load(g_ptr).to(x_ptr.dtype.element_ty if x_ptr.dtype.element_ty == tl.float64 else tl.float32).to(T)
            y, code = _float_block(x, largest, words, numbers, g, k0, k1, ROUNDING, CODES)
        else:
            y, code = _power_block(
                x, largest, words, numbers, carry, max_exponent, k0, k1, KIND, ROUNDING, CODES, MINUS
            )
        is_nan = largest > INFINITY if KIND == NVFP4 else largest >= INFINITY
        y = tl.where(is_nan[:, None], 0.0 if CODES else float("nan"), y)
        scale = tl.where(is_nan, 127 if KIND == NVFP4 else 255, code)
    E: tl.constexpr = y_ptr.dtype.element_ty
    if CODES:
        AS_FLOAT: tl.constexpr = (KIND == MX) | (KIND == NVFP4)
        tl.store(y_ptr + offsets, codes_of(y, k0, k1, k2, k3, k4, AS_FLOAT, True, SHORT, True).to(E), mask=mask)
        tl.store(scales_ptr + block, scale.to(scales_ptr.dtype.element_ty), mask=block < blocks)
    else:
        tl.store(y_ptr + offsets, narrowed(y, E), mask=mask)
