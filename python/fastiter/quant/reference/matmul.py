"""c = acc(c + a b) over k in order with a floating-point accumulator: the specification, in rational numbers."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from .formats import Float, significand

Array = npt.NDArray[Any]
#: The longest part of an ordinary product that is summed separately
LONGEST_PART = 384


def rounded(x: Fraction, fmt: Float) -> float:
    """The number of the format to which x is rounded, an infinity or NaN; a number rounded to zero keeps its sign."""
    y = significand(x, fmt.mantissa, fmt.min_exponent, fmt.rounding, 0, True)
    sign = -1.0 if x < 0 and (y != 0 or fmt.specials != "fnuz") else 1.0
    if abs(y) <= fmt.max_value:
        return math.copysign(float(abs(y)), sign)
    # Rounding toward the finite numbers stops at the largest one.
    if {"RZ": True, "RD": x > 0, "RU": x < 0}.get(fmt.rounding, False):
        return sign * float(fmt.max_value)
    return beyond(sign, fmt)


def beyond(sign: float, fmt: Float) -> float:
    """The result of the overflow mode for an infinity."""
    return math.copysign({"SAT": float(fmt.max_value), "INF": math.inf, "NAN": math.nan}[fmt.overflow], sign)


def added(c: float, a: float, b: float, fmt: Float) -> float:
    """c + a b, rounded to the format once; infinities, NaN and signs of zero as in IEEE 754."""
    if not (math.isfinite(c) and math.isfinite(a) and math.isfinite(b)):
        # The product of finite factors is left out: it could overflow, and c alone determines the result.
        total = c + (a * b if not (math.isfinite(a) and math.isfinite(b)) else 0.0)
        return beyond(total, fmt) if math.isinf(total) else total
    exact = Fraction(c) + Fraction(a) * Fraction(b)
    if exact == 0:
        negative = c == 0 and math.copysign(1, c) < 0 and math.copysign(1, a) * math.copysign(1, b) < 0
        return -0.0 if negative and fmt.specials != "fnuz" else 0.0
    return rounded(exact, fmt)


def dot(a: Array, b: Array, acc: Float, between: Float, every: int = 1) -> float:
    """Every ``every``-th addition and the last are rounded to acc, the others to between."""
    total = 0.0
    for k, (x, y) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
        ends = (k + 1) % every == 0 or k + 1 == len(a)
        total = added(total, x, y, acc if ends else between)
    return total


def matmul(a: Array, b: Array, acc: Float, between: Float, every: int = 1) -> Array:
    """c (M, N) = a (M, K) b (K, N), each element a :func:`dot` over k in order."""
    c = np.zeros((a.shape[0], b.shape[1]))
    for m, n in np.ndindex(c.shape):
        c[m, n] = dot(a[m], b[:, n], acc, between, every)
    return c


def parts(K: int) -> list[slice]:
    """The parts of an ordinary product: as few as the maximum length allows, all but the last equally long."""
    length = max(1, math.ceil(K / max(1, math.ceil(K / LONGEST_PART))))
    return [slice(first, min(K, first + length)) for first in range(0, K, length)]


def plain_matmul(a: Array, b: Array, fmt: Float) -> Array:
    """c (M, N) = a (M, K) b (K, N) in a hardware format: a :func:`dot` for each part, then their sum in order."""
    c = np.zeros((a.shape[0], b.shape[1]))
    for m, n in np.ndindex(c.shape):
        sums = [dot(a[m, part], b[part, n], fmt, fmt) for part in parts(a.shape[1])]
        total = sums[0] if sums else 0.0
        for s in sums[1:]:
            total = added(total, s, 1.0, fmt)
        c[m, n] = total
    return c
