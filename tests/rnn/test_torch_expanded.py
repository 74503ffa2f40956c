"""Gradients that are no contiguous lines, such as that of a sum: one call of the kernels, with the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastiter.torch  # noqa: E402
from fastiter.rnn._torch import ops  # noqa: E402
from fastiter.rnn._torch.nn import layer  # noqa: E402
from fastiter.torch import nn  # noqa: E402
from tests.support.cases import assert_same_bits  # noqa: E402

FLOWS: dict[str, Callable[[Any], Any]] = {
    "one number": lambda y: torch.full((1,), 0.7, dtype=y.dtype).expand(y.shape),
    "one for each step": lambda y: torch.randn(y.shape[0], *[1] * (y.dim() - 1), dtype=y.dtype).expand(y.shape),
    "units apart": lambda y: torch.randn(*y.shape, 2, dtype=y.dtype)[..., 0],
    "units outermost": lambda y: torch.randn(y.shape[-1], *y.shape[:-1], dtype=y.dtype).movedim(0, -1),
}
every_flow = pytest.mark.parametrize("flow", FLOWS)


def refused(*_: Any) -> Any:
    raise AssertionError("the separate ops run")


@every_flow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=["f32", "f64", "bf16"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_layers(kind: str, dtype: Any, flow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "_longer_gradients", refused)
    for time, batch, width in ((1, 1, 5), (1, 1, 64), (7, 3, 20)):
        torch.manual_seed(0)
        module = getattr(nn, kind)(6, width, dtype=dtype)
        x = torch.randn(time, batch, 6, dtype=dtype).requires_grad_()
        y, last = module(x)
        outputs = [y, *(last if isinstance(last, tuple) else (last,))]
        flows = [FLOWS[flow](out) for out in outputs]
        leaves = [x, *module.parameters()]
        found = torch.autograd.grad(outputs, leaves, flows, retain_graph=True)
        wanted = torch.autograd.grad(outputs, leaves, [g.clone(memory_format=torch.contiguous_format) for g in flows])
        for g, e in zip(found, wanted, strict=True):
            assert_same_bits(g.float().numpy(), e.float().numpy())


@every_flow
def test_functions(flow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "BACKWARD", refused)
    for time, batch, heads, width in ((1, 1, 1, 8), (5, 3, 2, 20)):
        torch.manual_seed(0)
        wx, r = torch.randn(batch, time, 3, heads, width), torch.randn(3, heads, width, width) / width
        b, state = torch.randn(3, heads, width), torch.randn(batch, heads, width)
        leaves = [x.requires_grad_() for x in (wx, r, b, state)]
        h, last = fastiter.torch.gru(wx, r, b, state)
        outputs = [h, *last] if isinstance(last, tuple) else [h, last]
        flows = [FLOWS[flow](out) for out in outputs]
        found = torch.autograd.grad(outputs, leaves, flows, retain_graph=True)
        wanted = torch.autograd.grad(outputs, leaves, [g.contiguous() for g in flows])
        for g, e in zip(found, wanted, strict=True):
            assert_same_bits(g.numpy(), e.numpy())
