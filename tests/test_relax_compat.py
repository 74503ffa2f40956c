"""fastiter.relax.compat against the functions that it takes the place of."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

pyamg = pytest.importorskip("pyamg")
import scipy.sparse  # noqa: E402
from pyamg.relaxation import relaxation as theirs  # noqa: E402

from fastiter.relax import Relaxation  # noqa: E402
from fastiter.relax import compat as ours  # noqa: E402
from relax_cases import csr, random_matrix, vectors  # noqa: E402

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("jacobi", {}),
    ("jacobi", {"iterations": 3, "omega": 0.7}),
    *(("gauss_seidel", {"iterations": 2, "sweep": sweep}) for sweep in ("forward", "backward", "symmetric")),
    ("gauss_seidel", {"omega": 1.2}),
    *(("sor", {"omega": 1.3, "iterations": 2, "sweep": sweep}) for sweep in ("forward", "backward")),
    ("block_jacobi", {"blocksize": 3, "iterations": 2, "omega": 0.8}),
    *(("block_gauss_seidel", {"blocksize": 4, "sweep": sweep}) for sweep in ("forward", "backward", "symmetric")),
    *(("gauss_seidel_ne", {"omega": 0.9, "sweep": sweep}) for sweep in ("forward", "backward", "symmetric")),
    *(("gauss_seidel_nr", {"omega": 0.9, "sweep": sweep}) for sweep in ("forward", "backward", "symmetric")),
    ("jacobi_ne", {"iterations": 2, "omega": 0.3}),
    *(
        ("gauss_seidel_indexed", {"indices": rows, "iterations": 2, "sweep": sweep})
        for rows in ([3, 0, 7], list(range(23, -1, -1)), [2, 0, 2, 5, 0])
        for sweep in ("forward", "backward", "symmetric")
    ),
    ("polynomial", {"coefficients": [0.01, -0.1, 0.3], "iterations": 2}),
]


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_the_same(call: tuple[str, dict[str, Any]], dtype: str) -> None:
    name, arguments = call
    A = csr(random_matrix(24, dtype))
    for shape in ((24,), (24, 1)):
        b, x = vectors(shape, dtype, 1), vectors(shape, dtype, 2)
        expected = x.copy()
        getattr(theirs, name)(A, expected, b, **arguments)
        getattr(ours, name)(A, x, b, **arguments)
        np.testing.assert_allclose(x, expected, rtol=1e-11, atol=1e-11)
    if name.startswith("block"):
        size = arguments["blocksize"]
        bsr, y, b = A.tobsr((size, size)), np.zeros(24, dtype), vectors(24, dtype, 1)
        expected = np.zeros(24, dtype)
        inverse = np.stack([np.linalg.inv(A[i : i + size, i : i + size].toarray()) for i in range(0, 24, size)])
        getattr(theirs, name)(bsr, expected, b, **arguments)
        getattr(ours, name)(bsr, y, b, Dinv=inverse, **arguments)
        np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-11)
        with pytest.raises(ValueError, match=f"{name}: Dinv must be the inverse"):
            getattr(ours, name)(bsr, y, b, Dinv=2 * inverse, **arguments)
        with pytest.raises(ValueError, match=f"{name}: Dinv must have shape"):
            getattr(ours, name)(bsr, y, b, Dinv=inverse[1:], **arguments)


def test_a_symmetric_sor_has_its_omega_both_ways() -> None:
    A, b, x, y = csr(random_matrix(9, "float64")), vectors(9, "float64", 1), np.zeros(9), np.zeros(9)
    ours.sor(A, x, b, 1.3, sweep="symmetric")
    theirs.sor(A, y, b, 1.3, sweep="forward")
    theirs.sor(A, y, b, 1.3, sweep="backward")
    np.testing.assert_allclose(x, y, rtol=1e-11)


def test_the_inverses_of_projections() -> None:
    A, b, x, y = csr(random_matrix(9, "float64")), vectors(9, "float64", 1), np.zeros(9), np.zeros(9)
    inverse = 1 / (A.toarray() ** 2).sum(axis=1)
    ours.gauss_seidel_ne(A, x, b, Dinv=inverse)
    theirs.gauss_seidel_ne(A, y, b, Dinv=inverse)
    np.testing.assert_allclose(x, y, rtol=1e-12)
    with pytest.raises(ValueError, match="gauss_seidel_ne: Dinv must be the inverse"):
        ours.gauss_seidel_ne(A, x, b, Dinv=inverse + 1)
    inverse = 1 / (A.toarray() ** 2).sum(axis=0)
    ours.gauss_seidel_nr(A, x, b, Dinv=inverse)
    theirs.gauss_seidel_nr(A, y, b, Dinv=inverse)
    np.testing.assert_allclose(x, y, rtol=1e-9)
    with pytest.raises(ValueError, match="gauss_seidel_nr: Dinv must be the inverse"):
        ours.gauss_seidel_nr(A, x, b, Dinv=inverse + 1)


def test_a_changed_matrix_is_prepared_again_and_a_dead_one_forgotten() -> None:
    A, b = csr(random_matrix(70, "float64")), vectors(70, "float64", 1)
    gc.collect()
    before = len(ours._KEPT)

    def check() -> None:
        x, y = np.zeros(70), np.zeros(70)
        ours.gauss_seidel(A, x, b)
        theirs.gauss_seidel(A, y, b)
        np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-11)

    check()
    check()
    assert len(ours._KEPT) == before + 1
    for place in (0, len(A.data) // 2, -1):
        A.data[place] *= 1.5
        check()
    A.data[[3, 4]] = A.data[[4, 3]]
    check()
    assert len(ours._KEPT) == before + 1
    for _ in range(40):
        ours.jacobi(csr(random_matrix(5, "float64")), np.zeros(5), np.ones(5))
    assert len(ours._KEPT) <= 16
    other = csr(random_matrix(6, "float64"))
    ours.jacobi(other, np.zeros(6), np.ones(6))
    kept = len(ours._KEPT)
    del other
    gc.collect()
    assert len(ours._KEPT) < kept
    assert all(entry[1]() is not None for entry in ours._KEPT)


def test_refused() -> None:
    A, b = csr(random_matrix(5, "float64")), np.ones(5)
    with pytest.raises(ValueError, match="sor: sweep must be 'forward', 'backward' or 'symmetric', got 'up'"):
        ours.sor(A, np.zeros(5), b, 1.0, sweep="up")
    with pytest.raises(ValueError, match="jacobi: A must have no zero on the diagonal, got 0 in row 2"):
        ours.jacobi(scipy.sparse.csr_array(np.diag([1.0, 2, 0, 4, 5])), np.zeros(5), b)
    with pytest.raises(TypeError, match="gauss_seidel: x and b must be NumPy arrays, got list and"):
        ours.gauss_seidel(A, [0.0] * 5, b)
    with pytest.raises(
        ValueError, match="gauss_seidel_indexed: sweep must be 'forward', 'backward' or 'symmetric', got 'up'"
    ):
        ours.gauss_seidel_indexed(A, np.zeros(5), b, [0], sweep="up")
    with pytest.raises(ValueError, match="polynomial: coefficients must not be empty, got none"):
        ours.polynomial(A, np.zeros(5), b, [])


def test_as_smoother_of_a_multigrid() -> None:
    """PyAMG's cycle with our sweeps in the place of its own converges as it does."""
    A = pyamg.gallery.poisson((40, 40), format="csr")
    b = vectors(1600, "float64", 1)
    histories = []
    for module in (theirs, ours):
        levels = pyamg.ruge_stuben_solver(A, max_coarse=10)
        for level in levels.levels[:-1]:
            level.presmoother = lambda A, x, b, module=module: module.gauss_seidel(A, x, b, sweep="forward")
            level.postsmoother = lambda A, x, b, module=module: module.gauss_seidel(A, x, b, sweep="backward")
        residuals: list[float] = []
        levels.solve(b, tol=1e-10, residuals=residuals)
        histories.append(residuals)
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-4)


def test_preconditioners_as_smoothers_of_a_multigrid() -> None:
    """M^-1 of as_preconditioner on each level: x <- x + M^-1 (b - A x), which is its sweep."""
    A, b = pyamg.gallery.poisson((40, 40), format="csr"), vectors(1600, "float64", 1)
    levels = pyamg.ruge_stuben_solver(A, max_coarse=10)
    for level in levels.levels[:-1]:
        M = Relaxation(level.A, "ssor", order="color").as_preconditioner()

        def smooth(A: Any, x: Any, b: Any, M: Any = M) -> None:
            x += M @ (b - A @ x)

        level.presmoother = level.postsmoother = smooth
    residuals: list[float] = []
    x = levels.solve(b, tol=1e-8, residuals=residuals)
    assert len(residuals) <= 12
    np.testing.assert_allclose(A @ x, b, atol=1e-6)
