"""The scale that maps the largest magnitude of an array to a format's."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .._check import type_name
from ._block_formats import NVFP4
from ._formats import Float, Format, Int
from ._other_formats import Posit
from ._range import range_of

Array: TypeAlias = npt.NDArray[Any]


class Target(NamedTuple):
    """The goal of a scale: to map the largest magnitude to ``held``, at most ``margin`` beyond, and to be at least
    ``least``.
    """

    held: float
    margin: float
    least: float


@lru_cache(maxsize=512)
def target_of(fmt: Format, in_double: bool) -> Target | None:
    """Return the target of a scale for float32 or float64 numbers; None for formats that calibrate gives no scale."""
    if isinstance(fmt, NVFP4):
        return Target(6.0 * 448.0, math.inf, 2.0**-100)
    if isinstance(fmt, Posit):
        return Target(1.0, math.inf, 0.0)
    if isinstance(fmt, Int):
        return Target(float(fmt.max_code), _margin(fmt, 0.25), 0.0)
    if not isinstance(fmt, Float):
        return None
    info = np.finfo(np.float64 if in_double else np.float32)
    highest = float(fmt.max_value)
    # The quotient must also fit the dtype. The scale has a lower limit: a subnormal scale would lose its last bits, and
    # a smaller one gains nothing once the format's smallest number corresponds to the dtype's smallest.
    held = highest if highest <= float(info.max) else 2.0 ** (int(info.maxexp) - 1)
    enough = float(info.smallest_subnormal) / range_of(fmt).smallest
    least = min(float(info.tiny) * 2.0**26, enough)
    return Target(held, _margin(fmt, 2.0 ** (fmt.max_exponent - fmt.mantissa - 2)), least)


def _margin(fmt: Int | Float, rest: float) -> float:
    """Return how far a number may exceed the largest one and still be rounded to it."""
    return rest if fmt.rounding.startswith(("RN", "RZ", "TRN_ZERO")) else 0.0


def not_beyond(scale: Array, largest: Array, target: Target, dtype: type[np.floating[Any]]) -> Array:
    """Return scales with which the largest magnitudes meet the target also once the scales are rounded to a dtype.

    Those that do are returned unchanged.
    """
    narrow = scale.astype(dtype)
    beyond = largest / narrow.astype(np.float64) > target.held + target.margin
    return np.where(beyond, np.nextafter(narrow, dtype(np.inf)).astype(np.float64), scale)


def amax_scale(function: str, x: Array, fmt: Format, scale_axis: int | None) -> Array:
    """Return the scale that maps the largest magnitude of x, or of each index of an axis, to the format's.

    Where x holds only zeros, infinities and NaN, any scale keeps them.
    """
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    target = target_of(fmt, dtype is np.float64)
    if target is None or target.held <= 0:
        raise ValueError(f"{function}: scale must be None or numbers for {fmt}, got 'amax'")
    others = tuple(k for k in range(x.ndim) if scale_axis is None or k != scale_axis % x.ndim)
    largest = np.abs(x).max(others, keepdims=True) if x.size else np.ones((1,) * x.ndim)
    largest = largest.astype(np.float64)
    largest = np.where(np.isfinite(largest) & (largest > 0), largest, 1.0)
    scale = not_beyond(np.maximum(largest / target.held, target.least), largest, target, dtype)
    return scale.astype(dtype).astype(np.float64)


def check_amax(function: str, scale: object, scale_axis: object, ndim: int) -> None:
    """Check a scale that is a str, and the axis that goes with it; ``ndim``: the number of x's axes."""
    if isinstance(scale, str) and scale != "amax":
        raise ValueError(f"{function}: scale must be numbers or 'amax', got {scale!r}")
    if scale_axis is None:
        return
    if isinstance(scale_axis, bool) or not isinstance(scale_axis, (int, np.integer)):
        raise TypeError(f"{function}: scale_axis must be an int or None, got {type_name(scale_axis)}")
    if not isinstance(scale, str):
        raise ValueError(f"{function}: scale_axis must go with scale='amax', got {scale_axis} without it")
    if not -ndim <= scale_axis < ndim:
        raise ValueError(f"{function}: scale_axis must be one of the {ndim} axes of x, got {scale_axis}")
