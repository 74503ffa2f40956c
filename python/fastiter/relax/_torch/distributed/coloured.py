"""Coloured SOR: parts of one colour are not linked and are relaxed in parallel, each in the order of its rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .... import _core
from ..._sweeps.matrix import NUMBERS
from .matrix import RowMatrix
from .overlap import places
from .parts import Part, csr_of
from .preconditioners import Identity

Array = npt.NDArray[Any]


def colours_of(A: RowMatrix) -> Array:
    """Return the colour of each part, the smallest that no earlier part linked to it has: one round."""
    ownership, entries = A._ownership, A._entries
    part = np.searchsorted(ownership.offsets, ownership.number(entries.column), side="right") - 1
    is_entry = entries.values.detach().numpy() != 0
    own = np.zeros((len(A._parts), A.parts))
    for row, one in zip(own, A._parts, strict=True):
        taken = slice(entries.start[one.first], entries.start[one.last])
        row[part[taken][is_entry[taken]]] = 1
    linked = A._gathered(own) > 0
    linked |= linked.T
    colour = np.full(A.parts, -1)
    for number in range(A.parts):
        used = set(colour[:number][linked[number, :number]].tolist())
        colour[number] = next(c for c in range(A.parts) if c not in used)
    return colour


class Coloured:
    """x_i <- (1 - omega) x_i + omega (b_i - sum over j != i of a_ij x_j) / a_ii, colour after colour of the parts.

    Each colour takes one round of messages. A part's vector holds the rows that it reads from earlier colours, its own
    rows, and those that it reads from later colours, each sorted by colour and number, so that every sum has the same
    order as in a single process.
    """

    def __init__(self, A: RowMatrix, omega: float) -> None:
        self._A, self._omega = A, omega
        self.colour = colours_of(A)
        self.colours = int(self.colour.max(initial=-1)) + 1
        self._parts = [_ColouredPart(A, part, self.colour) for part in A._parts]
        self._exchange = [places(A, [one.of_colour(c) for one in self._parts]) for c in range(self.colours)]

    def begin(self, x: Array | None, shape: tuple[int, ...], dtype: Any) -> None:
        """Start from this rank's x (n_local, k), which is sent to all parts that read it, or from 0."""
        self._x = np.zeros(shape, dtype) if x is None else x
        for one in self._parts:
            one.vector = np.zeros((one.size, shape[1]), dtype)
            one.right = np.zeros((one.size, shape[1]), dtype)
        if x is not None:
            for one in self._parts:
                one.vector[one.own] = x[one.part.first : one.part.last]
            for colour in range(self.colours):
                self._send(colour)

    def right(self, b: Array) -> None:
        """Set the right-hand side (n_local, k)."""
        for one in self._parts:
            one.right[one.own] = b[one.part.first : one.part.last]

    def sweep(self, backward: bool = False, last: bool = False) -> None:
        """Relax all rows. ``last``: the last colour is not sent, as it is relaxed again next, or not read again."""
        order = list(range(self.colours))[:: -1 if backward else 1]
        for colour in order:
            for one in self._parts:
                if self.colour[one.part.number] == colour and one.matrix is not None:
                    at = one.own_colour
                    k = one.vector.shape[1]
                    one.matrix.sweep_colours(one.vector, one.right, k, self._omega, at, at + 1, backward)
                    self._x[one.part.first : one.part.last] = one.vector[one.own]
            if not (last and colour == order[-1]):
                self._send(colour)

    def _send(self, colour: int) -> None:
        """Send the values of a colour to all parts that read them: one round."""
        at, halo = self._exchange[colour]
        ghosts = np.empty((halo.size, self._x.shape[1]), self._x.dtype)
        halo.start(torch.from_numpy(self._x), torch.from_numpy(ghosts))()
        for one, of_colour in zip(self._parts, at, strict=True):
            of_colour.fill(one.vector, self._x, ghosts)

    @property
    def value(self) -> Array:
        """This rank's x (n_local, k)."""
        return self._x


class ColouredSsor(Coloured, Identity):
    """One forward and one backward sweep from 0, symmetric if A is: 2 C - 2 rounds of messages for C colours."""

    is_symmetric = True

    def apply(self, r: Array) -> Array:
        """Return M^-1 r for r (n_local, k), contiguous."""
        self.begin(None, r.shape, r.dtype)
        self.right(r)
        self.sweep(last=True)
        self.sweep(backward=True, last=True)
        return self.value


class _ColouredPart:
    """A part with the rows that it reads, in the order in which one process would relax all of them."""

    vector: Array
    right: Array

    def __init__(self, A: RowMatrix, part: Part, colour: Array) -> None:
        self.part = part
        offsets = A._ownership.offsets
        numbers = _numbers_read(A, part)
        result = colour[np.searchsorted(offsets, numbers, side="right") - 1]
        order = np.lexsort((numbers, result))
        self._numbers, self._colours = numbers[order], result[order]
        mine = (int(colour[part.number]), int(offsets[part.number]))
        before = int(((self._colours < mine[0]) | ((self._colours == mine[0]) & (self._numbers < mine[1]))).sum())
        rows = part.own.n
        self.own = slice(before, before + rows)
        self.size = rows + len(numbers)
        self._positions = np.arange(len(numbers))
        self._positions[before:] += rows
        place = np.empty(len(numbers), np.int64)
        place[order] = self._positions
        self.own_colour = int(before > 0)
        self.matrix = self._matrix(part, place, before) if rows else None

    def of_colour(self, colour: int) -> tuple[Array, Array]:
        """Return the numbers of the rows of a colour that the part reads, and their positions in its vector."""
        chosen = self._colours == colour
        return self._numbers[chosen], self._positions[chosen]

    def _matrix(self, part: Part, place: Array, before: int) -> Any:
        """Return the part's rows for sweeps of their cluster; rows that it only reads are rows of the identity."""
        own, ghost = part.own, part.ghost
        row = np.repeat(np.arange(own.n), np.diff(own.start)) + before
        border = np.repeat(part.border, np.diff(ghost.start)) + before
        rows = np.concatenate([row, border, self._positions])
        columns = np.concatenate([own.column.astype(np.int64) + before, place[ghost.column], self._positions])
        values = np.concatenate([own.value, ghost.value, np.ones(len(self._positions), own.value.dtype)])
        order = np.argsort(rows * self.size + columns, kind="stable")
        A = csr_of(self.size, self.size, rows[order], columns[order], values[order])
        ends = [0, before, before + own.n, self.size]
        clusters = np.unique(ends).astype(np.int64)
        numbers = NUMBERS[A.value.dtype.name, A.value.dtype.name]
        arrays = (A.start, A.column, A.value, 0, clusters, np.arange(len(clusters)))
        return _core.relax.csr(numbers, A.n, *arrays, 0, 0)


def _numbers_read(A: RowMatrix, part: Part) -> Array:
    """Return the numbers of the rows of other parts that a part reads."""
    first = int(A._ownership.offsets[A._mine.start])
    rows = len(A.rows)
    far = part.reads >= rows
    result = np.where(far, 0, part.reads + first)
    result[far] = A._ghosts[part.reads[far] - rows]
    return result
