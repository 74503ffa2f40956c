"""Powers of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .base import ElementFormat, check_bool, check_int, check_steps, set_word
from .fixed import Fixed
from .modes import ROUNDINGS, kind, overflow
from .plan import Plan, SmallFloat
from .properties import Range, Span
from .text import list_format, register

Array = npt.NDArray[Any]


@dataclass(frozen=True, repr=False)
class PowerOfTwo(ElementFormat):
    """0 and +-2^k with k from ``lowest`` to ``highest``: a product with one is a shift.

    Rounding is to the nearest, ties to the even code without its sign (0 for zero, 1 for 2^lowest, and so on).

    Parameters
    ----------
    lowest, highest : int
        The exponents of the smallest and of the largest power, -1000 to 1000.
    signed : bool
        Whether there are negative numbers.
    rounding : str
        "RNE", or "STOCHASTIC" between the two neighbours.

    Raises
    ------
    TypeError
        If a field has another type.
    ValueError
        If a field is out of its range, ``lowest`` is above ``highest``, or ``rounding`` none of the listed words.

    See Also
    --------
    SumOfPowers : Several powers for each number.
    Logarithmic : Steps between the powers, too.

    Examples
    --------
    >>> from fastiter.quant import PowerOfTwo
    >>> str(PowerOfTwo(-7, 0)), PowerOfTwo(-7, 0).bits
    ('pow2<-7,0>', 5)
    """

    lowest: int
    highest: int
    signed: bool = True
    rounding: str = "RNE"

    def __post_init__(self) -> None:
        check_int("PowerOfTwo", "lowest", self.lowest, -1000, 1000)
        check_int("PowerOfTwo", "highest", self.highest, self.lowest, min(1000, self.lowest + 2000))
        check_bool("PowerOfTwo", "signed", self.signed)
        set_word(self, "rounding", ("RNE", "STOCHASTIC"))

    def _spelling(self) -> tuple[str, tuple[str, ...]]:
        return "pow2" if self.signed else "upow2", ("lowest", "highest", "rounding")

    @property
    def steps(self) -> int:
        """The number of positive numbers."""
        return self.highest - self.lowest + 1

    @property
    def bits(self) -> int:
        """Bits of a code: the sign, then 0 for zero and k - lowest + 1."""
        return self.steps.bit_length() + self.signed

    def _range(self) -> Range:
        high = 2.0**self.highest
        return Range(-high if self.signed else 0.0, high, 2.0**self.lowest)

    def _span(self) -> Span:
        return Span(1, self.lowest, self.highest + 1)

    @property
    def _fits_float32(self) -> bool:
        return self.lowest >= -126 and self.highest <= 127

    def _check_codes(self, function: str, codes: Array) -> None:
        check_steps(function, codes, self, self.steps, self.signed)

    def _values(self, codes: Array, dtype: np.dtype[Any]) -> Array:
        top = self.bits - self.signed
        body = codes & ((1 << top) - 1)
        values = np.where(body == 0, 0.0, np.ldexp(1.0, body.astype(np.int64) + (self.lowest - 1)))
        return np.where((codes >> top == 1) & (body > 0), -values, values)

    def _as_fixed(self) -> Fixed | None:
        width = self.steps + self.signed
        return Fixed(width, width + self.lowest, self.signed) if width <= 64 else None

    def _plan(self, dtype: str, codes: bool) -> Plan:
        in_float = dtype != "float64" and -126 <= self.lowest <= 0 and self.highest <= 126
        is_small = in_float or (-1022 <= self.lowest <= 0 and self.highest <= 1022)
        number, largest = kind.small_float if is_small else kind.wide_float, 2.0**self.highest
        small = SmallFloat(
            0, self.lowest, self.bits, largest, largest, -largest, largest, -largest, 0.0, 0.0, self.signed
        )
        return Plan(number, ROUNDINGS[self.rounding], overflow.saturate, not in_float, small=small)


_FIELDS = ("lowest", "highest", "rounding")
register("pow2", PowerOfTwo, {"signed": True}, _FIELDS)
register("upow2", PowerOfTwo, {"signed": False}, _FIELDS)
list_format(PowerOfTwo, "pow2<lowest,highest>", "0 and powers of two; upow2 is unsigned", example="pow2<-7,0>")
