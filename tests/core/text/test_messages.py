"""Messages about torch.nn's layouts and about options that do not exist suggest what to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastiter


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def tensor_of_ones(*shape: int) -> Any:
    return pytest.importorskip("torch").ones(shape)


B, T, H = 2, 5, 3
TORCHS: dict[str, tuple[Callable[[Any, Callable[..., Any]], Any], str]] = {
    "lstm, features": (
        lambda f, x: f.lstm(x(B, T, 4 * H), x(4, 1, H, H)),
        "(2, 5, 12); torch.nn's 4 H features are wx.reshape(2, 5, 4, 1, 3)",
    ),
    "lstm, weight": (
        lambda f, x: f.lstm(x(B, T, 4, 1, H), x(4 * H, H)),
        "(12, 3); torch.nn's is .reshape(4, 1, 3, 3)",
    ),
    "gru, bias": (
        lambda f, x: f.gru(x(B, T, 3, 1, H), x(3, 1, H, H), x(3 * H)),
        "(9,); torch.nn's is .reshape(3, 1, 3)",
    ),
    "gru, state": (
        lambda f, x: f.gru(x(B, T, 3, 1, H), x(3, 1, H, H), None, x(1, B, H)),
        "(1, 2, 3); torch.nn's are (layers, B, H), of which one layer is [0][:, None]",
    ),
    "paragru, features": (
        lambda f, x: f.paragru(x(B, T, 3 * H), x(3, H)),
        "(2, 5, 9); torch.nn's 3 H features are wx.reshape(2, 5, 3, 3)",
    ),
    "paralstm, state": (
        lambda f, x: f.paralstm(x(B, T, 3, H), x(3, H), x(2, H), (x(1, B, H), x(1, B, H))),
        "(1, 2, 3); torch.nn's are (layers, B, H), of which one layer is [0]",
    ),
    "elman, other features": (lambda f, x: f.elman(x(B, T, 0), x(1, 1, H, H)), "(2, 5, 0)"),
    "lstm, other state": (
        lambda f, x: f.lstm(x(B, T, 4, 1, H), x(4, 1, H, H), None, (x(1, 1, H), x(1, 1, H))),
        "(1, 1, 3)",
    ),
}


@pytest.mark.parametrize("case", TORCHS)
@pytest.mark.parametrize("on_tensors", [False, True])
def test_layouts_of_torch_nn(case: str, on_tensors: bool) -> None:
    if on_tensors:
        pytest.importorskip("torch")
    call, expected = TORCHS[case]
    function = case.partition(",")[0]
    module, make = (fastiter.torch, tensor_of_ones) if on_tensors else (fastiter, ones)
    with pytest.raises(ValueError, match=f"^{function}: .* must have shape .*, got {re.escape(expected)}$"):
        call(module, make)


def test_the_hints_are_right() -> None:
    """The views that the messages suggest compute torch.nn's results."""
    torch = pytest.importorskip("torch")
    layer = torch.nn.LSTM(H, H, batch_first=True, dtype=torch.float64)
    x, state = torch.randn(B, T, H, dtype=torch.float64), torch.randn(2, 1, B, H, dtype=torch.float64)
    w_ih, w_hh, b_ih, b_hh = layer.parameters()
    with torch.no_grad():
        wx = torch.nn.functional.linear(x, w_ih, b_ih).reshape(B, T, 4, 1, H)
        first = tuple(part[0][:, None] for part in state)
        h, _ = fastiter.torch.lstm(wx, w_hh.reshape(4, 1, H, H), b_hh.reshape(4, 1, H), first)
        torch.testing.assert_close(h[:, :, 0], layer(x, tuple(state))[0])


CALLS: dict[str, Callable[..., Any]] = {
    "lstm": lambda **more: fastiter.lstm(ones(B, T, 4, 1, H), ones(4, 1, H, H), **more),
    "linear_scan": lambda **more: fastiter.linear_scan(ones(H), ones(B, T, H), **more),
    "delta_scan": lambda **more: fastiter.delta_scan(*(ones(B, T, 1, H),) * 3, ones(B, T, 1), **more),
    "paragru": lambda **more: fastiter.paragru(ones(B, T, 3, H), ones(3, H), **more),
}


@pytest.mark.parametrize("function", CALLS)
def test_a_misspelt_backend_and_one_that_cannot_run(function: str) -> None:
    known = f"^{function}: backend must be one of 'cpu', 'reference'"
    for name in ("gpu", "CPU", "torch", ""):
        with pytest.raises(ValueError, match=f"{known}, got {name!r}$"):
            CALLS[function](backend=name)
    for name in ("cuda", "triton"):
        with pytest.raises(fastiter.BackendError, match=f"{known} for NumPy arrays .*, got {name!r}$"):
            CALLS[function](backend=name)


@pytest.mark.parametrize(("function", "other"), [("delta_scan", "chunk"), ("paragru", "newton")])
def test_words_are_quoted(function: str, other: str) -> None:
    known = f"^{function}: method must be one of 'auto', 'sequential', '{other}'"
    with pytest.raises(ValueError, match=f"{known}, got 'step'$"):
        CALLS[function](method="step")
    with pytest.raises(TypeError, match=f"{known}, got int$"):
        CALLS[function](method=1)


def test_matrices_are_refused() -> None:
    """``*`` of a numpy.matrix is a different product from that of an array."""
    matrix = np.ones((3, 4)).view(np.matrix)
    with pytest.raises(TypeError, match=r"^linear_scan: a must be an array \(np.asarray\(x\) is\), got numpy.matrix$"):
        fastiter.linear_scan(matrix, np.ones((1, 3, 4)))
    with pytest.raises(TypeError, match=r"^paragru: a must be an array"):
        fastiter.paragru(np.ones((1, 2, 3, 4)), matrix)
