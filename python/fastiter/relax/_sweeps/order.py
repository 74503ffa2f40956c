"""The order in which rows, or blocks of rows, are relaxed, and which of them run in parallel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ... import _core
from ..._check import integers, type_name
from .matrix import Blocks, Csr

Array = npt.NDArray[Any]
Order = Literal["natural", "red-black", "color", "cluster"] | Array | list[int] | tuple[int, ...]
ORDERS = ("natural", "red-black", "color", "cluster")

#: Rows of a cluster: large enough to contain most neighbours of its rows, small enough to have clusters for all threads
_CLUSTER, _FEWEST_CLUSTERS = 256, 32


@dataclass(frozen=True)
class Arrangement:
    """A permutation of the rows (0: none), split into clusters of consecutive rows and colours of consecutive clusters.

    `clusters` and `colours` hold the first index of each and the end; 0 means that there is only one. `is_coloured`:
    clusters are single rows, and rows of one colour are not linked, so they can be relaxed in parallel.
    """

    order: Array | int = 0
    clusters: Array | int = 0
    colours: Array | int = 0
    is_coloured: bool = False

    @property
    def number_of_colours(self) -> int:
        return 1 if isinstance(self.colours, int) else len(self.colours) - 1


def _offsets(counts: Array) -> Array:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def arrange(function: str, A: Csr | Blocks, order: object) -> Arrangement:
    """Return the arrangement that ``order`` names."""
    if isinstance(order, str):
        if order == "natural":
            return Arrangement()
        if order in ("red-black", "color"):
            return _coloured(function, A, order)
        if order == "cluster":
            return _clustered(A)
        raise ValueError(f"{function}: order must be one of {', '.join(map(repr, ORDERS))} or an array, got {order!r}")
    if not isinstance(order, (np.ndarray, list, tuple)):
        raise TypeError(f"{function}: order must be a str or an array of row numbers, got {type_name(order)}")
    return Arrangement(permutation(function, order, A.n))


def arrange_disjoint(A: Csr) -> Arrangement:
    """Return colours whose rows have no entries in the same column, so that Kaczmarz can run in parallel."""
    colour = np.empty(A.n, np.int32)
    _core.relax.colour_disjoint(A.n, A.columns, A.start, A.column, colour)
    rows = np.argsort(colour, kind="stable").astype(np.int32)
    return Arrangement(rows, np.arange(A.n + 1), _offsets(np.bincount(colour)), is_coloured=True)


def permutation(function: str, order: Any, n: int) -> Array:
    """Return ``order`` as int32; refuse anything but a permutation of 0 to n - 1."""
    rows = integers(function, "order", order)
    if rows.shape != (n,):
        raise ValueError(f"{function}: order must have shape {(n,)}, got {rows.shape}")
    cached = np.zeros(n, np.int64)
    np.add.at(cached, rows[(rows >= 0) & (rows < n)], 1)
    if not (cached == 1).all():
        row = int(np.argmax(cached != 1))
        raise ValueError(
            f"{function}: order must name every row from 0 to {n - 1} once, got row {row} {cached[row]} times"
        )
    return rows.astype(np.int32)


def _coloured(function: str, A: Csr | Blocks, order: str) -> Arrangement:
    colour = np.empty(A.n, np.int32)
    if order == "color":
        _core.relax.colour(A.n, A.start, A.column, colour)
    else:
        odd = _core.relax.red_black(A.n, A.start, A.column, colour)
        if odd >= 0:
            raise ValueError(
                f"{function}: order must be 'color' if two colours are too few, "
                f"got 'red-black' for a pattern in which row {odd} lies on a cycle of odd length"
            )
    linked = _core.relax.check_colours(A.n, A.start, A.column, colour)
    if linked >= 0:
        raise RuntimeError(f"{function}: rows of one colour must not be linked, got a link of row {linked}")
    rows = np.argsort(colour, kind="stable").astype(np.int32)
    return Arrangement(rows, np.arange(A.n + 1), _offsets(np.bincount(colour)), is_coloured=True)


def _clustered(A: Csr | Blocks) -> Arrangement:
    size = int(np.clip(A.n // _FEWEST_CLUSTERS, 1, _CLUSTER))
    count = -(-A.n // size)
    colour = np.empty(count, np.int32)
    _core.relax.colour_clusters(A.n, A.start, A.column, size, colour)
    clusters = np.argsort(colour, kind="stable")
    rows = (clusters[:, None] * size + np.arange(size)).reshape(-1)
    sizes = np.minimum(size, A.n - clusters * size)
    return Arrangement(rows[rows < A.n].astype(np.int32), _offsets(sizes), _offsets(np.bincount(colour)))
