"""Wrong arguments of fastiter.quant: the class, a one-sentence message, outputs untouched."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter import quant
from fastiter.quant import decode, encode, pack, parse, quantize, unpack
from tests.support.cases import nans

X = np.linspace(-2, 2, 24, dtype=np.float32).reshape(4, 6)
E = parse("e4m3fn")


def read_only() -> Any:
    x = X.copy()
    x.flags.writeable = False
    return x


#: (argument named in the message, error class, words of the message, changes to quantize(X, "int4"))
WRONG: list[tuple[str, type[Exception], str, dict[str, Any]]] = [
    *(
        ("x", TypeError, got, {"x": x})
        for x, got in ((["a"], "list"), (b"a", "bytes"), (None, "NoneType"), ("a", "str"))
    ),
    *(
        ("x", TypeError, "dtype", {"x": X.astype(dtype)})
        for dtype in (
            "int64",
            "bool",
            "complex64",
            "object",
            "longdouble",
            ">f4" if sys.byteorder == "little" else "<f4",
        )
    ),
    *(("fmt", TypeError, got, {"fmt": f}) for f, got in ((None, "NoneType"), (8, "int"), (type(E), "type"))),
    *(("fmt", ValueError, re.escape(f), {"fmt": f}) for f in ("int", "e9m9", "fixed<8>", "int4>")),
    *(("scale", TypeError, "", {"scale": s}) for s in (b"a", None.__class__, [1j], [[1.0], [1.0, 2.0]], True)),
    *(("scale", ValueError, re.escape(str(s)), {"scale": s}) for s in (0.0, -1.0, math.inf, math.nan, 1e-50, 1e50)),
    *(
        ("scale", ValueError, re.escape(str(shape)), {"scale": np.ones(shape)})
        for shape in ((6,), (4, 5), (1, 4), (1, 4, 6), (8, 1), (0, 1))
    ),
    ("scale", ValueError, "mxfp4_e2m1", {"scale": 1.0, "fmt": "mxfp4"}),
    ("scale", ValueError, "nf4", {"scale": 1.0, "fmt": "nf4"}),
    ("scale", ValueError, re.escape("(4, 1)"), {"scale": np.ones((4, 1)), "fmt": "nvfp4"}),
    ("zero_point", ValueError, "e4m3fn", {"zero_point": 0, "fmt": "e4m3fn"}),
    *(("zero_point", TypeError, "", {"zero_point": z}) for z in (1.0, "a", [True])),
    *(("zero_point", ValueError, str(z), {"zero_point": z}) for z in (8, -9, 10**6)),
    ("zero_point", ValueError, re.escape("(4, 1)"), {"zero_point": np.zeros((4, 1), int)}),
    ("zero_point", ValueError, re.escape("(1, 6)"), {"zero_point": np.zeros((1, 6), int), "scale": np.ones((4, 1))}),
    *(("axis", TypeError, got, {"axis": a}) for a, got in ((None, "NoneType"), (1.0, "float"), (True, "bool"))),
    *(("axis", ValueError, str(a), {"axis": a}) for a in (2, -3)),
    *(
        ("scale", ValueError, "'amax'", {"scale": "amax", "fmt": f})
        for f in ("fixed<8,4>", "table<-1.0 0.0 1.0>", "log2<0,1>")
    ),
    ("scale", ValueError, "'max'", {"scale": "max"}),
    *(
        ("scale_axis", ValueError, "1", {"scale": "amax", "scale_axis": 1, "fmt": f})
        for f in ("mxfp4", "nf4", "bfp<6>")
    ),
    ("scale_axis", ValueError, "2", {"scale": "amax", "scale_axis": 2}),
    ("scale_axis", ValueError, "1 without it", {"scale_axis": 1}),
    ("scale_axis", TypeError, "float", {"scale": "amax", "scale_axis": 1.0}),
    *(("rng", TypeError, got, {"rng": r}) for r, got in ((1.0, "float"), (True, "bool"), (np.random, "module"))),
    *(("rng", ValueError, str(r), {"rng": r}) for r in (-1, 2**64)),
    *(("nan", ValueError, n, {"nan": n}) for n in ("drop", "nan", "")),
    ("nan", ValueError, "nan", {"nan": math.nan}),
    *(("nan", TypeError, got, {"nan": n}) for n, got in ((None, "NoneType"), (True, "bool"), ([0.0], "list"))),
    *(("counts", TypeError, got, {"counts": c}) for c, got in ((1, "int"), (None, "NoneType"))),
    ("out", TypeError, "list", {"out": [0.0]}),
    ("out", TypeError, "float64", {"out": nans((4, 6), np.float64)}),
    ("out", ValueError, re.escape("(6, 4)"), {"out": nans((6, 4), np.float32)}),
    ("out", ValueError, "read-only", {"out": read_only()}),
    ("out", ValueError, "strides", {"out": np.lib.stride_tricks.as_strided(nans((6,), np.float32), (4, 6), (0, 4))}),
    ("backend", TypeError, "int", {"backend": 1}),
    ("backend", fastiter.BackendError, "cuda", {"backend": "cuda"}),
]


@pytest.mark.parametrize("backend", [None, "reference"])
def test_wrong_arguments(backend: str | None) -> None:
    problems = []
    for name, error, got, changes in WRONG:
        arguments = {"x": X, "fmt": "int4", "backend": backend, "out": nans(X.shape, X.dtype), **changes}
        out = arguments["out"]
        before = out.tobytes() if isinstance(out, np.ndarray) else None
        for function in (quantize, encode):
            if function is encode:
                if {"out", "counts"} & changes.keys():
                    continue
                del arguments["out"]
            with pytest.raises((TypeError, ValueError, RuntimeError)) as raised:
                function(**arguments)
            pattern = rf"{function.__name__}: {name} must .+[,;] got .*{got}.*"
            if raised.type is not error or not re.fullmatch(pattern, str(raised.value)):
                problems.append(f"{changes}: {raised.type.__name__}: {raised.value!r} is not {pattern!r}")
        if before is not None and out.tobytes() != before:
            problems.append(f"{changes}: out was written")
    assert not problems, "\n".join(problems)


def test_the_refused_calls_are_otherwise_valid() -> None:
    for changes in ({}, {"scale": np.ones((4, 1))}, {"scale": np.ones((2, 3)), "zero_point": np.zeros((2, 3), int)}):
        out = nans(X.shape, X.dtype)
        assert quantize(X, "int4", out=out, axis=1, rng=2**64 - 1, nan="keep", **changes) is out
        assert not np.isnan(out).any()


def test_out_is_x_or_does_not_overlap_it() -> None:
    whole = np.zeros(30, np.float32)
    for x, out in ((whole[:24], whole[1:25]), (whole[:24], whole[23::-1]), (whole[:24:2], whole[:12])):
        with pytest.raises(ValueError, match="quantize: out must be x itself or share no memory with it, got"):
            quantize(x, "int4", out=out)
    assert quantize(whole[::2], "int4", out=whole[::2]).shape == (15,)
    assert quantize(whole[:15], "int4", out=whole[15:]).shape == (15,)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("backend", [None, "reference"])
def test_nan(dtype: Any, backend: str | None) -> None:
    x = np.array([1.0, math.nan, -3.0] * 30, dtype)
    for text in (
        "fixed<8,4,RND,SAT>",
        "fixed<60,30,TRN,WRAP_SM>",
        "int8",
        "e2m1",
        "pow2<-3,3>",
        "khot<2,8,3>",
        "log2<-3,3>",
    ):
        for function in (quantize, encode):
            with pytest.raises(
                ValueError,
                match=rf"^{function.__name__}: x contains NaN, which {re.escape(text)} cannot represent; pass nan=<",
            ):
                function(x, text, backend=backend)
        kept = quantize(x, text, nan="keep", backend=backend)
        np.testing.assert_array_equal(np.isnan(kept), np.isnan(x))
        for value in (2.0, math.inf, -30000.0):
            plain = np.where(np.isnan(x), dtype(value), x)
            y, counts = quantize(x, text, nan=value, counts=True, backend=backend)
            np.testing.assert_array_equal(y, quantize(plain, text, backend=backend))
            assert counts.nan == 30
            np.testing.assert_array_equal(encode(x, text, nan=value, backend=backend), encode(plain, text))
        with pytest.raises(ValueError, match=r"encode: nan must be 'raise' or a number, got 'keep'"):
            encode(x, text, nan="keep")
        for function, words in ((quantize, "'raise', 'keep'"), (encode, "'raise'")):
            with pytest.raises(ValueError, match=f"nan must be {words} or a replacement other than NaN, got nan$"):
                function(x, text, nan=math.nan)
    for text in ("e4m3fn", "e5m2", "bf16", "e4m3fnuz", "posit<16,1>", "float<5,40>"):
        y, counts = quantize(x, text, counts=True, backend=backend)
        np.testing.assert_array_equal(np.isnan(y), np.isnan(x))
        assert counts.nan == 30
        codes = encode(x, text, backend=backend)
        assert isinstance(codes, np.ndarray)
        np.testing.assert_array_equal(np.isnan(decode(codes, text)), np.isnan(x))


def refused(error: type[Exception], message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error) as raised:
        call()
    assert re.fullmatch(message, str(raised.value)), str(raised.value)


def test_decode() -> None:
    codes = np.array([1, 2], np.uint8)
    refused(TypeError, "decode: codes must be a NumPy array of integers, got list", lambda: decode([1], E))  # type: ignore[arg-type]
    refused(TypeError, "decode: codes must be a NumPy array of integers, got dtype float32", lambda: decode(X, E))
    refused(ValueError, "decode: codes must be from 0 to 15 for e2m1, got 16", lambda: decode(codes + 14, "e2m1"))
    refused(ValueError, "decode: codes must be from -8 to 7 for int4, got -9", lambda: decode(np.array([-9]), "int4"))
    refused(
        ValueError,
        "decode: codes must be from 0 to 2 for table<.*>, got 3",
        lambda: decode(np.array([3]), "table<0 1 2>"),
    )
    refused(TypeError, "decode: dtype must be float32 or float64, got float16", lambda: decode(codes, E, dtype="f2"))
    refused(TypeError, "decode: dtype must be float32 or float64, got 'x'", lambda: decode(codes, E, dtype="x"))
    four = np.full(4, 2, np.uint8)
    for scales, error, message in (
        (np.array([126.9]), TypeError, "decode: scales must be integers for mxfp4_e2m1, got dtype float64"),
        (np.array(["a"]), TypeError, "decode: scales must be integers for mxfp4_e2m1, got dtype <U1"),
        (np.array([300]), ValueError, "decode: scales must be codes from 0 to 255 for mxfp4_e2m1, got 300"),
        (np.array([-5]), ValueError, "decode: scales must be codes from 0 to 255 for mxfp4_e2m1, got -5"),
    ):
        refused(error, message, lambda s=scales: decode(quant.BlockCodes(four, s), "mxfp4_e2m1"))  # type: ignore[misc]
    wrong = "decode: scales must be codes from 0 to 255 for nvfp4, got 256"
    refused(ValueError, wrong, lambda: decode(quant.BlockCodes(four, np.array([256])), "nvfp4"))
    wrong = "decode: scales must be floats for nf4, got dtype int64"
    refused(TypeError, wrong, lambda: decode(quant.BlockCodes(four, np.array([2])), "nf4"))
    refused(ValueError, "decode: scale must have .*, got .*", lambda: decode(codes, E, scale=[1, 2, 3]))
    both = encode(X, "mxfp4_e2m1")
    refused(
        TypeError,
        "decode: codes must be the codes and scales .*, got numpy.ndarray",
        lambda: decode(both[0], "mxfp4_e2m1"),
    )
    refused(
        ValueError,
        r"decode: scales must have shape \(4, 1\) .*, got \(4,\)",
        lambda: decode((both[0], both[1][:, 0]), "mxfp4_e2m1"),
    )  # type: ignore[arg-type]


def test_packing() -> None:
    refused(TypeError, "pack: codes must be a NumPy array of integers, got dtype float32", lambda: pack(X, E))
    refused(ValueError, "pack: codes must be from 0 to 15 for e2m1, got 16", lambda: pack(np.array([16]), "e2m1"))
    packed = pack(np.arange(5), "e2m1")
    refused(
        TypeError,
        "unpack: packed must be a NumPy array of uint8, got dtype int8",
        lambda: unpack(packed.astype("i1"), "e2m1", 5),
    )
    refused(
        ValueError,
        r"unpack: packed must have 4 bytes along the last axis for 7 codes, got \(3,\)",
        lambda: unpack(packed, "e2m1", 7),
    )
    refused(ValueError, "unpack: n must be 0 or more, got -1", lambda: unpack(packed, "e2m1", -1))
    refused(TypeError, "unpack: n must be an int, got float", lambda: unpack(packed, "e2m1", 5.0))  # type: ignore[arg-type]


def test_analysis() -> None:
    refused(TypeError, "measure_error: x must be numbers, got a list of .*", lambda: quant.measure_error(["a"], E))  # type: ignore[arg-type]
    refused(TypeError, "range_of: fmt must be a format, its text or a dtype, got int", lambda: quant.range_of(8))  # type: ignore[arg-type]
    c = quant.calibrate
    refused(TypeError, "calibrate: method must be a str, got int", lambda: c(X, E, method=1))  # type: ignore[arg-type]
    refused(ValueError, "calibrate: method must be one of .*, got 'max'", lambda: c(X, E, method="max"))
    refused(ValueError, "calibrate: percentile must be from 0 to 100, got 101", lambda: c(X, E, percentile=101))
    refused(TypeError, "calibrate: percentile must be a number, got str", lambda: c(X, E, percentile="9"))  # type: ignore[arg-type]
    refused(ValueError, "calibrate: axis must be one of the 2 axes of x, got 2", lambda: c(X, E, axis=2))
    refused(TypeError, "calibrate: axis must be made of ints, got float", lambda: c(X, E, axis=[1.0]))  # type: ignore[list-item]
    wrong = "calibrate: axis must be an int or a sequence of ints, got "
    refused(TypeError, wrong + "float", lambda: c(X, E, axis=1.5))  # type: ignore[arg-type]
    refused(TypeError, wrong + "ellipsis", lambda: c(X, E, axis=...))  # type: ignore[arg-type]
    refused(TypeError, "calibrate: axis must be made of ints, got str", lambda: c(X, E, axis="0"))  # type: ignore[arg-type]
    refused(ValueError, r"calibrate: group must divide the last axis of x, \(6,\), got 4", lambda: c(X, E, group=4))
    refused(TypeError, "calibrate: group must be an int, got float", lambda: c(X, E, group=2.0))  # type: ignore[arg-type]
    refused(
        ValueError,
        "calibrate: axis and group must be None for fixed<8,4>, .*, got 0, None",
        lambda: c(X, "fixed<8,4>", axis=0),
    )
    refused(ValueError, "calibrate: fmt must have a number above zero, got int1", lambda: c(X, "int1"))
    wrong = "calibrate: x must need a scale that float32 holds for int8, got 1.10.*e-46"
    refused(ValueError, wrong, lambda: c(np.array([1.4e-44], np.float32), "int8"))
    wrong = "calibrate: x must need a scale that float32 holds for uint8, got 5.*e-47"
    refused(ValueError, wrong, lambda: c(np.array([1.4e-44], np.float32), "uint8"))
    wrong = "calibrate: fmt must round without random numbers for method 'mse', got int8<STOCHASTIC>"
    refused(ValueError, wrong, lambda: c(X, "int8<STOCHASTIC>", method="mse"))
    refused(ValueError, "calibrate: fmt must be one that takes a scale, got mxint8", lambda: c(X, "mxint8"))
    refused(ValueError, "calibrate: x must be finite, got NaN or infinity", lambda: c(np.full(3, math.inf), E))
