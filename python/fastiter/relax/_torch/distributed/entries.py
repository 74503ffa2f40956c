"""Rows of a sparse matrix as lists of entries, and the ownership of rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...._check import count, integers, type_name
from ...._torch.ops import check_tensors
from ..._sweeps.matrix import MAX_ROWS, is_sparse, read_csr
from ..arguments import checked_parts
from ..tensors import check_finite, check_matrix, rows_of

Array = npt.NDArray[Any]
DTYPES = (torch.float32, torch.float64)
_OTHERS = ", a SciPy matrix or (crow, col, values)"


class Entries(NamedTuple):
    """Rows in CSR: pointers (rows + 1,), global columns (entries,) and values, which may require a gradient.

    ``columns`` is the number of columns, None if A does not have it; ``given`` is the caller's tensor from which the
    values were taken, if any.
    """

    columns: int | None
    start: Array
    column: Array
    values: Tensor
    source: Tensor | None = None

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.start) - 1

    def of(self, rows: Array) -> Entries:
        """Return some of the rows."""
        counts = np.diff(self.start)[rows]
        start = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        places = np.repeat(self.start[rows] - start[:-1], counts) + np.arange(start[-1])
        return Entries(self.columns, start, self.column[places], self.values[torch.from_numpy(places)], self.source)


def read_entries(function: str, A: Any) -> Entries:
    """Check a matrix and return its entries."""
    columns: int | None = None
    if is_sparse(A):
        csr = read_csr(function, A)
        columns, start, column, values = csr.columns, csr.start, csr.column, torch.from_numpy(csr.value)
    else:
        if isinstance(A, (tuple, list)):
            crow, col, values = checked_parts(function, A)
        else:
            check_matrix(function, A, _OTHERS)
            if A.dim() != 2:
                raise ValueError(f"{function}: A must have shape (rows, n), got {tuple(A.shape)}")
            columns = A.shape[1]
            crow, col, values = rows_of(A)
        start, column = (np.array(x.numpy(), np.int64) for x in (crow, col))
    check_tensors(function, ("A",), (values,), DTYPES)
    if start[0] != 0 or start[-1] != len(column) or (np.diff(start) < 0).any():
        raise ValueError(f"{function}: A must have pointers that increase from 0 to {len(column)}, got others")
    check_finite(function, "A", values.detach())
    result = Entries(columns, start, column.astype(np.int64, copy=False), values, None if is_sparse(A) else values)
    check_columns(function, result, MAX_ROWS if columns is None else columns)
    return result


def version_of(A: Entries) -> int:
    """Return how often the given values have been written to; 0 if torch does not count."""
    return 0 if A.source is None or A.source.is_inference() else int(A.source._version)


def check_columns(function: str, A: Entries, n: int) -> None:
    """Refuse columns outside a matrix with n rows and columns."""
    if A.columns not in (None, n):
        raise ValueError(f"{function}: A must have {n} columns, as many as all ranks have rows, got {A.columns}")
    wrong = (A.column < 0) | (A.column >= n)
    if wrong.any():
        place = int(np.argmax(wrong))
        row = int(np.searchsorted(A.start, place, side="right") - 1)
        raise ValueError(f"{function}: A must have columns from 0 to {n - 1}, got {A.column[place]} in row {row}")


class Ownership:
    """The part of each row, and a numbering of the rows in which the rows of a part are consecutive.

    Attributes
    ----------
    parts : int
        The number P of parts.
    offsets : (P + 1,)
        The first number of each part, and n.
    place : (n,), optional
        The number of each row; None if it is the row's index.
    """

    def __init__(self, parts: int, offsets: Array, place: Array | None = None) -> None:
        self.parts, self.offsets, self.place = parts, offsets, place

    @property
    def n(self) -> int:
        """The number of rows."""
        return int(self.offsets[-1])

    @staticmethod
    def of_offsets(function: str, offsets: Any) -> Ownership:
        """Return parts of consecutive rows."""
        result = integers(function, "offsets", offsets)
        if result.ndim != 1 or len(result) < 2:
            raise ValueError(f"{function}: offsets must have shape (parts + 1,) with a part, got {result.shape}")
        if result[0] != 0 or (np.diff(result) < 0).any():
            raise ValueError(f"{function}: offsets must increase from 0 to the number of rows, got others")
        if result[-1] > MAX_ROWS:
            raise ValueError(f"{function}: A must have at most {MAX_ROWS} rows, got {result[-1]}")
        return Ownership(len(result) - 1, result)

    @staticmethod
    def of_owner(function: str, owner: Any, parts: object) -> Ownership:
        """Return the parts that own each row; within a part, the rows keep their order."""
        owner = integers(function, "owner", owner.numpy() if isinstance(owner, Tensor) else owner)
        if owner.ndim != 1 or len(owner) > MAX_ROWS:
            raise ValueError(f"{function}: owner must have shape (n,), got {owner.shape}")
        highest = int(owner.max(initial=0)) + 1
        number = highest if parts is None else count(function, "parts", parts, 1)
        if len(owner) and (highest > number or owner.min() < 0):
            wrong = highest - 1 if highest > number else int(owner.min())
            raise ValueError(f"{function}: owner must have parts from 0 to {number - 1}, got {wrong}")
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(owner, minlength=number))])
        if (np.diff(owner) >= 0).all():
            return Ownership(number, offsets)
        place = np.empty(len(owner), np.int64)
        place[np.argsort(owner, kind="stable")] = np.arange(len(owner))
        return Ownership(number, offsets, place)

    def parts_of(self, rank: int, size: int) -> range:
        """Return the parts of a rank: contiguous blocks of parts."""
        return range(self.parts * rank // size, self.parts * (rank + 1) // size)

    def rows_of(self, parts: range) -> Array:
        """Return the rows of consecutive parts, in the order of their numbers."""
        first, last = self.offsets[parts.start], self.offsets[parts.stop]
        if self.place is None:
            return np.arange(first, last)
        rows = np.flatnonzero((self.place >= first) & (self.place < last))
        return rows[np.argsort(self.place[rows])]

    def number(self, rows: Array) -> Array:
        """Return the numbers of rows."""
        return rows if self.place is None else self.place[rows]


def checked_ownership(function: str, owner: Any, offsets: Any, parts: object) -> Ownership | None:
    """Return the ownership from the arguments; None if each rank has one part of consecutive rows."""
    if owner is not None and offsets is not None:
        raise ValueError(f"{function}: owner must be None if offsets are given, got both")
    if owner is not None:
        if isinstance(owner, Tensor) and not owner.is_cpu:
            raise TypeError(f"{function}: owner must be on the CPU, got device {owner.device}")
        return Ownership.of_owner(function, owner, parts)
    if parts is not None:
        raise ValueError(f"{function}: parts must be None if no owner is given, got {type_name(parts)} {parts}")
    if isinstance(offsets, Tensor):
        offsets = offsets.numpy()
    return None if offsets is None else Ownership.of_offsets(function, offsets)
