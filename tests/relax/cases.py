"""Matrices and vectors for the tests of relaxation."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse

import fastiter
from fastiter import relax
from fastiter.reference import relax as reference
from tests.support.cases import Array

DTYPES = ("float32", "float64", "complex128")
ORDERS = ("natural", "red-black", "color", "cluster", "array")


def random_matrix(n: int, dtype: Any, density: float = 0.2, seed: int = 0) -> Array:
    """Return a dense nonsymmetric, diagonally dominant matrix with rows of very different lengths."""
    rng = np.random.default_rng([seed, n])
    A = rng.standard_normal((n, n))
    A *= rng.random((n, n)) < density * rng.choice([0.2, 1.0, 3.0], n)[:, None]
    if np.dtype(dtype).kind == "c":
        A = A + 1j * rng.standard_normal((n, n)) * (A != 0)
    np.fill_diagonal(A, 0)
    diagonal = (1.1 * np.abs(A).sum(axis=1) + 1) * rng.choice([-1.0, 1.0], n)
    return (A + np.diag(diagonal)).astype(dtype)


def bipartite(n: int, dtype: Any, seed: int = 0) -> Array:
    """Return such a matrix with links only between rows of different parity, so that two colours suffice."""
    A = random_matrix(n, dtype, 0.4, seed)
    parity = np.arange(n) % 2
    A[(parity[:, None] == parity) & ~np.eye(n, dtype=bool)] = 0
    return A


def matrix_for(order: str, n: int, dtype: Any) -> Array:
    return bipartite(n, dtype) if order == "red-black" else random_matrix(n, dtype)


def poisson(*shape: int) -> Any:
    A = scipy.sparse.csr_array((1, 1))
    for n in shape:
        line = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
        A = scipy.sparse.kron(A, scipy.sparse.eye_array(n)) + scipy.sparse.kron(
            scipy.sparse.eye_array(A.shape[0]), line
        )
    return A.tocsr()


def vectors(shape: Any, dtype: Any, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        x = x + 1j * rng.standard_normal(shape)
    return np.asarray(x.astype(dtype))


def csr(A: Array, indices: Any = np.int32) -> Any:
    sparse = scipy.sparse.csr_array(A)
    return scipy.sparse.csr_array((sparse.data, sparse.indices.astype(indices), sparse.indptr.astype(indices)), A.shape)


def batch_of(A: Any, count: int, seed: int = 0) -> relax.Batch:
    """Return a batch with the pattern of A and other values, equally diagonally dominant."""
    factors = np.random.default_rng(seed).uniform(0.5, 1.0, (count, A.nnz))
    row = np.repeat(np.arange(A.shape[0]), np.diff(A.indptr))
    values = A.data * np.where(row == A.indices, 1.0, factors)
    return relax.Batch(A, values.astype(A.dtype))


def order_for(order: str, n: int) -> Any:
    return np.random.default_rng(n).permutation(n) if order == "array" else order


def rows_in(order: Any, A: Array) -> list[int]:
    """Return the sequence of rows of an order, from the specification."""
    n = len(A)
    if isinstance(order, np.ndarray):
        return [int(i) for i in order]
    if order == "natural":
        return list(range(n))
    if order == "cluster":
        size = int(np.clip(n // 32, 1, 256))
        cluster = np.arange(n) // size
        linked = np.zeros((cluster[-1] + 1,) * 2 if n else (0, 0))
        i, j = np.nonzero(A)
        linked[cluster[i], cluster[j]] = 1
        clusters = reference.order_of(reference.first_fit(linked))
        return [i for c in clusters for i in range(c * size, min(n, (c + 1) * size))]
    return reference.order_of(reference.first_fit(A, red_black=order == "red-black"))


def tolerance(dtype: Any, n: int) -> float:
    return 40 * float(np.finfo(dtype).eps) * (4 + n**0.5)


def attempt(solve: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a solver that may end without convergence, and check that it warns exactly if it does."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = solve(*args, **options)
    ended = found.reason if isinstance(found.reason, tuple) else (found.reason,)
    expected = [] if {*ended} <= {"converged", "callback"} else [fastiter.ConvergenceWarning]
    assert [warning.category for warning in caught] == expected, list(map(str, caught))
    return found
