"""The choice of a scale, zero point or binary point for an array."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from ..._check import type_name
from .._check import FormatLike, check_floats, check_format
from .._formats.base import Format
from .._formats.fixed import Fixed
from .._formats.integer import Int
from .._formats.plan import computed_with
from .._formats.properties import Target
from .._quantize import quantize
from .._scale import not_beyond, target_of
from .limits import holding_shift, limits

Array: TypeAlias = npt.NDArray[Any]


class Calibration(NamedTuple):
    """A format, with the scale and zero point to pass to :func:`quantize`.

    Attributes
    ----------
    fmt : Format
        The given format; for fixed point, with its binary point moved to suit the numbers.
    scale : ndarray, float64, or None
        The scale to pass to :func:`quantize`; None for fixed point.
    zero_point : ndarray, int64, or None
        The zero point of an unsigned :class:`Int`; None for other formats.

    See Also
    --------
    calibrate : The function that returns it.
    quantize : Takes its scale and zero point.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.quant import calibrate, quantize
    >>> x = np.array([-1.0, 0.2, 3.0])
    >>> fmt, scale, zero_point = calibrate(x, "uint8")
    >>> quantize(x, fmt, scale=scale, zero_point=zero_point)
    array([-1.00392157,  0.20392157,  2.99607843])
    """

    fmt: Format
    scale: npt.NDArray[np.float64] | None
    zero_point: npt.NDArray[np.int64] | None


_METHODS = ("minmax", "percentile", "mse")


def calibrate(
    x: Array,
    fmt: FormatLike,
    *,
    method: Literal["minmax", "percentile", "mse"] = "minmax",
    percentile: float = 99.9,
    axis: int | Sequence[int] | None = None,
    group: int | None = None,
) -> Calibration:
    """Return the scale (for fixed point: the binary point) that fits a format to the numbers of x.

    Parameters
    ----------
    x : ndarray, float32, float64, float16 or bfloat16
        A sample, without NaN and infinities.
    fmt : Format, str or dtype
        :class:`Fixed`, :class:`Int`, :class:`Float`, :class:`Posit`, or :class:`NVFP4`. An unsigned Int also gets a
        zero point.
    method : {"minmax", "percentile", "mse"}
        The range to represent, up to rounding: from the minimum to the maximum; ``percentile`` percent of the
        magnitudes (for an unsigned Int: of the numbers on either side); or the one with the least squared error among
        40 ranges (for a Fixed: 8) up to the full one. An unsigned Fixed represents no negative numbers.
    percentile : float
        0 to 100.
    axis : int or sequence of int, optional
        The axes along which every index has its own scale, such as channels.
    group : int, optional
        Number of contiguous elements along the last axis that share a scale.

    Returns
    -------
    Calibration
        (fmt, scale, zero_point): the given format (a Fixed with another binary point), with the scale and zero point to
        pass to :func:`quantize`, None for formats that take none.

    Raises
    ------
    TypeError, ValueError
        For a wrong type; for a wrong value, NaN or infinity in x, a format that takes no scale.

    See Also
    --------
    quantize : Takes what this returns; its scale="amax" needs no calibration.
    measure_error : The error with a scale.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.quant import calibrate, quantize
    >>> x = np.array([[0.1, -0.4], [3.0, 1.0]])
    >>> str(calibrate(x, "fixed<8,0,RND,SAT>").fmt)
    'fixed<8,3,RND,SAT>'
    >>> fmt, scale, _ = calibrate(x, "int8", axis=0)
    >>> bool(abs(quantize(x, fmt, scale=scale) - x).max() < 0.5 * scale.max())
    True
    """
    fmt = check_format("calibrate", fmt)
    x = check_floats("calibrate", "x", x)
    if not isinstance(method, str):
        raise TypeError(f"calibrate: method must be a str, got {type_name(method)}")
    if method not in _METHODS:
        raise ValueError(f"calibrate: method must be one of {', '.join(map(repr, _METHODS))}, got {method!r}")
    if isinstance(percentile, bool) or not isinstance(percentile, (int, float)):
        raise TypeError(f"calibrate: percentile must be a number, got {type_name(percentile)}")
    if not 0 <= percentile <= 100:
        raise ValueError(f"calibrate: percentile must be from 0 to 100, got {percentile}")
    if method == "mse" and fmt.stochastic:
        raise ValueError(f"calibrate: fmt must round without random numbers for method 'mse', got {fmt}")
    shape = _scale_shape(x.shape, axis, group)
    if not x.size:
        method = "minmax"  # without numbers there is no error
    wide = x.astype(np.float64)
    if not np.isfinite(wide).all():
        raise ValueError("calibrate: x must be finite, got NaN or infinity")
    share = percentile if method == "percentile" else 100.0
    rule = fmt._scale_rule
    if (rule.fit == "binary point" or rule.accepts == "one") and math.prod(shape) != 1:
        raise ValueError(f"calibrate: axis and group must be None for {fmt}, which has one scale, got {axis}, {group}")
    if rule.fit == "binary point":
        return _binary_point(x, wide, cast(Fixed, fmt), share, method == "mse")
    if rule.fit == "zero point":
        return _affine(x, wide, cast(Int, fmt), shape, share, method == "mse")
    target = target_of(fmt, computed_with(x.dtype.name) is np.float64)
    if target is None:
        raise ValueError(f"calibrate: fmt must be one that takes a scale, got {fmt}")
    largest = _over_blocks(np.abs(wide), shape, lambda a: np.percentile(a, share, -1))
    dtype = computed_with(x.dtype.name)
    scale = _holding(largest, target, fmt, dtype)
    if method == "mse" and rule.accepts == "any":
        tried = [np.where(_fits(scale * ratio, dtype), ratio, 1) * scale for ratio in _RATIOS]
        scale = _smallest_error(x, fmt, shape, [(each, None) for each in tried])[0]
    return Calibration(fmt, scale, None)


def _holding(largest: Array, target: Target, fmt: Format, dtype: type[np.floating[Any]]) -> Array:
    """Return scales that meet the target for the largest magnitudes and fit ``dtype``."""
    if target.largest <= 0:
        raise ValueError(f"calibrate: fmt must have a number above zero, got {fmt}")
    largest = np.where(largest > 0, largest, 1.0)
    scale = np.maximum(largest / target.largest, target.smallest)
    fit = _fits(scale, dtype)
    if not fit.all():
        wrong = scale[~fit][0]
        raise ValueError(f"calibrate: x must need a scale that {dtype.__name__} holds for {fmt}, got {wrong:g}")
    return not_beyond(scale, largest, target, dtype)


def _fits(scale: Array, dtype: type[np.floating[Any]]) -> Array:
    """Return which scales are positive and finite in ``dtype``."""
    with np.errstate(over="ignore", under="ignore"):
        narrow = scale.astype(dtype)
    fit: Array = np.asarray((narrow > 0) & np.isfinite(narrow))
    return fit


#: Fractions of the whole range that are tried
_RATIOS = np.linspace(1.0, 0.22, 40)


def _scale_shape(shape: tuple[int, ...], axis: int | Sequence[int] | None, group: int | None) -> tuple[int, ...]:
    """Return the shape of the scales."""
    try:
        axes = [] if axis is None else [axis] if isinstance(axis, (int, np.integer)) else list(axis)
    except TypeError:
        raise TypeError(f"calibrate: axis must be an int or a sequence of ints, got {type_name(axis)}") from None
    sizes = [1] * len(shape)
    for each in axes:
        if isinstance(each, bool) or not isinstance(each, (int, np.integer)):
            raise TypeError(f"calibrate: axis must be made of ints, got {type_name(each)}")
        if not -len(shape) <= each < len(shape):
            raise ValueError(f"calibrate: axis must be one of the {len(shape)} axes of x, got {each}")
        sizes[each] = shape[each]
    if group is not None:
        if isinstance(group, bool) or not isinstance(group, (int, np.integer)):
            raise TypeError(f"calibrate: group must be an int, got {type_name(group)}")
        if not shape or group < 1 or shape[-1] % group:
            raise ValueError(f"calibrate: group must divide the last axis of x, {shape[-1:]}, got {group}")
        sizes[-1] = shape[-1] // int(group)
    return tuple(sizes)


def _over_blocks(x: Array, shape: tuple[int, ...], reduce: Any) -> Array:
    """Reduce each block of elements that share a scale."""
    if x.size == 0:
        return np.zeros(shape)
    both = [part for size, whole in zip(shape, x.shape, strict=True) for part in (size, whole // size)]
    blocks = np.moveaxis(x.reshape(both), range(1, 2 * x.ndim, 2), range(x.ndim, 2 * x.ndim))
    result: Array = np.asarray(reduce(blocks.reshape((*shape, -1))))
    return result


def _smallest_error(
    x: Array, fmt: Format, shape: tuple[int, ...], choices: Sequence[tuple[Array, Array | None]]
) -> tuple[Array, Array | None]:
    """Return the scales (and zero points) with the least squared error, block by block."""
    (scale, zero), lowest = choices[0], None
    for each, point in choices:
        y = quantize(x, fmt, scale=each, zero_point=point)
        noise = _over_blocks((y.astype(np.float64) - x) ** 2, shape, lambda a: a.sum(-1))
        if lowest is None:
            lowest = noise
            continue
        better = noise < lowest
        scale, lowest = np.where(better, each, scale), np.where(better, noise, lowest)
        zero = None if zero is None or point is None else np.where(better, point, zero)
    return scale, zero


def _binary_point(x: Array, wide: Array, fmt: Fixed, share: float, by_error: bool) -> Calibration:
    """Return the format with the most bits after its binary point for which no rounded number overflows."""
    counted = wide if fmt.signed else np.maximum(wide, 0)  # an unsigned format holds no negative numbers
    highest = float(np.percentile(np.abs(counted), share)) if wide.size else 0.0
    low, high = (max(float(counted.min()), -highest), min(float(counted.max()), highest)) if wide.size else (0.0, 0.0)
    shift = holding_shift(low, high, limits(replace(fmt, integer=fmt.width), "float64", 0))
    integer = int(fmt.signed) if shift is None else fmt.width + shift
    integer = min(max(integer, fmt.width - 1074), 1023)
    choices = [replace(fmt, integer=max(integer - k, fmt.width - 1074)) for k in range(8 if by_error else 1)]
    errors = [float(np.mean((quantize(x, each).astype(np.float64) - wide) ** 2)) if by_error else 0 for each in choices]
    return Calibration(choices[int(np.argmin(errors))], None, None)


def _affine(x: Array, wide: Array, fmt: Int, shape: tuple[int, ...], share: float, by_error: bool) -> Calibration:
    """Return the scale and zero point for which the lowest number, the highest number and zero are in range."""
    low = np.minimum(_over_blocks(wide, shape, lambda a: np.percentile(a, 100 - share, -1)), 0)
    high = np.maximum(_over_blocks(wide, shape, lambda a: np.percentile(a, share, -1)), 0)
    dtype = computed_with(x.dtype.name)
    scale, zero = _holding_both(low, high, fmt, dtype)
    if by_error:
        tried = [np.where(_fits(scale * ratio, dtype), ratio, 1.0) * scale for ratio in _RATIOS]
        scale, zero = _smallest_error(x, fmt, shape, [(each, zero) for each in tried])  # type: ignore[assignment]
    return Calibration(fmt, scale, zero)


def _holding_both(low: Array, high: Array, fmt: Int, dtype: type[np.floating[Any]]) -> tuple[Array, Array]:
    """Return the finest scales, and their zero points, for which neither end overflows after rounding.

    The span of the codes may be one or, with stochastic rounding, two longer than that of the numbers: then the
    scale is coarser by as much.
    """
    scale = _holding(high - low, Target(float(fmt.max_code), 0.0, 0.0), fmt, dtype)
    one_more = 1.0 + 16.0 * float(np.finfo(dtype).eps)
    stretched = [scale * one_more]
    if fmt.max_code > 1:
        stretched.append(scale * (fmt.max_code / (fmt.max_code - 1)) * one_more)
    lowest, highest = (_extreme_codes(end, scale, fmt, dtype) for end in (low, high))
    for coarser in stretched:
        wide = (highest - lowest > fmt.max_code) & _fits(coarser, dtype)
        if not wide.any():
            break
        scale = np.where(wide, coarser, scale)
        lowest, highest = (_extreme_codes(end, scale, fmt, dtype) for end in (low, high))
    return scale, np.clip(-lowest, fmt.min_code, fmt.max_code).astype(np.int64)


def _extreme_codes(x: Array, scale: Array, fmt: Int, dtype: type[np.floating[Any]]) -> Array:
    """Return the integers furthest from zero that x / scale may be rounded to, without saturation."""
    kind = np.float64 if fmt.width > 24 else dtype
    v = np.asarray(x.astype(dtype).astype(kind) / scale.astype(dtype).astype(kind), np.float64)
    if fmt.stochastic:
        return np.asarray(np.copysign(np.ceil(np.abs(v)), v))
    return quantize(v, Fixed(53, 53, True, fmt.rounding, "SAT"))
