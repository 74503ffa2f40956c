"""Scales and zero points, one for all numbers or for each channel or group; the scale for the largest magnitude."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._check import refuse_mask, type_name
from ._block_formats import NVFP4, block_of
from ._formats import Float, Format, Int
from ._other_formats import Posit
from ._range import range_of

Array = npt.NDArray[Any]


class Scale(NamedTuple):
    """Scales and zero points with as many axes as the numbers; ``None`` for none."""

    scale: Array | None = None
    zero_point: Array | None = None
    shape: tuple[int, ...] = ()

    @property
    def uniform(self) -> tuple[float, int] | None:
        """The scale and zero point that all numbers share, None if there are several."""
        if self.scale is None or self.scale.size != 1:
            return None
        return float(self.scale.item()), 0 if self.zero_point is None else int(self.zero_point.item())

    def fields(self, in_double: bool, in_float: bool) -> tuple[Any, ...]:
        """Return the kernel's arguments: element i has scale number (i // run) % count.

        in_float: the kernel computes with doubles, but quotient and product are rounded to float.
        """
        if self.scale is None:
            return ()
        dtype = np.dtype(np.float64 if in_double else np.float32)
        finer = [k for k, size in enumerate(self.scale.shape) if size > 1]
        last = finer[-1] if finer else -1
        run = math.prod(self.shape[last + 1 :])
        if finer:
            run *= self.shape[last] // self.scale.shape[last]
        arrays: list[Any] = []
        for array in (self.scale, self.zero_point):
            if array is None:
                arrays.append(0)
                continue
            whole = array
            for axis in range(last) if len(finer) > 1 else ():
                whole = np.repeat(whole, self.shape[axis] // whole.shape[axis], axis)
            arrays.append(np.ascontiguousarray(whole, dtype))
        return arrays[0], arrays[1], max(run, 1), arrays[0].size, in_float

    def spread(self, shape: tuple[int, ...]) -> tuple[Array | None, Array | None]:
        """Return scales and zero points expanded to one per number."""

        def one(array: Array | None) -> Array | None:
            if array is None:
                return None
            for axis, size in enumerate(shape):
                array = np.repeat(array, size // array.shape[axis], axis) if array.size > 1 else array
            return np.broadcast_to(array.reshape(()) if array.size == 1 else array, shape)

        return one(self.scale), one(self.zero_point)


def check_scale(
    function: str,
    shape: tuple[int, ...],
    dtype: str,
    fmt: Format,
    scale: npt.ArrayLike | None,
    zero_point: npt.ArrayLike | None,
    name: str = "scale",
) -> Scale:
    """Return the scales and zero points of numbers with this shape and dtype; ``name`` is the scale's in messages."""
    if zero_point is not None and not isinstance(fmt, Int):
        raise ValueError(f"{function}: zero_point must be None for a format that is no Int, got one for {fmt}")
    if scale is None:
        if zero_point is None:
            return Scale()
        scale = 1.0
    if block_of(fmt) and not isinstance(fmt, NVFP4):
        raise ValueError(f"{function}: scale must be None for a format with blocks, got one for {fmt}")
    array = _numbers(function, name, scale)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{function}: {name} must be numbers, got dtype {array.dtype}")
    wide = array.astype(np.float64)
    if dtype != "float64":
        with np.errstate(over="ignore", under="ignore"):
            wide = wide.astype(np.float32).astype(np.float64)
    if not (np.isfinite(wide).all() and (wide > 0).all()):
        raise ValueError(
            f"{function}: {name} must be positive and finite, got {array[~(wide > 0) | ~np.isfinite(wide)][0]}"
        )
    if isinstance(fmt, NVFP4) and wide.size == 1 and wide.item() < 2.0**-100:
        raise ValueError(f"{function}: scale must be 2**-100 or more for nvfp4, got {wide.item()}")
    if isinstance(fmt, NVFP4) and wide.size != 1:
        raise ValueError(f"{function}: scale must be one number for nvfp4, got shape {wide.shape}")
    wide = _fitting(function, name, wide, shape)
    zeros = None if zero_point is None else _zero_points(function, zero_point, fmt, wide.shape)
    return Scale(wide, zeros, shape)


def _numbers(function: str, name: str, x: npt.ArrayLike) -> Array:
    refuse_mask(function, name, x)
    try:
        return np.asarray(x)
    except ValueError:
        raise TypeError(f"{function}: {name} must be numbers of one shape, got a ragged sequence") from None


def _fitting(function: str, name: str, array: Array, shape: tuple[int, ...]) -> Array:
    """Return the array with as many axes as the numbers, each length a divisor of the numbers'."""
    if array.size == 1:
        return array.reshape((1,) * len(shape))
    fits = array.ndim == len(shape) and all(
        size == whole or (size > 0 and whole % size == 0) for size, whole in zip(array.shape, shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{function}: {name} must have axes that divide those of x, {shape}, got {array.shape}")
    return array


def _zero_points(function: str, zero_point: npt.ArrayLike, fmt: Format, shape: tuple[int, ...]) -> Array:
    assert isinstance(fmt, Int)
    array = _numbers(function, "zero_point", zero_point)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{function}: zero_point must be integers, got dtype {array.dtype}")
    if array.size == 1:
        array = np.broadcast_to(array.reshape((1,) * len(shape)), shape)
    if array.shape != shape:
        raise ValueError(f"{function}: zero_point must have the shape {shape} of scale, got {array.shape}")
    low, high = fmt.min_code, fmt.max_code
    if array.size and not (array.min() >= low and array.max() <= high):
        wrong = array[(array < low) | (array > high)][0]
        raise ValueError(f"{function}: zero_point must be a code of {fmt}, from {low} to {high}, got {wrong}")
    return array.astype(np.float64)


# ---- amax -----------------------------------------------------------------------------------------------------------


class Target(NamedTuple):
    """The goal of a scale: to map the largest magnitude to ``held``, at most ``margin`` beyond, and to be at least
    ``least``.
    """

    held: float
    margin: float
    least: float


@lru_cache(maxsize=512)
def target_of(fmt: Format, in_double: bool) -> Target | None:
    """Return the target of a scale for float32 or float64 numbers; None for formats that take no scale."""
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

    Scales that already do are returned unchanged.
    """
    narrow = scale.astype(dtype)
    beyond = largest / narrow.astype(np.float64) > target.held + target.margin
    return np.where(beyond, np.nextafter(narrow, dtype(np.inf)).astype(np.float64), scale)


def amax_scale(function: str, x: Array, fmt: Format, scale_axis: int | None) -> Array:
    """Return the scale that maps the largest magnitude of x, or of each index of an axis, to the format's.

    If x holds only zeros, infinities and NaN, any scale preserves them.
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
    """Check a scale given as a str, and its axis; ``ndim``: the number of x's axes."""
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
