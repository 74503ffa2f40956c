"""Results belong to the caller: writing to them before the backward pass changes no gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastiter.torch  # noqa: E402
from fastiter.torch import nn as ours  # noqa: E402
from fastiter.torch import replace  # noqa: E402

Call = Callable[[], tuple[list[Any], list[Any]]]  # -> results, inputs


def randn(*shape: int, dtype: Any = torch.float32, seed: int = 0) -> Any:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def flat(x: Any) -> list[Any]:
    return [y for part in x for y in flat(part)] if isinstance(x, (tuple, list)) else [x]


def of_cells() -> dict[str, Call]:
    """Yield each cell, with and without all states, with small and large memory, and options for other code paths."""
    calls: dict[str, Call] = {}
    gates = {"lstm": 4, "gru": 3, "elman": 1, "slstm": 4}
    ways: dict[str, dict[str, Any]] = {
        "": {},
        " all states": {"return_all_states": True},
        " float64": {"dtype": torch.float64},
        " bfloat16": {"dtype": torch.bfloat16, "return_all_states": True},
        " lengths": {"lengths": [3, 5], "reverse": True, "return_all_states": True},
        " clip": {"clip_state": 0.5},
        " checkpoint": {"checkpoint": 2, "return_all_states": True},
        " large": {"batch": 64, "time": 70, "width": 64},
        " large, all states, lengths": {"batch": 64, "time": 70, "width": 64, "lengths": [70, 3] * 32},
    }
    for cell, G in gates.items():
        for way, how in ways.items():

            def call(cell: str = cell, G: int = G, how: dict[str, Any] = how) -> Any:
                how = dict(how)
                dtype, D = how.pop("dtype", torch.float32), how.pop("width", 3)
                B, T = how.pop("batch", 2), how.pop("time", 5)
                wx, r = randn(B, T, G, 1, D, dtype=dtype), randn(G, 1, D, D, dtype=dtype, seed=1)
                return flat(getattr(fastiter.torch, cell)(wx, r, **how)), [wx, r]

            calls[cell + way] = call
    for function, G in (("lstm", 4), ("slstm", 4), ("gru", 3), ("elman", 1)):
        for dtype in (torch.float32, torch.bfloat16):

            def flash(function: str = function, G: int = G, dtype: Any = dtype) -> Any:
                given = [
                    randn(2, 5, G, 2, 3, dtype=dtype),
                    randn(G, 2, 3, 3, dtype=dtype, seed=1),
                    randn(G + (function == "gru"), 2, 3, dtype=dtype, seed=2),
                ]
                return flat(fastiter.torch.flashrnn(*given, function=function)), given

            calls[f"flashrnn {function} {dtype}"] = flash
    return calls


def of_scans() -> dict[str, Call]:
    def linear(complex: bool = False, **how: Any) -> Any:
        a, x = randn(2, 6, 3), randn(2, 6, 3, seed=1)
        if complex:
            a, x = (torch.complex(y, y.flip(1)).detach().requires_grad_() for y in (a, x))
        return flat(fastiter.torch.linear_scan(a, x, **how)), [a, x]

    def constant() -> Any:
        a, x = randn(3).detach(), randn(2, 6, 3, seed=1)
        return flat(fastiter.torch.linear_scan(a, x)), [x]

    def block() -> Any:
        a, x, h0 = randn(2, 6, 2, 3, 3), randn(2, 6, 2, 3, seed=1), randn(2, 2, 3, seed=2)
        return flat(fastiter.torch.block_scan(a, x, h0)), [a, x, h0]

    def delta() -> Any:
        q, k, v, beta = randn(2, 9, 2, 3), randn(2, 9, 2, 3, seed=1), randn(2, 9, 2, 4, seed=2), randn(2, 9, 2, seed=3)
        return flat(fastiter.torch.delta_scan(q, k, v, beta)), [q, k, v, beta]

    def para(name: str, gates: int, **how: Any) -> Call:
        def call() -> Any:
            given = [randn(2, 9, gates, 3), randn(gates, 3, seed=1), *([randn(2, 3)] if name == "paralstm" else [])]
            return flat(getattr(fastiter.torch, name)(*given, **how)), given

        return call

    def solved() -> Any:
        x, a = randn(2, 9, 3), randn(3, seed=1)
        found = fastiter.torch.solve_recurrence(lambda h, x, a: torch.tanh(a * h + x), x, a)
        return [found.value], [x, a]

    return {
        "solve_recurrence": solved,
        "linear_scan": linear,
        "linear_scan reverse": lambda: linear(reverse=True),
        "linear_scan complex": lambda: linear(True),
        "linear_scan with a constant": constant,
        "block_scan": block,
        "delta_scan": delta,
        "paragru": para("paragru", 3),
        "paragru newton": para("paragru", 3, method="newton"),
        "paralstm": para("paralstm", 3),
        "paraslstm": para("paraslstm", 4),
    }


def of_layers() -> dict[str, Call]:
    def layer(make: Callable[[], Any], layout: str = "time", size: tuple[int, int] = (5, 2)) -> Call:
        def call() -> Any:
            torch.manual_seed(0)
            module = make()
            x = randn(*size, 4, dtype=next(module.parameters()).dtype)
            given: Any = x
            if layout == "packed":
                given = torch.nn.utils.rnn.pack_padded_sequence(x, [5, 3])
            output, last = module(given)
            output = output.data if layout == "packed" else output
            return flat((output, last)), [x, *module.parameters()]

        return call

    calls: dict[str, Call] = {}
    for name in ("LSTM", "GRU", "RNN", "sLSTM"):
        kind = getattr(ours, name)
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            calls[f"{name} {dtype}"] = layer(lambda kind=kind, dtype=dtype: kind(4, 6, dtype=dtype))
        calls[f"{name} packed"] = layer(lambda kind=kind: kind(4, 6), "packed")
        calls[f"{name} checkpoint"] = layer(lambda kind=kind: kind(4, 6, checkpoint=2))
        calls[f"{name} deep"] = layer(lambda kind=kind: kind(4, 6, 2, bidirectional=True))
        calls[f"{name} large"] = layer(lambda kind=kind: kind(4, 96), size=(64, 64))
    calls["LSTM projected"] = layer(lambda: ours.LSTM(4, 6, proj_size=3))
    for name in ("QuantLSTM", "QuantGRU"):
        plan = ours.QuantPlan(weight="int8")
        calls[name] = layer(lambda name=name, plan=plan: getattr(ours, name)(4, 6, plan=plan))
    for name in ("LinearRNN", "DeltaNet", "ParaGRU", "ParaLSTM"):
        calls[name] = layer(lambda name=name: getattr(ours, name)(4, 6))
    return calls


CALLS = {**of_cells(), **of_scans(), **of_layers()}


def through_data(y: Any) -> None:
    y.data.mul_(-3)


def through_an_array(y: Any) -> None:
    y = y.detach()
    if y.dtype == torch.bfloat16:
        y = y.view(torch.int16)
    y.numpy()[...] = 1


WRITES = {"data": through_data, "array": through_an_array, "in place": lambda y: y.detach().fill_(0.5)}


@pytest.mark.parametrize("name", CALLS)
def test_gradients_are_unaffected_by_writes_to_results(name: str) -> None:
    results, inputs = CALLS[name]()
    results = [y for y in results if y.requires_grad]
    cotangents = [torch.randn_like(y) for y in results]
    expected = torch.autograd.grad(results, inputs, cotangents, retain_graph=True)
    for write in WRITES.values():
        with torch.no_grad():
            for y in results:
                write(y)
        found = torch.autograd.grad(results, inputs, cotangents, retain_graph=True)
        assert all(torch.equal(g, e) for g, e in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", CALLS)
def test_results_may_be_changed_in_place_inside_of_the_graph(name: str) -> None:
    found = []
    for change in (lambda y: (y * 2).sin(), lambda y: y.mul_(2).sin_()):
        results, inputs = CALLS[name]()
        results = list({id(y): y for y in results}.values())  # h is also the first of all states
        total = sum(change(y).float().abs().sum() for y in results if y.requires_grad and not y.is_complex())
        if not isinstance(total, int):
            found.append(torch.autograd.grad(total, inputs))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)) if found else True


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_relu_in_place_after_a_replaced_layer_trains_as_without_replacing(
    name: str, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.layer = getattr(torch.nn, name)(3, 5, 2)
            self.after = torch.nn.Sequential(torch.nn.ReLU(inplace=True), torch.nn.Linear(5, 1))

        def forward(self, x: Any) -> Any:
            return self.after(self.layer(x)[0])

    losses = []
    if (name, dtype) == ("LSTM", torch.float32):
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)  # oneDNN's LSTM refuses this
    for change in (False, True):
        net = Net().to(dtype)
        if change:
            replace(net)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        for step in range(5):
            loss = (net(randn(6, 2, 3, dtype=dtype, seed=step)) - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4 if dtype == torch.float32 else 1e-10)
