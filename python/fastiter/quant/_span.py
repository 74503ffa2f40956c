"""The span of a format's numbers: significant bits, and the powers of two that bound them."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from ._block_formats import MX, NVFP4, BlockFloat, BlockFormat
from ._formats import Fixed, Float, Format, Int
from ._other_formats import Logarithmic, Posit, PowerOfTwo, SumOfPowers, Table


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
_LOW, _HIGH = -149, 128


def _of_blocks(fmt: BlockFormat) -> Span:
    if isinstance(fmt, NVFP4):
        return product(_of_float(fmt.element), _of_float(Float(4, 3, "fn")))
    if isinstance(fmt, MX):
        return Span(fmt.element.mantissa + 1, _LOW, _HIGH)
    return Span(fmt.width - 1 if isinstance(fmt, BlockFloat) else 24, _LOW, _HIGH)


def _of_fixed(fmt: Fixed) -> Span:
    return Span(max(1, fmt.width - fmt.signed), -fmt.fraction, fmt.integer)


def _of_float(fmt: Float) -> Span:
    return Span(fmt.mantissa + 1, fmt.min_exponent - fmt.mantissa, fmt.max_exponent + 1)


def _of_table(fmt: Table) -> Span:
    values = [abs(Fraction(v)) for v in fmt.values if v != 0]
    low = -max((v.denominator.bit_length() - 1 for v in values), default=0)
    high = max((int(v).bit_length() for v in values), default=1)
    odd = [v.numerator >> ((v.numerator & -v.numerator).bit_length() - 1) for v in values]
    return Span(max((n.bit_length() for n in odd), default=1), low, high)


def _of_logarithmic(fmt: Logarithmic) -> Span:
    bits = 24 if fmt.lowest >= -126 and fmt.highest <= 127 else 53  # significand bits of the rounded numbers' dtype
    return Span(bits, fmt.lowest - bits + 1, fmt.highest + 1)


@lru_cache(maxsize=512)
def span(fmt: Format) -> Span:
    """Return the span of a format's numbers; numbers with a shared scale are treated as float32."""
    if isinstance(fmt, BlockFormat) and fmt.block:
        return _of_blocks(fmt)
    if isinstance(fmt, Fixed):
        return _of_fixed(fmt)
    if isinstance(fmt, Int):
        return Span(max(1, fmt.width - fmt.signed), 0, fmt.width)
    if isinstance(fmt, Float):
        return _of_float(fmt)
    if isinstance(fmt, Posit):
        return Span(max(1, fmt.n - 2 - fmt.es), -fmt.max_exponent, fmt.max_exponent + 1)
    if isinstance(fmt, Table):
        return _of_table(fmt)
    if isinstance(fmt, PowerOfTwo):
        return Span(1, fmt.lowest, fmt.highest + 1)
    if isinstance(fmt, SumOfPowers):
        fixed = fmt.fixed  # the nearest sum may be the power of two after the largest code
        return Span(fixed.width, -fixed.fraction, fixed.integer + (fmt.method == "NEAREST"))
    assert isinstance(fmt, Logarithmic)
    return _of_logarithmic(fmt)


def product(a: Span, b: Span) -> Span:
    """Return the span (bits, low, high) of the product of two numbers."""
    return Span(a.bits + b.bits, a.low + b.low, a.high + b.high)
