"""The parts of a rank's rows: the square block of each part, and the entries that read values of other parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .... import _core
from ..._sweeps.matrix import NUMBERS, Csr
from ..._sweeps.prepare import FULL
from .entries import Entries, Ownership

Array = npt.NDArray[Any]


class Part(NamedTuple):
    """A part: rows ``first`` to ``last`` of the rank.

    Attributes
    ----------
    number : int
        Its number among all parts.
    own : Csr
        The entries (m, m) between its own rows.
    entry : (entries of own,)
        Their indices among the entries of the rank, in the caller's order.
    border : (B,)
        Its rows that read values of other parts, counted from its first row.
    ghost : Csr
        These entries (B, G), whose columns are indices into ``reads``.
    reads : (G,)
        The values that they read, by increasing number: r < n_local is row r of the rank, any other r is
        ghost r - n_local.
    near : slice
        The range of ``reads`` that are rows of the rank; those before and after it are ghosts.
    """

    number: int
    first: int
    last: int
    own: Csr
    entry: Array
    border: Array
    ghost: Csr
    reads: Array
    near: slice


class Local(NamedTuple):
    """The parts of a rank, and the numbers of its ghosts, in increasing order."""

    parts: list[Part]
    ghosts: Array


def divide(function: str, A: Entries, ownership: Ownership, mine: range) -> Local:
    """Divide a rank's rows into its parts; refuse zeros on the diagonal and duplicate entries."""
    first = int(ownership.offsets[mine.start])
    last = int(ownership.offsets[mine.stop])
    row = np.repeat(np.arange(A.rows), np.diff(A.start))
    column = ownership.number(A.column)
    key = row * ownership.n + column
    order = np.arange(len(key))
    if (np.diff(key) <= 0).any():
        order = np.argsort(key, kind="stable")
        key, row, column = key[order], row[order], column[order]
        twice = np.diff(key) == 0
        if twice.any():
            place = int(order[int(np.argmax(twice))])
            raise ValueError(f"{function}: A must have each entry once, got two in column {A.column[place]} of a row")
    value = A.values.detach().numpy()[order]
    is_whole = np.zeros(A.rows, bool)
    is_whole[row[(column == row + first) & (value != 0)]] = True
    if not is_whole.all():
        wrong = int(ownership.rows_of(mine)[int(np.argmin(is_whole))])
        raise ValueError(f"{function}: A must have no zero on the diagonal, got 0 in row {wrong}")
    far = (column < first) | (column >= last)
    ghosts = np.unique(column[far])
    parts = []
    for number in mine:
        start, stop = (int(ownership.offsets[p]) for p in (number, number + 1))
        taken = slice(A.start[start - first], A.start[stop - first])
        listed = row[taken] - (start - first), column[taken], value[taken], order[taken]
        parts.append(_part(number, (start, stop), (first, last), listed, ghosts))
    return Local(parts, ghosts)


def _part(
    number: int, own: tuple[int, int], rank: tuple[int, int], entries: tuple[Array, Array, Array, Array], ghosts: Array
) -> Part:
    """Return a part from the ranges of its own and of the rank's numbers, and its rows, columns, values and places."""
    row, column, value, place = entries
    size = own[1] - own[0]
    inside = (column >= own[0]) & (column < own[1])
    square = csr_of(size, size, row[inside], column[inside] - own[0], value[inside])
    read, at = np.unique(column[~inside], return_inverse=True)
    border, line = np.unique(row[~inside], return_inverse=True)
    ghost = csr_of(len(border), len(read), line, at, value[~inside])
    near = slice(*(int(end) for end in np.searchsorted(read, rank)))
    reads = np.where((read >= rank[0]) & (read < rank[1]), read - rank[0], 0)
    far = np.ones(len(read), bool)
    far[near] = False
    reads[far] = rank[1] - rank[0] + np.searchsorted(ghosts, read[far])
    first = own[0] - rank[0]
    return Part(number, first, first + size, square, place[inside], border, ghost, reads, near)


def csr_of(rows: int, columns: int, row: Array, column: Array, value: Array) -> Csr:
    """Return entries, sorted by row and column, in compressed rows."""
    start = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(row, minlength=rows))])
    return Csr(columns, start, column.astype(np.int32), np.ascontiguousarray(value))


class Product:
    """r = b - A x for the rows of a rank, part by part: the same bits for any division of the parts among ranks."""

    def __init__(self, parts: Sequence[Part], dtype: np.dtype[Any]) -> None:
        self.parts = parts
        self._own, self._ghost = [], []
        numbers = NUMBERS[dtype.name, dtype.name]
        for part in parts:
            A, G = part.own, part.ghost
            square = _core.relax.sell(numbers, A.n, A.start, A.column, A.value, 0, 0, FULL) if A.n else None
            far = _core.relax.kaczmarz(numbers, G.n, G.columns, G.start, G.column, G.value, 0, 0) if G.n else None
            self._own.append(square)
            self._ghost.append(far)

    def inside(self, x: Array, b: Array, r: Array) -> None:
        """Write b minus the products with each part's own values to r; all arrays are contiguous (n_local, k)."""
        k = x.shape[1]
        norms = np.empty(k)
        for part, own in zip(self.parts, self._own, strict=True):
            rows = slice(part.first, part.last)
            if own is not None and k:
                own.residual(x[rows], b[rows], r[rows], k, norms)

    def subtract_border(self, x: Array, ghosts: Array, r: Array) -> None:
        """Subtract the products with the values of other parts from r."""
        k = x.shape[1]
        norms = np.empty(k)
        for part, ghost in zip(self.parts, self._ghost, strict=True):
            if ghost is None or not k:
                continue
            rows = part.border + part.first
            left = np.empty((len(rows), k), r.dtype)
            ghost.residual(read_by(part, x, ghosts), r[rows], left, k, norms)
            r[rows] = left


def read_by(part: Part, x: Array, ghosts: Array) -> Array:
    """Return the values of other parts (G, k) that a part reads, from its rank's values and ghosts."""
    near, reads = part.near, part.reads
    if near.start == near.stop and len(reads) == len(ghosts):
        return ghosts  # the rank has a single part
    result = np.empty((len(reads), x.shape[1]), x.dtype)
    result[near] = x[reads[near]]
    for far in (slice(0, near.start), slice(near.stop, len(reads))):
        result[far] = ghosts[reads[far] - len(x)]
    return result
