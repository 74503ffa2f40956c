"""The error of rounding to a format."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .._check import FormatLike, Rng, check_floats, check_format
from .._rounding import QUANTIZE, Counts, Options, ScaleLike, checked

Array: TypeAlias = npt.NDArray[Any]


class ErrorStatistics(NamedTuple):
    """Statistics of the rounding errors y - x of the finite numbers.

    Attributes
    ----------
    sqnr : float
        Signal-to-quantisation-noise ratio: 10 log10 of the power of x over that of the error, in dB.
    max, mean, rms : float
        The largest magnitude, the mean and the root mean square of the errors.
    histogram, edges : ndarray
        The number of errors in each of 64 bins, and the edges of the bins.
    counts : Counts
        The counts over all numbers, including those that are not finite.

    See Also
    --------
    measure_error : The function that returns it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.quant import measure_error
    >>> found = measure_error(np.linspace(-1, 1, 101), "fixed<8,1,RND,SAT>")
    >>> found.max, int(found.histogram.sum()), found.counts.overflow
    (0.0078125, 101, 1)
    """

    sqnr: float
    max: float
    mean: float
    rms: float
    histogram: npt.NDArray[np.int64]
    edges: npt.NDArray[np.float64]
    counts: Counts

    def __repr__(self) -> str:
        """Show the statistics without the histogram, which has too many numbers."""
        numbers = ", ".join(f"{name}={getattr(self, name):.6g}" for name in ("sqnr", "max", "mean", "rms"))
        return f"ErrorStatistics({numbers}, counts={self.counts})"


def measure_error(
    x: Array,
    fmt: FormatLike,
    *,
    scale: ScaleLike = None,
    scale_axis: int | None = None,
    zero_point: npt.ArrayLike | None = None,
    axis: int = -1,
    rng: Rng = None,
    nan: Literal["raise", "keep"] | float = "keep",
) -> ErrorStatistics:
    """Measure the error that :func:`quantize` makes on the numbers of x.

    NaN and infinities are left out, as are numbers that are rounded to one.

    Parameters
    ----------
    x : ndarray, float32, float64, float16 or bfloat16
        Any shape and strides.
    fmt : Format, str or dtype
        As for :func:`quantize`.
    scale : number, array of positive floats, or "amax", optional
        As for :func:`quantize`: 1 by default.
    scale_axis : int, optional
        With ``scale="amax"``, an axis along which every index has its own scale.
    zero_point : integer or array of integers, optional
        As for :func:`quantize`.
    axis : int
        The axis along which blocks run.
    rng : int, numpy.random.Generator, SeedSequence or BitGenerator, optional
        For stochastic rounding, as for :func:`quantize`.
    nan : {"keep", "raise"} or number
        As for :func:`quantize`.

    Returns
    -------
    ErrorStatistics
        (sqnr, max, mean, rms, histogram, edges, counts); sqnr is inf if there is no error, NaN if there is no finite
        number.

    Raises
    ------
    TypeError, ValueError
        As for :func:`quantize`.

    See Also
    --------
    quantize : The rounding itself.
    calibrate : Finds a scale with a small error.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.quant import measure_error
    >>> e = measure_error(np.array([0.3, -1.26, 2.0]), "fixed<8,4,RND,SAT>")
    >>> round(e.sqnr, 1), round(e.max, 4), e.counts.overflow
    (43.5, 0.0125, 0)
    """
    options = Options(scale, scale_axis, zero_point, axis, rng, nan)
    x = check_floats("measure_error", "x", x)
    call = checked("measure_error", x, check_format("measure_error", fmt), options)
    y, _, counts = QUANTIZE["cpu"](call, True, None, None)
    wide, near = x.astype(np.float64), y.astype(np.float64)
    finite = np.isfinite(wide) & np.isfinite(near)
    with np.errstate(over="ignore"):
        wide, difference = wide[finite], np.clip(near[finite] - wide[finite], -_LARGEST, _LARGEST)
    if not wide.size:
        return ErrorStatistics(math.nan, 0.0, 0.0, 0.0, np.zeros(64, np.int64), np.linspace(0.0, 1.0, 65), counts)
    largest, power = float(np.abs(difference).max()), _root_mean_square(wide)
    noise = _root_mean_square(difference)
    sqnr = math.inf if noise == 0 else -math.inf if power == 0 else 20 * (math.log10(power) - math.log10(noise))
    histogram, edges = _histogram(difference)
    return ErrorStatistics(sqnr, largest, _mean(difference), noise, histogram, edges, counts)


_LARGEST = float(np.finfo(np.float64).max)


def _power_of_two_for(x: Array) -> float:
    """Return a power of two 2^-k that scales the largest magnitude to about 1, to keep squares and sums in range."""
    return math.ldexp(1.0, -max(min(math.frexp(float(np.abs(x).max()))[1], 1022), -1022))


def _mean(x: Array) -> float:
    part = _power_of_two_for(x)
    return float(np.mean(x * part)) / part


def _root_mean_square(x: Array) -> float:
    part = _power_of_two_for(x)
    return math.sqrt(float(np.mean((x * part) ** 2))) / part


def _histogram(x: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Count numbers in 64 bins from lowest to highest; the range is widened if float64 has too few numbers in it."""
    part = 0.125 if np.abs(x).max() > _LARGEST / 16 else 1.0  # keeps the width of the range within float64
    low, high = part * float(x.min()), part * float(x.max())
    place = float(np.spacing(max(abs(low), abs(high))))
    if high - low < 128 * place:
        around = max(64 * place, 0.5 if low == high else 0.0)
        low, high = low - around, high + around
    histogram, edges = np.histogram(x * part, 64, (low, high))
    return histogram, edges / part
