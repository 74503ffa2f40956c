"""Codes: decoding is the inverse of encoding, for every code; packed and unpacked; ranges, errors, calibration."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fastiter import quant
from fastiter.quant import BlockCodes, Fixed, Float, Int, decode, encode, pack, parse, quantize, range_of, unpack
from fastiter.reference import quant as reference
from tests.quant.cases import KINDS, NAMED_FLOATS, assert_equal, numbers

SMALL = [
    *(name for name in NAMED_FLOATS if name != "tf32"),
    *(
        "float<3,2,fn>",
        "ufloat<4,4,none>",
        "float<1,2,none>",
        "float<4,0,fn>",
        "posit<8,0>",
        "posit<10,2>",
        "posit<16,1>",
    ),
    *("nf4<STOCHASTIC>", "table<-1.0 0.0 0.5>", "pow2<-8,3>", "upow2<-3,3>", "log2<-8,0,2>", "ulog2<0,3,1>"),
]


def all_codes(text: str) -> Any:
    fmt = parse(text)
    if isinstance(fmt, quant.Table):
        return np.arange(len(fmt.values), dtype=np.uint8)
    codes = np.arange(1 << fmt.bits, dtype=np.uint32 if fmt.bits > 16 else np.uint16)
    if isinstance(fmt, (quant.PowerOfTwo, quant.Logarithmic)):  # the codes after the last step represent no number
        return codes[codes % (1 << (fmt.bits - fmt.signed)) <= fmt.steps]
    return codes


@pytest.mark.parametrize("text", [t for t in SMALL if t != "nf4<STOCHASTIC>"])
def test_every_code(text: str) -> None:
    """A code's number rounds to itself and is encoded as the same code, except for codes of NaN and unused codes."""
    fmt, codes = parse(text), all_codes(text)
    for dtype in (np.float32, np.float64):
        values = decode(codes, fmt, dtype=dtype)
        assert_equal(quantize(values, fmt, nan="keep"), values, codes, fmt)
        back = encode(values[~np.isnan(values)], fmt)
        again = decode(back, fmt, dtype=dtype)
        assert_equal(again, values[~np.isnan(values)], codes, fmt)
        if isinstance(fmt, (Float, quant.Posit)):
            np.testing.assert_array_equal(back, codes[~np.isnan(values)])
    if isinstance(fmt, quant.Posit):
        assert decode(codes, fmt).tolist() == pytest.approx(
            [reference.posit_value(int(c), fmt.n, fmt.es) for c in codes], rel=0, abs=0, nan_ok=True
        )


@pytest.mark.parametrize(
    "fmt",
    [Fixed(8, 4), Fixed(8, 12, False), Fixed(5, -3), Fixed(16, 8), Fixed(33, 16), Fixed(64, 32), Fixed(64, 32, False)],
    ids=str,
)
def test_fixed_codes(fmt: Fixed) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(fmt.min_code, fmt.max_code, 300, endpoint=True, dtype=np.int64 if fmt.signed else np.uint64)
    codes = np.concatenate([codes, np.array([fmt.min_code, fmt.max_code], codes.dtype)])
    exact = [reference.fixed_value(int(c), fmt) for c in codes]
    for dtype in ("float32", "float64"):
        values = decode(codes, fmt, dtype=dtype)
        assert values.tolist() == [reference.nearest_float(v, dtype) for v in exact]
    if fmt.width <= 53:
        assert encode(decode(codes, fmt, dtype=np.float64), fmt).tolist() == codes.tolist()


@pytest.mark.parametrize("text", KINDS)
def test_decoding_equals_quantize(text: str) -> None:
    for dtype in (np.float32, np.float64):
        x = numbers(dtype, *KINDS[text], 300)[:960].reshape(4, 240)
        options: dict[str, Any] = {"scale": 0.3} if text in ("int8", "e4m3fn", "nvfp4", "posit<16,1>") else {}
        codes = encode(x, text, **options)
        shape = codes.codes.shape if isinstance(codes, BlockCodes) else codes.shape
        assert shape == x.shape
        with np.errstate(over="ignore"):
            values = decode(codes, text, dtype=dtype, **options)
        assert_equal(values, quantize(x, text, **options), x, parse(text))


@pytest.mark.parametrize(
    "options", [{"scale": 0.5, "zero_point": 2**30 + 5}, {"scale": 1.1e-5}, {"zero_point": 12345678}]
)
def test_wide_integers_are_rounded_to_float32_once(options: dict[str, Any]) -> None:
    x = np.concatenate([np.random.default_rng(0).uniform(-2e4, 2e4, 500), [0, 1, 2.5, -3]]).astype(np.float32)
    values = decode(encode(x, "int32", **options), "int32", dtype=np.float32, **options)
    np.testing.assert_array_equal(values, quantize(x, "int32", **options), strict=True)


@pytest.mark.parametrize("text", ["mx<float<8,3,none>,4>", "mx<float<9,3>,4>", "mx<float<8,7>,4>", "mx<float<11,3>,4>"])
def test_elements_beyond_float32_are_scaled_in_float64(text: str) -> None:
    for x in (np.array([1.0, 2.0, 3.0, -7.5]), np.array([1e30, 2e-3, 3.0, -7.5e30])):
        narrow = x.astype(np.float32)
        assert_equal(decode(encode(narrow, text), text), quantize(narrow, text), x, parse(text))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("text", ["ufloat<8,3>", "ufloat<8,7,fn>", "ufloat<11,3>", "ufloat<5,3>", "ufloat<9,3,none>"])
def test_an_unsigned_float_has_one_zero(text: str, dtype: Any) -> None:
    x = np.array([-0.0, 0.0, 1.0], dtype)
    assert encode(x, text).tolist() == encode(x, text, backend="reference").tolist()
    assert encode(x, text)[:2].tolist() == [0, 0]
    assert_equal(quantize(x, text), quantize(x, text, backend="reference"), x, parse(text))


def test_a_float_whose_minus_zero_is_nan_has_one_zero() -> None:
    fmt = Float(8, 7, "fnuz", bias=127)  # the exponents of float32
    x = np.array([-0.0, -1e-45], np.float32)
    assert encode(x, fmt).tolist() == [0, 0]
    assert not np.signbit(quantize(x, fmt)).any()


@pytest.mark.parametrize(
    "text",
    [
        *("float<4,3,none,RNE,SAT,1040>", "float<2,3,ieee,RD,NAN,1045>", "float<6,0,fn,RD,NAN,1035>"),
        *("ufloat<6,2,ieee,RNE,INF,1023,False>", "ufloat<4,0,fn,RNE,SAT,1040,False>", "float<5,2,none,RNE,SAT,1022>"),
    ],
)
def test_codes_of_numbers_that_are_subnormal_in_float64(text: str) -> None:
    fmt = parse(text)
    codes = np.arange(1 << fmt.bits, dtype=np.uint16)
    values = decode(codes, fmt, dtype=np.float64)
    usual = np.isfinite(values)
    np.testing.assert_array_equal(encode(values[usual], fmt), codes[usual])
    np.testing.assert_array_equal(encode(values[usual], fmt, backend="reference"), codes[usual])


def test_integer_codes_with_channels() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 8))
    scale, zero = np.array([0.1, 0.02, 0.5]).reshape(3, 1, 1), np.array([3, 120, 200]).reshape(3, 1, 1)
    codes = encode(x, "uint8", scale=scale, zero_point=zero)
    expected = np.clip(np.rint(x / scale) + zero, 0, 255)
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_array_equal(
        decode(codes, "uint8", scale=scale, zero_point=zero, dtype=float), (expected - zero) * scale
    )


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        *(
            ("fixed<8,4>", "int8"),
            ("ufixed<9,4>", "uint16"),
            ("fixed<33,4>", "int64"),
            ("int4", "int8"),
            ("uint17", "uint32"),
        ),
        *(
            ("e4m3fn", "uint8"),
            ("tf32", "uint32"),
            ("posit<16,1>", "uint16"),
            ("khot<2,8,1>", "int8"),
            ("nf4", "uint8"),
        ),
        *(("khot<2,8,1,NEAREST>", "int16"), ("bfp<9,4>", "int16")),
    ],
)
def test_codes_have_the_narrowest_dtype(text: str, dtype: str) -> None:
    codes = encode(np.linspace(-1, 1, 12, dtype=np.float32), text)
    assert (codes.codes if isinstance(codes, BlockCodes) else codes).dtype == dtype


@pytest.mark.parametrize("bits", range(1, 65))
def test_packing(bits: int) -> None:
    rng = np.random.default_rng(bits)
    for signed in (True, False):
        fmt = Fixed(bits, 4, signed)
        dtype = encode(np.zeros(1), fmt).dtype
        for shape in ((1,), (7,), (8,), (3, 65), (2, 3, 11), (0,), (2, 0)):
            codes = rng.integers(fmt.min_code, fmt.max_code, shape, dtype, endpoint=True)
            packed = pack(codes, fmt)
            assert packed.shape == (*shape[:-1], -(-shape[-1] * bits // 8))
            np.testing.assert_array_equal(unpack(packed, fmt, shape[-1]), codes, strict=True)
            if codes.ndim == 1:
                whole = sum((int(c) % (1 << bits)) << (bits * i) for i, c in enumerate(codes))
                assert int.from_bytes(packed.tobytes(), "little") == whole
    strided = rng.integers(0, 2, (6, 20), np.uint8)[::2, ::-3]
    np.testing.assert_array_equal(unpack(pack(strided, "ufixed<1,1>"), "ufixed<1,1>", strided.shape[1]), strided)


@pytest.mark.parametrize(
    "text",
    [
        *(*KINDS, "khot<8,8,1,NEAREST>", "ufixed<8,8>", "fixed<8,4,TRN,SAT_SYM>", "upow2<-3,0>"),
        *(f"{u}khot<{k},6,2,{how}>" for u in ("u", "") for k in range(1, 6) for how in ("NEAREST", "GREEDY")),
    ],
)
def test_ranges(text: str) -> None:
    fmt = parse(text)
    low, high, small = range_of(fmt)
    if fmt.block or fmt == parse("fp32"):
        return
    top = np.finfo(np.float64).max
    with np.errstate(over="ignore"):
        if isinstance(fmt, Float) and fmt.overflow == "INF":
            fmt = Float(fmt.exponent, fmt.mantissa, fmt.specials, "RZ", "SAT")
        saturating = (
            fmt
            if not isinstance(fmt, Fixed) or "SAT" in fmt.overflow
            else Fixed(fmt.width, fmt.integer, fmt.signed, "RND", "SAT")
        )
        ends = quantize(np.array([-top, top, small]), saturating, nan="keep")
    if not math.isnan(ends[0]):
        assert ends[0] == low
    assert ends[1] == high
    assert ends[2] == small
    assert quantize(np.array([small / 4]), saturating)[0] in (0.0, small)


def test_errors() -> None:
    x = np.array([1.0, 2.0, 4.0, math.inf, 0.3], np.float64)
    e = quant.measure_error(x, "fixed<8,4,RND,SAT>")
    difference = np.array([0, 0, 0, 0.3125 - 0.3])
    assert e.max == pytest.approx(0.0125)
    assert e.rms == pytest.approx(math.sqrt((difference**2).mean()))
    assert e.sqnr == pytest.approx(10 * math.log10((1 + 4 + 16 + 0.09) / (difference**2).sum()))
    assert e.histogram.sum() == 4
    assert len(e.edges) == 65
    assert e.counts == (5, 0, 1, 0)
    assert quant.measure_error(np.zeros(3), "int8").sqnr == math.inf
    assert math.isnan(quant.measure_error(np.zeros(0), "int8").sqnr)


def test_uniform_noise_has_the_expected_error() -> None:
    """A step of 2^-8 leaves an error of variance 2^-16 / 12."""
    x = np.random.default_rng(0).uniform(-1, 1, 1 << 16)
    e = quant.measure_error(x, "fixed<16,8,RND,SAT>")
    assert e.rms == pytest.approx(2.0**-8 / math.sqrt(12), rel=0.02)
    assert abs(e.mean) < 5 * e.rms / 256


def test_calibrated_scales() -> None:
    x = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    fmt, scale, zero = quant.calibrate(x, "int8")
    assert scale is not None
    assert zero is None
    assert scale.shape == (1, 1)
    assert scale.item() == pytest.approx(np.abs(x).max() / 127)
    for options, shape in (
        ({"axis": 0}, (8, 1)),
        ({"axis": (0, 1)}, (8, 64)),
        ({"group": 16}, (1, 4)),
        ({"axis": 0, "group": 16}, (8, 4)),
    ):
        scale = quant.calibrate(x, "int8", **options).scale  # type: ignore[arg-type]
        assert scale is not None
        assert scale.shape == shape
        assert quantize(x, fmt, scale=scale, counts=True)[1].overflow == 0
    finer = quant.calibrate(x, "int4", axis=0, method="mse").scale
    plain = quant.calibrate(x, "int4", axis=0).scale
    noise = [((quantize(x, "int4", scale=s) - x) ** 2).sum(1) for s in (finer, plain)]
    assert (noise[0] <= noise[1]).all()
    assert (noise[0] < noise[1]).any()
    cut = quant.calibrate(x, "e4m3fn", method="percentile", percentile=50).scale
    assert cut is not None
    assert cut.item() == pytest.approx(np.median(np.abs(x)) / 448)
    assert quant.calibrate(np.zeros((2, 3)), "int8").scale == 1 / 127


@pytest.mark.parametrize(
    "text", ["fp16", "int8", "int8<TRN,SAT_SYM>", "e4m3fn<RU,NAN>", "e4m3fn<RA,NAN>", "int32<TRN,SAT_SYM>"]
)
def test_a_calibrated_scale_holds_the_extreme_when_it_is_rounded(text: str) -> None:
    """Scales that are subnormal in float32 are coarse; a directed rounding exceeds the range by less than a place."""
    rng = np.random.default_rng(0)
    for size in (1.0,) if "int32" in text else (1e-38, 1e-37, 1.0):
        x = (rng.standard_normal((200, 4)) * size).astype(np.float32)
        if "TRN" in text:
            x = -np.abs(x)
        fmt, scale, _ = quant.calibrate(x, text, axis=0)
        assert quantize(x, fmt, scale=scale, counts=True)[1].overflow == 0


def test_the_least_error_is_sought_among_scales_that_the_dtype_holds() -> None:
    x = np.array([[-1e-44, 7e-44, 1.8e-43]], np.float32)
    for text in ("int3", "uint3"):
        fmt, scale, zero = quant.calibrate(x, text, method="mse")
        assert np.isfinite(quantize(x, fmt, scale=scale, zero_point=zero)).all()


def test_calibrated_zero_points() -> None:
    x = np.random.default_rng(0).uniform(-1, 3, (4, 100))
    fmt, scale, zero = quant.calibrate(x, "uint8", axis=0)
    assert scale is not None and zero is not None
    assert (np.abs(quantize(x, fmt, scale=scale, zero_point=zero) - x) <= 0.51 * scale + 1e-12).sum() >= 395
    assert (quantize(np.zeros((4, 1)), fmt, scale=scale, zero_point=zero) == 0).all()
    better = quant.calibrate(x**3, "uint2", axis=0, method="mse")
    plain = quant.calibrate(x**3, "uint2", axis=0)
    noise = [
        ((quantize(x**3, "uint2", scale=c.scale, zero_point=c.zero_point) - x**3) ** 2).sum() for c in (better, plain)
    ]
    assert noise[0] < noise[1]


def test_calibrated_binary_points() -> None:
    for largest, integer in ((0.3, 0), (0.5, 1), (0.99, 1), (0.999, 2), (1.0, 2), (100.0, 8), (2.0**-20, -18)):
        fmt = quant.calibrate(np.array([largest, -largest / 3]), Fixed(8, 0, True, "RND", "SAT")).fmt
        assert isinstance(fmt, Fixed)
        assert fmt.integer == integer
    x = np.random.default_rng(0).standard_normal(1000)
    x[0] = 1000.0
    fmt = quant.calibrate(x, Fixed(6, 0, True, "RND", "SAT"), method="percentile", percentile=99).fmt
    assert isinstance(fmt, Fixed)
    assert fmt.integer == 3
    assert quant.calibrate(np.zeros(3), "ufixed<8,3,RND,SAT>").fmt == parse("ufixed<8,0,RND,SAT>")
    assert quant.calibrate(x, Int(8)).fmt == Int(8)


def test_wide_codes_with_few_significant_bits_are_decoded_exactly() -> None:
    codes = np.array([5, -3, 0, 2**40 + 1, -(2**59)])
    np.testing.assert_array_equal(decode(codes, "fixed<60,60>", dtype=np.float32), codes.astype(np.float32))
    np.testing.assert_array_equal(
        decode(codes[[0, 2, 3]].astype(np.uint64), "ufixed<64,64>", dtype=np.float32), [5, 0, 2**40]
    )
