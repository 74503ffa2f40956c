"""Solutions and sweeps on tensors: values, gradients of every input, the ops under torch's machinery, errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import scipy.sparse  # noqa: E402
from torch import Tensor  # noqa: E402

import fastiter  # noqa: E402
from fastiter.torch.relax import kaczmarz, sor, sweeps  # noqa: E402
from tests.relax.cases import attempt, bipartite, random_matrix, vectors  # noqa: E402
from tests.relax.gpu import solve_by  # noqa: E402

DTYPES = (torch.float32, torch.float64, torch.complex128)
METHODS = ("jacobi", "gauss_seidel", "sor", "ssor")
EXACT = {"rtol": 1e-13, "max_steps": 2000}


def system(n: int, dtype: Any, k: int | None = None, order: str = "natural") -> tuple[Tensor, Any, Tensor, Tensor]:
    name = str(dtype).removeprefix("torch.")
    dense = torch.from_numpy(bipartite(n, name) if order == "red-black" else random_matrix(n, name, 0.5))
    row, col = dense.nonzero(as_tuple=True)
    crow = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(row, minlength=n).cumsum(0)])
    b = torch.from_numpy(vectors((n,) if k is None else (n, k), name, 1))
    return dense[row, col].clone(), (crow, col), b, dense


def dense_of(values: Tensor, pattern: Any) -> Tensor:
    crow, col = pattern
    n = len(crow) - 1
    row = torch.repeat_interleave(torch.arange(n), crow.diff())
    return torch.zeros(n, n, dtype=values.dtype).index_put((row, col), values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_solutions_are_those_of_arrays(dtype: Any) -> None:
    for k, method in ((None, "sor"), (3, "ssor"), (None, "jacobi"), (2, "gauss_seidel")):
        values, pattern, b, dense = system(12, dtype, k)
        rtol = 1e-5 if dtype == torch.float32 else 1e-10
        solution = solve_by((*pattern, values), b, method=method, rtol=rtol)
        expected = fastiter.relax.Relaxation(dense.numpy(), method).solve(b.numpy(), rtol=rtol)
        np.testing.assert_allclose(solution.value, expected.value, rtol=1e-4 if dtype == torch.float32 else 1e-9)
        assert solution.value.dtype == dtype
        assert solution.reason == expected.reason
        assert np.array_equal(solution.steps, expected.steps)
        assert np.all(np.asarray(solution.converged))
        start = solve_by((*pattern, values), b, solution.value, method=method, rtol=2 * rtol)
        assert np.all(np.asarray(start.steps) == 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_solutions(method: str, dtype: Any) -> None:
    for k, order in ((None, "natural"), (2, "natural"), (None, "color")):
        if method == "jacobi" and order == "color":
            continue
        values, pattern, b, _ = system(4, dtype, k)
        inputs = (values.requires_grad_(), b.requires_grad_())

        def solve(values: Tensor, b: Tensor, pattern: Any = pattern, order: str = order) -> Tensor:
            return solve_by((*pattern, values), b, method=method, order=order, **EXACT).value

        assert torch.autograd.gradcheck(solve, inputs)
        expected = torch.linalg.solve(dense_of(values, pattern), b)
        torch.testing.assert_close(solve(*inputs), expected)
    if method == "sor":
        assert torch.autograd.gradgradcheck(solve, inputs)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "csr": lambda A: A.to_sparse_csr(),
    "csc": lambda A: A.to_sparse_csc(),
    "bsr": lambda A: A.to_sparse_bsr((2, 3)),
    "bsc": lambda A: A.to_sparse_bsc((3, 2)),
    "coo": lambda A: A.to_sparse_coo(),
}


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta state:UserWarning")
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_second_derivatives_reach_a_sparse_tensor(layout: str, dtype: Any) -> None:
    """torch differentiates the values of a compressed tensor once and then drops the graph."""
    dense, weights, b = system(6, dtype)[3], system(6, dtype, order="red-black")[3], system(6, dtype)[2]
    of_ones = LAYOUTS[layout](dense)
    of_ones.values().fill_(1)
    inside = of_ones.to_dense() != 0  # the dense A has gradients at all positions
    found = []
    for A in (dense.clone(), LAYOUTS[layout](dense)):
        inputs = A.requires_grad_(), b.clone().requires_grad_()
        is_dense = A.layout == torch.strided
        x = torch.linalg.solve(*inputs) if is_dense else sor(*inputs, omega=1.0, **EXACT).value
        dA, db = torch.autograd.grad((x**3).sum().real, inputs, create_graph=True)
        twice = []
        for of_dA in ((dA * inside if is_dense else dA).sum(), (dA.to_dense() * inside * weights).sum()):
            twice += torch.autograd.grad(of_dA.real + (db * b.detach()).sum().real, inputs, retain_graph=True)
        found.append([g.detach().to_dense() * (inside if g.dim() == 2 else 1) for g in (dA, db, *twice)])
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta state:UserWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_b_alone(layout: str) -> None:
    """With a complex A that has no gradient: torch cannot conjugate a view of a compressed tensor."""
    dense, b = system(6, torch.complex128)[3], system(6, torch.complex128)[2].requires_grad_()
    for solve in (
        lambda A: sor(A, b, omega=1.0, **EXACT).value,
        lambda A: kaczmarz(A, b, **EXACT).value,
        lambda A: sweeps(A, b, torch.zeros_like(b), omega=1.0, sweeps=60),
    ):
        (found,) = torch.autograd.grad(solve(LAYOUTS[layout](dense)).abs().sum(), b)
        (expected,) = torch.autograd.grad(torch.linalg.solve(dense, b).abs().sum(), b)
        torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta state:UserWarning")
def test_sweeps_refuse_second_derivatives_of_a_sparse_tensor() -> None:
    dense, b = system(6, torch.float64)[3], system(6, torch.float64)[2]
    for layout in LAYOUTS.values():
        A = layout(dense).requires_grad_()
        x = sweeps(A, b, torch.zeros_like(b))
        (dA,) = torch.autograd.grad((x**2).sum(), A, create_graph=True)
        with pytest.raises(RuntimeError, match=r"^sweeps: the gradient has no derivative"):
            torch.autograd.grad(dA.to_dense().sum(), A)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_sweeps(method: str, dtype: Any) -> None:
    for k, order in ((None, "natural"), (2, "natural"), (None, "red-black"), (None, "cluster"), (2, "color")):
        if method == "jacobi" and order != "natural":
            continue
        values, pattern, b, _ = system(5, dtype, k, order)
        x = torch.from_numpy(vectors(tuple(b.shape), str(dtype).removeprefix("torch."), 2))
        omega = torch.tensor(1.0 if method == "gauss_seidel" else 1.2, dtype=torch.float64)
        inputs = [t.requires_grad_() for t in (x, b, values)]
        if method != "gauss_seidel":
            inputs.append(omega.requires_grad_())

        def run(x: Tensor, b: Tensor, values: Tensor, *omega: Tensor, p: Any = pattern, order: str = order) -> Tensor:
            return sweeps((*p, values), b, x, omega=omega[0] if omega else 1.0, sweeps=3, method=method, order=order)

        assert torch.autograd.gradcheck(run, inputs)


def test_sweeps_are_those_of_arrays() -> None:
    values, pattern, b, dense = system(9, torch.float32, 3)
    x = torch.zeros_like(b)
    for order in ("natural", "color"):
        expected = x.numpy().copy()
        fastiter.relax.Relaxation(_sparse(dense), "ssor", omega=1.1, order=order).sweep(expected, b.numpy(), 4)
        actual = sweeps((*pattern, values), b, x, omega=1.1, sweeps=4, method="ssor", order=order)
        np.testing.assert_array_equal(actual, expected)
    assert torch.equal(sweeps((*pattern, values), b, b, omega=1.1, sweeps=0), b)
    assert not x.any()


def _sparse(dense: Tensor) -> Any:
    return pytest.importorskip("scipy.sparse").csr_array(dense.numpy())


def test_layouts_and_views() -> None:
    values, pattern, b, _ = system(7, torch.complex128, 2)
    plain = sor((*pattern, values), b).value
    wide = torch.zeros(7, 4, dtype=b.dtype)
    wide[:, ::2] = b
    assert torch.equal(sor((*pattern, values), wide[:, ::2]).value, plain)
    assert torch.equal(sor((*pattern, values.conj().resolve_conj().conj()), b.mT.contiguous().mT).value, plain)
    unsorted = torch.arange(len(values) - 1, -1, -1)
    crow, col = pattern
    row = torch.repeat_interleave(torch.arange(7), crow.diff())
    shuffled = unsorted[torch.argsort(row[unsorted], stable=True)]
    again = sor((crow, col[shuffled], values[shuffled].requires_grad_()), b).value
    torch.testing.assert_close(again, plain)
    assert torch.equal(sor((crow.int(), col.int().tolist(), values), b).value, plain)


def test_omega_auto() -> None:
    n = 30
    dense = torch.eye(n, dtype=torch.float64) * 2.0 - torch.ones(n - 1).diag(1) - torch.ones(n - 1).diag(-1)
    row, col = dense.nonzero(as_tuple=True)
    crow = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(row).cumsum(0)])
    values, b = dense[row, col].clone().requires_grad_(), torch.ones(n, dtype=torch.float64)
    fixed = sor((crow, col, values), b, omega=1.0)
    for method in ("jacobi", "sor", "ssor"):
        found = solve_by((crow, col, values), b, method=method, omega="auto", rtol=1e-12, max_steps=20_000)
        assert found.converged and (found.omega > 1.2) is (method != "jacobi")
        assert method == "jacobi" or found.steps < fixed.steps / 3
        gradient = torch.autograd.grad(found.value.sum(), values)[0]
        adjoint = torch.linalg.solve(dense.mT, torch.ones_like(b))
        torch.testing.assert_close(gradient, -adjoint[row] * torch.linalg.solve(dense, b)[col], rtol=1e-6, atol=1e-6)


def test_an_adjoint_that_does_not_converge_is_reported() -> None:
    values, pattern, b, _ = system(6, torch.float64)
    A = (*pattern, values.requires_grad_())
    solution = attempt(sor, A, b, max_steps=1)
    assert solution.reason == "max_steps"
    with pytest.raises(fastiter.ConvergenceError, match=r"for the gradient, with A\^H for A, .*'max_steps'"):
        solution.value.sum().backward()
    gradient = torch.autograd.grad(
        sweeps((*pattern, values), b, b, omega=1.0, sweeps=2).sum(), values, create_graph=True
    )[0]
    with pytest.raises(RuntimeError, match=r"^sweeps: .* cannot be differentiated twice"):
        torch.autograd.grad(gradient.sum(), values)


def test_ops() -> None:
    values, (crow, col), b, _ = system(6, torch.float64, 2)
    ops = torch.ops.fastiter
    omega = torch.tensor(1.1, dtype=torch.float64)
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (ops._relax_solve.default, (values, crow, col, b, None, "sor", 1.1, "natural", 1e-8, 0.0, 100, 1)),
        (ops._relax_sweeps.default, (values, crow, col, b, b, omega, 2, "ssor", "color")),
    ]
    iterates = ops._relax_sweeps(values, crow, col, b, b, omega, 2, "ssor", "color")
    calls.append((ops._relax_sweeps_bwd.default, (values, crow, col, omega, iterates, b, "ssor", "color")))
    for op, arguments in calls:
        torch.library.opcheck(op, arguments)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled() -> None:
    values, pattern, b, _ = system(6, torch.float64)
    x = torch.zeros_like(b)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def loss(values: Tensor, b: Tensor) -> Tensor:
        solution = sor((*pattern, values), b, rtol=1e-12)
        return solution.value.sum() + sweeps((*pattern, values), b, x, omega=1.1, sweeps=2).square().sum()

    inputs = [values.requires_grad_(), b.requires_grad_()]
    compiled = torch.autograd.grad(loss(*inputs), inputs)
    plain = sor((*pattern, values), b, rtol=1e-12).value.sum()
    plain = plain + sweeps((*pattern, values), b, x, omega=1.1, sweeps=2).square().sum()
    for actual, expected in zip(compiled, torch.autograd.grad(plain, inputs), strict=True):
        torch.testing.assert_close(actual, expected)


V, P, B, _ = system(4, torch.float64)
WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: sor((*P, V.numpy()), B), TypeError, "sor: values must be a torch.Tensor"),
    (lambda: sor((*P, V.to(torch.float16)), B), TypeError, "values must have dtype"),
    (lambda: sor((*P, V), B.float()), TypeError, "b must have dtype torch.float64 like A"),
    (lambda: sor((*P, V), B[:3]), ValueError, r"b must have shape \(4,\) or \(4, k\) to go with A, got \(3,\)"),
    (lambda: sor((*P, V), B, B[:3]), ValueError, r"x0 must have shape \(4,\) like b, got \(3,\)"),
    (lambda: sor(P, B), TypeError, r"A must be a sparse tensor or \(crow, col, values\), got 2 parts"),
    (lambda: sor((P[0].float(), P[1], V), B), TypeError, "crow must be integers, got dtype torch.float32"),
    (lambda: sor((*P, V[1:]), B), ValueError, r"col must have the shape \(entries,\) of values"),
    (lambda: sor((*P, V), B, order=3), TypeError, "order must be one of 'natural', .*, got int"),
    (lambda: sweeps((*P, V), B, B, method="kaczmarz"), ValueError, "method must be one of 'jacobi'"),
    (lambda: sweeps((*P, V), B, B, method="jacobi", order="color"), ValueError, "order must be 'natural' for jacobi"),
    (lambda: sor((*P, V), B, omega=2.5), ValueError, r"omega must be in \(0, 2\)"),
    (lambda: sor((*P, V), B, omega="best"), ValueError, "omega must be a number or 'auto', got 'best'"),
    (lambda: sweeps((*P, V), B, B, omega=1.5, method="gauss_seidel"), ValueError, "omega must be 1 .*, got 1.5"),
    (
        lambda: sweeps((*P, V), B, B, omega=torch.tensor(0.5), method="gauss_seidel"),
        ValueError,
        "sweeps: omega must be 1 for gauss_seidel .*, got 0.5",
    ),
    (lambda: sor((*P, V * 0), B), ValueError, "A must have no zero on the diagonal, got 0 in row 0"),
    (lambda: sor((*P, V / 0), B), ValueError, "A must be finite, got a value in row 0"),
    (lambda: sor((P[0], P[1] + 1, V), B), ValueError, "A must have columns from 0 to 3"),
    (lambda: sweeps((*P, V), B, B, sweeps=-1), ValueError, "sweeps: sweeps must be at least 0, got -1"),
    (
        lambda: sweeps((*P, V), B, B, omega=torch.ones(2)),
        ValueError,
        r"omega must be a number or a real tensor of one, got \(2,\)",
    ),
    (lambda: sweeps((*P, V), B, B[:2]), ValueError, r"x must have shape \(4,\) like b, got \(2,\)"),
    (lambda: sor(torch.eye(4), B), TypeError, r"got a dense one \(A.to_sparse_csr\(\) is sparse\)$"),
    (
        lambda: sor(scipy.sparse.eye_array(4), B),
        TypeError,
        r"sparse tensor or \(crow, col, values\), got scipy.* \(fastiter.relax takes SciPy's matrices\)$",
    ),
    (lambda: sor((*P, V), B / 0), ValueError, "sor: b must be finite, got .*inf at index 0$"),
    (lambda: sor((*P, V), B, B * np.nan), ValueError, "sor: x0 must be finite, got nan at index 0$"),
    (lambda: sor((*P, V), B, callback=1), TypeError, "callback must be callable or None, got int"),
]


@pytest.mark.parametrize("case", WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_refused(case: tuple[Callable[[], Any], type[Exception], str]) -> None:
    call, error, match = case
    with pytest.raises(error) as raised:
        call()
    assert re.search(match, str(raised.value)), raised.value
