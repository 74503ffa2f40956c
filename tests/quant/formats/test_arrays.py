"""quantize and encode have the specification's bits: random formats, every rounding and overflow, any array."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter import quant
from fastiter.quant import Fixed, Format, Int, parse, quantize
from tests.quant.cases import (
    FLOAT_ROUNDINGS,
    KINDS,
    NAMED_FLOATS,
    ROUNDINGS,
    assert_equal,
    fixed_numbers,
    numbers,
    overflows,
    random_fixed,
    random_float,
)
from tests.support.cases import Array

DTYPES = (np.float32, np.float64, np.float16)


def shares(items: Iterable[Any], dtype: Any, first: int = 0) -> list[Any]:
    """Return a third of the items, a different third for each dtype; ``first`` shifts the assignment."""
    return list(items)[(first + DTYPES.index(dtype)) % len(DTYPES) :: len(DTYPES)]


def check(x: Array, fmt: Format | str, **options: Any) -> None:
    """Assert that numbers, codes and counts, in place or not, equal the specification's."""
    with np.errstate(all="ignore"):
        expected, counts = quantize(x, fmt, backend="reference", counts=True, **options)
    y, found = quantize(x, fmt, counts=True, **options)
    assert_equal(y, expected, x, parse(str(fmt)))
    assert found == counts, str(fmt)
    assert_equal(quantize(x, fmt, **options), expected, x, parse(str(fmt)))


def check_codes(x: Array, fmt: Format | str, **options: Any) -> None:
    expected = quant.encode(x, fmt, backend="reference", **options)
    codes = quant.encode(x, fmt, **options)
    for one, other in zip(*((a if isinstance(a, tuple) else (a,)) for a in (codes, expected)), strict=True):
        if one.shape == x.shape:
            assert_equal(one, other, x, parse(str(fmt)))
        np.testing.assert_array_equal(one, other, err_msg=str(fmt), strict=True)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_fixed_in_every_mode(rounding: str, dtype: Any) -> None:
    for width, integer, signed in (
        (8, 4, True),
        (6, 2, False),
        (4, 6, True),
        (5, -2, True),
        (24, 12, True),
        (33, 16, False),
    ):
        for overflow, saturated in shares(overflows(signed, width), dtype, ROUNDINGS.index(rounding)):
            fmt = Fixed(width, integer, signed, rounding, overflow, saturated)
            x = fixed_numbers(fmt, dtype, 24)
            check(x, fmt)
            check_codes(x, fmt)


@pytest.mark.parametrize("seed", range(3))
def test_random_fixed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for dtype in DTYPES:
        for _ in range(12):
            fmt = random_fixed(rng)
            x = fixed_numbers(fmt, dtype, 40, seed)
            check(x, fmt)
            check_codes(x, fmt)


@pytest.mark.parametrize(
    "fmt",
    [
        *(Fixed(8, -1000), Fixed(64, -1000, True, "RND", "SAT"), Fixed(8, 1000, True, "RND_CONV", "SAT")),
        *(Fixed(64, 32, signed, "RND_CONV", overflow) for signed in (True, False) for overflow in ("SAT", "WRAP")),
        *(Fixed(54, 20, True, "RND", "WRAP_SM", n) for n in (0, 1, 2)),
        *(Fixed(1, 1), Fixed(1, 1, False), Fixed(1, 0, True, "RND", "SAT_SYM"), Fixed(25, -100, True, "RND", "SAT")),
        *(Fixed(24, 150, True, "RND", "SAT"), Fixed(24, -110), Fixed(53, 53, True, "RND_ZERO", "WRAP", 7)),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_fixed_at_the_limits(fmt: Fixed, dtype: Any) -> None:
    x = fixed_numbers(fmt, dtype, 60)
    check(x, fmt)
    check_codes(x, fmt)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*NAMED_FLOATS, "fp32"])
def test_floats_in_every_mode(name: str, dtype: Any) -> None:
    plain = parse(name)
    x = numbers(dtype, plain.min_exponent - plain.mantissa, plain.max_exponent + 1, 24)
    overflow = ("SAT", *["INF"] * plain.has_inf, *["NAN"] * plain.has_nan)
    for k, rounding in enumerate(FLOAT_ROUNDINGS, DTYPES.index(dtype)):  # every pair occurs with one of the dtypes
        fmt = parse(f"{name}<{rounding},{overflow[k % len(overflow)]}>")
        check(x, fmt)
        check_codes(x, fmt)


@pytest.mark.parametrize("seed", range(3))
def test_random_floats(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for dtype in DTYPES:
        for _ in range(12):
            fmt = random_float(rng)
            x = numbers(dtype, fmt.min_exponent - fmt.mantissa, fmt.max_exponent + 1, 40, seed)
            check(x, fmt)
            check_codes(x, fmt)


@pytest.mark.parametrize(
    "text", ["float<11,52,ieee,RZ>", "float<11,30>", "float<10,40,none,RU,SAT,1030>", "float<5,40>"]
)
def test_floats_that_only_doubles_hold(text: str) -> None:
    fmt = parse(text)
    x = numbers(np.float64, max(fmt.min_exponent - fmt.mantissa, -1070), fmt.max_exponent + 1, 200)
    check(x, fmt)
    check_codes(x, fmt)


@pytest.mark.parametrize(
    "text", ["posit<16,1>", "posit<8,0>", "posit<8,2>", "posit<32,2>", "posit<32,4>", "posit<3,0>", "posit<25,1>"]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_posits(text: str, dtype: Any) -> None:
    fmt = parse(text)
    x = numbers(dtype, -fmt.max_exponent - 1, fmt.max_exponent + 1, 50)
    check(x, fmt)
    check_codes(x, fmt)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "table<-1.0 0.0 0.5>",
            "table<0.1 0.3 0.7 1e30>",
            "table<-1.0 1.0>",
            "pow2<-8,3>",
            "upow2<-3,0>",
            "pow2<-140,-130>",
        ),
        *(
            "pow2<3,200>",
            "khot<1,8,1>",
            "khot<2,8,1,NEAREST>",
            "khot<3,16,20>",
            "ukhot<2,6,3,GREEDY,TRN>",
            "log2<-8,3>",
        ),
        *("log2<-8,3,2>", "ulog2<-2,2,6>", "log2<-200,100,1>"),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_other_formats(text: str, dtype: Any) -> None:
    x = numbers(dtype, -10, 5, 50)
    check(x, text)
    check_codes(x, text)


@pytest.mark.parametrize("count", [2, 3, 16, 17, 33, 100, 256])
def test_tables_of_any_length(count: int) -> None:
    rng = np.random.default_rng(count)
    values = np.unique(rng.standard_normal(count))
    fmt = quant.Table(tuple(values.tolist()))
    middles = (values[1:] + values[:-1]) / 2
    x = np.concatenate([values, middles, np.nextafter(middles, 9), np.nextafter(middles, -9), rng.standard_normal(50)])
    x = x[:: 1 + count // 40]
    for dtype in (np.float64, np.float32):
        check(x.astype(dtype), fmt)
        check_codes(x.astype(dtype), fmt)


def layouts(x: Array) -> Iterator[tuple[str, Array]]:
    yield "transposed", x.T
    yield "every second", x[::2, 1::3]
    yield "backwards", x[::-1, ::-1]
    yield "expanded", np.broadcast_to(x[:, :1], x.shape)
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)
    yield "unaligned and read-only", unaligned
    yield "three axes", np.ascontiguousarray(x[:6]).reshape(2, 3, -1)
    yield "no axis", x[3, 4]  # a scalar is not an array
    yield "empty", x[:0]
    yield "empty lines", x[:, :0]


@pytest.mark.parametrize("text", KINDS)
def test_any_layout(text: str) -> None:
    x = numbers(np.float32, *KINDS[text], 100)[:360]
    x = x[~np.isnan(x)].reshape(20, 18)
    for name, y in layouts(x):
        y = np.array(y) if y.ndim == 0 else y
        expected = quantize(np.array(y, order="C"), text, backend="reference")
        before = y.tobytes()
        assert_equal(quantize(y, text), expected, y, parse(text))
        assert y.tobytes() == before, name
        out = np.full((*y.shape[:-1], 2 * y.shape[-1]), np.nan, y.dtype)[..., ::2] if y.ndim else np.empty((), y.dtype)
        assert quantize(y, text, out=out) is out
        assert_equal(out, expected, y, parse(text))
    writable = x.copy()
    assert quantize(writable, text, out=writable) is writable
    assert_equal(writable, quantize(x, text), x, parse(text))


@pytest.mark.parametrize("text", KINDS)
@pytest.mark.parametrize("size", [1, 2, 7, 15, 16, 17, 33, 63, 64, 65, 1023, 1025, 3001])
def test_any_size(text: str, size: int) -> None:
    """An element's result does not depend on later elements (in block formats: on elements outside its block)."""
    x = np.resize(numbers(np.float32, *KINDS[text], 400), 3072)
    whole, cut = quantize(x, text), quantize(x[:size], text)
    block = getattr(parse(text), "block", 0) or 1
    same = size // block * block
    assert_equal(cut[:same], whole[:same], x[:same], parse(text))
    assert_equal(quantize(x[same:size], text), cut[same:], x[same:size], parse(text))


@pytest.mark.parametrize("text", [*KINDS, "fixed<8,4,STOCHASTIC,SAT>", "mx<e2m1<STOCHASTIC>>", "fixed<60,30,RND,SAT>"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_change_nothing(text: str, dtype: Any) -> None:
    low, high = KINDS.get(text, (-5, 4))
    x = np.resize(numbers(dtype, low, high, 5000), 200_003)
    rng = 7 if parse(text).stochastic else None
    fastiter.set_num_threads(1)
    one, counts = quantize(x, text, rng=rng, counts=True)
    assert_equal(quantize(x, text, rng=rng), one, x, parse(text))
    for threads in (2, 3, 8):
        fastiter.set_num_threads(threads)
        other = quantize(x, text, rng=rng, counts=True)
        assert other[1] == counts
        assert_equal(other[0], one, x, parse(text))
    lines = x[:200_000].reshape(-1, 50)  # blocks that end with the lines
    fastiter.set_num_threads(1)
    one = quantize(lines, text, rng=rng)
    fastiter.set_num_threads(3)
    assert_equal(quantize(lines, text, rng=rng), one, lines, parse(text))


def test_large_results_are_written_past_the_caches() -> None:
    x = np.random.default_rng(0).standard_normal((1 << 22) + 5).astype(np.float32) * 8
    for text in ("fixed<8,4,RND,SAT>", "e4m3fn", "mxfp8_e4m3"):
        y, parts = quantize(x, text), [quantize(part, text) for part in np.array_split(x, [1 << 16, 1 << 21])]
        assert_equal(y, np.concatenate(parts), x, parse(text))


@pytest.mark.parametrize("dtype", DTYPES)
def test_integers_with_scales(dtype: Any) -> None:
    x = numbers(dtype, -6, 3, 90)[:360].reshape(6, 5, 12)
    rng = np.random.default_rng(0)
    shapes = [(), (1,), (1, 1, 1), (6, 1, 1), (1, 5, 1), (1, 1, 12), (6, 5, 12), (3, 1, 4), (6, 5, 3), (2, 5, 2)]
    for k, text in enumerate(("int8", "uint4", "int4<RND,SAT_SYM>", "int2<TRN>", "uint32", "int8<RND_ZERO>")):
        fmt = parse(text)
        assert isinstance(fmt, Int)
        for shape in shares(shapes, dtype, k):
            scale = rng.uniform(0.01, 2, shape)
            zero = rng.integers(fmt.min_code, fmt.max_code + 1, shape)
            for options in ({}, {"zero_point": zero}):
                check(x, fmt, scale=scale, **options)
                check_codes(x, fmt, scale=scale, **options)
        check(x, fmt, zero_point=fmt.max_code)


SCALED = ("e4m3fn", "fixed<8,4,RND,SAT>", "posit<8,1>", "table<-1.0 0.0 0.5>", "log2<-8,0,2>", "e8m0")


@pytest.mark.parametrize("text", SCALED)
def test_other_formats_with_scales(text: str) -> None:
    """Every two of a format, a dtype and a shape of scales."""
    scales = (0.1, [[3.0]], np.linspace(0.1, 2, 6)[:, None], np.linspace(0.1, 2, 12).reshape(6, 2))
    for k, scale in enumerate(scales, SCALED.index(text)):
        x = numbers(DTYPES[k % 3], -8, 6, 90)[:360].reshape(6, 60)
        check(x, text, scale=scale)
        check_codes(x, text, scale=scale)


def test_scales_of_groups_are_those_of_their_parts() -> None:
    x = np.random.default_rng(0).standard_normal((4, 4096)).astype(np.float32)
    scale = np.random.default_rng(1).uniform(0.01, 1, (4, 32))
    for text in ("int4", "e2m1"):
        y = quantize(x, text, scale=scale)
        for i, j in itertools.product(range(4), range(0, 32, 7)):
            part = slice(128 * j, 128 * j + 128)
            expected = quantize(np.ascontiguousarray(x[i, part]), text, scale=float(scale[i, j]))
            assert_equal(y[i, part], expected, x[i, part], parse(text))


@pytest.mark.parametrize("scale", [0.5, [[0.5], [0.25]]])
@pytest.mark.parametrize("fmt", ["int8", "e4m3fn", "fixed<8,4,RND,SAT>", "posit<8,1>", "int28"])
def test_nan_is_replaced_before_scaling(fmt: str, scale: Any) -> None:
    for dtype in (np.float32, np.float64, np.float16):
        x = np.array([[np.nan, 1.0, -2.0], [0.3, np.nan, np.nan]], dtype)
        options: dict[str, Any] = {"scale": np.asarray(scale), "nan": 3.0, "counts": True}
        y, counts = quantize(x, fmt, **options)
        expected, theirs = quantize(x, fmt, backend="reference", **options)
        np.testing.assert_array_equal(y, expected)
        assert counts == theirs and counts.nan == 3
