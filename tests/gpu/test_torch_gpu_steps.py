"""Devices of lengths, cu_seqlens and resets with tensors on a GPU, tested on tensors without memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

import fastiter  # noqa: E402
import fastiter.torch as ft  # noqa: E402
import fastiter.torch.nn as fnn  # noqa: E402
from fastiter._torch import launch  # noqa: E402

B, T, H = 3, 7, 4


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():  # autograd needs the streams of the device, which is absent
        yield


def held(numbers: list[int], time: int) -> list[int]:
    return launch.clamped_lengths(torch.tensor(numbers), time).tolist()


def test_numbers_on_a_gpu_are_clamped_to_their_range() -> None:
    assert held([-5, 0, 3, 7, 8, 1 << 40], 7) == [0, 0, 3, 7, 7, 7]
    for numbers, expected in (
        ([0, 2, 5, 7], [0, 2, 5, 7]),  # valid ones are unchanged
        ([3, 2, 9, -1, 5], [0, 2, 7, 7, 7]),
        ([0, 5, 2, 7], [0, 5, 5, 7]),
        ([1, 1], [0, 7]),
        ([4], [0]),
    ):
        assert launch.clamped_bounds(torch.tensor(numbers), 7).tolist() == expected


def rnn(cell: str, gates: int, x: Any, count: int, **cut: Any) -> Any:
    wx = x.new_empty(*x.shape[:2], gates, 1, H)
    return getattr(ft, cell)(wx, x.new_empty(gates, 1, H, H), **cut)[0]


CALLS: dict[str, Callable[..., Any]] = {
    "lstm": lambda x, count, **cut: rnn("lstm", 4, x, count, **cut),
    "gru": lambda x, count, **cut: rnn("gru", 3, x, count, **cut),
    "elman": lambda x, count, **cut: rnn("elman", 1, x, count, **cut),
    "slstm": lambda x, count, **cut: rnn("slstm", 4, x, count, **cut),
    "linear_scan": lambda x, count, **cut: ft.linear_scan(x, x, x.new_empty(count, H), **cut)[0],
    "block_scan": lambda x, count, **cut: ft.block_scan(
        x.new_empty(*x.shape[:2], 2, 2, 2), x.unflatten(2, (2, 2)), **cut
    )[0],
    "delta_scan": lambda x, count, **cut: ft.delta_scan(*[x.unsqueeze(2)] * 3, x.narrow(2, 0, 1), **cut)[0],
    "paragru": lambda x, count, **cut: ft.paragru(x.new_empty(*x.shape[:2], 3, H), x.new_empty(3, H), **cut)[0],
    "paralstm": lambda x, count, **cut: ft.paralstm(
        x.new_empty(*x.shape[:2], 3, H), x.new_empty(3, H), x.new_empty(2, H), **cut
    )[0],
}
PACKING = [name for name in CALLS if not name.startswith("para")]


@pytest.mark.parametrize("name", CALLS)
def test_lengths_may_be_on_the_card(name: str) -> None:
    with FakeTensorMode():
        x = torch.empty(B, T, H, device="cuda")
        y = CALLS[name](x, B, lengths=torch.empty(B, dtype=torch.int32, device="cuda"))
    assert y.device == x.device and y.shape[:2] == (B, T)


@pytest.mark.parametrize("name", PACKING)
def test_bounds_may_be_on_the_card(name: str) -> None:
    with FakeTensorMode():
        x = torch.empty(1, T, H, device="cuda")
        y = CALLS[name](x, 2, cu_seqlens=torch.empty(3, dtype=torch.int32, device="cuda"))
    assert y.device == x.device and y.shape[:2] == (1, T)


@pytest.mark.parametrize("name", CALLS)
def test_shapes_are_checked_on_the_card_too(name: str) -> None:
    with FakeTensorMode():
        x, lengths = torch.empty(B, T, H, device="cuda"), torch.empty(B + 1, dtype=torch.int64, device="cuda")
        with pytest.raises(ValueError, match=rf"{name}: lengths must have shape \(B,\) = \(3,\), got \(4,\)"):
            CALLS[name](x, B, lengths=lengths)


@pytest.mark.parametrize("name", CALLS)
def test_numbers_on_a_gpu_with_tensors_on_the_cpu_are_refused(name: str) -> None:
    with FakeTensorMode():
        x, lengths = torch.empty(B, T, H), torch.empty(B, dtype=torch.int64, device="cuda")
        with pytest.raises(fastiter.BackendError, match=f"{name}: lengths must be on the CPU, got device cuda:0"):
            CALLS[name](x, B, lengths=lengths)


LAYERS: dict[str, Callable[[], Any]] = {
    "LSTM": lambda: fnn.LSTM(H, H, num_layers=2, bidirectional=True, proj_size=2),
    "GRU": lambda: fnn.GRU(H, H, bidirectional=True, batch_first=True),
    "RNN": lambda: fnn.RNN(H, H),
    "sLSTM": lambda: fnn.sLSTM(H, H, num_heads=2),
    "LinearRNN": lambda: fnn.LinearRNN(H, H),
    "DeltaNet": lambda: fnn.DeltaNet(H, H, num_heads=2, conv_size=0),
    "ParaGRU": lambda: fnn.ParaGRU(H, H),
    "ParaLSTM": lambda: fnn.ParaLSTM(H, H),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    layer = LAYERS[name]()
    with FakeTensorMode():
        weights = {key: torch.empty(value.shape, device="cuda") for key, value in layer.named_parameters()}
        x = torch.empty(B, T, H, device="cuda")
        x = x if layer.batch_first else x.transpose(0, 1)
        lengths = torch.empty(B, dtype=torch.int64, device="cuda")
        y, state = torch.func.functional_call(layer, weights, x, {"lengths": lengths})
    assert y.shape[:2] == x.shape[:2]
    assert {y.device, *(part.device for part in (state if isinstance(state, tuple) else (state,)))} == {x.device}
