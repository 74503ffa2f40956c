"""Wrong arguments of the scans, on arrays and on tensors: the class and a one-sentence message."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastiter
from tests.scan.calls import both_kinds, scan_inputs

B, T = 3, 5
SIZES = {"linear": (4,), "block": (2, 3)}


def arguments(kind: str) -> dict[str, Any]:
    a, x, h0 = scan_inputs(kind, B, T, SIZES[kind], np.float32)
    return {"a" if kind == "linear" else "A": a, "x": x, "state": h0, "out": np.full_like(x, np.nan)}


def wrong(kind: str) -> list[tuple[dict[str, Any], type[Exception], str]]:
    """Yield (changed arguments, error class, the argument named in the message)."""
    right = arguments(kind)
    a, x, h0 = (right["a" if kind == "linear" else "A"], right["x"], right["state"])
    name = "a" if kind == "linear" else "A"
    locked = np.zeros_like(x)
    locked.flags.writeable = False
    whole = {"out": None, "state": None}
    return [
        ({"x": ["x", "x"]}, TypeError, "x"),
        ({"x": x.astype(np.int64)}, TypeError, "x"),
        ({"x": x.astype(np.float16)}, TypeError, "x"),
        ({"x": x[0], **whole}, ValueError, "x"),
        ({"x": x[..., None], **whole}, ValueError, "x"),
        ({name: None}, TypeError, name),
        ({name: a.astype(np.float64)}, TypeError, name),
        ({name: a[..., :-1]}, ValueError, name),
        ({name: np.concatenate([a, a])}, ValueError, name),
        ({name: a[None]}, ValueError, name),
        ({"state": h0.astype(np.float64)}, TypeError, "state"),
        ({"state": h0[:-1]}, ValueError, "state"),
        ({"state": h0[0]}, ValueError, "state"),
        ({"reverse": 1}, TypeError, "reverse"),
        ({"reset": np.zeros((B, T))}, TypeError, "reset"),
        ({"reset": [1] * T}, TypeError, "reset"),
        ({"reset": np.zeros((T, B), bool)}, ValueError, "reset"),
        ({"lengths": [1, 2]}, ValueError, "lengths"),
        ({"lengths": [1, 2, T + 1]}, ValueError, "lengths"),
        ({"lengths": [1, 2, -1]}, ValueError, "lengths"),
        ({"lengths": [1.0, 2.0, 3.0]}, TypeError, "lengths"),
        ({"cu_seqlens": [0, T]}, ValueError, "B = 1"),
        ({"cu_seqlens": [0, T], "lengths": [T] * B}, ValueError, "lengths"),
        ({"out": np.zeros((B, T, 1), np.float32)}, ValueError, "out"),
        ({"out": np.zeros(x.shape)}, TypeError, "out"),
        ({"out": locked}, ValueError, "out"),
        ({"out": "x"}, ValueError, "memory of x"),
        ({"backend": "gpu"}, ValueError, "backend"),
        ({"backend": "cuda"}, fastiter.BackendError, "backend"),
        ({"backend": 3}, TypeError, "backend"),
    ]


@both_kinds
def test_wrong_arguments_of_arrays(kind: str) -> None:
    for changes, error, name in wrong(kind):
        given = {**arguments(kind), **changes}
        if isinstance(changes.get("out"), str):
            given["out"] = given["x"]
        with pytest.raises(error) as raised:
            getattr(fastiter, f"{kind}_scan")(**given)
        message = str(raised.value)
        assert message.startswith(f"{kind}_scan: ") and name in message and ", got " in message, message
        if "out" not in changes:
            assert np.isnan(given["out"]).all(), message


@both_kinds
def test_wrong_bounds_of_packed_rows(kind: str) -> None:
    right = {k: v[:1] for k, v in arguments(kind).items() if k != "state"}
    for bounds, error in (
        ([0, 2], ValueError),
        ([1, T], ValueError),
        ([0, 3, 2, T], ValueError),
        ([], ValueError),
        ([[0, T]], ValueError),
        ([0.0, float(T)], TypeError),
    ):
        with pytest.raises(error, match=f"{kind}_scan: cu_seqlens must"):
            getattr(fastiter, f"{kind}_scan")(**right, cu_seqlens=bounds)
    with pytest.raises(ValueError, match="state must have shape"):
        getattr(fastiter, f"{kind}_scan")(**right, cu_seqlens=[0, 2, T], state=arguments(kind)["state"])


@both_kinds
def test_blocks_have_a_largest_size(kind: str) -> None:
    if kind == "linear":
        x = np.zeros((1, 1, 1000), np.float32)
        assert fastiter.linear_scan(x, x)[0].shape == x.shape
        return
    x = np.zeros((1, 1, 1, 17), np.float32)
    with pytest.raises(ValueError, match="block_scan: x must have blocks of K = 1 to 16"):
        fastiter.block_scan(np.zeros((1, 17, 17), np.float32), x)


@both_kinds
def test_wrong_arguments_of_tensors(kind: str) -> None:
    torch = pytest.importorskip("torch")
    import fastiter.torch

    function = getattr(fastiter.torch, f"{kind}_scan")

    def tensor(y: Any) -> Any:
        return torch.from_numpy(np.array(y)) if isinstance(y, np.ndarray) else y

    for changes, error, name in wrong(kind):
        place = changes.get("out")
        if "backend" in changes or (isinstance(place, np.ndarray) and not place.flags.writeable):
            continue  # tensor functions have no backend option and no read-only memory
        given = {k: tensor(v) for k, v in {**arguments(kind), **changes}.items()}
        if isinstance(place, str):
            given["out"] = given["x"]
        with pytest.raises(error) as raised:
            function(**given)
        message = str(raised.value)
        assert message.startswith(f"{kind}_scan: ") and name in message and ", got " in message, message
        if "out" not in changes:
            assert given["out"].isnan().all(), message
    right = {k: tensor(v) for k, v in arguments(kind).items()}
    with pytest.raises(RuntimeError, match="out must be None if an argument requires a gradient"):
        function(**{**right, "x": right["x"].requires_grad_()})
    with pytest.raises(fastiter.BackendError, match=f"{kind}_scan: state must be on device"):
        function(**{**right, "out": None, "state": right["state"].to("meta")})
    with pytest.raises(TypeError, match=f"{kind}_scan: x must be a torch.Tensor"):
        function(**{**right, "x": arguments(kind)["x"]})
