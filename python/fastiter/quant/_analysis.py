"""What a format can hold, what it costs, and which scale suits an array."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .._rnn import kind
from ._block_formats import MX, NVFP4, BlockFloat
from ._check import check_floats, check_format
from ._formats import Fixed, Float, Format, Int
from ._other_formats import Logarithmic, Posit, PowerOfTwo, SumOfPowers, Table
from ._plan import _computed_with
from ._quantize import Counts, quantize

Array: TypeAlias = npt.NDArray[Any]


class Range(NamedTuple):
    """The lowest and the highest finite number of a format, and the smallest positive one."""

    lowest: float
    highest: float
    smallest: float


def range_of(fmt: Format | str) -> Range:
    """Return the lowest, highest and smallest positive number of a format (of an :class:`Int`, with scale 1).

    Of a format with blocks, whatever the scale; of a table with blocks, for a block whose largest magnitude is 1.

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
        # The power nearest to the largest code is the next one above it; a second term leads back to the code itself.
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
    """Return the highest sum of so many powers of two up to a code of ones alone."""
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


class Error(NamedTuple):
    """What rounding has done: y - x of the numbers that are finite.

    sqnr: 10 log10 of the power of x over that of the error, in dB. histogram, edges: of the errors, 64 bins.
    """

    sqnr: float
    max: float
    mean: float
    rms: float
    histogram: npt.NDArray[np.int64]
    edges: npt.NDArray[np.float64]
    counts: Counts


def error(x: Array, fmt: Format | str, **options: Any) -> Error:
    """Return how far :func:`quantize` moves the numbers of x; options are its arguments.

    NaN and infinities are left out, and so is what becomes one.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.quant import error
    >>> e = error(np.array([0.3, -1.26, 2.0]), "fixed<8,4,RND,SAT>")
    >>> round(e.sqnr, 1), round(e.max, 4), e.counts.overflow
    (43.5, 0.0125, 0)
    """
    fmt = check_format("error", fmt)
    for name in ("out", "counts"):
        if name in options:
            raise TypeError(f"error: options must be others than out and counts, got {name}")
    x = check_floats("error", "x", x)
    y, counts = quantize(x, fmt, counts=True, **{"nan": "keep", **options})
    wide, near = x.astype(np.float64), y.astype(np.float64)
    finite = np.isfinite(wide) & np.isfinite(near)
    wide, difference = wide[finite], near[finite] - wide[finite]
    if not wide.size:
        return Error(math.nan, 0.0, 0.0, 0.0, np.zeros(64, np.int64), np.linspace(0.0, 1.0, 65), counts)
    noise, power = float(np.mean(difference**2)), float(np.mean(wide**2))
    sqnr = math.inf if noise == 0 else -math.inf if power == 0 else 10 * math.log10(power / noise)
    histogram, edges = np.histogram(difference, 64)
    largest = float(np.abs(difference).max())
    return Error(sqnr, largest, float(difference.mean()), math.sqrt(noise), histogram, edges, counts)


class Calibration(NamedTuple):
    """A format, and the scale and zero point that go with it, arguments of :func:`quantize`.

    Of fixed point the format itself is another, with its binary point where the numbers want it.
    """

    fmt: Format
    scale: npt.NDArray[np.float64] | None
    zero_point: npt.NDArray[np.int64] | None


_METHODS = ("minmax", "percentile", "mse")


def calibrate(
    x: Array,
    fmt: Format | str,
    *,
    method: str = "minmax",
    percentile: float = 99.9,
    axis: int | Sequence[int] | None = None,
    group: int | None = None,
) -> Calibration:
    """Return the scale (of fixed point: the binary point) with which a format holds the numbers of x.

    Parameters
    ----------
    x : ndarray, float32, float64, float16 or bfloat16
        A sample; NaN and infinities in it are refused.
    fmt : Format or str
        :class:`Fixed`, :class:`Int`, :class:`Float`, :class:`Posit`, or :class:`NVFP4`. An unsigned Int also gets a
        zero point.
    method : {"minmax", "percentile", "mse"}
        What shall just be held: the extremes; what ``percentile`` of the magnitudes (of an unsigned Int: of the numbers
        on either side) do not exceed; or the range with the least squared error of 40 that are as wide or narrower.
    percentile : float
        0 to 100.
    axis : int or sequence of int, optional
        The axes along which each index has a scale of its own: channels.
    group : int, optional
        How many neighbours along the last axis share a scale.

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
        raise TypeError(f"calibrate: method must be a str, got {kind(method)}")
    if method not in _METHODS:
        raise ValueError(f"calibrate: method must be one of {', '.join(map(repr, _METHODS))}, got {method!r}")
    if isinstance(percentile, bool) or not isinstance(percentile, (int, float)):
        raise TypeError(f"calibrate: percentile must be a number, got {kind(percentile)}")
    if not 0 <= percentile <= 100:
        raise ValueError(f"calibrate: percentile must be from 0 to 100, got {percentile}")
    if method == "mse" and fmt.stochastic:
        raise ValueError(f"calibrate: fmt must round without random numbers for method 'mse', got {fmt}")
    shape = _scale_shape(x.shape, axis, group)
    wide = x.astype(np.float64)
    if not np.isfinite(wide).all():
        raise ValueError("calibrate: x must be finite, got NaN or infinity")
    share = percentile if method == "percentile" else 100.0
    if isinstance(fmt, (Fixed, NVFP4)) and math.prod(shape) != 1:
        raise ValueError(f"calibrate: axis and group must be None for {fmt}, which has one scale, got {axis}, {group}")
    if isinstance(fmt, Fixed):
        return _binary_point(x, wide, fmt, share, method == "mse")
    if isinstance(fmt, Int) and not fmt.signed:
        return _affine(x, wide, fmt, shape, share, method == "mse")
    held = {Int: _held_by_int, Float: _held_by_float, NVFP4: lambda _: 6.0 * 448.0, Posit: lambda _: 1.0}
    if type(fmt) not in held:
        raise ValueError(f"calibrate: fmt must be one that takes a scale, got {fmt}")
    largest = _over_blocks(np.abs(wide), shape, lambda a: np.percentile(a, share, -1))
    dtype = _computed_with(x.dtype.name)
    scale = _holding(largest, held[type(fmt)](fmt), fmt, dtype, _margin(fmt))  # type: ignore[operator]
    if isinstance(fmt, NVFP4):
        return Calibration(fmt, np.maximum(scale, 2.0**-100), None)
    if method == "mse":
        scale, _ = _least_error(
            x, fmt, shape, [(np.where(_fits(scale * r, dtype), r, 1) * scale, None) for r in _RATIOS]
        )
    return Calibration(fmt, scale, None)


def _holding(largest: Array, held: float, fmt: Format, dtype: type[np.floating[Any]], margin: float) -> Array:
    """Return scales that bring the largest magnitudes to ``held``, or by so much beyond, when the dtype holds them."""
    if held <= 0:
        raise ValueError(f"calibrate: fmt must have a number above zero, got {fmt}")
    largest = np.where(largest > 0, largest, 1.0)
    scale = largest / held
    fits = _fits(scale, dtype)
    if not fits.all():
        wrong = scale[~fits][0]
        raise ValueError(f"calibrate: x must need a scale that {dtype.__name__} holds for {fmt}, got {wrong:g}")
    narrow = scale.astype(dtype)
    beyond = largest / narrow.astype(np.float64) > held + margin
    return np.where(beyond, np.nextafter(narrow, dtype(np.inf)).astype(np.float64), scale)


def _fits(scale: Array, dtype: type[np.floating[Any]]) -> Array:
    """Say which scales are positive and finite in a dtype."""
    with np.errstate(over="ignore", under="ignore"):
        narrow = scale.astype(dtype)
    fits: Array = np.asarray((narrow > 0) & np.isfinite(narrow))
    return fits


def _margin(fmt: Format) -> float:
    """Return how far beyond the largest number it is still what a number is rounded to."""
    if not isinstance(fmt, (Int, Float)):
        return math.inf
    if fmt.rounding.startswith(("RN", "RZ", "TRN_ZERO")):
        return 0.25 if isinstance(fmt, Int) else 2.0 ** (fmt.max_exponent - fmt.mantissa - 2)
    return 0.0


#: Parts of the whole range that are tried
_RATIOS = np.linspace(1.0, 0.22, 40)


def _held_by_int(fmt: Int) -> float:
    return float(fmt.max_code)


def _held_by_float(fmt: Float) -> float:
    return float(fmt.max_value)


def _scale_shape(shape: tuple[int, ...], axis: int | Sequence[int] | None, group: int | None) -> tuple[int, ...]:
    """Return the shape of the scales."""
    axes = [] if axis is None else [axis] if isinstance(axis, (int, np.integer)) else list(axis)
    sizes = [1] * len(shape)
    for each in axes:
        if isinstance(each, bool) or not isinstance(each, (int, np.integer)):
            raise TypeError(f"calibrate: axis must be made of ints, got {kind(each)}")
        if not -len(shape) <= each < len(shape):
            raise ValueError(f"calibrate: axis must be one of the {len(shape)} axes of x, got {each}")
        sizes[each] = shape[each]
    if group is not None:
        if isinstance(group, bool) or not isinstance(group, (int, np.integer)):
            raise TypeError(f"calibrate: group must be an int, got {kind(group)}")
        if not shape or group < 1 or shape[-1] % group:
            raise ValueError(f"calibrate: group must divide the last axis of x, {shape[-1:]}, got {group}")
        sizes[-1] = shape[-1] // int(group)
    return tuple(sizes)


def _over_blocks(x: Array, shape: tuple[int, ...], reduce: Any) -> Array:
    """Reduce each block of neighbours that shares a scale."""
    if x.size == 0:
        return np.zeros(shape)
    both = [part for size, whole in zip(shape, x.shape, strict=True) for part in (size, whole // size)]
    blocks = np.moveaxis(x.reshape(both), range(1, 2 * x.ndim, 2), range(x.ndim, 2 * x.ndim))
    result: Array = np.asarray(reduce(blocks.reshape((*shape, -1))))
    return result


def _least_error(
    x: Array, fmt: Format, shape: tuple[int, ...], choices: Sequence[tuple[Array, Array | None]]
) -> tuple[Array, Array | None]:
    """Return of scales (and zero points) those with the least squared error, block by block."""
    (scale, zero), least = choices[0], None
    for each, point in choices:
        y = quantize(x, fmt, scale=each, zero_point=point)
        noise = _over_blocks((y.astype(np.float64) - x) ** 2, shape, lambda a: a.sum(-1))
        if least is None:
            least = noise
            continue
        better = noise < least
        scale, least = np.where(better, each, scale), np.where(better, noise, least)
        zero = None if zero is None or point is None else np.where(better, point, zero)
    return scale, zero


def _binary_point(x: Array, wide: Array, fmt: Fixed, share: float, by_error: bool) -> Calibration:
    largest = float(np.percentile(np.abs(wide), share)) if wide.size else 0.0
    exponent = math.frexp(largest)[1] if largest > 0 else 0  # largest < 2^exponent
    integer = min(max(exponent + fmt.signed, fmt.width - 1074), 1023)
    choices = [replace(fmt, integer=max(integer - k, fmt.width - 1074)) for k in range(8 if by_error else 1)]
    errors = [float(np.mean((quantize(x, each).astype(np.float64) - wide) ** 2)) if by_error else 0 for each in choices]
    return Calibration(choices[int(np.argmin(errors))], None, None)


def _affine(x: Array, wide: Array, fmt: Int, shape: tuple[int, ...], share: float, by_error: bool) -> Calibration:
    low = np.minimum(_over_blocks(wide, shape, lambda a: np.percentile(a, 100 - share, -1)), 0)
    high = np.maximum(_over_blocks(wide, shape, lambda a: np.percentile(a, share, -1)), 0)

    dtype = _computed_with(x.dtype.name)
    widest = _holding(high - low, float(fmt.max_code), fmt, dtype, 0.0)

    def of(part: float) -> tuple[Array, Array]:
        ratio = np.where(_fits(widest * part, dtype), part, 1.0)
        scale = widest * ratio
        return scale, np.clip(np.rint(-low * ratio / scale), fmt.min_code, fmt.max_code).astype(np.int64)

    scale, zero = _least_error(x, fmt, shape, [of(r) for r in _RATIOS]) if by_error else of(1.0)
    return Calibration(fmt, scale, zero)
