"""Formats that are neither fixed nor floating point: posits, tables, powers of two and their sums, logarithms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ._block_formats import LONGEST_BLOCK, BlockFormat
from ._formats import FIXED_ROUNDINGS, Fixed, Format, _check_bool, _check_int, _set_word
from ._text import register


@dataclass(frozen=True, repr=False)
class Posit(Format):
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
        _check_int("Posit", "n", self.n, 3, 32)
        _check_int("Posit", "es", self.es, 0, 4)
        _set_word(self, "rounding", ("RNE", "STOCHASTIC"))

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


@dataclass(frozen=True, repr=False)
class Table(BlockFormat):
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

    def __post_init__(self) -> None:
        if not isinstance(self.values, tuple) or not all(isinstance(v, float) for v in self.values):
            raise TypeError(f"Table: values must be a tuple of float, got {self.values!r}")
        if not 2 <= len(self.values) <= 256:
            raise ValueError(f"Table: values must be 2 to 256 numbers, got {len(self.values)}")
        rising = all(a < b for a, b in zip(self.values, self.values[1:], strict=False))
        if not rising or not all(map(math.isfinite, self.values)):
            raise ValueError(f"Table: values must be finite and rising, got {self.values}")
        _check_int("Table", "block", self.block, 0, LONGEST_BLOCK)
        _set_word(self, "rounding", ("NEAREST", "STOCHASTIC"))
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
        return ("nf4", ("rounding",)) if nf4 else ("table", _TABLE_FIELDS)

    @property
    def bits(self) -> int:
        """Bits of a code; 32 more for each block."""
        return (len(self.values) - 1).bit_length()


@dataclass(frozen=True, repr=False)
class PowerOfTwo(Format):
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
        _check_int("PowerOfTwo", "lowest", self.lowest, -1000, 1000)
        _check_int("PowerOfTwo", "highest", self.highest, self.lowest, min(1000, self.lowest + 2000))
        _check_bool("PowerOfTwo", "signed", self.signed)
        _set_word(self, "rounding", ("RNE", "STOCHASTIC"))

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


@dataclass(frozen=True, repr=False)
class SumOfPowers(Format):
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
        _check_int("SumOfPowers", "terms", self.terms, 1, 24)
        _check_int("SumOfPowers", "width", self.width, 2, 24)
        _check_int("SumOfPowers", "integer", self.integer, -850, 850)
        _set_word(self, "method", ("GREEDY", "NEAREST"))
        _set_word(self, "rounding", FIXED_ROUNDINGS)
        _check_bool("SumOfPowers", "signed", self.signed)
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


@dataclass(frozen=True, repr=False)
class Logarithmic(Format):
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
        _check_int("Logarithmic", "lowest", self.lowest, -1000, 1000)
        _check_int("Logarithmic", "highest", self.highest, self.lowest, 1000)
        _check_int("Logarithmic", "fraction", self.fraction, 0, 6)
        _check_bool("Logarithmic", "signed", self.signed)

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


#: The 16 numbers of QLoRA (Dettmers et al. 2023), as float32
NF4_VALUES = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_TABLE_FIELDS = ("values", "block", "rounding")
register("posit", Posit, {}, ("n", "es", "rounding"))
register("table", Table, {}, _TABLE_FIELDS)
register("nf4", Table, {"values": NF4_VALUES, "block": 64}, ("rounding",))
for _prefix, _signed in (("", True), ("u", False)):
    register(f"{_prefix}pow2", PowerOfTwo, {"signed": _signed}, ("lowest", "highest", "rounding"))
    register(f"{_prefix}khot", SumOfPowers, {"signed": _signed}, ("terms", "width", "integer", "method", "rounding"))
    register(f"{_prefix}log2", Logarithmic, {"signed": _signed}, ("lowest", "highest", "fraction"))
