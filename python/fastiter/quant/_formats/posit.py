"""Posits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .base import ElementFormat, check_int, set_word
from .modes import ROUNDINGS, kind
from .plan import Plan, PositShape
from .properties import Decoder, Range, Span, Target
from .text import list_format, register

Array = npt.NDArray[Any]


@dataclass(frozen=True, repr=False)
class Posit(ElementFormat):
    """Posits of n bits: sign, regime (a run of equal bits), ``es`` bits of exponent, fraction.

    Rounding is to the nearest bit string, ties to even, and never to zero or to NaR ("not a real", the code 1000...),
    which represents NaN and infinities.

    Parameters
    ----------
    n : int
        Bits of a code, 3 to 32.
    es : int
        Bits of the exponent, 0 to 4; 2 in the standard.
    rounding : str
        "RNE", or "STOCHASTIC" between neighbouring bit strings.

    Raises
    ------
    TypeError
        If a field has another type.
    ValueError
        If ``n`` is not from 3 to 32, ``es`` not from 0 to 4, or ``rounding`` none of the listed words.

    See Also
    --------
    Float : The same number of bits for every exponent.
    Logarithmic : The logarithm in fixed point.

    Examples
    --------
    >>> from fastiter.quant import parse
    >>> parse("posit<16,1>").max_exponent
    28
    """

    n: int
    es: int = 2
    rounding: str = "RNE"

    def __post_init__(self) -> None:
        check_int("Posit", "n", self.n, 3, 32)
        check_int("Posit", "es", self.es, 0, 4)
        set_word(self, "rounding", ("RNE", "STOCHASTIC"))

    def _spelling(self) -> tuple[str, tuple[str, ...]]:
        return "posit", ("n", "es", "rounding")

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.n

    @property
    def max_exponent(self) -> int:
        """The exponent of the largest number; the smallest has its negative."""
        return (self.n - 2) << self.es

    @property
    def has_nan(self) -> bool:
        """Whether there is a code for NaN: always, NaR."""
        return True

    def _range(self) -> Range:
        return Range(-(2.0**self.max_exponent), 2.0**self.max_exponent, 2.0**-self.max_exponent)

    def _span(self) -> Span:
        return Span(max(1, self.n - 2 - self.es), -self.max_exponent, self.max_exponent + 1)

    @property
    def _fits_float32(self) -> bool:
        return self.n - 3 - self.es <= 23 and self.max_exponent <= 126

    def _values(self, codes: Array, dtype: np.dtype[Any]) -> Array:
        n, codes = self.n, codes.astype(np.int64)
        negative = codes >> (n - 1) == 1
        body = np.where(negative, (1 << n) - codes, codes) & ((1 << (n - 1)) - 1)
        first = (body >> (n - 2)) & 1
        run, equal_so_far = np.zeros_like(body), np.ones(body.shape, bool)
        for place in range(n - 2, -1, -1):
            equal_so_far &= ((body >> place) & 1) == first
            run += equal_so_far
        regime = np.where(first == 1, run - 1, -run)
        left = np.maximum(n - 2 - run, 0)  # bits after the regime and its terminating bit
        rest = body & ((1 << left) - 1)
        scaled = rest << (n + self.es - left)  # n + es bits: the exponent, then a fraction of n bits
        exponent, fraction = scaled >> n, scaled & ((1 << n) - 1)
        values = np.ldexp(1.0 + fraction * 2.0**-n, (regime << self.es) + exponent)
        values = np.where(negative, -values, values)
        return np.where(codes == 0, 0.0, np.where(codes == 1 << (n - 1), np.nan, values))

    def _decoder(self) -> Decoder:
        return Decoder("table") if self._has_table else Decoder("posit", numbers=(self.n, self.es, 0, 0))

    def _target(self, in_double: bool) -> Target:
        return Target(1.0, math.inf, 0.0)

    def _plan(self, dtype: str, codes: bool) -> Plan:
        in_float = dtype != "float64" and self.max_exponent <= 126 and (not codes or self.n <= 24)
        posit = PositShape(self.n, self.es, self.max_exponent)
        return Plan(kind.posit, ROUNDINGS[self.rounding], in_double=not in_float, posit=posit)


register("posit", Posit, {}, ("n", "es", "rounding"))
list_format(Posit, "posit<n,es>", "NaN stands for NaR; standard posits have es = 2", example="posit<16,1>")
