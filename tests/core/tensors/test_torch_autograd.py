"""torch's machinery around the functions of every family: saved-tensor hooks, batched gradients, torch.func."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastiter.torch  # noqa: E402
from fastiter._torch.ops import are_ordinary  # noqa: E402
from fastiter.torch import flashrnn, nn, quant  # noqa: E402

B, T, N, D = 2, 5, 2, 4
GATES = {"elman": 1, "lstm": 4, "gru": 3, "slstm": 4}


def spread(x: Any) -> Any:
    """Copy x into memory with a stride of 2, interleaved with numbers that must not be read."""
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


PATTERN = (torch.tensor([0, 2, 4]), torch.tensor([0, 1, 0, 1]))
VALUES = torch.tensor([4.0, -1, -2, 8], dtype=torch.float64)


def relaxed(values: Any, b: Any) -> Any:
    return fastiter.torch.relax.sor((*PATTERN, values), b, rtol=1e-13).value


def swept(x: Any, b: Any, values: Any, omega: Any) -> Any:
    return fastiter.torch.relax.sweeps((*PATTERN, values), b, x, omega=omega, sweeps=3)


def solved(x: Any, weight: Any) -> Any:
    def cell(h: Any, x_t: Any, params: Any) -> Any:
        return torch.tanh(params["w"] * h + x_t)

    return fastiter.torch.solve_recurrence(cell, x, {"w": weight}, rtol=0.0, atol=1e-14).value


def delta() -> tuple[Callable[..., Any], list[Any]]:
    k = torch.nn.functional.normalize(randn(B, T, N, D), dim=-1)
    given = [randn(B, T, N, D), k, randn(B, T, N, D), torch.rand(B, T, N).double()]
    return lambda *x: fastiter.torch.delta_scan(*x)[0], given


# sLSTMBlock is missing: torch's own norms read such tensors as if they were contiguous.
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
    "solve_recurrence": lambda: (solved, [randn(B, T, D), randn(D) / 3]),
    "relax.sor": lambda: (relaxed, [VALUES.clone(), randn(2)]),
    "sweeps": lambda: (swept, [randn(2), randn(2), VALUES.clone(), torch.tensor(1.2, dtype=torch.float64)]),
    "quantize": lambda: (lambda x: quant.quantize(x, "fixed<8,4,RND,SAT>"), [randn(B, D)]),
    "quant.linear": lambda: (
        lambda x, w: quant.linear(x, w, accumulator="fixed<20,8>"),
        [(4 * randn(B, D)).round() / 4, (4 * randn(3, D)).round() / 4],
    ),
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


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_batches_of_gradients(name: str, count: int) -> None:
    call, given = CASES[name]()
    given = [x.requires_grad_() for x in given]
    y = call(*given)
    cotangents = randn(count, *y.shape)
    found = torch.autograd.grad(y, given, cotangents, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(y, given, cotangent, retain_graph=True) for cotangent in cotangents]
    for i, x in enumerate(found):
        torch.testing.assert_close(x, torch.stack([one[i] for one in each]), rtol=1e-12, atol=1e-12)


def test_batches_within_batches() -> None:
    """Batched Jacobian of a batched gradient; one node's gradients have both batch axes, the other's one."""
    call, given = CASES["linear_scan"]()
    a, x = given

    def loss(a: Any) -> Any:
        return call(a, x).square().sum()

    functional = torch.autograd.functional
    expected = functional.hessian(loss, a)
    assert expected.abs().max() > 0.1
    found = functional.hessian(loss, a, vectorize=True)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

    def gradient(a: Any) -> Any:
        a, ones = a if a.requires_grad else a.requires_grad_(), torch.ones(3, B, T, D).double()
        return torch.autograd.grad(call(a, x), a, ones, is_grads_batched=True, create_graph=True)[0]

    found = functional.jacobian(gradient, a, vectorize=True)
    torch.testing.assert_close(found, functional.jacobian(gradient, a), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "sLSTM"])
def test_a_jacobian_in_batches(kind: str) -> None:
    layer, x = getattr(nn, kind)(6, 8).double(), randn(T, B, 6)
    found, expected = (
        torch.autograd.functional.jacobian(lambda z: layer(z)[0].sum(-1), x, vectorize=vectorize)
        for vectorize in (True, False)
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


TRANSFORMED = [name for name in CASES if not re.search("quant|sweeps|solve|sor$|flashrnn|ragged", name)]


@pytest.mark.parametrize("name", TRANSFORMED)
def test_transforms_of_torch_func(name: str) -> None:
    """Gradients of each argument, and of a batch of the first, with the others batched or not."""
    call, given = CASES[name]()

    def loss(*given: Any) -> Any:
        return call(*given).square().sum()

    every = tuple(range(len(given)))
    leaves = [x.clone().requires_grad_() for x in given]
    expected = torch.autograd.grad(loss(*leaves), leaves)
    for x, found in zip(expected, torch.func.grad(loss, every)(*given), strict=True):
        torch.testing.assert_close(found, x, rtol=1e-12, atol=1e-12)
    other = [x + 0.1 * x.roll(1, 0) for x in given]
    batches = [torch.stack(pair) for pair in zip(given, other, strict=True)]
    mapped = torch.func.vmap(call)(*batches)
    for y, arguments in zip(mapped, (given, other), strict=True):
        torch.testing.assert_close(y, call(*arguments), rtol=1e-12, atol=1e-12)
    for_each = torch.func.vmap(torch.func.grad(loss, every), (0, *[None] * (len(given) - 1)))(batches[0], *given[1:])
    leaves = [x.clone().requires_grad_() for x in (other[0], *given[1:])]
    second = torch.autograd.grad(loss(*leaves), leaves)
    for found, *pair in zip(for_each, expected, second, strict=True):
        torch.testing.assert_close(found, torch.stack(pair), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in CASES if re.search("quant|sweeps|solve|sor$", name)])
def test_transforms_of_torch_func_are_refused(name: str) -> None:
    call, given = CASES[name]()
    transforms = (torch.func.grad(lambda *x: call(*x).sum()), lambda *x: torch.func.vmap(call)(*[y[None] for y in x]))
    for transform in transforms:
        with pytest.raises(RuntimeError, match=r"^\w+: torch\.func transforms such as grad and vmap are not supported"):
            transform(*given)


@pytest.mark.parametrize("name", TRANSFORMED)
def test_tensors_that_a_transform_has_left_behind(name: str) -> None:
    """A transform's wrapper of an argument that is used after the transform stands for the argument."""
    call, given = CASES[name]()
    leaves = [x.clone().requires_grad_() for x in given]
    expected = torch.autograd.grad(call(*leaves).square().sum(), leaves)
    kept: list[Any] = []
    torch.func.grad(lambda x: kept.append(x) or x.sum())(leaves[0])
    found = torch.autograd.grad(call(kept[0], *leaves[1:]).square().sum(), leaves)
    assert all(x.equal(y) for x, y in zip(found, expected, strict=True))


def test_plain_tensors_are_told_from_others() -> None:
    """Kernels read plain tensors directly, anywhere among the arguments; all others take torch's dispatcher."""
    x, kept = torch.ones(2, 3), []
    torch.func.vmap(lambda y: kept.append(y) or y)(x)
    plain = [
        x,
        torch.nn.Parameter(x),
        x.mT,
        x[:0],
        x.to(torch.bfloat16),
        x > 0,
        torch.ones(()),
        None,
        "sum",
        3,
        [x, [x]],
    ]
    others = [x.to("meta"), x.to_sparse(), x.as_subclass(type("Own", (torch.Tensor,), {})), *kept]
    assert all(are_ordinary((y, x)) for y in plain)
    for y in others:
        assert not any(map(are_ordinary, ((y,), (x, y), (x, [None, y]), (x, ((y,), x)))))
