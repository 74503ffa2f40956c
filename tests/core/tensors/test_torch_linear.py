"""fastiter._torch.linear.linear, the matrix product of the input projections: x W^T + b and its gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
from fastiter._torch import linear as _linear  # noqa: E402
from fastiter._torch.linear import LinearBackward, LinearForward, linear, linear_bwd  # noqa: E402
from fastiter._torch.ops import empty  # noqa: E402
from tests.support.cases import assert_close, assert_same_bits, tolerance  # noqa: E402
from tests.support.pairs import pairs  # noqa: E402

both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])

# Sizes around the edges of tiles (rows of 3 and 6, panels of 4 vectors) and of blocks (384 deep, 168 high).
ROWS = (1, 2, 5, 6, 7, 13, 170)
OUTPUTS = (1, 3, 15, 16, 17, 65, 130)
INPUTS = (1, 2, 17, 64, 383, 385, 800)


def sizes() -> list[tuple[int, int, int]]:
    """Return (rows, outputs, inputs) that combine every two values of two sizes."""
    count = len(ROWS)
    return [(ROWS[i], OUTPUTS[j], INPUTS[(i + j) % count]) for i, j in itertools.product(range(count), range(count))]


def randn(*shape: int, dtype: Any = torch.float32, seed: int = 0) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def arguments(x_shape: tuple[int, ...], outputs: int, dtype: Any) -> tuple[Any, Any, Any]:
    """Return (x, weight, bias)."""
    shapes = (x_shape, (outputs, x_shape[-1]), (outputs,))
    x, weight, bias = (randn(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(shapes))
    return x, weight, bias


def results(function: Callable[..., Any], inputs: tuple[Any, ...], dy: Any) -> list[Any]:
    """Return y and the gradients of x, weight and bias, as arrays."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = function(*leaves)
    return [y.detach().numpy(), *(g.numpy() for g in torch.autograd.grad(y, leaves, dy.to(y.dtype)))]


def assert_right(inputs: tuple[Any, ...], dy: Any) -> None:
    wide = tuple(x.double() for x in inputs)
    names, depths = ("y", "dx", "dweight", "dbias"), (inputs[0].shape[-1], dy.shape[-1], *[dy[..., 0].numel()] * 2)
    actual, expected = results(linear, inputs, dy), results(torch.nn.functional.linear, wide, dy)
    for name, a, e, depth in zip(names, actual, expected, depths, strict=False):
        # Scale of a sum of N(0, 1) products: sqrt(depth), the size of its partial sums, since the sum may cancel.
        scale = max(np.sqrt(depth), float(np.max(np.abs(e), initial=0.0)))
        assert_close(a, e.astype(a.dtype), depth, scale=scale, name=name)


# --- numbers ---------------------------------------------------------------------------------------------------------


@both_dtypes
def test_sizes(dtype: Any) -> None:
    for rows, outputs, inputs in sizes():
        given, dy = arguments((rows, inputs), outputs, dtype), randn(rows, outputs, dtype=dtype, seed=3)
        assert_right(given, dy)
        assert_right(given[:2], dy)


@both_dtypes
def test_large(dtype: Any) -> None:
    for threads in (1, 2):
        fastiter.set_num_threads(threads)
        deep = ((3300, 1024, 800),) if threads == 2 else ()
        for rows, outputs, inputs in ((350, 300, 400), (3300, 1024, 24), *deep):
            assert_right(arguments((rows, inputs), outputs, dtype), randn(rows, outputs, dtype=dtype, seed=3))


def test_bfloat16_is_rounded_once() -> None:
    """Large results reuse memory, which holds NaN here."""
    empty(torch.empty(0, dtype=torch.bfloat16), (1500, 400)).fill_(torch.nan)
    # Wide and flat shapes, sums in several blocks, and results stored past the caches (streaming), in whole lines or
    # not
    large = ((1500, 400, 70), (1500, 70, 400), (2100, 200, 24), (40, 50, 5000), (6600, 1024, 40), (6600, 1010, 20))
    for rows, outputs, inputs in (*sizes(), *large, (2, 0, 3), (0, 4, 3)):
        given = arguments((rows, inputs), outputs, torch.bfloat16)
        dy = randn(rows, outputs, dtype=torch.bfloat16, seed=3)
        wide = [x.double() for x in given]
        for count in (3, 2):
            leaves = [x.detach().requires_grad_() for x in given[:count]]
            y = linear(*leaves)
            exact = torch.nn.functional.linear(*wide[:count])
            gradients = torch.autograd.grad(y, leaves, dy)
            pairs = [(y, exact, inputs), *zip(gradients, gradients_of(wide, dy), (outputs, rows, rows), strict=False)]
            for actual, expected, depth in pairs:
                assert actual.dtype == torch.bfloat16
                sums = tolerance(np.float32, depth) * max(1.0, depth**0.5)
                assert bool(((actual.double() - expected).abs() <= 2.0**-8 * expected.abs() + sums).all())
            # The op alone, which has no derivative, on leaves that require gradients
            assert torch.equal(torch.ops.fastiter._linear_fwd(*leaves, *[None] * (3 - count)), y)


@pytest.mark.parametrize("inputs", [64, 333, 1600])
def test_bfloat16_has_the_same_bits(inputs: int) -> None:
    """Equal bits on any number of threads, for a row alone or in a batch, in any layout, under another autocast."""
    x, weight, bias = arguments((40, inputs), 90, torch.bfloat16)
    backward = LinearBackward(randn(40, 90, dtype=torch.bfloat16, seed=3), x, weight, [True, True, True])
    fastiter.set_num_threads(1)
    y, expected = linear(x, weight, bias), linear_bwd(backward)
    for row in (0, 17, 39):
        assert linear(x[row], weight, bias).equal(y[row])
    assert linear(x.t().contiguous().t(), weight.t().contiguous().t(), bias).equal(y)
    for threads in (1, 2, 3):
        fastiter.set_num_threads(threads)
        with torch.autocast("cpu", torch.float16):
            found = [linear(x, weight, bias), *linear_bwd(backward)]
        assert all(a.equal(b) for a, b in zip(found, (y, *expected), strict=True))


def gradients_of(inputs: list[Any], dy: Any) -> tuple[Any, ...]:
    """Return the gradients of x, weight and bias, from their formulas."""
    x, weight, _ = inputs
    return dy.double() @ weight, dy.double().T @ x, dy.double().sum(0)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 5), (2, 1, 3, 5), (1, 1, 1, 5)])
def test_any_rank(shape: tuple[int, ...]) -> None:
    given = arguments(shape, 7, torch.float64)
    assert linear(*given).shape == (*shape[:-1], 7)
    assert_right(given, randn(*shape[:-1], 7, dtype=torch.float64, seed=3))


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5), (0,), (3, 0), (2, 3, 0), (0, 0)])
@pytest.mark.parametrize("outputs", [0, 1, 7])
def test_empty(shape: tuple[int, ...], outputs: int) -> None:
    given, dy = arguments(shape, outputs, torch.float32), randn(*shape[:-1], outputs, seed=3)
    for inputs in (given, given[:2]):
        expected = results(torch.nn.functional.linear, inputs, dy)
        for a, e in zip(results(linear, inputs, dy), expected, strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-6)  # a bias gradient still sums several rows


# --- layouts ---------------------------------------------------------------------------------------------------------

VIEWS: dict[str, Callable[[Any], Any]] = {
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "every second of the last axis": lambda x: torch.repeat_interleave(x, 2, -1)[..., ::2],
    "every second of the first axis": lambda x: torch.repeat_interleave(x, 2, 0)[::2],
    "expanded": lambda x: x[:1].expand(x.shape),
    "last axis expanded": lambda x: x[..., :1].expand(x.shape),
    "inside": lambda x: torch.nn.functional.pad(x, (1, 2))[..., 1:-2],
    "negated by a flag": lambda x: torch._neg_view(-x),
}


@pytest.mark.parametrize("view", VIEWS)
def test_any_layout(view: str) -> None:
    given, dy = arguments((3, 4, 17), 21, torch.float32), randn(3, 4, 21, seed=3)
    for i in range(4):
        viewed = [VIEWS[view](x) if i == k else x for k, x in enumerate((*given, dy))]
        plain = [torch.empty(x.shape).copy_(x) for x in viewed]
        actual = results(linear, tuple(viewed[:3]), viewed[3])
        assert_same_bits(tuple(actual), tuple(results(linear, tuple(plain[:3]), plain[3])), f"input {i}")


def test_inputs_are_not_modified() -> None:
    given, dy = arguments((3, 4, 17), 21, torch.float32), randn(3, 4, 21, seed=3)
    before = [(x.clone(), x._version) for x in (*given, dy)]
    results(linear, given, dy)
    for x, (values, version) in zip((*given, dy), before, strict=True):
        assert torch.equal(x, values)
        assert x._version == version


# --- the same bits ---------------------------------------------------------------------------------------------------


@both_dtypes
def test_any_number_of_threads(dtype: Any) -> None:
    # Shared by rows, by panels of columns, with more than one block of k.
    for rows, outputs, inputs in ((350, 64, 400), (40, 1000, 120), (13, 33, 5000), (1, 2000, 900)):
        given, dy = arguments((rows, inputs), outputs, dtype), randn(rows, outputs, dtype=dtype, seed=3)
        fastiter.set_num_threads(1)
        expected = tuple(results(linear, given, dy))
        for threads in (2, 3, 5):
            fastiter.set_num_threads(threads)
            assert_same_bits(tuple(results(linear, given, dy)), expected)


def test_a_single_row_equals_that_row_of_a_batch() -> None:
    x, weight, bias = arguments((29, 400), 70, torch.float32)
    y = linear(x, weight, bias)
    for row in range(len(x)):
        assert torch.equal(linear(x[row], weight, bias), y[row])


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_poisoned_row_does_not_touch_the_others(poison: float) -> None:
    x, weight, bias = arguments((29, 40), 70, torch.float32)
    y = linear(x, weight, bias)
    x[13, 7] = poison
    others = [row for row in range(len(x)) if row != 13]
    assert torch.equal(linear(x, weight, bias)[others], y[others])


# --- autograd --------------------------------------------------------------------------------------------------------


def test_gradcheck() -> None:
    given = [x.requires_grad_() for x in arguments((2, 3, 5), 4, torch.float64)]
    assert torch.autograd.gradcheck(linear, given)
    assert torch.autograd.gradcheck(linear, given[:2])


def test_gradients_of_some_inputs_are_those_of_all() -> None:
    given, dy = arguments((2, 3, 5), 4, torch.float32), randn(2, 3, 4, seed=3)
    expected = results(linear, given, dy)[1:]
    for needs in itertools.product((False, True), repeat=3):
        inputs = [x.detach().requires_grad_(need) for x, need in zip(given, needs, strict=True)]
        y = linear(*inputs)
        assert y.requires_grad == any(needs)
        if any(needs):
            y.backward(dy)
        for x, need, e in zip(inputs, needs, expected, strict=True):
            assert (x.grad is not None) == need
            if need:
                assert_same_bits(x.grad.numpy(), e)


def test_sum_backward_and_a_second_backward() -> None:
    inputs = [x.requires_grad_() for x in arguments((2, 3, 5), 4, torch.float32)]
    y = linear(*inputs)
    expected = torch.autograd.grad(y, inputs, torch.ones_like(y), retain_graph=True)
    for _ in range(2):
        for g, e in zip(torch.autograd.grad(y.sum(), inputs, retain_graph=True), expected, strict=True):
            assert torch.equal(g, e)


@pytest.mark.parametrize("place", [0, 1])
def test_a_change_between_forward_and_backward_is_an_error(place: int) -> None:
    inputs = [x.requires_grad_() for x in arguments((2, 3, 5), 4, torch.float32)]
    y = linear(*inputs).sum()
    with torch.no_grad():
        inputs[place].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_y_may_change_in_place() -> None:
    given = arguments((2, 3, 5), 4, torch.float64)
    dy = randn(2, 3, 4, dtype=torch.float64, seed=3)
    expected = results(lambda *x: torch.nn.functional.linear(*x).relu_(), given, dy)
    for a, e in zip(results(lambda *x: linear(*x).relu_(), given, dy), expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=10 * tolerance(np.float64, 6))


@pytest.mark.parametrize("how", ["grad", "backward"])
@pytest.mark.parametrize("cotangent", ["constant", "variable"])
def test_double_backward_is_right_or_refused(how: str, cotangent: str) -> None:
    given = arguments((2, 3, 5), 4, torch.float64)

    def penalised(function: Any) -> list[Any]:
        inputs = [x.detach().requires_grad_() for x in given]
        y = function(*inputs)
        loss = y.sum() if cotangent == "constant" else y.square().sum()
        gradients = torch.autograd.grad(loss, inputs, create_graph=True)
        total = loss + sum(g.square().sum() for g in gradients)
        if how == "grad":
            return list(torch.autograd.grad(total, inputs))
        total.backward()
        return [x.grad for x in inputs]

    try:
        actual = penalised(linear)
    except RuntimeError:
        return
    for a, e in zip(actual, penalised(torch.nn.functional.linear), strict=True):
        torch.testing.assert_close(a, e)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch itself calls it
def test_forward_mode_is_right_or_refused() -> None:
    x, weight, bias = arguments((2, 3), 4, torch.float64)
    direction = randn(2, 3, dtype=torch.float64, seed=3)
    try:
        _, dy = torch.func.jvp(lambda x: linear(x, weight, bias), (x,), (direction,))
    except (RuntimeError, NotImplementedError):
        return
    torch.testing.assert_close(dy, direction @ weight.t())


def test_on_a_gpu() -> None:
    """The implementation for CUDA tensors, run on CPU tensors."""
    x, weight, bias = torch.randn(3, 2, 5), torch.randn(4, 5), torch.randn(4)
    forward = LinearForward(x, weight, bias)
    y = _linear._forward_torch(forward)
    torch.testing.assert_close(y, _linear._forward(forward))
    backward = LinearBackward(torch.randn_like(y), x, weight, [True, True, True])
    for a, b in zip(_linear._backward_torch(backward), _linear._backward(backward), strict=True):
        assert a.is_contiguous()
        torch.testing.assert_close(a, b)


@pairs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=["f32", "f64", "bf16"])
@pytest.mark.parametrize("shape", [(5,), (1, 1, 64), (3, 7, 33), (0, 4), (2, 3, 1, 16)], ids=str)
@pytest.mark.parametrize("outputs", [1, 17, 130])
def test_strides_do_not_change_the_bits(shape: tuple[int, ...], outputs: int, dtype: Any) -> None:
    def reordered(x: Any) -> Any:
        return x.new_empty((*x.shape, 2))[..., 1].copy_(x)

    inputs = arguments(shape, outputs, dtype)
    dy = randn(*shape[:-1], outputs, dtype=dtype, seed=3)
    found = []
    for view in (lambda x: x, reordered):
        leaves = [view(x).requires_grad_() for x in inputs]
        y = linear(*leaves)
        found.append([y.detach(), *torch.autograd.grad(y, leaves, view(dy))])
    for plain, strided in zip(*found, strict=True):
        assert plain.shape == strided.shape
        assert torch.equal(plain, strided)
