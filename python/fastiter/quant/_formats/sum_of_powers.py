"""Sums of a few powers of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .base import ElementFormat, check_bool, check_int, set_word
from .fixed import FIXED_ROUNDINGS, Fixed
from .modes import kind
from .plan import Plan, PowersShape
from .properties import Decoder, Range, Span
from .text import list_format, register

Array = npt.NDArray[Any]


@dataclass(frozen=True, repr=False)
class SumOfPowers(ElementFormat):
    """Fixed point whose codes have at most ``terms`` ones: a product takes that many shifts and additions.

    A number is first rounded to ``Fixed(width, integer, signed, rounding, "SAT")``, then the magnitude of its code to
    a sum of powers of two. "GREEDY" repeatedly subtracts the highest power not above the remainder, so it keeps the
    highest ones; "NEAREST" the nearest power (the larger at a tie), so the remainder may be negative (signed digits).

    Parameters
    ----------
    terms : int
        The most powers of two in a sum, 1 to 24.
    width : int
        Bits of the fixed-point code, 2 to 24.
    integer : int
        Bits before its binary point, including the sign, -850 to 850.
    signed : bool
        Whether there are negative numbers.
    method : {"GREEDY", "NEAREST"}
        The choice of the powers.
    rounding : str
        To the fixed-point code, as for :class:`Fixed`.

    Raises
    ------
    TypeError
        If a field has another type.
    ValueError
        If a field is out of its range, or a word none of the listed ones.

    See Also
    --------
    PowerOfTwo : One power for each number.
    Fixed : The format without a limit on the ones of a code.

    References
    ----------
    The K-hot weights of QFX (arXiv 2401.17544).

    Examples
    --------
    >>> from fastiter.quant import SumOfPowers
    >>> str(SumOfPowers(2, 8, 1))
    'khot<2,8,1>'
    """

    terms: int
    width: int
    integer: int
    signed: bool = True
    method: Literal["GREEDY", "NEAREST"] = "GREEDY"
    rounding: str = "RND_CONV"

    def __post_init__(self) -> None:
        check_int("SumOfPowers", "terms", self.terms, 1, 24)
        check_int("SumOfPowers", "width", self.width, 2, 24)
        check_int("SumOfPowers", "integer", self.integer, -850, 850)
        set_word(self, "method", ("GREEDY", "NEAREST"))
        set_word(self, "rounding", FIXED_ROUNDINGS)
        check_bool("SumOfPowers", "signed", self.signed)
        _ = self.fixed

    def _spelling(self) -> tuple[str, tuple[str, ...]]:
        return "khot" if self.signed else "ukhot", ("terms", "width", "integer", "method", "rounding")

    @property
    def fixed(self) -> Fixed:
        """The format that a number is rounded to first."""
        return Fixed(self.width, self.integer, self.signed, self.rounding, "SAT")

    @property
    def bits(self) -> int:
        """Bits of a code: those of the fixed-point code, and one more because NEAREST may round up."""
        return self.width + (self.method == "NEAREST")

    def _range(self) -> Range:
        top, step = self.fixed.max_code, float(self.fixed.step)
        if self.method == "NEAREST":
            # The power nearest to the largest code is the next one above; a second, negative term leads back to it.
            highest = top + (self.terms == 1 < top)
        else:  # the highest sum of powers up to a code whose bits are all ones
            highest = top - ((1 << max(top.bit_length() - self.terms, 0)) - 1)
        return Range(-float(top + 1) * step if self.signed else 0.0, highest * step, step)

    def _span(self) -> Span:
        fixed = self.fixed  # the nearest sum may be the power of two after the largest code
        return Span(fixed.width, -fixed.fraction, fixed.integer + (self.method == "NEAREST"))

    @property
    def _fits_float32(self) -> bool:
        return self.fixed._fits_float32

    @property
    def _has_signed_codes(self) -> bool:
        return self.signed

    def _code_range(self) -> tuple[int, int]:
        _, high = super()._code_range()
        return (-(high + 1) if self.signed else 0), high

    def _values(self, codes: Array, dtype: np.dtype[Any]) -> Array:
        return self.fixed._values(codes, dtype)

    @property
    def _has_table(self) -> bool:
        return False

    def _decoder(self) -> Decoder:
        return self.fixed._decoder()

    @property
    def _point(self) -> Fixed:
        return self.fixed

    def _as_fixed(self) -> Fixed:
        return self.fixed

    def _plan(self, dtype: str, codes: bool) -> Plan:
        powers = PowersShape(self.terms, self.method == "NEAREST")
        return self.fixed._plan(dtype, codes)._replace(kind=kind.powers, powers=powers)


_FIELDS = ("terms", "width", "integer", "method", "rounding")
register("khot", SumOfPowers, {"signed": True}, _FIELDS)
register("ukhot", SumOfPowers, {"signed": False}, _FIELDS)
list_format(
    SumOfPowers,
    "khot<terms,width,integer>",
    "sums of a few powers of two; ukhot is unsigned",
    example="khot<2,8,1>",
)
