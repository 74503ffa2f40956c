"""Integers with a scale and a zero point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .base import ElementFormat, check_bool, check_int, set_word
from .fixed import FIXED_ROUNDINGS, Fixed
from .modes import ROUNDINGS, kind
from .plan import FixedPoint, Plan
from .properties import Decoder, Range, ScaleRule, Span, Target, margin
from .text import list_format, register

Array = npt.NDArray[Any]


@dataclass(frozen=True, repr=False)
class Int(ElementFormat):
    """value = (code - zero_point) scale: integers of ``width`` bits; scale and zero point are kept with the data.

    Without a scale the values are whole numbers; for others, pass ``scale=`` or ``scale="amax"`` to :func:`quantize`.

    Parameters
    ----------
    width : int
        Bits of a code, 1 to 32.
    signed : bool
        Two's complement, or unsigned.
    rounding : str
        As for :class:`Fixed`, by default to the nearest, ties to the even code.
    overflow : str
        The nearest code (SAT), or the nearest of a range that is symmetric about zero, without the lowest code of a
        signed format (SAT_SYM).

    Raises
    ------
    TypeError
        If a field has another type.
    ValueError
        If ``width`` is not from 1 to 32, or a word none of the listed ones.

    See Also
    --------
    calibrate : The scale and zero point for an array.

    Examples
    --------
    >>> from fastiter.quant import Int, parse
    >>> str(Int(8)), str(Int(4, signed=False)), parse("int8<RND_CONV,SAT_SYM>").min_code
    ('int8', 'uint4', -127)
    """

    width: int
    signed: bool = True
    rounding: str = "RND_CONV"
    overflow: str = "SAT"
    _is_affine: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_int("Int", "width", self.width, 1, 32)
        check_bool("Int", "signed", self.signed)
        set_word(self, "rounding", FIXED_ROUNDINGS)
        set_word(self, "overflow", ("SAT", "SAT_SYM"))

    def _spelling(self) -> tuple[str, tuple[str, ...]]:
        return f"{'' if self.signed else 'u'}int{self.width}", ("rounding", "overflow")

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.width

    @property
    def min_code(self) -> int:
        """The lowest code that a number is rounded to."""
        if not self.signed:
            return 0
        return -(1 << (self.width - 1)) + (self.overflow == "SAT_SYM")

    @property
    def max_code(self) -> int:
        """The highest code."""
        return (1 << (self.width - 1)) - 1 if self.signed else (1 << self.width) - 1

    def _range(self) -> Range:
        return Range(float(self.min_code), float(self.max_code), 1.0)

    def _span(self) -> Span:
        return Span(max(1, self.width - self.signed), 0, self.width)

    @property
    def _fits_float32(self) -> bool:
        return self.width - self.signed <= 24

    @property
    def _has_signed_codes(self) -> bool:
        return self.signed

    def _values(self, codes: Array, dtype: np.dtype[Any]) -> Array:
        return codes

    @property
    def _has_table(self) -> bool:
        return False

    def _decoder(self) -> Decoder:
        return Decoder("integer")

    @property
    def _scale_rule(self) -> ScaleRule:
        return ScaleRule(fit="scale" if self.signed else "zero point")

    def _target(self, in_double: bool) -> Target:
        return Target(float(self.max_code), margin(self.rounding, 0.25), 0.0)

    @property
    def _scales_in_double(self) -> bool:
        # Integers wider than float32's mantissa are rounded to it once, after the zero point and the scale are applied.
        return self.width > 24

    def _as_fixed(self) -> Fixed:
        return Fixed(self.width, self.width, self.signed, self.rounding, self.overflow)

    def _plan(self, dtype: str, codes: bool) -> Plan:
        low, high = float(self.min_code), float(self.max_code)
        fixed = FixedPoint(1.0, 1.0, low, high, low, high, self.width, is_signed=self.signed)
        in_double = dtype == "float64" or self.width > 24
        return Plan(kind.fixed, ROUNDINGS[self.rounding], in_double=in_double, affine=True, fixed=fixed)


_FIELDS = ("width", "rounding", "overflow")
register("int", Int, {"signed": True}, _FIELDS)
register("uint", Int, {"signed": False}, _FIELDS)
list_format(Int, "int8", "with a scale; any width from 1 to 32, as in int4")
list_format(Int, "uint8", "with a scale and a zero point; any width from 1 to 32, as in uint4")
