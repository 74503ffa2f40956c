"""flexible_cg on tensors: the steps of arrays, gradients of all inputs, networks as preconditioners, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn  # noqa: E402

import fastiter  # noqa: E402
from fastiter import relax  # noqa: E402
from fastiter.torch.fixedpoint import refine  # noqa: E402
from fastiter.torch.relax import flexible_cg  # noqa: E402
from tests.relax.cases import vectors  # noqa: E402

DTYPES = (torch.float32, torch.float64, torch.complex128)


def definite(n: int, dtype: Any, seed: int = 0) -> Tensor:
    """Return a Hermitian matrix with eigenvalues from 1 to 20."""
    rng = np.random.default_rng([seed, n])
    M = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if dtype.is_complex else 0)
    Q = np.linalg.qr(M)[0]
    found: Tensor = torch.from_numpy((Q * np.geomspace(1, 20, n)) @ Q.conj().T).to(dtype)
    return found


def rhs(shape: Any, dtype: Any) -> Any:
    return torch.from_numpy(vectors(shape, str(dtype).removeprefix("torch."), 1))


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta state:UserWarning")
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_are_those_of_arrays(dtype: Any) -> None:
    A, rtol = definite(14, dtype), 1e-5 if dtype == torch.float32 else 1e-11

    def precond(r: Any) -> Any:
        return r + 0.3 * abs(r)

    for shape in ((14,), (14, 3)):
        b = rhs(shape, dtype)
        expected = relax.flexible_cg(A.numpy(), b.numpy(), precond=precond, rtol=rtol, check_every=2)
        for matrix in (A, A.to_sparse_coo(), A.T.conj_physical().to_sparse_csc(), A.to_sparse_bsr((2, 2))):
            found = flexible_cg(matrix, b, precond=precond, rtol=rtol, check_every=2)
            # Both residuals are at most rtol ||b||, and ||A^-1|| is 1.
            assert (found.value - torch.from_numpy(expected.value)).norm() <= 2.1 * rtol * b.norm()
            assert found.value.dtype == dtype and np.abs(np.asarray(found.steps) - expected.steps).max() <= 2
        start = flexible_cg(A, b, found.value, rtol=2 * rtol)
        assert np.max(np.asarray(start.steps)) == 0
    found = flexible_cg(lambda x: (A @ x.reshape(14)).reshape(2, 7), rhs((2, 7), dtype), rtol=rtol)
    assert found.value.shape == (2, 7) and found.converged is True
    left = rhs((2, 7), dtype).reshape(14) - A @ found.value.reshape(14)
    assert left.norm() <= 1.1 * rtol * rhs((2, 7), dtype).norm()


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta state:UserWarning")
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients(dtype: Any) -> None:
    A, b = definite(4, dtype), rhs((4, 2), dtype)
    mask = torch.eye(4, dtype=torch.bool) | (A.abs() >= A.abs().median())
    mask = mask | mask.T
    pattern = (A * mask).to_sparse_csr()
    exact: dict[str, Any] = {"rtol": 1e-13, "precond": lambda r: r / 3}

    def dense(A: Tensor, b: Tensor) -> Any:
        return flexible_cg((A + A.mH) / 2, b, **exact).value

    def sparse(values: Tensor, b: Tensor) -> Any:
        return flexible_cg((pattern.crow_indices(), pattern.col_indices(), values), b, **exact).value

    def function(scale: Tensor, b: Tensor) -> Any:
        return flexible_cg(lambda x: scale**2 * (A @ x.reshape(4, 2)).reshape(8), b.reshape(8), **exact).value

    scale = torch.tensor(1.3, dtype=torch.float64)
    for call, first in ((dense, A), (function, scale)):
        inputs = [x.clone().requires_grad_() for x in (first, b)]
        assert torch.autograd.gradcheck(call, inputs)
    # gradcheck changes one value of a sparse matrix at a time, which is then not Hermitian: compare with the dense one.
    values = A[mask] + 9 * torch.eye(4, dtype=dtype)[mask]
    whole = torch.zeros(4, 4, dtype=dtype)
    whole[mask] = values
    one, other = values.clone().requires_grad_(), whole.clone().requires_grad_()
    weights = rhs((4, 2), dtype)
    (sparse(one, b).conj() * weights).sum().real.backward()
    (torch.linalg.solve(other, b).conj() * weights).sum().real.backward()
    torch.testing.assert_close(one.grad, other.grad[mask], rtol=1e-9, atol=1e-11)


def test_functions_may_change_their_argument_in_place() -> None:
    A, b = definite(6, torch.float64), rhs((6,), torch.float64).requires_grad_()

    def product(x: Tensor) -> Tensor:
        image = A @ x
        x.fill_(torch.nan)
        return image

    found = flexible_cg(product, b, precond=lambda r: r.div_(3), rtol=1e-12)
    assert found.converged
    torch.testing.assert_close(found.value, torch.linalg.solve(A, b))
    found.value.sum().backward()
    torch.testing.assert_close(b.grad, torch.linalg.solve(A, torch.ones_like(b.detach())))


def test_second_derivatives_are_refused() -> None:
    A, b = definite(4, torch.float64), torch.ones(4, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad((weight * flexible_cg(A, b).value).sum(), b, create_graph=True)
    with pytest.raises(RuntimeError, match=r"^flexible_cg: the gradient has no derivative"):
        g.sum().backward()


def test_a_network_is_a_preconditioner_without_gradients() -> None:
    A, b = definite(8, torch.float64), rhs((8,), torch.float64)
    torch.manual_seed(0)
    layer = nn.Linear(8, 8).double()
    with torch.no_grad():
        layer.weight.copy_(torch.linalg.inv(A))
        layer.bias.zero_()
    network = nn.Sequential(layer, nn.Tanh())
    found = flexible_cg(A, b.requires_grad_(), precond=network, rtol=1e-10)
    assert found.converged and found.steps < 30
    found.value.sum().backward()
    torch.testing.assert_close(b.grad, torch.linalg.solve(A, torch.ones(8, dtype=torch.float64)))
    assert layer.weight.grad is None
    half = flexible_cg(A, b.detach(), precond=lambda r: network(r).bfloat16(), rtol=1e-10)
    assert half.value.dtype == torch.float64 and half.converged


def test_failures_to_converge_are_reported() -> None:
    A, b = definite(9, torch.float64), torch.ones(9, dtype=torch.float64, requires_grad=True)
    with pytest.warns(fastiter.ConvergenceWarning, match="^flexible_cg: .* after 2 steps .*; .* or a better precond$"):
        found = flexible_cg(A, b, max_steps=2)
    with pytest.raises(fastiter.ConvergenceError, match=r"^flexible_cg: for the gradient, \|\|b - A x\|\| must fall"):
        (found.value * torch.arange(9)).sum().backward()
    with pytest.raises(fastiter.ConvergenceError, match=r"^flexible_cg: ") as caught:
        flexible_cg(A, b, max_steps=2, throw=True)
    assert caught.value.solution is not None and caught.value.solution.steps == 2


#: A wrong argument, typed as Any for the type checker
ANY: Callable[[Any], Any] = lambda x: x  # noqa: E731
A4, B4 = definite(4, torch.float64), torch.ones(4, dtype=torch.float64)
WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: flexible_cg(-A4, B4), ValueError, "A must be positive definite"),
    (lambda: flexible_cg(ANY(A4.numpy()), B4), TypeError, "A must be a torch.Tensor or a function, got numpy.ndarray"),
    (lambda: flexible_cg(A4[:3], B4), ValueError, r"A must have shape \(n, n\), got \(3, 4\)"),
    (
        lambda: flexible_cg(A4.float(), B4),
        TypeError,
        "A must have dtype torch.float64 on cpu like b, got",
    ),
    (lambda: flexible_cg(A4 * torch.inf, B4), ValueError, r"A must be finite, got .* at index"),
    (lambda: flexible_cg(A4, B4[:3]), ValueError, r"b must have shape \(4,\) or \(4, k\) to go with A, got \(3,\)"),
    (lambda: flexible_cg(A4, B4 * torch.nan), ValueError, "b must be finite, got nan at index 0"),
    (lambda: flexible_cg(A4, B4.bfloat16()), TypeError, "b must have dtype torch.float32, torch.float64 or"),
    (lambda: flexible_cg(A4, B4, B4[:3]), ValueError, r"x0 must have shape \(4,\) like b, got \(3,\)"),
    (lambda: flexible_cg(A4, B4, B4.float()), TypeError, "x0 must have dtype torch.float64 like b"),
    (lambda: flexible_cg(A4, B4, precond=ANY(1)), TypeError, "precond must be a torch.Tensor or a function, got int"),
    (lambda: flexible_cg(lambda x: x, B4, precond=A4), TypeError, "precond must be a function if A is one"),
    (lambda: flexible_cg(A4, B4, precond=lambda r: r[:2]), ValueError, "precond must return numbers like b, shape"),
    (
        lambda: flexible_cg(A4, B4, precond=ANY(lambda r: None)),
        TypeError,
        "precond must return a torch.Tensor, got NoneType",
    ),
    (lambda: flexible_cg(A4, B4, precond=lambda r: r / 0), ValueError, "precond must return finite numbers"),
    (lambda: flexible_cg(lambda x: x * 1j, B4), ValueError, "A must return numbers like b, shape"),
    (lambda: flexible_cg(A4, B4, memory=True), TypeError, "memory must be an int, got bool"),
]


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta state:UserWarning")
def test_patterns_out_of_bounds_are_refused() -> None:
    one, eye = torch.ones(2), torch.eye(2)
    for crow, col, message in (
        ([0, 1, 2], [0, 5], "must have columns from 0 to 1, got another in row 1"),
        ([0, 1, 2], [-1, 1], "must have columns from 0 to 1, got another in row 0"),
        ([0, 2, 1], [0, 1], "must have pointers that increase"),
        ([1, 1, 2], [0, 1], "must have pointers that increase"),
    ):
        parts = torch.tensor(crow), torch.tensor(col), torch.ones(2)
        A = torch.sparse_csr_tensor(*parts, (2, 2), check_invariants=False)
        calls: dict[str, Callable[[], Any]] = {
            "flexible_cg: A": lambda parts=parts: flexible_cg(parts, one),
            "flexible_cg: precond": lambda A=A: flexible_cg(eye, one, precond=A),
            "refine: A": lambda A=A: refine(A, eye, one),
            "refine: S": lambda A=A: refine(eye, A, one),
        }
        for begin, call in calls.items():
            with pytest.raises(ValueError, match=f"^{begin} {message}"):
                call()


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_wrong_arguments_raise_one_sentence(number: int) -> None:
    call, error, message = WRONG[number]
    with pytest.raises(error, match=f"^flexible_cg: {message}") as caught:
        call()
    assert "\n" not in str(caught.value)
