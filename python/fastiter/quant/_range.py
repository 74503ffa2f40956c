"""The range of a format: its extreme numbers."""

from __future__ import annotations

from ._check import FormatLike, check_format
from ._formats.properties import Range


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
    return check_format("range_of", fmt)._range()
