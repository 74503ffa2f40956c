"""Microscaling: small floats with a power of two for each block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from .base import LONGEST_BLOCK, BlockFormat, check_int, set_word
from .floating import NAMED_FLOATS, Float
from .modes import ROUNDINGS, kind
from .plan import Blocks, Plan
from .properties import FLOAT32_HIGH, FLOAT32_LOW, Decoder, Range, Span
from .text import dtype_name, list_format, read, register

Array = npt.NDArray[Any]
SCALE_RULES = ("FLOOR", "EVEN", "CEIL", "RCEIL")


@dataclass(frozen=True, repr=False)
class MX(BlockFormat):
    """value = element 2^k: OCP microscaling, one power of two from 2^-127 to 2^127 for each block.

    Parameters
    ----------
    element : Float, str or dtype
        A signed float that saturates; its rounding is used, its NaN and infinity are not: a NaN or an infinity in the
        data makes its block's scale NaN. For integers as elements (MXINT8) see :class:`BlockFloat`.
    block : int
        Elements that share a scale, 1 to 1024.
    rule : str
        How k follows from the largest magnitude a of a block: floor(log2 a) - e with e the exponent of the largest
        element (FLOOR, OCP's own), the same after rounding a to an element's precision (EVEN), rounded up instead
        (CEIL), or the smallest k for which a does not overflow (RCEIL).

    Raises
    ------
    TypeError
        If a field has another type.
    ValueError
        If the element has no sign, no mantissa or more than 16 bits, ``block`` is out of its range, or ``rule``
        none of the listed words.

    See Also
    --------
    NVFP4 : A scale with a mantissa for each block.
    BlockFloat : Integer elements.

    Examples
    --------
    >>> from fastiter.quant import MX, parse
    >>> parse("mxfp4_e2m1") == MX("e2m1"), str(MX("e4m3fn", 16, "RCEIL"))
    (True, 'mxfp8_e4m3<16,RCEIL>')
    """

    element: Float
    block: int = 32
    rule: str = "FLOOR"

    def __post_init__(self) -> None:
        text = self.element if isinstance(self.element, str) else dtype_name(self.element)
        if text is not None:
            try:
                object.__setattr__(self, "element", read(text))
            except ValueError as error:
                raise ValueError(f"MX: element {str(error).removeprefix('text ')}") from None
        if not isinstance(self.element, Float):
            raise TypeError(f"MX: element must be a Float, got {type(self.element).__name__}")
        if not (self.element.signed and self.element.mantissa > 0):
            raise ValueError(f"MX: element must have a sign and a mantissa, got {self.element}")
        if self.element.bits > 16:
            raise ValueError(f"MX: element must have at most 16 bits, got {self.element}")
        check_int("MX", "block", self.block, 1, LONGEST_BLOCK)
        set_word(self, "rule", SCALE_RULES)

    def _spelling(self) -> tuple[str, tuple[str, ...]]:
        for head, element in _NAMED.items():
            if self.element == element:
                return head, ("block", "rule")
        return "mx", ("element", "block", "rule")

    @property
    def bits(self) -> int:
        """Bits of an element's code; each block takes 8 more."""
        return self.element.bits

    @property
    def rounding(self) -> str:
        """The rounding of the elements."""
        return self.element.rounding

    def _range(self) -> Range:
        _, high, smallest = self.element._range()
        return Range(-high * 2.0**127, high * 2.0**127, smallest * 2.0**-127)

    def _span(self) -> Span:
        return Span(self.element.mantissa + 1, FLOAT32_LOW, FLOAT32_HIGH)

    @property
    def _fits_float32(self) -> bool:
        return True

    def _values(self, codes: Array, dtype: np.dtype[Any]) -> Array:
        return self.element._values(codes, dtype)

    def _decoder(self) -> Decoder:
        return self.element._decoder()

    @property
    def _scales_in_double(self) -> bool:
        return not self.element._fits_float32

    def _plan(self, dtype: str, codes: bool) -> Plan:
        element = replace(self.element, overflow="SAT")
        top = element.max_value / Fraction(2) ** element.max_exponent
        carry = {
            "FLOOR": (2.0, False),
            "EVEN": (2.0 - 2.0 ** -(element.mantissa + 1), False),
            "CEIL": (1.0, True),
            "RCEIL": (float(top), True),
        }[self.rule]
        # A scale below 2^-126 is subnormal in float32, so its exponent cannot be read from its bits.
        in_float = dtype != "float64" and element._has_kernel(23, 127) and element.max_exponent >= 1
        in_float = in_float and element.min_exponent > -126
        block = Blocks(self.block, element.max_exponent, *carry)
        return Plan(
            kind.mx, ROUNDINGS[self.rounding], in_double=not in_float, small=element._element_numbers(), block=block
        )


#: The formats with a name, in the order of the table of formats
_NAMED = {
    "mxfp8_e4m3": Float(**NAMED_FLOATS["e4m3fn"]),
    "mxfp8_e5m2": Float(**NAMED_FLOATS["e5m2"], overflow="SAT"),
    "mxfp6_e3m2": Float(**NAMED_FLOATS["e3m2"]),
    "mxfp6_e2m3": Float(**NAMED_FLOATS["e2m3"]),
    "mxfp4_e2m1": Float(**NAMED_FLOATS["e2m1"]),
}
_ALIASES = {"mxfp8_e4m3": ("mxfp8",), "mxfp6_e3m2": ("mxfp6",), "mxfp4_e2m1": ("mxfp4",)}
for _name, _element in _NAMED.items():
    register(_name, MX, {"element": _element}, ("block", "rule"), _ALIASES.get(_name, ()))
    list_format(MX, _name, "blocks of 32 with a power of two")
register("mx", MX, {}, ("element", "block", "rule"))
list_format(MX, "mx<element,block,rule>", "any small float in blocks with a power of two", example="mx<e3m4<RNE,SAT>>")
