"""Sinkhorn's iteration on tensors: the results of arrays, and first and second derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fastiter.fixedpoint import sinkhorn as on_arrays  # noqa: E402
from fastiter.fixedpoint._torch import sinkhorn as module  # noqa: E402
from fastiter.torch.fixedpoint import sinkhorn  # noqa: E402


def problem(*shape: int, dtype: str = "float64") -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(shape)
    C, a, b = rng.random(shape), 0.1 + rng.random(shape[:-1]), 0.1 + rng.random((*shape[:-2], shape[-1]))
    a, b = a / a.sum(axis=-1, keepdims=True), b / b.sum(axis=-1, keepdims=True)
    return tuple(torch.from_numpy(x.astype(dtype)) for x in (C, a, b))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(4, 6), (3, 9, 5), (1, 1), (0, 2, 3)])
def test_numbers_are_those_of_arrays(shape: tuple[int, ...], dtype: str) -> None:
    C, a, b = problem(*shape, dtype=dtype)
    found, expected = sinkhorn(C, a, b, epsilon=0.2), on_arrays(C.numpy(), a.numpy(), b.numpy(), epsilon=0.2)
    assert np.array_equal(found.steps, expected.steps) and np.allclose(
        found.residual, expected.residual, rtol=0.1
    )  # torch computes the logarithms of the masses
    f, g = expected.value
    apart = (f.mean(axis=-1, keepdims=True) - g.mean(axis=-1, keepdims=True)) / 2 if f.size else 0
    error = 1e-5 if dtype == "float32" else 1e-13
    assert np.allclose(found.value[0].numpy(), f - apart, rtol=0, atol=error)
    assert np.allclose(found.value[1].numpy(), g + apart, rtol=0, atol=error)
    assert np.allclose(found.plan.numpy(), expected.plan, rtol=0, atol=error)
    assert np.allclose(found.cost.numpy(), expected.cost, rtol=0, atol=error)
    tolerance = torch.as_tensor(found.tolerance, dtype=torch.float64).reshape(-1)
    cost, log_a, log_b = (x if len(shape) == 3 else x[None] for x in (C, a.log(), b.log()))
    plain = module._plain(module.Transport(cost, log_a, log_b, torch.zeros_like(log_a), 0.2, tolerance, 99))
    assert np.abs(plain[2].numpy() - np.atleast_1d(expected.steps)).max(initial=0) <= 1
    # One step more or less changes f within the tolerance.
    assert np.allclose(plain[0].numpy().reshape(f.shape), f, rtol=0, atol=1e-3 if dtype == "float32" else 1e-8)


@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 3)])
def test_gradients_of_both_orders(shape: tuple[int, ...]) -> None:
    C, a, b = (x.requires_grad_() for x in problem(*shape))

    def potentials(C: Any, a: Any, b: Any) -> Any:
        found = sinkhorn(C, a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True), epsilon=0.3, rtol=1e-14)
        return (*found.value, found.plan, found.cost, found.dual)

    assert torch.autograd.gradcheck(potentials, (C, a, b))
    assert torch.autograd.gradgradcheck(potentials, (C, a, b))


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4)])
def test_masses_may_be_0(shape: tuple[int, ...]) -> None:
    """The results are those of arrays, and the gradients are those of the problem without these rows and columns."""
    C, a, b = problem(*shape)
    a[..., 1], b[..., -1] = 0, 0
    rows, columns = [i for i in range(shape[-2]) if i != 1], list(range(shape[-1] - 1))
    expected = on_arrays(
        C.numpy(), (a / a.sum(-1, keepdim=True)).numpy(), (b / b.sum(-1, keepdim=True)).numpy(), epsilon=0.3
    )

    def solved(C: Any, a: Any, b: Any) -> Any:
        return sinkhorn(C, a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True), epsilon=0.3, rtol=1e-14)

    def with_zeros(C: Any, a: Any, b: Any) -> Any:
        whole = solved(C, *(torch.zeros_like(x).index_copy(-1, torch.tensor(at), y) for x, at, y in made(a, b)))
        f, g = whole.value
        return f[..., rows], g[..., columns], whole.plan, whole.cost, whole.dual

    def made(own_a: Any, own_b: Any) -> Any:
        return (a, rows, own_a), (b, columns, own_b)

    found = solved(C, a, b)
    assert np.allclose(found.plan.numpy(), expected.plan, rtol=0, atol=1e-9)
    assert (found.value[0][..., 1] == -torch.inf).all() and (found.value[1][..., -1] == -torch.inf).all()
    inputs = [x.detach().clone().requires_grad_() for x in (C, a[..., rows], b[..., columns])]
    assert torch.autograd.gradcheck(with_zeros, inputs)
    assert torch.autograd.gradgradcheck(with_zeros, inputs)
    leaves = [x.detach().clone().requires_grad_() for x in (C, a, b)]
    found = sinkhorn(
        leaves[0], leaves[1] / leaves[1].sum(-1, keepdim=True), leaves[2] / leaves[2].sum(-1, keepdim=True)
    )
    (found.dual.sum() + found.cost.sum() + found.value[0][..., 0].sum()).backward()
    assert all(x.grad is not None and bool(x.grad.isfinite().all()) for x in leaves)
    assert (leaves[0].grad[..., 1, :] == 0).all() and (leaves[0].grad[..., -1] == 0).all()
    direct = a.div(a.sum(-1, keepdim=True)).requires_grad_()
    sinkhorn(C, direct, b.div(b.sum(-1, keepdim=True))).dual.sum().backward()
    assert direct.grad is not None and (direct.grad[..., 1] == 0).all()
    cost, log_a, log_b = (
        x if len(shape) == 3 else x[None] for x in (C, direct.detach().log(), (b / b.sum(-1, keepdim=True)).log())
    )
    start = torch.where(log_a > -torch.inf, 0.0, log_a)
    tolerance = torch.full((len(cost),), 1e-10, dtype=torch.float64)
    plain = module._plain(module.Transport(cost, log_a, log_b, start, 0.3, tolerance, 999))
    P = torch.exp((plain[0][:, :, None] + plain[1][:, None] - cost) / 0.3)
    assert np.allclose(P.numpy().reshape(shape), expected.plan, rtol=0, atol=1e-8)


def test_the_plan_is_the_gradient_of_the_dual_value() -> None:
    C, a, b = problem(6, 5)
    C.requires_grad_()
    found = sinkhorn(C, a, b, epsilon=0.1)
    assert torch.allclose(torch.autograd.grad(found.dual, C)[0], found.plan, atol=1e-8)
    warm = sinkhorn(C, a, b, epsilon=0.1, x0=found.value)
    assert warm.steps == 0 and torch.allclose(warm.plan, found.plan, atol=1e-8)


def test_the_op_is_well_formed() -> None:
    C, a, b = problem(2, 3, 4)
    op = torch.ops.fastiter._sinkhorn.default
    tolerance = torch.full((2,), 1e-9, dtype=torch.float64)
    given = (C, a.log(), b.log(), torch.zeros_like(a), 0.5, tolerance, 50)
    torch.library.opcheck(op, given, test_utils=("test_schema", "test_faketensor"))


def test_wrong_tensors() -> None:
    C, a, _ = problem(2, 2)
    for error, message, arguments in (
        (TypeError, "C must be a torch.Tensor, got ndarray", (C.numpy(),)),
        (TypeError, "a must have dtype torch.float64 like C, got torch.float32", (C, a.float())),
        (ValueError, r"a must have shape \(2,\) to go with C, got \(3,\)", (C, torch.ones(3).double())),
        (ValueError, "b must have the sum of a, 1, got 2", (C, a, torch.ones(2).double())),
        (ValueError, "a must be finite and at least 0, got -1", (C, -torch.ones(2).double())),
    ):
        with pytest.raises(error, match=f"^sinkhorn: {message}"):
            sinkhorn(*arguments)
    with pytest.raises(TypeError, match=r"^sinkhorn: x0 must be two tensors \(f, g\) or None, got list"):
        sinkhorn(C, x0=[1])  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"^sinkhorn: torch.func transforms"):
        torch.func.vmap(lambda C: sinkhorn(C).cost)(torch.ones(2, 3, 3))
