"""NVFP4: elements of 4 bits, a scale for each block, and one for all blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .base import LONGEST_BLOCK, BlockFormat, check_int, set_word
from .floating import FLOAT_ROUNDINGS, NAMED_FLOATS, Float
from .modes import ROUNDINGS, kind
from .plan import Blocks, Plan
from .properties import Decoder, Range, ScaleRule, Span, Target, product
from .text import list_format, register

Array = npt.NDArray[Any]
#: The format of the scales of blocks
SCALE = Float(4, 3, "fn")
#: The smallest scale of all blocks, with which products of scales are normal float32 numbers
SMALLEST = 2.0**-100


@dataclass(frozen=True, repr=False)
class NVFP4(BlockFormat):
    """value = element s g: elements e2m1, a scale s in e4m3fn for each block, one float g for the tensor.

    g is kept with the data and passed as the ``scale`` of :func:`quantize`. It is 1 by default; :func:`calibrate` and
    ``scale="amax"`` return the usual one, the largest magnitude / (6 * 448).

    Parameters
    ----------
    block : int
        Elements that share a scale, 1 to 1024.
    rounding : str
        The rounding of the elements, as for :class:`Float`.

    Raises
    ------
    TypeError
        If a field has another type.
    ValueError
        If ``block`` is out of its range, or ``rounding`` none of the listed words.

    See Also
    --------
    MX : A power of two for each block.
    calibrate : Computes the scale of the tensor.

    Examples
    --------
    >>> from fastiter.quant import NVFP4, parse
    >>> str(NVFP4()), parse("nvfp4<16,STOCHASTIC>").rounding
    ('nvfp4', 'STOCHASTIC')
    """

    block: int = 16
    rounding: str = "RNE"

    def __post_init__(self) -> None:
        check_int("NVFP4", "block", self.block, 1, LONGEST_BLOCK)
        set_word(self, "rounding", FLOAT_ROUNDINGS)

    def _spelling(self) -> tuple[str, tuple[str, ...]]:
        return "nvfp4", ("block", "rounding")

    @property
    def element(self) -> Float:
        """The format of an element."""
        return Float(rounding=self.rounding, **NAMED_FLOATS["e2m1"])

    @property
    def bits(self) -> int:
        """Bits of an element's code; each block takes 8 more."""
        return 4

    def _range(self) -> Range:
        (_, high, smallest), scale = self.element._range(), SCALE._range()
        return Range(-high * scale.highest, high * scale.highest, smallest * scale.smallest)

    def _span(self) -> Span:
        return product(self.element._span(), SCALE._span())

    @property
    def _fits_float32(self) -> bool:
        return True

    def _values(self, codes: Array, dtype: np.dtype[Any]) -> Array:
        return self.element._values(codes, dtype)

    def _decoder(self) -> Decoder:
        return self.element._decoder()

    @property
    def _scale_rule(self) -> ScaleRule:
        return ScaleRule("one", SMALLEST)

    def _target(self, in_double: bool) -> Target:
        return Target(self._range().highest, math.inf, SMALLEST)

    def _scale_values(self) -> Array:
        return SCALE._values(np.arange(256), np.dtype(np.float64))

    def _plan(self, dtype: str, codes: bool) -> Plan:
        block = Blocks(self.block, self.element.max_exponent)
        small, in_double = self.element._element_numbers(), dtype == "float64"
        return Plan(kind.nvfp4, ROUNDINGS[self.rounding], in_double=in_double, small=small, block=block)


register("nvfp4", NVFP4, {}, ("block", "rounding"))
list_format(NVFP4, "nvfp4", "blocks of 16 with a scale in e4m3fn, and a scale of the tensor")
