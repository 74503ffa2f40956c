"""Floating point."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from .base import ElementFormat, check_bool, check_int, set_word
from .modes import ROUNDINGS, kind, overflow
from .plan import Plan, SmallFloat
from .properties import Decoder, Range, Span, Target, margin
from .text import list_format, register

Array = npt.NDArray[Any]
FLOAT_ROUNDINGS = ("RNE", "RNA", "RZ", "RD", "RU", "RA", "STOCHASTIC")
FLOAT_SPECIALS = ("ieee", "fn", "fnuz", "none")
FLOAT_OVERFLOWS = ("SAT", "INF", "NAN")


@dataclass(frozen=True, repr=False)
class Float(ElementFormat):
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

    Raises
    ------
    TypeError
        If a field has another type.
    ValueError
        If a field is out of its range or a word none of the listed ones; for specials "ieee" without mantissa or
        with one bit of exponent, or "fnuz" without a sign; for a signed format without subnormals; for an overflow
        that the specials lack, or values beyond float64.

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
        check_int("Float", "exponent", self.exponent, 1, 11)
        check_int("Float", "mantissa", self.mantissa, 0, 52)
        set_word(self, "specials", FLOAT_SPECIALS)
        set_word(self, "rounding", FLOAT_ROUNDINGS)
        check_bool("Float", "signed", self.signed)
        check_bool("Float", "subnormals", self.subnormals)
        if self.bias is None:
            object.__setattr__(self, "bias", self._defaults()["bias"])
        check_int("Float", "bias", self.bias, -2000, 2000)
        if self.overflow == "":
            object.__setattr__(self, "overflow", self._defaults()["overflow"])
        set_word(self, "overflow", FLOAT_OVERFLOWS)
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
        for name, named in NAMED_FLOATS.items():
            if all(getattr(self, field) == value for field, value in named.items()):
                return name, ("rounding", "overflow")
        return "float" if self.signed else "ufloat", _FIELDS

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

    def _range(self) -> Range:
        high = float(self.max_value)
        places = self.mantissa if self.subnormals and self.mantissa else 0
        smallest = 2.0 ** (self.min_exponent - places)
        return Range(-high if self.signed else 0.0 if self.subnormals else smallest, high, smallest)

    def _span(self) -> Span:
        return Span(self.mantissa + 1, self.min_exponent - self.mantissa, self.max_exponent + 1)

    @property
    def _fits_float32(self) -> bool:
        return self.mantissa <= 23 and self.min_exponent - self.mantissa >= -149 and self.max_exponent <= 127

    def _values(self, codes: Array, dtype: np.dtype[Any]) -> Array:
        codes, mantissa = codes.astype(np.uint64), self.mantissa
        body = (codes & np.uint64((1 << (self.exponent + mantissa)) - 1)).astype(np.int64)
        field, fraction = body >> mantissa, body & ((1 << mantissa) - 1)
        normal = (field > 0) | (not self.subnormals)
        exponent = np.maximum(field, int(self.subnormals)) - int(self.bias or 0)
        values = np.ldexp((fraction + (normal.astype(np.int64) << mantissa)).astype(np.float64), exponent - mantissa)
        if self.specials == "ieee":
            top = (1 << self.exponent) - 1
            values = np.where(field == top, np.where(fraction == 0, np.inf, np.nan), values)
        elif self.specials == "fn":
            values = np.where(body == (1 << (self.exponent + mantissa)) - 1, np.nan, values)
        sign = codes >> np.uint64(self.exponent + mantissa)
        values = np.where((sign > 0) & ~np.isnan(values), -values, values)
        return np.where(codes == 1 << (self.bits - 1), np.nan, values) if self.specials == "fnuz" else values

    def _decoder(self) -> Decoder:
        if self._has_table:
            return Decoder("table")
        nan = 1 << (self.bits - 1) if self.bits < 64 else -(2**63)
        numbers = (self.exponent, self.mantissa, int(self.bias or 0), nan)
        specials = ("none", "ieee", "fn", "fnuz").index(self.specials)
        return Decoder("float", numbers=numbers, flag=self.subnormals, specials=specials)

    def _target(self, in_double: bool) -> Target:
        info = np.finfo(np.float64 if in_double else np.float32)
        highest = float(self.max_value)
        # The quotient must also fit the dtype. The scale has a lower limit: a subnormal scale would lose its last bits,
        # and a smaller one gains nothing once the format's smallest number corresponds to the dtype's smallest.
        largest = highest if highest <= float(info.max) else 2.0 ** (int(info.maxexp) - 1)
        enough = float(info.smallest_subnormal) / self._range().smallest
        half_place = 2.0 ** (self.max_exponent - self.mantissa - 2)
        return Target(largest, margin(self.rounding, half_place), min(float(info.tiny) * 2.0**26, enough))

    @property
    def _accumulates(self) -> bool:
        return self.signed

    # ---- kernels ----------------------------------------------------------------------------------------------------

    @property
    def _beyond(self) -> float:
        """The replacement of an infinity."""
        return {"SAT": float(self.max_value), "INF": math.inf, "NAN": math.nan}[self.overflow]

    @property
    def _beyond_rounded(self) -> tuple[float, float]:
        """The replacements of finite numbers above the range, and of the magnitudes of those below it."""
        largest = float(self.max_value)
        # Rounding toward the finite numbers stops at the largest one.
        return tuple(largest if self.rounding in ("RZ", back) else self._beyond for back in ("RD", "RU"))  # type: ignore[return-value]

    def _has_kernel(self, bits: int, bias: int) -> bool:
        """Return whether a kernel rounds to the format in a type with this many mantissa bits and largest exponent."""
        own = self.min_exponent == 1 - bias and self.subnormals
        places = self.min_exponent - self.mantissa >= 1 - bias and self.min_exponent <= self.mantissa
        return self.mantissa <= bits and self.max_exponent <= bias - (self.mantissa == 0) and (own or places)

    def _small_float(self, own_exponents: bool) -> SmallFloat:
        """Return the kernel's numbers."""
        over, under = self._beyond_rounded
        smallest = 0.0 if self.subnormals else 2.0**self.min_exponent
        ones = (1 << (self.exponent + self.mantissa)) - 1
        infinity_code = ones - ((1 << self.mantissa) - 1)
        nan_codes = {"ieee": infinity_code | 1 << max(self.mantissa - 1, 0), "fn": ones, "fnuz": 1 << (self.bits - 1)}
        return SmallFloat(
            mantissa=self.mantissa,
            min_exponent=self.min_exponent,
            bits=self.bits,
            largest=float(self.max_value),
            over=over,
            under=_minus(under),
            infinite=self._beyond,
            minus_infinite=_minus(self._beyond),
            negative=math.nan if self.has_nan else smallest,
            smallest=smallest,
            is_signed=self.signed,
            has_zero=self.subnormals,
            negative_zero=self.signed and self.specials != "fnuz",
            own_exponents=own_exponents,
            infinity_differs=self.rounding in ("RZ", "RD", "RU"),
            nan_code=nan_codes.get(self.specials, 0),
            infinity_code=infinity_code,
        )

    def _element_numbers(self) -> SmallFloat:
        """Return the kernel's numbers for elements of blocks: the codes of a block whose scale is NaN are 0."""
        return self._small_float(False)._replace(nan_code=0, infinity_code=0)

    def _plan(self, dtype: str, codes: bool) -> Plan:
        # Doubles for codes of numbers that are subnormal in float32
        in_float = dtype != "float64" and self._has_kernel(23, 127)
        number, bias = kind.small_float, 127 if in_float else 1023
        if not in_float and not self._has_kernel(52, 1023):
            number = kind.wide_float
        own = number == kind.small_float and self.min_exponent == 1 - bias and self.subnormals
        mode = overflow.saturate if self.overflow == "SAT" else overflow.zero
        return Plan(number, ROUNDINGS[self.rounding], mode, not in_float, small=self._small_float(own))


def _minus(x: float) -> float:
    return x if math.isnan(x) else -x


def _named(exponent: int, mantissa: int, specials: str = "ieee", **others: Any) -> dict[str, Any]:
    fmt = Float(exponent, mantissa, specials, **others)
    names = ("exponent", "mantissa", "specials", "bias", "signed", "subnormals")
    return {name: getattr(fmt, name) for name in names}


#: The formats with a name, in the order of the table of formats
NAMED_FLOATS: dict[str, dict[str, Any]] = {
    "fp64": _named(11, 52),
    "fp32": _named(8, 23),
    "tf32": _named(8, 10),
    "bf16": _named(8, 7),
    "fp16": _named(5, 10),
    "e5m2": _named(5, 2),
    "e4m3fn": _named(4, 3, "fn"),
    "e4m3": _named(4, 3),
    "e3m4": _named(3, 4),
    "e5m2fnuz": _named(5, 2, "fnuz"),
    "e4m3fnuz": _named(4, 3, "fnuz"),
    "e4m3b11fnuz": _named(4, 3, "fnuz", bias=11),
    "e3m2": _named(3, 2, "none"),
    "e2m3": _named(2, 3, "none"),
    "e2m1": _named(2, 1, "none"),
    "e8m0": _named(8, 0, "fn", signed=False, subnormals=False),
}
_NOTES = {
    "tf32": "8 bits of exponent and 10 of mantissa, as in tensor cores",
    "e5m2": "OCP's E5M2; beyond the largest number infinity, e5m2<RNE,SAT> saturates",
    "e4m3fn": "OCP's E4M3: no infinity, saturates",
    "e4m3": "with infinities, as in IEEE 754; OCP's E4M3 is e4m3fn",
    "e3m4": "with infinities",
    "e5m2fnuz": "no infinity, no -0",
    "e4m3fnuz": "no infinity, no -0",
    "e4m3b11fnuz": "e4m3fnuz with bias 11",
    "e3m2": "OCP's FP6 E3M2: all codes are numbers",
    "e2m3": "OCP's FP6 E2M3: all codes are numbers",
    "e2m1": "OCP's FP4: all codes are numbers",
    "e8m0": "powers of two, unsigned: OCP's scales",
}
#: Aliases: the names of dtypes in NumPy, ml_dtypes and torch, and short ones. fp8 and fp8_e4m3 are OCP's E4M3, as in
#: frameworks; float8_e4m3 and e4m3 are the dtype with infinities that ml_dtypes has under this name.
_ALIASES = {
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
_FIELDS = ("exponent", "mantissa", "specials", "rounding", "overflow", "bias", "subnormals")
register("float", Float, {"signed": True}, _FIELDS)
register("ufloat", Float, {"signed": False}, _FIELDS)
for _name, _fields in NAMED_FLOATS.items():
    register(_name, Float, _fields, ("rounding", "overflow"), _ALIASES.get(_name, ()))
    list_format(Float, _name, _NOTES.get(_name, ""))
list_format(Float, "float<exponent,mantissa,specials,...>", "any small float; ufloat is unsigned", example="float<5,4>")
