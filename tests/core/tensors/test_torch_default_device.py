"""torch.set_default_device places new modules and does not affect given tensors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.nn.utils.rnn import pack_padded_sequence  # noqa: E402

import fastiter.torch as ft  # noqa: E402
from fastiter.torch import mdp, quant  # noqa: E402
from fastiter.torch import nn as ours  # noqa: E402
from fastiter.torch.relax import sor, sweeps  # noqa: E402
from tests.rnn.nn.cases_nn import F32, H, I, make, make_states, no_onednn_projection, one_thread, randn  # noqa: E402, F401

pytestmark = no_onednn_projection


def tensors(value: Any) -> Iterator[Any]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors(part)


def check_same(call: Callable[[], Any], *leaves: Any) -> None:
    """Check results and gradients of a call under a default device that differs from its arguments'."""

    def results() -> list[Any]:
        out = list(tensors(call()))
        loss = [x.square().sum() for x in out if x.requires_grad]
        return out + (list(torch.autograd.grad(sum(loss), leaves, allow_unused=True)) if loss else [])

    expected = results()
    with torch.device("meta"):
        found = results()
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        assert a is None or (a.device.type == "cpu" and torch.equal(a, b))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "lstm_proj", "gru", "sLSTM"])
def test_modules(kind: str, bidirectional: bool) -> None:
    module = make(ours, kind, num_layers=2, bidirectional=bidirectional)
    x, lengths, reset = randn(6, 4, I, dtype=F32), torch.tensor([6, 4, 4, 1]), randn(6, 4) > 0.5
    packed = pack_padded_sequence(x, lengths), pack_padded_sequence(x, [2, 6, 1, 2], enforce_sorted=False)
    weights = list(module.parameters())
    states = make_states(module, 4, F32)
    hx = states[0] if len(states) == 1 else tuple(states)
    for given, flags in itertools.product((None, lengths), (None, reset)):
        check_same(lambda n=given, r=flags: module(x, hx, lengths=n, reset=r), *weights)
    flags = reset.flatten()
    check_same(lambda: module(x.flatten(0, 1), hx, cu_seqlens=[0, 4, 4, 9, 24], reset=flags), *weights)
    for p, flags in itertools.product(packed, (None, reset)):
        check_same(lambda p=p, r=flags: [module(p, hx, reset=r)[0].data, *tensors(module(p)[1])], *weights)
    if not bidirectional:
        check_same(lambda: module.step(x[0]), *weights)


@pytest.mark.parametrize("name", ["sLSTMBlock", "LinearRNN", "DeltaNet", "ParaGRU", "ParaLSTM"])
def test_layers(name: str) -> None:
    layer = ours.sLSTMBlock(8, num_heads=2) if name == "sLSTMBlock" else getattr(ours, name)(8, 8)
    x, weights = randn(6, 4, 8, dtype=F32), list(layer.parameters())
    packed = pack_padded_sequence(x, [2, 6, 1, 2], enforce_sorted=False)
    check_same(lambda: layer(x), *weights)
    check_same(lambda: layer(x, None, [6, 4, 4, 1]), *weights)
    check_same(lambda: layer(packed)[0].data, *weights)
    check_same(lambda: layer.step(x[1], layer.step(x[0])[1]), *weights)


def test_a_bfloat16_step() -> None:
    module, x = ours.LSTM(I, H, dtype=torch.bfloat16), randn(4, I, dtype=torch.bfloat16)
    check_same(lambda: module.step(x), *module.parameters())


def test_scans_twice() -> None:
    a, x = torch.rand(4, 6, 5, requires_grad=True), torch.randn(4, 6, 5, requires_grad=True)

    def twice(**options: Any) -> Any:
        h = ft.linear_scan(a, x, **options)[0]
        return torch.autograd.grad(h.square().sum(), (a, x), create_graph=True)

    for options in ({}, {"lengths": [6, 4, 4, 0]}, {"reverse": True}):
        check_same(lambda options=options: twice(**options), a, x)


def test_relaxation() -> None:
    pattern = torch.tensor([0, 2, 4]), torch.tensor([0, 1, 0, 1])
    values = torch.tensor([4.0, -1, -2, 8], dtype=torch.float64, requires_grad=True)
    b, x = torch.tensor([2.0, 12.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    check_same(lambda: sor((*pattern, values), b).value, values)
    check_same(lambda: sweeps((*pattern, values), b, x, omega=1.5, sweeps=2), values)


def test_decision_processes() -> None:
    P, R = torch.eye(2, dtype=torch.float64).reshape(2, 1, 2), torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    rows, rewards = (torch.tensor([0, 1, 2]), torch.tensor([0, 1]), torch.ones(2, dtype=torch.float64)), R.reshape(2)
    states = torch.tensor([0, 1])
    check_same(lambda: mdp.values(P, R, 0.9).value, R)
    check_same(lambda: mdp.values(rows, rewards, 0.9, states=states).action_values, R)


def test_quantisation() -> None:
    x, point = randn(3, 8, dtype=F32), torch.tensor(4.2)
    check_same(lambda: quant.round_fixed(x, 8, point))
    check_same(lambda: quant.quantize(x, "fixed<8,4,RND,SAT>", rng=5))
    check_same(lambda: quant.quantize(x, "int8", scale=0.1))
    rounded = ours.GradientQuantizer("e5m2")
    y = x.clone().requires_grad_()
    check_same(lambda: rounded(y), y)


@pytest.mark.parametrize("kind", ["QuantLinear", "QuantLSTM", "QuantGRU"])
def test_quantizers_are_made_where_modules_are(kind: str) -> None:
    rounding = {"weight": "e4m3fn", "bias": "fixed<8,3>", "input": "int4<STOCHASTIC>", "gradient": "e5m2<STOCHASTIC>"}
    every = ours.QuantPlan(**rounding, output="fixed<8,1>", state="fixed<8,3>")
    with torch.device("meta"):
        layer = getattr(ours, kind)(5, 8, plan=every)
    expected = getattr(ours, kind)(5, 8, plan=every)
    assert {x.device.type for x in layer.state_dict().values()} == {"meta"}
    layer.to_empty(device="cpu").load_state_dict(expected.state_dict())
    assert layer.state_dict().keys() == expected.state_dict().keys()
    assert all(x.equal(expected.state_dict()[name]) for name, x in layer.state_dict().items())
