"""Tables of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .base import LONGEST_BLOCK, Format, check_int, set_word
from .modes import ROUNDINGS, kind
from .plan import Blocks, Plan, TableOfNumbers
from .properties import FLOAT32_HIGH, FLOAT32_LOW, Range, Span
from .text import list_format, register

Array = npt.NDArray[Any]
#: The 16 numbers of QLoRA (Dettmers et al. 2023), as float32
NF4_VALUES = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_FIELDS = ("values", "block", "rounding")


@dataclass(frozen=True, repr=False)
class Table(Format):
    """value = values[code], the nearest to x; with ``block``, times the largest magnitude of the block.

    Parameters
    ----------
    values : tuple of float
        2 to 256 increasing float64 numbers, all exact: for a float32 x the nearest one is found, then rounded to
        float32.
    block : int
        0, or the number of elements that share a scale.
    rounding : str
        "NEAREST", ties to the even code, or "STOCHASTIC" between the two neighbours.

    Raises
    ------
    TypeError
        If a field has another type.
    ValueError
        If the values are not 2 to 256 finite, rising numbers, ``block`` is out of its range, or ``rounding`` none
        of the listed words.

    See Also
    --------
    quantize : Rounds to its numbers.
    range_of : Its extreme numbers.

    Examples
    --------
    >>> from fastiter.quant import Table, parse
    >>> str(Table((-1.0, 0.0, 0.5)))
    'table<-1.0 0.0 0.5>'
    >>> len(parse("nf4").values), parse("nf4").block
    (16, 64)
    """

    values: tuple[float, ...]
    block: int = 0
    rounding: str = "NEAREST"
    _has_float_scales: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.values, tuple) or not all(isinstance(v, float) for v in self.values):
            raise TypeError(f"Table: values must be a tuple of float, got {self.values!r}")
        if not 2 <= len(self.values) <= 256:
            raise ValueError(f"Table: values must be 2 to 256 numbers, got {len(self.values)}")
        rising = all(a < b for a, b in zip(self.values, self.values[1:], strict=False))
        if not rising or not all(map(math.isfinite, self.values)):
            raise ValueError(f"Table: values must be finite and rising, got {self.values}")
        check_int("Table", "block", self.block, 0, LONGEST_BLOCK)
        set_word(self, "rounding", ("NEAREST", "STOCHASTIC"))
        # -0 and 0 are one number, and two formats with it would be equal but print differently
        object.__setattr__(self, "values", tuple(v + 0.0 for v in self.values))

    def __repr__(self) -> str:
        """Write the constructor's call; of more than six values only the first and the last two."""
        if len(self.values) <= 6:
            return super().__repr__()
        first, last = (", ".join(map(repr, part)) for part in (self.values[:2], self.values[-2:]))
        rest = f", block={self.block}" * bool(self.block) + f", rounding={self.rounding!r}" * self.stochastic
        return f"Table(values=({first}, ..., {last}){rest})"

    def _spelling(self) -> tuple[str, tuple[str, ...]]:
        nf4 = self.values == NF4_VALUES and self.block == 64
        return ("nf4", ("rounding",)) if nf4 else ("table", _FIELDS)

    @property
    def bits(self) -> int:
        """Bits of a code; 32 more for each block."""
        return (len(self.values) - 1).bit_length()

    def _range(self) -> Range:
        positive = (v for v in self.values if v > 0)
        return Range(self.values[0], self.values[-1], min(positive, default=math.nan))

    def _span(self) -> Span:
        if self.block:
            return Span(24, FLOAT32_LOW, FLOAT32_HIGH)
        values = [abs(Fraction(v)) for v in self.values if v != 0]
        low = -max((v.denominator.bit_length() - 1 for v in values), default=0)
        high = max((int(v).bit_length() for v in values), default=1)
        odd = [v.numerator >> ((v.numerator & -v.numerator).bit_length() - 1) for v in values]
        return Span(max((n.bit_length() for n in odd), default=1), low, high)

    @property
    def _fits_float32(self) -> bool:
        with np.errstate(over="ignore", under="ignore"):
            return self.block > 0 or all(float(np.float32(v)) == v for v in self.values)

    def _code_range(self) -> tuple[int, int]:
        return 0, len(self.values) - 1

    def _values(self, codes: Array, dtype: np.dtype[Any]) -> Array:
        values: Array = np.array(self.values)[codes]
        return values

    def _plan(self, dtype: str, codes: bool) -> Plan:
        # Rounding to nearest needs only the thresholds; stochastic rounding needs the values, which are floats in
        # blocks.
        in_double = dtype == "float64" or (self.stochastic and not self._fits_float32)
        number = np.float64 if in_double else np.float32
        with np.errstate(over="ignore", under="ignore"):
            values = np.array(self.values).astype(number)
        thresholds = values[1:].copy() if self.stochastic else nearest_thresholds(self.values, number)
        block = Blocks(self.block) if self.block else None
        table = TableOfNumbers(thresholds, values, len(values))
        return Plan(kind.table, ROUNDINGS[self.rounding], in_double=in_double, block=block, table=table)


def nearest_thresholds(values: Sequence[float], dtype: type[np.floating[Any]]) -> npt.NDArray[Any]:
    """Return for each pair of neighbours the lowest number of the dtype that is rounded to the upper one.

    Ties go to the even index. The values themselves need not be numbers of the dtype.
    """
    thresholds = np.empty(len(values) - 1, dtype)
    largest = Fraction(float(np.finfo(dtype).max))
    for i, (low, high) in enumerate(pairwise(values)):
        middle = (Fraction(low) + Fraction(high)) / 2
        if abs(middle) > largest:  # only an infinity is beyond
            thresholds[i] = math.inf if middle > 0 else -largest
            continue
        near = dtype(float(middle))
        belongs = Fraction(float(near)) > middle or (Fraction(float(near)) == middle and i % 2 == 1)
        thresholds[i] = near if belongs else np.nextafter(near, dtype(math.inf))
    return thresholds


register("table", Table, {}, _FIELDS)
register("nf4", Table, {"values": NF4_VALUES, "block": 64}, ("rounding",))
list_format(Table, "nf4", "QLoRA's table of 16 numbers; blocks of 64 with their largest magnitude as scale")
list_format(Table, "table<v0 v1 ...,block>", "any 2 to 256 numbers", example="table<-1.0 0.0 1.0>")
