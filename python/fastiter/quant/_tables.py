"""Exact thresholds and values of the formats that use lookup tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ._other_formats import Table


def rounded(value: Fraction | int, bits: int) -> Fraction:
    """Return the nearest number with ``bits`` significant bits and any exponent, ties to even."""
    value = Fraction(value)
    if value == 0:
        return value
    numerator, denominator = abs(value.numerator), value.denominator
    # 2^shift scales it to `bits` bits, or one more; in that case the last bit is rounded away as well.
    shift = bits - (numerator.bit_length() - denominator.bit_length())
    for _ in range(2):
        scaled = abs(value) * Fraction(2) ** shift
        if scaled < 1 << bits:
            break
        shift -= 1
    result = round(scaled) * Fraction(2) ** -shift  # round() of a Fraction goes to even
    return result if value > 0 else -result


def holds_values(fmt: Table, dtype: type[np.floating[Any]]) -> bool:
    """Return whether the dtype holds all values of a table exactly."""
    with np.errstate(over="ignore", under="ignore"):
        return all(float(dtype(v)) == v for v in fmt.values)


def nearest_thresholds(values: Sequence[float], dtype: type[np.floating[Any]]) -> npt.NDArray[Any]:
    """Return for each pair of neighbours the lowest number of the dtype that is rounded to the upper one.

    Ties go to the even index. The values themselves need not be numbers of the dtype.
    """
    thresholds = np.empty(len(values) - 1, dtype)
    largest = Fraction(float(np.finfo(dtype).max))
    for i, (low, high) in enumerate(pairwise(values)):
        middle = (Fraction(low) + Fraction(high)) / 2
        if abs(middle) > largest:  # only an infinity is beyond
            thresholds[i] = math.inf if middle > 0 else -largest
            continue
        near = dtype(float(middle))
        belongs = Fraction(float(near)) > middle or (Fraction(float(near)) == middle and i % 2 == 1)
        thresholds[i] = near if belongs else np.nextafter(near, dtype(math.inf))
    return thresholds


def log_table(fraction: int, dtype: type[np.floating[Any]]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the thresholds 2^((2 j + 1) / 2^(fraction + 1)), rounded up, and the values 2^(j / 2^fraction) to 2."""
    steps = 1 << fraction
    scale = 1 << np.finfo(dtype).nmant  # numbers from 1 to 2 in units of the last place
    thresholds = [_power(2 * j + 1, 2 * steps, scale) + 1 for j in range(steps)]  # irrational, so never exact
    values = [(_power(j, steps, 2 * scale) + 1) // 2 for j in range(steps)]
    return np.array(thresholds, dtype) / dtype(scale), np.array([*values, 2 * scale], dtype) / dtype(scale)


def _power(p: int, q: int, scale: int) -> int:
    """Return floor(2^(p / q) scale) for 0 <= p <= q, by bisection in whole numbers."""
    target = scale**q << p
    low, high = scale, 2 * scale + 1
    while high - low > 1:  # low^q <= target < high^q
        middle = (low + high) // 2
        low, high = (middle, high) if middle**q <= target else (low, middle)
    return low
