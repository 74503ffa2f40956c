"""Wrong arguments of quant_matmul: the class, and a one-sentence message."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter.quant import Fixed, Float, quant_matmul
from tests.support.error_cases import TYPE, VALUE, Wrong, assert_all_refused

GIVEN: dict[str, Any] = {
    "a": np.zeros((3, 4), np.float32),
    "b": np.zeros((4, 5), np.float32),
    "fmt_a": "e4m3fn",
    "fmt_b": "int8",
    "accumulator": "fp16",
}


def check(cases: list[Wrong]) -> None:
    calls = (
        (wrong, lambda wrong=wrong, backend=backend: quant_matmul(**{"backend": backend, **GIVEN, **wrong.changes}))
        for wrong in cases
        for backend in (None, "reference")
    )
    assert_all_refused("quant_matmul", calls)


def test_arrays() -> None:
    cases = []
    for name in ("a", "b"):
        shape = GIVEN[name].shape
        for y in ([["1"]], "1", None):
            cases.append(Wrong(f"{name} is {y}", {name: y}, TYPE, name, type(y).__name__))
        for dtype in ("complex64", "bool", "O", "U1", ">f4", "longdouble"):
            y = np.zeros(shape, dtype)
            cases.append(Wrong(f"{name} is of {dtype}", {name: y}, TYPE, name, re.escape(str(y.dtype))))
    check(cases)


def test_shapes() -> None:
    cases = []
    for name, shape in (("a", ()), ("b", ()), ("b", (3, 5)), ("b", (5, 4)), ("b", (3,)), ("b", (2, 3, 5))):
        y = np.zeros(shape, np.float32)
        cases.append(Wrong(f"{name} has shape {shape}", {name: y}, VALUE, name, re.escape(str(shape))))
    batch = {"a": np.zeros((2, 3, 4)), "b": np.zeros((3, 4, 5))}
    cases.append(Wrong("batches differ", batch, VALUE, "b", re.escape("(3, 4, 5)")))
    check(cases)


def test_formats() -> None:
    cases = []
    for name in ("fmt_a", "fmt_b", "accumulator"):
        for y in (8, None, float, Fixed):
            cases.append(Wrong(f"{name} is {y}", {name: y}, TYPE, name, type(y).__name__))
        for text in ("nonsense", "", "fixed<8>", "bool"):
            cases.append(Wrong(f"{name} is {text!r}", {name: text}, VALUE, name, re.escape(repr(text))))
        for fmt in (Float(4, 3, rounding="STOCHASTIC"), Fixed(8, 4, rounding="STOCHASTIC")):
            cases.append(Wrong(f"{name} is stochastic", {name: fmt}, VALUE, name, re.escape(str(fmt))))
    for name in ("mxfp8_e4m3", "int8", "posit<8,1>", "nf4"):
        cases.append(Wrong(f"accumulator is {name}", {"accumulator": name}, TYPE, "accumulator", ""))
    for name in ("e8m0", "fp64", "float<11,3>", "ufloat<4,3>"):
        cases.append(Wrong(f"accumulator is {name}", {"accumulator": name}, VALUE, "accumulator", re.escape(name)))
    check(cases)


def test_incompatible_formats() -> None:
    wide = Fixed(40, 20)
    cases = [
        Wrong(
            f"products of {acc}",
            {"fmt_a": wide, "fmt_b": wide, "accumulator": acc},
            VALUE,
            "fmt_a and fmt_b",
            "fixed<40,20>",
        )
        for acc in ("fp16", "float64")
    ]
    for name in ("fmt_a", "fmt_b"):
        for fmt in ("fp32", "mxfp4_e2m1", "e8m0"):
            changes = {name: fmt, "accumulator": "fixed<8,4>"}
            cases.append(Wrong(f"{name} is {fmt}", changes, VALUE, name, re.escape(fmt)))
        changes = {name: Fixed(64, 4), "accumulator": "float32"}
        cases.append(Wrong(f"{name} has 64 bits", changes, VALUE, name, "fixed<64,4>"))
    check(cases)


def test_every() -> None:
    every = "accumulate_every"
    cases = [Wrong(f"every is {y!r}", {every: y}, TYPE, every, type(y).__name__) for y in (1.0, "1", None, True)]
    cases += [Wrong(f"every is {y}", {every: y}, VALUE, every, str(y)) for y in (0, -1)]
    for acc in ("float32", np.float64):
        cases.append(Wrong(f"every with {acc}", {every: 2, "accumulator": acc}, VALUE, every, "2"))
    huge = {every: 2**40, "accumulator": "fixed<8,4>", "fmt_a": Fixed(64, 4), "fmt_b": Fixed(64, 4)}
    cases.append(Wrong("sums of too many bits", huge, VALUE, every, str(2**40)))
    check(cases)


def test_codes_and_numbers() -> None:
    cases = []
    for name in ("a", "b"):
        fmt = f"fmt_{name}"
        for text, worst in (("int4", 8), ("int4", -9), ("e2m1", 16), ("ufixed<4,2>", -1), ("posit<8,1>", 256)):
            y = np.zeros(GIVEN[name].shape, np.int64)
            y[1, 2] = worst
            for acc in ("float32", "fixed<8,4>"):
                changes = {name: y, fmt: text, "accumulator": acc}
                cases.append(Wrong(f"{worst} as {text}", changes, VALUE, name, str(worst)))
        codes = {name: np.zeros(GIVEN[name].shape, np.int8), fmt: "nvfp4"}
        cases.append(Wrong("codes of blocks", codes, TYPE, name, "int8"))
        y = GIVEN[name].copy()
        y[1, 2] = np.nan
        for acc in ("float32", "fp16", "fixed<8,4>"):
            for text in ("e2m1", "int8", "pow2<-3,3>"):
                changes = {name: y, fmt: text, "accumulator": acc}
                cases.append(Wrong(f"NaN in {text}", changes, VALUE, name, "NaN"))
        for worst in (np.nan, np.inf):
            y = GIVEN[name].copy()
            y[0, 0] = worst
            changes = {name: y, fmt: "e5m2", "accumulator": "fixed<8,4>"}
            cases.append(Wrong(f"{worst} in a fixed accumulator", changes, VALUE, name, "NaN or an infinity"))
    check(cases)


def test_outputs() -> None:
    out = np.zeros((3, 5), np.float32)
    locked = out.copy()
    locked.flags.writeable = False
    room = np.zeros(40, np.float32)
    check(
        [
            *(Wrong(f"out is {y}", {"out": y}, TYPE, "out", type(y).__name__) for y in ([[0.0]], 3)),
            Wrong("out is of float64", {"out": np.zeros((3, 5))}, TYPE, "out", "float64"),
            Wrong("out is of float32", {"out": out, "accumulator": "float64"}, TYPE, "out", "float32"),
            Wrong("out is too large", {"out": np.zeros((3, 6), np.float32)}, VALUE, "out", re.escape("(3, 6)")),
            Wrong("out is locked", {"out": locked}, VALUE, "out", "read-only"),
            Wrong(
                "out overlaps itself", {"out": np.lib.stride_tricks.as_strided(out, (3, 5), (4, 4))}, VALUE, "out", ""
            ),
            Wrong("out is a", {"out": room[:15].reshape(3, 5), "a": room[3:15].reshape(3, 4)}, VALUE, "out", "a"),
            Wrong("out is b", {"out": room[:15].reshape(3, 5), "b": room[10:30].reshape(4, 5)}, VALUE, "out", "b"),
        ]
    )


def test_backends() -> None:
    for name, error in (("cuda", fastiter.BackendError), ("", ValueError), ("CPU", ValueError)):
        with pytest.raises(error, match="quant_matmul: backend must be one of"):
            quant_matmul(**GIVEN, backend=name)
    with pytest.raises(TypeError, match="quant_matmul: backend must be a str"):
        quant_matmul(**GIVEN, backend=3)
