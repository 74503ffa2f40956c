"""hopfield_update and hopfield_energy on tensors: equality with arrays, gradients, compilation, reports."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
from fastiter import fixedpoint  # noqa: E402
from fastiter.fixedpoint._torch import hopfield_ops  # noqa: E402
from fastiter.torch.fixedpoint import hopfield_energy, hopfield_update  # noqa: E402
from tests.fixedpoint.hopfield.test_hopfield import case  # noqa: E402
from tests.support.cases import assert_close, assert_same_bits  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.torch.jit.script")

CLOSE: dict[str, Any] = {"rtol": 1e-13, "atol": 1e-14}


def tensors(lead: tuple[int, ...], L: int, S: int, D: int, dtype: Any, seed: int = 0) -> tuple[Any, Any, Any]:
    """Return state, stored and a beta for each head, all requiring gradients."""
    x, stored = (torch.from_numpy(a).to(dtype).requires_grad_() for a in case(lead, L, S, D, "float64", seed))
    beta = torch.linspace(1.5, 3.0, lead[-1] if lead else 1, dtype=dtype)
    beta = (beta if lead else beta[0]).clone().requires_grad_()
    return x, stored, beta


def by_torch(x: Any, stored: Any, beta: Any, mask: Any = None, steps: int = 1) -> Any:
    """Return the states after some updates, by torch operations."""
    for _ in range(steps):
        z = beta[..., None, None] * (x @ stored.mT)
        z = z if mask is None else z.masked_fill(~mask, -torch.inf)
        x = z.softmax(-1) @ stored
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_those_of_arrays(dtype: Any) -> None:
    x, stored, beta = tensors((2, 3), 20, 30, 5, dtype)
    mask = torch.rand(20, 30) < 0.7
    arrays = [a.detach().numpy() for a in (x, stored, beta)]
    for how in ({"steps": 3}, {"rtol": 1e-4}):
        expected = fixedpoint.hopfield_update(arrays[0], arrays[1], beta=arrays[2], mask=mask.numpy(), **how)
        for found in (
            hopfield_update(x, stored, beta=beta, mask=mask, **how),
            hopfield_update(x.detach(), stored.detach(), beta=beta.detach(), mask=mask, **how),
        ):
            for name in ("value", "converged", "steps", "residual"):
                assert_same_bits(getattr(found, name).detach().numpy(), getattr(expected, name))
            assert found.reason == expected.reason
    energy = hopfield_energy(x, stored, beta=beta, mask=mask).detach().numpy()
    assert_close(energy, fixedpoint.hopfield_energy(arrays[0], arrays[1], beta=arrays[2], mask=mask.numpy()), 40)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("lead", "L", "S", "D"), [((), 70, 130, 5), ((2, 3), 20, 7, 33), ((2,), 300, 20, 4), ((), 3, 1, 1)]
)
def test_gradient_through_updates_is_that_of_torch(lead: tuple[int, ...], L: int, S: int, D: int, dtype: Any) -> None:
    inputs = tensors(lead, L, S, D, dtype)
    exact = tuple(a.detach().double().requires_grad_() for a in inputs)
    mask = torch.rand(L, S, generator=torch.Generator().manual_seed(1)) < 0.8
    mask[:, 0] = True
    value = hopfield_update(inputs[0], inputs[1], beta=inputs[2], mask=mask, steps=2).value
    expected = by_torch(exact[0], exact[1], exact[2], mask, 2)
    weight = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).reshape(expected.shape)
    found = torch.autograd.grad(value, inputs, weight.to(dtype))
    for a, e in zip(found, torch.autograd.grad(expected, exact, weight), strict=True):
        assert_close(a.numpy(), e.to(dtype).numpy(), 100 * S, L * D, scale=max(1.0, float(e.abs().max())))


@pytest.mark.parametrize("threads", [2, 3])
def test_gradients_have_the_same_bits_for_any_number_of_threads(threads: int) -> None:
    for lead, L in (((5,), 40), ((2,), 600)):
        x, stored, beta = tensors(lead, L, 130, 9, torch.float32)
        found = []
        for count in (1, threads):
            fastiter.set_num_threads(count)
            for how in ({"steps": 2}, {"rtol": 1e-4}):
                value = hopfield_update(x, stored, beta=beta, **how).value
                found.append([g.numpy() for g in torch.autograd.grad(value.sin().sum(), (x, stored, beta))])
        for one, more in zip(found[:2], found[2:], strict=True):
            for a, b in zip(one, more, strict=True):
                assert_same_bits(b, a)


def test_derivatives_through_updates() -> None:
    x, stored, beta = tensors((1, 2), 3, 3, 2, torch.float64)
    mask = torch.ones(3, 3, dtype=torch.bool)
    mask[0, 1] = mask[1, :] = False  # one query sees nothing

    def function(x: Any, stored: Any, beta: Any) -> Any:
        return hopfield_update(x, stored, beta=beta, mask=mask, steps=2).value

    assert torch.autograd.gradcheck(function, (x, stored, beta))
    assert torch.autograd.gradgradcheck(function, (x, stored, beta), fast_mode=True)


def test_derivatives_of_fixed_points() -> None:
    x, stored, beta = tensors((1, 2), 2, 4, 2, torch.float64, seed=2)
    mask = torch.ones(2, 4, dtype=torch.bool)
    mask[1] = False  # one query sees nothing

    def function(x: Any, stored: Any, beta: Any) -> Any:
        return hopfield_update(x, stored, beta=beta, mask=mask, **CLOSE).value

    assert torch.autograd.gradcheck(function, (x, stored, beta))
    assert torch.autograd.gradgradcheck(function, (x, stored, beta))
    assert torch.autograd.grad(function(x, stored, beta).sum(), x)[0].eq(0).all()


def test_implicit_and_unrolled_gradients_agree_where_all_converge() -> None:
    x, stored, beta = tensors((3,), 70, 40, 6, torch.float64)
    gradients = []
    for grad in ("implicit", "unrolled"):
        found = hopfield_update(x, stored, beta=beta, grad=grad, max_steps=400, **CLOSE)
        assert found.converged.all()
        gradients.append(torch.autograd.grad(found.value.sin().sum(), (x, stored, beta)))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_second_derivatives_of_unrolled_updates_with_a_stop() -> None:
    x, stored, beta = tensors((), 3, 4, 2, torch.float64)

    def function(x: Any, stored: Any, beta: Any) -> Any:  # queries stop after different numbers of updates
        return hopfield_update(x, stored, beta=beta, grad="unrolled", max_steps=9, rtol=0.2).value

    steps = hopfield_update(x, stored, beta=beta, max_steps=9, rtol=0.2).steps
    assert len(steps.unique()) > 1
    assert torch.autograd.gradcheck(function, (x, stored, beta))
    assert torch.autograd.gradgradcheck(function, (x, stored, beta), fast_mode=True)


def test_gradients_of_any_magnitude_are_solved() -> None:
    """Conjugate gradients neither underflow nor overflow, so the gradient is linear in the incoming one."""
    x, stored, beta = tensors((), 20, 30, 6, torch.float32)
    value = hopfield_update(x, stored, beta=beta, rtol=1e-6).value
    once = torch.autograd.grad(value, (stored, beta), torch.ones_like(value), retain_graph=True)
    for factor in (2.0**-80, 2.0**80):
        scaled = torch.autograd.grad(value, (stored, beta), torch.full_like(value, factor), retain_graph=True)
        for a, e in zip(scaled, once, strict=True):
            assert_same_bits((a / factor).numpy(), e.numpy())
    assert torch.autograd.grad(value, stored, torch.zeros_like(value))[0].eq(0).all()


def test_energy_is_differentiable() -> None:
    x, stored, beta = tensors((2,), 3, 5, 4, torch.float64)
    assert torch.autograd.gradcheck(lambda *a: hopfield_energy(a[0], a[1], beta=a[2]), (x, stored, beta))
    (slope,) = torch.autograd.grad(hopfield_energy(x, stored, beta=beta).sum(), x)
    torch.testing.assert_close(slope, (x - by_torch(x, stored, beta)).detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_that_of_float32_rounded(dtype: Any) -> None:
    x, stored, beta = tensors((2,), 9, 12, 5, dtype)
    found = hopfield_update(x, stored, beta=beta, steps=3)
    wide = [a.detach().float().requires_grad_() for a in (x, stored, beta)]
    expected = hopfield_update(wide[0], wide[1], beta=wide[2], steps=3)
    assert found.value.dtype == dtype and torch.equal(found.value, expected.value.to(dtype))
    for a, e in zip(
        torch.autograd.grad(found.value.float().sum(), (x, stored, beta)),
        torch.autograd.grad(expected.value.sum(), wide),
        strict=True,
    ):
        assert a.dtype == dtype and torch.equal(a, e.to(dtype))


def test_ops() -> None:
    x, stored, beta = (a.detach() for a in tensors((2, 3), 5, 7, 4, torch.float32))
    spread, bias = beta.expand(2, 3), torch.zeros(5, 7).expand(2, 3, 5, 7)
    forward = (x, stored, spread, bias, False, 0.0, 0.0, 2, True, "")
    torch.library.opcheck(
        torch.ops.fastiter._hopfield_fwd.default, forward, test_utils=("test_schema", "test_faketensor")
    )
    value, _, steps, _, states, largest, inverse = torch.ops.fastiter._hopfield_fwd(*forward)
    through = (stored, spread, bias, steps, states, largest, inverse, value)
    torch.library.opcheck(torch.ops.fastiter._hopfield_bwd.default, through)
    fixed = (value, stored, spread, bias, value, 1e-3, False)
    torch.library.opcheck(torch.ops.fastiter._hopfield_adjoint.default, fixed)


def test_compiled() -> None:
    x, stored, beta = tensors((2,), 5, 7, 4, torch.float32)
    for how in ({"steps": 2}, {"rtol": 1e-4}):

        def function(x: Any, stored: Any, beta: Any, how: Any = how) -> Any:
            return hopfield_update(x, stored, beta=beta, **how).value

        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        value, expected = compiled(x, stored, beta), function(x, stored, beta)
        torch.testing.assert_close(value, expected)
        for a, e in zip(
            torch.autograd.grad(value.sum(), (stored, beta)),
            torch.autograd.grad(expected.sum(), (stored, beta)),
            strict=True,
        ):
            torch.testing.assert_close(a, e)


def test_transforms() -> None:
    x, stored, beta = (a.detach() for a in tensors((2,), 5, 7, 4, torch.float64))

    def total(stored: Any) -> Any:
        return hopfield_update(x, stored, beta=beta, steps=2).value.sin().sum()

    needed = stored.clone().requires_grad_()
    (expected,) = torch.autograd.grad(total(needed), needed)
    torch.testing.assert_close(torch.func.grad(total)(stored), expected)
    each = torch.func.vmap(lambda a: hopfield_update(a, stored, beta=beta, steps=2).value)(torch.stack([x, x / 2]))
    torch.testing.assert_close(each[1], hopfield_update(x / 2, stored, beta=beta, steps=2).value)


def test_failures_to_converge_are_reported() -> None:
    x, stored, beta = tensors((), 30, 20, 4, torch.float64)
    how: dict[str, Any] = {"beta": beta, "max_steps": 2, "rtol": 1e-12}
    with pytest.warns(fastiter.ConvergenceWarning, match="hopfield_update: every query must converge"):
        found = hopfield_update(x, stored, **how)
    with pytest.raises(fastiter.ConvergenceError, match="hopfield_update: every query must converge"):
        hopfield_update(x, stored, **how, throw=True)
    assert "max_steps" in found.reason
    compiled = torch.compile(lambda x: hopfield_update(x, stored, **how, throw=True).value, backend="eager")
    with pytest.raises(fastiter.ConvergenceError, match="hopfield_update: every query must converge"):
        compiled(x)
    # A system with NaN cannot be solved, and the gradient reports this.
    unknown = hopfield_ops.HopfieldAdjoint(
        torch.full((1, 1, 1, 2), torch.nan),
        torch.ones(1, 1, 2, 2),
        torch.ones(1, 1),
        None,
        torch.ones(1, 1, 1, 2),
        1e-5,
        True,
    )
    with pytest.raises(fastiter.ConvergenceError, match="the gradient's systems must be solved"):
        hopfield_ops.hopfield_adjoint(unknown)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hopfield_update(x, stored, beta=beta, steps=2).value.sum().backward()


X, P = torch.ones(2, 3, 4), torch.ones(2, 5, 4)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"state": X.int()}, TypeError, "state must have dtype torch.float32, .*, got torch.int32"),
        ({"state": np.ones((2, 3, 4))}, TypeError, "state must be a torch.Tensor, got ndarray"),
        ({"stored": P.double()}, TypeError, "stored must have dtype torch.float32 like state, got torch.float64"),
        ({"stored": P.to_sparse()}, TypeError, "stored must be a dense tensor"),
        ({"stored": P[..., :3]}, ValueError, r"stored must have shape .* to go with state, got \(2, 5, 3\)"),
        ({"beta": torch.ones(3)}, ValueError, r"beta must have a shape that broadcasts to .* = \(2,\), got \(3,\)"),
        ({"beta": 0.0}, ValueError, "beta must be finite and above 0, got 0"),
        ({"mask": torch.ones(3, 5).int()}, TypeError, "mask must be a tensor of torch.bool or torch.float32, got"),
        ({"mask": torch.ones(4, 5).bool()}, ValueError, r"mask must have a shape that broadcasts to \(..., L, S\)"),
    ],
)
def test_errors(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"state": X, "stored": P, **changed}
    for function in (hopfield_update, hopfield_energy):
        with pytest.raises(error, match=f"^{function.__name__}: {message}"):
            function(**given)


def test_errors_of_options() -> None:
    with pytest.raises(ValueError, match="hopfield_update: grad must be one of 'implicit', 'unrolled', got 'none'"):
        hopfield_update(X, P, grad="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="hopfield_update: mask must not require a gradient"):
        hopfield_update(X, P, mask=torch.zeros(3, 5, requires_grad=True))
    with pytest.raises(ValueError, match="hopfield_energy: stored must have at least one pattern"):
        hopfield_energy(X, P[:, :0])


def test_results_may_be_overwritten_and_devices_are_those_of_the_arguments() -> None:
    """Writing to a result does not change gradients, and a default device has no effect."""
    x, stored, beta = tensors((2,), 5, 7, 4, torch.float64)
    mask = torch.rand(5, 7) < 0.8
    for how in ({"steps": 2}, {"rtol": 1e-8}):
        value = hopfield_update(x, stored, beta=beta, mask=mask, **how).value
        expected = torch.autograd.grad(value.sin().sum(), stored)[0]
        with torch.device("meta"):
            again = hopfield_update(x, stored, beta=beta, mask=mask, **how).value
        cotangent = again.detach().cos()
        again.data.zero_()
        torch.testing.assert_close(torch.autograd.grad(again, stored, cotangent)[0], expected)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("inf"), float("nan")])
def test_a_beta_that_is_not_above_0_is_refused(wrong: float) -> None:
    x, stored, _ = tensors((2,), 3, 4, 5, torch.float64)
    beta = torch.tensor([1.0, wrong], dtype=torch.float64)
    for function in (hopfield_update, hopfield_energy):
        with pytest.raises(ValueError, match=f"^{function.__name__}: beta must be finite and above 0, got {wrong:g}"):
            function(x, stored, beta=beta)
