"""exp, sigmoid, softplus, tanh and log(sigmoid) of the kernels: within 4 units in the last place of the range.

float32 is compared with NumPy's float64, float64 with its long double. test_isa.py runs this for every instruction set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastiter import _core
from tests.support.cases import Array

LARGEST_ERROR = 4.0  # ulp
WIDE = {np.float32: np.float64, np.float64: np.longdouble}
RUN = {np.float32: _core.function_f32, np.float64: _core.function_f64}


def sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    y: Array = np.where(x < 0, e, 1) / (1 + e)
    return y


def log_sigmoid(x: Array) -> Array:
    y: Array = np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))
    return y


def softplus(x: Array) -> Array:
    y: Array = np.where(x > 20, x, np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))
    return y


# In the order of the kernels' numbering
FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "sigmoid": sigmoid,
    "softplus": softplus,
    "tanh": np.tanh,
    "log_sigmoid": log_sigmoid,
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])


def of_kernels(name: str, x: Array) -> Array:
    out = np.full_like(x, np.nan)
    RUN[x.dtype.type](list(FUNCTIONS).index(name), x.ctypes.data, out.ctypes.data, x.size)
    return out


def ulps(actual: Array, exact: Array) -> Array:
    """Return |actual - exact| in units in the last place of `exact`; an inf counts as the power of two it replaces."""
    info = np.finfo(actual.dtype)
    beyond = exact.dtype.type(2.0) ** exact.dtype.type(info.maxexp)
    wide = np.where(np.isinf(actual), np.copysign(beyond, actual), actual.astype(exact.dtype))
    exact = np.clip(exact, -beyond, beyond)
    _, exponent = np.frexp(np.minimum(np.abs(exact), info.max))
    last_place = np.ldexp(exact.dtype.type(1), np.maximum(exponent - 1 - info.nmant, info.minexp - info.nmant))
    error: Array = np.abs(wide - exact) / last_place
    return error


def largest_error(name: str, x: Array) -> tuple[float, float]:
    """Return the largest error in ulp over x, and its location."""
    with np.errstate(over="ignore", under="ignore"):
        exact = FUNCTIONS[name](x.astype(WIDE[x.dtype.type]))
    errors = ulps(of_kernels(name, x), exact)
    worst = int(np.argmax(errors))  # returns a NaN's index if there is one
    return float(errors[worst]), float(x[worst])


def assert_precise(name: str, x: Array) -> None:
    error, where = largest_error(name, x)
    print(f"{_core.isa_chosen()} {name} {x.dtype}: {error:.3f} ulp at {where!r}")
    assert error <= LARGEST_ERROR, f"{name}: {error:.3f} ulp at {where!r}"


def finite(bits: Array, dtype: Any) -> Array:
    x: Array = bits.view(dtype)
    return x[np.isfinite(x)]


def every_exponent(dtype: Any, count: int) -> Array:
    """Return `count` numbers of each exponent and sign, including denormals, and the ends of each exponent."""
    info = np.finfo(dtype)
    word = np.uint32 if dtype == np.float32 else np.uint64
    rng = np.random.default_rng(0)
    exponents = np.arange(2 * info.maxexp - 1, dtype=word)[:, None] << word(info.nmant)
    mantissas = rng.integers(0, 1 << info.nmant, (len(exponents), count), dtype=word)
    mantissas[:, :3] = 0, 1, (1 << info.nmant) - 1
    x = finite((exponents | mantissas).ravel(), dtype)
    return np.concatenate([x, -x])


def where_it_matters(dtype: Any) -> Array:
    """Return arguments dense where the result is between 0, 1 and inf, and around every boundary of the reductions."""
    rng = np.random.default_rng(1)
    info = np.finfo(dtype)
    low, high = np.log(np.longdouble(info.smallest_subnormal)), np.log(np.longdouble(info.max))
    ranges = ((low - 2, high + 1), (-40, 40), (-3, 3), (-0.7, 0.7), (-0.01, 0.01))
    dense = [rng.uniform(a, b, 50_000) for a, b in ranges]
    halves = np.arange(-2200, 2200) * np.log(np.longdouble(2)) / 4
    edges = np.concatenate([halves, [low, high, np.log(np.longdouble(info.tiny)), 104, 89, 746, 710, 30, 15, 20]])
    edges = np.concatenate([edges, -edges]).astype(dtype)
    near = [edges]
    for _ in range(3):
        near += [np.nextafter(near[-1], dtype(np.inf)), np.nextafter(near[-1], dtype(-np.inf))]
    return np.concatenate([*dense, *near]).astype(dtype)


# --- precision -------------------------------------------------------------------------------------------------------


@every_function
def test_float32_of_every_exponent(name: str) -> None:
    assert_precise(name, every_exponent(np.float32, 500))
    assert_precise(name, where_it_matters(np.float32))


@every_function
def test_float32_in_a_stride_over_all_of_them(name: str) -> None:
    # A prime, so that every bit of the mantissa varies.
    assert_precise(name, finite(np.arange(0, 2**32, 4099, dtype=np.uint64).astype(np.uint32), np.float32))


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="long double is no wider than double here")
@every_function
def test_float64(name: str) -> None:
    assert_precise(name, every_exponent(np.float64, 40))
    assert_precise(name, where_it_matters(np.float64))


# --- special values --------------------------------------------------------------------------------------------------


@both_dtypes
@every_function
def test_infinities_nan_and_zeros(name: str, dtype: Any) -> None:
    inf = np.inf
    results = {
        "exp": (inf, 0, 1, 1),
        "sigmoid": (1, 0, 0.5, 0.5),
        "softplus": (inf, 0, *[np.log(dtype(2))] * 2),
        "tanh": (1, -1, 0.0, -0.0),
        "log_sigmoid": (0, -inf, *[-np.log(dtype(2))] * 2),
    }[name]
    for padding in range(20):  # every lane of a vector, and the remainder after the last whole vector
        x = np.array([0.0] * padding + [inf, -inf, 0.0, -0.0, np.nan, -np.nan], dtype)
        actual = of_kernels(name, x)[padding:]
        np.testing.assert_allclose(actual[:4], results, rtol=np.finfo(dtype).eps, atol=0)
        assert np.isnan(actual[4:]).all()
    if name == "tanh":
        assert np.signbit(actual[:4]).tolist() == [False, True, False, True]
    if name in ("exp", "sigmoid", "softplus"):
        assert not np.signbit(actual[:4]).any()


@both_dtypes
def test_results_stay_in_their_range(dtype: Any) -> None:
    x = np.concatenate([where_it_matters(dtype), every_exponent(dtype, 10)])
    y = {name: of_kernels(name, x) for name in FUNCTIONS}
    assert (y["exp"] >= 0).all()
    assert ((y["sigmoid"] >= 0) & (y["sigmoid"] <= 1)).all()
    assert (np.abs(y["tanh"]) <= 1).all()
    assert (np.signbit(y["tanh"]) == np.signbit(x)).all()
    assert (y["softplus"] >= 0).all()
    assert (y["log_sigmoid"] <= 0).all()


@both_dtypes
def test_symmetries(dtype: Any) -> None:
    x = where_it_matters(dtype)
    np.testing.assert_array_equal(of_kernels("tanh", -x), -of_kernels("tanh", x))
    small = every_exponent(dtype, 5)
    small = small[np.abs(small) < np.sqrt(np.finfo(dtype).eps) / 8]
    # tanh x = x where x^3 is too small to tell.
    np.testing.assert_array_almost_equal_nulp(of_kernels("tanh", small), small, 1)
    np.testing.assert_array_equal(of_kernels("exp", small[np.abs(small) < np.finfo(dtype).eps / 4]), 1)


@both_dtypes
@every_function
def test_any_count_and_address(name: str, dtype: Any) -> None:
    x = np.linspace(-5, 5, 80).astype(dtype)
    whole = of_kernels(name, x)
    for start, count in ((s, n) for s in range(5) for n in range(40)):
        out = np.full(count + 2, 7, dtype)
        RUN[dtype](list(FUNCTIONS).index(name), x[start:].ctypes.data, out[1:].ctypes.data, count)
        np.testing.assert_array_equal(out[1:-1], whole[start : start + count])
        assert out[0] == out[-1] == 7
