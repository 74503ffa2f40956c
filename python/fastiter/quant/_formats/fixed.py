"""Fixed point."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from .base import ElementFormat, check_bool, check_int, set_word
from .modes import ROUNDINGS, kind, overflow
from .plan import FixedPoint, Plan
from .properties import Decoder, Range, ScaleRule, Span
from .text import list_format, register

Array = npt.NDArray[Any]
FIXED_ROUNDINGS = ("TRN", "TRN_ZERO", "RND", "RND_ZERO", "RND_MIN_INF", "RND_INF", "RND_CONV", "STOCHASTIC")
FIXED_OVERFLOWS = ("SAT", "SAT_ZERO", "SAT_SYM", "WRAP", "WRAP_SM")


@dataclass(frozen=True, repr=False)
class Fixed(ElementFormat):
    """value = code 2^-(width - integer): ``ap_fixed<width, integer, rounding, overflow, saturated_bits>``.

    Parameters
    ----------
    width : int
        Bits of a code, 1 to 64.
    integer : int
        Bits before the binary point, including the sign; may be negative or larger than ``width``.
    signed : bool
        Two's complement, or unsigned.
    rounding : str
        TRN (down), TRN_ZERO (toward zero), or to the nearest with ties up (RND), toward zero (RND_ZERO), down
        (RND_MIN_INF), away from zero (RND_INF) or to the even code (RND_CONV); or STOCHASTIC: up or down in magnitude
        with the probability that makes the expected value exact. The names used by :class:`Float` are accepted, too.
    overflow : str
        Replacement of a rounded code that is out of range: the nearest (SAT), zero (SAT_ZERO), the nearest of a range
        that is symmetric about zero (SAT_SYM), its low bits (WRAP), its low bits in sign and magnitude (WRAP_SM).
    saturated_bits : int
        Number of high bits that WRAP and WRAP_SM saturate.

    Raises
    ------
    TypeError
        If a field has another type.
    ValueError
        If a field is out of its range, a word none of the listed ones, or ``overflow`` "WRAP_SM" for an unsigned
        format.

    See Also
    --------
    FixedArray : Arrays of such numbers, with the arithmetic of HLS.

    Examples
    --------
    >>> from fastiter.quant import Fixed, parse
    >>> str(Fixed(8, 4, rounding="RND_CONV", overflow="SAT"))
    'fixed<8,4,RND_CONV,SAT>'
    >>> parse("ufixed<6,2,TRN,WRAP,1>")
    Fixed(width=6, integer=2, signed=False, saturated_bits=1)
    """

    width: int
    integer: int
    signed: bool = True
    rounding: str = "TRN"
    overflow: str = "WRAP"
    saturated_bits: int = 0

    def __post_init__(self) -> None:
        check_int("Fixed", "width", self.width, 1, 64)
        # The step and the largest value are then float64 numbers.
        check_int("Fixed", "integer", self.integer, self.width - 1074, 1023)
        check_bool("Fixed", "signed", self.signed)
        set_word(self, "rounding", FIXED_ROUNDINGS)
        set_word(self, "overflow", FIXED_OVERFLOWS)
        if self.overflow == "WRAP_SM" and not self.signed:
            raise ValueError("Fixed: overflow must be other than WRAP_SM for an unsigned format, got 'WRAP_SM'")
        max_bits = self.width if self.overflow.startswith("WRAP") else 0
        check_int("Fixed", f"saturated_bits with {self.overflow}", self.saturated_bits, 0, max_bits)

    def _spelling(self) -> tuple[str, tuple[str, ...]]:
        return "fixed" if self.signed else "ufixed", ("width", "integer", "rounding", "overflow", "saturated_bits")

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.width

    @property
    def fraction(self) -> int:
        """Bits after the binary point: a code counts steps of 2^-fraction."""
        return self.width - self.integer

    @property
    def min_code(self) -> int:
        """The lowest code."""
        return -(1 << (self.width - 1)) if self.signed else 0

    @property
    def max_code(self) -> int:
        """The highest code."""
        return (1 << (self.width - 1)) - 1 if self.signed else (1 << self.width) - 1

    @property
    def step(self) -> Fraction:
        """The value of code 1."""
        return Fraction(2) ** -self.fraction

    @property
    def _is_symmetric(self) -> bool:
        """Whether the lowest code is not used."""
        return self.overflow == "SAT_SYM" and self.signed

    @property
    def _overflow_mode(self) -> int:
        """The kernels' number of the overflow mode, which depends on the saturated bits."""
        if self.overflow == "WRAP":
            return overflow.wrap_some if self.saturated_bits else overflow.wrap
        if self.overflow == "WRAP_SM":
            modes = (overflow.sign_magnitude, overflow.sign_magnitude_one, overflow.sign_magnitude_some)
            return modes[min(self.saturated_bits, 2)]
        return overflow.zero if self.overflow == "SAT_ZERO" else overflow.saturate

    def _range(self) -> Range:
        step = float(self.step)
        low = -self.max_code if self._is_symmetric else self.min_code
        return Range(low * step, self.max_code * step, step)

    def _ends(self) -> tuple[Fraction, Fraction]:
        return self.min_code * self.step, self.max_code * self.step

    def _span(self) -> Span:
        return Span(max(1, self.width - self.signed), -self.fraction, self.integer)

    @property
    def _fits_float32(self) -> bool:
        return self.width - self.signed <= 24 and self.fraction <= 149 and self.integer <= 127

    @property
    def _wraps(self) -> bool:
        return self.overflow.startswith("WRAP") and self.saturated_bits < self.width

    @property
    def _has_signed_codes(self) -> bool:
        return self.signed

    def _values(self, codes: Array, dtype: np.dtype[Any]) -> Array:
        return np.ldexp(_nearest(codes, dtype, self.width), -self.fraction)

    @property
    def _has_table(self) -> bool:
        return False

    def _decoder(self) -> Decoder:
        return Decoder("fixed", self.fraction, to_odd=self.width > 53)

    @property
    def _scale_rule(self) -> ScaleRule:
        return ScaleRule(fit="binary point")

    @property
    def _point(self) -> Fixed:
        return self

    def _as_fixed(self) -> Fixed:
        return self

    @property
    def _accumulates(self) -> bool:
        return True

    def _plan(self, dtype: str, codes: bool) -> Plan:
        width, fraction, mode = self.width, self.fraction, self._overflow_mode
        # A number too wide for T's mantissa is still right if it is rounded once, but codes and 16-bit results are
        # rounded again, and wrapping a negative number in an unsigned format moves it up to where T has fewer bits
        # after the point.
        once = (mode in (overflow.saturate, overflow.zero) or (mode == overflow.wrap and self.signed)) and not codes
        # Scaling costs the smallest numbers their last bits, but these are then far below the last place.
        in_float = dtype != "float64" and -94 <= fraction <= 126 and (width <= 24 or (once and dtype == "float32"))
        in_double = -900 <= fraction <= 1022 and (width <= 53 or (once and dtype == "float64"))
        number = kind.fixed if in_float or in_double else kind.wide_fixed
        low, high = -self.max_code if self._is_symmetric else self.min_code, self.max_code
        digits = 24 if in_float else 53
        fixed = FixedPoint(
            to_code=2.0**fraction if number == kind.fixed else 1.0,
            from_code=1.0 if codes else 2.0**-fraction,
            lowest=_truncated(low, digits),
            highest=_truncated(high, digits),
            low=float(rounded(low, digits)),
            high=float(rounded(high, digits)),
            width=width,
            fraction=fraction,
            saturated=self.saturated_bits,
            is_signed=self.signed,
            symmetric=self._is_symmetric,
        )
        return Plan(number, ROUNDINGS[self.rounding], mode, not in_float, dtype != "float64", fixed=fixed)


def _truncated(code: int, bits: int) -> float:
    """Return the code truncated toward zero to ``bits`` significant bits."""
    places = max(0, code.bit_length() - bits)
    magnitude = abs(code) >> places << places
    return float(-magnitude if code < 0 else magnitude)


def rounded(value: Fraction | int, bits: int) -> Fraction:
    """Return the nearest number with ``bits`` significant bits and any exponent, ties to even."""
    value = Fraction(value)
    if value == 0:
        return value
    numerator, denominator = abs(value.numerator), value.denominator
    # 2^shift scales it to `bits` bits, or one more; in that case the last bit is rounded away as well.
    shift = bits - (numerator.bit_length() - denominator.bit_length())
    for _ in range(2):
        scaled = abs(value) * Fraction(2) ** shift
        if scaled < 1 << bits:
            break
        shift -= 1
    result = round(scaled) * Fraction(2) ** -shift  # round() of a Fraction goes to even
    return result if value > 0 else -result


def _nearest(codes: Array, dtype: np.dtype[Any], width: int) -> Array:
    """Return the codes as the nearest doubles, or rounded to odd if they will be rounded again."""
    if width <= 53 or dtype == np.float64:
        return codes.astype(np.float64)
    high = codes >> 11
    odd = (high | (codes != high << 11)).astype(np.float64) * 2048.0
    few = (codes < 1 << 53) & (codes > -(1 << 53) if codes.dtype.kind == "i" else True)
    exact: Array = np.where(few, codes.astype(np.float64), odd)
    return exact


_FIELDS = ("width", "integer", "rounding", "overflow", "saturated_bits")
register("fixed", Fixed, {"signed": True}, _FIELDS)
register("ufixed", Fixed, {"signed": False}, _FIELDS)
list_format(
    Fixed,
    "fixed<width,integer,rounding,overflow>",
    "HLS's ap_fixed, which is read too; ufixed is unsigned",
    example="fixed<16,6>",
)
