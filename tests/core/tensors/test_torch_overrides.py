"""Arguments with __torch_function__, modes that see every call, and per-sample gradients by expanded weights."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.nn.utils._per_sample_grad import call_for_per_sample_grads  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402

import fastiter.torch as ft  # noqa: E402
from fastiter.torch import nn as ours  # noqa: E402
from tests.rnn.nn.cases_nn import KINDS, kinds, make, make_input, make_states, no_onednn_projection, one_thread  # noqa: E402, F401
from tests.support.pairs import pairs  # noqa: E402


class Box:
    """Wrapper with __torch_function__ that holds a tensor without being one."""

    seen: list[Any]

    def __init__(self, held: Any) -> None:
        self.held = held

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        Box.seen.append(function)
        return boxed(function(*unboxed(args), **{name: unboxed(x) for name, x in (kwargs or {}).items()}))


def boxed(x: Any) -> Any:
    if hasattr(x, "_make"):  # a NamedTuple
        return type(x)._make(map(boxed, x))
    if isinstance(x, (tuple, list)):
        return type(x)(map(boxed, x))
    return Box(x) if isinstance(x, torch.Tensor) else x


def unboxed(x: Any) -> Any:
    if type(x) in (tuple, list):
        return type(x)(map(unboxed, x))
    return x.held if isinstance(x, Box) else x


class Subclass(torch.Tensor):
    """A tensor subclass that torch's functions propagate."""


def randn(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


CALLS: dict[str, tuple[Any, list[Any], dict[str, Any]]] = {
    "lstm": (ft.lstm, [randn(2, 5, 4, 1, 3), randn(4, 1, 3, 3)], {"return_all_states": True, "clip_state": 0.3}),
    "gru": (ft.gru, [randn(2, 5, 3, 1, 3), randn(3, 1, 3, 3)], {"reverse": True, "lengths": torch.tensor([2, 5])}),
    "elman": (ft.elman, [randn(2, 5, 1, 1, 3), randn(1, 1, 3, 3)], {"activation": "relu"}),
    "slstm": (ft.slstm, [randn(2, 5, 4, 1, 3), randn(4, 1, 3, 3)], {"reset": torch.arange(5) == 2}),
    "flashrnn": (ft.flashrnn, [randn(2, 5, 4, 1, 3), randn(4, 1, 3, 3), randn(4, 1, 3)], {"function": "slstm"}),
    "linear_scan": (ft.linear_scan, [randn(2, 5, 3), randn(2, 5, 3)], {"reverse": True}),
    "block_scan": (ft.block_scan, [randn(1, 2, 2), randn(2, 5, 1, 2)], {}),
    "delta_scan": (ft.delta_scan, [randn(2, 5, 1, 3)] * 3 + [randn(2, 5, 1)], {"method": "sequential"}),
    "paragru": (ft.paragru, [randn(2, 5, 3, 4), randn(3, 4)], {"method": "newton"}),
    "paralstm": (ft.paralstm, [randn(2, 5, 3, 4), randn(3, 4), randn(2, 4)], {}),
    "paraslstm": (ft.paraslstm, [randn(2, 5, 4, 4), randn(4, 4)], {"lengths": [5, 1]}),
}


def flat(x: Any) -> list[Any]:
    return [y for part in x for y in flat(part)] if isinstance(x, (tuple, list)) else [x]


@pytest.mark.parametrize("name", CALLS)
def test_functions_are_dispatched(name: str) -> None:
    function, given, how = CALLS[name]
    expected = flat(function(*given, **how))
    for place in range(len(given)):
        Box.seen = []
        mixed = [Box(x) if i == place else x for i, x in enumerate(given)]
        found = [unboxed(x) for x in flat(function(*mixed, **how))]
        assert Box.seen == [function]
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    found = flat(function(given[0].as_subclass(Subclass), *given[1:], **how))
    assert all(type(x) is Subclass and torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", CALLS)
def test_modes_see_the_functions(name: str) -> None:
    function, given, how = CALLS[name]
    seen = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, called: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(called)
            return called(*args, **(kwargs or {}))

    with Mode():
        found = function(*given, **how)
    assert seen.count(function) == 1
    assert all(torch.equal(a, b) for a, b in zip(flat(found), flat(function(*given, **how)), strict=True))


def test_states_may_override() -> None:
    Box.seen = []
    wx, r = CALLS["lstm"][1]
    h0, c0 = randn(2, 1, 3), randn(2, 1, 3)
    h, _ = ft.lstm(wx, r, None, (h0, Box(c0)))
    assert torch.equal(h.held, ft.lstm(wx, r, None, (h0, c0))[0])
    assert Box.seen == [ft.lstm]


@no_onednn_projection
@pytest.mark.parametrize("what", ["input", "states", "weights"])
@pytest.mark.parametrize("kind", [*KINDS, "sLSTM"])
def test_modules_are_dispatched(kind: str, what: str) -> None:
    """Modules dispatch as torch.nn's do: the argument's __torch_function__ determines the results."""
    module = make(ours, kind, num_layers=2, dtype=torch.float64)
    x, states = make_input("time"), make_states(module, 4)
    expected = flat(module(x, states[0] if len(states) == 1 else tuple(states)))
    Box.seen = []
    if what == "weights":
        for p in module.parameters():
            p.requires_grad_(False)
        weights = {name: p.as_subclass(Subclass) for name, p in module.named_parameters()}
        hx = states[0] if len(states) == 1 else tuple(states)
        found = flat(torch.func.functional_call(module, weights, (x, hx)))
        assert all(type(y) is Subclass for y in found)
    else:
        given = [Box(s) if what == "states" else s for s in states]
        hx = given[0] if len(given) == 1 else tuple(given)
        found = [unboxed(y) for y in flat(module(Box(x) if what == "input" else x, hx))]
        assert len(Box.seen) == 1
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_packed_input_of_a_subclass() -> None:
    module = make(ours, "gru", dtype=torch.float64)
    packed = torch.nn.utils.rnn.pack_padded_sequence(make_input("time"), [6, 4, 4, 1])
    expected, last = module(packed)
    found, end = module(packed._replace(data=packed.data.as_subclass(Subclass)))
    assert type(found) is type(expected) and type(found.data) is Subclass and type(end) is Subclass
    assert torch.equal(found.data, expected.data) and torch.equal(end, last)


@pairs
@no_onednn_projection
@pytest.mark.parametrize("layout", ["time", "batch"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("how", [{}, {"num_layers": 2, "bidirectional": True}])
@pytest.mark.parametrize("kind", ["lstm", "gru", "tanh", "relu"])
def test_gradients_of_each_sample(kind: str, how: dict[str, Any], reduction: str, layout: str) -> None:
    module = make(ours, kind, batch_first=layout == "batch", dtype=torch.float64, **how)
    x = make_input(layout)
    output, _ = call_for_per_sample_grads(
        module, batch_size=4, loss_reduction=reduction, batch_first=layout == "batch"
    )(x)
    (output.sum() if reduction == "sum" else output.sum() / 4).backward()
    for sample in range(4):
        one = x[sample : sample + 1] if layout == "batch" else x[:, sample : sample + 1]
        expected = torch.autograd.grad(module(one)[0].sum(), list(module.parameters()))
        for p, g in zip(module.parameters(), expected, strict=True):
            torch.testing.assert_close(p.grad_sample[sample], g)


def test_gradients_of_each_sample_of_packed_rows() -> None:
    module = make(ours, "lstm", dtype=torch.float64)
    x = make_input("time")
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, [6, 4, 4, 1])
    output, _ = call_for_per_sample_grads(module, batch_size=4, loss_reduction="sum")(packed)
    output.data.sum().backward()
    for sample, length in enumerate([6, 4, 4, 1]):
        one = module(x[:length, sample : sample + 1])[0].sum()
        for p, g in zip(module.parameters(), torch.autograd.grad(one, list(module.parameters())), strict=True):
            torch.testing.assert_close(p.grad_sample[sample], g)


@pytest.mark.parametrize(
    ("make_layer", "named"),
    [
        (lambda: ours.sLSTM(5, 6), {}),
        (lambda: ours.LSTM(5, 6, num_heads=2), {}),
        (lambda: ours.GRU(5, 6, clip_state=1.0), {}),
        (lambda: ours.LSTM(5, 6), {"lengths": [1, 2, 3, 4]}),
    ],
)
def test_options_without_a_layer_in_torch_are_refused(make_layer: Any, named: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match=r"call_for_per_sample_grads needs a layer that torch has, and .*vmap"):
        call_for_per_sample_grads(make_layer(), batch_size=4, loss_reduction="sum")(randn(6, 4, 5), **named)
