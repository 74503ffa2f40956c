"""Additive and restricted additive Schwarz methods with overlap, and a coarse correction."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ...._backend import BackendError
from .local import LOCAL
from .matrix import RowMatrix
from .overlap import overlapped, places
from .preconditioners import Identity

Array = npt.NDArray[Any]


class Schwarz(Identity):
    """z = sum over parts of R_S^T (approximately A_S^-1) R_S r, for the rows S of a part and its overlap.

    One round fetches the residuals of the overlap; a second one returns its corrections, unless ``restricted`` keeps
    only those of a part's own rows; a third one sums the residuals of parts for the coarse correction.
    """

    def __init__(
        self, A: RowMatrix, overlap: int, restricted: bool, local: str, omega: float | None, coarse: bool
    ) -> None:
        function = "solve"
        self.is_symmetric = not restricted
        self._A, self._restricted = A, restricted
        self._parts = overlapped(A, overlap)
        outside = [
            (np.delete(one.numbers, one.own), np.delete(np.arange(len(one.numbers)), one.own)) for one in self._parts
        ]
        self._places, self._halo = places(A, outside)
        make, failure = LOCAL[local], None
        self._local: list[Any] = []
        try:
            self._local = [make(function, one.square, omega) if one.square.n else None for one in self._parts]
        except (ValueError, BackendError) as error:
            failure = error
        A._ranks_for(function).agree({"function": function}, 0, False, failure)
        self._coarse = Coarse(A) if coarse else None

    def apply(self, r: Array) -> Array:
        """Return this rank's rows of z for r (n_local, k), contiguous."""
        ghosts = np.empty((self._halo.size, r.shape[1]), r.dtype)
        self._halo.start(torch.from_numpy(r), torch.from_numpy(ghosts))()
        corrections = []
        for one, at, local in zip(self._parts, self._places, self._local, strict=True):
            if local is None:
                corrections.append(np.zeros((0, r.shape[1]), r.dtype))
                continue
            taken = r[one.part.first : one.part.last]
            if len(one.numbers) > len(taken):
                taken = np.empty((len(one.numbers), r.shape[1]), r.dtype)
                taken[one.own] = r[one.part.first : one.part.last]
                at.fill(taken, r, ghosts)
            corrections.append(local(taken))
        z = self._restrict(r, corrections) if self._restricted else self._summed(r, ghosts, corrections)
        if self._coarse is not None:
            self._coarse.add(r, z)
        return z

    def _restrict(self, r: Array, corrections: list[Array]) -> Array:
        z = np.empty_like(r)
        for one, correction in zip(self._parts, corrections, strict=True):
            z[one.part.first : one.part.last] = correction[one.own]
        return z

    def _summed(self, r: Array, ghosts: Array, corrections: list[Array]) -> Array:
        """Return the sums of the corrections of all parts, in the order of the parts."""
        for at, correction in zip(self._places, corrections, strict=True):
            ghosts[at.ghosts] = correction[at.far]
        received = self._halo.start_back(torch.from_numpy(ghosts))()
        z = np.zeros_like(r)
        for rank, (index, values) in enumerate(zip(self._halo.sent, received, strict=True)):
            if rank == self._halo.ranks.rank:
                for one, at, correction in zip(self._parts, self._places, corrections, strict=True):
                    z[one.part.first : one.part.last] += correction[one.own]
                    z[at.rows] += correction[at.near]
            elif len(index):
                np.add.at(z, index.numpy(), values.numpy())
        return z


class Coarse:
    """z <- z + Z E^-1 Z^T r with E = Z^T A Z, where column p of Z is 1 in the rows of part p: one round.

    The pseudo-inverse of E (P, P) excludes parts without rows, and the constants if they are in the kernel of A.
    """

    def __init__(self, A: RowMatrix) -> None:
        self._A = A
        ownership, entries = A._ownership, A._entries
        number = ownership.number(entries.column)
        part = np.searchsorted(ownership.offsets, number, side="right") - 1
        values = entries.values.detach().numpy()
        own = np.zeros((len(A._parts), A.parts))
        for row, one in zip(own, A._parts, strict=True):
            taken = slice(entries.start[one.first], entries.start[one.last])
            row += np.bincount(part[taken], values[taken], A.parts)
        self._inverse = np.linalg.pinv(A._gathered(own), rcond=A.parts * 1e-14)

    def add(self, r: Array, z: Array) -> None:
        """Add the correction for r (n_local, k) to z."""
        own = np.zeros((len(self._A._parts), r.shape[1]))
        for total, one in zip(own, self._A._parts, strict=True):
            r[one.first : one.last].sum(axis=0, dtype=np.float64, out=total)
        every = self._A._gathered(own)
        for one in self._A._parts:
            correction = np.add.reduce(self._inverse[one.number][:, np.newaxis] * every, axis=0)
            z[one.first : one.last] += correction.astype(z.dtype)
