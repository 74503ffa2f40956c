"""Comparison with ml_dtypes, gfloat, torch and torchao: every code, midpoint and neighbour; NaN and infinities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from packaging.version import Version

from fastiter.quant import Float, decode, encode, parse, quantize
from tests.quant.cases import FLOAT_ROUNDINGS, assert_equal
from tests.support.cases import Array

#: fastiter's name and ml_dtypes' name
ML_DTYPES = {
    "bf16": "bfloat16",
    "e5m2": "float8_e5m2",
    "e4m3": "float8_e4m3",
    "e3m4": "float8_e3m4",
    "e4m3fn": "float8_e4m3fn",
    "e4m3fnuz": "float8_e4m3fnuz",
    "e4m3b11fnuz": "float8_e4m3b11fnuz",
    "e5m2fnuz": "float8_e5m2fnuz",
    "e8m0": "float8_e8m0fnu",
    "e2m3": "float6_e2m3fn",
    "e3m2": "float6_e3m2fn",
    "e2m1": "float4_e2m1fn",
}
#: fastiter's name and gfloat's name
GFLOAT = {
    "bf16": "bfloat16",
    "fp16": "binary16",
    "e5m2": "ocp_e5m2",
    "e4m3fn": "ocp_e4m3",
    "e2m3": "ocp_e2m3",
    "e3m2": "ocp_e3m2",
    "e2m1": "ocp_e2m1",
    "e8m0": "ocp_e8m0",
}
GFLOAT_ROUNDINGS = {
    "RNE": "TiesToEven",
    "RNA": "TiesToAway",
    "RZ": "TowardZero",
    "RD": "TowardNegative",
    "RU": "TowardPositive",
}


def codes_of(fmt: Float) -> Array:
    return np.arange(1 << fmt.bits, dtype=np.uint16 if fmt.bits > 8 else np.uint8)


def inputs(fmt: Float) -> Array:
    """Return every number of the format, every midpoint, their neighbours, and values beyond both ends."""
    values = np.unique(decode(codes_of(fmt), fmt).astype(np.float32))
    values = values[np.isfinite(values)].astype(np.float64)
    middles = (values[1:] + values[:-1]) / 2
    largest, gap = values[-1], values[-1] - values[-2]
    beyond = largest + gap * np.array([0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 8.0])
    with np.errstate(over="ignore"):
        near = np.concatenate([values, middles, beyond, -beyond]).astype(np.float32)
    x = np.concatenate([near, np.nextafter(near, np.float32(math.inf)), np.nextafter(near, np.float32(-math.inf))])
    random = np.random.default_rng(0).standard_normal(20_000) * 2.0 ** np.random.default_rng(1).integers(
        -30, 20, 20_000
    )
    return np.concatenate(
        [x, random.astype(np.float32), np.array([0, -0.0, 1e30, -1e30, math.inf, -math.inf], np.float32)]
    )


def as_ml_dtypes(name: str) -> Float:
    fmt = parse(name)
    overflow = "INF" if fmt.has_inf else "NAN" if fmt.has_nan else "SAT"
    made: Float = parse(f"{name}<RNE,{overflow}>")
    return made


@pytest.mark.parametrize("name", ML_DTYPES)
def test_numbers_of_ml_dtypes(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    fmt, codes = parse(name), codes_of(parse(name))
    expected = codes.view(getattr(ml_dtypes, ML_DTYPES[name])).astype(np.float32)
    assert_equal(decode(codes, fmt, dtype=np.float32), expected, codes, fmt)


@pytest.mark.parametrize("name", ML_DTYPES)
def test_rounding_of_ml_dtypes(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    fmt, x = as_ml_dtypes(name), inputs(parse(name))
    if name == "e8m0":
        fmt, x = parse("e8m0<RNA,NAN>"), x[x >= 2.0**-126]  # their ties round up; float32's subnormals: see docs
    with np.errstate(all="ignore"):
        theirs = x.astype(getattr(ml_dtypes, ML_DTYPES[name]))
        y, codes = quantize(x, fmt), encode(x, fmt)
    assert_equal(y, theirs.astype(np.float32), x, fmt)
    numbers = ~np.isnan(y)
    assert isinstance(codes, np.ndarray)
    np.testing.assert_array_equal(codes[numbers], theirs.view(codes.dtype)[numbers])


def test_arrays_of_ml_dtypes_bfloat16() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.random.default_rng(0).standard_normal((7, 65)).astype(np.float32).astype(ml_dtypes.bfloat16)
    for text in (
        "fixed<8,4,RND,SAT>",
        "fixed<33,4>",
        "e4m3fn",
        "mxfp8_e4m3",
        "posit<16,1>",
        "int8",
        "nf4",
        "log2<-3,3,2>",
    ):
        y, expected = quantize(x, text), quantize(x, text, backend="reference")
        assert y.dtype == x.dtype
        assert y.tobytes() == expected.tobytes(), text
    for text in ("fixed<8,4,RND,SAT>", "e4m3fn"):
        codes, wide = encode(x, text), encode(x.astype(np.float32), text)
        assert codes.tobytes() == wide.tobytes()  # type: ignore[union-attr]


def rounded_by_gfloat(gfloat: Any, x: Array, fmt: Float, info: Any) -> Array:
    rounding = getattr(gfloat.RoundMode, GFLOAT_ROUNDINGS[fmt.rounding])
    with np.errstate(all="ignore"):
        result: Array = gfloat.round_ndarray(info, x.astype(np.float64), rounding, fmt.overflow == "SAT")
    return result


@pytest.mark.parametrize("name", GFLOAT)
def test_rounding_of_gfloat(name: str) -> None:
    gfloat = pytest.importorskip("gfloat")
    formats = pytest.importorskip("gfloat.formats")
    info = getattr(formats, f"format_info_{GFLOAT[name]}")
    x = inputs(parse(name)) if parse(name).bits < 16 else inputs(parse("e5m2"))
    if name == "e8m0":
        x = x[x >= 2.0**-127]
    for rounding in FLOAT_ROUNDINGS:
        if rounding not in GFLOAT_ROUNDINGS:
            continue
        for overflow in ("SAT", "INF", "NAN"):
            try:
                fmt = parse(f"{name}<{rounding},{overflow}>")
            except ValueError:
                continue
            if fmt.has_inf and overflow == "NAN":
                continue  # gfloat gives infinity
            expected = rounded_by_gfloat(gfloat, x, fmt, info)
            assert_equal(quantize(x.astype(np.float64), fmt), expected, x, fmt)


def test_scales_of_the_libraries() -> None:
    """The documented differences in e8m0: zero, numbers between the two least, and ties."""
    ml_dtypes = pytest.importorskip("ml_dtypes", minversion="0.6")
    least = 2.0**-127
    small = np.array([0.0, least / 8, least * 0.75, least, least * 1.25, least * 1.75, least * 2], np.float32)
    ties = np.array([1.5, 3.0, 6.0, 12.0], np.float32)
    with np.errstate(all="ignore"):
        theirs = np.concatenate([small, ties]).astype(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    above = 2 if Version(ml_dtypes.__version__) < Version("0.7") else 1  # what 1.25 least becomes
    np.testing.assert_array_equal(theirs[: len(small)], least * np.array([math.nan, 1, 1, 1, above, 2, 2]))
    np.testing.assert_array_equal(quantize(small, "e8m0"), least * np.array([1, 1, 1, 1, 1, 2, 2]))
    np.testing.assert_array_equal(theirs[len(small) :], quantize(ties, "e8m0<RNA>"))
    torch = pytest.importorskip("torch")
    of_torch = torch.from_numpy(np.concatenate([small, ties])).to(torch.float8_e8m0fnu).float().numpy()
    np.testing.assert_array_equal(of_torch[: len(small)][1:], least * np.array([1, 1, 1, 2, 2, 2]))
    np.testing.assert_array_equal(of_torch[len(small) :], theirs[len(small) :])
    assert of_torch[0] == least


@pytest.mark.parametrize("name", ["e2m3", "e3m2", "e2m1"])
def test_nan_where_a_format_has_none(name: str) -> None:
    ml_dtypes, gfloat = pytest.importorskip("ml_dtypes"), pytest.importorskip("gfloat")
    info = getattr(pytest.importorskip("gfloat.formats"), f"format_info_{GFLOAT[name]}")
    x = np.array([math.nan], np.float32)
    with np.errstate(all="ignore"):
        assert x.astype(getattr(ml_dtypes, ML_DTYPES[name])).astype(np.float32)[0] == 0
    with pytest.raises(ValueError, match="NaN"):
        gfloat.round_float(info, math.nan)
    assert np.isnan(gfloat.round_ndarray(info, x)).all()
    with pytest.raises(ValueError, match="NaN"):
        quantize(x, name)


def test_blocks_of_torchao_with_nan_and_infinities() -> None:
    """NaN spreads over a block in both; an infinity does here, while torchao's other numbers become 0 in MX."""
    torch = pytest.importorskip("torch")
    mx = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor")
    nv = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor")
    for wrong in (math.nan, math.inf, -math.inf):
        x = np.linspace(-3, 3, 64, dtype=np.float32).reshape(2, 32)
        x[0, 5] = wrong
        tensor = torch.from_numpy(x)
        theirs = mx.MXTensor.to_mx(tensor, torch.float8_e4m3fn, 32).dequantize(torch.float32).numpy()
        ours = quantize(x, "mxfp8_e4m3")
        np.testing.assert_array_equal(theirs[1], ours[1])
        assert np.isnan(ours[0]).all()
        others = np.delete(theirs[0], 5)
        assert np.isnan(others).all() if math.isnan(wrong) else not others.any()
        theirs = nv.NVFP4Tensor.to_nvfp4(tensor).dequantize(torch.float32).numpy()
        np.testing.assert_array_equal(theirs[0, :16], quantize(x, "nvfp4")[0, :16])


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"])
def test_rounding_of_torch(name: str) -> None:
    """Beyond the largest number torch gives the overflow that the documentation names."""
    torch = pytest.importorskip("torch")
    overflow = {"float8_e4m3fn": "SAT", "float8_e5m2": "INF"}.get(name, "NAN")
    fmt, x = parse(f"{name}<RNE,{overflow}>"), inputs(parse(name))
    theirs = torch.from_numpy(x).to(getattr(torch, name)).float().numpy()
    assert_equal(quantize(x, fmt), theirs, x, fmt)
