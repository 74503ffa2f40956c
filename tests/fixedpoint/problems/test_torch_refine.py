"""Iterative refinement on tensors: the results of arrays, and first and second derivatives against direct solutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn  # noqa: E402
from torch.autograd.functional import hessian, jacobian  # noqa: E402

import fastiter  # noqa: E402
from fastiter.fixedpoint import refine as on_arrays  # noqa: E402
from fastiter.torch.bcd import LeastSquares, bcd  # noqa: E402
from fastiter.torch.fixedpoint import fixed_point, refine  # noqa: E402

DTYPES = ("float32", "float64", "complex64", "complex128")


def system(n: int, dtype: str = "float64") -> tuple[Any, Any, Any]:
    """Return A, an S with a rate of about 1/20, and b."""
    rng = np.random.default_rng(n)
    A = rng.normal(size=(n, n)) + n * np.eye(n)
    if dtype.startswith("complex"):
        A = A + 1j * rng.normal(size=(n, n))
    S = np.linalg.inv(A + 0.3 * np.eye(n))
    return tuple(torch.from_numpy(x.astype(dtype)) for x in (A, S, rng.normal(size=n)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["picard", "anderson", "broyden", "aitken"])
def test_numbers_are_those_of_arrays(dtype: str, method: Any) -> None:
    A, S, b = system(9, dtype)
    rtol = 1e-5 if dtype in ("float32", "complex64") else 1e-12
    expected = on_arrays(A.numpy(), S.numpy(), b.numpy(), method=method, rtol=rtol)
    found = refine(A, S, b, method=method, rtol=rtol)
    assert found.converged and found.reason == expected.reason and abs(found.steps - expected.steps) <= 1
    assert found.value.dtype == b.dtype and found.residual <= rtol * float(b.norm())
    for value in (found.value, torch.from_numpy(expected.value)):
        left = float((b - A @ value).norm())
        assert left <= 2 * rtol * float(b.norm())
    assert np.isclose(found.residual, float((b - A @ found.value).norm()), atol=rtol * float(b.norm()) / 10)
    assert refine(A, S, b, found.value, method=method, rtol=3 * rtol).steps == 0


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta state:UserWarning")
def test_operators_of_any_kind_and_precision() -> None:
    A, S, b = system(8)
    exact = torch.linalg.solve(A, b)
    sparse = torch.where(A.abs() > 0.1, A, 0)
    for matrix in (sparse.to_sparse_coo(), sparse.to_sparse_csr()):
        found = refine(matrix, S, b, rtol=1e-13)
        torch.testing.assert_close(found.value, torch.linalg.solve(sparse, b), rtol=1e-11, atol=1e-11)
    for solver in (
        S.float(),
        S.bfloat16(),
        S.half(),
        lambda r: S.bfloat16() @ r.bfloat16(),
        nn.Linear(8, 8, bias=False).double(),
    ):
        if isinstance(solver, nn.Linear):
            with torch.no_grad():
                solver.weight.copy_(S)
        found = refine(A, solver, b, rtol=1e-13)
        assert found.converged and found.value.dtype == torch.float64
        torch.testing.assert_close(found.value.detach(), exact, rtol=1e-11, atol=1e-12)
    many = refine(A, S, torch.stack([b, 2 * b], 1), rtol=1e-13)
    torch.testing.assert_close(many.value, torch.stack([exact, 2 * exact], 1), rtol=1e-11, atol=1e-12)
    grid = refine(lambda x: 2 * x, lambda r: r / 2, torch.ones(2, 3, 4))
    assert grid.value.shape == (2, 3, 4) and grid.steps == 1
    assert refine(A, S, torch.zeros(8, dtype=torch.float64)).steps == 0
    assert refine(lambda x: x, lambda r: r, torch.zeros(0, requires_grad=True)).value.shape == (0,)
    for scale in (1e-30, 1e30):
        leaf = b.clone().requires_grad_()
        found = refine(scale * A, S.float().double() / scale, leaf, rtol=1e-13)
        found.value.sum().backward()
        torch.testing.assert_close(found.value.detach() * scale, exact, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(
            leaf.grad * scale, torch.linalg.solve(A.T, torch.ones_like(b)), rtol=1e-9, atol=1e-11
        )
    assert refine(A.to(torch.float32), S, b.to(torch.complex64)).value.dtype == torch.complex64


class Product(nn.Module):
    """x -> weight @ x."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.weight @ x


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_gradients_of_both_orders(dtype: str) -> None:
    A, S, b = system(3, dtype)

    def solved(A: Any, b: Any) -> Any:
        return refine(A, S, b, rtol=1e-14, method="anderson").value

    inputs = [x.clone().requires_grad_() for x in (A, b)]
    assert torch.autograd.gradcheck(solved, inputs) and torch.autograd.gradgradcheck(solved, inputs)


def test_gradients_of_sparse_tensors_modules_and_closures() -> None:
    A, S, b = system(5)
    weights = torch.arange(1.0, 6, dtype=torch.float64)

    def both_orders(value: Tensor, parameter: Tensor) -> tuple[Tensor, Tensor]:
        (first,) = torch.autograd.grad((value * weights).sum(), parameter, create_graph=True)
        return first.detach(), torch.autograd.grad(first.square().sum(), parameter)[0]

    leaf = A.clone().requires_grad_()
    expected = both_orders(torch.linalg.solve(leaf, b), leaf)
    module = Product(A)
    for made in (
        both_orders(refine(module, S, b, rtol=1e-13).value, module.weight),
        both_orders(refine((own := A.clone().requires_grad_()).to_sparse_coo(), S.float(), b, rtol=1e-13).value, own),
    ):
        torch.testing.assert_close(made[0], expected[0], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(made[1], expected[1], rtol=1e-9, atol=1e-11)
    with pytest.raises(TypeError, match=r"^refine: S must be differentiable if a gradient is requested"):
        refine(module, lambda r: (S @ r).detach(), b).value.sum().backward()
    closed = A.clone().requires_grad_()
    value = refine(lambda x: closed @ x, S, b, rtol=1e-13).value
    (first,) = torch.autograd.grad((value * weights).sum(), closed, create_graph=True)
    torch.testing.assert_close(first.detach(), expected[0], rtol=1e-9, atol=1e-11)
    with pytest.raises(RuntimeError, match=r"^refine: the gradient has no derivative where A closes over tensors"):
        first.sum().backward()


def test_no_convergence_is_reported() -> None:
    eye, b = torch.eye(2), torch.ones(2, requires_grad=True)
    with pytest.warns(fastiter.ConvergenceWarning, match=r"^refine: \|\|b - A x\|\| must fall to "):
        found = refine(eye, 3 * eye, b)
    assert found.reason == "diverged" and bool(found.value.isfinite().all())
    with pytest.raises(fastiter.ConvergenceError, match=r"^refine: "):
        refine(eye, 3 * eye, b, throw=True)
    with pytest.warns(fastiter.ConvergenceWarning, match=r"^refine, backward: "):
        refine(eye, 0.5 * eye, b, adjoint={"max_steps": 2}).value.sum().backward()


#: A wrong argument, typed as Any for the type checker
ANY: Callable[[Any], Any] = lambda x: x  # noqa: E731


@pytest.mark.parametrize(
    ("error", "message", "wrong"),
    [
        (TypeError, "A must be callable or a torch.Tensor, got int", {"A": 1}),
        (
            ValueError,
            r"A must have shape \(n, n\), and b the shape \(n,\) or \(n, k\), got \(2, 3\)",
            {"A": torch.ones(2, 3)},
        ),
        (TypeError, "S must be real like b, got torch.complex64", {"S": torch.eye(2) * 1j}),
        (TypeError, "b must have dtype .*, got torch.int64", {"b": torch.ones(2, dtype=torch.int64)}),
        (TypeError, "b must be a torch.Tensor, got numpy.ndarray", {"b": np.ones(2)}),
        (ValueError, r"x0 must be torch.float32 \(2,\) on cpu like b, got torch.float32 \(3,\)", {"x0": torch.ones(3)}),
        (ValueError, "method must be one of .*, got 'halpern'", {"method": "halpern"}),
        (TypeError, "adjoint must be a mapping of options or None, got int", {"adjoint": 3}),
        (ValueError, r"S must return floating-point numbers of shape \(2,\) like b", {"S": lambda r: r[:1]}),
        (TypeError, "A must return real numbers like b, got torch.complex64", {"A": lambda x: 1j * x}),
        (TypeError, "A must return a torch.Tensor, got NoneType", {"A": lambda x: None}),
        (TypeError, "method 'picard' takes no option 'm', only damping", {"m": 3}),
    ],
)
def test_wrong_arguments(error: type[Exception], message: str, wrong: dict[str, Any]) -> None:
    given: dict[str, Any] = {"A": torch.eye(2), "S": torch.eye(2), "b": torch.ones(2), **wrong}
    with pytest.raises(error, match=f"^refine: {message}"):
        refine(given.pop("A"), given.pop("S"), given.pop("b"), given.pop("x0", None), **given)
    with pytest.raises(RuntimeError, match=r"^refine: torch.func transforms"):
        torch.func.vmap(lambda b: refine(torch.eye(2), torch.eye(2), b).value)(torch.ones(3, 2))


def test_gradients_in_batches() -> None:
    """A batch of cotangents, as in torch.autograd.functional with ``vectorize``, is solved one by one."""
    A, S, b = system(4)
    calls: dict[str, Callable[[Tensor], Tensor]] = {
        "refine": lambda A: refine(A, S, b, rtol=1e-13).value,
        "fixed_point": lambda A: fixed_point(lambda x, A: (x @ A / 20).tanh() + b, b[None] * 0, A, rtol=1e-13).value,
        "bcd": lambda A: bcd(LeastSquares(A, b, l2=0.1), rtol=1e-13).value,
    }
    for f in calls.values():

        def cubes(A: Tensor, f: Callable[[Tensor], Tensor] = f) -> Tensor:
            return f(A).pow(3).sum()

        pairs: list[tuple[Any, Any]] = [(jacobian, f), (hessian, cubes)]
        for derivative, function in pairs:
            together = derivative(function, A, vectorize=True)
            torch.testing.assert_close(together, derivative(function, A), rtol=1e-12, atol=1e-14)
