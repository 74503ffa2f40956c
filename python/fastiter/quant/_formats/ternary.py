"""Ternary numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .base import ElementFormat, set_word
from .modes import ROUNDINGS, kind
from .plan import Plan, TableOfNumbers, computed_with
from .properties import Range, Span
from .table import nearest_thresholds
from .text import list_format, register

Array = npt.NDArray[Any]


@dataclass(frozen=True, repr=False)
class Ternary(ElementFormat):
    """-1, 0 and 1, with the codes 0, 1 and 2: weights of ternary networks.

    Parameters
    ----------
    rounding : str
        "NEAREST", ties to the even code, or "STOCHASTIC" between the two neighbours.

    See Also
    --------
    Table : Any numbers.

    Examples
    --------
    >>> from fastiter.quant import Ternary
    >>> str(Ternary()), Ternary().bits
    ('ternary', 2)
    """

    rounding: str = "NEAREST"

    def __post_init__(self) -> None:
        set_word(self, "rounding", ("NEAREST", "STOCHASTIC"))

    def _spelling(self) -> tuple[str, tuple[str, ...]]:
        return "ternary", ("rounding",)

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return 2

    def _range(self) -> Range:
        return Range(-1.0, 1.0, 1.0)

    def _span(self) -> Span:
        return Span(1, 0, 1)

    @property
    def _fits_float32(self) -> bool:
        return True

    def _code_range(self) -> tuple[int, int]:
        return 0, 2

    def _values(self, codes: Array, dtype: np.dtype[Any]) -> Array:
        return codes.astype(np.int64) - 1

    def _plan(self, dtype: str, codes: bool) -> Plan:
        number = computed_with(dtype)
        values = np.array([-1, 0, 1], number)
        thresholds = values[1:].copy() if self.stochastic else nearest_thresholds((-1.0, 0.0, 1.0), number)
        table = TableOfNumbers(thresholds, values, len(values))
        return Plan(kind.table, ROUNDINGS[self.rounding], in_double=dtype == "float64", table=table)


register("ternary", Ternary, {}, ("rounding",))
list_format(Ternary, "ternary", "-1, 0 and 1")
