"""Converts a format to its kernel's arguments, in the order in which csrc/quant/bindings.cpp reads them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from ._block_formats import MX, NVFP4, BlockFloat
from ._formats import Fixed, Float, Format, Int
from ._modes import ROUNDINGS, is_symmetric, overflow_of
from ._other_formats import Logarithmic, Posit, PowerOfTwo, SumOfPowers, Table
from ._tables import holds_values, log_table, nearest_thresholds, rounded

_kind, _overflow = _core.quant.kind, _core.quant.overflow


# The structures of csrc/quant/cpu/kernels.hpp, which explains the fields; csrc/quant/bindings.cpp reads them in order.


class FixedPoint(NamedTuple):
    """Rounding to a multiple of a power of two, or of any step."""

    to_code: float
    from_code: float
    least: float
    most: float
    low: float
    high: float
    width: int
    fraction: int = 0
    saturated: int = 0
    is_signed: bool = True
    symmetric: bool = False
    divide: bool = False


class SmallFloat(NamedTuple):
    """Rounding to a floating-point format."""

    mantissa: int
    min_exponent: int
    bits: int
    most: float
    over: float
    under: float
    infinite: float
    minus_infinite: float
    negative: float
    least: float
    is_signed: bool
    has_zero: bool = True
    negative_zero: bool = False
    own_exponents: bool = False
    infinity_differs: bool = False
    nan_code: int = 0
    infinity_code: int = 0


class Blocks(NamedTuple):
    """The scales of blocks; a call adds ``scale``, and ``scales``, the array that receives them."""

    size: int
    max_exponent: int = 0
    carry_from: float = 2.0
    beyond: bool = False
    scale: float = 1.0
    scales: Any = 0


class TableOfNumbers(NamedTuple):
    """Rounding to one of a list of values, between thresholds."""

    thresholds: npt.NDArray[Any]
    values: npt.NDArray[Any]
    count: int  # type: ignore[assignment]  # not the method of tuples


class PositShape(NamedTuple):
    """The sizes of a posit format."""

    n: int
    es: int
    max_exponent: int


class PowersShape(NamedTuple):
    """Sums of a few powers of two."""

    terms: int
    nearest: bool


class QuantFormat(NamedTuple):
    """A format and the options of a call; parts that are not used are empty."""

    kind: int
    rounding: int
    overflow: int
    nan: float
    count: bool  # type: ignore[assignment]  # not the method of tuples
    codes: bool
    to_odd: bool
    fixed: FixedPoint | tuple[()]
    small: SmallFloat | tuple[()]
    block: Blocks | tuple[()]
    table: TableOfNumbers | tuple[()]
    posit: PositShape | tuple[()]
    powers: PowersShape | tuple[()]


class Plan(NamedTuple):
    """A kernel's description of a format, and whether it computes with doubles. Parts that are not used are None."""

    kind: int
    rounding: int
    overflow: int = _overflow.saturate
    in_double: bool = False
    to_odd: bool = False
    fixed: FixedPoint | None = None
    small: SmallFloat | None = None
    block: Blocks | None = None
    table: TableOfNumbers | None = None
    posit: PositShape | None = None
    powers: PowersShape | None = None

    def format(self, nan: float, count: bool, codes: bool, scale: float = 1.0, scales: Any = 0) -> QuantFormat:
        """Return the tuple that the binding reads; ``scales`` is the array that receives the scales of blocks."""
        block = self.block._replace(scale=scale, scales=scales) if self.block else ()
        return QuantFormat(
            *(self.kind, self.rounding, self.overflow, nan, count, codes, self.to_odd, self.fixed or ()),
            *(self.small or (), block, self.table or (), self.posit or (), self.powers or ()),
        )


# ---- fixed point ----------------------------------------------------------------------------------------------------


def _fixed(fmt: Fixed, dtype: str, codes: bool) -> Plan:
    width, fraction = fmt.width, fmt.fraction
    how = overflow_of(fmt)
    # A number too wide for T's mantissa is still right if it is rounded once, but codes and 16-bit results are rounded
    # again, and wrapping a negative number in an unsigned format moves it up to where T has fewer bits after the point.
    once = (how in (_overflow.saturate, _overflow.zero) or (how == _overflow.wrap and fmt.signed)) and not codes
    # Scaling costs the smallest numbers their last bits, but these are then far below the last place.
    in_float = dtype != "float64" and -94 <= fraction <= 126 and (width <= 24 or (once and dtype == "float32"))
    in_double = -900 <= fraction <= 1022 and (width <= 53 or (once and dtype == "float64"))
    kind = _kind.fixed if in_float or in_double else _kind.wide_fixed
    symmetric = is_symmetric(fmt)
    low, high = -fmt.max_code if symmetric else fmt.min_code, fmt.max_code
    kept = 24 if in_float else 53
    fixed = FixedPoint(
        to_code=2.0**fraction if kind == _kind.fixed else 1.0,
        from_code=1.0 if codes else 2.0**-fraction,
        least=_cut(low, kept),
        most=_cut(high, kept),
        low=float(rounded(low, kept)),
        high=float(rounded(high, kept)),
        width=width,
        fraction=fraction,
        saturated=fmt.saturated_bits,
        is_signed=fmt.signed,
        symmetric=symmetric,
    )
    return Plan(kind, ROUNDINGS[fmt.rounding], how, not in_float, dtype != "float64", fixed)


def _cut(code: int, bits: int) -> float:
    """Return the code truncated toward zero to ``bits`` significant bits."""
    places = max(0, code.bit_length() - bits)
    magnitude = abs(code) >> places << places
    return float(-magnitude if code < 0 else magnitude)


def int_plan(fmt: Int, dtype: str, codes: bool, scale: float, zero_point: int) -> Plan:
    """Return the plan for integers with one scale: codes are relative to the zero point."""
    low, high = float(fmt.min_code - zero_point), float(fmt.max_code - zero_point)
    return _whole(fmt, dtype, FixedPoint(scale, 1.0 if codes else scale, low, high, low, high, fmt.width, divide=True))


def _int(fmt: Int, dtype: str, codes: bool) -> Plan:
    low, high = float(fmt.min_code), float(fmt.max_code)
    return _whole(fmt, dtype, FixedPoint(1.0, 1.0, low, high, low, high, fmt.width))


def _whole(fmt: Int, dtype: str, fixed: FixedPoint) -> Plan:
    fixed, in_double = fixed._replace(is_signed=fmt.signed), dtype == "float64" or fmt.width > 24
    return Plan(_kind.fixed, ROUNDINGS[fmt.rounding], in_double=in_double, fixed=fixed)


# ---- floating point -------------------------------------------------------------------------------------------------


def _holds(fmt: Float, bits: int, bias: int) -> bool:
    """Return whether a kernel rounds to the format in a type with this many mantissa bits and this largest exponent."""
    own = fmt.min_exponent == 1 - bias and fmt.subnormals
    places = fmt.min_exponent - fmt.mantissa >= 1 - bias and fmt.min_exponent <= fmt.mantissa
    return fmt.mantissa <= bits and fmt.max_exponent <= bias - (fmt.mantissa == 0) and (own or places)


def _small(fmt: Float, own: bool) -> SmallFloat:
    most, infinity = float(fmt.max_value), math.inf
    beyond = {"SAT": most, "INF": infinity, "NAN": math.nan}[fmt.overflow]
    toward_zero = {"RZ": (True, True), "RD": (True, False), "RU": (False, True)}.get(fmt.rounding, (False, False))
    over, under = (most if cut else beyond for cut in toward_zero)
    least = 0.0 if fmt.subnormals else 2.0**fmt.min_exponent
    negative = math.nan if fmt.has_nan else least
    ones = (1 << (fmt.exponent + fmt.mantissa)) - 1
    nan_code = {"fn": ones, "fnuz": 1 << (fmt.bits - 1)}.get(fmt.specials, 0)
    infinity_code = ones - ((1 << fmt.mantissa) - 1)
    if fmt.specials == "ieee":
        nan_code = infinity_code | 1 << (fmt.mantissa - 1)
    return SmallFloat(
        *(fmt.mantissa, fmt.min_exponent, fmt.bits, most, over, _minus(under)),
        *(beyond, _minus(beyond), negative, least, fmt.signed),
        has_zero=fmt.subnormals,
        negative_zero=fmt.signed and fmt.specials != "fnuz",
        own_exponents=own,
        infinity_differs=any(toward_zero),
        nan_code=nan_code,
        infinity_code=infinity_code,
    )


def _minus(x: float) -> float:
    return x if math.isnan(x) else -x


def _float(fmt: Float, dtype: str, codes: bool) -> Plan:
    # Doubles for codes of numbers that are subnormal in float32
    in_float = dtype != "float64" and _holds(fmt, 23, 127)
    kind, bias = _kind.small_float, 127 if in_float else 1023
    if not in_float and not _holds(fmt, 52, 1023):
        kind = _kind.wide_float
    own = kind == _kind.small_float and fmt.min_exponent == 1 - bias and fmt.subnormals
    overflow = _overflow.saturate if fmt.overflow == "SAT" else _overflow.zero
    return Plan(kind, ROUNDINGS[fmt.rounding], overflow, not in_float, small=_small(fmt, own))


def _power_of_two(fmt: PowerOfTwo, dtype: str, codes: bool) -> Plan:
    in_float = dtype != "float64" and -126 <= fmt.lowest <= 0 and fmt.highest <= 126
    kind = _kind.small_float if in_float or (-1022 <= fmt.lowest <= 0 and fmt.highest <= 1022) else _kind.wide_float
    most = 2.0**fmt.highest
    small = SmallFloat(0, fmt.lowest, fmt.bits, most, most, -most, most, -most, 0.0, 0.0, fmt.signed)
    return Plan(kind, ROUNDINGS[fmt.rounding], _overflow.saturate, not in_float, small=small)


# ---- blocks ---------------------------------------------------------------------------------------------------------


def _mx(fmt: MX, dtype: str, codes: bool) -> Plan:
    element = replace(fmt.element, overflow="SAT")
    top = element.max_value / Fraction(2) ** element.max_exponent
    carry = {
        "FLOOR": (2.0, False),
        "EVEN": (2.0 - 2.0 ** -(element.mantissa + 1), False),
        "CEIL": (1.0, True),
        "RCEIL": (float(top), True),
    }[fmt.rule]
    # A scale below 2^-126 is subnormal in float32, so its exponent cannot be read from its bits.
    in_float = dtype != "float64" and _holds(element, 23, 127) and element.max_exponent >= 1
    in_float = in_float and element.min_exponent > -126
    block = Blocks(fmt.block, element.max_exponent, *carry)
    return Plan(_kind.mx, ROUNDINGS[fmt.rounding], in_double=not in_float, small=_element(element), block=block)


def _element(fmt: Float) -> SmallFloat:
    """Return an element's fields; the codes of a block whose scale is NaN are 0."""
    return _small(fmt, False)._replace(nan_code=0, infinity_code=0)


def _nvfp4(fmt: NVFP4, dtype: str, codes: bool) -> Plan:
    block = Blocks(fmt.block, max_exponent=2)
    small = _element(fmt.element)
    return Plan(_kind.nvfp4, ROUNDINGS[fmt.rounding], in_double=dtype == "float64", small=small, block=block)


def _block_float(fmt: BlockFloat, dtype: str, codes: bool) -> Plan:
    most, step = float(fmt.max_code), 2.0 ** (fmt.width - 2)
    fixed = FixedPoint(step, 1.0 if codes else 1 / step, -most, most, -most, most, fmt.width, symmetric=True)
    block = Blocks(fmt.block)
    return Plan(_kind.block_integer, ROUNDINGS[fmt.rounding], in_double=dtype == "float64", fixed=fixed, block=block)


# ---- the others -----------------------------------------------------------------------------------------------------


def _posit(fmt: Posit, dtype: str, codes: bool) -> Plan:
    in_float = dtype != "float64" and fmt.max_exponent <= 126 and (not codes or fmt.n <= 24)
    posit = PositShape(fmt.n, fmt.es, fmt.max_exponent)
    return Plan(_kind.posit, ROUNDINGS[fmt.rounding], in_double=not in_float, posit=posit)


def _table(fmt: Table, dtype: str, codes: bool) -> Plan:
    # Rounding to nearest needs only the thresholds; stochastic rounding needs the values, which are floats in blocks.
    in_double = dtype == "float64" or (fmt.stochastic and not fmt.block and not holds_values(fmt, np.float32))
    kind = np.float64 if in_double else np.float32
    with np.errstate(over="ignore", under="ignore"):
        values = np.array(fmt.values).astype(kind)
    thresholds = values[1:].copy() if fmt.stochastic else nearest_thresholds(fmt.values, kind)
    block = Blocks(fmt.block) if fmt.block else None
    table = TableOfNumbers(thresholds, values, len(values))
    return Plan(_kind.table, ROUNDINGS[fmt.rounding], in_double=in_double, block=block, table=table)


def _logarithmic(fmt: Logarithmic, dtype: str, codes: bool) -> Plan:
    in_float = dtype != "float64" and fmt.lowest >= -124 and fmt.highest <= 125
    thresholds, values = log_table(fmt.fraction, np.float32 if in_float else np.float64)
    most, sign = 2.0**fmt.highest, 2.0 ** (fmt.bits - 1)
    over = most * float(thresholds[0])
    small = SmallFloat(0, fmt.lowest, fmt.bits, most, over, 0.0, 0.0, 0.0, sign, 2.0**fmt.lowest, fmt.signed)
    table = TableOfNumbers(thresholds, values, len(values))
    return Plan(_kind.logarithmic, ROUNDINGS["RNE"], in_double=not in_float, small=small, table=table)


def _sum_of_powers(fmt: SumOfPowers, dtype: str, codes: bool) -> Plan:
    fixed = _fixed(fmt.fixed, dtype, codes)
    return fixed._replace(kind=_kind.powers, powers=PowersShape(fmt.terms, fmt.method == "NEAREST"))


def _computed_with(dtype: str) -> type[np.floating[Any]]:
    return np.float64 if dtype == "float64" else np.float32


_PLANS: dict[type[Format], Callable[[Any, str, bool], Plan]] = {
    Fixed: _fixed,
    Int: _int,
    Float: _float,
    MX: _mx,
    NVFP4: _nvfp4,
    BlockFloat: _block_float,
    Posit: _posit,
    Table: _table,
    PowerOfTwo: _power_of_two,
    Logarithmic: _logarithmic,
    SumOfPowers: _sum_of_powers,
}


@lru_cache(maxsize=512)
def plan_of(fmt: Format, dtype: str, codes: bool) -> Plan:
    """Return the plan for a format and the dtype of the numbers; ``codes`` asks for codes instead of values."""
    return _PLANS[type(fmt)](fmt, dtype, codes)
