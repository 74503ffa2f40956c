"""From a format to the numbers that its kernel takes, in the order in which csrc/bindings_quant.cpp reads them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from ._formats import Fixed, Format, Int

#: Numbers of the enumerations in csrc/cpu/quant_kernels.hpp
_FIXED, _WIDE_FIXED = range(2)
_ROUNDINGS = {
    **{"TRN": 0, "TRN_ZERO": 1, "RND": 2, "RND_ZERO": 3, "RND_MIN_INF": 4, "RND_INF": 5, "RND_CONV": 6},
    **{"RD": 0, "RZ": 1, "RNA": 5, "RNE": 6, "RU": 7, "RA": 8, "STOCHASTIC": 9},
}
_SATURATE, _ZERO, _WRAP, _BITS = range(4)
ELEMENTS = {
    name: number
    for number, name in enumerate(
        ["float32", "float64", "float16", "bfloat16", "int8", "uint8", "int16", "uint16"]
        + ["int32", "uint32", "int64", "uint64"]
    )
}


class Plan(NamedTuple):
    """A kernel's description of a format, and whether it computes with doubles."""

    kind: int
    rounding: int
    overflow: int
    in_double: bool
    to_odd: bool
    fixed: tuple[Any, ...]

    def fields(self, nan: float, codes: bool) -> tuple[Any, ...]:
        """Return what the binding reads."""
        return self.kind, self.rounding, self.overflow, nan, codes, self.to_odd, self.fixed


_NO_FIXED = (1.0, 1.0, 0.0, 0.0, 1, 0, 0, True, False, False, 0)


@lru_cache(maxsize=256)
def fixed_plan(fmt: Fixed, dtype: str, codes: bool) -> Plan:
    """Return the plan for fixed point: in floats while they hold every code and every scaled number, else wider."""
    width, fraction = fmt.width, fmt.fraction
    overflow = {"SAT": _SATURATE, "SAT_SYM": _SATURATE, "SAT_ZERO": _ZERO, "WRAP": _WRAP, "WRAP_SM": _BITS}
    symmetric = fmt.overflow == "SAT_SYM" and fmt.signed
    kind, in_double = _FIXED, False
    # The lowest numbers that are not scaled exactly are then so far below the last place that it does not matter.
    if not (dtype != "float64" and width <= 24 and -94 <= fraction <= 126):
        in_double = True
        if not (width <= 53 and -900 <= fraction <= 1022):
            kind = _WIDE_FIXED
    how = overflow[fmt.overflow]
    if how == _WRAP and fmt.saturated_bits:
        how = _BITS
    numbers = (
        1.0 if kind == _WIDE_FIXED else 2.0**fraction,
        1.0 if codes else 2.0**-fraction,
        float(-fmt.max_code if symmetric else fmt.min_code),
        float(fmt.max_code),
        *(width, fraction, fmt.saturated_bits, fmt.signed, symmetric, False),
        int(fmt.overflow == "WRAP_SM"),
    )
    return Plan(kind, _ROUNDINGS[fmt.rounding], how, in_double, dtype != "float64", numbers)


def int_plan(fmt: Int, dtype: str, codes: bool, scale: float, zero_point: int) -> Plan:
    """Return the plan for integers with one scale: codes are counted from the zero point."""
    in_double = dtype == "float64" or fmt.width > 24
    low, high = float(fmt.min_code - zero_point), float(fmt.max_code - zero_point)
    numbers = (scale, 1.0 if codes else scale, low, high, fmt.width, 0, 0, fmt.signed, False, True, 0)
    return Plan(_FIXED, _ROUNDINGS[fmt.rounding], _SATURATE, in_double, False, numbers)


def plan(fmt: Format, dtype: str, codes: bool) -> Plan:
    """Return the plan for a format and the dtype of the numbers."""
    if isinstance(fmt, Fixed):
        return fixed_plan(fmt, dtype, codes)
    raise NotImplementedError(fmt)
