"""Number formats as values: frozen, hashable, written as text and read back by :func:`parse`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

from ._text import parse as parse
from ._text import register, register_alias, write

FIXED_ROUNDINGS = ("TRN", "TRN_ZERO", "RND", "RND_ZERO", "RND_MIN_INF", "RND_INF", "RND_CONV", "STOCHASTIC")
FIXED_OVERFLOWS = ("SAT", "SAT_ZERO", "SAT_SYM", "WRAP", "WRAP_SM")
FLOAT_ROUNDINGS = ("RNE", "RNA", "RZ", "RD", "RU", "RA", "STOCHASTIC")
FLOAT_SPECIALS = ("ieee", "fn", "fnuz", "none")
FLOAT_OVERFLOWS = ("SAT", "INF", "NAN")


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

    def _spelling(self) -> tuple[str, tuple[str, ...]]:
        """Return the word that the text begins with, and the fields between its brackets."""
        raise NotImplementedError

    @property
    def stochastic(self) -> bool:
        """Whether rounding needs random numbers."""
        return getattr(self, "rounding", None) == "STOCHASTIC"

    def __str__(self) -> str:
        """Write the format with only the fields that differ from the defaults of its kind."""
        return write(self)

    def __repr__(self) -> str:
        """Write the constructor's call with only the fields that differ from their defaults."""
        own: Any = self
        usual = {field.name: field.default for field in fields(own)} | self._defaults()
        given = [f"{name}={value!r}" for name, value in vars(self).items() if value != usual[name]]
        return f"{type(self).__name__}({', '.join(given)})"

    def _defaults(self) -> dict[str, Any]:
        """Return the defaults that depend on other fields."""
        return {}


def _check_int(kind: str, field: str, value: object, low: int, high: int) -> None:
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


def _set_word(fmt: object, field: str, words: tuple[str, ...]) -> None:
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


def _check_bool(kind: str, field: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{kind}: {field} must be a bool, got {type(value).__name__}")


@dataclass(frozen=True, repr=False)
class Fixed(Format):
    """value = code 2^-(width - integer): ``ap_fixed<width, integer, rounding, overflow, saturated_bits>``.

    Parameters
    ----------
    width : int
        Bits of a code, 1 to 64.
    integer : int
        Bits before the binary point, including the sign; may be negative or larger than ``width``.
    signed : bool
        Two's complement, or unsigned.
    rounding : str
        TRN (down), TRN_ZERO (toward zero), or to the nearest with ties up (RND), toward zero (RND_ZERO), down
        (RND_MIN_INF), away from zero (RND_INF) or to the even code (RND_CONV); or STOCHASTIC: up or down in magnitude
        with the probability that makes the expected value exact. The names used by :class:`Float` are accepted, too.
    overflow : str
        Replacement of a rounded code that is out of range: the nearest (SAT), zero (SAT_ZERO), the nearest of a range
        that is symmetric about zero (SAT_SYM), its low bits (WRAP), its low bits in sign and magnitude (WRAP_SM).
    saturated_bits : int
        Number of high bits that WRAP and WRAP_SM saturate.

    See Also
    --------
    FixedArray : Arrays of such numbers, with the arithmetic of HLS.

    Examples
    --------
    >>> from fastiter.quant import Fixed, parse
    >>> str(Fixed(8, 4, rounding="RND_CONV", overflow="SAT"))
    'fixed<8,4,RND_CONV,SAT>'
    >>> parse("ufixed<6,2,TRN,WRAP,1>")
    Fixed(width=6, integer=2, signed=False, saturated_bits=1)
    """

    width: int
    integer: int
    signed: bool = True
    rounding: str = "TRN"
    overflow: str = "WRAP"
    saturated_bits: int = 0

    def __post_init__(self) -> None:
        _check_int("Fixed", "width", self.width, 1, 64)
        # The step and the largest value are then float64 numbers.
        _check_int("Fixed", "integer", self.integer, self.width - 1074, 1023)
        _check_bool("Fixed", "signed", self.signed)
        _set_word(self, "rounding", FIXED_ROUNDINGS)
        _set_word(self, "overflow", FIXED_OVERFLOWS)
        if self.overflow == "WRAP_SM" and not self.signed:
            raise ValueError("Fixed: overflow must be other than WRAP_SM for an unsigned format, got 'WRAP_SM'")
        most = self.width if self.overflow.startswith("WRAP") else 0
        _check_int("Fixed", f"saturated_bits with {self.overflow}", self.saturated_bits, 0, most)

    def _spelling(self) -> tuple[str, tuple[str, ...]]:
        return "fixed" if self.signed else "ufixed", ("width", "integer", "rounding", "overflow", "saturated_bits")

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.width

    @property
    def fraction(self) -> int:
        """Bits after the binary point: a code counts steps of 2^-fraction."""
        return self.width - self.integer

    @property
    def min_code(self) -> int:
        """The lowest code."""
        return -(1 << (self.width - 1)) if self.signed else 0

    @property
    def max_code(self) -> int:
        """The highest code."""
        return (1 << (self.width - 1)) - 1 if self.signed else (1 << self.width) - 1

    @property
    def step(self) -> Fraction:
        """The value of code 1."""
        return Fraction(2) ** -self.fraction


@dataclass(frozen=True, repr=False)
class Int(Format):
    """value = (code - zero_point) scale: integers of ``width`` bits; scale and zero point are kept with the data.

    Without a scale the values are whole numbers; for others, pass ``scale=`` or ``scale="amax"`` to :func:`quantize`.

    Parameters
    ----------
    width : int
        Bits of a code, 1 to 32.
    signed : bool
        Two's complement, or unsigned.
    rounding : str
        As for :class:`Fixed`, by default to the nearest, ties to the even code.
    overflow : str
        The nearest code (SAT), or the nearest of a range that is symmetric about zero, without the lowest code of a
        signed format (SAT_SYM).

    See Also
    --------
    calibrate : The scale and zero point for an array.

    Examples
    --------
    >>> from fastiter.quant import Int, parse
    >>> str(Int(8)), str(Int(4, signed=False)), parse("int8<RND_CONV,SAT_SYM>").min_code
    ('int8', 'uint4', -127)
    """

    width: int
    signed: bool = True
    rounding: str = "RND_CONV"
    overflow: str = "SAT"

    def __post_init__(self) -> None:
        _check_int("Int", "width", self.width, 1, 32)
        _check_bool("Int", "signed", self.signed)
        _set_word(self, "rounding", FIXED_ROUNDINGS)
        _set_word(self, "overflow", ("SAT", "SAT_SYM"))

    def _spelling(self) -> tuple[str, tuple[str, ...]]:
        return f"{'' if self.signed else 'u'}int{self.width}", ("rounding", "overflow")

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.width

    @property
    def min_code(self) -> int:
        """The lowest code that a number is rounded to."""
        if not self.signed:
            return 0
        return -(1 << (self.width - 1)) + (self.overflow == "SAT_SYM")

    @property
    def max_code(self) -> int:
        """The highest code."""
        return (1 << (self.width - 1)) - 1 if self.signed else (1 << self.width) - 1


@dataclass(frozen=True, repr=False)
class Float(Format):
    """value = (-1)^s 2^(e - bias) (1 + m 2^-mantissa), subnormal where e = 0.

    ``Float(4, 3)``, ``"e4m3"``, has infinities and the largest number 240, in the manner of IEEE 754; OCP's E4M3, with
    448 and no infinity, is ``Float(4, 3, "fn")``, ``"e4m3fn"``.

    Parameters
    ----------
    exponent, mantissa : int
        Bits of each, 1 to 11 and 0 to 52.
    specials : str
        The codes that are not numbers. "ieee": the highest exponent is infinity and NaN. "fn": all ones is NaN. "fnuz":
        the code of -0 is NaN, there is no -0. "none": all codes are finite.
    rounding : str
        To the nearest with ties to the even code (RNE) or away from zero (RNA), toward zero (RZ), down (RD), up (RU),
        away from zero (RA), or STOCHASTIC. The names used by :class:`Fixed` for the same roundings are accepted, too.
    overflow : str
        Replacement of numbers beyond the largest after rounding, infinity included: the largest number (SAT), infinity
        (INF), NaN (NAN). By default INF if the format has infinity, else SAT.
    bias : int
        2^(exponent - 1) - 1 by default, one more for "fnuz".
    signed, subnormals : bool
        Without subnormals, e = 0 is an exponent like the others, and there is no zero.

    See Also
    --------
    MX, NVFP4 : Small floats with a scale for each block.

    Examples
    --------
    >>> from fastiter.quant import Float, parse
    >>> parse("e4m3fn") == Float(4, 3, "fn"), str(Float(5, 2, rounding="RZ")), str(Float(5, 4))
    (True, 'e5m2<RZ>', 'float<5,4>')
    """

    exponent: int
    mantissa: int
    specials: str = "ieee"
    rounding: str = "RNE"
    overflow: str = ""
    bias: int | None = None
    signed: bool = True
    subnormals: bool = True

    def __post_init__(self) -> None:
        _check_int("Float", "exponent", self.exponent, 1, 11)
        _check_int("Float", "mantissa", self.mantissa, 0, 52)
        _set_word(self, "specials", FLOAT_SPECIALS)
        _set_word(self, "rounding", FLOAT_ROUNDINGS)
        _check_bool("Float", "signed", self.signed)
        _check_bool("Float", "subnormals", self.subnormals)
        if self.bias is None:
            object.__setattr__(self, "bias", self._defaults()["bias"])
        _check_int("Float", "bias", self.bias, -2000, 2000)
        if self.overflow == "":
            object.__setattr__(self, "overflow", self._defaults()["overflow"])
        _set_word(self, "overflow", FLOAT_OVERFLOWS)
        self._check_together()

    def _check_together(self) -> None:
        if self.specials == "ieee" and (self.mantissa == 0 or self.exponent == 1):
            raise ValueError(
                "Float: specials must be other than 'ieee' without mantissa or with one bit of exponent, got 'ieee'"
            )
        if self.signed and not self.subnormals:
            raise ValueError("Float: subnormals must be True for a signed format, got False")
        if self.specials == "fnuz" and not self.signed:
            raise ValueError("Float: specials must be other than 'fnuz' for an unsigned format, got 'fnuz'")
        if (self.overflow == "INF" and not self.has_inf) or (self.overflow == "NAN" and not self.has_nan):
            raise ValueError(f"Float: overflow must be what specials={self.specials!r} has, got {self.overflow!r}")
        if not (self.min_exponent - self.mantissa >= -1074 and self.max_exponent <= 1023):
            raise ValueError(f"Float: bias must leave all values numbers of float64, got {self.bias}")

    def _defaults(self) -> dict[str, Any]:
        bias = (1 << (self.exponent - 1)) - (self.specials != "fnuz")
        return {"bias": bias, "overflow": "INF" if self.specials == "ieee" else "SAT"}

    def _spelling(self) -> tuple[str, tuple[str, ...]]:
        for name, those in NAMED_FLOATS.items():
            if all(getattr(self, field) == value for field, value in those.items()):
                return name, ("rounding", "overflow")
        return "float" if self.signed else "ufloat", _FLOAT_FIELDS

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.signed + self.exponent + self.mantissa

    @property
    def has_inf(self) -> bool:
        """Whether there is a code for infinity."""
        return self.specials == "ieee"

    @property
    def has_nan(self) -> bool:
        """Whether there is a code for NaN."""
        return self.specials != "none"

    @property
    def min_exponent(self) -> int:
        """The exponent of the smallest normal number, and of the subnormals if there are any."""
        return int(self.subnormals) - int(self.bias or 0)

    @property
    def max_field(self) -> int:
        """The exponent and mantissa bits of the largest number."""
        ones = (1 << (self.exponent + self.mantissa)) - 1
        if self.specials == "ieee":
            return ones - (1 << self.mantissa)
        return ones - (self.specials == "fn")

    @property
    def max_exponent(self) -> int:
        """The exponent of the largest number."""
        return max(self.max_field >> self.mantissa, int(self.subnormals)) - int(self.bias or 0)

    @property
    def max_value(self) -> Fraction:
        """The largest number."""
        field, fraction = self.max_field >> self.mantissa, self.max_field & ((1 << self.mantissa) - 1)
        significand = fraction + ((1 << self.mantissa) if field > 0 or not self.subnormals else 0)
        return significand * Fraction(2) ** (self.max_exponent - self.mantissa)


def _named(exponent: int, mantissa: int, specials: str = "ieee", **others: Any) -> dict[str, Any]:
    made = Float(exponent, mantissa, specials, **others)
    names = ("exponent", "mantissa", "specials", "bias", "signed", "subnormals")
    return {name: getattr(made, name) for name in names}


NAMED_FLOATS: dict[str, dict[str, Any]] = {
    "bf16": _named(8, 7),
    "tf32": _named(8, 10),
    "fp16": _named(5, 10),
    "fp32": _named(8, 23),
    "fp64": _named(11, 52),
    "e5m2": _named(5, 2),
    "e4m3": _named(4, 3),
    "e3m4": _named(3, 4),
    "e4m3fn": _named(4, 3, "fn"),
    "e4m3fnuz": _named(4, 3, "fnuz"),
    "e4m3b11fnuz": _named(4, 3, "fnuz", bias=11),
    "e5m2fnuz": _named(5, 2, "fnuz"),
    "e8m0": _named(8, 0, "fn", signed=False, subnormals=False),
    "e2m3": _named(2, 3, "none"),
    "e3m2": _named(3, 2, "none"),
    "e2m1": _named(2, 1, "none"),
}

_FIXED_FIELDS = ("width", "integer", "rounding", "overflow", "saturated_bits")
_FLOAT_FIELDS = ("exponent", "mantissa", "specials", "rounding", "overflow", "bias", "subnormals")
for _prefix, _signed in (("", True), ("u", False)):
    register(f"{_prefix}fixed", Fixed, {"signed": _signed}, _FIXED_FIELDS)
    register(f"{_prefix}int", Int, {"signed": _signed}, ("width", "rounding", "overflow"))
    register(f"{_prefix}float", Float, {"signed": _signed}, _FLOAT_FIELDS)
for _name, _fields in NAMED_FLOATS.items():
    register(_name, Float, _fields, ("rounding", "overflow"))
#: Aliases: the names of dtypes in NumPy, ml_dtypes and torch, and short ones. fp8 and fp8_e4m3 are OCP's E4M3, as in
#: frameworks; float8_e4m3 and e4m3 are the dtype with infinities that ml_dtypes has under this name.
_OTHER_NAMES = {
    "bf16": ("bfloat16",),
    "fp16": ("float16", "half"),
    "fp32": ("float32", "single"),
    "fp64": ("float64", "double"),
    "e4m3": ("float8_e4m3",),
    "e3m4": ("float8_e3m4",),
    "e4m3fn": ("float8_e4m3fn", "fp8", "fp8_e4m3", "fp8_e4m3fn"),
    "e5m2": ("float8_e5m2", "fp8_e5m2"),
    "e4m3fnuz": ("float8_e4m3fnuz", "fp8_e4m3fnuz"),
    "e5m2fnuz": ("float8_e5m2fnuz", "fp8_e5m2fnuz"),
    "e4m3b11fnuz": ("float8_e4m3b11fnuz",),
    "e8m0": ("float8_e8m0fnu", "e8m0fnu"),
    "e2m3": ("float6_e2m3fn", "e2m3fn", "fp6_e2m3"),
    "e3m2": ("float6_e3m2fn", "e3m2fn", "fp6_e3m2", "fp6"),
    "e2m1": ("float4_e2m1fn", "float4_e2m1fn_x2", "e2m1fn", "fp4_e2m1", "fp4"),
}
for _name, _aliases in _OTHER_NAMES.items():
    for _alias in _aliases:
        register_alias(_alias, _name)
