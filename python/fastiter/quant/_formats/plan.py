"""The kernels' description of a format. csrc/quant/cpu/kernels.hpp explains the fields, which C++ reads by name."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .modes import overflow as _overflow


class FixedPoint(NamedTuple):
    """Rounding to a multiple of a power of two, or of any step."""

    to_code: float
    from_code: float
    lowest: float
    highest: float
    low: float
    high: float
    width: int
    fraction: int = 0
    saturated: int = 0
    is_signed: bool = True
    symmetric: bool = False


class SmallFloat(NamedTuple):
    """Rounding to a floating-point format."""

    mantissa: int
    min_exponent: int
    bits: int
    largest: float
    over: float
    under: float
    infinite: float
    minus_infinite: float
    negative: float
    smallest: float
    is_signed: bool
    has_zero: bool = True
    negative_zero: bool = False
    own_exponents: bool = False
    infinity_differs: bool = False
    nan_code: int = 0
    infinity_code: int = 0


class Blocks(NamedTuple):
    """The scales of blocks."""

    size: int
    max_exponent: int = 0
    carry_from: float = 2.0
    beyond: bool = False


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


class Plan(NamedTuple):
    """A kernel's description of a format, and whether it computes with doubles. Parts that are not used are None."""

    kind: int
    rounding: int
    overflow: int = _overflow.saturate
    in_double: bool = False
    to_odd: bool = False
    affine: bool = False
    fixed: FixedPoint | None = None
    small: SmallFloat | None = None
    block: Blocks | None = None
    table: TableOfNumbers | None = None
    posit: PositShape | None = None
    powers: PowersShape | None = None


def computed_with(dtype: str) -> type[np.floating[Any]]:
    """Return the type that kernels compute with on arrays of a dtype."""
    return np.float64 if dtype == "float64" else np.float32
