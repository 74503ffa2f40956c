"""The path to a GPU kernel, on tensors with a device but without memory: dispatch, autocast, layers.

Kernels do not run: the ops' fake versions describe their results. torch itself reports mixed devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

import fastiter.torch  # noqa: E402
from fastiter._torch import ops  # noqa: E402
from fastiter.torch import nn  # noqa: E402

STATES = {"lstm": 2, "gru": 1, "elman": 1, "slstm": 4}
GATES = {"lstm": 4, "gru": 3, "elman": 1, "slstm": 4}
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


@pytest.fixture(autouse=True)
def fake_tensors() -> Iterator[None]:
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        yield


@pytest.fixture
def autocast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Enable autocast to bfloat16 for CUDA, which torch.autocast disables on a machine without a card."""
    dtype = torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", BF16)
    yield
    torch.set_autocast_enabled("cuda", False)
    torch.set_autocast_dtype("cuda", dtype)


def empty(*shape: int, dtype: Any = F32) -> Any:
    return torch.empty(shape, dtype=dtype, device="cuda")


def on_card(module: Any) -> Any:
    for part in module.modules():
        for name, x in part._parameters.items():
            part._parameters[name] = None if x is None else empty(*x.shape, dtype=x.dtype)
    return module


def call(cell: str, dtype: Any, state: Any = None, dtype_r: Any = None) -> Any:
    wx, r = empty(2, 3, GATES[cell], 1, 5, dtype=dtype), empty(GATES[cell], 1, 5, 5, dtype=dtype_r or dtype)
    return getattr(fastiter.torch, cell)(wx, r, state=state)


@pytest.mark.parametrize("dtype", [BF16, F16])
@pytest.mark.parametrize("cell", STATES)
def test_states_of_halves_continue_a_sequence(cell: str, dtype: Any) -> None:
    h, last = call(cell, dtype)
    assert h.is_cuda and [s.dtype for s in last] == [dtype, *[F32] * (STATES[cell] - 1)]
    h, _ = call(cell, dtype, state=last)
    assert h.is_cuda and h.dtype == dtype


def test_cells_that_are_halves_are_refused() -> None:
    low = empty(2, 1, 5, dtype=F16)
    with pytest.raises(
        TypeError, match=r"^lstm: state c must have dtype torch.float32 to go with float16 wx, got torch.float16$"
    ):
        call("lstm", F16, state=(low, low))
    with pytest.raises(fastiter.BackendError, match="lstm: state c must be on device cuda:0 like wx, got cpu"):
        call("lstm", F16, state=(low, torch.zeros(2, 1, 5)))


@pytest.mark.parametrize("cell", STATES)
def test_functions_under_autocast(cell: str, autocast: None) -> None:
    first = (empty(2, 1, 5),) * STATES[cell]
    h, last = call(cell, BF16, state=first, dtype_r=F32)
    assert h.is_cuda and h.dtype == BF16 and {s.dtype for s in last[1:]} <= {F32}


def test_flashrnn_under_autocast(autocast: None) -> None:
    states, last = fastiter.torch.flashrnn(empty(2, 3, 4, 1, 5), empty(4, 1, 5, 5), empty(4, 1, 5))
    assert states.is_cuda and states.dtype == last.dtype == BF16


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "sLSTM"])
def test_modules_under_autocast(kind: str, autocast: None) -> None:
    module = on_card(getattr(nn, kind)(3, 4, num_layers=2, device="meta"))
    y, last = module(empty(5, 2, 3))
    last = last if isinstance(last, tuple) else (last,)
    assert y.dtype == last[0].dtype == (F32 if kind == "GRU" else BF16)  # same as torch's
    assert [s.dtype for s in last[1:]] == {"LSTM": [BF16], "sLSTM": [F32] * 3}.get(kind, [])
    assert all(x.is_cuda for x in (y, *last))


LAYERS = [
    ("ParaGRU", {}),
    ("ParaGRU", {"method": "newton", "num_heads": 1}),
    ("ParaLSTM", {"bias": False}),
    ("LinearRNN", {}),
    ("LinearRNN", {"eigenvalues": "complex"}),
]


@pytest.mark.parametrize(("kind", "how"), LAYERS)
def test_layers(kind: str, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = on_card(getattr(nn, kind)(3, 4, device="meta", **how)), empty(5, 2, 3)
    y, state = layer(x)
    assert y.is_cuda and y.shape == (5, 2, 4)
    y, state = layer.step(empty(2, 3), state)
    monkeypatch.setattr(ops, "is_compiling", lambda: True)  # the lengths of tensors without memory cannot be checked
    y, state = layer(x, lengths=[5, 3])
    assert y.is_cuda and y.shape == (5, 2, 4)
    with pytest.raises(fastiter.BackendError, match=f"{kind}: input must be on cuda:0 like the parameters, got cpu"):
        layer(torch.zeros(5, 2, 3))


def test_projections_under_autocast(autocast: None) -> None:
    layer = on_card(nn.LinearRNN(3, 4, device="meta"))
    y, h = layer(empty(5, 2, 3, dtype=BF16))
    assert (y.dtype, h.dtype) == (BF16, F32)


@pytest.mark.parametrize("name", ["ParaGRU", "ParaLSTM"])
def test_layers_without_kernels_for_cut_rows_refuse_them(name: str) -> None:
    layer = on_card(getattr(nn, name)(3, 5))
    assert layer(empty(4, 2, 3))[0].shape == (4, 2, 5)
    for option, value in (("reset", empty(4, dtype=torch.bool)), ("cu_seqlens", [0, 1, 4])):
        message = f"^{name}: {option} must be None on a CUDA device, got {option}$"
        with pytest.raises(fastiter.BackendError, match=message):
            layer(empty(4, 3), **{option: value})


def test_delta_scan_of_halves_has_a_float32_state() -> None:
    q, beta = empty(2, 3, 1, 4, dtype=BF16), empty(2, 3, 1, dtype=BF16)
    o, last = fastiter.torch.delta_scan(q, q, q, beta, decay=beta)
    assert (o.dtype, last.dtype, last.shape) == (BF16, F32, (2, 1, 4, 4))
    with pytest.raises(TypeError, match=r"state must have dtype torch.float32.*got torch.bfloat16"):
        fastiter.torch.delta_scan(q, q, q, beta, empty(2, 1, 4, 4, dtype=BF16))
    with pytest.raises(TypeError, match=r"v must have dtype torch.bfloat16.*got torch.float32"):
        fastiter.torch.delta_scan(q, q, empty(2, 3, 1, 4), beta)
