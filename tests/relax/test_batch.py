"""Batches of matrices with one pattern: rows, blocks, ssor_cg and preconditioners treat each system as if alone."""

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
from fastiter.relax import Batch, Relaxation, ssor_cg  # noqa: E402
from tests.relax.cases import (  # noqa: E402
    DTYPES,
    ORDERS,
    attempt,
    csr,
    matrix_for,
    order_for,
    poisson,
    random_matrix,
    rows_in,
    tolerance,
    vectors,
)
from tests.support.cases import Array, assert_same_bits  # noqa: E402


def matrices_of(n: int, batch: int, dtype: Any) -> list[Array]:
    """Return matrices with one pattern and different values."""
    first = random_matrix(n, dtype)
    rng = np.random.default_rng(batch)
    return [(first * rng.uniform(0.8, 1.0, (n, n)) + np.diag(np.diag(first))).astype(dtype) for _ in range(batch)]


def together(matrices: list[Array]) -> Batch:
    return Batch(csr(matrices[0]), np.stack([csr(A).data for A in matrices]))


def assert_near(actual: Array, expected: Array, what: Any) -> None:
    scale = tolerance(actual.dtype, len(expected)) * np.abs(expected).max(initial=1.0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=scale, err_msg=str(what))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", [*ORDERS, "jacobi"])
def test_rows(order: str, dtype: str) -> None:
    for n, batch in itertools.product((1, 9, 34), (1, 2, 5, 8, 11)):
        first = matrix_for(order, n, dtype)
        chosen = "natural" if order == "jacobi" else order_for(order, n)
        scales = np.linspace(1, 2, batch)
        matrices = [(first + np.diag(scale * np.diag(first))).astype(dtype) for scale in scales]
        pattern = csr(first)
        values = np.stack([csr(A).data for A in matrices])
        b, x = vectors((batch, n), dtype, 1), vectors((batch, n), dtype, 2)
        method = "jacobi" if order == "jacobi" else "sor"
        together = Relaxation(Batch(pattern, values), method, omega=1.1, order=chosen)
        actual = x.copy()
        together.sweep(actual, b, 2)
        for i, A in enumerate(matrices):
            alone = x[i].copy()
            Relaxation(csr(A), method, omega=1.1, order=chosen).sweep(alone, b[i], 2)
            assert_near(actual[i], alone, (n, batch))
            assert_near(together.residual(x, b)[i], b[i] - A @ x[i], (n, batch))


def test_blocks_by_hand() -> None:
    """x_I = A_II^-1 (b_I - A_IJ x_J): two systems, the second with twice the matrix of the first."""
    A = np.array([[1.0, 1, 1, 0], [0, 2, 0, 0], [0, 1, 2, 0], [1, 0, 2, 4]])
    batch, b = together([A, 2 * A]), np.array([[3.0, 4, 6, 3], [3.0, 4, 6, 3]])
    x = np.zeros((2, 4))
    Relaxation(batch, "block_gauss_seidel", block_size=2).sweep(x, b)
    # first: (x0 + x1, 2 x1) = (3, 4), so (1, 2); then (2 x2, 2 x2 + 4 x3) = (6 - 2, 3 - 1), so (2, -1/2)
    assert x.tolist() == [[1.0, 2.0, 2.0, -0.5], [0.5, 1.0, 1.0, -0.25]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["natural", "color", "cluster", "array", "jacobi"])
def test_blocks(order: str, dtype: str) -> None:
    for n, size, batch in ((1, 1, 2), (9, 2, 1), (12, 3, 5), (37, 4, 11), (37, 5, 2), (8, 8, 16)):
        matrices = matrices_of(n, batch, dtype)
        blocks = reference.blocks(n, size)
        linked = np.array([[np.any(matrices[0][i, j] != 0) for j in blocks] for i in blocks]).astype(float)
        chosen = "natural" if order == "jacobi" else order_for(order, len(blocks))
        b, x = vectors((batch, n), dtype, 1), vectors((batch, n), dtype, 2)
        method = "block_jacobi" if order == "jacobi" else "sor"
        sweeps = Relaxation(together(matrices), method, omega=1.1, order=chosen, block_size=size)
        forward, backward, r = x.copy(), x.copy(), sweeps.residual(x, b)
        sweeps.sweep(forward, b)
        sweeps.sweep(backward, b, 2, backward=True)
        for i, A in enumerate(matrices):
            own, alone = Relaxation(csr(A), method, omega=1.1, order=chosen, block_size=size), x[i].copy()
            own.sweep(alone, b[i], 2, backward=True)
            if order == "jacobi":
                expected = reference.block_jacobi(A, x[i], b[i], size, 1.1)
            else:
                expected = reference.block_sor(A, x[i], b[i], size, 1.1, rows_in(chosen, linked))
            assert_near(forward[i], expected, (n, size, batch))
            assert_near(backward[i], alone, (n, size, batch))
            assert_near(r[i], b[i] - A @ x[i], (n, size, batch))


def test_float32_blocks_with_float64_vectors() -> None:
    matrices = matrices_of(18, 3, "float32")
    b = vectors((3, 18), "float64", 1)
    solution = relax.gauss_seidel(together(matrices), b, block_size=3, rtol=1e-13)
    assert solution.converged.all()
    for A, one, rhs in zip(matrices, solution.value, b, strict=True):
        assert np.linalg.norm(rhs - A.astype(np.float64) @ one) <= 2e-13 * np.linalg.norm(rhs)


def test_solving_in_blocks() -> None:
    """Each system has its own steps, reason and history; all share one omega."""
    A = poisson(12, 12)
    shifts = np.array([0.0, 1.0, 5.0])
    diagonal = np.zeros(A.nnz)
    diagonal[A.indices == np.repeat(np.arange(144), np.diff(A.indptr))] = 1
    batch = Batch(A, A.data + shifts[:, None] * diagonal)
    single = [(A + shift * scipy_sparse.eye_array(144)).tocsr() for shift in shifts]
    b = vectors((3, 144), "float64", 1)
    for method in ("block_jacobi", "gauss_seidel", "ssor"):
        solution = Relaxation(batch, method, block_size=12).solve(b)
        assert solution.reason == ("converged",) * 3
        for i, own in enumerate(single):
            alone = Relaxation(own, method, block_size=12).solve(b[i])
            assert solution.steps[i] == alone.steps
            np.testing.assert_allclose(solution.history[: alone.steps + 1, i], alone.history, rtol=1e-9)
    plain = relax.gauss_seidel(batch, b, block_size=12, rtol=1e-12)
    for method in ("sor", "ssor", "block_jacobi"):
        auto = Relaxation(batch, method, omega="auto", block_size=12)
        # omega of the hardest system, estimated from other vectors and so slightly different
        assert auto.omega == pytest.approx(Relaxation(single[0], method, omega="auto", block_size=12).omega, abs=0.05)
        solution = auto.solve(b, rtol=1e-12)
        assert solution.converged.all()
        assert method == "block_jacobi" or solution.steps[0] < plain.steps[0] / 2
    for wrapper in (relax.Anderson(Relaxation(batch, "gauss_seidel", block_size=12)),):
        assert wrapper.solve(b, rtol=1e-12).steps[0] < plain.steps[0] / 2


def test_a_bsr_pattern_sets_the_block_size() -> None:
    matrices = matrices_of(12, 3, "float64")
    bsr = csr(matrices[0]).tobsr((3, 3))
    values = np.stack([A[np.nonzero(np.kron(_blocks_in(bsr), np.ones((3, 3))))] for A in matrices])
    b, x, y = vectors((3, 12), "float64", 1), np.zeros((3, 12)), np.zeros((3, 12))
    Relaxation(Batch(bsr, values), "block_gauss_seidel").sweep(x, b)
    Relaxation(together(matrices), "block_gauss_seidel", block_size=3).sweep(y, b)
    assert_same_bits(x, y)


def _blocks_in(bsr: Any) -> Array:
    ones = scipy_sparse.csr_array((np.ones(len(bsr.indices)), bsr.indices, bsr.indptr), (4, 4))
    return np.asarray(ones.toarray())


def test_any_number_of_threads_has_the_same_bits() -> None:
    n, batch = 240, 19
    A = scipy_sparse.random_array((n, n), density=0.03, rng=np.random.default_rng(0)) + 9 * scipy_sparse.eye_array(n)
    A = A.tocsr()
    values = A.data * np.random.default_rng(1).uniform(0.9, 1.1, (batch, 1))
    b = vectors((batch, n), "float64", 1)
    for order in ("natural", "color", "cluster"):
        results = []
        for threads in (1, 2, 5):
            fastiter.set_num_threads(threads)
            try:
                sweeps, x = Relaxation(Batch(A, values), "ssor", order=order, block_size=4), np.zeros_like(b)
                sweeps.sweep(x, b, 2)
                results.append((x, sweeps.residual(x, b)))
            finally:
                fastiter.set_num_threads(None)
        for other in results[1:]:
            for first, same in zip(results[0], other, strict=True):
                assert_same_bits(same, first)


def changed(system: int, entries: dict[tuple[int, int], float]) -> Batch:
    matrices = matrices_of(6, 3, "float64")
    pattern = csr(sum(np.abs(A) for A in matrices) + np.kron(np.eye(3), np.ones((2, 2))))
    rows, columns = np.repeat(np.arange(6), np.diff(pattern.indptr)), pattern.indices
    for place, value in entries.items():
        matrices[system][place] = value
    return Batch(pattern, np.stack([A[rows, columns] for A in matrices]))


SINGULAR = {(2, 2): 1.0, (2, 3): 2.0, (3, 2): 2.0, (3, 3): 4.0}


@pytest.mark.parametrize(
    ("batch", "how", "match"),
    [
        (changed(1, SINGULAR), {"block_size": 2}, "no singular block .*, got one in block 1, rows 2 to 3 of system 1"),
        (changed(2, {(4, 4): 0.0}), {}, "no zero on the diagonal, got 0 in row 4 of system 2"),
        (changed(1, {(5, 5): np.nan}), {}, "A must be finite, got a value in row 5 of system 1 that is not"),
        (changed(1, {(5, 5): np.nan}), {"block_size": 2}, "got a value in row 5 of system 1 that is not"),
    ],
)
def test_a_refused_system_is_named(batch: Batch, how: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Relaxation(batch, "sor", **how)


@pytest.mark.parametrize("order", ["natural", "red-black"])
def test_ssor_cg(order: str) -> None:
    A = poisson(9, 9)
    values = A.data * np.array([1.0, 3.0])[:, None]
    values[1, A.indices == np.repeat(np.arange(81), np.diff(A.indptr))] += 2
    b = vectors((2, 81), "float64", 1)
    solution = ssor_cg(Batch(A, values), b, omega=1.3, order=order, check_every=1)
    for i in range(2):
        own = scipy_sparse.csr_array((values[i], A.indices, A.indptr), A.shape)
        alone = ssor_cg(own, b[i], omega=1.3, order=order, check_every=1)
        assert abs(solution.steps[i] - alone.steps) <= 1
        np.testing.assert_allclose(solution.value[i], np.linalg.solve(own.toarray(), b[i]), atol=1e-6)


@pytest.mark.parametrize("size", [None, 3])
def test_preconditioner(size: int | None) -> None:
    matrices = matrices_of(9, 2, "float64")
    whole = scipy_sparse.block_diag([scipy_sparse.csr_array(A) for A in matrices]).tocsr()
    b = vectors((18, 3), "float64", 1)
    M = Relaxation(together(matrices), "sor", omega=1.1, block_size=size).as_preconditioner()
    expected = Relaxation(whole, "sor", omega=1.1, block_size=size).as_preconditioner()
    np.testing.assert_allclose(M @ b, expected @ b, rtol=1e-12, atol=1e-14)
    x, info = scipy.sparse.linalg.gmres(whole, b[:, 0], rtol=1e-10, M=M)
    assert info == 0
    np.testing.assert_allclose(whole @ x, b[:, 0], atol=1e-8)


@pytest.mark.parametrize("vector", ["float64", "complex128"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_preconditioners_keep_precision_and_imaginary_parts(dtype: str, vector: str) -> None:
    """No digits of a float64 vector are lost to float32, and no imaginary part to float64."""
    A, r = random_matrix(12, dtype), vectors(12, vector, 1)
    found = Relaxation(csr(A), "ssor").as_preconditioner() @ r
    expected = np.linalg.solve(reference.splitting(A.astype(np.float64), "ssor"), r)
    assert found.dtype == vector
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (9, 9), (12, 7), (7, 12)])
def test_kaczmarz(shape: tuple[int, int], dtype: str) -> None:
    rng = np.random.default_rng(0)
    pattern = csr(np.where(rng.random(shape) < 0.6, 1.0, 0.0))
    for batch in (1, 2, 5, 11):
        values = vectors((batch, pattern.nnz), dtype, 3)
        if pattern.nnz > 1:
            values[-1, : pattern.indptr[1]] = 0  # no equations in one of them
        b, x = vectors((batch, shape[0]), dtype, 1), vectors((batch, shape[1]), dtype, 2)
        for order in ("natural", "array"):
            chosen = order_for(order, shape[0])
            sweeps = Relaxation(Batch(pattern, values), "kaczmarz", omega=0.9, order=chosen, symmetric=True)
            swept, r = x.copy(), sweeps.residual(x, b)
            sweeps.sweep(swept, b, 2)
            for i in range(batch):
                own = scipy_sparse.csr_array((values[i], pattern.indices, pattern.indptr), shape)
                alone, single = x[i].copy(), Relaxation(own, "kaczmarz", omega=0.9, order=chosen, symmetric=True)
                single.sweep(alone, b[i], 2)
                assert_near(swept[i], alone, (batch, order))
                assert_near(r[i], b[i] - own @ x[i], (batch, order))


def test_solving_by_kaczmarz() -> None:
    matrices = [vectors((12, 5), "float64", seed) for seed in (1, 2, 3)]
    x = vectors((3, 5), "float64", 4)
    b = np.stack([A @ own for A, own in zip(matrices, x, strict=True)])
    for omega in (1.0, "auto"):
        solution = relax.kaczmarz(together(matrices), b, omega=omega, rtol=1e-12)
        assert solution.converged.all()
        np.testing.assert_allclose(solution.value, x, atol=1e-9)
    far = np.zeros((3, 5))
    far[1] = 1.7e308
    assert attempt(relax.kaczmarz, together(matrices), b, far).reason == ("converged", "diverged", "converged")
