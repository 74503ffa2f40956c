"""Sweeps of fastiter.relax.compat over matrices with zeros on the diagonal: such rows are skipped, as in PyAMG."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .._solvers.relaxation import Relaxation
from .._sweeps.matrix import Csr, read_csr
from .._sweeps.scaled import powers_of_two
from ._cache import CachedMatrix
from ._schwarz import diagonal_of

Array = npt.NDArray[Any]


class _Rows:
    """The part of a sparse matrix's interface that :class:`Relaxation` uses."""

    format = "csr"

    def __init__(self, A: Csr) -> None:
        self.indptr, self.indices, self.data = A.start, A.column, A.value
        self.shape, self.dtype = (A.n, A.columns), A.value.dtype

    def tocsr(self) -> _Rows:
        """Return itself."""
        return self


def relaxation_of(
    cached: CachedMatrix, method: str, options: dict[str, Any], other: Any = None
) -> tuple[Relaxation, Array] | None:
    """Return a relaxation of A, or of another matrix, and the skipped rows; None if a diagonal block is singular."""
    A = cached.wide() if other is None else other
    try:
        return Relaxation._of(cached.function, A, method, **options), np.empty(0, np.int64)
    except ValueError as error:
        if not isinstance(error.__context__, ZeroDivisionError):
            raise
    if "block_size" in options:
        return None
    csr = read_csr(cached.function, A)
    left_out = np.flatnonzero(diagonal_of(csr) == 0)
    return Relaxation._of(cached.function, _Rows(_without(csr, left_out)), method, **options), left_out


def _without(A: Csr, rows: Array) -> Csr:
    """Return A with these equations replaced by x_i = b_i."""
    row = np.repeat(np.arange(A.n), np.diff(A.start))
    stays = ~np.isin(row, rows)
    row, column = np.concatenate([row[stays], rows]), np.concatenate([A.column[stays], rows])
    value = np.concatenate([A.value[stays], np.ones(len(rows), A.value.dtype)])
    places = np.lexsort((column, row))
    start = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(row, minlength=A.n))])
    return Csr(A.columns, start, column[places].astype(np.int32), value[places])


def with_rows_left_out(
    relaxation: Relaxation, left_out: Array, x: Array, b: Array, sweeps: int, *, backward: bool
) -> None:
    """Sweep, on checked arrays in the layout of the kernels, with x_i unchanged in the skipped rows."""
    own, values = b.copy(), x[left_out]
    own[left_out] = values
    relaxation._sweep(x, sweeps, own, backward)
    x[left_out] = values  # omega x + (1 - omega) x may differ in its last digit


def squares_of(A: Any, axis: int) -> Array:
    """Return the squared norm of each row (axis 1) or column (axis 0)."""
    A = summed(A)
    return np.asarray((abs(A) ** 2 if isinstance(A, np.ndarray) else abs(A).power(2)).sum(axis=axis)).ravel()


def summed(A: Any) -> Any:
    """Return A in a format with sums over rows and columns, without duplicates: scipy's abs() sums them in place."""
    if isinstance(A, np.ndarray):
        return A
    if A.format not in ("csr", "csc", "bsr"):
        A = A.tocsr()
    if A.has_canonical_format:
        return A
    A = A.copy()
    A.sum_duplicates()
    return A


def in_range(A: Any, axis: int) -> tuple[Any, Array]:
    """Return A with rows (axis 1) or columns scaled by powers of two if squares are out of range, and the scales."""
    A = summed(A)
    size = abs(A).max(axis=axis)
    largest = size if isinstance(A, np.ndarray) else size.toarray().ravel()
    scale = powers_of_two(largest, largest.dtype.name)
    if scale is None:
        return A, np.ones(len(largest), largest.dtype)
    scale = scale.astype(largest.dtype)
    factor = scale[:, None] if axis == 1 else scale[None, :]
    return (A * factor if isinstance(A, np.ndarray) else A.multiply(factor).tocsr()), scale


def check_close(cached: CachedMatrix, Dinv: Array, squares: Array) -> None:
    """Refuse a Dinv that differs from 1 / squares."""
    if np.size(Dinv) != len(squares) or not np.allclose(np.ravel(Dinv) * squares, 1, rtol=1e-5, atol=1e-5):
        raise ValueError(f"{cached.function}: Dinv must be the inverse of the diagonal, got another")
