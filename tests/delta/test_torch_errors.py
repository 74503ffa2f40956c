"""Wrong arguments of delta_scan on tensors: the class, and a one-sentence message."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter.torch  # noqa: E402
from tests.delta.error_cases import (  # noqa: E402
    FUNCTION,
    NAMES,
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
from tests.rnn.test_torch_errors import BACKEND, cast, in_torch, tensor  # noqa: E402
from tests.support.error_cases import EITHER, TYPE, VALUE, B, T, Wrong, assert_tensors_refused, wrong_lengths  # noqa: E402


def check(cases: Iterable[Wrong], right: dict[str, Any] | None = None) -> None:
    assert_tensors_refused(fastiter.torch.delta_scan, valid(tensor) if right is None else right, cases, "beta")


def test_types_and_dtypes() -> None:
    given = valid(tensor)
    check(wrong_types(given))
    check(wrong_dtypes(given, cast, ["int64", "int32", "uint8", "bool", "float16", "bfloat16", "complex64"]))
    check([Wrong(f"{n} is an array", {n: given[n].numpy()}, TYPE, n, "ndarray") for n in NAMES])
    check([Wrong("reset is an array", {"reset": np.zeros(T, bool)}, TYPE, "reset", "ndarray")])


def test_shapes() -> None:
    check(in_torch(wrong_shapes(valid(tensor))))
    check(in_torch(empty_sizes(valid(tensor), valid(tensor, 2))))


def test_options() -> None:
    check(wrong_methods())
    check(in_torch(wrong_resets(tensor)))


def test_rows() -> None:
    check(in_torch(wrong_lengths(torch.tensor)))
    for x in (torch.tensor([5, 0, 2]), np.array([5, 0, 2]), torch.tensor([5, 0, 2], dtype=torch.uint8)):
        check([Wrong(str(x), {"lengths": x}, VALUE, "lengths", "5")])
    check([Wrong("cu_seqlens with several rows", {"cu_seqlens": [0, 2, T]}, VALUE, "q", f"B = {B}")])
    check(in_torch(wrong_bounds(torch.tensor)), packed(tensor))


def test_unknown_arguments() -> None:
    for more in ({"outs": torch.empty(3)}, {"backend": "cpu"}):
        with pytest.raises(TypeError, match=FUNCTION):
            fastiter.torch.delta_scan(**valid(tensor), **more)


def test_devices_and_layouts() -> None:
    given, errors = valid(tensor), (*BACKEND, *VALUE)
    cases = [Wrong(f"{n} on meta", {n: given[n].to("meta")}, errors, "q|k" if n == "q" else n, "") for n in NAMES]
    for name, y in (("lengths", torch.tensor([4, 0, 2])), ("reset", torch.zeros(T, dtype=torch.bool))):
        cases.append(Wrong(f"{name} on meta", {name: y.to("meta")}, errors, name, "meta"))
        cases.append(Wrong(f"{name} is sparse", {name: y.to_sparse()}, (*EITHER, *BACKEND), name, "sparse"))
    check(cases)
    check([Wrong(f"{name} is sparse", {name: given[name].to_sparse()}, EITHER, name, "sparse") for name in NAMES])
    bounds = torch.tensor([0, 2, T], device="meta")
    check([Wrong("cu_seqlens on meta", {"cu_seqlens": bounds}, errors, "cu_seqlens", "meta")], packed(tensor))
