"""Wrong arguments of every public function: the class, a one-sentence message, outputs untouched."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest

import fastiter
from tests.newton.calls import PARA_CELLS
from tests.support.cases import Array, assert_same_bits, nans
from tests.support.error_cases import (
    CELLS,
    EITHER,
    ELSEWHERE,
    TYPE,
    VALUE,
    B,
    D,
    N,
    T,
    Wrong,
    assert_arrays_refused,
    assert_refused,
    valid,
    wrong_activations,
    wrong_dtypes,
    wrong_flags,
    wrong_lengths,
    wrong_shapes,
    wrong_states,
    wrong_types,
)

BACKEND = (fastiter.BackendError,)


def test_every_public_function_is_covered() -> None:
    types = {"BackendError", "ConvergenceError", "ConvergenceWarning", "Progress", "RnnResult", "RnnStates", "Solution"}
    without_arguments = {*types, "__version__", "get_num_threads", "release_memory", "show_config"}
    # Families whose errors are tested in files of their own
    modules = {"bcd", "experimental", "fixedpoint", "mdp", "quant", "relax", "ssm", "tune"}
    assert set(fastiter.__all__) == {*CELLS, *PARA_CELLS, *ELSEWHERE, *modules, "set_num_threads", *without_arguments}
    for name in ("get_num_threads", "release_memory", "show_config"):
        with pytest.raises(TypeError, match=name):
            getattr(fastiter, name)(1)


def given(cell: str) -> dict[str, Any]:
    return {**valid(cell, lambda x: x), "out": nans((B, T, N, D), np.float32)}


def dtypes() -> list[str]:
    other = ">f4" if np.dtype("<f4") == np.float32 else "<f4"
    return ["int64", "int32", "uint8", "bool", "float16", "complex64", "object", other, "longdouble", "S4"]


def cast(x: Array, dtype: str) -> Array:
    with np.errstate(invalid="ignore"):  # ARM64 reports negative numbers as unsigned integers
        return x.astype(dtype)


def check(cell: str, cases: Iterable[Wrong]) -> None:
    assert_arrays_refused(getattr(fastiter, cell), given(cell), cases)


every_cell = pytest.mark.parametrize("cell", CELLS)


@every_cell
def test_valid_arguments_are_accepted(cell: str) -> None:
    arguments = given(cell)
    h, _ = getattr(fastiter, cell)(**arguments, lengths=[4, 0, 2], reverse=True)
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
    # longdouble has a different name on every machine.
    for wrong in wrong_dtypes(given(cell), cell, cast, dtypes()):
        got = wrong.got.replace("longdouble", str(np.dtype(np.longdouble))).replace("S4", r"\|S4")
        check(cell, [wrong._replace(got=got)])


@every_cell
def test_shapes(cell: str) -> None:
    check(cell, wrong_shapes(given(cell), cell))


@every_cell
def test_states(cell: str) -> None:
    cases = [w for w in wrong_states(given(cell), cell) if "generator" not in w.label]
    check(cell, cases)
    check(cell, [Wrong("a generator", {"state": (s for s in ())}, TYPE, "state", "generator")])


@every_cell
def test_lengths(cell: str) -> None:
    check(cell, wrong_lengths(np.array))
    huge = np.array([1, 2, 2**64 - 1], np.uint64)
    check(cell, [Wrong("beyond int64", {"lengths": huge}, VALUE, "lengths", str(2**64 - 1))])


@every_cell
def test_flags(cell: str) -> None:
    check(cell, wrong_flags())


def test_activation() -> None:
    check("elman", wrong_activations())


@every_cell
def test_backend(cell: str) -> None:
    names = ("cuda", "triton", "torch", "CPU", "", "reference ")
    cases = [
        Wrong(
            name, {"backend": name}, BACKEND if name in ("cuda", "triton") else VALUE, "backend", re.escape(repr(name))
        )
        for name in names
    ]
    for y in (3, b"cpu", ["cpu"], True, np.float32):
        cases.append(Wrong(str(y), {"backend": y}, TYPE, "backend", type(y).__name__))
    check(cell, cases)


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

    shape = (B, T, N, D)
    yield case("is a list", nans(shape, np.float32).tolist(), TYPE, "list")
    yield case("is a number", 0.0, TYPE, "float")
    yield case("is a tuple", (nans(shape, np.float32),), TYPE, "tuple")
    for dtype in ("float64", "float16", "int32", ">f4", "complex64"):
        yield case(f"is {dtype}", np.zeros(shape, dtype), TYPE, re.escape(str(np.dtype(dtype))))
    for wrong in ((B, T, N, D + 1), (B, T - 1, N, D), (T, B, N, D), (B, T, N * D), (1, B, T, N, D), (B, 1, N, D), ()):
        yield case(f"has shape {wrong}", nans(wrong, np.float32), VALUE, re.escape(str(wrong)))
    read_only = nans(shape, np.float32)
    read_only.setflags(write=False)
    yield case("is read-only", read_only, VALUE, "read-only")
    yield case("is broadcast", np.broadcast_to(nans(shape, np.float32)[:1], shape), EITHER, "")


def overlapping_itself() -> Iterator[Wrong]:
    memory = nans((1000,), np.float32)
    windows = np.lib.stride_tricks.as_strided
    for label, strides in (("rows", (0, 40, 20, 4)), ("windows", (40, 20, 20, 4)), ("steps", (160, 4, 20, 4))):
        y = windows(memory, (B, T, N, D), strides)
        yield Wrong(f"out overlaps itself in {label}", {"out": y}, VALUE, "out", "")


@every_cell
def test_out(cell: str) -> None:
    check(cell, wrong_outs())


@every_cell
def test_out_that_overlaps_itself(cell: str) -> None:
    check(cell, overlapping_itself())


def in_memory(x: Array, memory: Array, start: int) -> Array:
    """A copy of x from byte `start` of memory on."""
    y = memory.view(np.uint8)[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    y[...] = x
    return y


@every_cell
def test_out_that_overlaps_an_input(cell: str) -> None:
    size = B * T * N * D
    for name in ("wx", "r", "b", "state h"):
        for start in (0, 4 * (size - 1)):  # starting at the first element of out, and at its last
            arguments, memory = given(cell), np.zeros(4096, np.float32)
            arguments["out"] = memory[:size].reshape(B, T, N, D)
            if name == "state h":
                h, *others = arguments["state"]
                arguments["state"] = (in_memory(h, memory, start), *others)
            else:
                arguments[name] = in_memory(arguments[name], memory, start)
            before = memory.copy()
            wrong = Wrong(f"out overlaps {name}", {}, VALUE, "out", name)
            assert_refused(cell, lambda a=arguments: getattr(fastiter, cell)(**a), wrong)
            assert_same_bits(memory, before)


@every_cell
def test_out_over_the_lengths_is_right_or_refused(cell: str) -> None:
    arguments, memory = given(cell), np.zeros(4096, np.float32)
    expected = getattr(fastiter, cell)(**arguments, lengths=[4, 0, 2])
    arguments["out"] = memory[: B * T * N * D].reshape(B, T, N, D)
    lengths = in_memory(np.array([4, 0, 2]), memory, 0)
    try:
        actual = getattr(fastiter, cell)(**arguments, lengths=lengths)
    except ValueError:
        return
    assert_same_bits(actual, expected)


# --- threads ---------------------------------------------------------------------------------------------------------


def test_set_num_threads() -> None:
    fastiter.set_num_threads(3)
    numbers = (0, -1, 257, 2**40, -(2**70), np.int64(0))
    others = (1.0, "2", True, [1], (1,), np.float32(2), np.bool_(True), 1j, b"1")
    cases = [(y, VALUE, re.escape(str(y))) for y in numbers] + [(y, TYPE, type(y).__name__) for y in others]
    for y, errors, got in cases:
        wrong = Wrong(repr(y), {}, errors, "threads", got)
        assert_refused("set_num_threads", lambda y=y: fastiter.set_num_threads(y), wrong)
        assert fastiter.get_num_threads() == 3
