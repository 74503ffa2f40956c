"""The rows of each part of a rank extended by an overlap of neighbouring rows, and their square matrices."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ...._torch.distributed.halo import Halo, exchange
from ..._sweeps.matrix import Csr
from .matrix import RowMatrix
from .parts import Part, csr_of

Array = npt.NDArray[Any]


class Overlapped(NamedTuple):
    """A part with its overlap.

    Attributes
    ----------
    part : Part
        The part.
    numbers : (m,)
        The numbers of all rows, increasing.
    own : slice
        The rows of the part among them.
    square : Csr
        The entries (m, m) between them.
    """

    part: Part
    numbers: Array
    own: slice
    square: Csr


def overlapped(A: RowMatrix, overlap: int) -> list[Overlapped]:
    """Return the parts of this rank with the rows at a distance of at most ``overlap`` links in A + A^T.

    Every rank calls it. Each layer takes six rounds: the requests, the entries of the requested rows, and their values.
    """
    links = _Links(A)
    rings = [links.around(part) for part in A._parts] if overlap else [np.zeros(0, np.int64) for _ in A._parts]
    outside = [np.zeros(0, np.int64) for _ in A._parts]
    entries = _Triples.none(links.own.value.dtype)
    for layer in range(overlap):
        known = [np.union1d(have, ring) for have, ring in zip(outside, rings, strict=True)]
        fetched = links.fetch(np.unique(np.concatenate([np.zeros(0, np.int64), *rings])), entries)
        entries = entries.joined(fetched)
        if layer + 1 < overlap:
            rings = [
                _beyond(links, part, have, ring, entries)
                for part, have, ring in zip(A._parts, known, rings, strict=True)
            ]
        outside = known
    return [_with_overlap(links, part, rows, entries) for part, rows in zip(A._parts, outside, strict=True)]


class _Triples(NamedTuple):
    """Entries of rows: the numbers of their rows and columns, and values; 0 where only the reverse entry exists."""

    row: Array
    column: Array
    value: Array

    @staticmethod
    def none(dtype: Any) -> _Triples:
        return _Triples(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, dtype))

    def joined(self, other: _Triples) -> _Triples:
        return _Triples(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))

    def of(self, chosen: Array) -> _Triples:
        return _Triples(self.row[chosen], self.column[chosen], self.value[chosen])


class _Links:
    """The nonzero entries of a rank's rows, by numbers, and those of other ranks in the columns of its rows."""

    def __init__(self, A: RowMatrix) -> None:
        self.ranks, self.n = A._ranks, A.n
        ownership, size = A._ownership, A._ranks.size
        ends = [int(ownership.offsets[ownership.parts_of(rank, size).start]) for rank in range(size)]
        self.ends = np.array([*ends, A.n])
        self.first, self.last = (int(self.ends[A._ranks.rank + i]) for i in (0, 1))
        self.offsets = ownership.offsets
        entries = A._entries
        row = np.repeat(np.arange(entries.rows), np.diff(entries.start)) + self.first
        every = _Triples(row, ownership.number(entries.column), entries.values.detach().numpy())
        self.own = every.of(every.value != 0)
        far = (self.own.column < self.first) | (self.own.column >= self.last)
        pairs = np.stack([self.own.column[far], self.own.row[far]], axis=1)
        received = exchange(self.ranks, [torch.from_numpy(x) for x in self._by_rank(pairs[:, 0], pairs)])
        self.reverse = np.concatenate([x.numpy() for x in received])

    def _by_rank(self, numbers: Array, x: Array) -> list[Array]:
        """Return x (m, ...) divided by the ranks that own the rows ``numbers`` (m,)."""
        owner = np.searchsorted(self.ends, numbers, side="right") - 1
        owner = np.minimum(owner, self.ranks.size - 1)
        return [np.ascontiguousarray(x[owner == rank]) for rank in range(self.ranks.size)]

    def around(self, part: Part) -> Array:
        """Return the rows outside a part that are linked to it."""
        first, last = part.first + self.first, part.last + self.first

        def inside(numbers: Array) -> Array:
            return (numbers >= first) & (numbers < last)

        row, column = self.own.row, self.own.column
        below, right = inside(row), inside(column)
        linked = [column[below & ~right], row[right & ~below], self.reverse[inside(self.reverse[:, 0]), 1]]
        return np.unique(np.concatenate(linked))

    def fetch(self, numbers: Array, known: _Triples) -> _Triples:
        """Fetch the entries of rows that are not known yet from the ranks that own them."""
        wanted = np.setdiff1d(numbers, known.row)
        requested = exchange(self.ranks, [torch.from_numpy(x) for x in self._by_rank(wanted, wanted)])
        result = [self._rows(x.numpy()) for x in requested]
        places = [np.stack([x.row, x.column], axis=1) for x in result]
        pairs = [x.numpy() for x in exchange(self.ranks, [torch.from_numpy(x) for x in places])]
        values = [x.numpy() for x in exchange(self.ranks, [torch.from_numpy(x.value) for x in result])]
        both = np.concatenate(pairs)
        return _Triples(both[:, 0], both[:, 1], np.concatenate(values))

    def _rows(self, numbers: Array) -> _Triples:
        """Return the entries of some of this rank's rows, and zeros where only a reverse entry exists."""
        requested = np.zeros(self.last - self.first, bool)
        requested[numbers - self.first] = True
        own, reverse = self.own, self.reverse
        result = own.of(requested[own.row - self.first])
        near = np.flatnonzero((own.column >= self.first) & (own.column < self.last))
        near = near[requested[own.column[near] - self.first]]
        far = requested[reverse[:, 0] - self.first]
        row = np.concatenate([own.column[near], reverse[far, 0]])
        column = np.concatenate([own.row[near], reverse[far, 1]])
        return result.joined(_Triples(row, column, np.zeros(len(row), own.value.dtype)))


def _beyond(links: _Links, part: Part, known: Array, ring: Array, entries: _Triples) -> Array:
    """Return the rows that are linked to the last ring and not known yet."""
    first, last = part.first + links.first, part.last + links.first
    reached = np.unique(entries.column[np.isin(entries.row, ring)])
    return np.setdiff1d(reached[(reached < first) | (reached >= last)], known)


def _with_overlap(links: _Links, part: Part, outside: Array, entries: _Triples) -> Overlapped:
    """Return a part with the rows ``outside``, whose entries are known."""
    first, last = part.first + links.first, part.last + links.first
    before = int(np.searchsorted(outside, first))
    numbers = np.concatenate([outside[:before], np.arange(first, last), outside[before:]])
    own = slice(before, before + last - first)
    if not len(outside):
        return Overlapped(part, numbers, own, part.own)
    saved = entries.of((entries.value != 0) & np.isin(entries.row, outside) & np.isin(entries.column, numbers))
    row, column = (np.searchsorted(numbers, x) for x in (saved.row, saved.column))
    rows, columns, values = _own_entries(links, part, numbers, before)
    pieces = ((row, column, saved.value), (rows, columns, values))
    row, column, value = (np.concatenate(x) for x in zip(*pieces, strict=True))
    order = np.argsort(row * len(numbers) + column, kind="stable")
    return Overlapped(part, numbers, own, csr_of(len(numbers), len(numbers), row[order], column[order], value[order]))


def _own_entries(links: _Links, part: Part, numbers: Array, before: int) -> tuple[Array, Array, Array]:
    """Return the entries of a part's own rows in the columns ``numbers``, as indices into these."""
    own = part.own
    row = np.repeat(np.arange(own.n), np.diff(own.start)) + before
    taken = links.own.of((links.own.row >= part.first + links.first) & (links.own.row < part.last + links.first))
    first = part.first + links.first
    far = taken.of((taken.column < first) | (taken.column >= part.last + links.first))
    far = far.of(np.isin(far.column, numbers))
    rows = np.concatenate([row, far.row - first + before])
    columns = np.concatenate([own.column.astype(np.int64) + before, np.searchsorted(numbers, far.column)])
    return rows, columns, np.concatenate([own.value, far.value])


class Places(NamedTuple):
    """The rows outside a part: their positions in its vector, and the locations of their values.

    Attributes
    ----------
    near, rows : (a,)
        The positions of rows of this rank, and the indices of these rows.
    far, ghosts : (b,)
        The positions of rows of other ranks, and the indices of these ghosts.
    """

    near: Array
    rows: Array
    far: Array
    ghosts: Array

    def fill(self, vector: Array, x: Array, ghosts: Array) -> None:
        """Write the values of this rank's x (n_local, k) and of the ghosts to a part's vector (m, k)."""
        vector[self.near] = x[self.rows]
        vector[self.far] = ghosts[self.ghosts]


def places(A: RowMatrix, every: Sequence[tuple[Array, Array]]) -> tuple[list[Places], Halo]:
    """Return the places of the rows outside each part of this rank, and the messages with their values: two rounds.

    ``every`` has the numbers of these rows and their positions for each part. The ghosts of a rank are in the order of
    the parts that read them, so that corrections of rows are added in the order of the parts for any number of ranks.
    """
    ownership, ranks = A._ownership, A._ranks
    ends = [int(ownership.offsets[ownership.parts_of(rank, ranks.size).start]) for rank in range(ranks.size)] + [A.n]
    pieces: list[list[tuple[Array, Array]]] = [[] for _ in every]
    result, needed, ghost = [], [], 0
    for rank, (first, last) in enumerate(pairwise(ends)):
        taken = [np.zeros(0, np.int64)]
        for one, (numbers, positions) in zip(pieces, every, strict=True):
            chosen = (numbers >= first) & (numbers < last)
            if rank != ranks.rank:
                count = int(chosen.sum())
                one.append((positions[chosen], np.arange(ghost, ghost + count)))
                taken.append(numbers[chosen] - first)
                ghost += count
        needed.append(torch.from_numpy(np.concatenate(taken)))
    for one, (numbers, positions) in zip(pieces, every, strict=True):
        chosen = (numbers >= ends[ranks.rank]) & (numbers < ends[ranks.rank + 1])
        one.append((np.zeros(0, np.int64), np.zeros(0, np.int64)))
        far, ghosts = (np.concatenate(x) for x in zip(*one, strict=True))
        result.append(Places(positions[chosen], numbers[chosen] - ends[ranks.rank], far, ghosts))
    return result, Halo(ranks, needed)
