"""Wrong arguments of delta_scan on arrays: the class, a one-sentence message, outputs untouched."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

import fastiter
from tests.delta.error_cases import (
    FUNCTION,
    NAMES,
    V,
    empty_sizes,
    packed,
    valid,
    wrong_bounds,
    wrong_dtypes,
    wrong_methods,
    wrong_resets,
    wrong_shapes,
    wrong_types,
)
from tests.rnn.test_errors import BACKEND, cast, dtypes, in_memory, overlapping_itself, wrong_outs
from tests.support.cases import Array, nans
from tests.support.error_cases import TYPE, VALUE, B, N, T, Wrong, assert_arrays_refused, assert_refused, wrong_lengths


def same(x: Array) -> Array:
    return x


def given(M: int | None = None) -> dict[str, Any]:
    return {**valid(same, M), "out": nans((B, T, N, V), np.float32)}


def check(cases: Iterable[Wrong], right: dict[str, Any] | None = None) -> None:
    assert_arrays_refused(fastiter.delta_scan, given() if right is None else right, cases)


@pytest.mark.parametrize("M", [None, 2])
def test_valid_arguments_are_accepted(M: int | None) -> None:
    arguments = given(M)
    o, _ = fastiter.delta_scan(**arguments, lengths=[4, 0, 2], method="chunk", chunk=256, reset=np.zeros(T, bool))
    assert o is arguments["out"]
    assert not np.isnan(o).any()
    o, last = fastiter.delta_scan(**packed(same), cu_seqlens=[0, 2, T])
    assert not np.isnan(o).any() and not np.isnan(last).any()


def test_types_and_dtypes() -> None:
    check(wrong_types(given()))
    for wrong in wrong_dtypes(given(), cast, dtypes()):
        # longdouble has a different name on every machine.
        got = wrong.got.replace("longdouble", str(np.dtype(np.longdouble))).replace("S4", r"\|S4")
        check([wrong._replace(got=got)])
    check([Wrong("k is a scalar of NumPy", {"k": np.float32(1)}, VALUE, "k", r"\(\)")])


def test_tensors_are_refused_where_arrays_are_expected() -> None:
    torch = pytest.importorskip("torch")
    check([Wrong(f"{n} is a tensor", {n: torch.from_numpy(given()[n])}, TYPE, n, "torch.Tensor") for n in NAMES])
    check([Wrong("reset is a tensor", {"reset": torch.zeros(T, dtype=torch.bool)}, TYPE, "reset", "torch.Tensor")])


def test_shapes() -> None:
    check(wrong_shapes(given()))
    check(empty_sizes(given(), given(2)))
    several = given(2)
    for name in ("v", "beta"):  # without the factor axis
        y = several[name][:, :, 0]
        check([Wrong(f"{name} has no factors", {name: y}, VALUE, name, re.escape(str(y.shape)))], several)


def test_options() -> None:
    check(wrong_methods())
    check(wrong_resets(same))


def test_rows() -> None:
    check(wrong_lengths(np.array))
    huge = np.array([1, 2, 2**64 - 1], np.uint64)
    check([Wrong("beyond int64", {"lengths": huge}, VALUE, "lengths", str(2**64 - 1))])
    check([Wrong("cu_seqlens with several rows", {"cu_seqlens": [0, 2, T]}, VALUE, "q", f"B = {B}")])
    check(wrong_bounds(np.array), {**packed(same), "out": nans((1, T, N, V), np.float32)})


def test_backend() -> None:
    names = ("cuda", "triton", "torch", "CPU", "", "reference ")
    cases = [
        Wrong(
            name, {"backend": name}, BACKEND if name in ("cuda", "triton") else VALUE, "backend", re.escape(repr(name))
        )
        for name in names
    ]
    check([*cases, *(Wrong(str(y), {"backend": y}, TYPE, "backend", type(y).__name__) for y in (3, b"cpu", True))])


def test_unknown_arguments() -> None:
    with pytest.raises(TypeError, match=FUNCTION):
        fastiter.delta_scan(**given(), revers=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=FUNCTION):
        fastiter.delta_scan(*valid(same).values(), "sequential")  # type: ignore[misc]


def test_out() -> None:
    check(wrong_outs())
    check(overlapping_itself())


@pytest.mark.parametrize("name", NAMES)
def test_out_that_overlaps_an_input(name: str) -> None:
    size = B * T * N * V
    for start in (0, 4 * (size - 1)):  # starting at the first element of out, and at its last
        arguments, memory = given(), np.zeros(4096, np.float32)
        arguments["out"] = memory[:size].reshape(B, T, N, V)
        arguments[name] = in_memory(arguments[name], memory, start)
        before = memory.copy()
        wrong = Wrong(f"out overlaps {name}", {}, VALUE, "out", name)
        assert_refused(FUNCTION, lambda a=arguments: fastiter.delta_scan(**a), wrong)
        np.testing.assert_array_equal(memory, before)
