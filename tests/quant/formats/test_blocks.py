"""Formats whose numbers share a scale: every rule and size against the specification, NaN, infinities and extremes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from fastiter import quant
from fastiter.quant import MX, NVFP4, BlockFloat, encode, parse, quantize
from tests.quant.cases import FLOAT_ROUNDINGS, ROUNDINGS, assert_equal
from tests.quant.formats.test_arrays import DTYPES, check, check_codes, shares
from tests.support.cases import Array

ELEMENTS = ("e4m3fn", "e5m2", "e3m2", "e2m3", "e2m1", "e4m3fnuz", "float<1,3,none>", "float<3,2,none,RNE,SAT,9>")
RULES = ("FLOOR", "EVEN", "CEIL", "RCEIL")


def blocks(dtype: Any, block: int, seed: int = 0) -> Array:
    """Return lines of a block and a third: normal, powers of two and near them, tiny, huge, zeros, one large number."""
    rng = np.random.default_rng([seed, block])
    n = block + block // 3
    scale = np.array([0.0, 1.0, 1e-3, 300.0, 1e-37, 1e-40, 1e-44, 1e37, 2.0**-128, 2.0**127, 1e-300, 1e300])[:, None]
    x = rng.standard_normal((len(scale), n))
    with np.errstate(all="ignore"):
        x = (x * scale).astype(dtype)
        near = np.ldexp(1.0, rng.integers(-12, 12, (4, 1))) * np.array([[1.0], [-1.0], [0.75], [1.75]])
        largest = np.nextafter(near.astype(dtype), rng.choice([-math.inf, math.inf], (4, n)).astype(dtype))
        largest = np.concatenate([largest, np.broadcast_to(near, (4, n)).astype(dtype)])
        peaks = (rng.standard_normal((3, n)) * 1e-4).astype(dtype)
        peaks[:, ::block] = 1000.0
        limits = np.full((2, n), np.finfo(dtype).max, dtype)
        limits[1] = np.finfo(dtype).smallest_subnormal * rng.integers(0, 9, n).astype(dtype)
    return np.concatenate([x, largest, peaks, limits])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("element", ELEMENTS)
def test_microscaling(rule: str, element: str) -> None:
    """Every pair of a rule, an element and a dtype occurs."""
    dtype = DTYPES[(RULES.index(rule) + ELEMENTS.index(element)) % len(DTYPES)]
    for block in (32, 5):
        x = blocks(dtype, block)
        fmt = MX(element, block, rule)
        check(x, fmt)
        check_codes(x, fmt)


@pytest.mark.parametrize("dtype", DTYPES)
def test_microscaling_with_every_rounding(dtype: Any) -> None:
    for element, rounding in shares(itertools.product(("e2m1", "e4m3fn"), FLOAT_ROUNDINGS), dtype):
        x = blocks(dtype, 16, 1)
        check(x, MX(f"{element}<{rounding}>", 16))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [None, 1.0, 0.0123, 1e-20, 37.0])
def test_nvfp4(dtype: Any, scale: float | None) -> None:
    for block, rounding in ((16, "RNE"), *shares([(7, "RNE"), (16, "RZ"), (16, "RU")], dtype)):
        x = blocks(dtype, block)
        check(x, NVFP4(block, rounding), scale=scale)
        check_codes(x, NVFP4(block, rounding), scale=scale)


@pytest.mark.parametrize("dtype", DTYPES)
def test_block_floating_point(dtype: Any) -> None:
    rounded = zip((16, 32, 3, 1, 8, 20, 9), ROUNDINGS, strict=True)
    for width, (block, rounding) in shares(itertools.product((2, 4, 8, 16, 24), rounded), dtype):
        x = blocks(dtype, block)
        check(x, BlockFloat(width, block, rounding))
        check_codes(x, BlockFloat(width, block, rounding))


@pytest.mark.parametrize("dtype", DTYPES)
def test_tables_of_blocks(dtype: Any) -> None:
    for text in ("nf4", "table<-1.0 0.0 0.5,7>", "table<-1.0 0.0 0.5 0.75 1.0,1024>"):
        x = blocks(dtype, 9)
        check(x, text)
        check_codes(x, text)


@pytest.mark.parametrize("block", [1, 2, 3, 15, 16, 17, 31, 32, 33, 64, 100, 1024])
def test_blocks_of_any_size(block: int) -> None:
    lines = 2 if block < 100 else 1
    x = np.random.default_rng(block).standard_normal((lines, 2 * block + block // 2)).astype(np.float32)
    for fmt in (MX("e4m3fn", block), NVFP4(block), BlockFloat(8, block), quant.Table((-1.0, -0.1, 0.3, 1.0), block)):
        check(x, fmt)
        check_codes(x, fmt)
        # Each block alone
        y = quantize(x, fmt)
        for i, j in itertools.product(range(lines), range(0, x.shape[1], block)):
            part = np.ascontiguousarray(x[i, j : j + block])
            assert_equal(quantize(part, fmt), y[i, j : j + block], part, fmt)


@pytest.mark.parametrize("text", ["mxfp8_e4m3", "mxfp4_e2m1", "nvfp4", "mxint8", "nf4"])
def test_nan_spreads_only_within_its_block(text: str) -> None:
    fmt = parse(text)
    x = np.random.default_rng(0).standard_normal(8 * fmt.block).astype(np.float32)
    clean = quantize(x, fmt)
    for at in (0, 3 * fmt.block - 1, 5 * fmt.block + 7):
        z = x.copy()
        z[at] = math.nan
        y, counts = quantize(z, fmt, counts=True)
        block = slice(at // fmt.block * fmt.block, (at // fmt.block + 1) * fmt.block)
        assert np.isnan(y[block]).all()
        assert counts.nan == 1
        y[block] = clean[block]
        assert_equal(y, clean, z, fmt)
        zero = quantize(z, fmt, nan=0.0)
        z[at] = 0
        assert_equal(zero, quantize(z, fmt), z, fmt)


def test_the_axis_of_the_blocks() -> None:
    x = np.random.default_rng(0).standard_normal((6, 70, 5)).astype(np.float32)
    for axis in (0, 1, 2, -1, -2):
        expected = np.moveaxis(quantize(np.ascontiguousarray(np.moveaxis(x, axis, -1)), "mxfp4_e2m1"), -1, axis)
        assert_equal(quantize(x, "mxfp4_e2m1", axis=axis), np.ascontiguousarray(expected), x, parse("mxfp4_e2m1"))
        out = np.empty_like(x)
        assert quantize(x, "mxfp4_e2m1", axis=axis, out=out) is out
        np.testing.assert_array_equal(out, expected)
        codes = encode(x, "mxfp4_e2m1", axis=axis)
        np.testing.assert_array_equal(np.moveaxis(quant.decode(codes, "mxfp4_e2m1"), -1, axis), expected)


def test_the_rules_of_ocp_by_hand() -> None:
    """amax 5 with e2m1 (largest 6 = 1.5 2^2): the scale is 2^(2 - 2) and 5 is the tie of 4 and 6."""
    x = np.array([5.0, -2.5, 0.2, 0.25, 0.3, 1.75], np.float32)
    codes, scales = encode(x, "mxfp4_e2m1")
    assert scales.tolist() == [127]
    assert codes.tolist() == [6, 12, 0, 0, 1, 4]
    assert quantize(x, "mxfp4_e2m1").tolist() == [4.0, -2.0, 0.0, 0.0, 0.5, 2.0]
    # 7 exceeds 6 2^0: it saturates with FLOOR, and RCEIL takes the next scale
    assert quantize(np.array([7.0, 1.0], np.float32), "mxfp4_e2m1").tolist() == [6.0, 1.0]
    assert quantize(np.array([7.0, 1.0], np.float32), "mxfp4_e2m1<32,RCEIL>").tolist() == [8.0, 1.0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fmt", ["mxfp8_e4m3", "mxfp4_e2m1<16,CEIL>", "mxfp6_e2m3<5,RCEIL>", "mxint8", "bfp<6,8>"])
def test_an_infinity_makes_its_block_nan(fmt: str, dtype: Any) -> None:
    """No power of two scales it into range."""
    block = parse(fmt).block
    for place in (0, block - 1, 2 * block + 1):
        for wrong in (math.inf, -math.inf, math.nan):
            x = np.random.default_rng(0).standard_normal((2, 4 * block - 1)).astype(dtype)
            x[1, place] = wrong
            y, counts = quant.quantize(x, fmt, counts=True)
            codes, scales = quant.encode(x, fmt)
            expected = np.zeros(x.shape, bool)
            expected[1, place // block * block : (place // block + 1) * block] = True
            np.testing.assert_array_equal(np.isnan(y), expected)
            np.testing.assert_array_equal(scales == 255, np.arange(4) == np.array([[9], [place // block]]))
            assert not codes[expected].any()
            assert counts.nan == math.isnan(wrong)
            finite = quant.quantize(np.where(expected, 0, x).astype(dtype), fmt, counts=True)[1]
            assert counts.overflow == finite.overflow + (not math.isnan(wrong))
            np.testing.assert_array_equal(quant.decode(quant.encode(x, fmt), fmt).astype(dtype), y)


def test_scales_of_nvfp4_are_unsigned() -> None:
    """A NaN has the code 0x7F, as in torch and hardware; an infinity saturates."""
    x = np.ones(48, np.float32)
    x[20], x[40] = math.nan, -math.inf
    codes, scales = quant.encode(x, "nvfp4")
    assert scales.tolist()[1:] == [0x7F, 0x7E] and not codes[16:32].any()
    y = quant.decode(quant.BlockCodes(codes, scales), "nvfp4")
    assert np.isnan(y[16:32]).all() and y[40] == -6 * 448
    assert np.isnan(quant.decode(quant.BlockCodes(codes, scales | np.uint8(128)), "nvfp4")[16:32]).all()
