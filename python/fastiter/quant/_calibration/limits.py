"""The extreme inputs of a format that are still in range after rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from .._formats.base import Format
from .._quantize import quantize


@lru_cache(maxsize=1024)
def limits(fmt: Format, dtype: str, zero_point: int) -> tuple[float, float]:
    """Return the lowest and the highest number of the dtype that is in range after rounding.

    With stochastic rounding, whose results vary, they are the outermost numbers between the format's extremes. They are
    found by bisection with the kernel's own overflow count, so that no format and no rounding needs its own formula.
    """
    kind = np.dtype(dtype).type
    low, high, _ = fmt._range()
    low, high = low - zero_point, high - zero_point
    if fmt.stochastic:
        exact_low, exact_high = (end - zero_point for end in fmt._ends())
        return _not_beyond(low, exact_low, kind), _not_beyond(high, exact_high, kind)

    def fits(x: np.floating[Any]) -> bool:
        zero = zero_point if fmt._is_affine else None
        y, counts = quantize(np.array([x], dtype), fmt, zero_point=zero, nan="keep", counts=True)
        return counts.overflow == 0 and bool(np.isfinite(y[0]))

    largest = np.finfo(dtype).max
    middle = kind(np.clip(low, -largest, largest) / 2 + np.clip(high, -largest, largest) / 2)
    return _last(fits, middle, -largest), _last(fits, middle, largest)


def _not_beyond(near: float, end: Fraction | float, kind: Any) -> float:
    """Return the number of a dtype nearest to the end of a range and not beyond it."""
    with np.errstate(over="ignore", under="ignore"):
        number = float(kind(near))
    if math.isinf(number) or abs(Fraction(number)) > abs(Fraction(end)):
        number = float(np.nextafter(kind(number), kind(0)))
    return number


def is_limited(fmt: Format, clip: bool, has_scale: bool) -> bool:
    """Return whether a gradient depends on which numbers are in range: dx with ``clip``, or the scale's gradient.

    A saturated number does not vary with x / scale. A wrapped one does, like a number in range, so only a clipped
    gradient distinguishes them. The range of a block follows x.
    """
    return not fmt.block and (clip or (has_scale and not fmt._wraps))


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
