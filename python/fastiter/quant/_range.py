"""The range of a format: its extreme numbers, and the extreme inputs that are still in range after rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ._block_formats import MX, NVFP4, BlockFloat, block_of
from ._check import check_format
from ._formats import Fixed, Float, Format, Int
from ._other_formats import Logarithmic, Posit, PowerOfTwo, SumOfPowers, Table
from ._quantize import quantize


class Range(NamedTuple):
    """The lowest and the highest finite number of a format, and the smallest positive one."""

    lowest: float
    highest: float
    smallest: float


def range_of(fmt: Format | str) -> Range:
    """Return the lowest, highest and smallest positive number of a format (for an :class:`Int`, with scale 1).

    For a format with blocks, over all scales; for a table with blocks, in a block whose largest magnitude is 1.

    Examples
    --------
    >>> from fastiter.quant import range_of
    >>> range_of("fixed<8,4>")
    Range(lowest=-8.0, highest=7.9375, smallest=0.0625)
    >>> range_of("e4m3fn").highest, range_of("posit<8,0>").smallest
    (448.0, 0.015625)
    """
    fmt = check_format("range_of", fmt)
    if isinstance(fmt, SumOfPowers):
        top = fmt.fixed.max_code
        # The power nearest to the largest code is the next one above; a second, negative term leads back to the code.
        most = top + (fmt.terms == 1 < top) if fmt.method == "NEAREST" else _highest_sum(top, fmt.terms)
        step = float(fmt.fixed.step)
        return Range(-float(top + 1) * step if fmt.signed else 0.0, most * step, step)
    if isinstance(fmt, Fixed):
        step = float(fmt.step)
        low = -fmt.max_code if fmt.overflow == "SAT_SYM" and fmt.signed else fmt.min_code
        return Range(low * step, fmt.max_code * step, step)
    if isinstance(fmt, Int):
        return Range(float(fmt.min_code), float(fmt.max_code), 1.0)
    if isinstance(fmt, Table):
        return Range(fmt.values[0], fmt.values[-1], min((v for v in fmt.values if v > 0), default=math.nan))
    high, small = _magnitudes(fmt)
    signed = getattr(fmt, "signed", True)
    lowest = -high if signed else small if isinstance(fmt, Float) and not fmt.subnormals else 0.0
    return Range(lowest, high, small)


def _highest_sum(top: int, terms: int) -> int:
    """Return the highest sum of at most ``terms`` powers of two up to a code whose bits are all ones."""
    bits = top.bit_length()
    return top - ((1 << max(bits - terms, 0)) - 1)


def _magnitudes(fmt: Format) -> tuple[float, float]:
    """Return the largest and the smallest positive number."""
    if isinstance(fmt, Float):
        places = fmt.mantissa if fmt.subnormals and fmt.mantissa else 0
        return float(fmt.max_value), 2.0 ** (fmt.min_exponent - places)
    if isinstance(fmt, MX):
        high, small = _magnitudes(fmt.element)
        return high * 2.0**127, small * 2.0**-127
    if isinstance(fmt, NVFP4):
        return 6.0 * 448.0, 0.5 * 2.0**-9
    if isinstance(fmt, BlockFloat):
        return fmt.max_code * 2.0 ** (129 - fmt.width), 2.0 ** (-125 - fmt.width)
    if isinstance(fmt, Posit):
        return 2.0**fmt.max_exponent, 2.0**-fmt.max_exponent
    assert isinstance(fmt, (PowerOfTwo, Logarithmic))
    return 2.0**fmt.highest, 2.0**fmt.lowest


@lru_cache(maxsize=1024)
def limits(fmt: Format, dtype: str, zero_point: int) -> tuple[float, float]:
    """Return the lowest and the highest number of the dtype that is in range after rounding.

    With stochastic rounding, whose results vary, those between the format's extremes. Found by bisection with the
    kernel's own overflow count, so that no format and no rounding needs a formula of its own.
    """
    kind = np.dtype(dtype).type
    span = range_of(fmt)
    low, high = span.lowest - zero_point, span.highest - zero_point
    if fmt.stochastic:
        ends = (fmt.min_code * fmt.step, fmt.max_code * fmt.step) if isinstance(fmt, Fixed) else (low, high)
        return _not_beyond(low, ends[0], kind), _not_beyond(high, ends[1], kind)

    def fits(x: np.floating[Any]) -> bool:
        zero = zero_point if isinstance(fmt, Int) else None
        y, counts = quantize(np.array([x], dtype), fmt, zero_point=zero, nan="keep", counts=True)
        return counts.overflow == 0 and bool(np.isfinite(y[0]))

    most = np.finfo(dtype).max
    middle = kind(np.clip(low, -most, most) / 2 + np.clip(high, -most, most) / 2)
    return _last(fits, middle, -most), _last(fits, middle, most)


def _not_beyond(near: float, end: Fraction | float, kind: Any) -> float:
    """Return the number of a dtype nearest to the end of a range and not beyond it."""
    with np.errstate(over="ignore", under="ignore"):
        found = float(kind(near))
    if math.isinf(found) or abs(Fraction(found)) > abs(Fraction(end)):
        found = float(np.nextafter(kind(found), kind(0)))
    return found


def is_limited(fmt: Format, clip: bool, has_scale: bool) -> bool:
    """Say whether a gradient depends on which numbers are in range: dx with ``clip``, or the scale's gradient.

    A saturated number does not vary with x / scale. A wrapped one does, like a number in range, so only a clipped
    gradient distinguishes them. The range of a block follows x.
    """
    if block_of(fmt):
        return False
    wraps = isinstance(fmt, Fixed) and fmt.overflow.startswith("WRAP") and fmt.saturated_bits < fmt.width
    return clip or (has_scale and not wraps)


def holding_shift(low: float, high: float, ends: tuple[float, float]) -> int | None:
    """Return the least k with low and high within 2^k times the ends, None if any k will do."""
    needed = [
        math.frexp(x)[1] - math.frexp(end)[1] + (abs(math.frexp(x)[0]) > abs(math.frexp(end)[0]))
        for x, end in ((low, ends[0]), (high, ends[1]))
        if x and end and (x > 0) == (end > 0)
    ]
    return max(needed, default=None)


def scaled_limits(fmt: Format, dtype: str, zero_point: int, scale: float) -> tuple[float, float]:
    """Return the lowest and the highest x for which x / scale, rounded to the dtype, is within the limits."""
    kind = np.dtype(dtype).type
    low, high = limits(fmt, dtype, zero_point)
    step = kind(scale)
    with np.errstate(over="ignore", under="ignore"):
        return _edge(kind(low), step, kind(-np.inf)), _edge(kind(high), step, kind(np.inf))


def _edge(limit: Any, scale: Any, outward: Any) -> float:
    """Return the outermost x for which x / scale is within the limit; it is near their product, which is rounded."""
    x, beyond = limit * scale, np.less if outward < 0 else np.greater
    while np.isfinite(x) and not beyond(np.nextafter(x, outward) / scale, limit):
        x = np.nextafter(x, outward)
    while beyond(x / scale, limit):
        x = np.nextafter(x, -outward)
    return float(x)


def _last(fits: Callable[[np.floating[Any]], bool], start: np.floating[Any], end: np.floating[Any]) -> float:
    """Return the last number from ``start`` towards ``end`` that fits; all before it do."""
    if fits(end):
        return float(end)
    inside, outside = _rank(start), _rank(end)
    while abs(outside - inside) > 1:
        middle = (inside + outside) // 2
        if fits(_ranked(middle, start)):
            inside = middle
        else:
            outside = middle
    return float(_ranked(inside, start))


def _rank(x: np.floating[Any]) -> int:
    """Return the rank of a float in increasing order; neighbours have consecutive ranks, both zeros have 0."""
    magnitude = int(np.abs(x).view(f"u{x.itemsize}"))
    return -magnitude if x < 0 else magnitude


def _ranked(rank: int, like: np.floating[Any]) -> np.floating[Any]:
    magnitude: np.floating[Any] = np.array([abs(rank)], f"u{like.itemsize}").view(like.dtype)[0]
    return -magnitude if rank < 0 else magnitude
