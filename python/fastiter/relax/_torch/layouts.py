"""Layouts of sparse matrices for kernels/relax/sweeps.cu: slices of rows (SELL), and block rows (BSR)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from .._sweeps.matrix import Blocks, Csr
from .._sweeps.order import Arrangement

Array = npt.NDArray[Any]

WARP = 32
#: Entries per lane: rows with more are shared by several lanes
_ENTRIES = 16
#: Sorting window (sigma): rows of very different lengths are sorted within windows of this many rows, which keeps
#: locality
_WINDOW = 4096


@dataclass(frozen=True)
class Slices:
    """Rows in slices as kernels/relax/sweeps.cu describes them, with the caller's entry number at each place.

    order: the caller's row of each row here, None if they are the same. entry, diagonal (n, d): numbers of the
    caller's entries, -1 for padding. colours: the first slice of each colour, and the end.
    """

    n: int
    order: Array | None
    slice_row: Array
    slice_entry: Array
    column: Array
    entry: Array
    diagonal: Array
    colours: Array


def slices_of(start: Array, column: Array, arrangement: Arrangement, *, jacobi: bool) -> Slices:
    """Lay out a pattern of entries; within a colour, rows are in the CPU's order unless sorted by length."""
    n = len(start) - 1
    row = np.repeat(np.arange(n), np.diff(start))
    off = np.flatnonzero(row != column)
    length = np.bincount(row[off], minlength=n)
    is_natural = jacobi or isinstance(arrangement.order, int)
    order = np.arange(n) if is_natural else np.asarray(arrangement.order, np.int64)
    bounds = np.array([0, n]) if is_natural else np.asarray(arrangement.colours, np.int64)
    order, slice_row, colours = _cut(order, length, bounds)
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    return Slices(
        n,
        None if np.array_equal(order, np.arange(n)) else order,
        slice_row.astype(np.int32),
        *_entries(place[row[off]], place[column[off]], off, slice_row),
        _diagonal(place, row, column, n),
        colours,
    )


def _cut(order: Array, length: Array, bounds: Array) -> tuple[Array, Array, Array]:
    """Return the row order, the first row of each slice and the end, and the first slice of each colour and the end."""
    order, firsts, colours = order.copy(), [np.zeros(0, np.int64)], [0]
    for first, last in pairwise(bounds):
        rows = order[first:last]
        lanes = _lanes(length[rows].max(initial=0, keepdims=True))
        if lanes[0] > 2 or _padded(length[rows]) > 1.25 * length[rows].sum() + 64:
            window = np.arange(len(rows)) // _WINDOW
            rows = rows[np.lexsort((-length[rows], window))]
            order[first:last], lanes = rows, _lanes(length[rows])
        lanes = np.broadcast_to(lanes, rows.shape)
        runs = np.flatnonzero(np.diff(lanes, prepend=-1, append=-1) != 0)  # starts of runs of equal lanes, and the end
        parts = [np.arange(i, j, WARP // int(lanes[i])) for i, j in pairwise(runs)]
        firsts += [first + part for part in parts]
        colours.append(colours[-1] + sum(map(len, parts)))
    return order, np.concatenate([*firsts, bounds[-1:]]), np.array(colours, np.int64)


def _lanes(length: Array) -> Array:
    """Return the number of lanes that share a row of this length: 1, 2, 4, ... 32."""
    wanted = np.maximum(1, -(-length // _ENTRIES))
    result: Array = np.minimum(WARP, 2 ** np.ceil(np.log2(wanted)).astype(np.int64))
    return result


def _padded(length: Array) -> int:
    filled = np.concatenate([length, np.zeros(-len(length) % WARP, length.dtype)])
    return int(filled.reshape(-1, WARP).max(axis=1, initial=0).sum()) * WARP


def _entries(row: Array, column: Array, number: Array, slice_row: Array) -> tuple[Array, Array, Array]:
    """Return slice_entry, and the column and number of the entry at each place; rows and columns are permuted."""
    by_row = np.lexsort((column, row))
    row, column, number = row[by_row], column[by_row], number[by_row]
    n, sizes = int(slice_row[-1]), np.diff(slice_row)
    lanes = 2 ** np.floor(np.log2(WARP / np.maximum(sizes, 1))).astype(np.int64)
    slice_of, length = np.repeat(np.arange(len(sizes)), sizes), np.bincount(row, minlength=n)
    steps = -(-length // lanes[slice_of])
    longest = np.maximum.reduceat(steps, slice_row[:-1]) if n else steps
    begin = np.concatenate([np.zeros(1, np.int64), np.cumsum(longest)])
    first = np.concatenate([np.zeros(1, np.int64), np.cumsum(length)])
    # Padding refers to a column that its row reads anyway.
    spare = np.arange(n)
    spare[length > 0] = column[first[:-1][length > 0]]
    of_step = np.repeat(np.arange(len(sizes)), longest)[:, None]
    lane_row = np.minimum(np.arange(WARP) // lanes[of_step], sizes[of_step] - 1) + slice_row[of_step]
    columns, numbers = spare[lane_row].reshape(-1), np.full(int(begin[-1]) * WARP, -1, np.int64)
    s, j = slice_of[row], np.arange(len(row)) - first[row]
    at = (begin[s] + j // lanes[s]) * WARP + (row - slice_row[s]) * lanes[s] + j % lanes[s]
    columns[at], numbers[at] = column, number
    return begin * WARP, columns.astype(np.int32), numbers


def _diagonal(place: Array, row: Array, column: Array, n: int) -> Array:
    """Return the numbers of each row's diagonal entries, as duplicates are allowed, padded with -1."""
    number = np.flatnonzero(row == column)
    at = place[row[number]]
    by_row = np.argsort(at, kind="stable")
    number, at = number[by_row], at[by_row]
    count = np.bincount(at, minlength=n)
    result = np.full((n, max(1, int(count.max(initial=0)))), -1, np.int64)
    first = np.cumsum(count) - count
    result[at, np.arange(len(at)) - first[at]] = number
    return result


@dataclass(frozen=True)
class BlockRows:
    """Block rows as kernels/relax/sweeps.cu describes them.

    order: the caller's row of each row of own vectors; padding rows have numbers from `rows` on. None: the same order.
    """

    n: int
    size: int
    rows: int
    order: Array | None
    start: Array
    column: Array
    value: Array
    diagonal: Array
    inverse: Array
    colours: Array


def block_rows_of(A: Blocks, arrangement: Arrangement) -> BlockRows:
    """Lay out a block sparse matrix whose diagonal blocks are known to be invertible."""
    n, size = A.n, A.size
    order = np.arange(n) if isinstance(arrangement.order, int) else np.asarray(arrangement.order, np.int64)
    colours = np.array([0, n]) if isinstance(arrangement.order, int) else np.asarray(arrangement.colours, np.int64)
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    row = place[np.repeat(np.arange(n), np.diff(A.start))]
    column = place[A.column]
    by_row = np.lexsort((column, row))
    is_diagonal = row[by_row] == column[by_row]
    off, on = by_row[~is_diagonal], by_row[is_diagonal]
    start = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(row[off], minlength=n))])
    wide = np.complex128 if A.value.dtype.kind == "c" else np.float64
    inverse = np.linalg.inv(A.value[on].astype(wide))
    value, diagonal, inverse = (
        np.ascontiguousarray(x.transpose(0, 2, 1)) for x in (A.value[off], A.value[on], inverse)
    )
    is_same = np.array_equal(order, np.arange(n)) and A.rows == n * size
    rows = None if is_same else (order[:, None] * size + np.arange(size)).reshape(-1)
    return BlockRows(n, size, A.rows, rows, start, column[off].astype(np.int32), value, diagonal, inverse, colours)


@dataclass(frozen=True)
class ProjectionRows:
    """Rows in slices, as kaczmarz.cu describes them; row, inverse (n): the caller's row, and 1 / |a_i|^2."""

    slice_row: Array
    slice_entry: Array
    column: Array
    value: Array
    row: Array
    inverse: Array
    colours: Array


def projections_of(A: Csr, arrangement: Arrangement) -> ProjectionRows:
    """Lay out the rows of a matrix by colours; an empty or zero row has the inverse 0."""
    length, row = np.diff(A.start), np.repeat(np.arange(A.n), np.diff(A.start))
    order, slice_row, colours = _cut(
        np.asarray(arrangement.order, np.int64), length, np.asarray(arrangement.colours, np.int64)
    )
    place = np.empty(A.n, np.int64)
    place[order] = np.arange(A.n)
    slice_entry, column, number = _entries(place[row], A.column, np.arange(len(row)), slice_row)
    column[number < 0] = -1
    value = np.append(A.value, A.value.dtype.type(0))[number]
    wide = A.value.astype(np.complex128)
    squares = np.bincount(row, wide.real**2 + wide.imag**2, minlength=A.n)[order]
    inverse = np.divide(1.0, squares, out=np.zeros(A.n), where=squares > 0)
    return ProjectionRows(
        slice_row.astype(np.int32), slice_entry, column, value, order.astype(np.int32), inverse, colours
    )
