"""Wrong arguments of the diagonal cells on tensors: the class, and a one-sentence message."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter.torch  # noqa: E402
from tests.newton.calls import every_cell  # noqa: E402
from tests.newton.error_cases import (  # noqa: E402
    valid,
    wrong_dtypes,
    wrong_flags,
    wrong_options,
    wrong_shapes,
    wrong_states,
    wrong_types,
)
from tests.support.error_cases import EITHER, TYPE, VALUE, Wrong, assert_tensors_refused, in_torch, wrong_lengths  # noqa: E402

BACKEND = (fastiter.BackendError,)


def given(cell: str) -> dict[str, Any]:
    return valid(cell, lambda x: torch.from_numpy(np.array(x)))


def check(cell: str, cases: Iterable[Wrong]) -> None:
    assert_tensors_refused(getattr(fastiter.torch, cell), given(cell), cases, "a")


@every_cell
def test_valid_arguments_are_accepted(cell: str) -> None:
    for method in ("auto", "newton"):
        h, _ = getattr(fastiter.torch, cell)(**given(cell), lengths=[4, 0, 2], reverse=True, method=method)
        assert not h.isnan().any()


@every_cell
def test_types(cell: str) -> None:
    check(cell, wrong_types(given(cell), cell))


@every_cell
def test_arrays_are_refused_where_tensors_are_expected(cell: str) -> None:
    x = given(cell)["wx"].numpy()
    check(cell, [Wrong("wx is an array", {"wx": x}, TYPE, "wx", "ndarray")])


@every_cell
def test_dtypes(cell: str) -> None:
    names = ["int64", "uint8", "bool", "float16", "bfloat16", "complex64"]
    check(cell, wrong_dtypes(given(cell), cell, lambda x, dtype: x.to(getattr(torch, dtype)), names))


@every_cell
def test_shapes(cell: str) -> None:
    check(cell, in_torch(wrong_shapes(given(cell), cell)))


@every_cell
def test_states(cell: str) -> None:
    check(cell, wrong_states(given(cell)))


@every_cell
def test_lengths(cell: str) -> None:
    check(cell, in_torch(wrong_lengths(torch.tensor)))
    for x in (torch.tensor([1.0, 1.0, 1.0]), torch.tensor([1, 1, 1]).bool()):
        check(cell, [Wrong(str(x), {"lengths": x}, TYPE, "lengths", str(x.dtype).removeprefix("torch."))])


@every_cell
def test_flags(cell: str) -> None:
    check(cell, wrong_flags())


@every_cell
def test_options(cell: str) -> None:
    check(cell, wrong_options())


@every_cell
def test_unknown_arguments(cell: str) -> None:
    with pytest.raises(TypeError, match=cell):
        getattr(fastiter.torch, cell)(**given(cell), length=[1, 1, 1])


@every_cell
def test_one_tensor_on_another_device(cell: str) -> None:
    arguments, errors = given(cell), (*BACKEND, *VALUE)
    lengths = torch.tensor([4, 0, 2], device="meta")
    cases = [Wrong("lengths on meta", {"lengths": lengths}, errors, "lengths", "meta")]
    for name in ("wx", "a", "p", "state"):
        if isinstance(arguments.get(name), torch.Tensor):
            named = "wx|a" if name == "wx" else name
            cases.append(Wrong(f"{name} on meta", {name: arguments[name].to("meta")}, errors, named, "(cpu|meta)"))
    check(cell, cases)


@every_cell
def test_sparse_tensors(cell: str) -> None:
    arguments = given(cell)
    names = [name for name in ("wx", "a", "p", "state") if isinstance(arguments.get(name), torch.Tensor)]
    check(cell, [Wrong(n, {n: arguments[n].to_sparse()}, EITHER, n, "sparse") for n in names])
