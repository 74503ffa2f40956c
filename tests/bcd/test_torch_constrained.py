"""Equality constraints of functions of torch operations: the steps of arrays, derivatives, and refusals."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter.torch  # noqa: E402
from fastiter.torch.bcd import sketched_newton  # noqa: E402
from tests.bcd.test_sketch import PUBLISHED  # noqa: E402
from tests.bcd.test_torch_bcd import check_derivatives  # noqa: E402

F64 = torch.float64

FUNCTIONS: dict[str, tuple[Any, Any]] = {
    "hs6": (lambda x: (1 - x[0]) ** 2, lambda x: 10 * (x[1:] - x[:1] ** 2)),
    "hs7": (lambda x: (1 + x[0] ** 2).log() - x[1], lambda x: (1 + x[:1] ** 2) ** 2 + x[1:] ** 2 - 4),
    "hs28": (lambda x: (x[0] + x[1]) ** 2 + (x[1] + x[2]) ** 2, lambda x: x[:1] + 2 * x[1:2] + 3 * x[2:] - 1),
}


@pytest.mark.parametrize(("problem", "steps", "residual"), PUBLISHED)
def test_published_iterations(problem: Any, steps: int, residual: float) -> None:
    _, _, x0, minimum = problem()
    found = sketched_newton(*FUNCTIONS[problem.__name__], torch.tensor(x0, dtype=F64))
    assert found.converged and found.steps == steps and not found.value.requires_grad
    assert np.allclose(found.value, minimum, atol=1e-4) and isinstance(found.multipliers, torch.Tensor)
    assert found.residual <= max(residual * 1.5, 1e-9)


def on_sphere(x: Any, a: Any, r: Any) -> Any:
    return (a * x).sum() + 0.1 * (x**4).sum()


def sphere(x: Any, a: Any, r: Any) -> Any:
    return torch.stack([x @ x - r**2, x[0] * r - 0.3])


START = torch.tensor([0.3, -1.0, -1.0, 0.2], dtype=F64)


def test_derivatives() -> None:
    def solved(a: Any, r: Any) -> Any:
        found = sketched_newton(on_sphere, sphere, START, a, r, atol=1e-11)
        return found.value, found.multipliers

    check_derivatives(solved, np.array([0.1, 1.0, 1.5, -0.4]), 1.2)


def test_closures() -> None:
    a, r = torch.tensor([0.1, 1.0, 1.5, -0.4], dtype=F64), torch.tensor(1.2, dtype=F64)
    leaf, closed = r.clone().requires_grad_(), r.clone().requires_grad_()
    expected = torch.autograd.grad(sketched_newton(on_sphere, sphere, START, a, leaf, atol=1e-10).value.sum(), leaf)
    value = sketched_newton(lambda x: on_sphere(x, a, None), lambda x: sphere(x, a, closed), START, atol=1e-10).value
    found = torch.autograd.grad(value.sum(), closed, create_graph=True)
    assert torch.allclose(found[0], expected[0], rtol=1e-6)
    with pytest.raises(RuntimeError, match=r"^sketched_newton: the gradient has no derivative where f closes over"):
        torch.autograd.grad(found[0], closed)


def test_edges() -> None:
    free = sketched_newton(lambda x: (x - 1).square().sum(), lambda x: x[:0], torch.zeros(2, dtype=F64), atol=1e-8)
    assert torch.allclose(free.value, torch.ones(2, dtype=F64)) and free.multipliers.shape == (0,)
    flat = torch.tensor(1.0, dtype=F64, requires_grad=True)
    value = sketched_newton(lambda x, t: t * x[0] ** 2, lambda x, t: x[:0], torch.zeros(2, dtype=F64), flat).value
    with pytest.raises(RuntimeError, match=r"^sketched_newton: the solution has no derivative, as the matrix"):
        value.sum().backward()
    with pytest.warns(fastiter.ConvergenceWarning, match="'max_steps'"):
        assert not sketched_newton(*FUNCTIONS["hs7"], torch.ones(2, dtype=F64), max_steps=0).converged
    with pytest.raises(fastiter.ConvergenceError) as raised:
        sketched_newton(*FUNCTIONS["hs7"], torch.ones(2, dtype=F64), max_steps=0, throw=True)
    solution: Any = raised.value.solution
    assert isinstance(solution.value, torch.Tensor)
    with pytest.warns(fastiter.ConvergenceWarning, match="'nan'"):
        sketched_newton(lambda x: (x - 2).log().sum(), lambda x: x[:0], torch.ones(2, dtype=F64))
    with torch.inference_mode():
        assert sketched_newton(*FUNCTIONS["hs28"], torch.ones(3, dtype=F64)).converged


def wrong() -> list[tuple[Any, type[Exception], str]]:
    f, c = FUNCTIONS["hs6"]
    x, bad = torch.ones(2, dtype=F64), torch.full((2,), torch.nan, dtype=F64)
    anything: Any = "x"
    return [
        (lambda: sketched_newton(anything, c, x), TypeError, "sketched_newton: objective must be a function of "),
        (lambda: sketched_newton(f, anything, x), TypeError, "sketched_newton: constraints must be a function of "),
        (lambda: sketched_newton(f, c, x, x), TypeError, "sketched_newton: objective must take the 2 arguments "),
        (
            lambda: sketched_newton(lambda x, a: f(x), c, x, x),
            TypeError,
            "sketched_newton: constraints must take the 2 arguments (x, *params) of this call (the first mul",
        ),
        (lambda: sketched_newton(f, c, x.float()), TypeError, "sketched_newton: x0 must have dtype torch.float64,"),
        (lambda: sketched_newton(f, c, bad), ValueError, "sketched_newton: x0 must be a finite vector"),
        (
            lambda: sketched_newton(f, c, x, multipliers0=x.float()),
            TypeError,
            "sketched_newton: multipliers0 must have dtype",
        ),
        (lambda: sketched_newton(f, c, x.to("meta")), fastiter.BackendError, "sketched_newton: x0 must be on the CPU"),
        (lambda: sketched_newton(lambda x: x, c, x), TypeError, "sketched_newton: objective must return a float64 "),
        (
            lambda: sketched_newton(f, f, x),
            TypeError,
            "sketched_newton: constraints must return a float64 tensor of sh",
        ),
        (lambda: sketched_newton(f, c, x, sketch=anything), ValueError, "sketched_newton: sketch must be"),
        (lambda: torch.func.vmap(lambda x: sketched_newton(f, c, x))(x[None]), RuntimeError, "sketched_newton: torch."),
    ]


@pytest.mark.parametrize("case", range(12))
def test_wrong_arguments(case: int) -> None:
    assert len(wrong()) == 12
    call, error, message = wrong()[case]
    with pytest.raises(error, match=f"^{re.escape(message)}") as raised:
        call()
    assert "\n" not in str(raised.value)
