"""Proximal operators on tensors: the values of arrays, first and second derivatives, transforms, compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fastiter import BackendError  # noqa: E402
from fastiter.fixedpoint import prox as arrays  # noqa: E402
from fastiter.torch.fixedpoint import prox  # noqa: E402

Call = Callable[[Any, Any], Any]
NORMAL, MATRIX = np.array([1.0, -2.0, 0.5, 1.0, 0.3]), np.random.default_rng(8).standard_normal((2, 5))
#: Calls for both modules, as functions of the module and y (..., 5)
CALLS: dict[str, Call] = {
    "simplex": lambda m, y: m.project_simplex(y, 1.3),
    "simplex, axis 0": lambda m, y: m.project_simplex(y, 0.7, axis=0),
    "l1_ball": lambda m, y: m.project_l1_ball(y, 1.1),
    "l1_ball, inside": lambda m, y: m.project_l1_ball(y, 50.0),
    "linf": lambda m, y: m.prox_linf(y, 0.6),
    "softmax_entropy": lambda m, y: m.prox_softmax_entropy(y, 0.2),
    "softmax_entropy, axis 0": lambda m, y: m.prox_softmax_entropy(y, 2.0, axis=0),
    "entropy": lambda m, y: m.prox_entropy(y, 0.4),
    "l2_ball": lambda m, y: m.project_l2_ball(y, 1.1),
    "l2": lambda m, y: m.prox_l2(y, 0.6, axis=0),
    "group": lambda m, y: m.prox_group(y, (2, 0, 3), 0.6),
    "box": lambda m, y: m.project_box(y, -0.4, 0.6),
    "nonnegative": lambda m, y: m.project_nonnegative(y),
    "l1": lambda m, y: m.prox_l1(y, 0.3),
    "squared_l2": lambda m, y: m.prox_squared_l2(y, 0.3),
    "log_barrier": lambda m, y: m.prox_log_barrier(y, 0.3),
    "huber": lambda m, y: m.prox_huber(y, 0.7, delta=0.5),
    "leaky_relu": lambda m, y: m.prox_leaky_relu(y, 0.7, slope=0.2),
}
COMPILED = ("simplex", "l1_ball", "linf", "softmax_entropy", "entropy")
every_call = pytest.mark.parametrize("name", CALLS)


def points(dtype: Any = torch.float64) -> Any:
    return torch.from_numpy(np.random.default_rng(7).standard_normal((3, 5))).to(dtype)


@every_call
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_values_equal_those_of_arrays(name: str, dtype: Any) -> None:
    y = points(dtype)
    for given in (y, y.T.contiguous().T, y.flip(0), y[:0], y.expand(2, 3, 5)[1]):
        expected = CALLS[name](arrays, given.numpy()) if given.numel() or "axis 0" not in name else given.numpy()
        found = CALLS[name](prox, given) if given.numel() or "axis 0" not in name else given
        assert found.dtype == dtype
        # The same kernel, or the same operations in another library
        np.testing.assert_allclose(
            found.numpy(), expected, rtol=8 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps
        )


@every_call
def test_derivatives(name: str) -> None:
    y = points().requires_grad_()

    def call(x: Any) -> Any:
        return CALLS[name](prox, x)

    assert torch.autograd.gradcheck(call, y)
    assert torch.autograd.gradgradcheck(call, y)


def test_gradients_of_bounds_and_matrices() -> None:
    y, low = points().requires_grad_(), torch.tensor([-0.3, -0.5, 0.1, -1.0, -2.0]).double().requires_grad_()
    a, A = torch.from_numpy(NORMAL).requires_grad_(), torch.from_numpy(MATRIX).requires_grad_()
    b = torch.tensor([0.4, -0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y, low: prox.project_box(y, low, 1.5), (y, low))
    assert torch.autograd.gradcheck(lambda y, t: prox.prox_l1(y, t), (y, low.detach().abs().requires_grad_()))
    assert torch.autograd.gradcheck(lambda y, a: prox.project_halfspace(y, a, -0.4), (y, a))
    assert torch.autograd.gradcheck(prox.project_affine, (y, A, b))
    assert torch.autograd.gradgradcheck(prox.project_affine, (y, A, b))
    found = prox.project_affine(y, A, b).detach().numpy()
    np.testing.assert_allclose(found, arrays.project_affine(y.detach().numpy(), MATRIX, b.detach().numpy()), atol=1e-14)


@pytest.mark.parametrize("alpha", [1e-3, 0.3, 1.0, 5.0])
def test_softmax_entropy_has_the_jacobian_of_the_theory(alpha: float) -> None:
    y = points()[0]
    jacobian = torch.autograd.functional.jacobian(lambda y: prox.prox_softmax_entropy(y, alpha), y, vectorize=True)
    x = prox.prox_softmax_entropy(y, alpha)
    g = x / (alpha + (1 - alpha) * x)
    torch.testing.assert_close(jacobian, torch.diag(g) - torch.outer(g, g) / g.sum(), rtol=1e-12, atol=1e-14)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch itself calls it
@pytest.mark.parametrize("name", COMPILED)
def test_transforms(name: str) -> None:
    y, d = points(), points().flip(1)

    def call(x: Any) -> Any:
        return CALLS[name](prox, x)

    value, tangent = torch.func.jvp(call, (y,), (d,))
    _, pull = torch.func.vjp(call, y)
    torch.testing.assert_close(tangent, pull(d)[0])  # the Jacobian is symmetric
    torch.testing.assert_close(torch.func.vmap(call)(y), value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.torch.jit.script")
@pytest.mark.parametrize("name", COMPILED)
def test_op_and_compilation(name: str) -> None:
    from fastiter.fixedpoint._prox.groups import KINDS

    kind = KINDS.get(name, KINDS["l1_ball"])
    torch.library.opcheck(torch.ops.fastiter._fixedpoint_prox.default, (points(), kind, 0.5, 1))
    y = points().requires_grad_()

    def loss(x: Any) -> Any:
        return CALLS[name](prox, x * 2).square().sum()

    expected = torch.autograd.grad(loss(y), y)[0]
    found = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(y), y)[0]
    torch.testing.assert_close(found, expected)


def test_nan_propagates_to_gradients() -> None:
    y = points()
    y[1, 2] = float("nan")
    for name in COMPILED:
        x = y.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(CALLS[name](prox, x).sum(), x)
        assert gradient[1].isnan().any() and gradient[[0, 2]].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_the_entropy_is_the_identity_at_infinity(dtype: Any) -> None:
    """x / (x + t) tends to 1, and its derivative to 0."""
    largest = torch.finfo(dtype).max
    y = torch.tensor([torch.inf, largest, largest / 8, -torch.inf], dtype=dtype, requires_grad=True)
    x = prox.prox_entropy(y, 1e30)
    (first,) = torch.autograd.grad(x.sum(), y, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), y)
    assert x[0] == torch.inf and first.tolist() == [1.0, 1.0, 1.0, 0.0] and second.tolist() == [0.0] * 4


def test_gradients_at_zero_are_finite() -> None:
    y = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for call in (prox.prox_l2, prox.project_l2_ball, prox.project_l1_ball, prox.prox_l1, prox.prox_log_barrier):
        assert torch.autograd.grad(call(y).sum(), y)[0].isfinite().all()


def test_messages() -> None:
    with pytest.raises(TypeError, match=r"^project_simplex: y must have dtype torch.float32 or torch.float64, got"):
        prox.project_simplex(torch.zeros(2, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"^prox_entropy: y must be a torch.Tensor, got ndarray"):
        prox.prox_entropy(np.zeros(2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^prox_softmax_entropy: alpha must be from 1e-30 to 100, got 0"):
        prox.prox_softmax_entropy(torch.zeros(2), 0.0)
    with pytest.raises(ValueError, match=r"^project_box: low must be at most high everywhere, and neither NaN, got "):
        prox.project_box(torch.zeros(2), 1.0, torch.zeros(2))
    with pytest.raises(TypeError, match=r"^project_box: low must be a number or a tensor, got str"):
        prox.project_box(torch.zeros(2), "a", torch.zeros(2))
    with pytest.raises((BackendError, TypeError), match=r"^project_affine: A must"):
        prox.project_affine(torch.zeros(2), torch.zeros(1, 2, device="meta"), torch.zeros(1))
