"""The transposed matrix with the same owners of rows, and whether a matrix is symmetric."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from ...._torch.distributed.halo import exchange
from .entries import Entries
from .matrix import RowMatrix
from .parts import divide

#: A difference of v^T A u and u^T A v of this many rounding errors of ||v|| ||A u|| shows that A is not symmetric.
ROUNDINGS = 100


def is_symmetric(A: RowMatrix) -> bool:
    """Return whether A looks symmetric, by its products with two random vectors: two rounds, on first use."""
    if "is_symmetric" not in A._cache:
        x = A._random(2)
        y = A._minus_product(x)
        u, v, Au, Av = (np.ascontiguousarray(z[:, [i]]) for z in (x, y) for i in (0, 1))
        one, other, uu, vv, au, av = A._dots([(v, Au), (u, Av), (u, u), (v, v), (Au, Au), (Av, Av)])[:, 0]
        scale = float(np.sqrt(vv * au) + np.sqrt(uu * av)) * float(np.finfo(A._numpy_dtype).eps)
        A._cache["is_symmetric"] = bool(abs(one - other) <= ROUNDINGS * scale)
    result: bool = A._cache["is_symmetric"]
    return result


def transposed(A: RowMatrix) -> RowMatrix:
    """Return A^T, whose values have no gradient, by sending each entry to the owner of its column, on first use."""
    if "transposed" not in A._cache:
        A._cache["transposed"] = _transposed(A)
    result: RowMatrix = A._cache["transposed"]
    return result


def _transposed(A: RowMatrix) -> RowMatrix:
    ranks, ownership, own = A._ranks, A._ownership, A._entries
    row = np.repeat(A.rows.numpy(), np.diff(own.start))
    number = ownership.number(own.column)
    firsts = [int(ownership.offsets[ownership.parts_of(rank, ranks.size).start]) for rank in range(ranks.size)]
    order = np.argsort(number, kind="stable")
    ends = np.searchsorted(number[order], [*firsts, ownership.n])
    pieces = [order[a:b] for a, b in pairwise(ends)]
    pairs = np.stack([number, row], axis=1)
    values = own.values.detach()
    sent = exchange(ranks, [torch.from_numpy(pairs[piece]) for piece in pieces])
    moved = exchange(ranks, [values[torch.from_numpy(piece)] for piece in pieces])
    received, value = torch.cat(sent).numpy(), torch.cat(moved)
    place = np.lexsort((received[:, 1], received[:, 0]))
    local = received[place, 0] - firsts[ranks.rank]
    counts = np.bincount(local, minlength=len(A.rows))
    start = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    result = object.__new__(RowMatrix)
    result._ranks, result._ownership, result._mine = ranks, ownership, A._mine
    result._entries = Entries(A.n, start, received[place, 1], value[torch.from_numpy(place)])
    result._set(divide("solve", result._entries, ownership, A._mine))
    return result
