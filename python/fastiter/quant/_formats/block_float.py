"""Block floating point: integers with one exponent for each block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .base import LONGEST_BLOCK, BlockFormat, check_int, set_word
from .fixed import FIXED_ROUNDINGS
from .modes import ROUNDINGS, kind
from .plan import Blocks, FixedPoint, Plan
from .properties import FLOAT32_HIGH, FLOAT32_LOW, Decoder, Range, Span
from .text import list_format, register

Array = npt.NDArray[Any]


@dataclass(frozen=True, repr=False)
class BlockFloat(BlockFormat):
    """value = code 2^(k - (width - 2)): integers of ``width`` bits, one exponent k for each block.

    k = floor(log2 a) for the largest magnitude a, from -127 to 127; codes are clipped to +-(2^(width - 1) - 1). A NaN
    or an infinity makes its block NaN. With a width of 8 and blocks of 32 this is OCP's MXINT8.

    Parameters
    ----------
    width : int
        Bits of a code, 2 to 24.
    block : int
        Elements that share an exponent, 1 to 1024.
    rounding : str
        As for :class:`Fixed`, by default to the nearest, ties to the even code.

    Raises
    ------
    TypeError
        If a field has another type.
    ValueError
        If a field is out of its range, or ``rounding`` none of the listed words.

    See Also
    --------
    MX : Floating-point elements.
    Fixed : One binary point for all numbers.

    Examples
    --------
    >>> from fastiter.quant import BlockFloat, parse
    >>> str(BlockFloat(6, 16)), parse("mxint8") == BlockFloat(8, 32)
    ('bfp<6>', True)
    """

    width: int
    block: int = 16
    rounding: str = "RND_CONV"

    def __post_init__(self) -> None:
        check_int("BlockFloat", "width", self.width, 2, 24)
        check_int("BlockFloat", "block", self.block, 1, LONGEST_BLOCK)
        set_word(self, "rounding", FIXED_ROUNDINGS)

    def _spelling(self) -> tuple[str, tuple[str, ...]]:
        if self.width == 8 and self.block == 32:
            return "mxint8", ("rounding",)
        return "bfp", ("width", "block", "rounding")

    @property
    def bits(self) -> int:
        """Bits of an element's code; each block takes 8 more."""
        return self.width

    @property
    def max_code(self) -> int:
        """The highest code; the lowest is its negative."""
        return (1 << (self.width - 1)) - 1

    def _range(self) -> Range:
        high = self.max_code * 2.0 ** (129 - self.width)
        return Range(-high, high, 2.0 ** (-125 - self.width))

    def _span(self) -> Span:
        return Span(self.width - 1, FLOAT32_LOW, FLOAT32_HIGH)

    @property
    def _fits_float32(self) -> bool:
        return True

    @property
    def _has_signed_codes(self) -> bool:
        return True

    def _values(self, codes: Array, dtype: np.dtype[Any]) -> Array:
        return np.ldexp(codes.astype(np.float64), 2 - self.width)

    @property
    def _has_table(self) -> bool:
        return False

    def _decoder(self) -> Decoder:
        return Decoder("fixed", self.width - 2)

    def _plan(self, dtype: str, codes: bool) -> Plan:
        largest, step = float(self.max_code), 2.0 ** (self.width - 2)
        fixed = FixedPoint(
            step, 1.0 if codes else 1 / step, -largest, largest, -largest, largest, self.width, symmetric=True
        )
        rounding, in_double = ROUNDINGS[self.rounding], dtype == "float64"
        return Plan(kind.block_integer, rounding, in_double=in_double, fixed=fixed, block=Blocks(self.block))


register("bfp", BlockFloat, {}, ("width", "block", "rounding"))
register("mxint8", BlockFloat, {"width": 8, "block": 32}, ("rounding",))
list_format(BlockFloat, "mxint8", "blocks of 32 with a power of two")
list_format(
    BlockFloat,
    "bfp<width,block,rounding>",
    "block floating point: integers with one exponent a block",
    example="bfp<6>",
)
