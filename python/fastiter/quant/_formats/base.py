"""The base classes of number formats, and the checks of their fields.

A format is one file of this folder: a class with the properties below, its texts (`text.register`) and its rows in the
table of formats (`text.list_format`).
"""

from __future__ import annotations

from dataclasses import fields
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from .plan import Plan
from .properties import Decoder, Range, ScaleRule, Span, Target
from .text import write

if TYPE_CHECKING:
    from .fixed import Fixed

Array = npt.NDArray[Any]
#: Maximum number of bits of a code that is decoded with a lookup table
TABLE_BITS = 16
#: The maximum length of a block, which a kernel keeps in the L1 cache
LONGEST_BLOCK = 1024


class Format:
    """A number format. ``str`` converts it to text, which :func:`parse` reads; formats with the same fields are equal.

    See Also
    --------
    parse : Reads its text.

    Examples
    --------
    >>> from fastiter.quant import Format, parse
    >>> isinstance(parse("int4"), Format)
    True
    """

    #: Number of contiguous elements that share one of the format's own scales, 0 for none
    block: int = 0
    #: Whether value = (code - zero point) scale, with a scale and zero point of the data
    _is_affine: ClassVar[bool] = False
    #: Whether the scales of blocks are floats, not codes of 8 bits
    _has_float_scales: ClassVar[bool] = False

    # ---- text -------------------------------------------------------------------------------------------------------

    def _spelling(self) -> tuple[str, tuple[str, ...]]:
        """Return the word that the text begins with, and the fields between its brackets."""
        raise NotImplementedError

    def _defaults(self) -> dict[str, Any]:
        """Return the defaults that depend on other fields."""
        return {}

    def __str__(self) -> str:
        """Write the format with only the fields that differ from the defaults of its kind."""
        return write(self)

    def __repr__(self) -> str:
        """Write the constructor's call with only the fields that differ from their defaults."""
        own: Any = self
        defaults = {field.name: field.default for field in fields(own)} | self._defaults()
        others = [f"{name}={value!r}" for name, value in vars(self).items() if value != defaults[name]]
        return f"{type(self).__name__}({', '.join(others)})"

    # ---- numbers ----------------------------------------------------------------------------------------------------

    @property
    def stochastic(self) -> bool:
        """Whether rounding needs random numbers."""
        return getattr(self, "rounding", None) == "STOCHASTIC"

    @property
    def has_nan(self) -> bool:
        """Whether there is a code for NaN, or a NaN scale."""
        return self.block > 0

    def _range(self) -> Range:
        """Return the extreme numbers."""
        raise NotImplementedError

    def _ends(self) -> tuple[Fraction | float, Fraction | float]:
        """Return the exact lowest and highest number."""
        return self._range()[:2]

    def _span(self) -> Span:
        """Return the span of the numbers; numbers with a shared scale are treated as float32."""
        raise NotImplementedError

    @property
    def _fits_float32(self) -> bool:
        """Whether all numbers are float32 numbers."""
        raise NotImplementedError

    @property
    def _wraps(self) -> bool:
        """Whether a number out of range varies with x, as it wraps."""
        return False

    # ---- codes ------------------------------------------------------------------------------------------------------

    @property
    def bits(self) -> int:
        """Bits of a code."""
        raise NotImplementedError

    @property
    def storage_bits(self) -> float:
        """Bits that a number takes in memory: those of its code and its share of the scale of a whole block."""
        return self.bits + (32 if self._has_float_scales else 8) / self.block if self.block else self.bits

    @property
    def _has_signed_codes(self) -> bool:
        """Whether codes are signed integers."""
        return False

    def _code_range(self) -> tuple[int, int]:
        """Return the lowest and the highest code."""
        half = 1 << (self.bits - 1)
        return (-half, half - 1) if self._has_signed_codes else (0, 2 * half - 1)

    def _check_codes(self, function: str, codes: Array) -> None:
        """Refuse codes in the range of codes that the format does not have."""

    def _values(self, codes: Array, dtype: np.dtype[Any]) -> Array:
        """Return the values of codes, of elements in blocks; the caller converts them to the dtype."""
        raise NotImplementedError

    @property
    def _has_table(self) -> bool:
        """Whether codes are decoded with a lookup table."""
        return self.bits <= TABLE_BITS

    def _decoder(self) -> Decoder | None:
        """Return how a GPU kernel decodes codes, None if none does."""
        return Decoder("table") if self._has_table else None

    # ---- scales -----------------------------------------------------------------------------------------------------

    @property
    def _scale_rule(self) -> ScaleRule:
        """The scales that the format takes."""
        return ScaleRule("none") if self.block else ScaleRule()

    def _target(self, in_double: bool) -> Target | None:
        """Return the goal of a scale of float64 (or float32) numbers, None if there is none."""
        return None

    @property
    def _scales_in_double(self) -> bool:
        """Whether float32 numbers are divided and multiplied by scales in float64."""
        return False

    def _scale_values(self) -> Array:
        """Return the values of the 256 codes of a block's scale: powers of two, and NaN."""
        codes = np.arange(256)
        return np.where(codes == 255, np.nan, np.ldexp(1.0, codes - 127))

    # ---- fixed point ------------------------------------------------------------------------------------------------

    @property
    def _point(self) -> Fixed | None:
        """The fixed-point format whose binary point a scale of 2^k moves, exactly; None for other formats."""
        return None

    def _as_fixed(self) -> Fixed | None:
        """Return the fixed-point format that has these numbers and rounds in the same way, None if there is none."""
        return None

    @property
    def _accumulates(self) -> bool:
        """Whether sums of products may be rounded to the format."""
        return False

    # ---- kernels ----------------------------------------------------------------------------------------------------

    def _plan(self, dtype: str, codes: bool) -> Plan:
        """Return a kernel's description of the format, for numbers of a dtype, and values or codes as the result."""
        raise NotImplementedError


class ElementFormat(Format):
    """A format that rounds each number on its own."""


class BlockFormat(Format):
    """A format that rounds blocks of contiguous elements along one axis together; the last block may be shorter."""


def check_int(kind: str, field: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{kind}: {field} must be an int, got {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{kind}: {field} must be from {low} to {high}, got {value}")


#: Synonyms: the names of one mode in HLS, in IEEE 754 and processors, and in frameworks
_SYNONYMS = (
    ("RND_CONV", "RNE", "NEAREST", "RTNE"),
    ("RND_INF", "RNA"),
    ("TRN_ZERO", "RZ", "RTZ"),
    ("TRN", "RD", "RTN", "RDN"),
    ("RU", "RTP", "RUP"),
    ("STOCHASTIC", "SR"),
    ("SAT", "SATURATE"),
)


def set_word(fmt: object, field: str, words: tuple[str, ...]) -> None:
    """Replace a field by its synonym among the names that the format's kind uses."""
    kind, value = type(fmt).__name__, getattr(fmt, field)
    if not isinstance(value, str):
        raise TypeError(f"{kind}: {field} must be a str, got {type(value).__name__}")
    if value not in words:
        upper, groups = value.upper(), _SYNONYMS if field in ("rounding", "overflow") else ()
        same = next((group for group in groups if upper in group), (upper, value.lower()))
        word = next((word for word in words if word in same), None)
        if word is None:
            raise ValueError(f"{kind}: {field} must be one of {', '.join(map(repr, words))}, got {value!r}")
        object.__setattr__(fmt, field, word)


def check_bool(kind: str, field: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{kind}: {field} must be a bool, got {type(value).__name__}")


def check_steps(function: str, codes: Array, fmt: Format, steps: int, signed: bool) -> None:
    """Check codes that are a sign beside 0 to ``steps``."""
    body = codes & ((1 << (fmt.bits - signed)) - 1)
    if int(body.max()) > steps:
        wrong = int(codes.flat[int(body.argmax())])
        raise ValueError(f"{function}: codes must be 0 to {steps} beside the sign for {fmt}, got {wrong}")
