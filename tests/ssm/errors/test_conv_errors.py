"""Wrong arguments of causal convolutions and their steps, on arrays and tensors, are refused before any work."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from fastiter import BackendError, ssm
from tests.ssm.conv_calls import conv_inputs
from tests.ssm.errors.test_errors import refused, shape
from tests.support.error_cases import TYPE, VALUE, Convert, Wrong

B, D, T, W = 2, 4, 5, 3
Cast = Callable[[Any, str], Any]


def wrong_arrays(given: dict[str, Any], cast: Cast) -> Iterator[Wrong]:
    for name, x in given.items():
        for value in (["x"], "x", {}):
            yield Wrong(f"{name} is {value!r}", {name: value}, TYPE, name, type(value).__name__)
        for dtype in ("int32", "complex64", "bool"):
            yield Wrong(f"{name} is {dtype}", {name: cast(x, dtype)}, TYPE, name, dtype)
        named, got = ("conv_state|weight", "float32") if name == "x" else (name, "float64")
        yield Wrong(f"{name} is float64", {name: cast(x, "float64")}, TYPE, named, got)
        yield Wrong(f"{name} has a rank too high", {name: x[None]}, VALUE, f"{name}|conv_state|weight", r"\(.+\)")
    for name in ("x", "weight"):
        yield Wrong(f"{name} is None", {name: None}, TYPE, name, "NoneType")
    yield Wrong("a channel too few", {"weight": given["weight"][1:]}, VALUE, "weight", shape(given["weight"][1:]))
    yield Wrong("no tap", {"weight": given["weight"][:, :0]}, VALUE, "weight", r"\(4, 0\)")
    yield Wrong("a short bias", {"bias": given["bias"][1:]}, VALUE, "bias", r"\(3,\)")
    for value in (1, True, ["silu"]):
        yield Wrong(f"activation is {value!r}", {"activation": value}, TYPE, "activation", type(value).__name__)
    for value in ("relu", "SiLU", ""):
        yield Wrong(f"activation is {value!r}", {"activation": value}, VALUE, "activation", value)


def wrong_convolutions(convert: Convert, cast: Cast, tensors: bool) -> Iterator[Wrong]:
    given = {n: convert(x) for n, x in conv_inputs(B, D, T, W, np.float32).arguments().items()}
    yield from wrong_arrays(given, cast)
    first = given["state"]
    if not tensors:
        yield Wrong("states of float16", {"state": cast(first, "float16")}, TYPE, "state", "float16")
    for y in (first[1:], first[:, 1:], first[..., 1:]):
        yield Wrong(f"state {y.shape}", {"state": y}, VALUE, "state", shape(y))
    for value in (None, 1, "yes"):
        wrong = {"return_last_state": value}
        yield Wrong(f"return_last_state is {value!r}", wrong, TYPE, "return_last_state", type(value).__name__)
    yield Wrong("a length above T", {"lengths": [T, T + 1]}, VALUE, "lengths", str(T + 1))
    yield Wrong("lengths are floats", {"lengths": [1.0, 2.0]}, TYPE, "lengths", "float")
    yield Wrong("several rows packed", {"cu_seqlens": [0, T]}, VALUE, "x", f"B = {B}")
    labels = convert(np.zeros((B, T), np.int64))
    yield Wrong("numbers and states", {"seq_idx": labels}, VALUE, "state", "both")
    alone = {"state": None, "seq_idx": labels}
    for name, value in {"lengths": [T, T], "cu_seqlens": [0, T], "return_last_state": True}.items():
        yield Wrong(f"numbers and {name}", {**alone, name: value}, VALUE, name, "both")
    for size in ((T,), (B, T + 1), (B, D, T)):
        wrong = {**alone, "seq_idx": convert(np.zeros(size, np.int64))}
        yield Wrong(f"seq_idx has shape {size}", wrong, VALUE, "seq_idx", re.escape(str(size)))
    yield Wrong("numbers of floats", {**alone, "seq_idx": convert(np.zeros((B, T)))}, TYPE, "seq_idx", "float64")
    for value in (2**31, -(2**31) - 1):
        wrong = {**alone, "seq_idx": convert(np.full((B, T), value))}
        yield Wrong(f"the number {value}", wrong, VALUE, "seq_idx", str(value))


def wrong_packings(convert: Convert) -> Iterator[Wrong]:
    for bounds, got in (([1, T], f"1 to {T}"), ([0, 3, 2, T], "falling"), ([], r"\(0,\)")):
        yield Wrong(f"cu_seqlens {bounds}", {"cu_seqlens": bounds}, VALUE, "cu_seqlens", got)
    yield Wrong("both", {"cu_seqlens": [0, T], "lengths": [T]}, VALUE, "lengths", "both")
    wrong = {"cu_seqlens": [0, 1, 2, T]}
    yield Wrong("a state too few", wrong, VALUE, "state", re.escape(str((2, D, W - 1))))


def wrong_steps(given: dict[str, Any], cast: Cast) -> Iterator[Wrong]:
    yield from wrong_arrays(given, cast)
    for y in (given["conv_state"][1:], given["conv_state"][:, 1:], given["conv_state"][..., 2:]):
        yield Wrong(f"conv_state {y.shape}", {"conv_state": y}, VALUE, "conv_state", shape(y))
    for name in ("cache_seqlens", "conv_state_indices"):
        yield Wrong(f"{name} of floats", {name: [0.0, 1.0]}, TYPE, name, "float")
        yield Wrong(f"a short {name}", {name: [0]}, VALUE, name, r"\(1,\)")
    for rows, got in (([0, B], str(B)), ([0, 0], "one twice")):
        yield Wrong(f"rows {rows}", {"conv_state_indices": rows}, VALUE, "conv_state_indices", got)


def wrong_packed_steps(convert: Convert, cast: Cast) -> Iterator[Wrong]:
    x = convert(np.zeros((T, D), np.float32))
    yield Wrong("x is a list", {"x": ["x"]}, TYPE, "x", "list")
    yield Wrong("x is int32", {"x": cast(x, "int32")}, TYPE, "x", "int32")
    yield Wrong("x with rows", {"x": x[None]}, VALUE, "x", r"\(1, 5, 4\)")
    for bounds, got in (([0, T + 1], f"0 to {T + 1}"), ([0, 3, 2, T], "falling"), ([], r"\(0,\)")):
        yield Wrong(f"cu_seqlens {bounds}", {"cu_seqlens": bounds}, VALUE, "cu_seqlens", got)
    for value in (1.0, True, None):
        yield Wrong(f"state_len is {value!r}", {"state_len": value}, TYPE, "state_len", type(value).__name__)
    yield Wrong("a negative state_len", {"state_len": -1}, VALUE, "state_len", "-1")


def step_arguments(convert: Convert) -> dict[str, Any]:
    x, weight, bias, state = (convert(y) for y in conv_inputs(B, D, 1, W, np.float32))
    return {"x": x, "conv_state": state, "weight": weight, "bias": bias}


def refuse_all(functions: Any, convert: Convert, cast: Cast, tensors: bool) -> None:
    right = {n: convert(x) for n, x in conv_inputs(B, D, T, W, np.float32).arguments().items()}
    packed = {n: convert(x) for n, x in conv_inputs(1, D, T, W, np.float32, sequences=2).arguments().items()}
    for more in ({},) if tensors else ({}, {"backend": "reference"}):
        refused(functions.causal_conv1d, {**right, **more}, wrong_convolutions(convert, cast, tensors))
        refused(functions.causal_conv1d, {**packed, **more}, wrong_packings(convert))
    step = step_arguments(convert)
    before = np.asarray(step["conv_state"]).copy()
    refused(functions.causal_conv1d_update, step, wrong_steps(step, cast))
    assert np.array_equal(np.asarray(step["conv_state"]), before)
    steps = {"x": convert(np.zeros((T, D), np.float32)), "cu_seqlens": [0, T], "state_len": 3}
    refused(functions.causal_conv1d_varlen_states, steps, wrong_packed_steps(convert, cast))


def test_arrays() -> None:
    def keep(x: Any) -> Any:
        return x

    def cast(x: Any, dtype: str) -> Any:
        return x.astype(dtype)

    refuse_all(ssm, keep, cast, False)
    for backend, error in (("cuda", BackendError), ("nonsense", ValueError)):
        with pytest.raises(error, match="causal_conv1d: backend must be one of 'cpu', 'reference'"):
            ssm.causal_conv1d(np.zeros((1, 1, 1)), np.zeros((1, 1)), backend=backend)
    step = step_arguments(keep)
    state = np.broadcast_to(step["conv_state"][:1], step["conv_state"].shape)
    with pytest.raises(ValueError, match="causal_conv1d_update: conv_state must be writable, got a read-only array"):
        ssm.causal_conv1d_update(**{**step, "conv_state": state})


@pytest.mark.filterwarnings("ignore:Casting complex values to real")
def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    import fastiter.torch

    def cast(x: Any, dtype: str) -> Any:
        return x.to(getattr(torch, dtype))

    functions = fastiter.torch.ssm
    refuse_all(functions, torch.from_numpy, cast, True)
    step = step_arguments(torch.from_numpy)
    with pytest.raises(ValueError, match="conv_state must have one place for each element, got strides"):
        functions.causal_conv1d_update(**{**step, "conv_state": step["conv_state"][:1].expand(B, D, W - 1)})
    with pytest.raises(TypeError, match="causal_conv1d: x must be a dense tensor, got layout"):
        functions.causal_conv1d(torch.zeros(1, 2, 3).to_sparse(), torch.zeros(2, 2))
