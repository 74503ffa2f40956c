"""Data matrices, dense or compressed, checked once, and their properties for the kernels and the bounds."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from .._array_like import as_array
from .._check import FLOATS, check_array, type_name

Array = npt.NDArray[Any]
MAX_SIZE = 2**31 - 1


class Entries(NamedTuple):
    """Compressed columns or rows for the kernels; ``starts`` is None for a dense matrix, which is stored by columns."""

    starts: Array | None = None
    indices: Array | None = None
    values: Array | None = None


class Data:
    """A matrix (n, m): column-major if dense, in compressed columns if sparse, on demand also in compressed rows.

    One that ``is_checked`` is finite and in an accepted dtype, and compressed columns if sparse; it is not copied
    unless it must be.
    """

    def __init__(
        self, function: str, name: str, A: Any, scale: Array | None = None, *, is_checked: bool = False
    ) -> None:
        if is_checked:
            self.sparse: Any = _canonical(A, copy=scale is not None) if is_sparse(A) else None
        else:
            self.sparse = _checked_sparse(function, name, A)
        dense = None if self.sparse is not None else A if is_checked else _checked_dense(function, name, A)
        self.shape: tuple[int, int] = A.shape if dense is None else dense.shape
        self.dtype: np.dtype[Any] = A.dtype if dense is None else dense.dtype
        if max(self.shape) > MAX_SIZE:
            raise ValueError(f"{function}: {name} must have at most {MAX_SIZE} rows and columns, got {self.shape}")
        if dense is not None:
            if scale is not None:
                dense = dense * scale[:, None].astype(dense.dtype)
            self.dense: Array | None = np.asfortranarray(dense)
            self._columns = Entries(values=self.dense)
        else:
            self.dense = None
            if scale is not None:
                self.sparse.data *= scale.astype(self.dtype)[self.sparse.indices]
            self._columns = entries_of(self.sparse)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy: the arrays, from which it creates its own matrix."""
        return {name: value for name, value in self.__dict__.items() if not name.startswith("matrix")}

    @cached_property
    def matrix(self) -> Any:
        """The matrix of the compiled module, which borrows the arrays stored here."""
        return _core.bcd.matrix(self.dtype.itemsize * 8, *self.shape, self._columns, Entries())

    @cached_property
    def matrix_with_rows(self) -> Any:
        """The same, with the rows of sparse data, which are needed to maintain a gradient."""
        if self.sparse is None:
            return self.matrix
        return _core.bcd.matrix(self.dtype.itemsize * 8, *self.shape, self._columns, entries_of(self.sparse.tocsr()))

    def check_scale(self, function: str) -> None:
        """Refuse a nonzero matrix the squares of whose columns all underflow to 0, as gradients would, too."""
        largest_square = float(self.own_squares.max(initial=0.0))
        if largest_square >= np.finfo(np.float64).tiny:
            return
        entries: Any = self.dense if self.sparse is None else self.sparse.data
        largest = float(np.abs(entries).max(initial=0.0))
        if largest > 0:
            expected = "a column whose squares sum to at least 2.3e-308 (multiply A and b by one power of 2)"
            raise ValueError(f"{function}: A must have {expected}, got entries up to {largest:.2g}")

    def columns(self, chosen: Any) -> Array:
        """Return some columns as a dense float64 array."""
        part = self.dense[:, chosen] if self.sparse is None else self.sparse[:, chosen].toarray()  # type: ignore[index]
        return np.asarray(part, np.float64)

    @cached_property
    def own_squares(self) -> Array:
        """The sums of squares of each column."""
        return self.squares()

    def squares(self, weights: Array | None = None) -> Array:
        """Return the sums of squares of each column, with weights of the rows; infinite if they overflow."""
        out = np.empty(self.shape[1])
        self.matrix.squares(np.ones(self.shape[0]) if weights is None else weights, out)
        return out

    def magnitude_sums(self, weights: Array | None = None) -> Array:
        """Return |A|' W |A| 1, which bounds the sums of magnitudes of the rows of A' W A."""
        m = self.shape[1]
        size = abs(self.sparse) if self.sparse is not None else np.abs(self.dense)  # type: ignore[arg-type]
        ahead = np.asarray(size @ np.ones(m))
        return np.asarray(size.T @ (ahead if weights is None else weights * ahead), np.float64)

    def transposed_product(self, u: Array) -> Array:
        """Return A' u."""
        out = np.zeros(self.shape[1])
        self.matrix.products(np.ascontiguousarray(u, np.float64), out)
        return out


def entries_of(A: Any) -> Entries:
    """Return the arrays of a compressed matrix in the kernels' form."""
    start, index = A.indptr.astype(np.int64, copy=False), A.indices.astype(np.int32, copy=False)
    return Entries(np.ascontiguousarray(start), np.ascontiguousarray(index), np.ascontiguousarray(A.data))


def is_sparse(A: object) -> bool:
    """Return whether ``A`` is a scipy sparse matrix or array, without importing scipy."""
    return hasattr(A, "tocsc") and hasattr(A, "format") and hasattr(A, "shape")


def _checked_dense(function: str, name: str, A: Any) -> Array:
    A = as_array(function, name, A)
    if not isinstance(A, np.ndarray):
        remedy = "; fastiter.torch has functions for tensors" if type(A).__module__.startswith("torch") else ""
        expected = "a NumPy array or a sparse matrix in CSR or CSC"
        raise TypeError(f"{function}: {name} must be {expected}, got {type_name(A)}{remedy}")
    check_array(function, name, A)
    if A.ndim != 2:
        raise ValueError(f"{function}: {name} must have shape (n, m), got {A.shape}")
    if not np.isfinite(A).all():
        raise ValueError(f"{function}: {name} must be finite, got NaN or infinity")
    return A


def _checked_sparse(function: str, name: str, A: Any) -> Any:
    """Return a sparse matrix as sorted compressed columns without duplicates, None for anything else."""
    if not is_sparse(A):
        return None
    if A.format not in ("csr", "csc"):
        raise TypeError(f"{function}: {name} must be CSR or CSC (its tocsr() is), got a sparse matrix in {A.format}")
    check_pattern(function, name, A)
    if A.dtype.name not in FLOATS or not A.dtype.isnative:
        raise TypeError(f"{function}: {name} must be a sparse matrix of float32 or float64, got dtype {A.dtype}")
    if not np.isfinite(A.data).all():
        raise ValueError(f"{function}: {name} must be finite, got NaN or infinity")
    return _canonical(A.tocsc(copy=True))


def _canonical(A: Any, copy: bool = False) -> Any:
    """Return compressed columns in order and without duplicates; the given ones do not change if they must."""
    if copy or not A.has_canonical_format:
        A = A.copy()
    A.sum_duplicates()
    return A


def check_pattern(function: str, name: str, A: Any) -> None:
    """Refuse a sparse matrix whose indices lead outside its arrays or its shape, which conversions do not notice."""
    if len(A.shape) != 2:
        raise ValueError(f"{function}: {name} must have shape (n, m), got {A.shape}")
    if A.format in ("csr", "csc", "bsr"):
        sides = A.blocksize if A.format == "bsr" else (1, 1)
        lines, ends = (length // side for length, side in zip(A.shape, sides, strict=True))
        if A.format == "csc":
            lines, ends = ends, lines
        start, index = A.indptr, A.indices
        fits = len(start) == lines + 1 and len(index) == len(A.data) and start[0] == 0 and start[-1] <= len(index)
        fits = fits and (np.diff(start) >= 0).all() and _is_within(index, ends)
    elif A.format == "coo":
        fits = all(
            len(index) == len(A.data) and _is_within(index, length)
            for index, length in zip((A.row, A.col), A.shape, strict=True)
        )
    else:
        return
    if not fits:
        raise ValueError(f"{function}: {name} must have a pattern inside its arrays and its shape, got one that is not")


def _is_within(index: Array, length: int) -> bool:
    return bool(index.min(initial=0) >= 0 and index.max(initial=-1) < length)
