"""omega="auto": estimates against eigenvalues, and their effect, for every kind of matrix and method."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

scipy_sparse = pytest.importorskip("scipy.sparse")

from fastiter import relax  # noqa: E402
from fastiter.relax import Batch, Chebyshev, Relaxation, Stencil  # noqa: E402
from fastiter.relax._omega import auto, spectrum  # noqa: E402
from tests.relax.cases import attempt, csr, poisson, random_matrix, vectors  # noqa: E402
from tests.support.cases import Array  # noqa: E402


def equicorrelated(n: int, c: float) -> Array:
    """Return a positive definite matrix, not consistently ordered, whose Jacobi spectrum reaches far below -1."""
    return (1 - c) * np.eye(n) + c * np.ones((n, n))


@pytest.mark.parametrize(("n", "c"), [(3, 0.8), (50, 0.3), (50, 0.5), (20, 0.9)])
def test_omega_auto_without_a_theory_is_no_worse_than_omega_1(n: int, c: float) -> None:
    A, b = equicorrelated(n, c), np.arange(1.0, n + 1)
    for solve in (relax.sor, relax.ssor):
        plain, auto = solve(A, b, omega=1.0), solve(A, b)
        assert 0 < auto.omega < 2
        assert auto.converged
        assert auto.steps <= 1.4 * plain.steps + 100  # some of them trial steps
    preconditioner = Relaxation(A, "ssor", omega="auto").as_preconditioner()
    assert np.abs(preconditioner @ b).max() > 1e-3


@pytest.mark.parametrize("m", [15, 31, 63])
def test_omega_auto_is_near_the_best(m: int) -> None:
    A, b = poisson(m, m), np.ones(m * m)
    best = 2 / (1 + math.sin(math.pi / (m + 1)))
    solution = relax.sor(A, b, omega="auto")
    assert solution.steps <= 1.15 * relax.sor(A, b, omega=best).steps + 5
    assert abs(solution.omega - best) < 0.3 * (2 - best)
    assert relax.ssor(A, b, omega="auto").steps <= 1.05 * relax.ssor(A, b, omega=best).steps + 5
    assert Relaxation(A, "jacobi", omega="auto").omega == pytest.approx(1 / 1.01, abs=1e-2)
    assert Relaxation(A, "ssor", omega="auto", order="color").omega == 1


def test_omega_auto_of_jacobi_converges() -> None:
    """Jacobi diverges for omega above 1.0006, which an underestimate of the spectrum's range may suggest."""
    A, b = poisson(63, 63), np.ones(63 * 63)
    steps = [relax.jacobi(A, b, omega=omega, max_steps=20_000).steps for omega in (1.0, "auto")]
    assert steps[0] == 15122
    assert steps[1] <= 1.03 * steps[0]
    best = 2 / (1 - np.linalg.eigvalsh(np.eye(9) - poisson(3, 3).toarray() / 4)[[0, -1]].sum() + 1)
    assert Relaxation(poisson(3, 3), "jacobi", omega="auto").omega == pytest.approx(best, rel=0.02)


def test_omega_auto_without_symmetry() -> None:
    m = 31
    A = (poisson(m, m) + scipy_sparse.diags_array([0.3, -0.3], offsets=[1, -1], shape=(m * m, m * m))).tocsr()
    b = np.ones(m * m)
    fixed = [attempt(relax.sor, A, b, omega=w) for w in (1.0, 1.5, 1.6, 1.7, 1.8)]
    assert fixed[-1].reason == "diverged"  # it diverges above 1.6, which the estimate cannot detect
    auto = relax.sor(A, b, omega="auto")
    assert auto.converged
    assert auto.steps < fixed[0].steps / 2


def test_omega_adapts_to_the_factor_it_observes() -> None:
    m = 31
    A, b = poisson(m, m), np.ones(m * m)
    relaxation = Relaxation(A, "sor", omega="auto")
    relaxation._estimate = auto.Choice(1.0, True)  # as if the estimate had failed
    adapted = relaxation.solve(b)
    best = 2 / (1 + math.sin(math.pi / (m + 1)))
    assert adapted.omega == pytest.approx(best, abs=0.02)
    assert adapted.steps < relax.sor(A, b, omega=1.0).steps / 5
    assert spectrum.young(math.cos(math.pi / (m + 1))) == pytest.approx(best)


# --- blocks, batches, stencils ---------------------------------------------------------------------------------------


def definite(n: int, dtype: Any) -> Array:
    """Return a Hermitian positive definite matrix with a varying diagonal."""
    A = random_matrix(n, dtype, 0.5)
    A = A + A.conj().T
    np.fill_diagonal(A, 0)
    np.fill_diagonal(A, (1.02 * np.abs(A).sum(axis=1).max()) * np.linspace(1, 2, n))
    return np.asarray(A)


def eigenvalues(A: Array, size: int = 1) -> Array:
    """Return the eigenvalues of I - D^-1 A, D the diagonal blocks."""
    block = np.arange(len(A)) // size
    D = np.where(block[:, None] == block, A, 0)
    return np.asarray(np.sort(np.linalg.eigvals(np.eye(len(A)) - np.linalg.solve(D, A)).real))


def estimate(A: Any, method: str = "sor", **how: Any) -> tuple[float, float]:
    found = spectrum.jacobi_spectrum(auto.jacobi_of("test", Relaxation(A, method, **how)._system))
    return found.low, found.high


def test_eigenvalues_of_tridiagonal_matrices_are_lapacks() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 10, 120):
        for share in (1.0, 0.7):  # fraction of nonzero elements beside the diagonal
            d, e = rng.standard_normal(n), rng.standard_normal(n - 1) * (rng.random(n - 1) <= share)
            for diagonal, off in ((d, e), (np.full(n, 2.0), np.full(n - 1, -1.0)), (1e9 * d, e), (d * 0, e)):
                expected, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
                values, first = spectrum.eigenvalues(diagonal.tolist(), off.tolist())
                np.testing.assert_allclose(values, expected, rtol=0, atol=1e-14 * n * max(1, np.abs(expected).max()))
                for power in range(4):  # moments are unique even where vectors are not
                    actual, moment = first**2 @ values**power, vectors[0] ** 2 @ expected**power
                    assert actual == pytest.approx(moment, rel=1e-11, abs=1e-11 * np.abs(expected).max() ** power)
    with pytest.raises(np.linalg.LinAlgError, match="numbers that are not finite"):
        spectrum.eigenvalues([1.0, np.nan, 2.0], [1.0, 1.0])


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_estimates_are_the_eigenvalues(dtype: str) -> None:
    """The Lanczos method finds all eigenvalues after as many products as there are rows."""
    A = definite(19, dtype)
    exact, near = eigenvalues(A), {"abs": 2e-5 if dtype == "float32" else 1e-10}
    for given in (A, csr(A)):
        for order in ("natural", "color"):
            assert estimate(given, order=order) == pytest.approx((exact[0], exact[-1]), **near)
    for size in (2, 3, 19):
        values = eigenvalues(A, size)
        for how in ({"block_size": size}, {"block_size": size, "order": "color"}):
            assert estimate(csr(A), **how) == pytest.approx((values[0], values[-1]), **near)
    others = [A, *(A + shift * np.eye(19, dtype=dtype) for shift in (-0.4, 3.0))]
    together = np.concatenate([eigenvalues(a) for a in others])
    batch = Batch(csr(A), np.stack([csr(a).data for a in others]))
    assert estimate(batch) == pytest.approx((together.min(), together.max()), abs=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("grid", [(5, 7), (3, 4, 3)])
def test_estimates_of_stencils(grid: tuple[int, ...], dtype: str) -> None:
    count = 2 * len(grid)
    mask = np.random.default_rng(0).random(grid) < 0.8
    for given in (None, mask):
        s = Stencil(grid, np.array([count + 0.1, *[-1.0] * count], dtype), given)
        A = s.toarray().astype(np.float64)
        A = A if given is None else A[np.ix_(given.ravel(), given.ravel())]
        exact = eigenvalues(A)
        for order in ("natural", "red-black"):
            found = estimate(s, order=order)
            assert found == pytest.approx((exact[0], exact[-1]), abs=1e-4 if dtype == "float32" else 1e-9)
        skew = Stencil(grid, np.array([count, *[-1.0, -0.9] * len(grid)], dtype), given)
        low, high = estimate(skew)  # nonsymmetric: estimated by power iterations
        assert -low == high
        assert 0.5 < high < 1


def test_indefinite_matrices_have_no_lanczos_estimates() -> None:
    A = definite(19, "float64")
    turned = A.copy()
    turned[3] *= -1
    for given, how in ((-A, {}), (turned, {}), (-A, {"block_size": 3}), (turned, {"block_size": 3})):
        jacobi = auto.jacobi_of("test", Relaxation(csr(given), "sor", **how)._system)
        assert not spectrum.is_definite(jacobi)
        found = spectrum.jacobi_spectrum(jacobi)
        assert found.low == -found.high and not found.is_real
    # Symmetric with a positive diagonal, but indefinite: Jacobi does not converge, and omega stays at 1.
    assert Relaxation(np.array([[1.0, 3.0], [3.0, 1.0]]), "sor", omega="auto").omega == 1
    for method in ("jacobi", "sor", "ssor", "kaczmarz"):
        assert Relaxation(csr(np.zeros((0, 0))), method, omega="auto").omega > 0


def test_omega_auto_of_stencils() -> None:
    grid, mask = (31, 31), np.ones((31, 31), bool)
    mask[15:, 15:] = False
    b = np.ones(grid)
    for given in (None, mask):
        laplacian = Stencil(grid, np.array([4.0, -1, -1, -1, -1]), given)
        for order in ("natural", "red-black"):
            found = relax.sor(laplacian, b, omega="auto", order=order)
            least = min(relax.sor(laplacian, b, omega=w, order=order).steps for w in (1.7, 1.75, 1.8, 1.82, 1.85))
            assert found.converged
            assert found.steps <= 1.1 * least
        assert relax.ssor(laplacian, b).steps < relax.ssor(laplacian, b, omega=1.0).steps / 4
        assert Relaxation(laplacian, "ssor", omega="auto", order="red-black").omega == 1
        assert relax.chebyshev(laplacian, b).steps < relax.jacobi(laplacian, b, omega="auto").steps / 5
        ssor = Relaxation(laplacian, "ssor", omega=1.5)
        assert Chebyshev(ssor).solve(b).steps < ssor.solve(b).steps / 2


def test_omega_auto_of_batches() -> None:
    """All systems share the omega of the hardest; easier ones take no more steps."""
    A, b = poisson(31, 31), np.ones((3, 961))
    on_diagonal = np.repeat(np.arange(961), np.diff(A.indptr)) == A.indices
    batch = Batch(A, A.data + np.array([[0.5], [0.0], [2.0]]) * on_diagonal)
    alone = relax.sor(A, b[1], omega="auto")
    found = relax.sor(batch, b, omega="auto")
    assert found.converged.all()
    assert found.omega == pytest.approx(alone.omega, abs=2e-3)
    assert found.steps.max() <= alone.steps + 5
    assert relax.chebyshev(batch, b).steps.max() <= 1.1 * relax.chebyshev(A, b[1]).steps
    ssor = Relaxation(batch, "ssor", omega="auto")
    assert Chebyshev(ssor).solve(b).steps.max() < ssor.solve(b).steps.max() / 2


def test_omega_auto_of_blocks() -> None:
    A, b = poisson(31, 31), np.ones(961)
    for size in (4, 31):
        found = relax.sor(A, b, omega="auto", block_size=size)
        least = min(relax.sor(A, b, omega=w, block_size=size).steps for w in (1.7, 1.75, 1.77, 1.8, 1.85))
        assert found.converged
        assert found.steps <= 1.2 * least  # including steps with omega = 1 before the first trial
        both = [relax.ssor(A, b, omega=w, block_size=size).steps for w in ("auto", 1.0, 1.3, 1.5, 1.7, 1.8, 1.9)]
        assert both[0] <= 1.1 * min(both[1:])
        assert Relaxation(A, "ssor", omega="auto", order="color", block_size=size).omega == 1
    steps = [relax.block_jacobi(A, b, omega=w, block_size=4).steps for w in ("auto", 1.0)]
    assert steps[0] < 0.9 * steps[1]
    own = relax.sor(scipy_sparse.bsr_array(A.tobsr((31, 31))), b, omega="auto", block_size=31)
    assert own.omega == pytest.approx(Relaxation(A, "sor", omega="auto", block_size=31).omega)


@pytest.mark.parametrize("shape", [(60, 40), (30, 40)])
def test_omega_auto_of_projections(shape: tuple[int, int]) -> None:
    for dtype in ("float64", "complex128"):
        A = vectors(shape, dtype)
        b = A @ vectors(shape[1], dtype, 1)
        found = relax.kaczmarz(A, b, omega="auto")
        assert found.converged
        assert found.steps <= 1.2 * min(relax.kaczmarz(A, b, omega=w).steps for w in (1.0, 1.3, 1.5, 1.7, 1.8))
        assert relax.kaczmarz(A, b, omega="auto", symmetric=True).converged
