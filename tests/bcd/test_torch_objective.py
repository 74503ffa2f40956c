"""Functions of torch operations: the minima of compiled problems and of SciPy, derivatives, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import optimize

torch = pytest.importorskip("torch")

import fastiter.torch  # noqa: E402
from fastiter.bcd import Blocks  # noqa: E402
from fastiter.torch.bcd import LeastSquares, Logistic, Objective, bcd  # noqa: E402
from tests.bcd.cases import PARTS, data  # noqa: E402
from tests.bcd.test_torch_bcd import check_derivatives  # noqa: E402
from tests.support.error_cases import assert_named  # noqa: E402
from tests.support.pairs import pairs  # noqa: E402

F64 = torch.float64
Module: Any = torch.nn.Module
ZERO = torch.zeros(4, dtype=F64)


def squares(x: Any, A: Any, b: Any) -> Any:
    return (A @ x - b).square().sum() / 2


def logistic(x: Any, A: Any, y: Any) -> Any:
    return torch.nn.functional.binary_cross_entropy_with_logits(A @ x, y, reduction="sum")


def tensors(n: int = 9, m: int = 4, seed: int = 0) -> tuple[Any, Any]:
    A, b = data(n, m, seed=seed)
    return torch.from_numpy(A), torch.from_numpy(b)


@pytest.mark.parametrize("update", ["gradient", "newton"])
@pytest.mark.parametrize("parts", PARTS)
def test_minima_are_those_of_compiled_problems(parts: str, update: Any) -> None:
    A, b = tensors(20)
    y = (b > 0).to(F64)
    pairs: list[tuple[Any, Any]] = [(Objective(squares, A, b, **PARTS[parts]), LeastSquares(A, b, **PARTS[parts]))]
    if update == "newton":
        pairs = [(Objective(logistic, A, y, **PARTS[parts]), Logistic(A, y, **PARTS[parts]))]
    for objective, problem in pairs:
        expected = bcd(problem, rtol=1e-12)
        cases: Any = ((None, "cyclic"), (1, "random"), ([[0, 3], [2, 1]], "gs"), (Blocks(2, "variable"), "gs"))
        for blocks, rule in cases:
            found = bcd(objective, ZERO, blocks=blocks, rule=rule, update=update, rtol=1e-6)
            assert found.converged and found.residual <= found.tolerance
            assert torch.allclose(found.value, expected.value, rtol=0, atol=1e-5), (blocks, rule)
            assert np.isclose(found.objective, expected.objective, rtol=1e-10)
            assert torch.equal(found.active, expected.active) and found.history[-1] == found.residual
            assert 0 <= found.identified <= found.steps
            assert found.method == f"bcd, {rule}, {update}"


def test_a_custom_loss() -> None:
    """Compare Poisson regression with l2 and bounds with SciPy."""
    A, b = tensors(seed=1)
    counts = (b.abs() * 2).round()

    def loss(x: Any) -> Any:
        z = A @ x
        return (z.exp() - counts * z).sum() + 0.05 * x.square().sum()

    def both(x: Any) -> Any:
        given = torch.tensor(x, requires_grad=True)
        value = loss(given)
        (g,) = torch.autograd.grad(value, given)
        return value.item(), g.numpy()

    expected = optimize.minimize(both, np.zeros(4), jac=True, bounds=[(-0.2, 0.4)] * 4, options={"ftol": 1e-15}).x
    found = bcd(Objective(loss, lower=-0.2, upper=0.4), ZERO, update="newton", rtol=1e-10)
    np.testing.assert_allclose(found.value.numpy(), expected, rtol=0, atol=1e-6)
    assert found.active.any() and not found.active.all()


def test_infinite_values_end_no_step() -> None:
    """Minimise a barrier from near its border: f is NaN outside."""
    for update in ("gradient", "newton"):
        found = bcd(lambda x: (x - x.log()).sum(), torch.tensor([[0.01, 5.0]], dtype=F64), update=update, rtol=1e-9)
        assert torch.allclose(found.value, torch.ones(1, 2, dtype=F64), atol=1e-6), update


def test_derivatives() -> None:
    A, b = tensors(8, 4, seed=3)
    exact: dict[str, Any] = {"update": "newton", "rtol": 1e-13}

    def smooth(A: Any, b: Any, l1: Any, l2: Any, lower: Any, upper: Any) -> Any:
        def loss(x: Any, A: Any, b: Any) -> Any:
            return torch.log(torch.cosh(A @ x - b)).sum()

        held = Objective(loss, A, b, l1=l1, l2=l2, lower=lower, upper=upper)
        return bcd(held, ZERO, **exact).value

    l1, l2, lower, upper = 0.2, np.full(4, 0.1), -0.1, 0.8
    value = smooth(A, b, l1, torch.from_numpy(l2), lower, upper)
    free = (value > -0.1) & (value < 0.8) & (value != 0)
    assert (value == -0.1).any() and (value == 0.8).any() and free.any(), value
    check_derivatives(smooth, A, b, l1, l2, lower, upper)


def test_gradients_of_modules_and_closures() -> None:
    A, b = tensors(8, 3, seed=3)
    reference = A.clone().requires_grad_()
    expected = torch.autograd.grad(bcd(LeastSquares(reference, b, l2=0.1), rtol=1e-13).value.sum(), reference)[0]
    closed = A.clone().requires_grad_()
    x0 = torch.zeros(3, dtype=F64)
    value = bcd(Objective(lambda x: squares(x, closed, b), l2=0.1), x0, update="newton", rtol=1e-13).value
    (first,) = torch.autograd.grad(value.sum(), closed, create_graph=True)
    assert torch.allclose(first, expected, rtol=1e-9)
    with pytest.raises(RuntimeError, match=r"^bcd: the gradient has no derivative where f closes over tensors"):
        torch.autograd.grad(first.sum(), closed)

    class Loss(Module):  # type: ignore[misc]  # the result of importorskip has no type
        def __init__(self) -> None:
            super().__init__()
            self.A = torch.nn.Parameter(A.clone())

        def forward(self, x: Any, b: Any) -> Any:
            return squares(x, self.A, b)

    module = Loss()
    value = bcd(Objective(module, b, l2=0.1), x0, update="newton", rtol=1e-13).value
    (first,) = torch.autograd.grad(value.sum(), module.A, create_graph=True)
    assert torch.allclose(first, expected, rtol=1e-9)
    (second,) = torch.autograd.grad(first.square().sum(), module.A)
    (known,) = torch.autograd.grad(
        torch.autograd.grad(
            bcd(LeastSquares(reference, b, l2=0.1), rtol=1e-13).value.sum(), reference, create_graph=True
        )[0]
        .square()
        .sum(),
        reference,
    )
    assert torch.allclose(second, known, rtol=1e-8)


def test_states_and_edges() -> None:
    A, b = tensors()
    problem = Objective(squares, A.float(), b.float(), l1=0.5)
    found = bcd(problem, ZERO.float(), update="newton", rtol=1e-4)
    assert found.value.dtype == torch.float32 and repr(problem) == "Objective(squares)"
    assert torch.allclose(found.value.double(), bcd(LeastSquares(A, b, l1=0.5)).value, atol=1e-3)
    with torch.inference_mode():
        assert torch.equal(bcd(problem, ZERO.float(), update="newton", rtol=1e-4).value, found.value)
    empty = bcd(lambda x: x.square().sum(), torch.zeros(0, 2))
    assert empty.converged and empty.value.shape == (0, 2)
    tied = torch.tensor(1.0, dtype=F64, requires_grad=True)
    with pytest.warns(UserWarning, match=r"^bcd: 1 coordinate is at the border of being held, the first \(0, 1\): "):
        bcd(
            Objective(lambda x, t: t * x[0, 1] + x.square().sum() - 3 * x[0, 0], tied, l1=1.0),
            torch.zeros(1, 2).to(F64),
        )
    seen: list[Any] = []

    def second(progress: Any) -> bool:
        seen.append(progress.value)
        return len(seen) == 2

    assert bcd(problem, ZERO.float(), callback=second).reason == "callback" and seen[1].shape == (4,)
    with pytest.raises(fastiter.ConvergenceError, match=r"^bcd: the residual must fall to") as raised:
        bcd(problem, ZERO.float(), rtol=1e-4, max_steps=1, throw=True)
    solution: Any = raised.value.solution
    assert isinstance(solution.value, torch.Tensor)
    with pytest.warns(fastiter.ConvergenceWarning, match="'diverged'"):
        assert bcd(lambda x: x.sum(), ZERO.float()).reason == "diverged"
    with pytest.warns(fastiter.ConvergenceWarning, match="'nan'"):
        assert bcd(lambda x: (x - 1).log().sum(), ZERO).reason == "nan"  # not in the domain
    before = ZERO.clone()
    bcd(lambda x: (x - 1).square().sum(), before)
    assert torch.equal(before, ZERO)


def wrong() -> list[tuple[Any, type[Exception], str]]:
    A, b = tensors()
    anything: Any = "x"
    f = Objective(squares, A, b)
    no_bound = "for a function, whose curvature has no known bound, got"
    return [
        (lambda: Objective(anything), TypeError, "Objective: f"),
        (lambda: Objective(squares, l1=[1.0]), TypeError, "Objective: l1"),
        (lambda: Objective(squares, l1=-1.0), ValueError, "Objective: l1"),
        (lambda: bcd(Objective(squares, A, b, l2=-ZERO - 1), ZERO), ValueError, "Objective: l2"),
        (lambda: bcd(Objective(squares, A, b, l1=b), ZERO), ValueError, "Objective: l1"),
        (lambda: bcd(Objective(squares, A, b, lower=1, upper=0), ZERO), ValueError, "Objective: lower"),
        (lambda: bcd(Objective(squares, A, b, l1=b.float()), ZERO), TypeError, "Objective: l1"),
        (lambda: bcd(f), TypeError, "bcd: x0"),
        (lambda: bcd(f, ZERO.numpy()), TypeError, "Objective: x0"),
        (lambda: bcd(f, ZERO / 0), ValueError, "bcd: x0"),
        (lambda: bcd(f, ZERO.to("meta")), fastiter.BackendError, "Objective: x0"),
        (
            lambda: bcd(f, ZERO, rule="gsl"),
            ValueError,
            f"bcd: rule must be 'cyclic', 'random' or 'gs' {no_bound} 'gsl'",
        ),
        (lambda: bcd(f, ZERO, update="matrix"), ValueError, f"bcd: update must be 'gradient' or 'newton' {no_bound}"),
        (lambda: bcd(f, ZERO, stop="gap"), ValueError, "bcd: stop"),
        (lambda: bcd(f, ZERO, blocks=Blocks(2, "sort")), ValueError, "bcd: the partition"),
        (lambda: bcd(f, ZERO, blocks=Blocks(2, "variable")), ValueError, "bcd: rule"),
        (lambda: bcd(lambda x: x, ZERO), TypeError, "Objective: f"),
        (lambda: bcd(lambda x: x.sum().float(), ZERO), TypeError, "Objective: f"),
        (lambda: bcd(lambda x: 1.0, ZERO), TypeError, "Objective: f"),
        (lambda: torch.func.vmap(lambda x: bcd(f, x))(ZERO[None]), RuntimeError, "bcd: torch.func transforms such as "),
    ]


def test_wrong_arguments() -> None:
    assert_named(wrong())


@pairs
@pytest.mark.parametrize("blocks", [None, 1, 3, Blocks(2, "variable")])
@pytest.mark.parametrize("update", ["gradient", "newton"])
@pytest.mark.parametrize("l1", [0.0, 0.3])
def test_a_step_calls_and_differentiates_the_function_once(l1: float, update: Any, blocks: Any) -> None:
    """A trial of a step calls it, and what ends one step begins the next; checks in between cost nothing."""
    A, b = tensors(30, 6, seed=2)
    counts = {"calls": 0, "gradients": 0}

    def loss(x: Any, A: Any, b: Any) -> Any:
        counts["calls"] += 1
        if x.requires_grad:
            x.register_hook(lambda _: counts.update(gradients=counts["gradients"] + 1))
        return torch.log(torch.cosh(A @ x - b)).sum()

    rule: Any = "gs" if isinstance(blocks, Blocks) else "cyclic"
    how: dict[str, Any] = {"blocks": blocks, "rule": rule, "update": update, "rtol": 1e-9, "check_every": 1}
    found = bcd(Objective(loss, A, b, l1=l1), torch.zeros(6, dtype=F64), **how)
    assert found.converged and found.steps >= 3
    bounds = 2 * found.steps + 8 if update == "gradient" else 1.5 * found.steps + 4
    assert counts["calls"] <= bounds
    assert counts["gradients"] <= 1.5 * found.steps + 4 + (found.steps if update == "newton" else 0)
