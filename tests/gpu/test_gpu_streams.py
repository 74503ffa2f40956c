"""Behaviour that needs a card: streams, CUDA graphs, all devices, compiled calls, and gradients under autocast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter.torch as ft  # noqa: E402
from fastiter.relax import Stencil  # noqa: E402
from fastiter.torch import nn, quant  # noqa: E402

pytestmark = pytest.mark.gpu

B, T, H = 3, 65, 32
LAPLACIAN = Stencil((T, T), np.array([4.0, -1, -1, -1, -1]))


def drawn(seed: int, *shape: int, device: str = "cuda") -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def delta(q: Any, k: Any, v: Any, beta: Any) -> Any:
    return ft.delta_scan(q, torch.nn.functional.normalize(k, dim=-1), v, beta.sigmoid())[0]


def swept(b: Any) -> Any:
    x = torch.zeros_like(b)
    RELAXATION.sweep(x, b, 3)
    return x


RELAXATION = ft.relax.Relaxation(LAPLACIAN, "sor", omega=1.5, order="red-black")
#: A function of tensors, and the tensors' shapes
CALLS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "lstm": (lambda wx, r: ft.lstm(wx, 0.2 * r)[0], [(B, T, 4, 1, H), (4, 1, H, H)]),
    # a head of several blocks, which are a cluster from compute capability 9.0 on
    "clustered lstm": (lambda wx, r: ft.lstm(wx, r / 12)[0], [(B, T, 4, 2, 128), (4, 2, 128, 128)]),
    # with more blocks: a cooperative launch, whose barrier counts from 0 in every replay
    "wide lstm": (lambda wx, r: ft.lstm(wx, r / 16)[0], [(B, T, 4, 2, 272), (4, 2, 272, 272)]),
    # without a fused launch: step by step, by a graph on its own stream, except within a capture
    "lstm by steps": (lambda wx, r: ft.lstm(wx, r / 45)[0], [(B, T, 4, 1, 2048), (4, 1, 2048, 2048)]),
    "linear_scan": (lambda a, x: ft.linear_scan(a.sigmoid(), x)[0], [(B, T, H), (B, T, H)]),
    "delta_scan": (delta, [(B, T, 2, 16)] * 3 + [(B, T, 2)]),
    "paragru": (lambda wx, a: ft.paragru(wx, a, method="newton")[0], [(B, T, 3, H), (3, H)]),
    "quantize": (lambda x: quant.quantize(x, "fixed<8,4,RND,SAT>", nan="keep"), [(B, T)]),
    "sweep": (lambda b: swept(b.double()), [(T, T)]),
}
every_call = pytest.mark.parametrize("name", CALLS)


def prepared(name: str, device: str = "cuda") -> tuple[Callable[..., Any], list[Any]]:
    function, shapes = CALLS[name]
    return function, [drawn(seed, *shape, device=device) for seed, shape in enumerate(shapes)]


@every_call
@torch.no_grad()
def test_the_callers_stream(name: str) -> None:
    function, inputs = prepared(name)
    expected = function(*inputs)
    late = [torch.zeros_like(x) for x in inputs]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # work on another stream would read zeros
        for x, value in zip(late, inputs, strict=True):
            x.copy_(value)
        found = function(*late)
    stream.synchronize()
    assert torch.equal(found, expected)


@torch.no_grad()
def test_heads_of_several_blocks_on_several_streams() -> None:
    """Their blocks wait for each other, so none may hold resources that another launch's blocks need to start."""
    function, inputs = prepared("wide lstm")
    expected, streams, found = function(*inputs), [torch.cuda.Stream() for _ in range(4)], []
    torch.cuda.synchronize()
    for _ in range(4):
        for stream in streams:
            with torch.cuda.stream(stream):
                found.append(function(*inputs))
    torch.cuda.synchronize()
    assert all(torch.equal(h, expected) for h in found)


@every_call
@torch.no_grad()
def test_a_graph_follows_its_inputs(name: str) -> None:
    function, inputs = prepared(name)
    function(*inputs)  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = function(*inputs)
    for factor in (1.0, 0.5):
        for x in inputs:
            x.mul_(factor)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(found, function(*inputs))


@every_call
@torch.no_grad()
def test_every_device(name: str) -> None:
    expected = None
    for number in range(torch.cuda.device_count()):
        function, inputs = prepared(name, f"cuda:{number}")
        found = function(*inputs)  # the current device is 0
        assert found.device == inputs[0].device
        expected = found.cpu() if expected is None else expected
        assert torch.equal(found.cpu(), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a warning from torch's compilation
@pytest.mark.parametrize("name", ["lstm", "linear_scan", "delta_scan", "paragru", "quantize"])
def test_compiled_in_one_graph(name: str) -> None:
    function, inputs = prepared(name)
    compiled = torch.compile(function, fullgraph=True)
    inputs = [x.requires_grad_() for x in inputs]
    expected, found = function(*inputs), compiled(*inputs)
    torch.testing.assert_close(found, expected)
    cotangent = drawn(9, *expected.shape).to(expected.dtype)
    for ours, eager in zip(
        torch.autograd.grad(found, inputs, cotangent), torch.autograd.grad(expected, inputs, cotangent), strict=True
    ):
        torch.testing.assert_close(ours, eager)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_under_autocast(dtype: Any) -> None:
    layer = nn.LSTM(H, H, device="cuda")
    x = drawn(1, T, B, H).requires_grad_()
    with torch.autocast("cuda", dtype=dtype):
        y = layer(x)[0]
    assert y.dtype == dtype
    gradients = torch.autograd.grad(y.float().square().mean(), [x, *layer.parameters()])
    exact = torch.autograd.grad(layer(x)[0].square().mean(), [x, *layer.parameters()])
    eps = torch.finfo(dtype).eps
    for ours, expected in zip(gradients, exact, strict=True):
        assert ours.dtype == torch.float32
        # every step rounds once forward and once backward
        assert (ours - expected).abs().max() <= eps * (8 + 2 * T**0.5) * expected.abs().max()
