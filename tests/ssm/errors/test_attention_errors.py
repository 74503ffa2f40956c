"""Wrong arguments of linear_attention, on arrays and tensors, are refused before any work."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from fastiter import BackendError, ssm
from tests.ssm.attention_calls import attention_inputs
from tests.ssm.errors.test_errors import refused, shape, wrong_cuts
from tests.support.error_cases import TYPE, VALUE, Convert, Wrong

B, T, N, K, V = SIZE = 2, 5, 4, 3, 6


def arguments(convert: Convert, sequences: int | None = None) -> dict[str, Any]:
    size = (1, *SIZE[1:]) if sequences else SIZE
    inputs = attention_inputs(size, np.float32, "vector", shared=2, bonus=True, sequences=sequences)
    return {n: convert(x) for n, x in inputs.arguments().items()}


def wrong_arrays(convert: Convert, cast: Callable[[Any, str], Any], tensors: bool) -> Iterator[Wrong]:
    given = arguments(convert)
    for name, x in given.items():
        for value in (["x"], "x", {}, *([1.0] if tensors else [])):
            yield Wrong(f"{name} is {value!r}", {name: value}, TYPE, name, type(value).__name__)
        for dtype in ("int32", "complex64", "bool"):
            yield Wrong(f"{name} is {dtype}", {name: cast(x, dtype)}, TYPE, name, dtype)
        named, got = ("k", "float32") if name == "q" else (name, "float64")
        yield Wrong(f"{name} is float64", {name: cast(x, "float64")}, TYPE, named, got)
        if name in ("bonus", "state") and not tensors:
            yield Wrong(f"{name} is float16", {name: cast(x, "float16")}, TYPE, name, "float16")
        yield Wrong(f"{name} has a rank too high", {name: x[None]}, VALUE, name, shape(x[None]))
        for axis in range(x.ndim):
            if name == "q" or (name == "v" and axis > 1):
                continue  # another argument does not match it then
            y = x[(*[slice(None)] * axis, slice(1, None))]
            yield Wrong(f"{name} is short in axis {axis}", {name: y}, VALUE, name, shape(y))
    for heads in (0, 3):
        y = given["v"][:, :, :heads]
        yield Wrong(f"v has {heads} heads", {"v": y}, VALUE, "v", shape(y))
    for name in ("q", "k", "v"):
        yield Wrong(f"{name} is None", {name: None}, TYPE, name, "NoneType")
    yield Wrong("two decays", {"decay": given["log_decay"]}, VALUE, "decay", "both")
    for value, error, got in (("x", TYPE, "str"), (True, TYPE, "bool"), (None, TYPE, "NoneType")):
        yield Wrong(f"scale is {value!r}", {"scale": value}, error, "scale", got)
    for number in (np.inf, np.nan, 10**400, 1e300, -3.5e38):  # the last two are infinite in float32
        yield Wrong(f"scale is {str(number)[:4]}", {"scale": number}, VALUE, "scale", re.escape(str(number)[:9]))
    yield from wrong_cuts(convert, "q")


def wrong_packings() -> Iterator[Wrong]:
    yield Wrong("falling bounds", {"cu_seqlens": [0, 3, 2, T]}, VALUE, "cu_seqlens", "falling")
    yield Wrong("both", {"cu_seqlens": [0, T], "lengths": [T]}, VALUE, "lengths", "both")
    yield Wrong("a state too few", {"cu_seqlens": [0, 1, 2, T]}, VALUE, "state", re.escape(str((2, N, K, V))))


def test_arrays() -> None:
    def keep(x: Any) -> Any:
        return x

    def cast(x: Any, dtype: str) -> Any:
        return x.astype(dtype)

    for backend in (None, "reference"):
        right = {**arguments(keep), "backend": backend}
        refused(ssm.linear_attention, right, wrong_arrays(keep, cast, False))
        refused(ssm.linear_attention, {**arguments(keep, 2), "backend": backend}, wrong_packings())
    with pytest.raises(BackendError, match="linear_attention: backend must be one of 'cpu', 'reference'"):
        ssm.linear_attention(**arguments(keep), backend="cuda")


@pytest.mark.filterwarnings("ignore:Casting complex values to real")
def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    import fastiter.torch

    def cast(x: Any, dtype: str) -> Any:
        return x.to(getattr(torch, dtype))

    attend = fastiter.torch.ssm.linear_attention
    refused(attend, arguments(torch.from_numpy), wrong_arrays(torch.from_numpy, cast, True))
    refused(attend, arguments(torch.from_numpy, 2), wrong_packings())
    sparse = {**arguments(torch.from_numpy), "q": torch.zeros(B, T, N, K).to_sparse()}
    with pytest.raises(TypeError, match="linear_attention: q must be a dense tensor, got layout"):
        attend(**sparse)
    for name, message in (("q", "k must be on device meta like q, got cpu"), ("v", "v must be on device cpu like q")):
        given = arguments(torch.from_numpy)
        with pytest.raises(BackendError, match=f"^linear_attention: {message}"):
            attend(**{**given, name: given[name].to("meta")})
