"""Properties of number formats: ranges, spans, rules for scales, and decoding on a GPU."""

from __future__ import annotations

from typing import Literal, NamedTuple


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


class Span(NamedTuple):
    """Every number is a multiple of 2^low, less than 2^high in magnitude, and has at most ``bits`` significant bits."""

    bits: int
    low: int
    high: int

    @property
    def in_float32(self) -> bool:
        """Whether all are float32 numbers."""
        return self.bits <= 24 and self.low >= -149 and self.high <= 128


#: The range of exponents of numbers with a shared scale once they are rounded to float32
FLOAT32_LOW, FLOAT32_HIGH = -149, 128


def product(a: Span, b: Span) -> Span:
    """Return the span (bits, low, high) of the product of two numbers."""
    return Span(a.bits + b.bits, a.low + b.low, a.high + b.high)


class ScaleRule(NamedTuple):
    """The scales that a format takes.

    accepts: any scales, one number of at least ``smallest``, or none. fit: how calibration fits the format to numbers,
    by a scale, by a scale and a zero point, or by the binary point.
    """

    accepts: Literal["any", "one", "none"] = "any"
    smallest: float = 0.0
    fit: Literal["scale", "zero point", "binary point"] = "scale"


class Target(NamedTuple):
    """The goal of a scale: to map the largest magnitude to ``largest``, at most ``margin`` beyond, and to be at least
    ``smallest``.
    """

    largest: float
    margin: float
    smallest: float


class Decoder(NamedTuple):
    """How a GPU kernel decodes the codes of a format; kernels/quant/triton_codes.py has the modes.

    places: bits after the binary point; to_odd: values beyond float64's mantissa are rounded to odd for float32.
    numbers, flag and specials: the constants of floats and posits.
    """

    mode: Literal["table", "fixed", "integer", "float", "posit"]
    places: int = 0
    to_odd: bool = False
    numbers: tuple[int, int, int, int] = (0, 0, 0, 0)
    flag: bool = False
    specials: int = 0


def margin(rounding: str, half_place: float) -> float:
    """Return how far a number may exceed the largest one and still be rounded to it."""
    return half_place if rounding.startswith(("RN", "RZ", "TRN_ZERO")) else 0.0
