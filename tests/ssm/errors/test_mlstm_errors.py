"""Wrong arguments of mlstm, on arrays and tensors, are refused before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from fastiter import ssm
from tests.ssm.errors.test_errors import refused, shape, wrong_cuts
from tests.ssm.mlstm_calls import mlstm_inputs
from tests.support.error_cases import TYPE, VALUE, Convert, Wrong

SIZE = 2, 5, 4, 3, 6  # (B, T, N, K, V)


def arguments(convert: Convert) -> dict[str, Any]:
    made = mlstm_inputs(SIZE, np.float32, shared=2)
    state = tuple(convert(x) for x in made.pop("state"))
    return {**{n: convert(x) for n, x in made.items()}, "state": state}


def wrong_arguments(convert: Convert, cast: Callable[[Any, str], Any], tensors: bool) -> Iterator[Wrong]:
    given = arguments(convert)
    state = given.pop("state")
    for name, x in given.items():
        yield Wrong(f"{name} is a list", {name: ["x"]}, TYPE, name, "list")
        yield Wrong(f"{name} is None", {name: None}, TYPE, name, "NoneType")
        yield Wrong(f"{name} is int32", {name: cast(x, "int32")}, TYPE, name, "int32")
        named, got = ("k", "float32") if name == "q" else (name, "float64")
        yield Wrong(f"{name} is float64", {name: cast(x, "float64")}, TYPE, named, got)
        yield Wrong(f"{name} has a rank too high", {name: x[None]}, VALUE, name, shape(x[None]))
        if name in "kif":
            yield Wrong(f"{name} is short", {name: x[:, 1:]}, VALUE, name, shape(x[:, 1:]))
    for value, got in ((state[0], type(state[0]).__name__), (state[:2], "2 parts"), ("abc", "str")):
        yield Wrong(f"the state is {got}", {"state": value}, TYPE, "state", got)
    for place, part in enumerate("Cnm"):
        changed = [*state]
        name = rf"state\[{place}\]"
        changed[place] = state[place][1:]
        got = shape(changed[place])
        yield Wrong(f"{part} is short", {"state": tuple(changed)}, VALUE, f"{name}, {part},", got)
        changed[place] = cast(state[place], "float64")
        yield Wrong(f"{part} is float64", {"state": tuple(changed)}, TYPE, name, "float64")
        changed[place] = None
        yield Wrong(f"{part} is None", {"state": tuple(changed)}, TYPE, name, "NoneType")
    for name in ("scale", "eps"):
        for value, error, got in (("x", TYPE, "str"), (True, TYPE, "bool"), (np.nan, VALUE, "nan")):
            yield Wrong(f"{name} is {value!r}", {name: value}, error, name, got)
    yield Wrong("eps is negative", {"eps": -1.0}, VALUE, "eps", "-1.0")
    yield Wrong("eps is an int of many digits", {"eps": 10**400}, VALUE, "eps", "1000")
    if tensors:
        yield Wrong("a flag is 1", {"normalizer_gradient": 1}, TYPE, "normalizer_gradient", "int")
    yield from wrong_cuts(convert, "q")


def test_arrays() -> None:
    def keep(x: Any) -> Any:
        return x

    def cast(x: Any, dtype: str) -> Any:
        return x.astype(dtype)

    for backend in (None, "reference"):
        refused(ssm.mlstm, {**arguments(keep), "backend": backend}, wrong_arguments(keep, cast, False))


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    import fastiter.torch

    def cast(x: Any, dtype: str) -> Any:
        return x.to(getattr(torch, dtype))

    right = arguments(torch.from_numpy)
    refused(fastiter.torch.ssm.mlstm, right, wrong_arguments(torch.from_numpy, cast, True))
