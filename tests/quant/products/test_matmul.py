"""quant_matmul against the specification, and the specification against other definitions."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from fastiter.quant import (
    Fixed,
    FixedArray,
    Float,
    Int,
    PowerOfTwo,
    encode,
    fixed_matmul,
    parse,
    quant_matmul,
    quantize,
)
from fastiter.quant import _matmul as kernels
from fastiter.quant._formats.properties import Span
from fastiter.quant._operands import span
from fastiter.quant.reference.formats import float_value
from fastiter.reference import quant_matmul as reference
from tests.quant.cases import FLOAT_ROUNDINGS, KINDS, numbers, random_fixed, random_float
from tests.quant.products.matmul_cases import F32, F64, both, operand, same
from tests.support.cases import assert_same_bits

# --- the specification -----------------------------------------------------------------------------------------------


def test_rounding_is_that_of_the_formats() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        fmt = random_float(rng)
        if not fmt.signed:
            continue
        for x in rng.choice(
            numbers(np.float64, fmt.min_exponent - fmt.mantissa, fmt.max_exponent + 1, 40), 60
        ).tolist():
            expected = float_value(x, fmt)
            actual = reference.added(0.0, x, 1.0, fmt)
            assert math.isnan(actual) == math.isnan(expected), (fmt, x)
            if not math.isnan(expected) and x != 0:  # 0 + -0 is 0
                assert (actual, math.copysign(1, actual)) == (expected, math.copysign(1, expected)), (fmt, x)


def test_sums_are_those_of_ieee_754() -> None:
    """c + a b in doubles, with a b exact, equals the machine's own single rounding."""
    rng = np.random.default_rng(1)
    values = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1.5, 2.0**600, -(2.0**600), 5e-324]
    values += rng.standard_normal(20).tolist()
    for c, x in itertools.product(values, values):
        for a, b in ((x, 1.0), (x, -1.0), (1.0, x), (-2.0, x)):
            assert_same_bits(np.array(abs(reference.added(c, a, b, F64))), np.array(abs(c + a * b)))
            expected, actual = c + a * b, reference.added(c, a, b, F64)
            assert math.isnan(actual) or math.copysign(1, actual) == math.copysign(1, expected), (c, a, b)


def test_parts_of_an_ordinary_product() -> None:
    assert reference.parts(0) == []
    assert reference.parts(384) == [slice(0, 384)]
    assert reference.parts(385) == [slice(0, 193), slice(193, 385)]
    assert [part.stop for part in reference.parts(1153)] == [289, 578, 867, 1153]


def test_order_of_the_terms() -> None:
    """256 ones are lost if added one by one in bfloat16, but not if summed first."""
    row, ones = np.array([[256.0] + [1.0] * 255], np.float32), np.ones((256, 1), np.float32)
    assert both(row, ones, "bf16", "bf16", "bf16").tolist() == [[256.0]]
    assert both(row[:, ::-1], ones, "bf16", "bf16", "bf16").tolist() == [[512.0]]
    assert both(row, ones, "bf16", "bf16", "bf16", accumulate_every=16).tolist() == [[512.0]]
    assert both(row, ones, "bf16", "bf16", "float32").tolist() == [[511.0]]


# --- an ordinary accumulator -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("formats", [("e4m3fn", "e5m2"), ("fp32", "fp32"), ("bf16", "mxfp8_e4m3"), ("fp16", "int8")])
@pytest.mark.parametrize("K", [0, 1, 7, 384, 385, 800])
def test_float32(formats: tuple[str, str], K: int) -> None:
    rng = np.random.default_rng([2, K])
    a, b = operand(rng, (3, K), formats[0]), operand(rng, (K, 2), formats[1])
    result = both(a, b, *formats)
    assert result.dtype == np.float32
    same(quant_matmul(a, b, *formats, "float32"), result, "float32")


@pytest.mark.parametrize("shape", [(1, 5, 1), (13, 31, 65), (70, 20, 17), (7, 400, 130)])
def test_float32_in_every_tile(shape: tuple[int, int, int]) -> None:
    """Integers, whose sums are exact in any order, and floats, whose sums are compared with the machine's own."""
    M, K, N = shape
    rng = np.random.default_rng(3)
    a, b = rng.integers(-50, 50, (M, K)).astype(np.float32), rng.integers(-50, 50, (K, N)).astype(np.float32)
    assert_same_bits(quant_matmul(a, b, "int8", "int8"), a @ b)
    a, b = operand(rng, (M, K), "e4m3fn"), operand(rng, (K, N), "e4m3fn")
    x, y = quantize(a, "e4m3fn"), quantize(b, "e4m3fn")
    expected = np.zeros((M, N), np.float32)
    for part in reference.parts(K):
        total = np.zeros((M, N), np.float32)
        for k in range(part.start, part.stop):
            total += np.outer(x[:, k], y[k])  # the products are exact
        expected = total if part.start == 0 else expected + total
    assert_same_bits(quant_matmul(a, b, "e4m3fn", "e4m3fn"), expected)


@pytest.mark.parametrize("formats", [("e4m3fn", "e5m2"), ("fp32", "fp32"), ("fixed<32,16>", "int8"), ("bf16", "bf16")])
def test_float64(formats: tuple[str, str]) -> None:
    rng = np.random.default_rng(4)
    result = both(operand(rng, (3, 500), formats[0]), operand(rng, (500, 3), formats[1]), *formats, "float64")
    assert result.dtype == np.float64


@pytest.mark.parametrize("fmt", KINDS)
def test_every_kind_of_operand(fmt: str) -> None:
    rng = np.random.default_rng(5)
    for dtype in (np.float32, np.float64, np.float16):
        a, b = operand(rng, (3, 35), fmt, dtype), operand(rng, (35, 3), fmt, dtype)
        wide = np.float64 if not span(parse(fmt)).in_float32 else np.float32 if dtype == np.float16 else dtype
        x, y = (quantize(z.astype(wide), fmt, axis=axis).astype(np.float32) for z, axis in ((a, -1), (b, -2)))
        same(both(a, b, fmt, fmt), reference.plain_matmul(x, y, F32), fmt)
        same(both(a, b, fmt, "e2m1"), reference.plain_matmul(x, quantize(b.astype(wide), "e2m1"), F32), fmt)


@pytest.mark.parametrize("fmt", KINDS)
def test_numbers_are_within_the_span_of_their_format(fmt: str) -> None:
    parsed = parse(fmt)
    low, high = KINDS[fmt]
    s = span(parsed)
    dtype = np.float32 if s.in_float32 else np.float64
    for value in quantize(numbers(dtype, low, high), fmt, nan=0.0).tolist():
        if not math.isfinite(value) or value == 0:
            continue
        exact = abs(Fraction(value))
        assert exact < Fraction(2) ** s.high
        scaled = exact / Fraction(2) ** s.low
        assert scaled.denominator == 1
        assert (scaled.numerator // (scaled.numerator & -scaled.numerator)).bit_length() <= s.bits


@pytest.mark.parametrize("accumulate", ["float32", "fp16", "fixed<20,12,RND,SAT>"])
def test_codes_are_their_numbers(accumulate: str) -> None:
    rng = np.random.default_rng(6)
    for fmt in (
        "e4m3fn",
        "e2m1",
        "fixed<8,4,RND,SAT>",
        "ufixed<6,2,RND,SAT>",
        "int8",
        "posit<8,1>",
        "pow2<-3,3>",
        "khot<2,8,1>",
    ):
        a, b = operand(rng, (4, 30), fmt), operand(rng, (30, 5), fmt)
        coded = quant_matmul(encode(a, fmt), encode(b, fmt), fmt, fmt, accumulate)
        assert_same_bits(coded, quant_matmul(a, b, fmt, fmt, accumulate))
        assert_same_bits(quant_matmul(encode(a, fmt).astype(np.int64), b, fmt, fmt, accumulate), coded)


# --- small floats ----------------------------------------------------------------------------------------------------


SMALL = ("fp16", "bf16", "e5m2", "e4m3fn", "e4m3fnuz", "tf32", "fp32", "e3m2", "float<6,9,ieee,RNE,SAT>")


@pytest.mark.parametrize("rounding", FLOAT_ROUNDINGS)
@pytest.mark.parametrize("acc", SMALL)
def test_small_floats(acc: str, rounding: str) -> None:
    """Every two of an accumulator, a rounding and a pair of operands."""
    rng = np.random.default_rng(7)
    base = parse(acc)
    assert isinstance(base, Float)
    fmt = Float(base.exponent, base.mantissa, base.specials, rounding, base.overflow, base.bias)
    cases = (("e4m3fn", "e5m2", 1), ("e4m3fn", "e4m3fn", 3), ("fp32", "bf16", 1), ("fp32", "fp32", 4))
    for fa, fb, every in cases[(SMALL.index(acc) + FLOAT_ROUNDINGS.index(rounding)) % 2 :: 2]:
        both(operand(rng, (3, 13), fa), operand(rng, (13, 19), fb), fa, fb, fmt, every)


def test_random_formats() -> None:
    rng = np.random.default_rng(8)
    done = 0
    while done < 150:
        acc, fa, fb = (random_float(rng) for _ in range(3))
        if not acc.signed or acc.min_exponent > acc.mantissa:
            continue
        low, high = acc.min_exponent - acc.mantissa, acc.max_exponent + 1
        a = rng.choice(numbers(np.float64, fa.min_exponent - fa.mantissa, fa.max_exponent + 1, 40), (2, 9))
        b = rng.choice(numbers(np.float64, fb.min_exponent - fb.mantissa, fb.max_exponent + 1, 40), (9, 3))
        if rng.integers(2):  # products that do not vanish in the accumulator
            b = rng.choice(numbers(np.float64, low, high, 40), (9, 3))
            fb = F32
        both(a, b, fa, fb, acc, int(rng.integers(1, 5)))
        done += 1


def test_ties_and_ends_of_the_range() -> None:
    """Sums at and beside the midpoint of two numbers, which double rounding would round the wrong way."""
    rng = np.random.default_rng(9)
    for acc in ("e5m2", "fp16", "bf16", "e4m3fn"):
        fmt = parse(acc)
        assert isinstance(fmt, Float)
        for rounding in FLOAT_ROUNDINGS:
            to = Float(fmt.exponent, fmt.mantissa, fmt.specials, rounding, fmt.overflow)
            one = rng.choice([1.0, -1.0], (1, 40)).astype(np.float32)
            half = np.float32(2.0 ** -(fmt.mantissa + 1))
            tiny = np.float32(2.0**-40) * rng.integers(-1, 2, (1, 40)).astype(np.float32)
            a = np.concatenate(
                [one, one * half * rng.integers(0, 4, (1, 40)).astype(np.float32), tiny, one * np.float32(1e30)]
            )
            both(np.ones((1, 4), np.float32), a, "fp32", "fp32", to)


@pytest.mark.parametrize("rounding", ["RNE", "RNA"])
def test_sums_to_the_nearest_float_first(rounding: str) -> None:
    """Cases that allow double rounding: terms of all magnitudes, at and beside midpoints of numbers."""
    rng = np.random.default_rng(17)
    for mantissa, bits, specials, exponent in itertools.product((1, 3, 7, 10), (2, 4, 8, 11), ("ieee", "fnuz"), (5, 8)):
        acc = Float(exponent, mantissa, specials, rounding)
        p, allowed = Span(bits, -60, 60), bits <= mantissa + 1 and bits + mantissa + 1 <= 23
        assert (kernels._sums(p, acc, 1) == kernels._SUMS.nearest_in_float) == allowed
        if not allowed:
            continue
        fa, fb = Float(5, bits - 2 if bits > 2 else 1, "none"), PowerOfTwo(-14, 14)
        a = rng.choice([-1.0, 1.0], (1, 24)) * (1 + rng.integers(0, 1 << (bits - 1), (1, 24)) / (1 << (bits - 1)))
        b = 2.0 ** rng.integers(-14, 5, (24, 18))
        both(a.astype(np.float32), b.astype(np.float32), fa, fb, acc)


@pytest.mark.parametrize("shape", [(1, 3, 1), (4, 2, 16), (5, 9, 33), (9, 30, 100), (2, 0, 3)])
def test_small_floats_in_every_tile(shape: tuple[int, int, int]) -> None:
    M, K, N = shape
    rng = np.random.default_rng(10)
    a, b = operand(rng, (M, K), "e4m3fn"), operand(rng, (K, N), "e4m3fn")
    for acc, every in (("fp16", 1), ("bf16", 1), ("fp32", 1), ("e5m2", 4), ("fp16<RZ>", 100)):
        whole = quant_matmul(a, b, "e4m3fn", "e4m3fn", acc, every)
        for m, n in ((0, 0), (M - 1, N - 1), (M // 2, N // 2)):
            same(whole[m : m + 1, n : n + 1], both(a[m : m + 1], b[:, n : n + 1], "e4m3fn", "e4m3fn", acc, every), acc)


@pytest.mark.parametrize("acc", ["fp16", "bf16", "e5m2<RZ>", "e4m3fn", "fp32", "float<5,10,none>"])
def test_infinities_and_nan_stay_in_their_rows(acc: str) -> None:
    rng = np.random.default_rng(11)
    a, b = operand(rng, (6, 8), "e5m2"), operand(rng, (8, 5), "e5m2")
    clean = quant_matmul(a, b, "e5m2", "e5m2", acc)
    for value in (math.nan, math.inf, -math.inf):
        x = a.copy()
        x[2, 3] = value
        for every in (1, 3):
            result = both(x, b, "e5m2", "e5m2", acc, every)
        assert_same_bits(np.delete(quant_matmul(x, b, "e5m2", "e5m2", acc), 2, 0), np.delete(clean, 2, 0))
        assert math.isfinite(value) or not math.isnan(value) or np.isnan(result[2]).all()
        plain = both(x, b, "e5m2", "e5m2")
        assert np.isfinite(np.delete(plain, 2, 0)).all()
        assert not np.isfinite(plain[2]).any()


def test_dtypes_are_accumulators() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 900)), rng.standard_normal((900, 2))
    for dtype in (np.float32, np.float64):
        expected = quant_matmul(a, b, "fp8", "fp8", np.dtype(dtype).name)
        assert expected.dtype == dtype
        for acc in (dtype, np.dtype(dtype), f"torch.{np.dtype(dtype).name}"):
            assert_same_bits(quant_matmul(a, b, np.float16, "fp8", acc), quant_matmul(a, b, "fp16", "fp8", dtype))
            assert_same_bits(quant_matmul(a, b, "fp8", "fp8", acc), expected)
    assert_same_bits(quant_matmul(a, b, "fp8", "fp8", np.float16), quant_matmul(a, b, "fp8", "fp8", "fp16"))


# --- fixed-point accumulators ----------------------------------------------------------------------------------------


def test_fixed_accumulators() -> None:
    rng = np.random.default_rng(12)
    for fa, fb in (
        ("e4m3fn", "e4m3fn"),
        ("e5m2", "int8"),
        ("fixed<8,4,RND,SAT>", "posit<8,1>"),
        ("nf4<0>", "pow2<-3,3>"),
    ):
        if fa.startswith("nf4"):
            fa = "table<-1.0 -0.5 0.25 2.5>"
        for _ in range(12):
            acc = random_fixed(rng, 40)
            acc = Fixed(
                acc.width,
                acc.width - int(rng.integers(0, 14)),
                acc.signed,
                acc.rounding,
                acc.overflow,
                acc.saturated_bits,
            )
            both(operand(rng, (4, 9), fa), operand(rng, (9, 5), fb), fa, fb, acc, int(rng.integers(1, 5)))


def test_a_fixed_accumulator_is_fixed_matmul() -> None:
    rng = np.random.default_rng(13)
    a, b = operand(rng, (7, 40), "fixed<8,4>"), operand(rng, (40, 9), "fixed<8,4>")
    acc = Fixed(10, 5, rounding="RND_CONV", overflow="SAT")
    codes = fixed_matmul(FixedArray(a, "fixed<8,4,RND,SAT>"), FixedArray(b, "fixed<8,2>"), acc)
    assert_same_bits(quant_matmul(a, b, "fixed<8,4,RND,SAT>", "fixed<8,2>", acc), codes.to_float().astype(np.float32))


def test_codes_of_64_bits_are_exact() -> None:
    a = np.array([[2**62 + 1, -(2**62)]])
    b = np.array([[2], [2]])
    assert quant_matmul(a, b, Fixed(64, 64), Int(8), Fixed(8, 8)).tolist() == [[2.0]]
    assert quant_matmul(a, b, Fixed(64, 64), Int(8), Fixed(8, 8), accumulate_every=2).tolist() == [[2.0]]


def test_result_dtypes() -> None:
    x = np.ones((1, 1))
    for fa, acc, dtype in (
        ("e4m3fn", "fp16", np.float32),
        ("e4m3fn", "fp32", np.float32),
        ("e4m3fn", "float<9,20>", np.float64),
        ("fixed<32,16>", "fp16", np.float64),
        ("e4m3fn", "fixed<24,12>", np.float32),
        ("e4m3fn", "fixed<26,12>", np.float64),
        ("fixed<32,16>", "fixed<8,4>", np.float32),
    ):
        assert quant_matmul(x, x, fa, "e4m3fn", acc).dtype == dtype
