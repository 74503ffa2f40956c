"""Tables with values that float32 cannot represent: the nearest is chosen among the exact values."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from fastiter import quant
from fastiter.quant import Table
from tests.quant.formats.test_arrays import check, check_codes
from tests.support.pairs import pairs

FINE = 2.0**-52
VALUES = {
    "beyond float32": (-1e300, -2.0, 1.0, 1e300),
    "below float32": (-1e-300, 0.0, 1e-310, 1.0),
    "between its numbers": (0.0, 1.0, 1.0 + FINE, 1.0 + 2 * FINE, 2.0),
    "a step of float32 apart": (0.1, 0.1 + 2.0**-27, 0.1 + 2.0**-26, 0.7),
    "nf4 in doubles": tuple(float(v) for v in np.sort(np.tanh(np.linspace(-2, 2, 16)))),
    "many": tuple(float(v) for v in np.sort(np.random.default_rng(0).standard_normal(100))),
}


def near(values: tuple[float, ...], dtype: Any) -> Any:
    """Return the values, the midpoints of neighbours, and the adjacent numbers of the dtype."""
    middles = [float((Fraction(a) + Fraction(b)) / 2) for a, b in pairwise(values)]
    with np.errstate(all="ignore"):
        x = np.array([*values, *middles, 0.0, math.inf, -math.inf]).astype(dtype)
        return np.concatenate([x, np.nextafter(x, dtype(math.inf)), np.nextafter(x, dtype(-math.inf))])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("name", VALUES)
def test_codes_are_those_of_the_nearest_exact_value(name: str, dtype: Any) -> None:
    values = VALUES[name]
    x = near(values, dtype)
    codes = quant.encode(x, Table(values))
    finite = [Fraction(float(v)) if math.isfinite(v) else Fraction(10) ** 400 * int(np.sign(v)) for v in x]
    exact = [Fraction(v) for v in values]
    for v, code in zip(finite, codes, strict=True):
        assert code == min(range(len(exact)), key=lambda i: (abs(v - exact[i]), i % 2))
    with np.errstate(over="ignore"):
        expected = np.array(values)[codes].astype(dtype if dtype != np.float16 else np.float32).astype(dtype)
    np.testing.assert_array_equal(quant.quantize(x, Table(values)), expected)


@pairs
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("rounding", ["NEAREST", "STOCHASTIC"])
@pytest.mark.parametrize("block", [0, 4])
@pytest.mark.parametrize("name", [name for name in VALUES if name != "beyond float32"])
def test_tables_are_the_specifications(name: str, block: int, rounding: str, dtype: Any) -> None:
    fmt = Table(VALUES[name], block, rounding)
    x = near(VALUES[name], dtype)
    options: dict[str, Any] = {"rng": 3} if rounding == "STOCHASTIC" else {}
    x = x[: len(x) // 4 * 4]
    check(x, fmt, **options)
    check_codes(x, fmt, **options)


def test_random_neighbours_are_those_of_the_exact_values() -> None:
    fmt = Table((0.0, 1.0, 1.0 + FINE, 2.0), rounding="STOCHASTIC")
    codes = np.array([quant.encode(np.float32([1.0, 0.25, 1.5]), fmt, rng=seed) for seed in range(400)])
    assert (codes[:, 0] == 1).all() and set(codes[:, 1]) == {0, 1} and set(codes[:, 2]) == {2, 3}
    assert abs(codes[:, 1].mean() - 0.25) < 0.1


def test_values_beyond_float32_become_infinite_only_beyond_the_midpoint() -> None:
    x = np.array([3e38, -3e38, math.inf, 1.5], np.float32)
    y, counts = quant.quantize(x, Table((-1e300, 1.0, 1e300)), counts=True)
    assert y.tolist() == [1.0, 1.0, math.inf, 1.0] and counts.nan == 0
