"""Sweeps of every method, order, dtype and layout against the specification."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

scipy_sparse = pytest.importorskip("scipy.sparse")

import fastiter  # noqa: E402
from fastiter import relax  # noqa: E402
from fastiter.reference import relax as reference  # noqa: E402
from fastiter.relax import Batch, Relaxation  # noqa: E402
from tests.relax.cases import DTYPES, ORDERS, csr, matrix_for, order_for, random_matrix, rows_in, tolerance, vectors  # noqa: E402
from tests.support.cases import Array, assert_same_bits  # noqa: E402

SIZES = (1, 2, 7, 8, 9, 33, 70)
WIDTHS = (None, 1, 2, 3, 8, 13)
CASES = [*((n, None) for n in SIZES), (7, 1), (9, 13), (33, 2), (8, 8), (33, 3)]


def shape_of(n: int, k: int | None) -> tuple[int, ...]:
    return (n,) if k is None else (n, k)


def assert_near(actual: Array, expected: Array, n: int, what: object = "") -> None:
    assert actual.dtype == expected.dtype, what
    scale = np.abs(expected).max(initial=1.0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance(actual.dtype, n) * scale, err_msg=str(what))


A3 = np.array([[4.0, -1.0, 0.0], [-2.0, 8.0, 1.0], [0.0, 3.0, -2.0]])
B3 = np.array([8.0, 4.0, 2.0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["csr", "csr of int64", "dense", "batch", "columns", "blocks"])
def test_sor_by_hand(form: str, dtype: str) -> None:
    """Omega 1.5 from 0. All numbers are sums of powers of 2."""
    # forward: x0 = 1.5 * 8/4 = 3; x1 = 1.5 (4 + 6) / 8 = 1.875; x2 = 1.5 (2 - 5.625) / -2 = 2.71875
    forward = [3.0, 1.875, 2.71875]
    # backward: x2 = 1.5 * 2 / -2 = -1.5; x1 = 1.5 (4 + 1.5) / 8 = 1.03125; x0 = 1.5 (8 + 1.03125) / 4
    backward = [3.38671875, 1.03125, -1.5]
    # then backward: x2 = -1.359375 + 1.5 (2 - 5.625) / -2 = 1.359375; x1 = -0.9375 + 1.5 (4 + 6 - 1.359375) / 8;
    # x0 = -1.5 + 1.5 (8 + 0.6826171875) / 4
    symmetric = [1.7559814453125, 0.6826171875, 1.359375]
    A, b, size = A3.astype(dtype), B3.astype(dtype), 1 if form == "blocks" else None
    given: Any = A if form == "dense" else csr(A, np.int64 if form == "csr of int64" else np.int32)
    if form == "batch":
        given, b = Batch(given, np.stack([given.data] * 2)), np.stack([b] * 2)
    b = np.stack([b] * 3, axis=1) if form == "columns" else b
    for expected, how, direction in (
        (forward, {}, {}),
        (backward, {}, {"backward": True}),
        (symmetric, {"symmetric": True}, {}),
    ):
        x = np.zeros_like(b)
        Relaxation(given, "sor", omega=1.5, block_size=size, **how).sweep(x, b, **direction)
        for column in x.T if form == "columns" else x.reshape(-1, 3):
            assert column.tolist() == expected


def test_colourings_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastiter import _core

    monkeypatch.setattr(_core.relax, "colour", lambda n, start, column, colour: colour.fill(0))
    with pytest.raises(RuntimeError, match="rows of one colour must not be linked, got a link of row 0"):
        Relaxation(csr(A3), "sor", order="color")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ORDERS)
def test_sweeps_in_every_order(order: str, dtype: str) -> None:
    for n, k in CASES:
        A, chosen = matrix_for(order, n, dtype), order_for(order, n)
        rows, omega = rows_in(chosen, A), 1.3 if n % 2 else 1.0
        sweeps = Relaxation(csr(A), "sor", omega=omega, order=chosen)
        both = Relaxation(csr(A), "ssor", omega=omega, order=chosen)
        b, x = vectors(shape_of(n, k), dtype, 1), vectors(shape_of(n, k), dtype, 2)
        forward, backward, symmetric = x.copy(), x.copy(), x.copy()
        sweeps.sweep(forward, b, 2)
        sweeps.sweep(backward, b, backward=True)
        both.sweep(symmetric, b, 2)
        once = reference.sor(A, x, b, omega, rows)
        assert_near(forward, reference.sor(A, once, b, omega, rows), n, (n, k))
        assert_near(backward, reference.sor(A, x, b, omega, rows, backward=True), n, (n, k))
        assert_near(symmetric, reference.ssor(A, reference.ssor(A, x, b, omega, rows), b, omega, rows), n, (n, k))
        assert_near(sweeps.residual(x, b), b - A @ x, n, (n, k))


@pytest.mark.parametrize("dtype", DTYPES)
def test_jacobi(dtype: str) -> None:
    for n, k in CASES:
        A = random_matrix(n, dtype)
        for given in (csr(A), A):
            jacobi = Relaxation(given, "jacobi", omega=0.8)
            b, x = vectors(shape_of(n, k), dtype, 1), vectors(shape_of(n, k), dtype, 2)
            actual = x.copy()
            jacobi.sweep(actual, b, 3)
            expected = x
            for _ in range(3):
                expected = reference.jacobi(A, expected, b, 0.8).astype(dtype)
            assert_near(actual, expected, n, (n, k))
            assert_near(jacobi.residual(x, b), b - A @ x, n, (n, k))


@pytest.mark.parametrize("dtype", DTYPES)
def test_consecutive_columns(dtype: str) -> None:
    """Only the first of consecutive columns, as on a grid, is stored; some rows break the pattern."""
    n = 97
    A = np.diag(np.full(n, 9.0 + 0j if dtype == "complex128" else 9.0))
    for shift in (-25, -1, 1, 25):
        A = A + np.diag(vectors(n - abs(shift), dtype, 50 + shift), shift)
    A[40, 3], A[71, 90] = 1, -1
    A = A.astype(dtype)
    for k, order in itertools.product((None, 3), ("color", "jacobi", "red-black")):
        b, x = vectors(shape_of(n, k), dtype, 1), vectors(shape_of(n, k), dtype, 2)
        swept = x.copy()
        if order == "jacobi":
            Relaxation(csr(A), "jacobi").sweep(swept, b)
            assert_near(swept, reference.jacobi(A, x, b).astype(dtype), n)
        else:
            sweeps = Relaxation(csr(A), "gauss_seidel", order=order)
            sweeps.sweep(swept, b)
            assert_near(swept, reference.sor(A, x, b, 1.0, rows_in(order, A)), n)
            assert_near(sweeps.residual(x, b), b - A @ x, n)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense(dtype: str) -> None:
    for (n, k), order in itertools.product(CASES, ("natural", "array")):
        A, chosen = random_matrix(n, dtype), order_for(order, n)
        b, x = vectors(shape_of(n, k), dtype, 1), vectors(shape_of(n, k), dtype, 2)
        actual, backward = x.copy(), x.copy()
        sweeps = Relaxation(A, "sor", omega=1.2, order=chosen)
        sweeps.sweep(actual, b)
        sweeps.sweep(backward, b, backward=True)
        assert_near(actual, reference.sor(A, x, b, 1.2, rows_in(chosen, A)), n, (n, k))
        assert_near(backward, reference.sor(A, x, b, 1.2, rows_in(chosen, A), backward=True), n, (n, k))
        assert_near(sweeps.residual(x, b), b - A @ x, n, (n, k))


def test_a_dense_matrix_in_colour_order_equals_a_sparse_one() -> None:
    A, b = random_matrix(33, "float64"), vectors(33, "float64", 1)
    for order in ("color", "cluster"):
        x, y = vectors(33, "float64", 2), vectors(33, "float64", 2)
        Relaxation(A, "sor", order=order).sweep(x, b)
        Relaxation(csr(A), "sor", order=order).sweep(y, b)
        assert_same_bits(x, y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
def test_blocks(size: int, dtype: str) -> None:
    for n, k, order in itertools.product((1, 8, 37), (None, 9), ("natural", "color", "cluster", "array")):
        A = random_matrix(n, dtype)
        blocks = -(-n // size)
        rows = _block_rows(A, order, size)
        chosen = np.array(rows) if order == "array" else order
        b, x = vectors(shape_of(n, k), dtype, 1), vectors(shape_of(n, k), dtype, 2)
        forward, backward, jacobi = x.copy(), x.copy(), x.copy()
        given = csr(A).tobsr((size, size)) if n % size == 0 else csr(A)
        sweeps = Relaxation(given, "sor", omega=1.2, order=chosen, block_size=size)
        sweeps.sweep(forward, b)
        sweeps.sweep(backward, b, backward=True)
        assert sweeps.shape == (n, n)
        assert_near(forward, reference.block_sor(A, x, b, size, 1.2, rows), n, (n, k, order))
        assert_near(backward, reference.block_sor(A, x, b, size, 1.2, rows, backward=True), n, (n, k, order))
        assert_near(sweeps.residual(x, b), b - A @ x, n, (n, k))
        Relaxation(given, "block_jacobi", omega=0.9, block_size=size).sweep(jacobi, b, 2)
        expected = reference.block_jacobi(A, reference.block_jacobi(A, x, b, size, 0.9), b, size, 0.9)
        assert_near(jacobi, expected.astype(dtype), n, (n, k))
        assert len(rows) == blocks


def _block_rows(A: Array, order: str, size: int) -> list[int]:
    blocks = reference.blocks(len(A), size)
    linked = np.array([[np.any(A[i, j] != 0) for j in blocks] for i in blocks])
    return rows_in(order_for(order, len(blocks)), linked.astype(float))


def test_a_bsr_matrix_has_a_block_size() -> None:
    A = random_matrix(24, "float64")
    b, x = vectors(24, "float64", 1), np.zeros(24)
    Relaxation(csr(A).tobsr((3, 3)), "block_gauss_seidel").sweep(x, b)
    assert_near(x, reference.block_sor(A, np.zeros(24), b, 3), 24)
    Relaxation(csr(A).tobsr((3, 3)), "gauss_seidel").sweep(x, b)  # without blocks, rows
    assert_near(x, reference.sor(A, reference.block_sor(A, np.zeros(24), b, 3), b), 24)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (9, 9), (20, 7), (7, 20)])
def test_kaczmarz(shape: tuple[int, int], dtype: str) -> None:
    rng = np.random.default_rng(0)
    A = (vectors(shape, dtype, 3) * (rng.random(shape) < 0.6)).astype(dtype)
    A[shape[0] // 2] = 0  # no equations
    for k, order in itertools.product(WIDTHS, ("natural", "array")):
        chosen = order_for(order, shape[0])
        rows = list(range(shape[0])) if order == "natural" else list(chosen)
        b, x = vectors(shape_of(shape[0], k), dtype, 1), vectors(shape_of(shape[1], k), dtype, 2)
        for given in (csr(A), A):
            sweeps = Relaxation(given, "kaczmarz", omega=0.9, order=chosen)
            both = Relaxation(given, "kaczmarz", omega=0.9, order=chosen, symmetric=True)
            forward, backward, symmetric = x.copy(), x.copy(), x.copy()
            sweeps.sweep(forward, b, 2)
            sweeps.sweep(backward, b, backward=True)
            both.sweep(symmetric, b)
            once = reference.kaczmarz(A, x, b, 0.9, rows)
            assert_near(forward, reference.kaczmarz(A, once, b, 0.9, rows), 100)
            assert_near(backward, reference.kaczmarz(A, x, b, 0.9, rows, backward=True), 100)
            assert_near(symmetric, reference.kaczmarz(A, once, b, 0.9, rows, backward=True), 100)
            assert_near(sweeps.residual(x, b), b - A @ x, 100)


def test_float32_storage_with_float64_vectors() -> None:
    """Only the matrix is rounded to float32; everything else is float64."""
    A = random_matrix(50, "float32")
    b = vectors(50, "float64", 1)
    for method, order in itertools.product(("jacobi", "sor", "ssor"), ("natural", "color")):
        if method == "jacobi" and order == "color":
            continue
        mixed = Relaxation(csr(A), method, order=order).solve(b, rtol=1e-13)
        assert mixed.converged
        assert mixed.value.dtype == np.float64
        assert np.linalg.norm(b - A.astype(np.float64) @ mixed.value) <= 2e-13 * np.linalg.norm(b)
    x = np.zeros(50, np.float32)
    Relaxation(csr(A), "sor").sweep(x, b.astype(np.float32))
    exact = reference.sor(A.astype(np.float64), np.zeros(50), b.astype(np.float32).astype(np.float64))
    np.testing.assert_allclose(x, exact, rtol=0, atol=2 * np.finfo(np.float32).eps * np.abs(exact).max())


@pytest.mark.parametrize("order", ORDERS)
def test_any_number_of_threads_has_the_same_bits(order: str) -> None:
    n = 3000
    rng = np.random.default_rng(0)
    links = scipy_sparse.random_array((n, n), density=0.004, rng=rng, format="csr")
    if order == "red-black":
        links = links.multiply(np.add.outer(np.arange(n), np.arange(n)) % 2).tocsr()
    A = (links + scipy_sparse.diags_array(np.full(n, 8.0))).tocsr()
    b, b9 = vectors(n, "float64", 1), vectors((n, 9), "float64", 1)
    results = []
    for threads in (1, 2, 3, 7):
        fastiter.set_num_threads(threads)
        try:
            sweeps = Relaxation(A, "ssor", omega=1.1, order=order_for(order, n))
            x, x9 = np.zeros(n), np.zeros((n, 9))
            sweeps.sweep(x, b, 2)
            sweeps.sweep(x9, b9, 2)
            results.append((x, x9, sweeps.residual(x, b), np.array(sweeps.solve(b).history)))
        finally:
            fastiter.set_num_threads(None)
    for other in results[1:]:
        for first, same in zip(results[0], other, strict=True):
            assert_same_bits(same, first)


@pytest.mark.parametrize("method", ["jacobi", "block_jacobi", "block_gauss_seidel", "kaczmarz"])
def test_threads_of_the_other_methods(method: str) -> None:
    n = 2400
    A = (
        scipy_sparse.random_array((n, n), density=0.004, rng=np.random.default_rng(0)) + 8 * scipy_sparse.eye_array(n)
    ).tocsr()
    size = 4 if method.startswith("block") else None
    order = "color" if method == "block_gauss_seidel" else "natural"
    b = vectors((n, 17), "float64", 1)
    results = []
    for threads in (1, 2, 5):
        fastiter.set_num_threads(threads)
        try:
            x, one = np.zeros((n, 17)), np.zeros(n)
            sweeps = Relaxation(A, method, order=order, block_size=size)
            sweeps.sweep(x, b, 2)
            sweeps.sweep(one, np.ascontiguousarray(b[:, 0]), 2)
            results.append((x, one))
        finally:
            fastiter.set_num_threads(None)
    for other in results[1:]:
        assert_same_bits(other[0], results[0][0])
        assert_same_bits(other[1], results[0][1])


@pytest.mark.parametrize("indices", [np.int32, np.int64])
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "lil", "dia"])
def test_formats_and_indices(form: str, indices: Any) -> None:
    A = random_matrix(12, "float64")
    b, x, y = vectors(12, "float64", 1), np.zeros(12), np.zeros(12)
    given = csr(A, indices) if form == "csr" else csr(A, indices).asformat(form)
    Relaxation(given, "sor").sweep(x, b)
    Relaxation(csr(A), "sor").sweep(y, b)
    assert_same_bits(x, y)


def test_unsorted_and_duplicate_entries_are_sorted_in_a_copy() -> None:
    indptr, indices = np.array([0, 4, 6]), np.array([1, 0, 1, 0, 1, 0])
    data = np.array([0.5, 3.0, 0.5, 1.0, 5.0, 2.0])
    A = scipy_sparse.csr_array((data, indices, indptr), (2, 2))
    before = [a.copy() for a in (A.data, A.indices, A.indptr)]
    x = np.zeros(2)
    Relaxation(A, "gauss_seidel").sweep(x, np.array([8.0, 9.0]))
    assert x.tolist() == [2.0, 1.0]  # 4 x + y = 8, 2 x + 5 y = 9
    for old, new in zip(before, (A.data, A.indices, A.indptr), strict=True):
        assert_same_bits(old, new)


def test_unsorted_and_duplicate_blocks_are_sorted_in_a_copy() -> None:
    A, b = random_matrix(6, "float64"), vectors(6, "float64", 1)
    ordered = csr(A).tobsr((2, 2))
    places = np.concatenate([np.arange(*ordered.indptr[i : i + 2])[::-1] for i in range(3)])
    data = ordered.data[places]
    parts = scipy_sparse.bsr_array(
        (np.concatenate([data / 2, data / 2]), np.tile(ordered.indices[places], 2), 2 * ordered.indptr), A.shape
    )
    parts.data, parts.indices = np.repeat(data / 2, 2, axis=0), np.repeat(ordered.indices[places], 2)
    before = parts.data.copy()
    x, y = np.zeros(6), np.zeros(6)
    Relaxation(parts, "block_gauss_seidel").sweep(x, b)
    Relaxation(ordered, "block_gauss_seidel").sweep(y, b)
    np.testing.assert_allclose(x, y, rtol=1e-13)
    assert_same_bits(parts.data, before)


def test_later_changes_of_the_matrix_have_no_effect() -> None:
    for A in (random_matrix(9, "float64"), csr(random_matrix(9, "float64"))):
        sweeps, b, x, y = Relaxation(A, "sor"), vectors(9, "float64", 1), np.zeros(9), np.zeros(9)
        sweeps.sweep(x, b)
        if isinstance(A, np.ndarray):
            A[...] = np.nan
        else:
            A.data[...] = np.nan
        sweeps.sweep(y, b)
        assert_same_bits(x, y)


@pytest.mark.parametrize(
    "how", [{}, {"order": "color"}, {"method": "jacobi"}, {"method": "kaczmarz"}, {"block_size": 2}]
)
@pytest.mark.parametrize("form", ["dense", "csr", "bsr", "batch"])
def test_later_changes_of_a_float32_matrix_do_not_affect_float64_vectors(form: str, how: dict[str, Any]) -> None:
    """The first float64 vectors need another copy of the matrix, which must have the original values."""
    dense = random_matrix(8, "float32")
    pattern = csr(np.ones((8, 8)))
    forms: dict[str, Callable[[], Any]] = {
        "dense": dense.copy,
        "csr": lambda: csr(dense),
        "bsr": lambda: scipy_sparse.bsr_array(dense, blocksize=(2, 2)),
        "batch": lambda: Batch(pattern, np.stack([dense.ravel()] * 2)),
    }
    A = forms[form]()
    memory = [A] if form == "dense" else [A.values] if form == "batch" else [A.data, A.indices]
    sweeps, unchanged = (Relaxation(matrix, **{"method": "sor", **how}) for matrix in (A, forms[form]()))
    b = vectors((2, 8) if form == "batch" else 8, "float64", 1)
    x, y = np.zeros_like(b), np.zeros_like(b)
    unchanged.sweep(x, b)
    for part in memory:
        part[...] = 7
    sweeps.sweep(y, b)
    assert_same_bits(x, y)


@pytest.mark.parametrize("exponent", [-40, -16, 0, 15, 40])
@pytest.mark.parametrize("n", [3, 4, 5])
def test_blocks_of_any_magnitude(n: int, exponent: int) -> None:
    """The last block is padded with numbers of its own magnitude, so that no entry is lost beside them."""
    A = (4 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)) * 10.0**exponent
    for given in (A, Batch(csr(np.ones((n, n))), np.stack([A.ravel(), 3 * A.ravel()]))):
        solution = relax.block_jacobi(given, np.ones((2, n)) if isinstance(given, Batch) else np.ones(n), block_size=2)
        assert np.all(solution.converged)


def test_layouts() -> None:
    A = random_matrix(9, "float64")
    b, start = vectors((9, 3), "float64", 1), vectors((9, 3), "float64", 2)
    for order in ("natural", "color"):
        sweeps = Relaxation(csr(A), "sor", order=order)
        expected = start.copy()
        sweeps.sweep(expected, b)
        wide = np.full((18, 6), np.nan)
        for x in (np.asfortranarray(start), wide[::2, ::2], wide[::-2, ::-2]):
            x[...] = start
            for rhs in (b, np.asfortranarray(b), np.repeat(b, 2, axis=1)[:, ::2]):
                rhs.flags.writeable = False
                again = x.copy(order="A") if x.flags.f_contiguous else x
                again[...] = start
                sweeps.sweep(again, rhs)
                assert_same_bits(np.ascontiguousarray(again), expected)
        assert np.isnan(wide[1::2, :]).any()


def test_empty() -> None:
    for A in (np.zeros((0, 0)), csr(np.zeros((0, 0)))):
        solution = Relaxation(A, "jacobi").solve(np.zeros(0))
        assert (solution.converged, solution.steps, solution.value.shape) == (True, 0, (0,))
    for order in ("natural", "color", "cluster"):
        sweeps = Relaxation(csr(random_matrix(5, "float64")), "sor", order=order)
        x = np.zeros((5, 0))
        sweeps.sweep(x, np.zeros((5, 0)))
        solution = sweeps.solve(np.zeros((5, 0)))
        assert solution.value.shape == (5, 0)
        assert solution.steps.shape == (0,)
        x = vectors(5, "float64", 2)
        before = x.copy()
        sweeps.sweep(x, np.zeros(5), 0)
        assert_same_bits(x, before)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_unlinked_systems_do_not_affect_each_other(poison: float) -> None:
    A = random_matrix(16, "float64")
    two = np.kron(np.eye(2), A)
    for method, order in (("sor", "natural"), ("sor", "color"), ("sor", "cluster"), ("jacobi", "natural")):
        sweeps = Relaxation(csr(two), method, order=order)
        b, x = vectors(32, "float64", 1), vectors(32, "float64", 2)
        clean, poisoned = x.copy(), x.copy()
        sweeps.sweep(clean, b, 3)
        b[3] = poison
        with np.errstate(all="ignore"):
            sweeps.sweep(poisoned, b, 3)
        assert_same_bits(poisoned[16:], clean[16:])
        assert not np.isfinite(poisoned[3])


def test_gauss_seidel_ignores_the_old_value_of_a_row() -> None:
    """With omega = 1 there is no term (1 - omega) x_i, so a NaN in the first row disappears after one sweep."""
    A = csr(np.array([[2.0, 0.0], [1.0, 2.0]]))
    for order in ("natural", "color"):
        x = np.array([np.nan, np.nan])
        Relaxation(A, "gauss_seidel", order=order).sweep(x, np.array([2.0, 5.0]))
        assert x.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_huge_and_tiny_numbers(scale: float) -> None:
    A, b = random_matrix(20, "float64"), vectors(20, "float64", 1)
    for order in ("natural", "color"):
        plain = Relaxation(csr(A), "sor", order=order).solve(b, rtol=1e-10)
        scaled = Relaxation(csr(A), "sor", order=order).solve(b * scale, rtol=1e-10)
        assert scaled.converged
        assert scaled.steps == plain.steps
        np.testing.assert_allclose(scaled.value / scale, plain.value, rtol=1e-6)
        np.testing.assert_allclose(scaled.residual / scale, plain.residual, rtol=1e-2)
