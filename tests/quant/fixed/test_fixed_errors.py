"""Wrong arguments of fixed-point arithmetic: the class, and a one-sentence message."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter.quant import Fixed, FixedArray, Float, fixed_conv2d, fixed_matmul
from tests.quant.fixed.fixed_cases import fixed
from tests.support.error_cases import TYPE, VALUE, Wrong, assert_all_refused

RNG = np.random.default_rng(0)
FMT = Fixed(8, 4)


def zeros(*shape: int) -> FixedArray:
    return FixedArray.from_codes(np.zeros(shape, np.int8), FMT)


def given(function: str) -> dict[str, Any]:
    if function == "fixed_matmul":
        return {"a": zeros(3, 4), "b": zeros(4, 5), "accumulator": FMT}
    return {"x": zeros(2, 4, 5, 5), "w": zeros(6, 4, 3, 3), "accumulator": FMT}


def check(function: str, cases: list[Wrong]) -> None:
    run: Callable[..., Any] = {"fixed_matmul": fixed_matmul, "fixed_conv2d": fixed_conv2d}[function]
    calls = (
        (wrong, lambda wrong=wrong, backend=backend: run(**{"backend": backend, **given(function), **wrong.changes}))
        for wrong in cases
        for backend in (None, "reference")
    )
    assert_all_refused(function, calls)


every_function = pytest.mark.parametrize("function", ["fixed_matmul", "fixed_conv2d"])


@every_function
def test_arrays(function: str) -> None:
    cases = []
    for name in given(function):
        if name == "accumulator":
            continue
        for y in (np.zeros((3, 4)), [[1.0]], 3, "fixed<8,4>", None):
            cases.append(Wrong(f"{name} is {type(y)}", {name: y}, TYPE, name, type(y).__name__))
    for y in (np.zeros(3), 1, [0]):
        cases.append(Wrong(f"bias is {type(y)}", {"bias": y}, TYPE, "bias", type(y).__name__))
    check(function, cases)


@every_function
def test_formats(function: str) -> None:
    cases = []
    for name in ("accumulator", "product"):
        for y in (8, (8, 4), FMT.fraction, float, Fixed):
            cases.append(Wrong(f"{name} is {y}", {name: y}, TYPE, name, type(y).__name__))
        cases.append(Wrong(f"{name} is a Float", {name: Float(4, 3)}, TYPE, name, "Float"))
        cases.append(Wrong(f"{name} is the text of a Float", {name: "e4m3"}, TYPE, name, "Float"))
        cases.append(Wrong(f"{name} is a dtype", {name: np.float16}, TYPE, name, "Float"))
        for text in ("fixed<8>", "fixed", "nonsense", "", "fixed<8,4,UP>", "fixed<65,4>"):
            cases.append(Wrong(f"{name} is {text!r}", {name: text}, VALUE, name, re.escape(repr(text))))
        stochastic = Fixed(8, 4, rounding="STOCHASTIC")
        cases.append(Wrong(f"{name} is stochastic", {name: stochastic}, VALUE, name, re.escape(str(stochastic))))
    cases.append(Wrong("acc is None", {"accumulator": None}, TYPE, "accumulator", "NoneType"))
    check(function, cases)


def test_shapes_of_matmul() -> None:
    cases = []
    for name, shape in (("a", ()), ("b", ()), ("b", (3, 5)), ("b", (5, 4)), ("b", (3,)), ("b", (2, 3, 5))):
        cases.append(Wrong(f"{name} has shape {shape}", {name: zeros(*shape)}, VALUE, name, re.escape(str(shape))))
    batch = {"a": zeros(2, 3, 4), "b": zeros(3, 4, 5)}
    cases.append(Wrong("batches differ", batch, VALUE, "b", re.escape("(3, 4, 5)")))
    for shape in ((4,), (3, 1, 1), (2, 5), (3, 4)):
        cases.append(Wrong(f"bias has shape {shape}", {"bias": zeros(*shape)}, VALUE, "bias", re.escape(str(shape))))
    check("fixed_matmul", cases)


def test_shapes_of_conv2d() -> None:
    cases = []
    for name, shape in (
        *(("x", (4, 5, 5)), ("x", (1, 2, 4, 5, 5)), ("w", (6, 4, 3)), ("w", ())),
        *(("w", (6, 3, 3, 3)), ("w", (6, 4, 6, 3)), ("w", (6, 4, 3, 6)), ("w", (6, 4, 0, 3))),
    ):
        cases.append(Wrong(f"{name} has shape {shape}", {name: zeros(*shape)}, VALUE, name, re.escape(str(shape))))
    for shape in ((5,), (6, 1), (1, 6)):
        cases.append(Wrong(f"bias has shape {shape}", {"bias": zeros(*shape)}, VALUE, "bias", re.escape(str(shape))))
    for groups in (0, -1, 4, 2**40):
        cases.append(Wrong(f"groups is {groups}", {"groups": groups}, VALUE, "groups", str(groups)))
    cases.append(Wrong("groups do not go with w", {"groups": 2}, VALUE, "w", re.escape("(6, 4, 3, 3)")))
    for groups in (1.0, "1", None, True, [1]):
        cases.append(Wrong(f"groups is {groups!r}", {"groups": groups}, TYPE, "groups", type(groups).__name__))
    check("fixed_conv2d", cases)


@pytest.mark.parametrize(("name", "least"), [("stride", 1), ("padding", 0), ("dilation", 1)])
def test_windows(name: str, least: int) -> None:
    cases = []
    for y in (1.0, "1", None, True, {1: 1}, (1.0, 1), (1, None), (True, 1), np.ones(2, int)):
        cases.append(Wrong(f"{name} is {y!r}", {name: y}, TYPE, name, ""))
    for y in ((1,), (1, 1, 1), ()):
        cases.append(Wrong(f"{name} is {y!r}", {name: y}, VALUE, name, str(len(y))))
    for y in (least - 1, (1, least - 1), (-5, 1)):
        got = str(min(y) if isinstance(y, tuple) else y)
        cases.append(Wrong(f"{name} is {y!r}", {name: y}, VALUE, name, got))
    for y in (2**31, 10**12, (1, 2**70)):
        cases.append(Wrong(f"{name} is {y!r}", {name: y}, VALUE, name, str(y[1] if isinstance(y, tuple) else y)))
    if name == "padding":
        cases.append(Wrong("padding is 2^30", {name: 2**30}, VALUE, name, "1073741824"))
    check("fixed_conv2d", cases)
    if name == "dilation":
        check("fixed_conv2d", [Wrong("too much dilation", {"dilation": (1, 3)}, VALUE, "w", re.escape("(6, 4, 3, 3)"))])


@every_function
def test_backends(function: str) -> None:
    run = fixed_matmul if function == "fixed_matmul" else fixed_conv2d
    for name, error in (("cuda", fastiter.BackendError), ("", ValueError), ("CPU", ValueError)):
        with pytest.raises(error, match=f"{function}: backend must be one of"):
            run(**given(function), backend=name)
    with pytest.raises(TypeError, match=f"{function}: backend must be a str"):
        run(**given(function), backend=3)


# --- FixedArray ------------------------------------------------------------------------------------------------------


def refused(
    function: str, argument: str, call: Callable[[], Any], errors: tuple[type[Exception], ...], got: str
) -> None:
    assert_all_refused(function, [(Wrong(f"{function} {argument}", {}, errors, argument, got), call)])


def test_making_arrays() -> None:
    for x, got in (
        ("1", "<U1"),
        (None, "object"),
        ([1j], "complex128"),
        ({}, "object"),
        (True, "bool"),
        (b"1", r"\|S1"),
    ):
        refused("FixedArray", "x", lambda x=x: FixedArray(x, FMT), TYPE, got)
    for fmt in (8, None, Float(4, 3), "e4m3"):
        refused("FixedArray", "fmt", lambda fmt=fmt: FixedArray(1.0, fmt), TYPE, "")
        refused("astype", "fmt", lambda fmt=fmt: zeros(2).astype(fmt), TYPE, "")
    refused("FixedArray", "fmt", lambda: FixedArray(1.0, "fixed<0,1>"), VALUE, "fixed<0,1>")
    refused("FixedArray", "an int", lambda: zeros(2) + 2**64, VALUE, str(2**64))
    refused("FixedArray", "an int", lambda: zeros(2) * -(2**64), VALUE, str(-(2**64)))


def test_making_arrays_from_codes() -> None:
    refused("from_codes", "codes", lambda: FixedArray.from_codes([1.0], FMT), TYPE, "float64")
    refused("from_codes", "codes", lambda: FixedArray.from_codes([True], FMT), TYPE, "bool")
    refused("from_codes", "codes", lambda: FixedArray.from_codes(["1"], FMT), TYPE, "<U1")
    refused("from_codes", "codes", lambda: FixedArray.from_codes([128], FMT), VALUE, "128")
    refused("from_codes", "codes", lambda: FixedArray.from_codes([0, -129], FMT), VALUE, "-129")
    unsigned = Fixed(64, 4, signed=False)
    refused("from_codes", "codes", lambda: FixedArray.from_codes([-1], unsigned), VALUE, "-1")
    refused(
        "from_codes",
        "codes",
        lambda: FixedArray.from_codes(np.array([2**63], np.uint64), Fixed(64, 4)),
        VALUE,
        str(2**63),
    )
    assert FixedArray.from_codes(np.array([2**64 - 1], np.uint64), unsigned).codes.tolist() == [2**64 - 1]
    refused("from_codes", "fmt", lambda: FixedArray.from_codes([1], 8), TYPE, "int")


def test_operators_with_something_else() -> None:
    a = zeros(2)
    for other in (1.0, np.zeros(2), np.float32(1), "1", None, [1, 2], True, 1j, np.ones(2, np.int8)):
        for op in ("+", "-", "*", "/", "&", "|", "^", "@"):
            with pytest.raises(TypeError):
                eval(f"a {op} other", {"a": a, "other": other})
            with pytest.raises(TypeError):
                eval(f"other {op} a", {"a": a, "other": other})
    for other in ("1", None, True, 1j, np.ones(2, bool), ["1"], np.zeros(2, complex), [[1], [1, 2]]):
        for op in ("<", ">="):
            with pytest.raises(TypeError):
                eval(f"a {op} other", {"a": a, "other": other})
    for other in (True, 1j, np.ones(2, bool), ["1"], np.array(["1"], object), np.longdouble(1), [[1], [1, 2]]):
        with pytest.raises(TypeError, match="FixedArray: a comparison must be with"):
            _ = a == other
    with pytest.raises(TypeError):
        a += 1.0
    for n in (1.0, None, "1", True, a):
        with pytest.raises(TypeError):
            a << n
        with pytest.raises(TypeError):
            a >> n


def test_too_many_bits() -> None:
    rng = np.random.default_rng(1)
    wide = fixed(rng, 3, Fixed(64, 32))
    for what, call in (
        ("a + b", lambda: wide + wide),
        ("a - b", lambda: wide - wide),
        ("a * b", lambda: wide * wide),
        ("a / b", lambda: wide / wide),
        ("-a", lambda: -wide),
        ("a & b", lambda: wide & fixed(rng, 3, Fixed(40, 0))),
    ):
        pattern = rf"FixedArray: {re.escape(what)} must have a result of at most 64 bits .+, got \d+ bits"
        with pytest.raises(ValueError, match=pattern):
            call()


def test_conversion() -> None:
    a = zeros(2)
    refused("FixedArray", "copy", lambda: np.array(a, copy=False), VALUE, "False")
    with pytest.raises((TypeError, ValueError)):
        float(a)
    with pytest.raises(IndexError):
        a[5]
