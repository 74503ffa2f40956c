"""Wrong arguments of selective_scan and selective_state_update, on arrays and tensors, are refused before any work."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from fastiter import BackendError, ssm
from tests.ssm.calls import scan_inputs
from tests.ssm.test_arrays import step_inputs
from tests.support.error_cases import TYPE, VALUE, Convert, Wrong, assert_all_refused

B, D, T, N = 2, 4, 5, 3
SIGNALS, WEIGHTS = ("u", "delta", "z"), ("A", "D", "delta_bias", "state")


def shape(x: Any) -> str:
    return re.escape(str(tuple(x.shape)))


def wrong_scans(convert: Convert, cast: Callable[[Any, str], Any], tensors: bool) -> Iterator[Wrong]:
    given = {n: convert(x) for n, x in scan_inputs(B, D, T, N, np.float32).arguments().items()}
    for name, x in given.items():
        for value in (["x"], "x", {}, *([1.0] if tensors else [])):
            yield Wrong(f"{name} is {value!r}", {name: value}, TYPE, name, type(value).__name__)
        for dtype in ("int32", "complex64", "bool"):
            # a complex state is required then, but the initial one is real
            of_state = name == "A" and dtype == "complex64"
            named, got = ("state", "float32") if of_state else (name, dtype)
            yield Wrong(f"{name} is {dtype}", {name: cast(x, dtype)}, TYPE, named, got)
        named, got = ("delta|A", "float32") if name == "u" else (name, "float64")
        yield Wrong(f"{name} is float64", {name: cast(x, "float64")}, TYPE, named, got)
        if name in WEIGHTS and not tensors:
            yield Wrong(f"{name} is float16", {name: cast(x, "float16")}, TYPE, name, "float16")
        yield Wrong(f"{name} has a rank too high", {name: x[None]}, VALUE, name, shape(x[None]))
        for axis in range(x.ndim):
            if name == "u" or (name == "A" and axis) or (name in "BC" and axis == 1):
                continue  # another argument does not match it then
            y = x[(*[slice(None)] * axis, slice(1, None))]
            yield Wrong(f"{name} is short in axis {axis}", {name: y}, VALUE, name, shape(y))
    for name in ("B", "C"):
        y = given[name].repeat(1, 3, 1, 1) if tensors else np.repeat(given[name], 3, 1)
        yield Wrong(f"{name} has groups that do not divide D", {name: y}, VALUE, name, shape(y))
        y = given[name].repeat(1, 2, 1, 1) if tensors else np.repeat(given[name], 2, 1)
        yield Wrong(f"{name} has more groups", {name: y}, VALUE, "C", "1" if name == "B" else "2")
    for name in ("u", "A", "B"):
        yield Wrong(f"{name} is None", {name: None}, TYPE, name, "NoneType")
    yield from wrong_options(convert)


def wrong_complex_scans(convert: Convert, cast: Callable[[Any, str], Any]) -> Iterator[Wrong]:
    for name in ("A", "state", "B"):
        x = convert(getattr(scan_inputs(B, D, T, N, np.float32, is_complex=True, fixed="B"), name))
        yield Wrong(f"{name} is complex128", {name: cast(x, "complex128")}, TYPE, name, "complex128")
        if name != "A":
            yield Wrong(f"{name} is real", {name: x.real}, TYPE, name, "float32")
    for name, x in scan_inputs(B, D, T, N, np.float32)._asdict().items():
        if name in ("B", "C"):
            yield Wrong(f"{name} has real numbers", {name: convert(x)}, VALUE, name, shape(x))
        elif name not in ("A", "state"):
            yield Wrong(f"{name} is complex", {name: cast(convert(x), "complex64")}, TYPE, name, "complex64")


def wrong_options(convert: Convert) -> Iterator[Wrong]:
    for name in ("delta_softplus", "return_last_state"):
        for value in (None, 1, "yes"):
            yield Wrong(f"{name} is {value!r}", {name: value}, TYPE, name, type(value).__name__)
    yield from wrong_cuts(convert, "u")


def wrong_cuts(convert: Convert, first: str) -> Iterator[Wrong]:
    """Wrong resets and lengths of B rows of T steps; `first`: the argument that has these rows."""
    for size in ((T + 1,), (B, T + 1), (B,), (B, T, 1)):
        flags = convert(np.zeros(size, bool))
        yield Wrong(f"reset has shape {size}", {"reset": flags}, VALUE, "reset", re.escape(str(size)))
    yield Wrong("reset is int64", {"reset": convert(np.zeros((B, T), np.int64))}, TYPE, "reset", "int64")
    yield Wrong("reset is a list", {"reset": [1] * T}, TYPE, "reset", "list")
    yield Wrong("a length above T", {"lengths": [T, T + 1]}, VALUE, "lengths", str(T + 1))
    yield Wrong("a negative length", {"lengths": [T, -1]}, VALUE, "lengths", "-1")
    yield Wrong("a length too few", {"lengths": [T]}, VALUE, "lengths", r"\(1,\)")
    yield Wrong("lengths are floats", {"lengths": [1.0, 2.0]}, TYPE, "lengths", "float")
    yield Wrong("several rows packed", {"cu_seqlens": [0, T]}, VALUE, first, f"B = {B}")


def wrong_packings(convert: Convert) -> Iterator[Wrong]:
    for bounds, got in (
        ([1, T], f"1 to {T}"),
        ([0, T - 1], f"0 to {T - 1}"),
        ([0, 3, 2, T], "falling"),
        ([], r"\(0,\)"),
    ):
        yield Wrong(f"cu_seqlens {bounds}", {"cu_seqlens": bounds}, VALUE, "cu_seqlens", got)
    yield Wrong("both", {"cu_seqlens": [0, T], "lengths": [T]}, VALUE, "lengths", "both")
    yield Wrong("a state too few", {"cu_seqlens": [0, 1, 2, T]}, VALUE, "state", re.escape(str((2, D, N))))


def wrong_steps(convert: Convert, cast: Callable[[Any, str], Any]) -> Iterator[Wrong]:
    given = {
        n: convert(x) if isinstance(x, np.ndarray) else x for n, x in step_inputs(B, (D,), N, 1, np.float32).items()
    }
    for name, x in given.items():
        if name == "dt_softplus":
            continue
        yield Wrong(f"{name} is a list", {name: [1.0] if name == "state" else ["x"]}, TYPE, name, "list")
        for dtype in ("int32", "complex64"):
            yield Wrong(f"{name} is {dtype}", {name: cast(x, dtype)}, TYPE, name, dtype)
        named, got = ("dt|A|state", "float32") if name == "x" else (name, "float64")
        yield Wrong(f"{name} is float64", {name: cast(x, "float64")}, TYPE, named, got)
        yield Wrong(f"{name} has a rank too high", {name: x[None]}, VALUE, "state" if name == "x" else name, r"\(.+\)")
        y = x[1:]
        yield Wrong(f"{name} is short", {name: y}, VALUE, "state" if name == "x" else name, r"\(?.+\)?")
    yield Wrong("groups without heads", {"B": convert(np.zeros((B, 2, N), np.float32))}, VALUE, "B", r"\(2, 2, 3\)")
    yield Wrong("dt_softplus is 1", {"dt_softplus": 1}, TYPE, "dt_softplus", "int")
    for rows, got in (([0, B], str(B)), ([0, 0], "one twice")):
        yield Wrong(f"rows {rows}", {"state_batch_indices": rows}, VALUE, "state_batch_indices", got)
    yield Wrong("rows are floats", {"state_batch_indices": [0.0, 1.0]}, TYPE, "state_batch_indices", "float")
    yield Wrong("a row too few", {"state_batch_indices": [0]}, VALUE, "state_batch_indices", r"\(1,\)")


def refused(function: Callable[..., Any], right: dict[str, Any], cases: Iterator[Wrong]) -> None:
    name = function.__name__
    assert_all_refused(name, ((w, lambda w=w: function(**{**right, **w.changes})) for w in cases))


def packed(convert: Convert) -> dict[str, Any]:
    return {n: convert(x) for n, x in scan_inputs(1, D, T, N, np.float32, sequences=2).arguments().items()}


def test_arrays() -> None:
    def keep(x: Any) -> Any:
        return x

    def cast(x: Any, dtype: str) -> Any:
        return x.astype(dtype)

    right = scan_inputs(B, D, T, N, np.float32).arguments()
    for backend in (None, "reference"):
        refused(ssm.selective_scan, {**right, "backend": backend}, wrong_scans(keep, cast, False))
        refused(ssm.selective_scan, {**packed(keep), "backend": backend}, wrong_packings(keep))
        rotating = scan_inputs(B, D, T, N, np.float32, is_complex=True).arguments()
        refused(ssm.selective_scan, {**rotating, "backend": backend}, wrong_complex_scans(keep, cast))
    for backend, error in (("cuda", BackendError), ("nonsense", ValueError)):
        with pytest.raises(error, match="selective_scan: backend must be one of 'cpu', 'reference'"):
            ssm.selective_scan(**right, backend=backend)
    step = step_inputs(B, (D,), N, 1, np.float32)
    before = step["state"].copy()
    refused(ssm.selective_state_update, step, wrong_steps(keep, cast))
    assert np.array_equal(step["state"], before)
    for state, got in ((np.broadcast_to(before[:1], before.shape), "read-only"),):
        with pytest.raises(ValueError, match=f"selective_state_update: state must be writable, got a {got} array"):
            ssm.selective_state_update(**{**step, "state": state})
    with pytest.raises(ValueError, match="state must not share memory with the inputs, got the memory of B"):
        ssm.selective_state_update(**{**step, "B": step["state"][:, 0]})


@pytest.mark.filterwarnings("ignore:Casting complex values to real")
def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    import fastiter.torch

    def cast(x: Any, dtype: str) -> Any:
        return x.to(getattr(torch, dtype))

    right = {n: torch.from_numpy(x) for n, x in scan_inputs(B, D, T, N, np.float32).arguments().items()}
    refused(fastiter.torch.ssm.selective_scan, right, wrong_scans(torch.from_numpy, cast, True))
    refused(fastiter.torch.ssm.selective_scan, packed(torch.from_numpy), wrong_packings(torch.from_numpy))
    rotating = scan_inputs(B, D, T, N, np.float32, is_complex=True).arguments()
    rotating = {n: torch.from_numpy(x) for n, x in rotating.items()}
    refused(fastiter.torch.ssm.selective_scan, rotating, wrong_complex_scans(torch.from_numpy, cast))
    step = {
        n: torch.from_numpy(x) if isinstance(x, np.ndarray) else x
        for n, x in step_inputs(B, (D,), N, 1, np.float32).items()
    }
    refused(fastiter.torch.ssm.selective_state_update, step, wrong_steps(torch.from_numpy, cast))
    with pytest.raises(ValueError, match="state must have one place for each element, got strides"):
        fastiter.torch.ssm.selective_state_update(**{**step, "state": step["state"][:1].expand(B, D, N)})
    state = step["state"]
    within = {"x": state[..., 0], "dt": state[..., 0], "A": state[0], "B": state[:, 0], "C": state[:, 0]}
    for name, y in within.items():  # an input that is overwritten while being read
        for grad in (torch.no_grad(), torch.enable_grad()):
            with grad, pytest.raises(ValueError, match=f"state must not share memory .* got the memory of {name}$"):
                fastiter.torch.ssm.selective_state_update(**{**step, name: y})
    with pytest.raises(TypeError, match="selective_scan: u must be a dense tensor, got layout"):
        fastiter.torch.ssm.selective_scan(**{**right, "u": right["u"].to_sparse()})
