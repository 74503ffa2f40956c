"""The numbers that a format's range holds after rounding: where a straight-through gradient passes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from ..quant import quantize, range_of
from ..quant._formats import Format, Int


@lru_cache(maxsize=1024)
def limits(fmt: Format, dtype: str, zero_point: int) -> tuple[float, float]:
    """Return the lowest and the highest number of the dtype that is in range once it is rounded.

    With stochastic rounding, which is not the same each time, those between the format's extremes. Found by bisection,
    with the kernel's own count of what overflows, so that no format and no rounding needs a formula of its own.
    """
    kind = np.dtype(dtype).type
    span = range_of(fmt)
    low, high = span.lowest - zero_point, span.highest - zero_point
    if fmt.stochastic:
        return low, high

    def fits(x: np.floating) -> bool:  # type: ignore[type-arg]
        zero = zero_point if isinstance(fmt, Int) else None
        y, counts = quantize(np.array([x], dtype), fmt, zero_point=zero, nan="keep", counts=True)
        return counts.overflow == 0 and bool(np.isfinite(y[0]))

    most = np.finfo(dtype).max
    middle = kind(np.clip(low, -most, most) / 2 + np.clip(high, -most, most) / 2)
    return _last(fits, middle, -most), _last(fits, middle, most)


def scaled_limits(fmt: Format, dtype: str, zero_point: int, scale: float) -> tuple[float, float]:
    """Return the lowest and the highest x for which x / scale, rounded to the dtype, is within the limits."""
    kind = np.dtype(dtype).type
    low, high = limits(fmt, dtype, zero_point)
    step = kind(scale)
    with np.errstate(over="ignore", under="ignore"):
        return _edge(kind(low), step, kind(-np.inf)), _edge(kind(high), step, kind(np.inf))


def _edge(limit: Any, scale: Any, outward: Any) -> float:
    """Return the outermost x for which x / scale is not beyond the limit: one near their product, which is rounded."""
    x, beyond = limit * scale, np.less if outward < 0 else np.greater
    while np.isfinite(x) and not beyond(np.nextafter(x, outward) / scale, limit):
        x = np.nextafter(x, outward)
    while beyond(x / scale, limit):
        x = np.nextafter(x, -outward)
    return float(x)


def _last(fits: Callable[[np.floating], bool], start: np.floating, end: np.floating) -> float:  # type: ignore[type-arg]
    """Return the last number on the way from one that fits that fits, too; all before it do."""
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


def _rank(x: np.floating) -> int:  # type: ignore[type-arg]
    """Number the floats in rising order; neighbours have neighbouring numbers, both zeros have 0."""
    magnitude = int(np.abs(x).view(f"u{x.itemsize}"))
    return -magnitude if x < 0 else magnitude


def _ranked(rank: int, like: np.floating) -> np.floating:  # type: ignore[type-arg]
    magnitude = np.array([abs(rank)], f"u{like.itemsize}").view(like.dtype)[0]
    return -magnitude if rank < 0 else magnitude
