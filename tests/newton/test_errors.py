"""Wrong arguments of the diagonal cells on arrays: the class, a one-sentence message, outputs untouched."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest

import fastiter
from tests.newton.calls import every_cell
from tests.newton.error_cases import (
    B,
    D,
    T,
    valid,
    wrong_dtypes,
    wrong_flags,
    wrong_options,
    wrong_shapes,
    wrong_states,
    wrong_types,
)
from tests.support.cases import Array, assert_same_bits, nans
from tests.support.error_cases import EITHER, TYPE, VALUE, Wrong, assert_arrays_refused, assert_refused, wrong_lengths


def given(cell: str) -> dict[str, Any]:
    return {**valid(cell, lambda x: x), "out": nans((B, T, D), np.float32)}


def cast(x: Array, dtype: str) -> Array:
    return x.astype(dtype)


def check(cell: str, cases: Iterable[Wrong]) -> None:
    assert_arrays_refused(getattr(fastiter, cell), given(cell), cases)


@every_cell
def test_valid_arguments_are_accepted(cell: str) -> None:
    for method in ("auto", "newton"):
        arguments = given(cell)
        h, _ = getattr(fastiter, cell)(**arguments, lengths=[4, 0, 2], reverse=True, method=method)
        assert h is arguments["out"]
        assert not np.isnan(h).any()


@every_cell
def test_types(cell: str) -> None:
    check(cell, wrong_types(given(cell), cell))


@every_cell
def test_tensors_are_refused_where_arrays_are_expected(cell: str) -> None:
    torch = pytest.importorskip("torch")
    x = given(cell)["wx"]
    check(cell, [Wrong("wx is a tensor", {"wx": torch.from_numpy(x)}, TYPE, "wx", "torch.Tensor")])


@every_cell
def test_dtypes(cell: str) -> None:
    other = ">f4" if np.dtype("<f4") == np.float32 else "<f4"
    names = ["int64", "uint8", "bool", "float16", "complex64", "object", other]
    check(cell, wrong_dtypes(given(cell), cell, cast, names))


@every_cell
def test_shapes(cell: str) -> None:
    check(cell, wrong_shapes(given(cell), cell))


@every_cell
def test_states(cell: str) -> None:
    check(cell, wrong_states(given(cell)))


@every_cell
def test_lengths(cell: str) -> None:
    check(cell, wrong_lengths(np.array))


@every_cell
def test_flags(cell: str) -> None:
    check(cell, wrong_flags())


@every_cell
def test_options(cell: str) -> None:
    check(cell, wrong_options())


@every_cell
def test_backend(cell: str) -> None:
    names = ("cuda", "torch", "CPU", "")
    errors = {"cuda": (fastiter.BackendError,)}
    check(cell, [Wrong(n, {"backend": n}, errors.get(n, VALUE), "backend", re.escape(repr(n))) for n in names])
    check(cell, [Wrong(str(y), {"backend": y}, TYPE, "backend", type(y).__name__) for y in (3, b"cpu", ["cpu"], True)])


@every_cell
def test_unknown_arguments(cell: str) -> None:
    with pytest.raises(TypeError, match=cell):
        getattr(fastiter, cell)(**given(cell), length=[1, 1, 1])
    with pytest.raises(TypeError, match=cell):
        getattr(fastiter, cell)(*valid(cell, lambda x: x).values(), True)


# --- out -------------------------------------------------------------------------------------------------------------


def wrong_outs() -> Iterator[Wrong]:
    def case(label: str, out: Any, errors: Any, got: str) -> Wrong:
        return Wrong(f"out {label}", {"out": out}, errors, "out", got)

    shape = (B, T, D)
    yield case("is a list", nans(shape, np.float32).tolist(), TYPE, "list")
    yield case("is a tuple", (nans(shape, np.float32),), TYPE, "tuple")
    for dtype in ("float64", "float16", "int32", ">f4"):
        yield case(f"is {dtype}", np.zeros(shape, dtype), TYPE, re.escape(str(np.dtype(dtype))))
    for wrong in ((B, T, D + 1), (B, T - 1, D), (T, B, D), (B, T * D), (1, B, T, D), ()):
        yield case(f"has shape {wrong}", nans(wrong, np.float32), VALUE, re.escape(str(wrong)))
    read_only = nans(shape, np.float32)
    read_only.setflags(write=False)
    yield case("is read-only", read_only, VALUE, "read-only")
    yield case("is broadcast", np.broadcast_to(nans(shape, np.float32)[:1], shape), EITHER, "")
    windows = np.lib.stride_tricks.as_strided(nans((1000,), np.float32), shape, (40, 4, 4))
    yield case("overlaps itself", windows, VALUE, "")


@every_cell
def test_out(cell: str) -> None:
    check(cell, wrong_outs())


@every_cell
def test_out_that_overlaps_an_input(cell: str) -> None:
    size = B * T * D

    def in_memory(x: Array, memory: Array, start: int) -> Array:
        y = memory.view(np.uint8)[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
        y[...] = x
        return y

    for start in (0, 4 * (size - 1)):  # starting at the first element of out, and at its last
        for name in valid(cell, lambda x: x):
            arguments, memory = given(cell), np.zeros(4096, np.float32)
            arguments["out"] = memory[:size].reshape(B, T, D)
            if name == "state" and isinstance(arguments["state"], tuple):
                h, *others = arguments["state"]
                arguments["state"] = (in_memory(h, memory, start), *others)
            else:
                arguments[name] = in_memory(arguments[name], memory, start)
            before = memory.copy()
            wrong = Wrong(f"out overlaps {name}", {}, VALUE, "out", name)
            assert_refused(cell, lambda a=arguments: getattr(fastiter, cell)(**a), wrong)
            assert_same_bits(memory, before)
