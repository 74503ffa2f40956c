"""Stencils with complex coefficients, and any stencil in every order and under ssor_cg, against their matrices."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

scipy_sparse = pytest.importorskip("scipy.sparse")
import scipy.sparse.linalg  # noqa: E402

import fastiter  # noqa: E402
from fastiter import relax  # noqa: E402
from fastiter.reference import relax as reference  # noqa: E402
from fastiter.relax import Anderson, Chebyshev, Relaxation, Stencil, TsallisINF, ssor_cg  # noqa: E402
from tests.relax.cases import csr, order_for, rows_in, tolerance, vectors  # noqa: E402
from tests.support.cases import Array, assert_same_bits  # noqa: E402

GRIDS = [(1, 1), (1, 9), (9, 1), (5, 4), (3, 21), (2, 3, 4), (3, 2, 19)]
ORDERS = ("natural", "red-black", "cluster", "array")


def stencil(grid: tuple[int, ...], is_constant: bool, has_mask: bool, dtype: str = "complex128") -> Stencil:
    """Return a nonsymmetric stencil with a dominant complex diagonal."""
    rng = np.random.default_rng([*grid, is_constant, has_mask])
    c = vectors((2 * len(grid) + 1, *(() if is_constant else grid)), dtype, len(grid))
    c[0] = np.exp(0.7j).astype(dtype) * (np.abs(c[1:]).sum(axis=0) + 1) if dtype == "complex128" else 9
    return Stencil(grid, c, rng.random(grid) < 0.8 if has_mask else None)


def equations(s: Stencil, b: Array, x: Array) -> tuple[Array, Array]:
    """Return the matrix and right-hand side, with the equation x = x for each given point."""
    points = s.shape[0]
    A, rhs = s.toarray(), b.reshape(points, *b.shape[len(s.grid) :]).copy()
    if s.mask is not None:
        given = ~s.mask.ravel()
        A[given, given], rhs[given] = 1, x.reshape(rhs.shape)[given]
    return A, rhs


def assert_bits(actual: Array, expected: Array) -> None:
    """Assert equal bits, for complex arrays too."""
    assert_same_bits(*(x.view(np.float64) if x.dtype.kind == "c" else x for x in (actual, expected)))


def assert_near(actual: Array, expected: Array, what: Any) -> None:
    assert actual.dtype == expected.dtype, what
    atol = tolerance(expected.dtype, len(expected)) * np.abs(expected).max(initial=1.0)
    np.testing.assert_allclose(actual.reshape(expected.shape), expected, rtol=0, atol=atol, err_msg=str(what))


def test_a_point_by_hand() -> None:
    """Two points in a line: x0 <- (b0 - (1 - 2i) x1) / 2i, then x1 <- (b1 - (3 + i) x0) / 2i."""
    c = np.array([2j, 3 + 1j, 1 - 2j, 0, 0])  # the point itself; the points before and after along the first axis
    s, b, x = Stencil((2, 1), c), np.array([[4.0 + 2j], [6j]]), np.array([[0j], [2.0 + 0j]])
    Relaxation(s, "gauss_seidel").sweep(x, b)
    # x0 = (4 + 2i - 2 + 4i) / 2i = (2 + 6i) / 2i = 3 - i; x1 = (6i - (3 + i)(3 - i)) / 2i = (6i - 10) / 2i = 3 + 5i
    np.testing.assert_allclose(x.ravel(), [3 - 1j, 3 + 5j], rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("order", ORDERS)
def test_sweeps_in_every_order(order: str, dtype: str) -> None:
    for grid, is_constant, has_mask in itertools.product(GRIDS, (True, False), (False, True)):
        s = stencil(grid, is_constant, has_mask, dtype)
        b, x = vectors(grid, dtype, 1), vectors(grid, dtype, 2)
        A, rhs = equations(s, b, x)
        chosen = order_for(order, b.size)
        unmasked = Stencil(grid, s.coefficients).toarray()
        rows = rows_in(chosen, unmasked)
        sweeps = Relaxation(s, "sor", omega=1.3, order=chosen)
        forward, backward, both = x.copy(), x.copy(), x.copy()
        sweeps.sweep(forward, b, 2)
        sweeps.sweep(backward, b, backward=True)
        Relaxation(s, "ssor", omega=1.1, order=chosen).sweep(both, b)
        one = x.ravel()
        twice = reference.sor(A, reference.sor(A, one, rhs, 1.3, rows), rhs, 1.3, rows)
        assert_near(forward, twice, (grid, is_constant, has_mask))
        assert_near(backward, reference.sor(A, one, rhs, 1.3, rows, backward=True), (grid, is_constant, has_mask))
        assert_near(both, reference.ssor(A, one, rhs, 1.1, rows), (grid, is_constant, has_mask))
        assert_near(sweeps.residual(x, b), rhs - A @ one, (grid, is_constant, has_mask))
        if order == "natural":
            jacobi = x.copy()
            Relaxation(s, "jacobi", omega=0.8).sweep(jacobi, b, 2)
            expected = reference.jacobi(A, reference.jacobi(A, one, rhs, 0.8), rhs, 0.8)
            assert_near(jacobi, expected.astype(dtype), (grid, is_constant, has_mask))
        if order == "red-black":
            again = x.copy()
            coloured = Relaxation(s, "sor", omega=1.3, order="color")
            coloured.sweep(again, b, 2)
            assert_bits(again, forward)
            assert coloured.colors == 2


@pytest.mark.parametrize("grid", [(6, 7), (4, 3, 5)])
def test_stencils_equal_their_csr_matrix(grid: tuple[int, ...]) -> None:
    """Sweeps, solutions and steps equal the CSR matrix's, for several right-hand sides."""
    for is_constant, has_mask in itertools.product((True, False), (False, True)):
        s = stencil(grid, is_constant, has_mask)
        b, x = vectors((*grid, 3), "complex128", 1), vectors((*grid, 3), "complex128", 2)
        A, rhs = equations(s, b, x)
        for method, order in (("jacobi", "natural"), ("gauss_seidel", "cluster"), ("sor", "red-black")):
            free, rows = Relaxation(s, method, order=order), Relaxation(csr(A), method, order=order)
            swept, expected = x.copy(), x.reshape(-1, 3).copy()
            free.sweep(swept, b, 2)
            if not (has_mask and order != "natural"):  # otherwise rows without an equation have other links
                rows.sweep(expected, rhs, 2)
                assert_near(swept, expected, (method, is_constant, has_mask))
            solution = free.solve(b, x, rtol=1e-10)
            assert solution.converged.all()
            np.testing.assert_allclose(solution.value.reshape(-1, 3), np.linalg.solve(A, rhs), atol=1e-7)
            norms = np.linalg.norm(free.residual(solution.value, b).reshape(-1, 3), axis=0)
            np.testing.assert_allclose(solution.residual, norms, rtol=1e-6)
            alone = free.solve(np.ascontiguousarray(b[..., 1]), np.ascontiguousarray(x[..., 1]), rtol=1e-10)
            assert_same_bits(alone.history[: alone.steps + 1], solution.history[: alone.steps + 1, 1])


def test_real_coefficients_converted_to_complex() -> None:
    grid = (7, 20)
    for is_constant in (True, False):
        real = stencil(grid, is_constant, True, "float64")
        b, x = vectors(grid, "complex128", 1), vectors(grid, "complex128", 2)
        y = x.copy()
        for s, swept in ((real, x), (Stencil(grid, real.coefficients + 0j, real.mask), y)):
            Relaxation(s, "ssor", order="red-black").sweep(swept, b, 2)
        assert_near(x, y, is_constant)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_any_number_of_threads_has_the_same_bits(dtype: str) -> None:
    for grid, is_constant in (((250, 300), True), ((12, 70, 81), False)):
        s = stencil(grid, is_constant, not is_constant, dtype)
        b, x = vectors(grid, dtype, 1), vectors(grid, dtype, 2)
        results = []
        for threads in (1, 2, 5):
            fastiter.set_num_threads(threads)
            try:
                found = []
                for method, order in (("ssor", "red-black"), ("ssor", "cluster"), ("jacobi", "natural")):
                    sweeps, y = Relaxation(s, method, omega=0.9, order=order), x.copy()
                    sweeps.sweep(y, b, 3)
                    found += [y, sweeps.residual(y, b)]
                results.append(found)
            finally:
                fastiter.set_num_threads(None)
        for other in results[1:]:
            for first, same in zip(results[0], other, strict=True):
                assert_bits(same, first)


def gauge(grid: tuple[int, ...], mask: Array | None = None) -> Stencil:
    """Return a Hermitian positive definite matrix: the Laplacian with a phase on each link."""
    angle = np.random.default_rng(0).uniform(-0.1, 0.1, (len(grid), *grid))
    c = np.empty((2 * len(grid) + 1, *grid), np.complex128)
    c[0] = 2 * len(grid)
    for axis, own in enumerate(angle):
        c[2 + 2 * axis] = -np.exp(1j * own)
        c[1 + 2 * axis] = -np.exp(-1j * np.roll(own, 1, axis))
    return Stencil(grid, c, mask)


@pytest.mark.parametrize("grid", [(12, 13), (5, 6, 7)])
def test_accelerators_on_hermitian_stencils(grid: tuple[int, ...]) -> None:
    s = gauge(grid)
    A, b = s.toarray(), vectors((*grid, 2), "complex128", 1)
    np.testing.assert_array_equal(A, A.conj().T)
    exact = np.linalg.solve(A, b.reshape(-1, 2))
    plain = relax.gauss_seidel(s, b)
    sweeps = Relaxation(s, "ssor", order="cluster")
    solutions = [
        relax.chebyshev(s, b),
        relax.sor(s, b, omega="auto"),
        relax.sor(s, b, omega="auto", order="red-black"),
        relax.ssor(s, b, omega="auto"),
        relax.jacobi(s, b, omega="auto"),
        Chebyshev(sweeps).solve(b),
        Anderson(sweeps).solve(b),
        ssor_cg(s, b, omega="auto", check_every=1),
        ssor_cg(s, b, omega=1.3, order="red-black", check_every=1),
    ]
    for solution in (plain, *solutions):
        assert solution.converged.all(), solution.method
        np.testing.assert_allclose(solution.value.reshape(-1, 2), exact, atol=1e-6 * abs(exact).max())
    assert max(solutions[i].steps.max() for i in (5, 6, 7, 8)) < 0.7 * plain.steps.max()
    # A tenth of so few steps may be too short to try an omega.
    assert max(solutions[i].steps.max() for i in (1, 2)) <= 1.1 * plain.steps.max()
    M, rhs = Relaxation(s, "ssor").as_preconditioner(), b[..., 0].ravel()
    found, info = scipy.sparse.linalg.cg(csr(A), rhs, rtol=1e-10, M=M)
    assert info == 0
    np.testing.assert_allclose(found, exact[:, 0], atol=1e-7 * abs(exact).max())
    np.testing.assert_allclose(M.H @ rhs, M @ rhs)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_ssor_cg_of_a_stencil_is_that_of_its_matrix(dtype: str) -> None:
    """Given points are included: they move to the right-hand side."""
    grid, mask = (9, 11), np.random.default_rng(0).random((9, 11)) < 0.85
    laplacian = Stencil(grid, np.array([4, -1, -1, -1, -1], dtype), mask)
    s = gauge(grid, mask) if dtype == "complex128" else laplacian
    b, x = vectors(grid, dtype, 1), vectors(grid, dtype, 2)
    free, rtol = mask.ravel(), 1e-4 if dtype == "float32" else 1e-9
    A = Stencil(grid, s.coefficients).toarray()
    own = np.ascontiguousarray(A[free][:, free])
    rhs = b.ravel()[free] - A[free][:, ~free] @ x.ravel()[~free]
    for order in ("natural", "red-black", "array"):
        chosen = order_for(order, b.size)
        solution = ssor_cg(s, b, x, omega=1.2, order=chosen, rtol=rtol, check_every=1)
        assert solution.converged
        assert_bits(solution.value[~mask], x[~mask])
        np.testing.assert_allclose(solution.value.ravel()[free], np.linalg.solve(own, rhs), atol=100 * rtol)
        if order == "natural":
            # from the same initial x, restricted to the free points
            start = np.ascontiguousarray(x.ravel()[free])
            rows = ssor_cg(own, rhs, start, omega=1.2, atol=rtol * np.linalg.norm(b[mask]), rtol=0, check_every=1)
            assert abs(rows.steps - solution.steps) <= 1


def test_sequences_of_stencils() -> None:
    s, b = gauge((6, 6)), vectors((6, 6), "complex128", 1)
    for method in ("sor", "ssor_cg"):
        found = relax.solve_sequence([(s, b)] * 4, TsallisINF([1.0, 1.4], rng=0), method=method)
        assert all(solution.converged for solution in found.solutions)
        assert found.steps.tolist() == [solution.steps for solution in found.solutions]


def test_a_matrix_that_is_not_hermitian() -> None:
    s = stencil((8, 9), False, True)
    b = vectors((8, 9), "complex128", 1)
    auto = relax.sor(s, b, omega="auto", order="red-black")
    assert auto.converged
    with pytest.raises(ValueError, match="bounds must be given if A is not Hermitian"):
        relax.chebyshev(s, b)
    with pytest.raises(ValueError, match=r"A must be Hermitian, got one that is not"):
        Relaxation(s, "ssor").as_preconditioner().rmatvec(b.ravel())


def test_a_projection_by_hand() -> None:
    """Project 0 onto 2i x0 + (1 - 2i) x1 = 9, then onto (3 + i) x0 + 2i x1 = 18 - 4i."""
    s, b, x = (
        Stencil((2, 1), np.array([2j, 3 + 1j, 1 - 2j, 0, 0])),
        np.array([[9.0 + 0j], [18.0 - 4j]]),
        np.zeros((2, 1)),
    )
    x = x.astype(np.complex128)
    Relaxation(s, "kaczmarz").sweep(x, b)
    # |a_1|^2 = 9, so (-2i, 1 + 2i); of this a_2 x = -2 - 4i; then (18 - 4i + 2 + 4i) / 14 = 10/7 times (3 - i, -2i)
    np.testing.assert_allclose(x.ravel(), [30 / 7 - 24j / 7, 1 - 6j / 7], rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_kaczmarz(dtype: str) -> None:
    """Given points keep their x; the other points' equations are the remaining system."""
    for grid, is_constant, has_mask in itertools.product([(1, 1), (5, 4), (3, 2, 5)], (True, False), (False, True)):
        s = stencil(grid, is_constant, has_mask, dtype)
        free = np.ones(s.shape[0], bool) if s.mask is None else s.mask.ravel()
        whole = Stencil(grid, s.coefficients).toarray()
        A = np.ascontiguousarray(whole[free][:, free])
        b, x = vectors((*grid, 2), dtype, 1), vectors((*grid, 2), dtype, 2)
        start = x.reshape(-1, 2)
        rhs = b.reshape(-1, 2)[free] - whole[free][:, ~free] @ start[~free]
        for order in ("natural", "array"):
            chosen = order_for(order, s.shape[0])
            rows = [int(i) for i in (np.cumsum(free) - 1)[chosen][free[chosen]]] if order == "array" else None
            forward, backward = x.copy(), x.copy()
            sweeps = Relaxation(s, "kaczmarz", omega=0.9, order=chosen)
            sweeps.sweep(forward, b)
            sweeps.sweep(backward, b, backward=True)
            ahead = reference.kaczmarz(A, start[free], rhs, 0.9, rows)
            back = reference.kaczmarz(A, start[free], rhs, 0.9, rows, backward=True)
            assert_near(forward.reshape(-1, 2)[free], ahead, (grid, is_constant, has_mask, order))
            assert_near(backward.reshape(-1, 2)[free], back, (grid, is_constant, has_mask, order))
            assert_bits(forward.reshape(-1, 2)[~free], start[~free])
        solution = relax.kaczmarz(s, b, x, omega="auto", rtol=1e-4, symmetric=True)
        assert solution.converged.all()


def test_kaczmarz_needs_no_diagonal() -> None:
    """The first derivative, whose diagonal is 0."""
    s = Stencil((6, 2), np.array([0.0, -1, 1, 0, 0]))
    x = vectors((6, 2), "float64", 1)
    b = -Relaxation(s, "kaczmarz").residual(x, np.zeros((6, 2)))
    np.testing.assert_allclose(b.ravel(), s.toarray() @ x.ravel(), atol=1e-14)
    np.testing.assert_allclose(relax.kaczmarz(s, b, rtol=1e-12).value, x, atol=1e-9)
    with pytest.raises(ValueError, match=r"got 0 at point \(0, 0\)"):
        Relaxation(s, "sor")
