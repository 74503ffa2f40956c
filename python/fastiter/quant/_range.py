"""The range of a format: its extreme numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

from ._block_formats import MX, NVFP4, BlockFloat
from ._check import FormatLike, check_format
from ._formats import Fixed, Float, Format, Int
from ._other_formats import Logarithmic, Posit, PowerOfTwo, SumOfPowers, Table


class Range(NamedTuple):
    """The range of a format.

    Attributes
    ----------
    lowest, highest : float
        The ends of the range of finite numbers.
    smallest : float
        The smallest positive number.

    See Also
    --------
    range_of : The function that returns it.
    formats : The ranges of all formats with a name.

    Examples
    --------
    >>> from fastiter.quant import range_of
    >>> lowest, highest, smallest = range_of("ufixed<4,2>")
    >>> lowest, highest, smallest
    (0.0, 3.75, 0.25)
    """

    lowest: float
    highest: float
    smallest: float


def range_of(fmt: FormatLike) -> Range:
    """Return the lowest, highest and smallest positive number of a format.

    For an :class:`~fastiter.quant.Int` the scale is 1. For a format with blocks, the range is taken over all scales;
    for a table with blocks, it is that of a block whose largest magnitude is 1.

    Parameters
    ----------
    fmt : Format, str or dtype
        Any format.

    Returns
    -------
    Range
        (lowest, highest, smallest); smallest is NaN for a table without a positive number.

    Raises
    ------
    TypeError, ValueError
        For anything but a format.

    See Also
    --------
    formats : The ranges of all formats with a name.

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
