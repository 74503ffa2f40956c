"""fastiter._torch.elementwise: the kernels' functions of single numbers on tensors, and their derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fastiter._torch import elementwise  # noqa: E402
from fastiter._torch.elementwise import (  # noqa: E402
    ElementwiseBackward,
    ElementwiseForward,
    GateBackward,
    GateForward,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.torch.jit.script")
FUNCTIONS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "exp": (elementwise.exp, torch.exp),
    "sigmoid": (elementwise.sigmoid, torch.sigmoid),
    "softplus": (elementwise.softplus, torch.nn.functional.softplus),
    "gated": (lambda x: elementwise.gated(1.5 * x, x), lambda x: 1.5 * x * torch.nn.functional.silu(x)),
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])


def randn(*shape: int, dtype: Any = torch.float64, scale: float = 4.0) -> Any:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@both_dtypes
@every_function
def test_values_and_gradients_are_those_of_torch(name: str, dtype: Any) -> None:
    """Within 4 units in the last place; slopes of the sigmoid and the gate are relative to their terms."""
    ours, theirs = FUNCTIONS[name]
    x = torch.cat([randn(301, dtype=dtype), torch.tensor([0.0, -0.0, 19.9, 20.5, -87.0, 50.0], dtype=dtype)])
    eps = torch.finfo(dtype).eps
    found, expected = (f(y) for f, y in ((ours, x.requires_grad_()), (theirs, x.double().detach().requires_grad_())))
    torch.testing.assert_close(found.double(), expected.double(), rtol=4 * eps, atol=0)
    dy = randn(307, dtype=dtype, scale=1.0)
    (dx,) = torch.autograd.grad(found, x, dy)
    wide = x.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(theirs(wide), wide, dy.double())
    terms = {"sigmoid": 1.0, "gated": 10.0}.get(name, 0.0)
    torch.testing.assert_close(dx.double(), exact, rtol=8 * eps, atol=8 * eps * terms)


@both_dtypes
@every_function
def test_bits_do_not_depend_on_place_layout_or_threads(name: str, dtype: Any) -> None:
    f = FUNCTIONS[name][0]
    x = randn(3, 70_001, dtype=dtype)[:, 1:]  # strided, and large enough for two threads
    rows, threads = f(x), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(f(x), rows)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(f(x.t()), rows.t())
    assert torch.equal(f(x[1].contiguous()), rows[1])
    assert torch.equal(torch.stack([f(y) for y in x[0, :99]]), rows[0, :99])


@every_function
def test_layouts(name: str) -> None:
    f, theirs = FUNCTIONS[name]
    x = randn(4, 6, 5)
    for view in (x, x.transpose(0, 2), x[:, ::2], x[:, :1].expand(4, 6, 5), x[:0], x._neg_view(), x[1, 1, 1]):
        y = f(view)
        assert y.shape == view.shape
        torch.testing.assert_close(y, theirs(view), rtol=1e-14, atol=0)
        leaf = view.clone().requires_grad_()
        (dx,) = torch.autograd.grad(f(leaf), leaf, torch.ones_like(y).t() if y.dim() == 2 else view)
        assert dx.shape == view.shape
    assert f(x.transpose(0, 2)).stride() == x.transpose(0, 2).stride()


@every_function
def test_derivatives(name: str) -> None:
    f = FUNCTIONS[name][0]
    x = randn(3, 5).requires_grad_()
    assert torch.autograd.gradcheck(f, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(f, x)
    x = x.detach()
    tangent = torch.func.jvp(f, (x,), (torch.ones_like(x),))[1]
    gradient = torch.func.grad(lambda y: f(y).sum())(x)
    torch.testing.assert_close(tangent, gradient)
    assert torch.equal(torch.func.vmap(f)(x), f(x))
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(lambda y: f(y).sum()))(x), gradient)


def test_the_gate_of_other_tensors() -> None:
    y, z = randn(4, 6).requires_grad_(), randn(6, 4).t().requires_grad_()
    assert torch.autograd.gradcheck(elementwise.gated, (y, z), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(elementwise.gated, (y, z))
    torch.testing.assert_close(elementwise.gated(y, z), y * torch.nn.functional.silu(z), rtol=1e-14, atol=0)


def test_ops() -> None:
    ops = torch.ops.fastiter
    for x in (randn(3, 5), randn(3, 5).t(), randn(3, 8)[:, :5], randn(0, 5)):
        y = torch.ones_like(x)
        for number in range(3):
            torch.library.opcheck(ops._elementwise_fwd.default, (*ElementwiseForward(x, number),))
            torch.library.opcheck(ops._elementwise_bwd.default, (*ElementwiseBackward(x, y, number),))
        torch.library.opcheck(ops._gate_fwd.default, (*GateForward(x, y),))
        torch.library.opcheck(ops._gate_bwd.default, (*GateBackward(x, y, y),))


@every_function
def test_compile_and_export(name: str) -> None:
    f = FUNCTIONS[name][0]
    x = randn(3, 5).requires_grad_()

    def loss(x: Any) -> Any:
        return (f(x) * f(x[:, 1:].sum())).square().sum()

    expected = torch.autograd.grad(loss(x), x)[0]
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(x), x)[0], expected)

    class Module(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return f(x)

    exported = torch.export.export(Module(), (x.detach(),)).module()
    assert torch.equal(exported(x.detach()), f(x))
