"""Formats whose numbers share a scale: microscaling, NVFP4, block floating point."""

from __future__ import annotations

from dataclasses import dataclass

from ._formats import FIXED_ROUNDINGS, FLOAT_ROUNDINGS, NAMED_FLOATS, Float, Format, _check_int, _set_word
from ._text import dtype_name, read, register, register_alias

SCALE_RULES = ("FLOOR", "EVEN", "CEIL", "RCEIL")
#: The maximum length of a block, which a kernel keeps in the L1 cache
LONGEST_BLOCK = 1024


class BlockFormat(Format):
    """A format that rounds blocks of contiguous elements along one axis together; the last block may be shorter."""

    block: int


def block_of(fmt: Format) -> int:
    """Return the number of elements that share one of the format's own scales, 0 for none."""
    return fmt.block if isinstance(fmt, BlockFormat) else 0


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
        _check_int("MX", "block", self.block, 1, LONGEST_BLOCK)
        _set_word(self, "rule", SCALE_RULES)

    def _spelling(self) -> tuple[str, tuple[str, ...]]:
        for head, element in _MX_NAMES.items():
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
        _check_int("NVFP4", "block", self.block, 1, LONGEST_BLOCK)
        _set_word(self, "rounding", FLOAT_ROUNDINGS)

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
        _check_int("BlockFloat", "width", self.width, 2, 24)
        _check_int("BlockFloat", "block", self.block, 1, LONGEST_BLOCK)
        _set_word(self, "rounding", FIXED_ROUNDINGS)

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


_MX_NAMES = {
    "mxfp8_e4m3": Float(**NAMED_FLOATS["e4m3fn"]),
    "mxfp8_e5m2": Float(**NAMED_FLOATS["e5m2"], overflow="SAT"),
    "mxfp6_e2m3": Float(**NAMED_FLOATS["e2m3"]),
    "mxfp6_e3m2": Float(**NAMED_FLOATS["e3m2"]),
    "mxfp4_e2m1": Float(**NAMED_FLOATS["e2m1"]),
}
for _name, _element in _MX_NAMES.items():
    register(_name, MX, {"element": _element}, ("block", "rule"))
for _alias, _name in (("mxfp8", "mxfp8_e4m3"), ("mxfp6", "mxfp6_e3m2"), ("mxfp4", "mxfp4_e2m1")):
    register_alias(_alias, _name)
register("mx", MX, {}, ("element", "block", "rule"))
register("nvfp4", NVFP4, {}, ("block", "rounding"))
register("bfp", BlockFloat, {}, ("width", "block", "rounding"))
register("mxint8", BlockFloat, {"width": 8, "block": 32}, ("rounding",))
