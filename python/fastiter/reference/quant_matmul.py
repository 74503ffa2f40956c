"""c = acc(c + a b) over k in order with a small float as accumulator: the specification, in rational numbers."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .quant import whole

Array = npt.NDArray[Any]


class Float(Protocol):
    """What an accumulator's rounding reads of `fastiter.quant.Float`."""

    @property
    def mantissa(self) -> int: ...
    @property
    def min_exponent(self) -> int: ...
    @property
    def max_value(self) -> Fraction: ...
    @property
    def rounding(self) -> str: ...
    @property
    def overflow(self) -> str: ...
    @property
    def specials(self) -> str: ...


def exponent_of(x: Fraction) -> int:
    """The largest e with 2^e <= |x|."""
    e = abs(x.numerator).bit_length() - x.denominator.bit_length()
    return e if abs(x) >= Fraction(2) ** e else e - 1


def rounded(x: Fraction, fmt: Float) -> float:
    """The number of the format that x becomes, or an infinity or NaN; a number that becomes zero leaves its sign."""
    if x == 0:
        return 0.0
    unit = Fraction(2) ** (max(exponent_of(x), fmt.min_exponent) - fmt.mantissa)
    r = whole(x / unit, fmt.rounding) * unit
    sign = -1.0 if x < 0 and (r != 0 or fmt.specials != "fnuz") else 1.0
    if abs(r) > fmt.max_value:
        return sign * {"SAT": float(fmt.max_value), "INF": math.inf, "NAN": math.nan}[fmt.overflow]
    return math.copysign(float(abs(r)), sign)


def added(c: float, a: float, b: float, fmt: Float) -> float:
    """c + a b, rounded to the format once; infinities, NaN and signs of zero as IEEE 754 has them."""
    p = a * b  # only for what it is when it is no number, and for the sign of zero
    if not (math.isfinite(c) and math.isfinite(a) and math.isfinite(b)):
        total = c + (p if not math.isfinite(a) or not math.isfinite(b) else 0.0)
        if math.isinf(total) and fmt.overflow != "INF":
            return math.copysign(float(fmt.max_value), total) if fmt.overflow == "SAT" else math.nan
        return total
    total = Fraction(c) + Fraction(a) * Fraction(b)
    if total == 0:
        negative = math.copysign(1, c) < 0 and math.copysign(1, a) * math.copysign(1, b) < 0 and c == 0
        return -0.0 if negative and fmt.specials != "fnuz" else 0.0
    return rounded(total, fmt)


def matmul(a: Array, b: Array, acc: Float, between: Float, every: int = 1) -> Array:
    """c (M, N) = a (M, K) b (K, N): every `every`-th addition and the last are rounded to acc, the others to between."""
    (M, K), N = a.shape, b.shape[1]
    c = np.zeros((M, N))
    for m in range(M):
        for n in range(N):
            total = 0.0
            for k in range(K):
                ends = (k + 1) % every == 0 or k + 1 == K
                total = added(total, float(a[m, k]), float(b[k, n]), acc if ends else between)
            c[m, n] = total
    return c
