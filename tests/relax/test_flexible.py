"""flexible_cg on arrays: against its definition, SciPy's CG and direct solutions; refusals and reports."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

scipy_sparse = pytest.importorskip("scipy.sparse")
import scipy.sparse.linalg as sl  # noqa: E402

import fastiter  # noqa: E402
from fastiter.reference import relax as reference  # noqa: E402
from fastiter.relax import Batch, Relaxation, Stencil, flexible_cg, ssor_cg  # noqa: E402
from tests.relax.cases import csr, poisson, vectors  # noqa: E402

LAPLACIAN = np.array([4.0, -1, -1, -1, -1])


def definite(n: int, dtype: Any, seed: int = 0) -> Any:
    """Return a Hermitian matrix with eigenvalues from 1 to 20."""
    rng = np.random.default_rng([seed, n])
    M = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if np.dtype(dtype).kind == "c" else 0)
    Q = np.linalg.qr(M)[0]
    return ((Q * np.geomspace(1, 20, n)) @ Q.conj().T).astype(dtype)


def iterates(A: Any, b: Any, most: int = 1000, **options: Any) -> list[Any]:
    """Return x after each check, up to a maximum number of steps."""
    found: list[Any] = []

    def record(progress: fastiter.Progress) -> bool:
        found.append(progress.value)
        return progress.steps == most

    solution = flexible_cg(A, b, callback=record, **options)
    return [*found[1:], solution.value] if solution.converged else found[1:]


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("memory", [0, 1, 2, 5])
def test_steps_are_those_of_the_definition(memory: int, dtype: str) -> None:
    """The preconditioner is nonlinear, and depends on the magnitude of r."""
    A, b, x0 = definite(15, dtype), vectors(15, dtype, 1), vectors(15, dtype, 2)

    def precond(r: Any) -> Any:
        return (r + 0.5 * np.abs(r) * r[::-1]).astype(dtype)

    found = iterates(A, b, 8, x0=x0, precond=precond, memory=memory, rtol=1e-6)
    wide = "complex128" if dtype == "complex128" else "float64"
    expected = reference.flexible_cg(A.astype(wide), b.astype(wide), x0.astype(wide), precond, len(found), memory)
    assert len(found) == 8
    # A step's rounding grows at most by the condition number, 20, times the sums of 15 products.
    eps = np.finfo(dtype).eps * len(found) * 20 * 15
    for x, y in zip(found, expected, strict=True):
        assert np.linalg.norm(x - y) <= eps * np.linalg.norm(y)


def test_without_a_preconditioner_it_is_scipys_cg() -> None:
    A, b = poisson(20, 20), vectors(400, "float64", 1)
    expected: list[Any] = []
    sl.cg(A, b, rtol=1e-10, callback=lambda x: expected.append(x.copy()))
    found = iterates(A, b, rtol=1e-10)
    assert len(found) == len(expected) > 60
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-10)
    jumps = iterates(A, b, rtol=1e-10, check_every=7)  # between checks, the residual is that of the recurrence
    for x, y in zip(jumps, expected[6::7], strict=False):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-10)


def test_a_linear_preconditioner_gives_preconditioned_cg() -> None:
    A, b = poisson(20, 20), vectors(400, "float64", 1)
    sweep = Relaxation(A, "ssor", omega=1.3)
    expected: list[Any] = []
    sl.cg(A, b, rtol=1e-10, M=sweep, callback=lambda x: expected.append(x.copy()))
    for precond in (sweep, sweep.matvec, sweep.as_preconditioner()):
        found = iterates(A, b, rtol=1e-10, precond=precond)
        assert len(found) == len(expected)
        np.testing.assert_allclose(np.array(found), np.array(expected), rtol=0, atol=1e-10)
    assert len(found) == ssor_cg(A, b, omega=1.3, rtol=1e-10, check_every=1).steps


@pytest.mark.parametrize("memory", [0, 2, 1000])
def test_an_exact_solver_needs_one_step(memory: int) -> None:
    A, b = definite(12, "float64"), vectors((12, 3), "float64")
    b[:, 1] *= 1e-200
    b[:, 2] *= 1e200
    inverse = np.linalg.inv(A)
    for precond in (inverse, -3e5 * inverse, lambda r: np.linalg.solve(A, r) * [1e-30, -1, 1e30]):
        found = flexible_cg(A, b, precond=precond, memory=memory, rtol=1e-12)
        assert found.steps.tolist() == [1, 1, 1] and found.converged.all()
    assert flexible_cg(A, b, precond=inverse.astype(np.float32), rtol=1e-12).steps.max() <= 3
    assert flexible_cg(A.astype(np.float32), b[:, 0], rtol=1e-12).value.dtype == np.float64


def test_all_kinds_of_matrices_have_the_same_steps() -> None:
    A = poisson(7, 9)
    b = vectors((63, 2), "float64")
    expected = flexible_cg(A, b, rtol=1e-11)
    np.testing.assert_allclose(A @ expected.value, b, rtol=0, atol=1e-10 * float(np.linalg.norm(b)))
    same: list[tuple[Any, Any]] = [(A.toarray(), b), (A.tobsr((3, 3)), b), (sl.aslinearoperator(A), b), (A.tocoo(), b)]
    same += [(Stencil((7, 9), LAPLACIAN), b.reshape(7, 9, 2)), (A.toarray().tolist(), b[::1, ::-1][:, ::-1])]
    for matrix, rhs in same:
        found = flexible_cg(matrix, rhs, rtol=1e-11)
        np.testing.assert_allclose(found.value.reshape(63, 2), expected.value, rtol=0, atol=1e-9)
        assert found.steps.tolist() == expected.steps.tolist()
    one = flexible_cg(lambda x: (A @ x.ravel()).reshape(x.shape), b[:, 0].reshape(7, 9), rtol=1e-11)
    assert one.steps == expected.steps[0] and one.value.shape == (7, 9)
    values = np.stack([A.data, 3 * A.data])
    batch = flexible_cg(Batch(A, values), b.T, rtol=1e-11, precond=lambda r: r / 4)
    np.testing.assert_allclose(batch.value.T * np.array([1.0, 3]), expected.value, rtol=0, atol=1e-9)
    assert batch.steps.tolist() == expected.steps.tolist()


def test_given_points_of_a_stencil_keep_their_values() -> None:
    mask = np.ones((6, 6), bool)
    mask[2:4, 3] = False
    stencil, x0 = Stencil((6, 6), LAPLACIAN, mask), np.where(mask, 0.0, 5.0)
    found = flexible_cg(stencil, np.ones((6, 6)), x0, precond=lambda r: r + 0.3 * np.abs(r), rtol=1e-10)
    assert found.converged and (found.value[~mask] == 5).all()
    left = stencil.matvec(found.value) - mask
    assert np.abs(left[mask]).max() < 1e-9


def test_warm_starts_zeros_and_sizes() -> None:
    A, b = definite(9, "float64"), vectors(9, "float64")
    found = flexible_cg(A, b, rtol=1e-10)
    assert flexible_cg(A, b, found.value, rtol=2e-10).steps == 0
    assert flexible_cg(A, 0 * b).steps == 0
    for n in (0, 1, 2):
        one = flexible_cg(definite(n, "float64") if n else np.zeros((0, 0)), np.ones(n))
        assert one.converged and one.steps <= n
    assert flexible_cg(lambda x: 2 * x, np.zeros((0, 3))).value.shape == (0, 3)
    read_only = b[::-1]
    read_only.flags.writeable = False
    assert flexible_cg(A, read_only).converged
    for scale, size in ((1e-300, 1e-300), (1e250, 1e290)):
        scaled = flexible_cg(scale * A, size * b, rtol=1e-10)
        np.testing.assert_allclose(scaled.value * (scale / size), found.value, rtol=1e-9)


def test_threads_change_no_bit() -> None:
    A, b = poisson(40, 40), vectors((1600, 3), "float64")
    before = fastiter.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            fastiter.set_num_threads(threads)
            found.append(flexible_cg(A, b).value.tobytes())
    finally:
        fastiter.set_num_threads(before)
    assert found[0] == found[1]


def test_a_nonlinear_preconditioner_converges_on_its_own_columns() -> None:
    """Finished columns do not affect the others, and a singular consistent system converges."""
    A, b = poisson(15, 15), vectors((225, 3), "float64")
    b[:, 1] = 0
    sweep = Relaxation(A, "ssor", omega=1.5)
    found = flexible_cg(A, b, precond=lambda r: np.maximum(sweep.matvec(r), -0.01), rtol=1e-9)
    alone = flexible_cg(A, b[:, 2], precond=lambda r: np.maximum(sweep.matvec(r), -0.01), rtol=1e-9)
    assert found.converged.all() and found.steps[1] == 0 and found.steps[2] == alone.steps
    neumann = poisson(12, 12).toarray()
    np.fill_diagonal(neumann, 0)
    np.fill_diagonal(neumann, -neumann.sum(axis=1))
    rhs = vectors((144, 2), "float64")
    rhs -= rhs.mean(axis=0)
    rhs[:, 1] *= 1e-6
    assert flexible_cg(neumann, rhs, rtol=1e-9).converged.all()


def test_failures_to_converge_are_reported() -> None:
    A, b = poisson(8, 8), np.ones(64)
    with pytest.warns(fastiter.ConvergenceWarning, match=r"^flexible_cg: .* after 2 steps .*; .* or a better precond$"):
        found = flexible_cg(A, b, max_steps=2)
    assert (found.converged, found.reason, found.steps, len(found.history)) == (False, "max_steps", 2, 3)
    with pytest.raises(fastiter.ConvergenceError, match=r"^flexible_cg: ") as caught:
        flexible_cg(A, b, max_steps=2, throw=True)
    assert caught.value.solution is not None and caught.value.solution.steps == 2
    with pytest.warns(fastiter.ConvergenceWarning, match="'stagnated'"):
        assert flexible_cg(A, b, precond=np.zeros_like).reason == "stagnated"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert flexible_cg(A, b, callback=lambda progress: progress.steps == 3).reason == "callback"


#: A wrong argument, typed as Any for the type checker
ANY: Callable[[Any], Any] = lambda x: x  # noqa: E731
A6, B6 = definite(6, "float64"), np.ones(6)
WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: flexible_cg(np.array([[1.0, 3], [3, 1]]), np.array([1.0, -2])), ValueError, "A must be positive definite"),
    (lambda: flexible_cg(-A6, B6), ValueError, "A must be positive definite, got a direction d with"),
    (lambda: flexible_cg(np.ones((3, 2)), B6), ValueError, r"A must be square, got shape \(3, 2\)"),
    (lambda: flexible_cg(3, B6), TypeError, "A must be a sparse matrix, a NumPy array or a Batch, got int"),
    (lambda: flexible_cg(sl.aslinearoperator(np.ones((2, 3))), B6), ValueError, r"A must have shape \(n, n\), got"),
    (lambda: flexible_cg(A6, np.ones(5)), ValueError, r"b must have shape \(6,\) or \(6, k\)"),
    (lambda: flexible_cg(lambda x: x, np.array(3.0)), ValueError, r"b must have an axis, got shape \(\)"),
    (lambda: flexible_cg(lambda x: x, np.ones(3, int)), TypeError, "b must be a NumPy array of float32"),
    (lambda: flexible_cg(lambda x: x[1:], B6), ValueError, r"A must return .* of shape \(6,\), got float64 \(5,\)"),
    (lambda: flexible_cg(lambda x: x > 0, B6), ValueError, r"A must return floating-point numbers .*, got bool \(6,\)"),
    (lambda: flexible_cg(lambda x: x + 0j, B6), TypeError, "A must return real numbers like b, got complex128"),
    (lambda: flexible_cg(A6, B6, precond=3), TypeError, "precond must be a function or a matrix or None, got int"),
    (
        lambda: flexible_cg(A6, B6, precond=np.eye(5)),
        ValueError,
        r"precond must have shape \(6, 6\) like A, got",
    ),
    (lambda: flexible_cg(A6, B6, precond=ANY(lambda r: None)), ValueError, "precond must return .*, got NoneType"),
    (lambda: flexible_cg(A6, B6, precond=lambda r: r * np.nan), ValueError, "precond must return finite numbers"),
    (lambda: flexible_cg(lambda x: x, B6, precond=np.eye(6)), TypeError, "precond must be a function if A is no"),
    (lambda: flexible_cg(A6, B6, memory=-1), ValueError, "memory must be at least 0, got -1"),
    (lambda: flexible_cg(A6, B6, memory=ANY(1.5)), TypeError, "memory must be an int, got float"),
    (lambda: flexible_cg(A6, B6, np.ones(5)), ValueError, r"x0 must have shape \(6,\)"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_wrong_arguments_raise_one_sentence(number: int) -> None:
    call, error, message = WRONG[number]
    with pytest.raises(error, match=f"^flexible_cg: {message}") as caught:
        call()
    assert "\n" not in str(caught.value)


def test_sparse_dtypes() -> None:
    for dtype in ("float32", "float64", "complex128"):
        A, b = definite(10, dtype), vectors((10, 2), dtype)
        found = flexible_cg(csr(A), b, rtol=1e-5 if dtype == "float32" else 1e-12)
        assert found.value.dtype == dtype
        exact = np.linalg.solve(A.astype("complex128"), b)
        error = np.linalg.norm(found.value - exact)  # at most ||A^-1|| = 1 times the residual
        assert error <= (1.1e-5 if dtype == "float32" else 1.1e-12) * np.linalg.norm(b) * 2
