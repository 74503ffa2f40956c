"""The specification of the methods on parts against SciPy's graphs and solvers, dense operators and known factors."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

scipy_sparse = pytest.importorskip("scipy.sparse")
import scipy.sparse.csgraph  # noqa: E402
import scipy.sparse.linalg as sl  # noqa: E402

from fastiter import relax  # noqa: E402
from fastiter.reference import relax as whole  # noqa: E402
from fastiter.reference import relax_partitioned as reference  # noqa: E402
from tests.relax.cases import poisson, random_matrix, vectors  # noqa: E402

OVERLAPS = (0, 1, 2, 5)


def definite(n: int, seed: int = 0) -> Any:
    """Return a sparse symmetric positive definite matrix with widely spread eigenvalues, as an array."""
    B = random_matrix(n, "float64", seed=seed)
    L = np.abs(B) + np.abs(B.T)
    np.fill_diagonal(L, 0)
    return np.diag(L.sum(axis=1) + np.linspace(0.1, 1, n)) - L


def owners(n: int, parts: int, seed: int) -> Any:
    """Return nonempty parts of very different sizes in random order."""
    rng = np.random.default_rng(seed)
    chance = rng.random(parts) ** 2 + 0.01
    owner = rng.choice(parts, n, p=chance / chance.sum())
    owner[rng.permutation(n)[:parts]] = np.arange(parts)
    return owner


def distances(A: Any) -> Any:
    graph = scipy.sparse.csr_array((A != 0).astype(float))
    return scipy.sparse.csgraph.shortest_path(graph, directed=False, unweighted=True)


def operator(apply: Any, n: int) -> Any:
    return np.stack([apply(e) for e in np.eye(n)], axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_overlap_is_the_distance_in_the_graph(seed: int) -> None:
    A = random_matrix(40, "float64", 0.05, seed)
    owner = owners(40, 4, seed)
    distance = distances(A)
    for rows in reference.parts(owner):
        for overlap in OVERLAPS:
            expected = np.flatnonzero(distance[rows].min(axis=0) <= overlap)
            assert reference.overlapped(A, rows, overlap).tolist() == expected.tolist()


def test_special_parts_are_known_methods() -> None:
    """A single part solves the system; one row each is Jacobi; consecutive rows are block Jacobi."""
    A, b, x0 = random_matrix(12, "float64", 0.3), vectors(12, "float64", 1), vectors(12, "float64", 2)
    exact = sl.spsolve(scipy.sparse.csc_array(A), b)
    one = reference.schwarz(A, np.zeros(12, int))
    np.testing.assert_allclose(reference.richardson(A, b, x0, one, 1)[-1], exact, rtol=1e-10)
    points = reference.block_jacobi(A, np.arange(12))
    np.testing.assert_allclose(
        reference.richardson(A, b, x0, points, 1, 0.7)[-1], whole.jacobi(A, x0, b, 0.7), rtol=1e-12
    )
    blocks = reference.block_jacobi(A, np.arange(12) // 5)
    np.testing.assert_allclose(
        reference.richardson(A, b, x0, blocks, 1)[-1], whole.block_jacobi(A, x0, b, 5), rtol=1e-12
    )
    everywhere = reference.schwarz(A, owners(12, 3, 0), 12, restricted=True)
    np.testing.assert_allclose(reference.richardson(A, b, x0, everywhere, 1)[-1], exact, rtol=1e-10)


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("overlap", OVERLAPS)
def test_schwarz_is_its_dense_operator(overlap: int, restricted: bool) -> None:
    """The operator from masks and inverses; Richardson's factor is the spectral radius of I - damping B A."""
    A, owner = definite(30), owners(30, 4, 2)
    distance = distances(A)
    expected = np.zeros((30, 30))
    for p in range(4):
        inside = distance[owner == p].min(axis=0) <= overlap
        block = np.where(np.outer(inside, inside), A, np.diag(np.where(inside, 0.0, 1.0)))
        inverse = np.linalg.inv(block) * np.outer(inside, inside)
        expected += (owner == p)[:, None] * inverse if restricted else inverse
    apply = reference.schwarz(A, owner, overlap, restricted=restricted)
    np.testing.assert_allclose(operator(apply, 30), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    damping = 1.0 if restricted else 0.25  # at most four parts have a row
    iteration = np.eye(30) - damping * expected @ A
    radius = float(np.abs(np.linalg.eigvals(iteration)).max())
    errors = [np.linalg.norm(x) for x in reference.richardson(A, np.zeros(30), np.ones(30), apply, 120, damping)]
    assert radius < 1
    if errors[-1] > 1e-200:
        assert (errors[-1] / errors[59]) ** (1 / 60) == pytest.approx(radius, rel=0.02)


def test_parallel_schwarz_on_a_line_has_its_known_factor() -> None:
    """Two intervals (0, beta) and (alpha, 1): two steps reduce the error by alpha (1 - beta) / (beta (1 - alpha))."""
    n, middle = 19, 10
    A = whole.poisson(n)
    owner = (np.arange(n) >= middle).astype(int)
    for overlap in (1, 2, 4):
        alpha, beta = (middle - overlap) / (n + 1), (middle + overlap + 1) / (n + 1)
        apply = reference.schwarz(A, owner, overlap, restricted=True)
        errors = [np.linalg.norm(x) for x in reference.richardson(A, np.zeros(n), vectors(n, "float64"), apply, 12)]
        expected = alpha * (1 - beta) / (beta * (1 - alpha))
        assert errors[-1] / errors[-3] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("local", [reference.exact, reference.ssor(1.3), reference.ssor(0.8, 2)])
def test_additive_schwarz_is_symmetric_and_positive_definite(local: Any) -> None:
    A, owner = definite(25, 1), owners(25, 3, 1)
    for overlap in (0, 2):
        for coarse in (False, True):
            B = operator(reference.schwarz(A, owner, overlap, local=local, coarse=coarse), 25)
            np.testing.assert_allclose(B, B.T, rtol=0, atol=1e-12 * np.abs(B).max())
            assert np.linalg.eigvalsh(B).min() > 0
    B = operator(reference.schwarz(A, owner, 1, restricted=True), 25)
    assert np.abs(B - B.T).max() > 1e-3 * np.abs(B).max()


def test_local_sweeps_are_the_splitting_of_ssor() -> None:
    A, r = definite(15), vectors(15, "float64")
    M = whole.splitting(A, "ssor", 1.3)
    np.testing.assert_allclose(reference.ssor(1.3)(A, r), np.linalg.solve(M, r), rtol=1e-12)
    once = np.linalg.solve(M, r)
    np.testing.assert_allclose(reference.ssor(1.3, 2)(A, r), once + np.linalg.solve(M, r - A @ once), rtol=1e-11)


@pytest.mark.parametrize("seed", range(4))
def test_coloured_sor_is_sor_in_its_order(seed: int) -> None:
    """Parts of a colour are not linked, and the order is one of :func:`fastiter.relax.sor`."""
    A, owner = random_matrix(40, "float64", 0.03, seed), owners(40, 7, seed)
    colour, linked = np.array(reference.colours(A, owner)), (A != 0) | (A.T != 0)
    for p in range(7):
        neighbours = {int(owner[j]) for i in np.flatnonzero(owner == p) for j in np.flatnonzero(linked[i])} - {p}
        assert colour[p] not in {int(colour[q]) for q in neighbours}
        assert set(range(colour[p])) <= {int(colour[q]) for q in neighbours if q < p}
    order, b = reference.order(A, owner), vectors(40, "float64", seed)
    assert sorted(order) == list(range(40))
    x = y = vectors(40, "float64", seed + 9)
    sweeps = relax.Relaxation(A, "sor", omega=1.3, order=order)
    for backward in (False, True, False):
        x = reference.coloured_sor(A, owner, x, b, 1.3, backward)
        y = np.array(y)
        sweeps.sweep(y, b, backward=backward)
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-13 * np.abs(y).max() * 40)
    once = relax.Relaxation(A, "ssor", omega=1.1, order=order).matvec(b)
    np.testing.assert_allclose(reference.coloured_ssor(A, owner, 1.1)(b), once, rtol=0, atol=1e-12 * np.abs(once).max())


def test_conjugate_gradients_are_those_of_scipy() -> None:
    A = poisson(12, 12)
    b, owner, dense = vectors(144, "float64"), np.arange(144) // 36, A.toarray()
    for apply in (
        reference.schwarz(dense, owner, 1),
        reference.schwarz(dense, owner, 1, local=reference.ssor(1.5), coarse=True),
        reference.coloured_ssor(dense, owner, 1.5),
    ):
        expected: list[Any] = []
        preconditioner = sl.LinearOperator((144, 144), matvec=apply, dtype=float)
        sl.cg(A, b, rtol=1e-9, M=preconditioner, callback=lambda x, to=expected: to.append(x.copy()))
        found = reference.cg(dense, b, np.zeros(144), apply, len(expected))
        np.testing.assert_allclose(np.array(found), np.array(expected), rtol=0, atol=1e-8)
        assert abs(reference.steps_until(dense, b, found, 1.0001e-9) - len(expected)) <= 1
        flexible = reference.flexible_cg(dense, b, np.zeros(144), apply, len(expected))
        np.testing.assert_allclose(np.array(flexible), np.array(expected), rtol=0, atol=1e-8)


def test_chebyshev_has_its_polynomial_and_the_methods_solve() -> None:
    A = poisson(10, 10).toarray()
    owner, b = np.arange(100) // 34, vectors(100, "float64")
    exact = sl.spsolve(scipy.sparse.csc_array(A), b)
    apply = reference.schwarz(A, owner, 1)
    values, vectors_of = np.linalg.eig(operator(apply, 100) @ A)
    low, high = float(values.real.min()), float(values.real.max())
    found = reference.chebyshev(A, b, np.zeros(100), apply, low, high, 9)
    half, centre = (high - low) / 2, (high + low) / 2
    weights = np.linalg.solve(vectors_of, exact)
    for k, x in enumerate(found, 1):
        degree = np.polynomial.chebyshev.Chebyshev.basis(k)
        polynomial = degree((centre - values) / half) / degree(centre / half)
        np.testing.assert_allclose(exact - x, (vectors_of @ (polynomial * weights)).real, rtol=0, atol=1e-9)
    ras = reference.schwarz(A, owner, 2, restricted=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for iterates in (
            reference.richardson(A, b, np.zeros(100), ras, 60),
            reference.flexible_cg(A, b, np.zeros(100), ras, 12, memory=12),
            reference.chebyshev(A, b, np.zeros(100), apply, low, high, 40),
        ):
            np.testing.assert_allclose(iterates[-1], exact, rtol=0, atol=1e-5 * np.abs(exact).max())


def test_coarse_corrections_make_steps_independent_of_the_number_of_parts() -> None:
    """On a line of blocks of four rows, one level needs steps in proportion to the parts, two levels do not."""
    steps: dict[bool, list[int]] = {False: [], True: []}
    for count in (32, 64):
        n = 4 * count
        A, owner, b = whole.poisson(n), np.arange(n) // 4, vectors(n, "float64", 3)
        for coarse in (False, True):
            apply = reference.schwarz(A, owner, 1, coarse=coarse)
            found = reference.cg(A, b, np.zeros(n), apply, 100)
            steps[coarse].append(reference.steps_until(A, b, found, 1e-8))
    assert steps[False][1] > 1.6 * steps[False][0]
    assert steps[True][1] < 1.2 * steps[True][0] < steps[False][1]
