"""Saved tensors that autograd's hooks bring back in other memory: the same gradients, in every family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastiter.torch  # noqa: E402
from fastiter.torch import flashrnn, nn  # noqa: E402

B, T, N, D = 2, 5, 2, 4
GATES = {"elman": 1, "lstm": 4, "gru": 3, "slstm": 4}


def spread(x: Any) -> Any:
    """Between numbers that are not ours."""
    wide = x.new_full((*x.shape, 2), 777 if x.dtype != torch.bool else True)
    wide[..., 0] = x
    return wide


def randn(*shape: int) -> Any:
    return torch.randn(*shape, dtype=torch.float64)


def recurrence(cell: str, **options: Any) -> tuple[Callable[..., Any], list[Any]]:
    function = getattr(fastiter.torch, cell)
    states = 4 if cell == "slstm" else 2 if cell == "lstm" else 1

    def call(wx: Any, r: Any, b: Any, *state: Any) -> Any:
        return function(wx, r, b, state, **options)[0]

    r = randn(GATES[cell], N, D, D) / 3
    return call, [randn(B, T, GATES[cell], N, D), r, randn(GATES[cell], N, D), *[randn(B, N, D) for _ in range(states)]]


def flash(function: str) -> tuple[Callable[..., Any], list[Any]]:
    b = randn(4 if function == "gru" else GATES[function], N, D)
    given = [randn(B, T, GATES[function], N, D), randn(GATES[function], N, D, D) / 3, b]
    return lambda *x: flashrnn(*x, function=function)[0], given


def module(made: Any) -> tuple[Callable[..., Any], list[Any]]:
    made = made.double()
    names = [name for name, _ in made.named_parameters()]

    def call(x: Any, *parameters: Any) -> Any:
        return torch.func.functional_call(made, dict(zip(names, parameters, strict=True)), (x,))[0]

    return call, [randn(T, B, 6), *[p.detach() for p in made.parameters()]]


def delta() -> tuple[Callable[..., Any], list[Any]]:
    k = torch.nn.functional.normalize(randn(B, T, N, D), dim=-1)
    given = [randn(B, T, N, D), k, randn(B, T, N, D), torch.rand(B, T, N).double()]
    return lambda *x: fastiter.torch.delta_scan(*x)[0], given


# No sLSTMBlock: torch's own norms read such tensors as if they were dense.
CASES: dict[str, Callable[[], tuple[Callable[..., Any], list[Any]]]] = {
    **{cell: lambda cell=cell: recurrence(cell) for cell in GATES},
    **{f"{cell}, ragged": lambda cell=cell: recurrence(cell, lengths=[3, T]) for cell in GATES},
    **{f"{cell}, checkpoint": lambda cell=cell: recurrence(cell, checkpoint=2) for cell in GATES},
    **{f"flashrnn {cell}": lambda cell=cell: flash(cell) for cell in GATES},
    **{kind: lambda kind=kind: module(getattr(nn, kind)(6, 8)) for kind in ("LSTM", "GRU", "RNN", "sLSTM")},
    **{f"{kind}, heads": lambda kind=kind: module(getattr(nn, kind)(6, 8, num_heads=2)) for kind in ("LSTM", "GRU")},
    "LSTM, checkpoint": lambda: module(nn.LSTM(6, 8, checkpoint=2)),
    "LSTM, projected": lambda: module(nn.LSTM(6, 8, proj_size=3)),
    "ParaGRU": lambda: module(nn.ParaGRU(6, 8)),
    "ParaLSTM": lambda: module(nn.ParaLSTM(6, 8)),
    "LinearRNN": lambda: module(nn.LinearRNN(6, 8)),
    "DeltaNet": lambda: module(nn.DeltaNet(6, 8, num_heads=2)),
    "linear_scan": lambda: (lambda a, x: fastiter.torch.linear_scan(a, x)[0], [randn(B, T, D) / 3, randn(B, T, D)]),
    "block_scan": lambda: (
        lambda a, x: fastiter.torch.block_scan(a, x)[0],
        [randn(B, T, N, D, D) / 3, randn(B, T, N, D)],
    ),
    "delta_scan": delta,
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_from_saved_tensors_in_other_memory(name: str) -> None:
    call, given = CASES[name]()
    given = [x.requires_grad_() for x in given]
    y = call(*given)
    cotangent = randn(*y.shape)
    expected = torch.autograd.grad(y, given, cotangent)
    with torch.autograd.graph.saved_tensors_hooks(spread, lambda wide: wide[..., 0]):
        y = call(*given)
    for x, found in zip(expected, torch.autograd.grad(y, given, cotangent), strict=True):
        torch.testing.assert_close(found, x, rtol=1e-12, atol=1e-12)
