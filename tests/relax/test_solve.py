"""Solvers: known counts, the stopping residual, reports of failure, omega, and acceleration."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

scipy_sparse = pytest.importorskip("scipy.sparse")
import scipy.sparse.linalg  # noqa: E402

from fastiter import ConvergenceWarning, relax  # noqa: E402
from fastiter.reference import relax as reference  # noqa: E402
from fastiter.relax import Anderson, Batch, Chebyshev, Relaxation, ssor_cg  # noqa: E402
from tests.relax.cases import attempt, csr, poisson, random_matrix, vectors  # noqa: E402

M = 63
OMEGA = 2 / (1 + math.sin(math.pi / (M + 1)))
#: A finite number whose residual is infinite
HUGE = 1.7e308


def residual(A: Any, b: Any, x: Any) -> Any:
    return np.linalg.norm(b - A @ x, axis=0)


@pytest.mark.parametrize(
    ("method", "order", "omega", "steps"),
    [
        ("jacobi", "natural", 1.0, 15122),
        ("gauss_seidel", "natural", 1.0, 7562),
        ("gauss_seidel symmetric", "natural", 1.0, 3788),
        ("sor", "natural", OMEGA, 244),
        ("gauss_seidel", "red-black", 1.0, 7705),
        ("sor", "red-black", OMEGA, 257),
        ("ssor", "natural", OMEGA, 291),
    ],
)
def test_the_published_counts(method: str, order: str, omega: float, steps: int) -> None:
    """2-D Poisson, 63 x 63, b = 1, to 1e-8."""
    A, b = poisson(M, M), np.ones(M * M)
    name, _, symmetric = method.partition(" ")
    solution = Relaxation(A, name, omega=omega, order=order, symmetric=bool(symmetric)).solve(b, max_steps=20_000)
    assert (solution.steps, solution.reason) == (steps, "converged")
    assert residual(A, b, solution.value) <= 1e-8 * np.linalg.norm(b)
    assert solution.history.shape == (steps + 1,)
    assert solution.history[-2] > 1e-8 * np.linalg.norm(b)
    assert solution.history[0] == pytest.approx(np.linalg.norm(b))


def test_attributes_of_a_solution() -> None:
    A, b = random_matrix(20, "float64"), vectors((20, 3), "float64", 1)
    b[:, 1] *= 1e-3
    x0 = vectors((20, 3), "float64", 2)
    x0[:, 2] = np.linalg.solve(A, b[:, 2])
    solution = relax.sor(csr(A), b, x0, rtol=1e-6, atol=1e-9, check_every=2)
    assert solution.converged.tolist() == [True] * 3
    assert solution.reason == ("converged",) * 3
    assert solution.steps[2] == 0
    assert (solution.steps % 2 == 0).all()
    assert len(solution.history) == solution.steps.max() // 2 + 1
    np.testing.assert_allclose(solution.residual, residual(A, b, solution.value), atol=1e-12)
    assert (solution.residual <= 1e-6 * np.linalg.norm(b, axis=0) + 1e-9).all()
    assert solution.method == "sor"
    for c in range(3):  # each column as if it were alone
        assert relax.sor(csr(A), b[:, c], x0[:, c], rtol=1e-6, atol=1e-9, check_every=2).steps == solution.steps[c]


@pytest.mark.parametrize("kind", ["jacobi", "sor", "batch", "chebyshev"])
def test_a_finished_column_keeps_its_value_while_others_continue(kind: str) -> None:
    """A converged column keeps its value even if further sweeps would diverge."""
    n = 20
    A = np.eye(n) + 0.5 * np.random.default_rng(1).standard_normal((n, n))
    np.fill_diagonal(A, 1)
    x0 = np.stack([vectors(n, "float64", 1), np.zeros(n), vectors(n, "float64", 1)])
    b = np.stack([A @ x0[0], vectors(n, "float64", 2), A @ x0[2] + 1e-7])
    if kind == "batch":
        systems = Batch(csr(np.ones((n, n))), np.stack([A.ravel()] * 3))
        found = attempt(relax.jacobi, systems, b, x0)
        values = found.value
    else:
        call = {"jacobi": relax.jacobi, "sor": relax.sor, "chebyshev": relax.chebyshev}[kind]
        more: dict[str, Any] = {"bounds": (0.5, 1.5)} if kind == "chebyshev" else {}
        found = attempt(call, A, b.T, x0.T, **more)
        values = found.value.T
    assert found.reason[0] == "converged" and found.steps[0] == 0
    assert found.reason[1] == "diverged"
    np.testing.assert_array_equal(values[0], x0[0])
    left = residual(A, b.T, values.T)
    np.testing.assert_allclose(found.residual, left, rtol=1e-6, atol=1e-13)
    assert (found.converged == (left <= 1e-8 * np.linalg.norm(b, axis=1))).all()


def test_max_steps_and_x0() -> None:
    A, b = csr(random_matrix(20, "float64")), vectors(20, "float64", 1)
    first = attempt(relax.gauss_seidel, A, b, max_steps=3)
    assert (first.steps, first.converged, first.reason) == (3, False, "max_steps")
    start = first.value.copy()
    again = attempt(relax.gauss_seidel, A, b, start, max_steps=4)
    assert np.array_equal(start, first.value)  # x0 is unchanged
    both = attempt(relax.gauss_seidel, A, b, max_steps=7)
    assert np.array_equal(again.value, both.value)
    assert attempt(relax.gauss_seidel, A, b, max_steps=0).value.tolist() == [0.0] * 20
    assert attempt(relax.gauss_seidel, A, b, max_steps=5, check_every=3).steps == 5


def test_divergence_is_reported() -> None:
    A = csr(np.array([[1.0, 3.0], [3.0, 1.0]]))
    for solve in (relax.jacobi, relax.gauss_seidel, relax.ssor):
        solution = attempt(solve, A, np.ones(2))
        assert (solution.reason, solution.converged) == ("diverged", False)
        assert solution.steps < 100
    for solve in (relax.jacobi, relax.sor, relax.ssor_cg, relax.chebyshev):
        mixed = attempt(solve, csr(np.diag([1.0, 2.0])), np.ones((2, 2)), np.array([[0.0, 0.0], [0.0, HUGE]]))
        assert mixed.reason == ("converged", "diverged")
        np.testing.assert_allclose(mixed.value[:, 0], [1.0, 0.5], rtol=1e-7)


def test_stagnation_is_reported() -> None:
    # The residual oscillates and does not fall: Jacobi's spectral radius is 1.
    A = csr(np.array([[1.0, 1.0], [1.0, 1.0]]))
    solution = attempt(relax.jacobi, A, np.array([1.0, 0.0]))
    assert solution.reason == "stagnated"
    assert 595 <= solution.steps <= 605
    # It does not fall below the rounding error either.
    A = csr(random_matrix(50, "float32"))
    assert attempt(relax.sor, A, vectors(50, "float32"), rtol=1e-12).reason == "stagnated"
    # No solution exists: the residual converges to the distance.
    assert attempt(relax.kaczmarz, np.array([[1.0], [1.0]]), np.array([0.0, 1.0])).reason == "stagnated"


@pytest.mark.parametrize(
    "solve",
    [
        relax.jacobi,
        relax.gauss_seidel,
        relax.sor,
        relax.ssor,
        relax.kaczmarz,
        relax.chebyshev,
        ssor_cg,
        relax.flexible_cg,
    ],
)
def test_the_default_tolerance_is_one_that_the_dtype_can_reach(solve: Callable[..., Any]) -> None:
    A = csr(2.5 * np.eye(100) - np.eye(100, k=1) - np.eye(100, k=-1))
    for dtype, vector, rtol in (
        ("float32", "float32", 1e-5),
        ("float32", "float64", 1e-8),
        ("float64", "float64", 1e-8),
    ):
        b = vectors(100, vector)
        found = attempt(solve, A.astype(dtype), b)
        assert found.converged
        np.testing.assert_allclose(found.tolerance, rtol * np.linalg.norm(b.astype(float)), rtol=1e-6)


def test_the_remedy_for_an_alternating_jacobi_is_one() -> None:
    path = 2 * np.eye(9) - np.eye(9, k=1) - np.eye(9, k=-1)
    path[0, 0] = path[8, 8] = 1.0  # Neumann's conditions: singular, and b has no component of the constants
    b = np.random.default_rng(0).standard_normal(9)
    b -= b.mean()
    with pytest.warns(ConvergenceWarning, match="'stagnated'.*; try an omega below 1"):
        relax.jacobi(path, b)
    for omega in (0.9, "auto"):
        assert relax.jacobi(path, b, omega=omega).converged


def test_slow_is_not_stagnant() -> None:
    n = 400
    A = scipy_sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)).tocsr()
    assert attempt(relax.jacobi, A, np.ones(n), max_steps=2000).reason == "max_steps"
    # In colour order the residual first grows by half and stays above its initial value for long.
    A, b = poisson(300, 300), np.ones(300 * 300)
    slow = attempt(relax.gauss_seidel, A, b, order="color", max_steps=500)
    assert (slow.reason, slow.steps) == ("max_steps", 500)
    assert slow.history[500] > slow.history[0]
    # With the best omega it grows a hundredfold before it falls.
    m = 500
    best = 2 / (1 + np.sin(np.pi / (m + 1)))
    fast = relax.sor(poisson(m, m), np.ones(m * m), omega=best, order="red-black", rtol=1e-6, check_every=10)
    assert fast.converged
    assert fast.history.max() > 10 * fast.history[0]


# --- acceleration ----------------------------------------------------------------------------------------------------


def test_chebyshev_is_the_specification() -> None:
    A, b, x = poisson(5, 6), vectors((30, 2), "float64", 1), vectors((30, 2), "float64", 2)
    for steps in (0, 1, 2, 9):
        expected = reference.chebyshev(A.toarray(), b, x, 0.1, 1.9, steps)
        for given in (A, A.toarray()):
            how = {"bounds": (0.1, 1.9), "max_steps": steps, "rtol": 0, "check_every": 4}
            actual = attempt(relax.chebyshev, given, b, x, **how).value
            np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-13)


def test_chebyshev_estimates_its_bounds() -> None:
    A, b = poisson(M, M), np.ones(M * M)
    beta = math.cos(math.pi / (M + 1))
    known = relax.chebyshev(A, b, bounds=(1 - beta, 1 + beta))
    found = relax.chebyshev(A, b)
    assert known.converged
    assert found.converged
    assert found.steps <= 1.3 * known.steps
    assert attempt(relax.chebyshev, A, b, bounds=(1.0, 1.0), max_steps=3).steps == 3  # equals Jacobi in the end
    values = np.stack([A.data, 2 * A.data])
    both = relax.chebyshev(Batch(A, values), np.stack([b, b]), bounds=(1 - beta, 1 + beta))
    assert abs(both.steps - known.steps).max() <= 1


def test_chebyshev_finds_a_smallest_eigenvalue_that_its_estimate_misses() -> None:
    m = 80
    A, b, beta = poisson(m, m), np.ones(m * m), math.cos(math.pi / (m + 1))
    known = relax.chebyshev(A, b, bounds=(1 - beta, 1 + beta)).steps
    jacobi = Chebyshev(Relaxation(A, "jacobi"))
    assert jacobi.bounds[0] > 5 * (1 - beta)
    for found in (relax.chebyshev(A, b), jacobi.solve(b), jacobi.solve(b, check_every=10)):
        assert found.converged
        assert found.steps < 1.6 * known
    fixed = Chebyshev(Relaxation(A, "jacobi"), jacobi.bounds)  # the arguments are unchanged
    assert not attempt(fixed.solve, b, max_steps=2 * known).converged


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_accelerated_sweeps(dtype: str) -> None:
    A = poisson(15, 15).astype(dtype)
    if dtype == "complex128":  # Hermitian: the phase of each row rotated
        phase = np.exp(1j * np.arange(225))
        A = (scipy_sparse.diags_array(phase) @ A @ scipy_sparse.diags_array(phase.conj())).tocsr()
    b = vectors((225, 2), dtype, 1)
    assert relax.chebyshev(A, b, rtol=1e-6).converged.all()  # the diagonal is real up to rounding
    for method, how in (("jacobi", {"omega": 0.9}), ("ssor", {"omega": 1.5, "order": "color"})):
        sweeps = Relaxation(A, method, **how)
        plain = sweeps.solve(b, rtol=1e-6)
        for wrapper in (Chebyshev(sweeps), Anderson(sweeps, 8)):
            faster = wrapper.solve(b, rtol=1e-6, check_every=2)
            assert faster.converged.all()
            assert faster.steps.max() < plain.steps.max() / 2, (method, wrapper)
            assert (residual(A, b, faster.value) <= 1.01e-6 * np.linalg.norm(b, axis=0)).all()
    assert Anderson(Relaxation(A, "sor", omega=1.2)).solve(b, rtol=1e-6).converged.all()


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_anderson_is_its_least_squares(dtype: str) -> None:
    """The mixture equals its least-squares solution; the ring buffer wraps twice, and the rows exceed one chunk."""
    memory, n = 3, 9000
    A = (scipy_sparse.diags_array(np.linspace(2, 3, n)) + 0.9 * scipy_sparse.eye_array(n, k=1)).tocsr()
    sweeps, b = Relaxation(A.astype(dtype), "jacobi"), vectors((n, 2), dtype, 1)
    x, kept = np.zeros_like(b), []
    for step in range(1, 9):
        swept = x.copy()
        sweeps.sweep(swept, b)
        kept = [*kept, (swept, swept - x)][-memory - 1 :]
        x = swept.copy()
        for c in range(2) if len(kept) > 1 else ():
            steps, changes = (np.diff([pair[i][:, c] for pair in kept], axis=0).T for i in range(2))
            x[:, c] -= steps @ np.linalg.lstsq(changes, kept[-1][1][:, c], rcond=None)[0]
        actual = attempt(Anderson(sweeps, memory).solve, b, rtol=0, max_steps=step).value
        np.testing.assert_allclose(actual, x, atol=1e-8 * abs(x).max())


def test_anderson_keeps_columns_apart() -> None:
    A, b = csr(random_matrix(12, "float64")), vectors((12, 2), "float64", 1)
    x0 = np.zeros_like(b)
    x0[3, 1] = HUGE
    solution = attempt(Anderson(Relaxation(A, "jacobi")).solve, b, x0)
    assert solution.reason == ("converged", "diverged")
    np.testing.assert_allclose(A @ solution.value[:, 0], b[:, 0], atol=1e-6)


def test_anderson_of_a_batch_and_a_rectangle() -> None:
    A = random_matrix(12, "float64")
    values = np.stack([csr(A).data, csr(A).data * 3])
    b = vectors((2, 12), "float64", 1)
    solution = Anderson(Relaxation(Batch(csr(A), values), "jacobi", omega=0.5)).solve(b)
    assert solution.converged.all()
    np.testing.assert_allclose(solution.value, [np.linalg.solve(A, b[0]), np.linalg.solve(3 * A, b[1])], rtol=1e-6)
    tall = vectors((12, 5), "float64", 2)
    x = vectors(5, "float64", 3)
    np.testing.assert_allclose(Anderson(Relaxation(tall, "kaczmarz")).solve(tall @ x).value, x, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("order", ["natural", "red-black", "cluster"])
def test_ssor_cg_is_preconditioned_cg(order: str, dtype: str) -> None:
    A = poisson(31, 31).astype(dtype)
    b = vectors(961, dtype, 1)
    rtol = 1e-4 if dtype == "float32" else 1e-8
    solution = ssor_cg(A, b, omega=1.7, order=order, rtol=rtol, check_every=1)
    counted = []
    M = Relaxation(A, "ssor", omega=1.7, order=order).as_preconditioner()
    _, info = scipy.sparse.linalg.cg(A, b, rtol=rtol, M=M, callback=counted.append)
    assert info == 0
    assert solution.converged
    assert abs(solution.steps - len(counted)) <= 1
    assert residual(A, b, solution.value) <= 1.01 * rtol * np.linalg.norm(b)
    two = ssor_cg(A, np.stack([b, 2 * b], axis=1), omega=1.7, order=order, rtol=rtol, check_every=1)
    assert abs(two.steps - solution.steps).max() <= 1
    start = ssor_cg(A, b, solution.value, omega=1.7, order=order, rtol=2 * rtol)
    assert start.steps == 0


def test_ssor_cg_auto_and_refusal() -> None:
    A, b = poisson(M, M), np.ones(M * M)
    assert ssor_cg(A, b, omega="auto").steps < 60
    with pytest.raises(ValueError, match="positive definite"):
        ssor_cg(csr(np.array([[1.0, 3.0], [3.0, 1.0]])), np.array([1.0, -2.0]))
    assert ssor_cg(A.toarray()[:50, :50], b[:50]).converged
    assert ssor_cg(A, 0 * b).steps == 0
    assert ssor_cg(csr(np.zeros((0, 0))), np.zeros(0)).converged


# --- as a preconditioner ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda A: Relaxation(A, "ssor", omega=1.5, order="color"),
        lambda A: Relaxation(A, "jacobi"),
        lambda A: Relaxation(A, "block_gauss_seidel", block_size=31, symmetric=True),
    ],
)
def test_preconditioner_of_cg(make: Callable[[Any], Relaxation]) -> None:
    A, b = poisson(31, 31), np.ones(961)
    M = make(A).as_preconditioner()
    plain, better = [], []
    scipy.sparse.linalg.cg(A, b, rtol=1e-8, callback=plain.append)
    x, info = scipy.sparse.linalg.cg(A, b, rtol=1e-8, M=M, callback=better.append)
    assert info == 0
    assert len(better) <= len(plain)
    np.testing.assert_allclose(A @ x, b, atol=1e-6)
    u, v = vectors(961, "float64", 1), vectors(961, "float64", 2)
    assert u @ (M @ v) == pytest.approx(v @ (M @ u), rel=1e-10)
    np.testing.assert_allclose(M @ np.stack([u, v], axis=1), np.stack([M @ u, M @ v], axis=1), rtol=1e-13)
    np.testing.assert_allclose(M.H @ u, M @ u)


def test_preconditioner_of_gmres() -> None:
    A, b = csr(random_matrix(200, "float64", 0.05)), vectors(200, "float64", 1)
    M = Relaxation(A, "sor").as_preconditioner()
    x, info = scipy.sparse.linalg.gmres(A, b, rtol=1e-10, M=M)
    assert info == 0
    np.testing.assert_allclose(A @ x, b, atol=1e-8)
    with pytest.raises(ValueError, match="method must have a symmetric sweep, got 'sor'"):
        M.rmatvec(b)


# --- matrices of pyamg's gallery -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["unit_cube", "airfoil", "unit_square", "recirc_flow", "knot", "bar", "local_disc_galerkin_diffusion"],
)
def test_example_matrices(name: str) -> None:
    pyamg = pytest.importorskip("pyamg")
    A = scipy_sparse.csr_array(pyamg.gallery.load_example(name)["A"].tocsr())
    b = vectors(A.shape[0], "float64", 1)
    for order in ("natural", "color", "cluster"):
        energy = Relaxation(A, "ssor", order=order)
        x, lowest = np.zeros(A.shape[0]), 0.0
        if abs(A - A.T).max() < 1e-12 * abs(A).max():  # each sweep then lowers x A x / 2 - b x
            for _ in range(5):
                energy.sweep(x, b)
                assert 0.5 * x @ (A @ x) - b @ x <= lowest
                lowest = 0.5 * x @ (A @ x) - b @ x
        dense, y = A.toarray(), np.zeros(A.shape[0])
        sweeps = Relaxation(A, "gauss_seidel", order=order)
        assert sweeps.colors >= (1 if order == "natural" else 2)
        sweeps.sweep(y, b)
        if order == "natural":
            expected = np.linalg.solve(np.tril(dense), b)
            np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-9 * abs(expected).max())


GENERATED: dict[str, Callable[[Any], Any]] = {
    "poisson 3-D": lambda gallery: gallery.poisson((6, 7, 5), format="csr"),
    "rotated anisotropy": lambda gallery: gallery.stencil_grid(
        gallery.diffusion_stencil_2d(epsilon=0.1, theta=0.7, type="FE"), (12, 13), format="csr"
    ),
    "elasticity": lambda gallery: gallery.linear_elasticity((7, 8))[0],
    "gauge": lambda gallery: gallery.gauge_laplacian(12, beta=0.3) + 0.1 * scipy_sparse.eye_array(144),
}


@pytest.mark.parametrize("name", GENERATED)
def test_generated_matrices(name: str) -> None:
    pyamg = pytest.importorskip("pyamg")
    A = GENERATED[name](pyamg.gallery)
    A = scipy_sparse.bsr_array(A) if A.format == "bsr" else scipy_sparse.csr_array(A)
    b = vectors(A.shape[0], A.dtype, 1)
    exact = np.linalg.solve(A.toarray(), b)
    size = 2 if name == "elasticity" else None
    for order in ("natural", "color", "cluster"):
        solutions = [relax.sor(A, b, omega="auto", order=order, block_size=size)]
        solutions.append(relax.gauss_seidel(A, b, order=order, block_size=size))
        solutions.append(ssor_cg(A, b, omega=1.2, order=order))
        for solution in solutions:
            assert solution.converged, (order, solution.reason)
            np.testing.assert_allclose(solution.value, exact, atol=1e-4 * abs(exact).max())
    assert attempt(relax.kaczmarz, A, b, max_steps=20).history[-1] < np.linalg.norm(b)


def test_helmholtz_by_kaczmarz() -> None:
    """Complex and indefinite: Jacobi diverges, projections cannot."""
    pyamg = pytest.importorskip("pyamg")
    A = scipy_sparse.csr_array(pyamg.gallery.load_example("helmholtz_2D")["A"].tocsr()).astype(np.complex128)
    b = vectors(A.shape[0], "complex128", 1)
    assert attempt(relax.jacobi, A, b, max_steps=500).reason == "diverged"
    solution = attempt(relax.kaczmarz, A, b, max_steps=60)
    assert solution.reason == "max_steps"
    assert (np.diff(solution.history[1:]) < 0).all()
    assert solution.history[-1] < 0.6 * solution.history[0]
