"""Logarithms in fixed point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .base import ElementFormat, check_bool, check_int, check_steps
from .modes import ROUNDINGS, kind
from .plan import Plan, SmallFloat, TableOfNumbers
from .properties import Range, Span
from .text import list_format, register

Array = npt.NDArray[Any]


@dataclass(frozen=True, repr=False)
class Logarithmic(ElementFormat):
    """0 and +-2^(c / 2^fraction), with c / 2^fraction from ``lowest`` to ``highest``.

    Rounding is to the nearest logarithm, so to the geometric mean of two neighbours. Magnitudes less than half a step
    below 2^lowest become 2^lowest, smaller ones zero.

    Parameters
    ----------
    lowest, highest : int
        The exponents of the smallest and of the largest number, -1000 to 1000.
    fraction : int
        Bits of a logarithm after its binary point, 0 to 6.
    signed : bool
        Whether there are negative numbers.

    Raises
    ------
    TypeError
        If a field has another type.
    ValueError
        If a field is out of its range, or ``lowest`` above ``highest``.

    See Also
    --------
    PowerOfTwo : Without steps between the powers.
    Float : Equal steps between the powers.

    Examples
    --------
    >>> from fastiter.quant import Logarithmic
    >>> str(Logarithmic(-8, 0, 2)), Logarithmic(-8, 0, 2).bits
    ('log2<-8,0,2>', 7)
    """

    lowest: int
    highest: int
    fraction: int = 0
    signed: bool = True

    def __post_init__(self) -> None:
        check_int("Logarithmic", "lowest", self.lowest, -1000, 1000)
        check_int("Logarithmic", "highest", self.highest, self.lowest, 1000)
        check_int("Logarithmic", "fraction", self.fraction, 0, 6)
        check_bool("Logarithmic", "signed", self.signed)

    def _spelling(self) -> tuple[str, tuple[str, ...]]:
        return "log2" if self.signed else "ulog2", ("lowest", "highest", "fraction")

    @property
    def steps(self) -> int:
        """The number of positive numbers."""
        return ((self.highest - self.lowest) << self.fraction) + 1

    @property
    def bits(self) -> int:
        """Bits of a code: the sign, then 0 for zero and the index of the step from 1 on."""
        return self.steps.bit_length() + self.signed

    def _range(self) -> Range:
        high = 2.0**self.highest
        return Range(-high if self.signed else 0.0, high, 2.0**self.lowest)

    def _span(self) -> Span:
        bits = 24 if self._fits_float32 else 53  # significand bits of the rounded numbers' dtype
        return Span(bits, self.lowest - bits + 1, self.highest + 1)

    @property
    def _fits_float32(self) -> bool:
        return self.lowest >= -126 and self.highest <= 127

    def _check_codes(self, function: str, codes: Array) -> None:
        check_steps(function, codes, self, self.steps, self.signed)

    def _values(self, codes: Array, dtype: np.dtype[Any]) -> Array:
        top = self.bits - self.signed
        body = (codes & ((1 << top) - 1)).astype(np.int64)
        step = body - 1 + (self.lowest << self.fraction)
        _, values = log_table(self.fraction, dtype.type)
        powers = np.ldexp(values[step & ((1 << self.fraction) - 1)], step >> self.fraction)
        powers = np.where(codes >> top == 1, -powers, powers)
        return np.where(body == 0, 0.0, powers)

    def _plan(self, dtype: str, codes: bool) -> Plan:
        in_float = dtype != "float64" and self.lowest >= -124 and self.highest <= 125
        thresholds, values = log_table(self.fraction, np.float32 if in_float else np.float64)
        largest, sign = 2.0**self.highest, 2.0 ** (self.bits - 1)
        over = largest * float(thresholds[0])
        small = SmallFloat(
            *(0, self.lowest, self.bits, largest, over, 0.0, 0.0, 0.0, sign, 2.0**self.lowest, self.signed)
        )
        table = TableOfNumbers(thresholds, values, len(values))
        return Plan(kind.logarithmic, ROUNDINGS["RNE"], in_double=not in_float, small=small, table=table)


def log_table(fraction: int, dtype: type[np.floating[Any]]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the thresholds 2^((2 j + 1) / 2^(fraction + 1)), rounded up, and the values 2^(j / 2^fraction) to 2."""
    steps = 1 << fraction
    scale = 1 << np.finfo(dtype).nmant  # numbers from 1 to 2 in units of the last place
    thresholds = [_power(2 * j + 1, 2 * steps, scale) + 1 for j in range(steps)]  # irrational, so never exact
    values = [(_power(j, steps, 2 * scale) + 1) // 2 for j in range(steps)]
    return np.array(thresholds, dtype) / dtype(scale), np.array([*values, 2 * scale], dtype) / dtype(scale)


def _power(p: int, q: int, scale: int) -> int:
    """Return floor(2^(p / q) scale) for 0 <= p <= q, by bisection in whole numbers."""
    target = scale**q << p
    low, high = scale, 2 * scale + 1
    while high - low > 1:  # low^q <= target < high^q
        middle = (low + high) // 2
        low, high = (middle, high) if middle**q <= target else (low, middle)
    return low


_FIELDS = ("lowest", "highest", "fraction")
register("log2", Logarithmic, {"signed": True}, _FIELDS)
register("ulog2", Logarithmic, {"signed": False}, _FIELDS)
list_format(
    Logarithmic,
    "log2<lowest,highest,fraction>",
    "0 and 2^(c / 2^fraction); ulog2 is unsigned",
    example="log2<-8,0,2>",
)
