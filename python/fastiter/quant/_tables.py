"""Thresholds and values of the formats that are looked up, exact to the last bit."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt


def rounded(value: Fraction | int, bits: int) -> Fraction:
    """Return the nearest number of so many bits, ties to even, with any exponent."""
    value = Fraction(value)
    if value == 0:
        return value
    numerator, denominator = abs(value.numerator), value.denominator
    # 2^shift scales it to `bits` bits, or one more: then the last is rounded away as well.
    shift = bits - (numerator.bit_length() - denominator.bit_length())
    for _ in range(2):
        scaled = abs(value) * Fraction(2) ** shift
        if scaled < 1 << bits:
            break
        shift -= 1
    result = round(scaled) * Fraction(2) ** -shift  # round() of a Fraction is to even
    return result if value > 0 else -result


def nearest_thresholds(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return for each two neighbours the lowest number that is rounded to the upper one; ties to the even index."""
    thresholds = np.empty(len(values) - 1, values.dtype)
    for i, (low, high) in enumerate(pairwise(values)):
        middle = (Fraction(float(low)) + Fraction(float(high))) / 2
        near = values.dtype.type(float(middle))
        up = np.nextafter(near, values.dtype.type(math.inf))
        if Fraction(float(near)) == middle:
            thresholds[i] = near if i % 2 == 1 else up
        else:
            thresholds[i] = near if Fraction(float(near)) > middle else up
    return thresholds


def log_table(fraction: int, dtype: type[np.floating[Any]]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the thresholds 2^((2 j + 1) / 2^(fraction + 1)), rounded up, and the values 2^(j / 2^fraction) to 2."""
    steps = 1 << fraction
    scale = 1 << np.finfo(dtype).nmant  # numbers from 1 to 2 in units of the last place
    thresholds = [_power(2 * j + 1, 2 * steps, scale) + 1 for j in range(steps)]  # none is rational
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
