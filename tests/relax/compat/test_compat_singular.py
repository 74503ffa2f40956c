"""fastiter.relax.compat against PyAMG with zeros on the diagonal, singular blocks or a complex omega."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

sparse = pytest.importorskip("scipy.sparse")
pyamg = pytest.importorskip("pyamg")
from pyamg.relaxation import relaxation as theirs  # noqa: E402

from fastiter.relax import compat as ours  # noqa: E402
from tests.relax.cases import random_matrix, vectors  # noqa: E402

DTYPES = ("float32", "float64", "complex64", "complex128")


def with_holes(dtype: str, *, empty: bool) -> Any:
    """Return a matrix with some rows that lack the diagonal or, with ``empty``, all entries."""
    A = random_matrix(24, np.result_type(dtype, np.float32), 0.6)
    for row in (0, 7, 8, 23):
        A[row, row] = 0
        if empty:
            A[row] = A[:, row] = 0
    return sparse.csr_array(A.astype(dtype))


def same(name: str, A: Any, *args: Any, **how: Any) -> None:
    n, dtype = A.shape[0], A.dtype
    x, b = vectors(n, dtype, 1), vectors(n, dtype, 2)
    one, two = x.copy(), x.copy()
    getattr(ours, name)(A, one, b, *args, **how)
    getattr(theirs, name)(A.copy(), two, b, *args, **how)
    tolerance = 2e3 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(one, two, rtol=tolerance, atol=tolerance * np.abs(two).max())


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_without_a_diagonal_are_skipped(dtype: str, empty: bool) -> None:
    A = with_holes(dtype, empty=empty)
    rows = np.arange(24)
    for sweep in ("forward", "backward", "symmetric"):
        same("gauss_seidel", A, iterations=2, sweep=sweep)
        same("gauss_seidel_indexed", A, rows, iterations=2, sweep=sweep)
        if dtype in ("float64", "complex128"):  # PyAMG 5.4 supports no others here
            same("gauss_seidel_ne", A, iterations=2, sweep=sweep)
            same("gauss_seidel_nr", A, iterations=2, sweep=sweep)
    for omega in (1.0, 0.7):
        same("jacobi", A, iterations=3, omega=omega)
        same("jacobi", A.tobsr((2, 2)), iterations=3, omega=omega)
        same("jacobi_ne", A, iterations=2, omega=omega)
        same("jacobi_indexed", A, rows, iterations=2, omega=omega)
        same("cf_jacobi", A, rows[::2], rows[1::2], iterations=2, omega=omega)
        same("sor", A, omega, iterations=2)
    x, b = vectors(24, A.dtype, 1), vectors(24, A.dtype, 2)
    given = x.copy()
    ours.sor(A, x, b, 1.3, iterations=5)
    assert x[[0, 7, 8, 23]].tobytes() == given[[0, 7, 8, 23]].tobytes()


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_singular_blocks_have_pseudo_inverses(dtype: str, size: int) -> None:
    A = random_matrix(24, np.result_type(dtype, np.float32), 0.6)
    for block, value in ((0, 0.0), (2, 1.0)):
        own = slice(block * size, (block + 1) * size)
        A[own, own] = value  # a zero block, and one of rank 1
    A = sparse.csr_array(A.astype(dtype))
    blocks = np.arange(24 // size)
    for form in (A, A.tobsr((size, size))):
        same("block_jacobi", form, blocksize=size, iterations=2, omega=0.8)
        for sweep in ("forward", "backward", "symmetric"):
            same("block_gauss_seidel", form, blocksize=size, iterations=2, sweep=sweep)
        same("cf_block_jacobi", form, blocks[::2], blocks[1::2], blocksize=size, iterations=2)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_omega(dtype: str) -> None:
    A = sparse.csr_array(random_matrix(24, "complex128").astype(dtype))
    rows = np.arange(24)
    for omega in (0.6 + 0.2j, np.complex64(1.1 - 0.3j), 0.5 + 0j):
        for form in (A, A.tobsr((2, 2))):
            same("jacobi", form, iterations=3, omega=omega)
        same("block_jacobi", A, blocksize=3, iterations=3, omega=omega)
        same("jacobi_ne", A, iterations=2, omega=omega)
        same("jacobi_indexed", A, rows[::3], iterations=2, omega=omega)
        same("fc_jacobi", A, rows[::2], rows[1::2], iterations=2, omega=omega)
        same("cf_block_jacobi", A, rows[:6], rows[6:12], blocksize=2, iterations=2, omega=omega)


@pytest.mark.parametrize("factor", [1e-200, 1e160])
def test_normal_equations_out_of_range(factor: float) -> None:
    A = sparse.csr_array(random_matrix(12, "float64"))
    b = vectors(12, "float64")
    for call in (ours.jacobi_ne, ours.gauss_seidel_nr, ours.gauss_seidel_ne):
        x, y = np.zeros(12), np.zeros(12)
        call(A, x, b, iterations=3, omega=0.9)
        call(factor * A, y, factor * b, iterations=3, omega=0.9)
        np.testing.assert_allclose(y, x, rtol=1e-9)


def test_multigrid_with_isolated_vertices(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = pyamg.gallery.poisson((12, 12), format="csr")
    A = sparse.csr_array(sparse.block_diag([grid, sparse.csr_array((2, 2))]))
    b = A @ np.random.default_rng(0).standard_normal(146)
    counts = []
    for patched in (False, True):
        if patched:
            for name in ("gauss_seidel", "jacobi", "sor"):
                monkeypatch.setattr(theirs, name, getattr(ours, name))
        history: list[float] = []
        pyamg.ruge_stuben_solver(A).solve(b, tol=1e-8, residuals=history)
        counts.append(len(history))
    assert counts[0] == counts[1]
