"""Scales and zero points, one for all numbers or for each channel or group; the scale for the largest magnitude."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from .._check import refuse_mask, type_name
from ._formats.base import Format
from ._formats.properties import Target

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

    def for_kernel(self, in_double: bool, in_float: bool) -> _core.quant.Scales:
        """Return the kernel's argument: element i has scale number (i // run) % count.

        in_float: the kernel computes with doubles, but quotient and product are rounded to float.
        """
        assert self.scale is not None
        if self.uniform is not None:
            return _core.quant.Scales(*self.uniform, in_float)
        dtype = np.dtype(np.float64 if in_double else np.float32)
        axes = [k for k, size in enumerate(self.scale.shape) if size > 1]
        last = axes[-1] if axes else -1
        run = math.prod(self.shape[last + 1 :])
        if axes:
            run *= self.shape[last] // self.scale.shape[last]

        def laid_out(array: Array) -> Array:
            for axis in range(last) if len(axes) > 1 else ():
                array = np.repeat(array, self.shape[axis] // array.shape[axis], axis)
            return np.ascontiguousarray(array, dtype)

        scales = laid_out(self.scale)
        zero_points = None if self.zero_point is None else laid_out(self.zero_point)
        return _core.quant.Scales(scales, zero_points, max(run, 1), scales.size, in_float)

    def spread(self, shape: tuple[int, ...]) -> tuple[Array | None, Array | None]:
        """Return scales and zero points expanded to one per number."""

        def one(array: Array | None) -> Array | None:
            if array is None:
                return None
            for axis, size in enumerate(shape):
                array = np.repeat(array, size // array.shape[axis], axis) if array.size > 1 else array
            return np.broadcast_to(array.reshape(()) if array.size == 1 else array, shape)

        return one(self.scale), one(self.zero_point)


#: No scale, which is 1
UNSCALED = Scale()


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
    if zero_point is not None and not fmt._is_affine:
        raise ValueError(f"{function}: zero_point must be None for a format that is no Int, got one for {fmt}")
    if scale is None:
        if zero_point is None:
            return UNSCALED
        scale = 1.0
    rule = fmt._scale_rule
    if rule.accepts == "none":
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
    if rule.accepts == "one":
        _check_one(function, wide, rule.smallest, fmt._spelling()[0])
    wide = _fitting(function, name, wide, shape)
    zeros = None if zero_point is None else _zero_points(function, zero_point, fmt, wide.shape)
    return Scale(wide, zeros, shape)


def _check_one(function: str, scale: Array, smallest: float, kind: str) -> None:
    """Check that there is one scale, of at least ``smallest``, a power of two."""
    if scale.size != 1:
        raise ValueError(f"{function}: scale must be one number for {kind}, got shape {scale.shape}")
    if scale.item() < smallest:
        power = math.frexp(smallest)[1] - 1
        raise ValueError(f"{function}: scale must be 2**{power} or more for {kind}, got {scale.item()}")


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
    array = _numbers(function, "zero_point", zero_point)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{function}: zero_point must be integers, got dtype {array.dtype}")
    if array.size == 1:
        array = np.broadcast_to(array.reshape((1,) * len(shape)), shape)
    if array.shape != shape:
        raise ValueError(f"{function}: zero_point must have the shape {shape} of scale, got {array.shape}")
    low, high, _ = map(int, fmt._range())
    if array.size and not (array.min() >= low and array.max() <= high):
        wrong = array[(array < low) | (array > high)][0]
        raise ValueError(f"{function}: zero_point must be a code of {fmt}, from {low} to {high}, got {wrong}")
    return array.astype(np.float64)


# ---- amax -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def target_of(fmt: Format, in_double: bool) -> Target | None:
    """Return the target of a scale for float32 or float64 numbers; None for formats that take no scale."""
    return fmt._target(in_double)


def fits_itself(fmt: Format, in_double: bool) -> bool:
    """Return whether the format fits the scales of its blocks to the numbers, and takes no other scale."""
    return fmt.block > 0 and target_of(fmt, in_double) is None


def not_beyond(scale: Array, largest: Array, target: Target, dtype: type[np.floating[Any]]) -> Array:
    """Return scales with which the largest magnitudes meet the target also once the scales are rounded to a dtype.

    Scales that already do are returned unchanged.
    """
    narrow = scale.astype(dtype)
    beyond = largest / narrow.astype(np.float64) > target.largest + target.margin
    return np.where(beyond, np.nextafter(narrow, dtype(np.inf)).astype(np.float64), scale)


def amax_scale(function: str, x: Array, fmt: Format, scale_axis: int | None) -> Array:
    """Return the scale that maps the largest magnitude of x, or of each index of an axis, to the format's.

    If x holds only zeros, infinities and NaN, any scale preserves them.
    """
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    target = target_of(fmt, dtype is np.float64)
    if target is None or target.largest <= 0:
        raise ValueError(f"{function}: scale must be None or numbers for {fmt}, got 'amax'")
    others = tuple(k for k in range(x.ndim) if scale_axis is None or k != scale_axis % x.ndim)
    largest = np.abs(x).max(others, keepdims=True) if x.size else np.ones((1,) * x.ndim)
    largest = largest.astype(np.float64)
    largest = np.where(np.isfinite(largest) & (largest > 0), largest, 1.0)
    scale = not_beyond(np.maximum(largest / target.largest, target.smallest), largest, target, dtype)
    return scale.astype(dtype).astype(np.float64)


def refuse_axis(function: str, fmt: object, scale_axis: object) -> None:
    """Refuse an axis of scales for a format whose blocks have theirs."""
    if scale_axis is not None:
        raise ValueError(f"{function}: scale_axis must be None for {fmt}, whose blocks have scales, got {scale_axis}")


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
