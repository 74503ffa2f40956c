"""calibrate returns scales with which no rounded number overflows; measure_error works on any numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fastiter import quant
from fastiter.quant import Fixed, Float, Int
from tests.quant.cases import FLOAT_ROUNDINGS, overflows
from tests.quant.formats.test_arrays import DTYPES, shares

ROUNDINGS = ("TRN", "TRN_ZERO", "RND", "RND_ZERO", "RND_MIN_INF", "RND_INF", "RND_CONV", "STOCHASTIC")


def samples(dtype: Any, count: int, seed: int) -> Any:
    """Return arrays whose extreme is a power of two, next to one, half a coarse step below one, or arbitrary."""
    rng = np.random.default_rng(seed)
    for k in range(count):
        x = rng.uniform(-1, 1, 9)
        x[0] = rng.choice([-1.0, 1.0]) * (1.0, 1 - 2.0**-10, 1 - 2.0 ** -rng.integers(2, 9), rng.uniform(0.5, 1))[k % 4]
        yield (np.ldexp(x, rng.integers(-6, 7)) * rng.choice([1.0, 1.0, 0.0], 9)).astype(dtype)


def overflowed(x: Any, found: quant.Calibration, seed: int = 0) -> int:
    how: dict[str, Any] = {"rng": seed} if found.fmt.stochastic else {}
    _, counts = quant.quantize(x, found.fmt, scale=found.scale, zero_point=found.zero_point, counts=True, **how)
    return counts.overflow


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_binary_points_hold_every_number_and_no_finer_ones_do(rounding: str, dtype: Any) -> None:
    tight = 0
    for signed in (True, False):
        for width in (2, 3, 4, 8, 13, 24, 40, 64):
            for overflow, bits in shares(overflows(signed, width), dtype, ROUNDINGS.index(rounding)):
                for k, x in enumerate(samples(dtype, 4, width)):
                    given = Fixed(width, 0, signed, rounding, overflow, bits)
                    found = quant.calibrate(x, given)
                    kept = x if signed else np.maximum(x, 0)
                    assert overflowed(kept, found, k) == 0, (found.fmt, x)
                    finer = found._replace(fmt=Fixed(width, found.fmt.integer - 1, signed, rounding, overflow, bits))
                    if kept.any() and rounding != "STOCHASTIC":
                        assert overflowed(kept, finer, k) > 0, (found.fmt, x)
                        tight += 1
    assert tight > 100 or rounding == "STOCHASTIC"


def test_the_largest_magnitude_neither_changes_its_sign_nor_vanishes() -> None:
    for largest in (1.0, 0.97, 0.999, -0.9999, 63.9):
        x = np.array([largest, 0.25 * largest, -0.1 * largest])
        for overflow in ("WRAP", "SAT", "SAT_ZERO", "SAT_SYM", "WRAP_SM"):
            fmt = quant.calibrate(x, f"fixed<5,0,RND,{overflow}>").fmt
            assert quant.quantize(x, fmt)[0] == pytest.approx(largest, rel=0.07)
    assert quant.calibrate(np.array([-1.0, 0.9]), "fixed<4,0,RND,SAT>").fmt == Fixed(4, 1, True, "RND", "SAT")
    assert quant.calibrate(np.array([-9.0, 0.9]), "ufixed<4,0,RND,SAT>").fmt == Fixed(4, 0, False, "RND", "SAT")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_scales_of_integers_hold_both_ends(rounding: str, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    for width in (2, 3, 4, 8, 16, 26):
        for fmt in (Int(width, True, rounding), Int(width, True, rounding, "SAT_SYM"), Int(width, False, rounding)):
            for k in range(8):
                x = rng.uniform(-1, 1, (3, 7)) * np.exp2(rng.integers(-4, 5, (3, 1)))
                if k % 4 == 0:  # ends on and between whole numbers of steps
                    x = rng.integers(-9, 10, (3, 7)) / 2.0
                found = quant.calibrate(x.astype(dtype), fmt, axis=0)
                assert overflowed(x.astype(dtype), found, k) == 0, (fmt, x)
                assert found.scale is not None
                if not fmt.signed and rounding != "STOCHASTIC":
                    span = np.maximum(x.max(1), 0) - np.minimum(x.min(1), 0)
                    assert (found.scale[:, 0] <= span / (fmt.max_code - 1) * (1 + 1e-3) + (span == 0)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rounding", [*FLOAT_ROUNDINGS, "STOCHASTIC"])
def test_scales_of_floats_wider_than_the_dtype(rounding: str, dtype: Any) -> None:
    """The quotient must be representable in the dtype, and the scale normal in it."""
    rng = np.random.default_rng(1)
    shapes = (
        (8, 3, "fn"),
        (8, 7, "ieee"),
        (9, 2, "none"),
        (10, 4, "fnuz"),
        (8, 20, "none"),
        (7, 3, "fn"),
        (11, 2, "ieee"),
    )
    for exponent, mantissa, specials in shapes:
        fmt = Float(exponent, mantissa, specials, rounding)
        for k in range(12):
            x = (rng.standard_normal(6) * np.exp2(rng.integers(-90, 90))).astype(dtype)
            x[0] *= dtype(2.0 ** (-20, 0, 30)[k % 3])
            found = quant.calibrate(x, fmt)
            assert found.scale is not None
            assert overflowed(x, found, k) == 0
            assert found.scale.item() >= np.finfo(dtype).tiny
            how: dict[str, Any] = {"rng": k} if fmt.stochastic else {}
            y = quant.quantize(x, fmt, scale=found.scale, **how)
            step = 2.0 ** -(mantissa + (rounding in ("RNE", "RNA"))) + 2 * np.finfo(dtype).eps  # and two operations
            np.testing.assert_allclose(y, x, rtol=step, atol=0)


def test_extreme_numbers_of_the_dtype_have_a_scale() -> None:
    for dtype in (np.float32, np.float64):
        info = np.finfo(dtype)
        for text in ("float<8,3,fn>", "bf16", "fp32", "float<9,4,none>", "float<11,5>"):
            for largest in (info.max / 2, info.max / 3, info.tiny, 37 * info.smallest_subnormal):
                x = np.array([largest, -largest / 4], dtype)
                fmt, scale, _ = quant.calibrate(x, text)
                np.testing.assert_allclose(quant.quantize(x, fmt, scale=scale), x, rtol=2.0**-4)


def test_percentiles_hold_their_fraction_of_the_numbers() -> None:
    x = np.random.default_rng(0).standard_normal(2001)
    for text in ("int6", "uint6<TRN>"):
        assert 0 < overflowed(x, quant.calibrate(x, text, method="percentile", percentile=99)) <= 41
    for share in (50, 90, 99):
        found = quant.calibrate(x, "fixed<6,0,RND>", method="percentile", percentile=share)
        assert overflowed(x, found) <= (100 - share) / 100 * 2001 + 1  # the percentile is between two numbers
    x[5] = 20.0
    wide, least = (quant.calibrate(x, "fixed<6,0,RND,SAT>", method=method).fmt for method in ("minmax", "mse"))
    assert isinstance(wide, Fixed) and isinstance(least, Fixed) and least.integer < wide.integer == 6


# --- error ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "fmt"),
    [
        (np.full(10, 1e20), "int8"),
        (np.array([1e17]), "int8"),
        (np.array([1e20, 1e20 + 2**15]), "int8"),
        (np.full(5, 3e38, np.float32), "e4m3fn"),
        (np.array([1.7e308, -1.7e308, 1.0]), "int8"),
        (np.array([1.79e308, -1.79e308]), "fixed<8,8>"),
        (np.array([5e-324, 0.0, 1e-323]), "int8"),
        (np.array([1e-200, -3e-200]), "int8"),
        (np.array([1.7e308, -1.7e308]), "fixed<60,1023,RND,WRAP>"),
    ],
)
def test_error_statistics_of_arrays_of_any_size(x: Any, fmt: str) -> None:
    e = quant.measure_error(x, fmt)
    assert e.histogram.sum() == x.size and len(e.edges) == 65
    assert (np.diff(e.edges) > 0).all() and np.isfinite(e.edges).all()
    y = quant.quantize(x, fmt).astype(float)
    with np.errstate(over="ignore"):
        d = np.clip(y - x, -np.finfo(float).max, np.finfo(float).max)
    assert e.edges[0] <= d.min() and d.max() <= e.edges[-1]
    assert e.max == abs(d).max()
    assert e.mean == pytest.approx(math.fsum(d / x.size), rel=1e-12, abs=1e-12 * e.max)
    largest = abs(d).max()
    assert e.rms == pytest.approx(largest * math.sqrt(np.mean((d / largest) ** 2)), rel=1e-12)


def test_sqnr_does_not_depend_on_the_magnitude() -> None:
    x = np.random.default_rng(2).standard_normal(50)
    plain = quant.measure_error(x, "int4", scale=0.3)
    for power in (-500, -1000, 500, 1000):
        e = quant.measure_error(np.ldexp(x, power), "int4", scale=math.ldexp(0.3, power))
        assert e.sqnr == pytest.approx(plain.sqnr, rel=1e-9)
        assert e.rms == pytest.approx(math.ldexp(plain.rms, power), rel=1e-9)
