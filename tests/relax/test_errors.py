"""Wrong arguments of fastiter.relax: one sentence with function, argument, expected and received value."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

scipy_sparse = pytest.importorskip("scipy.sparse")

from fastiter import relax  # noqa: E402
from fastiter.relax import Anderson, Batch, Chebyshev, Relaxation  # noqa: E402
from tests.relax.cases import csr, random_matrix  # noqa: E402

GOOD = random_matrix(6, "float64")
B = np.ones(6)


def changed(row: int, column: int, value: float) -> Any:
    A = GOOD.copy()
    A[row, column] = value
    return A


def broken(**parts: Any) -> Any:
    """Return a CSR matrix whose arrays scipy has not checked."""
    A = csr(GOOD)
    for name, value in parts.items():
        setattr(A, name, value)
    return A


def column_out_of_range() -> Any:
    A = csr(GOOD)
    A.indices[A.indptr[3]] = 6
    return A


def column_beyond_int32(blocks: int = 0) -> Any:
    """Return a matrix with a 64-bit index that is valid if truncated to 32 bits."""
    A = csr(GOOD).tobsr((blocks, blocks)) if blocks else csr(GOOD)
    A.indptr, A.indices = A.indptr.astype(np.int64), A.indices.astype(np.int64)
    A.indices[A.indptr[2]] += 2**32
    return A


def falling_pointers() -> Any:
    A = csr(GOOD)
    A.indptr[2] = A.indptr[3] + 1
    return A


class Frame:
    """A stand-in for a pandas DataFrame."""

    def to_numpy(self) -> Any:
        return GOOD


SINGULAR = np.kron(np.eye(3), np.ones((2, 2)))


def cut(A: Any) -> Any:
    """Remove the last value only."""
    A.data = A.data[:-1].copy()
    return A


WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    # the matrix
    (
        lambda: Relaxation("A"),
        TypeError,
        "Relaxation: A must be a sparse matrix, a NumPy array or a Batch, got str",
    ),
    (lambda: Relaxation(None), TypeError, "got NoneType"),
    (
        lambda: relax.sor(scipy_sparse.linalg.aslinearoperator(GOOD), B),
        TypeError,
        "sor: A must be .*, got scipy.*; an operator has no entries$",
    ),
    (lambda: relax.kaczmarz(Frame(), B), TypeError, "kaczmarz: A must be .*, got .*Frame; its to_numpy.. is an array$"),
    (lambda: relax.sor(np.ma.masked_array(GOOD), B), TypeError, "sor: A must be without a mask .*, got a masked array"),
    (lambda: relax.sor(GOOD, np.ma.masked_array(B)), TypeError, "sor: b must be without a mask .*, got a masked array"),
    (
        lambda: relax.compat.sor(GOOD, np.zeros(6), np.ma.masked_array(B), 1.0),
        TypeError,
        "sor: b must be without a mask .*, got a masked array",
    ),
    (lambda: Relaxation(column_beyond_int32()), ValueError, r"columns below 2\*\*31, got \d+ in row 2$"),
    (lambda: Relaxation(column_beyond_int32(2), "block_jacobi"), ValueError, "got 429496729[6-8] in row 2 of blocks"),
    (lambda: relax.sor(GOOD, ["b"]), TypeError, "sor: b must be numbers, got a list of <U1"),
    (lambda: Relaxation(np.ones((2, 3))), ValueError, r"A must be square, got shape \(2, 3\)"),
    (
        lambda: Relaxation(np.ones((3, 2))),
        ValueError,
        r"A must be square, got shape \(3, 2\) \(row 2 has no diagonal\)",
    ),
    (lambda: Relaxation(np.ones(3)), ValueError, r"A must be square, got shape \(3,\)"),
    (
        lambda: Relaxation(GOOD.astype(int)),
        TypeError,
        r"A must be a NumPy array of float32, float64 or complex128 \(x.astype\(float\) is\), got .*int64",
    ),
    (
        lambda: Relaxation(csr(GOOD).astype(np.int64)),
        TypeError,
        r"A must be .* \(A\.astype\(float\) is\), got dtype int64",
    ),
    (
        lambda: Relaxation(csr(GOOD).astype(np.complex64)),
        TypeError,
        r"A must be .* \(A\.astype\(complex\) is\), got dtype complex64",
    ),
    (lambda: Relaxation(changed(4, 4, 0.0)), ValueError, "no zero on the diagonal, got 0 in row 4"),
    (lambda: Relaxation(csr(changed(4, 4, 0.0))), ValueError, "no zero on the diagonal, got 0 in row 4"),
    (lambda: Relaxation(csr(changed(4, 4, 0.0)), order="color"), ValueError, "got 0 in row 4"),
    (lambda: Relaxation(csr(changed(4, 4, 0.0)), order=[5, 4, 3, 2, 1, 0]), ValueError, "got 0 in row 4"),
    (lambda: Relaxation(csr(changed(4, 4, 0.0)), "jacobi"), ValueError, "got 0 in row 4"),
    (lambda: relax.sor(csr(changed(4, 4, 0.0)), B), ValueError, "sor: A must have no zero .* row 4"),
    (lambda: relax.ssor_cg(csr(changed(4, 4, 0.0)), B), ValueError, "ssor_cg: A must have no zero .* row 4"),
    (lambda: Relaxation(changed(2, 1, np.nan)), ValueError, "A must be finite, got a value in row 2"),
    (lambda: Relaxation(csr(changed(2, 1, np.inf))), ValueError, "A must be finite, got a value in row 2"),
    (lambda: Relaxation(csr(changed(5, 1, -np.inf)).tobsr((2, 2)), "block_jacobi"), ValueError, "got a value in row 5"),
    (lambda: relax.kaczmarz(csr(changed(2, 1, np.nan)), B), ValueError, "kaczmarz: A must be finite.* row 2"),
    (lambda: relax.kaczmarz([[1.0], []], B), ValueError, "A must be numbers in rows of one length, got a ragged list"),
    (lambda: Relaxation(column_out_of_range()), ValueError, "A must have columns from 0 to 5, got another in row 3"),
    (lambda: Relaxation(falling_pointers()), ValueError, "row pointers that increase, got others at row 2"),
    (lambda: Relaxation(SINGULAR, block_size=2), ValueError, "no singular block .* block 0, rows 0 to 1"),
    (
        lambda: Relaxation(csr(np.diag([1.0, 2, 3, 4, 0])), "block_jacobi", block_size=2),
        ValueError,
        "no singular block .* block 2, rows 4 to 4",
    ),
    # the method
    (lambda: Relaxation(GOOD, "gauss"), ValueError, "method must be one of 'jacobi', .*, got 'gauss'"),
    (lambda: Relaxation(GOOD, 3), TypeError, "method must be a str, got int"),
    (lambda: Relaxation(GOOD, omega=0.0), ValueError, "omega must be finite and above 0, got 0.0"),
    (lambda: Relaxation(GOOD, omega=2.0), ValueError, r"omega must be in \(0, 2\), .*got 2.0"),
    (lambda: Relaxation(GOOD, omega=float("nan")), ValueError, "omega must be finite"),
    (lambda: Relaxation(GOOD, omega="best"), ValueError, "omega must be a number or 'auto', got 'best'"),
    (lambda: Relaxation(GOOD, omega=True), TypeError, "omega must be a number, got bool"),
    (lambda: Relaxation(GOOD, omega=1j), TypeError, "omega must be a number, got complex"),
    (lambda: Relaxation(GOOD, "gauss_seidel", omega=1.5), ValueError, "omega must be 1 for gauss_seidel .* got 1.5"),
    (lambda: Relaxation(GOOD, "gauss_seidel", omega="auto"), ValueError, "omega must be 1 for gauss_seidel .* 'auto'"),
    (lambda: Relaxation(GOOD, order="rows"), ValueError, "order must be one of 'natural', .*, got 'rows'"),
    (lambda: Relaxation(csr(GOOD), order=3), TypeError, "order must be a str or an array of row numbers, got int"),
    (lambda: Relaxation(csr(GOOD), order=[0, 1, 2]), ValueError, r"order must have shape \(6,\), got \(3,\)"),
    (lambda: Relaxation(csr(GOOD), order=[0, 1, 2, 3, 4, 4]), ValueError, "every row .* once, got row 4 2 times"),
    (lambda: Relaxation(GOOD, order=[0, 1, 2, 3, 4, 7]), ValueError, "every row .* once, got row 5 0 times"),
    (lambda: Relaxation(csr(GOOD), order=[0.0] * 6), TypeError, "order must be integers, got dtype float64"),
    (lambda: Relaxation(np.ones((3, 3)), order="red-black"), ValueError, "row 1 lies on a cycle of odd length"),
    (lambda: Relaxation(GOOD, "jacobi", order="color"), ValueError, "order must be 'natural' .* got 'color'"),
    (lambda: Relaxation(GOOD, "kaczmarz", order="color"), ValueError, "order must be 'natural' or an array"),
    (lambda: Relaxation(GOOD, "block_jacobi"), ValueError, "block_size must be an int .* got None"),
    (lambda: Relaxation(GOOD, block_size=0), ValueError, "block_size must be at least 1, got 0"),
    (lambda: Relaxation(GOOD, block_size=65), ValueError, "block_size must be at most 64, got 65"),
    (lambda: Relaxation(GOOD, block_size=2.0), TypeError, "block_size must be an int, got float"),
    (lambda: Relaxation(GOOD, "kaczmarz", block_size=2), ValueError, "block_size must be None for kaczmarz"),
    (lambda: Relaxation(GOOD, symmetric=1), TypeError, "symmetric must be a bool, got int"),
    (lambda: Relaxation(GOOD, "jacobi", symmetric=True), ValueError, "symmetric must be False for jacobi"),
    # vectors
    (lambda: relax.sor(GOOD, [2**60] * 6), ValueError, "sor: b must have whole numbers up to .* for float64, got"),
    (lambda: relax.sor(GOOD, np.ones(5)), ValueError, r"b must have shape \(6,\) or \(6, k\) to go with A, got \(5,\)"),
    (lambda: relax.sor(GOOD, np.ones((1, 6))), ValueError, r"got \(1, 6\)"),
    (lambda: relax.sor(GOOD, np.ones(6, np.float32)), TypeError, "b must be .*float64, got dtype float32"),
    (lambda: relax.sor(GOOD.astype("f4"), np.ones(6, complex)), TypeError, "b must be .*, got dtype complex128"),
    (lambda: relax.sor(GOOD, B, np.ones(5)), ValueError, r"x0 must have shape \(6,\) to go with A and b, got \(5,\)"),
    (lambda: relax.sor(GOOD, B, np.ones(6, np.float32)), TypeError, "x0 must be .*, got dtype float32"),
    (lambda: relax.kaczmarz(np.ones((2, 3)), np.ones(3)), ValueError, r"b must have shape \(2,\)"),
    (lambda: relax.kaczmarz(np.ones((2, 3)), np.ones(2), np.ones(2)), ValueError, r"x0 must have shape \(3,\)"),
    (lambda: Relaxation(GOOD).sweep(B, B), ValueError, "x must not share memory with b"),
    (lambda: Relaxation(GOOD).sweep(np.broadcast_to(1.0, 6), B), ValueError, "x must be writable"),
    (lambda: Relaxation(GOOD).sweep([0.0] * 6, B), TypeError, "Relaxation.sweep: x must be a NumPy array"),
    (lambda: Relaxation(GOOD).sweep(np.zeros(6), B, -1), ValueError, "sweeps must be at least 0, got -1"),
    (lambda: Relaxation(GOOD).sweep(np.zeros(6), B, 1.5), TypeError, "sweeps must be an int, got float"),
    (lambda: Relaxation(GOOD).sweep(np.zeros(6), B, backward=1), TypeError, "backward must be a bool, got int"),
    (lambda: Relaxation(GOOD).residual(np.zeros(5), B), ValueError, "Relaxation.residual: x must have shape"),
    (lambda: relax.sor(GOOD, B, rtol=-1.0), ValueError, "rtol must be finite and at least 0, got -1.0"),
    (lambda: relax.sor(GOOD, B, atol="0"), TypeError, "atol must be a number, got str"),
    (lambda: relax.sor(GOOD, B, max_steps=-1), ValueError, "max_steps must be at least 0, got -1"),
    (lambda: relax.sor(GOOD, B, check_every=0), ValueError, "check_every must be at least 1, got 0"),
    # batches and acceleration
    (lambda: Batch(GOOD, np.ones((2, 3))), TypeError, "Batch: pattern must be a sparse matrix, got numpy.ndarray"),
    (lambda: Batch(csr(GOOD), np.ones(3)), ValueError, r"Batch: values must have shape \(B, entries\)"),
    (lambda: Batch(csr(GOOD), None), TypeError, "Batch: values must be a NumPy array"),
    (
        lambda: relax.sor(Batch(csr(GOOD), np.stack([csr(GOOD).data] * 2)), B),
        ValueError,
        r"b must have shape \(batch, n\) = \(2, 6\) to go with A, got \(6,\)",
    ),
    (lambda: relax.sor(Batch(csr(GOOD), np.zeros((2, csr(GOOD).nnz))), np.ones((2, 6))), ValueError, "got 0 in row 0"),
    (
        lambda: relax.solve_sequence([(Batch(csr(GOOD), csr(GOOD).data[None]), B)], relax.TsallisINF([1.0], rng=0)),
        TypeError,
        "solve_sequence: systems must be of one matrix each, got a Batch as system 0",
    ),
    (lambda: Chebyshev(Relaxation(GOOD, "sor")), ValueError, "symmetric sweep, got method sor"),
    (lambda: Chebyshev(GOOD), TypeError, "relaxation must be a Relaxation, got numpy.ndarray"),
    (lambda: Chebyshev(Relaxation(GOOD, "jacobi"), (2.0, 1.0)), ValueError, "low <= high"),
    (lambda: Chebyshev(Relaxation(GOOD, "jacobi"), 1.0), TypeError, r"bounds must be \(low, high\) or None, got float"),
    (lambda: relax.chebyshev(GOOD, B), ValueError, "bounds must be given if A is not Hermitian"),
    (lambda: relax.chebyshev(GOOD, B, bounds=(0.0, 1.0)), ValueError, "bounds must be finite and above 0, got 0.0"),
    (lambda: Anderson(Relaxation(GOOD), 0), ValueError, "memory must be at least 1, got 0"),
    (lambda: Anderson(Relaxation(GOOD), 2**63), ValueError, "memory must be at most 1000, got 9223372036854775808"),
    (
        lambda: relax.solve_sequence(5, relax.TsallisINF([1.0], rng=0)),
        TypeError,
        r"systems must be an iterable of tuples \(A, b\), got int",
    ),
    (
        lambda: relax.solve_sequence([(GOOD, B)], None),
        TypeError,
        "tuner must have the methods predict and update, got NoneType",
    ),
    (
        lambda: relax.solve_sequence([(GOOD, B)], relax.TsallisINF([1.0], rng=0), method=1),
        TypeError,
        "method must be a str, got int",
    ),
    (lambda: Relaxation(cut(scipy_sparse.csr_array(GOOD))), ValueError, "A must have as many values as columns of"),
    (
        lambda: Relaxation(cut(scipy_sparse.bsr_array(GOOD, blocksize=(2, 2))), "block_jacobi"),
        ValueError,
        "A must have as many values as columns of entries, got 6 and 5",
    ),
    (
        lambda: Batch(scipy_sparse.csr_array(np.eye(4)), np.ones((0, 4))),
        ValueError,
        r"values must have shape \(B, entries\) = \(B, 4\) with B at least 1, got \(0, 4\)",
    ),
    (lambda: Anderson(None), TypeError, "relaxation must be a Relaxation, got NoneType"),
]


@pytest.mark.parametrize("case", WRONG, ids=[f"{i}-{match[:40]}" for i, (_, _, match) in enumerate(WRONG)])
def test_refused(case: tuple[Callable[[], Any], type[Exception], str]) -> None:
    call, error, match = case
    with pytest.raises(error) as raised:
        call()
    message = str(raised.value)
    assert re.search(match, message), message
    assert re.fullmatch(r"[A-Za-z_.]+: \w+ must .+[,;] got .+", message), message
    assert raised.type is error


def test_unsorted_indices_with_a_missing_diagonal_name_the_row() -> None:
    A = scipy_sparse.csr_array((np.array([1.0, 2.0, 1.0]), np.array([1, 0, 0]), np.array([0, 2, 3])), (2, 2))
    with pytest.raises(ValueError, match="got 0 in row 1"):
        Relaxation(A)
