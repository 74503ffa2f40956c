"""Anderson mixing of the last steps, in one pass over the history for the weights and one for the mixture."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: Rows per chunk of a pass, small enough to stay in cache for its successive operations
ROWS = 8192


class Mixture:
    """x <- swept - sum_j w_j (swept_j+1 - swept_j), w minimising ||change - sum_j w_j (change_j+1 - change_j)||.

    change = swept - x. The differences are kept in a ring buffer of `memory` entries, with their inner products: a step
    adds one difference and its products with the others, for each column separately.
    """

    def __init__(self, memory: int, x: Array) -> None:
        rows, columns = len(x), x.size // max(1, len(x))
        self.places, self.filled = memory, 0
        self.changes = np.empty((memory, rows, columns), x.dtype)
        self.steps = np.empty_like(self.changes)
        self.change, self.swept = np.empty((rows, columns), x.dtype), np.empty((rows, columns), x.dtype)
        wide = np.result_type(x.dtype, np.float64)
        self.products = np.zeros((columns, memory, memory), wide)
        self.count = 0

    def next(self, x: Array, swept: Array) -> Array:
        """Return the next x, computed in ``swept``."""
        new, old = swept.reshape(self.swept.shape), x.reshape(self.swept.shape)
        place = (self.count - 1) % self.places
        self.filled = min(self.count, self.places)
        target = self._take(old, new, place) if self.count else self._begin(old, new)
        self.count += 1
        if self.filled:
            self._mix(new, self._weights(target))
        return swept

    def _begin(self, x: Array, swept: Array) -> Array:
        np.subtract(swept, x, out=self.change)
        self.swept[...] = swept
        return np.empty(0)

    def _take(self, x: Array, swept: Array, place: int) -> Array:
        """Store the difference from the previous step; return the inner products of all differences with the change."""
        indices = range(self.filled)
        with_new, target = (np.zeros(self.products.shape[::2], self.products.dtype) for _ in range(2))
        for first in range(0, len(x), ROWS):
            rows = slice(first, first + ROWS)
            change, step = self.changes[place, rows], self.steps[place, rows]
            np.subtract(swept[rows], x[rows], out=step)
            np.subtract(step, self.change[rows], out=change)
            self.change[rows] = step
            np.subtract(swept[rows], self.swept[rows], out=step)
            self.swept[rows] = swept[rows]
            for j in indices:
                with_new[:, j] += _dots(self.changes[j, rows], change)
                target[:, j] += _dots(self.changes[j, rows], self.change[rows])
        self.products[:, :, place] = with_new
        self.products[:, place, :] = with_new.conj()
        return target[:, : self.filled]

    def _weights(self, target: Array) -> Array:
        """The weights (columns, filled) from the inner products; 0 for a column with a value that is not finite."""
        products = self.products[:, : self.filled, : self.filled]
        together = np.concatenate([products.reshape(len(products), -1), target], axis=1)
        finite = np.asarray(np.isfinite(together).all(axis=1), np.bool_)
        products = np.where(finite[:, None, None], products, 0)
        scale = np.sqrt(np.einsum("cjj->cj", products).real)
        scale[scale == 0] = 1
        values, vectors = np.linalg.eigh(products / (scale[:, :, None] * scale[:, None, :]))
        # Directions that differ only by rounding are left out.
        cut = 100 * self.filled * float(np.finfo(self.change.dtype).eps) * values[:, -1:]
        inverse = np.where(values > cut, 1 / np.where(values > cut, values, 1), 0)
        rotated = np.einsum("cji,cj->ci", vectors.conj(), np.where(finite[:, None], target, 0) / scale)
        return np.asarray(np.einsum("cji,ci->cj", vectors, inverse * rotated) / scale)

    def _mix(self, swept: Array, weights: Array) -> None:
        weights = weights.T.astype(swept.dtype)
        for first in range(0, len(swept), ROWS):
            rows = slice(first, first + ROWS)
            for step, weight in zip(self.steps[: self.filled], weights, strict=True):
                swept[rows] -= weight * step[rows]


def _dots(u: Array, v: Array) -> Array:
    """The inner product of each column."""
    if u.shape[1] == 1:
        return np.array([np.vdot(u, v)])
    return np.asarray(np.einsum("nc,nc->c", u.conj(), v))
