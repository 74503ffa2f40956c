"""Converts a format to its kernel's arguments, in the order in which csrc/quant/bindings.cpp reads them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from .. import _core
from ._block_formats import MX, NVFP4, BlockFloat
from ._formats import Fixed, Float, Format, Int
from ._modes import ROUNDINGS, is_symmetric, overflow_of
from ._other_formats import Logarithmic, Posit, PowerOfTwo, SumOfPowers, Table
from ._tables import holds_values, log_table, nearest_thresholds, rounded

_kind, _overflow = _core.quant_kind, _core.quant_overflow
Numbers = tuple[Any, ...]


@dataclass(frozen=True)
class Plan:
    """A kernel's description of a format, and whether it computes with doubles. Empty parts are not used."""

    kind: int
    rounding: int
    overflow: int = _overflow.saturate
    in_double: bool = False
    to_odd: bool = False
    fixed: Numbers = ()
    small: Numbers = ()
    block: Numbers = ()
    table: Numbers = ()
    posit: Numbers = ()
    powers: Numbers = ()

    def fields(self, nan: float, count: bool, codes: bool, scale: float = 1.0, scales: Any = 0) -> Numbers:
        """Return the fields that the binding reads; ``scales`` is the array that receives the scales of blocks."""
        block = (*self.block, scale, scales) if self.block else ()
        parts = self.fixed, self.small, block, self.table, self.posit, self.powers
        return self.kind, self.rounding, self.overflow, nan, count, codes, self.to_odd, *parts


# ---- fixed point ----------------------------------------------------------------------------------------------------


def _fixed(fmt: Fixed, dtype: str, codes: bool) -> Plan:
    width, fraction = fmt.width, fmt.fraction
    how = overflow_of(fmt)
    # A number too wide for T's mantissa is still right if it is rounded once, but codes and 16-bit results are rounded
    # again, and wrapping a negative number in an unsigned format moves it up to where T has fewer bits after the point.
    once = (how in (_overflow.saturate, _overflow.zero) or (how == _overflow.wrap and fmt.signed)) and not codes
    # The smallest numbers lose their last bits when scaled, but these are far below the last place then.
    in_float = dtype != "float64" and -94 <= fraction <= 126 and (width <= 24 or (once and dtype == "float32"))
    in_double = -900 <= fraction <= 1022 and (width <= 53 or (once and dtype == "float64"))
    kind = _kind.fixed if in_float or in_double else _kind.wide_fixed
    symmetric = is_symmetric(fmt)
    low, high = -fmt.max_code if symmetric else fmt.min_code, fmt.max_code
    kept = 24 if in_float else 53
    numbers = (
        2.0**fraction if kind == _kind.fixed else 1.0,
        1.0 if codes else 2.0**-fraction,
        *(_cut(low, kept), _cut(high, kept), float(rounded(low, kept)), float(rounded(high, kept))),
        *(width, fraction, fmt.saturated_bits, fmt.signed, symmetric, False),
    )
    return Plan(kind, ROUNDINGS[fmt.rounding], how, not in_float, dtype != "float64", fixed=numbers)


def _cut(code: int, bits: int) -> float:
    """Return the code truncated toward zero to ``bits`` significant bits."""
    places = max(0, code.bit_length() - bits)
    magnitude = abs(code) >> places << places
    return float(-magnitude if code < 0 else magnitude)


def int_plan(fmt: Int, dtype: str, codes: bool, scale: float, zero_point: int) -> Plan:
    """Return the plan for integers with one scale: codes are relative to the zero point."""
    low, high = float(fmt.min_code - zero_point), float(fmt.max_code - zero_point)
    numbers = (scale, 1.0 if codes else scale, low, high, low, high, fmt.width, 0, 0, fmt.signed, False, True)
    return Plan(
        _kind.fixed, ROUNDINGS[fmt.rounding], _overflow.saturate, dtype == "float64" or fmt.width > 24, fixed=numbers
    )


def _int(fmt: Int, dtype: str, codes: bool) -> Plan:
    low, high = float(fmt.min_code), float(fmt.max_code)
    numbers = (1.0, 1.0, low, high, low, high, fmt.width, 0, 0, fmt.signed, False, False)
    return Plan(
        _kind.fixed, ROUNDINGS[fmt.rounding], _overflow.saturate, dtype == "float64" or fmt.width > 24, fixed=numbers
    )


# ---- floating point -------------------------------------------------------------------------------------------------


def _holds(fmt: Float, bits: int, bias: int) -> bool:
    """Say whether a kernel rounds to the format in a type with this many mantissa bits and this largest exponent."""
    own = fmt.min_exponent == 1 - bias and fmt.subnormals
    places = fmt.min_exponent - fmt.mantissa >= 1 - bias and fmt.min_exponent <= fmt.mantissa
    return fmt.mantissa <= bits and fmt.max_exponent <= bias - (fmt.mantissa == 0) and (own or places)


def _small(fmt: Float, own: bool) -> Numbers:
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
    return (
        *(fmt.mantissa, fmt.min_exponent, fmt.bits, most, over, _minus(under)),
        *(beyond, _minus(beyond), negative, least, fmt.signed, fmt.subnormals, fmt.signed and fmt.specials != "fnuz"),
        *(own, any(toward_zero), nan_code, infinity_code),
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
    small = (
        *(0, fmt.lowest, fmt.bits, most, most, -most, most, -most, 0.0, 0.0),
        *(fmt.signed, True, False, False, False, 0, 0),
    )
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
    block = (fmt.block, element.max_exponent, *carry)
    return Plan(_kind.mx, ROUNDINGS[fmt.rounding], in_double=not in_float, small=_element(element), block=block)


def _element(fmt: Float) -> Numbers:
    """Return an element's fields; the codes of a block whose scale is NaN are 0."""
    return (*_small(fmt, False)[:-2], 0, 0)


def _nvfp4(fmt: NVFP4, dtype: str, codes: bool) -> Plan:
    block = (fmt.block, 2, 2.0, False)
    small = _element(fmt.element)
    return Plan(_kind.nvfp4, ROUNDINGS[fmt.rounding], in_double=dtype == "float64", small=small, block=block)


def _block_float(fmt: BlockFloat, dtype: str, codes: bool) -> Plan:
    most, step = float(fmt.max_code), 2.0 ** (fmt.width - 2)
    fixed = (step, 1.0 if codes else 1 / step, -most, most, -most, most, fmt.width, 0, 0, True, True, False)
    block = (fmt.block, 0, 2.0, False)
    return Plan(_kind.block_integer, ROUNDINGS[fmt.rounding], in_double=dtype == "float64", fixed=fixed, block=block)


# ---- the others -----------------------------------------------------------------------------------------------------


def _posit(fmt: Posit, dtype: str, codes: bool) -> Plan:
    in_float = dtype != "float64" and fmt.max_exponent <= 126 and (not codes or fmt.n <= 24)
    posit = (fmt.n, fmt.es, fmt.max_exponent)
    return Plan(_kind.posit, ROUNDINGS[fmt.rounding], in_double=not in_float, posit=posit)


def _table(fmt: Table, dtype: str, codes: bool) -> Plan:
    # The nearest value is found with any thresholds; stochastic rounding needs the values, which blocks have as floats.
    in_double = dtype == "float64" or (fmt.stochastic and not fmt.block and not holds_values(fmt, np.float32))
    kind = np.float64 if in_double else np.float32
    with np.errstate(over="ignore", under="ignore"):
        values = np.array(fmt.values).astype(kind)
    thresholds = values[1:].copy() if fmt.stochastic else nearest_thresholds(fmt.values, kind)
    block = (fmt.block, 0, 2.0, False) if fmt.block else ()
    table = (thresholds, values, len(values))
    return Plan(_kind.table, ROUNDINGS[fmt.rounding], in_double=in_double, block=block, table=table)


def _logarithmic(fmt: Logarithmic, dtype: str, codes: bool) -> Plan:
    in_float = dtype != "float64" and fmt.lowest >= -124 and fmt.highest <= 125
    thresholds, values = log_table(fmt.fraction, np.float32 if in_float else np.float64)
    most, sign = 2.0**fmt.highest, 2.0 ** (fmt.bits - 1)
    small = (
        *(0, fmt.lowest, fmt.bits, most, most * float(thresholds[0]), 0.0, 0.0, 0.0, sign, 2.0**fmt.lowest),
        *(fmt.signed, True, False, False, False, 0, 0),
    )
    table = (thresholds, values, len(values))
    return Plan(_kind.logarithmic, ROUNDINGS["RNE"], in_double=not in_float, small=small, table=table)


def _sum_of_powers(fmt: SumOfPowers, dtype: str, codes: bool) -> Plan:
    fixed = _fixed(fmt.fixed, dtype, codes)
    powers = (fmt.terms, fmt.method == "NEAREST")
    return replace(fixed, kind=_kind.powers, powers=powers)


def _computed_with(dtype: str) -> type[np.floating[Any]]:
    return np.float64 if dtype == "float64" else np.float32


_PLANS: dict[type[Format], Any] = {
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
def plan(fmt: Format, dtype: str, codes: bool) -> Plan:
    """Return the plan for a format and the dtype of the numbers; ``codes`` asks for codes instead of values."""
    made: Plan = _PLANS[type(fmt)](fmt, dtype, codes)
    return made
