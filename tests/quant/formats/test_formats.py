"""Formats as values: parse and str are inverse, wrong fields are refused, equal formats compare equal."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re

import numpy as np
import pytest

from fastiter import quant
from fastiter.quant import (
    MX,
    NVFP4,
    Fixed,
    Float,
    Format,
    Int,
    Table,
    parse,
)
from fastiter.quant._formats import text as _text
from tests.quant.cases import NAMED_FLOATS, TEXTS, random_fixed, random_float


@pytest.mark.parametrize("text", TEXTS)
def test_text_and_format_are_inverse(text: str) -> None:
    assert parse(text) == TEXTS[text]
    assert str(TEXTS[text]) == text
    assert hash(parse(text)) == hash(TEXTS[text])
    assert pickle.loads(pickle.dumps(parse(text))) == TEXTS[text]


@pytest.mark.parametrize("text", [*TEXTS, "e5m2fnuz<RZ,NAN>", "float<5,2,fnuz,RNE,SAT,3>"])
def test_repr_is_the_call(text: str) -> None:
    fmt = parse(text)
    if "..." not in repr(fmt):
        assert eval(repr(fmt), vars(quant)) == fmt
    assert "\n" not in repr(fmt) and len(repr(fmt)) < 120
    assert copy.copy(fmt) == copy.deepcopy(fmt) == fmt


def test_elements_of_blocks_have_all_names() -> None:
    names = ("E2M1", "fp4", "float4_e2m1fn", "torch.float4_e2m1fn_x2")
    assert {MX(name) for name in names} == {MX(Float(2, 1, "none"))}  # type: ignore[arg-type]
    assert MX(np.float16) == MX("fp16") == parse("mx<half>")  # type: ignore[arg-type]


def test_repr_leaves_out_defaults() -> None:
    given = {
        Float(4, 3, "fn"): "Float(exponent=4, mantissa=3, specials='fn')",
        Int(8): "Int(width=8)",
        NVFP4(): "NVFP4()",
    }
    assert {fmt: repr(fmt) for fmt in given} == given
    assert repr(Float(4, 3, overflow="SAT", bias=9)) == "Float(exponent=4, mantissa=3, overflow='SAT', bias=9)"
    assert repr(parse("nf4")).startswith("Table(values=(-1.0, -0.69") and repr(parse("nf4")).endswith(
        ", 1.0), block=64)"
    )


def test_dir_lists_public_names() -> None:
    assert dir(quant) == sorted(quant.__all__)


def test_every_kind_of_format_has_a_text() -> None:
    kinds = {kind for kind in vars(quant).values() if isinstance(kind, type) and issubclass(kind, Format)}
    assert kinds == {type(fmt) for fmt in TEXTS.values()} | {Format}


def test_random_formats_are_read_back() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        for fmt in (random_fixed(rng), random_float(rng)):
            assert parse(str(fmt)) == fmt


@pytest.mark.parametrize(
    ("text", "fmt"),
    [
        ("ap_fixed<8,4,AP_RND,AP_SAT>", Fixed(8, 4, True, "RND", "SAT")),
        ("ap_ufixed<8, 4>", Fixed(8, 4, False)),
        (" fixed < 8 , 4 , TRN , WRAP , 0 > ", Fixed(8, 4)),
        ("e4m3fn<RNE,SAT>", Float(4, 3, "fn")),
        ("ap_int<8>", Fixed(8, 8, True, "TRN_ZERO")),
        ("ap_uint< 4 >", Fixed(4, 4, False, "TRN_ZERO")),
        ("ap_int<64>", Fixed(64, 64, True, "TRN_ZERO")),
        ("int<8>", Fixed(8, 8)),  # hls4ml's IntegerPrecisionType
        ("uint<1>", Fixed(1, 1, False)),
        ("fixed<16,6,AP_RND_CONV,AP_SAT_SYM>", Fixed(16, 6, True, "RND_CONV", "SAT_SYM")),
        ("ac_fixed<16,6,true,AC_RND,AC_SAT>", Fixed(16, 6, True, "RND", "SAT")),
        ("ac_fixed<16,6,false,AC_RND_MIN_INF,AC_SAT_ZERO>", Fixed(16, 6, False, "RND_MIN_INF", "SAT_ZERO")),
        ("ac_fixed<16, 6, false>", Fixed(16, 6, False)),
        ("ac_fixed<9,-2>", Fixed(9, -2)),
        ("ac_int<12>", Fixed(12, 12)),
        ("ac_int<12,false>", Fixed(12, 12, False)),
    ],
)
def test_other_spellings(text: str, fmt: Format) -> None:
    assert parse(text) == fmt


@pytest.mark.parametrize(
    "text",
    [
        *("", "8", "fixed", "fixed<>", "fixed<8>", "fixed<8,4", "fixed 8,4>", "fixed<8,4,RND,SAT,0,1>", "fixed<a,b>"),
        *(
            "fixed<8,4,RNDS>",
            "fixed<8,4,RND,WRAPS>",
            "fixed<8,4,RU>",
            "e4m3<RND>",
            "khot<1,8,1,RNE>",
            "fixed<65,4>",
            "fixed<0,4>",
            "fixed<8,4,RND,SAT,1>",
            "e9m9",
        ),
        *("ufixed<8,4,RND,WRAP_SM>", "int", "int0", "int33", "int8<SAT>", "e4m3fn<INF>", "e2m1<RNE,NAN>", "float<5>"),
        *(
            "float<0,4>",
            "float<12,4>",
            "float<5,53>",
            "float<5,0>",
            "float<11,52,fn,RNE,SAT,0>",
            "mx<e8m0>",
            "mx<int8>",
        ),
        *("mx", "mxfp4_e2m1<0>", "mxfp4_e2m1<32,UP>", "posit<2>", "posit<33>", "posit<8,5>", "table<1>", "table<1 0>"),
        *("table<a b>", "table<0 inf>", "table<0 nan>", "pow2<0,-1>", "khot<0,8,1>", "khot<1,8,1,BEST>", "log2<0,1,7>"),
        *("fixed<8,4>>", "fixed<8,4,RU>", "e4m3<RND>", "khot<1,8,1,RNE>", "fp8<4>", "mxfp5", "torch.int"),
        *("ap_e4m3", "ap_posit<8,1>", "ap_nvfp4", "ap_float<8,23>", "ap_int", "ap_int<>", "ap_int<8,4>", "ap_int<65>"),
        *("ap_int8", "ap_uint8<TRN>", "e4m3<AP_RNE>", "posit<AP_8,1>", "ac_ufixed<8,4>", "ac_e4m3", "ac_int<8,1>"),
        *("ac_fixed<8,4,AC_RND>", "ac_fixed<8,4,true,AC_RND_CONV_ODD>", "ac_fixed<8,4,true,AP_RND>", "int<8,TRN>"),
        *("ac_fixed<8,4,true,AC_RND,AC_SAT,1,2>", "int<33,4>", "ap_fixed<8,4,AC_RND>", "uint<a>"),
    ],
)
def test_no_format(text: str) -> None:
    with pytest.raises(ValueError, match=r"must .*got") as raised:
        parse(text)
    assert "\n" not in str(raised.value)


#: Canonical text, other names
NAMES = {
    "e4m3fn": ("E4M3FN", "fp8", "FP8", "fp8_e4m3", "float8_e4m3fn", "torch.float8_e4m3fn", "Float8_E4M3FN<rne>"),
    "e4m3": ("E4M3", "float8_e4m3"),
    "e5m2": ("fp8_e5m2", "float8_e5m2"),
    "e4m3fnuz": ("float8_e4m3fnuz",),
    "e8m0": ("float8_e8m0fnu",),
    "e3m2": ("fp6", "float6_e3m2fn"),
    "e2m3": ("fp6_e2m3", "float6_e2m3fn"),
    "e2m1": ("fp4", "float4_e2m1fn", "float4_e2m1fn_x2"),
    "bf16": ("bfloat16", "BF16"),
    "fp16": ("float16", "half"),
    "fp32": ("float32", "single"),
    "fp64": ("float64", "double"),
    "mxfp8_e4m3": ("mxfp8", "MXFP8"),
    "mxfp6_e3m2": ("mxfp6",),
    "mxfp4_e2m1": ("mxfp4", "mx<fp4>", "MX<E2M1>"),
    "int8": ("INT8", "int8<rne,saturate>", "int8<RTNE,SAT>"),
    "fixed<8,4,RND_CONV,SAT>": ("fixed<8,4,RNE,saturate>", "ap_fixed<8,4,ap_rnd_conv,ap_sat>", "FIXED<8,4,rne,sat>"),
    "fixed<8,4,RND_INF>": ("fixed<8,4,RNA>",),
    "fixed<8,4,TRN_ZERO>": ("fixed<8,4,RZ>", "fixed<8,4,RTZ>"),
    "fixed<8,4>": ("fixed<8,4,RD>", "fixed<8,4,RTN>", "ac_fixed<8,4,True>"),
    "e5m2<RZ>": ("e5m2<TRN_ZERO>", "e5m2<RTZ>"),
    "e5m2<RD,SAT>": ("e5m2<TRN,sat>", "e5m2<RTN,SATURATE>"),
    "e5m2<RU>": ("e5m2<RTP>",),
    "e4m3fn<RNA,NAN>": ("e4m3fn<RND_INF,nan>",),
    "e4m3fn<STOCHASTIC>": ("e4m3fn<SR>", "fp8<stochastic>"),
    "table<0.0 1.0>": ("table<0 1,0,RNE>", "table<0 1,0,nearest>"),
    "posit<8>": ("posit<8,2,NEAREST>",),
    "mxfp4_e2m1<32,RCEIL>": ("mxfp4<32,rceil>",),
    "float<5,4,none>": ("float<5,4,NONE>",),
    "khot<2,8,1,NEAREST>": ("khot<2,8,1,nearest,RNE>",),
}


@pytest.mark.parametrize("text", NAMES)
def test_other_names(text: str) -> None:
    assert [str(parse(name)) for name in NAMES[text]] == [text] * len(NAMES[text])


def test_dtypes_are_formats() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.array([0.3, -1.26, 300.0])
    names = [name for name in ml_dtypes.__all__ if name.startswith(("bfloat", "float", "uint", "int"))]
    if "float8_e5m3fnu" in names:  # unsigned with a significand; from 0.7
        names.remove("float8_e5m3fnu")
        with pytest.raises(ValueError, match=r"^quantize: fmt must be the name of a format, .* got 'float8_e5m3fnu'"):
            quant.quantize(x, ml_dtypes.float8_e5m3fnu)
    dtypes = [getattr(ml_dtypes, name) for name in names]
    assert len(dtypes) > 10
    for dtype in [*dtypes, np.float16, np.float32, np.float64, np.int8, np.uint16, np.int32]:
        name = np.dtype(dtype).name
        expected = quant.quantize(x, name)
        np.testing.assert_array_equal(quant.quantize(x, dtype), expected)
        np.testing.assert_array_equal(quant.quantize(x, np.dtype(dtype)), expected)
        if not name.startswith(("int", "uint", "float8_e8m0")):
            fmt = parse(name)
            info = ml_dtypes.finfo(dtype)
            assert (float(fmt.max_value), fmt.bits) == (float(info.max), info.bits), name


def test_the_nearest_names_are_suggested() -> None:
    with pytest.raises(ValueError, match=re.escape("'e4m4'; did you mean 'e4m3', 'e3m4' or 'e4m3fn'? fastiter.quant")):
        parse("e4m4")
    with pytest.raises(
        ValueError, match=re.escape("quantize: fmt must be the name of a format, or name<field,...>, g")
    ):
        quant.quantize(np.zeros(2), "mxfp5")
    with pytest.raises(ValueError, match=r"got 'zzz'; fastiter.quant.formats\(\) lists all"):
        parse("zzz")
    with pytest.raises(TypeError, match="quantize: fmt must be a format, its text or a dtype, got type"):
        quant.quantize(np.zeros(2), np.generic)
    with pytest.raises(ValueError, match=r"got 'bool'"):
        quant.quantize(np.zeros(2), np.bool_)


def test_formats_lists_all() -> None:
    rows = quant.formats()
    words = {row.name.partition("<")[0].replace("int8", "int") for row in rows}
    assert {head for head in _text._HEADS if head.removeprefix("u").replace("int8", "int") not in words} == set()
    for row in rows:
        assert (row.bits is None) == ("<" in row.name) == (row.largest is None)
        if row.bits is not None:
            assert str(row.example) == row.name
            assert quant.range_of(row.name)[1:] == (row.largest, row.smallest)
        assert row.name in repr(rows)


def test_vendors_types_are_only_fixed_point() -> None:
    with pytest.raises(ValueError, match=re.escape("with ap_ must begin with one of ap_fixed, ap_ufixed, ap_int, ap_")):
        parse("ap_posit<8,1>")
    with pytest.raises(ValueError, match=r"one field for ap_int, the width, got 'ap_int<8,4>'"):
        parse("ap_int<8,4>")


def test_integers_of_hls_are_truncated_and_wrap() -> None:
    """``ap_`` types toward zero, the others down; our own int8 rounds and saturates."""
    x = np.array([200.7, -3.7, 300.0, 17.9, -0.5])
    assert quant.quantize(x, "ap_int<8>").tolist() == [-56, -3, 44, 17, 0]
    assert quant.quantize(x, "ap_uint<4>").tolist() == [8, 13, 12, 1, 0]
    for text in ("int<8>", "ac_int<8,true>"):
        assert quant.quantize(x, text).tolist() == [-56, -4, 44, 17, -1]
    assert quant.quantize(x, "int8").tolist() == [127, -4, 127, 18, 0]


@pytest.mark.parametrize("text", [None, 8, b"e4m3fn", Fixed(8, 4)])
def test_no_text(text: object) -> None:
    with pytest.raises(TypeError, match="parse: text must be a str, got"):
        parse(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fixed(8.0, 4), "Fixed: width must be an int, got float"),
        (lambda: Fixed(True, 4), "Fixed: width must be an int, got bool"),
        (lambda: Fixed(8, 1024), "Fixed: integer must be from -1066 to 1023, got 1024"),
        (lambda: Fixed(8, 4, 1), "Fixed: signed must be a bool, got int"),
        (lambda: Fixed(8, 4, rounding=None), "Fixed: rounding must be a str, got NoneType"),
        (lambda: Fixed(8, 4, saturated_bits=9), "Fixed: saturated_bits with WRAP must be from 0 to 8, got 9"),
        (lambda: Float(4, 3, subnormals=False), "Float: subnormals must be True for a signed format, got False"),
        (lambda: MX(Fixed(8, 4)), "MX: element must be a Float, got Fixed"),
        (lambda: MX("e4m4"), "MX: element must be the name of a format, .*, got 'e4m4'; did you mean 'e4m3'"),
        (lambda: Table([0.0, 1.0]), re.escape("Table: values must be a tuple of float, got [0.0, 1.0]")),
        (lambda: Table((0, 1)), re.escape("Table: values must be a tuple of float, got (0, 1)")),
    ],
)
def test_wrong_fields(make: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()  # type: ignore[operator]


def test_formats_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Fixed(8, 4).width = 9  # type: ignore[misc]


#: bits, bias, largest, smallest normal, smallest subnormal
TABLE = {
    "bf16": (16, 127, 3.3895313892515355e38, 2.0**-126, 2.0**-133),
    "fp16": (16, 15, 65504.0, 2.0**-14, 2.0**-24),
    "tf32": (19, 127, (2 - 2.0**-10) * 2.0**127, 2.0**-126, 2.0**-136),
    "e4m3fn": (8, 7, 448.0, 2.0**-6, 2.0**-9),
    "e4m3": (8, 7, 240.0, 2.0**-6, 2.0**-9),
    "e4m3fnuz": (8, 8, 240.0, 2.0**-7, 2.0**-10),
    "e4m3b11fnuz": (8, 11, 30.0, 2.0**-10, 2.0**-13),
    "e5m2": (8, 15, 57344.0, 2.0**-14, 2.0**-16),
    "e5m2fnuz": (8, 16, 57344.0, 2.0**-15, 2.0**-17),
    "e3m4": (8, 3, 15.5, 2.0**-2, 2.0**-6),
    "e8m0": (8, 127, 2.0**127, 2.0**-127, 2.0**-127),
    "e2m3": (6, 1, 7.5, 1.0, 0.125),
    "e3m2": (6, 3, 28.0, 0.25, 0.0625),
    "e2m1": (4, 1, 6.0, 1.0, 0.5),
}


@pytest.mark.parametrize("name", NAMED_FLOATS)
def test_named_floats(name: str) -> None:
    fmt = parse(name)
    bits, bias, largest, normal, subnormal = TABLE[name]
    assert str(fmt) == name
    assert (fmt.bits, fmt.bias, float(fmt.max_value), 2.0**fmt.min_exponent) == (bits, bias, largest, normal)
    assert quant.range_of(fmt).smallest == subnormal
    assert quant.range_of(fmt).highest == largest
