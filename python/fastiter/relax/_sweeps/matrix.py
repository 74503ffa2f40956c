"""Validated input matrices: compressed rows (CSR), blocks (BSR), dense, or a batch with one sparsity pattern."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from ... import _core
from ..._array_like import as_array
from ..._check import check_array, type_name

Array = npt.NDArray[Any]
DTYPES = ("float32", "float64", "complex128")
MAX_ROWS = 2**31 - 1

#: The kernels' code for the dtypes of a matrix and of vectors
NUMBERS = {
    ("float32", "float32"): 0,
    ("float32", "float64"): 1,
    ("float64", "float64"): 2,
    ("complex128", "complex128"): 3,
}
#: The dtypes of vectors for each dtype of a matrix
VECTORS = {matrix: [vectors for of, vectors in NUMBERS if of == matrix] for matrix in DTYPES}

#: The faults that _core.relax.check reports
_UNSORTED, _POINTERS, _COLUMN, _NOT_FINITE = 1, 2, 3, 4


@dataclass(frozen=True)
class Csr:
    """A sparse matrix in CSR, columns increasing; `value` is (entries,), or (batch, entries)."""

    columns: int
    start: Array
    column: Array
    value: Array

    @property
    def n(self) -> int:
        return len(self.start) - 1

    @property
    def batch(self) -> int:
        return len(self.value) if self.value.ndim == 2 else 0


@dataclass(frozen=True)
class Blocks:
    """BSR, a Csr of size x size blocks: `value` is ([batch,] entries, size, size). Rows >= `rows` are padding."""

    rows: int
    start: Array
    column: Array
    value: Array

    @property
    def n(self) -> int:
        return len(self.start) - 1

    @property
    def size(self) -> int:
        return int(self.value.shape[-1])

    @property
    def batch(self) -> int:
        return len(self.value) if self.value.ndim == 4 else 0


class Batch:
    """Matrices with one sparsity pattern and separate values.

    Parameters
    ----------
    pattern : (n, n) sparse matrix
        A sparse matrix (scipy.sparse) with n rows and columns; its values are ignored, but stored zeros are entries.
        The block size of a BSR matrix is the default of block methods.
    values : (B, entries)
        The values of each matrix, in the order of the entries of ``pattern`` in CSR.

    Raises
    ------
    TypeError
        If pattern is no sparse matrix, or values have another dtype.
    ValueError
        If values do not have a number for each entry of the pattern, or the pattern has indices out of its shape.

    See Also
    --------
    Relaxation : Prepares all its matrices at once.
    gauss_seidel : Solves all its systems; the other solvers do, too.

    Examples
    --------
    >>> import numpy as np, scipy.sparse
    >>> from fastiter.relax import Batch, gauss_seidel
    >>> pattern = scipy.sparse.csr_array(np.array([[1.0, 1.0], [0.0, 1.0]]))
    >>> systems = Batch(pattern, np.array([[2.0, 1.0, 1.0], [4.0, 2.0, 2.0]]))
    >>> gauss_seidel(systems, np.array([[3.0, 1.0], [4.0, 2.0]])).value
    array([[1. , 1. ], [0.5, 1. ]])
    """

    def __init__(self, pattern: Any, values: Array) -> None:
        values = as_array("Batch", "values", values)
        check_array("Batch", "values", values, DTYPES)
        if not is_sparse(pattern):
            raise TypeError(f"Batch: pattern must be a sparse matrix, got {type_name(pattern)}")
        self.blocksize: tuple[int, int] | None = pattern.blocksize if pattern.format == "bsr" else None
        check_pattern("Batch", "pattern", pattern)
        pattern = pattern if pattern.format == "csr" else to_rows("Batch", "pattern", pattern)
        entries = len(pattern.indices)
        if values.ndim != 2 or values.shape[1] != entries or len(values) == 0:
            expected = f"(B, entries) = (B, {entries}) with B at least 1"
            raise ValueError(f"Batch: values must have shape {expected}, got {values.shape}")
        self.shape: tuple[int, int] = pattern.shape
        self.values = values
        self.start, self.column = _indices("Batch", "pattern", pattern)

    def __repr__(self) -> str:
        """Return one line, without the arrays."""
        rows, columns = self.shape
        batch, entries = self.values.shape
        return f"Batch({batch} matrices, {rows} x {columns}, {entries} entries, {self.values.dtype})"


def refuse(function: str, A: object) -> NoReturn:
    """Refuse an A that is not a matrix, with a remedy if there is one."""
    remedy = ""
    if type(A).__module__.partition(".")[0] == "torch":
        remedy = "; fastiter.torch has these functions for tensors"
    elif hasattr(A, "to_numpy"):
        remedy = "; its to_numpy() is an array"
    elif hasattr(A, "matvec"):
        remedy = "; an operator has no entries"
    raise TypeError(f"{function}: A must be a sparse matrix, a NumPy array or a Batch, got {type_name(A)}{remedy}")


def is_sparse(A: object) -> bool:
    """Return whether ``A`` is a scipy sparse matrix or array, without importing scipy."""
    return hasattr(A, "tocsr") and hasattr(A, "format") and hasattr(A, "shape")


def _indices(function: str, name: str, A: Any) -> tuple[Array, Array]:
    """Return the pointers and indices of a compressed format; everything that depends on their lengths is checked."""
    for array in (A.indptr, A.indices):
        if array.ndim != 1 or array.dtype.kind not in "iu":
            got = f"dtype {array.dtype} and shape {array.shape}"
            raise ValueError(f"{function}: {name} must have lists of integers for its pattern, got {got}")
    if len(A.data) != len(A.indices):  # possible in a matrix whose arrays were set by hand
        got = f"{len(A.indices)} and {len(A.data)}"
        raise ValueError(f"{function}: {name} must have as many values as columns of entries, got {got}")
    if max(A.shape) > MAX_ROWS:
        raise ValueError(f"{function}: {name} must have at most {MAX_ROWS} rows and columns, got shape {A.shape}")
    lines = _lines(A)[0]
    if len(A.indptr) != lines + 1:
        raise ValueError(f"{function}: {name} must have {lines + 1} pointers to go with its shape, got {len(A.indptr)}")
    column = np.ascontiguousarray(A.indices, np.int32)
    if column.dtype != A.indices.dtype and not np.array_equal(column, A.indices):
        place = int(np.argmax(column != A.indices))
        row = int(np.searchsorted(A.indptr, place, side="right") - 1)
        of = "" if A.format == "csr" else " of blocks"
        raise ValueError(f"{function}: {name} must have columns below 2**31, got {A.indices[place]} in row {row}{of}")
    return np.ascontiguousarray(A.indptr, np.int64), column


def _lines(A: Any) -> tuple[int, int]:
    """Return the number of rows, columns or block rows of a compressed format, and the upper bound of its indices."""
    height, width = A.blocksize if A.format == "bsr" else (1, 1)
    rows, columns = A.shape[0] // max(height, 1), A.shape[1] // max(width, 1)
    return (columns, rows) if A.format == "csc" else (rows, columns)


def as_matrix(function: str, A: Any) -> Any:
    """Return nested lists of numbers as an array, anything else unchanged."""
    return as_array(function, "A", A) if isinstance(A, (list, tuple)) else A


def square(function: str, A: Any) -> Any:
    """Return a square matrix, as an array if it is a list; refuse anything else."""
    if isinstance(A, (list, tuple)):
        A = as_array(function, "A", A)
    if not is_sparse(A) and not isinstance(A, (Batch, np.ndarray)):
        refuse(function, A)
    if len(A.shape) != 2 or A.shape[0] != A.shape[1]:
        rows = f" (row {min(A.shape)} has no diagonal)" if len(A.shape) == 2 and A.shape[0] > A.shape[1] else ""
        raise ValueError(f"{function}: A must be square, got shape {tuple(A.shape)}{rows}")
    return A


def read_csr(function: str, A: Any) -> Csr:
    """Return ``A`` in CSR with increasing columns and finite values; only arrays that change are copied."""
    if isinstance(A, Batch):
        result = Csr(A.shape[1], A.start, A.column, np.ascontiguousarray(A.values))
    elif is_sparse(A):
        A = A if A.format == "csr" else to_rows(function, "A", A)
        result = Csr(A.shape[1], *_indices(function, "A", A), np.ascontiguousarray(A.data))
    else:
        check_array(function, "A", A, DTYPES)
        row, column = np.nonzero(A)
        counts = np.bincount(row, minlength=len(A))
        start = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        result = Csr(A.shape[1], start, column.astype(np.int32), np.ascontiguousarray(A[row, column]))
    return _checked(function, result)


def to_rows(function: str, name: str, A: Any) -> Any:
    """Return ``A`` of another sparse format in CSR, converted by scipy after a check of its pattern."""
    check_pattern(function, name, A)
    return A.tocsr()


def check_pattern(function: str, name: str, A: Any) -> None:
    """Refuse a pattern whose indices are out of bounds: scipy uses them as memory offsets unchecked."""
    if A.format in ("csr", "csc", "bsr"):
        start, index = _indices(function, name, A)
        lines, end = _lines(A)
        line = {"csr": "row", "csc": "column", "bsr": "row of blocks"}[A.format]
        fault, where = _core.relax.check(0, lines, end, len(index), start, index, np.ones(len(index), np.float32))
        _refuse(function, name, fault, f"{line} {where}", "rows" if A.format == "csc" else "columns", end)
    if A.format == "coo":
        lengths = {len(A.data), *map(len, A.coords)}
        if len(lengths) > 1:
            raise ValueError(f"{function}: {name} must have a row and a column for each value, got {sorted(lengths)}")
        for axis, index in enumerate(A.coords):
            if index.size and not 0 <= index.min() <= index.max() < A.shape[axis]:
                _refuse(
                    function, name, _COLUMN, f"entry {int(index.argmax())}", ("rows", "columns")[axis], A.shape[axis]
                )


def _refuse(function: str, name: str, fault: int, where: str, what: str, end: int) -> None:
    """Refuse a pattern with indices out of bounds."""
    if fault == _POINTERS:
        raise ValueError(f"{function}: {name} must have pointers that increase, got others at {where}")
    if fault == _COLUMN:
        raise ValueError(f"{function}: {name} must have {what} from 0 to {end - 1}, got another in {where}")


def _wrong_dtype(function: str, dtype: np.dtype[Any]) -> TypeError:
    """Return the error for a matrix of a dtype without kernels."""
    remedies = {"i": " (A.astype(float) is)", "u": " (A.astype(float) is)", "c": " (A.astype(complex) is)"}
    expected = f"float32, float64 or complex128{remedies.get(dtype.kind, '')}"
    return TypeError(f"{function}: A must be {expected}, got dtype {dtype}")


def _checked(function: str, A: Csr) -> Csr:
    dtype, batch, n = A.value.dtype, A.batch, A.n
    numbers = NUMBERS.get((dtype.name, dtype.name))
    if numbers is None or not dtype.isnative:
        raise _wrong_dtype(function, dtype)
    fault, row, system = 0, 0, 0
    for one, value in enumerate(A.value.reshape(max(batch, 1), -1)):
        worst, where = _core.relax.check(numbers, n, A.columns, len(A.column), A.start, A.column, value)
        if worst > fault:
            fault, row, system = worst, where, one
    if fault == _POINTERS:
        raise ValueError(f"{function}: A must have row pointers that increase, got others at row {row}")
    if fault == _COLUMN:
        raise ValueError(f"{function}: A must have columns from 0 to {A.columns - 1}, got another in row {row}")
    if fault == _NOT_FINITE:
        of = f" of system {system}" if batch else ""
        raise ValueError(f"{function}: A must be finite, got a value in row {row}{of} that is not")
    return _sorted(A) if fault == _UNSORTED else A


def _sorted(A: Csr) -> Csr:
    """The same with the columns of each row in order, and duplicate entries summed."""
    row = np.repeat(np.arange(A.n), np.diff(A.start))
    places = np.lexsort((A.column, row))
    row, column, value = row[places], A.column[places], A.value[..., places]
    is_first = np.ones(len(row), bool)
    is_first[1:] = (row[1:] != row[:-1]) | (column[1:] != column[:-1])
    firsts = np.flatnonzero(is_first)
    start = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(row[firsts], minlength=A.n))])
    value = np.ascontiguousarray(np.add.reduceat(value, firsts, axis=-1))
    return Csr(A.columns, start, np.ascontiguousarray(column[firsts]), value)


def read_blocks(function: str, A: Any, size: int | None) -> Blocks:
    """Return ``A`` in blocks of ``size`` rows; None: that of a BSR matrix. The last block may be padded."""
    if is_sparse(A) and A.format == "bsr" and A.blocksize[0] == A.blocksize[1] and size in (None, A.blocksize[0]):
        if A.dtype.name not in DTYPES or not A.dtype.isnative:
            raise _wrong_dtype(function, A.dtype)
        start, column = _indices(function, "A", A)
        value = np.ascontiguousarray(A.data)
        if not np.isfinite(value).all():
            block = int(np.argmin(np.isfinite(value).all(axis=(1, 2))))
            first = int(np.searchsorted(start, block, side="right") - 1) * value.shape[1]
            row = first + int(np.argmin(np.isfinite(value[block]).all(axis=1)))
            raise ValueError(f"{function}: A must be finite, got a value in row {row} that is not")
        ones = np.ones(len(column), np.float32)
        fault, _ = _core.relax.check(0, len(start) - 1, len(start) - 1, len(column), start, column, ones)
        if fault == 0:
            return Blocks(A.shape[0], start, column, value)
    return _in_blocks(read_csr(function, A), 1 if size is None else size)


Read = TypeVar("Read", Csr, Blocks)


def without_zeros(A: Read) -> Read:
    """Return one matrix without the stored entries, or blocks, that are 0."""
    holds = A.value != 0 if isinstance(A, Csr) else (A.value != 0).any(axis=(1, 2))
    if holds.all():
        return A
    row = np.repeat(np.arange(A.n), np.diff(A.start))[holds]
    start = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(row, minlength=A.n))])
    return replace(A, start=start, column=A.column[holds], value=A.value[holds])


def _in_blocks(A: Csr, size: int) -> Blocks:
    row, rows = np.repeat(np.arange(A.n), np.diff(A.start)), -(-A.n // size)
    column = A.column.astype(np.int64)
    keys, place = np.unique(row // size * rows + column // size, return_inverse=True)
    padding = np.arange(A.n, rows * size)
    value = np.zeros((*A.value.shape[:-1], len(keys), size, size), A.value.dtype)
    value[..., place, row % size, column % size] = A.value
    if len(padding) and len(keys) and keys[-1] == rows * rows - 1:
        # Scaled like the rest of the block, which would otherwise appear singular
        largest = np.abs(value[..., -1, :, :]).max(axis=(-2, -1))[..., np.newaxis]
        value[..., -1, padding % size, padding % size] = np.where(largest > 0, largest, 1)
    start = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(keys // rows, minlength=rows))])
    return Blocks(A.n, start, (keys % rows).astype(np.int32), value)
