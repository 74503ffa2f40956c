"""Steps of flexible conjugate gradients and of coloured SOR for columns (n_local, k)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .coloured import Coloured
from .matrix import RowMatrix
from .methods import Cg, Method, over
from .preconditioners import Identity

Array = npt.NDArray[Any]


class FlexibleCg(Cg):
    """Conjugate gradients for an M that need not be symmetric, also with one reduction per step.

    The direction p <- u - (u^T A p / p^T A p) p is A-orthogonal to the previous one for every u = M^-1 r. As A is
    symmetric, the new p^T A p = u^T A u - (u^T A p)^2 / p^T A p follows from products with the previous p.
    """

    def begin(self, x: Array) -> Array:
        """Start from x; return the norms of b - A x."""
        self._energy = np.ones(x.shape[1])
        return super().begin(x)

    def _reduce(self) -> None:
        self._u = np.ascontiguousarray(self.precond.apply(self.r))
        self.A._minus_product(self._u, self._w)
        pairs = [(self.r, self._u), (self._u, self._w), (self.r, self.r), (self._u, self._s), (self._p, self.r)]
        self._gamma, delta, self._square, cross, self._left = self.A._dots(pairs)
        self._delta, self._cross = -delta, -cross

    def _curvature(self) -> tuple[Array, Array]:
        beta = np.where(self._fresh, 0.0, -over(self._cross, self._energy))
        return beta, self._delta + beta * np.where(self._fresh, 0.0, self._cross)

    def _step(self) -> None:
        beta, curvature = self._curvature()
        doubtful = ~self._fresh & (self._gamma != 0) & (curvature <= 0)
        if doubtful.any():  # by the recurrence, perhaps only because of rounding errors
            self._restart(doubtful, self._residual(np.empty_like(self.r)))
            beta, curvature = self._curvature()
        self.indefinite |= (self._delta < 0) | ((self._delta > 0) & (curvature <= 0))
        along = self._gamma + beta * self._left
        alpha = np.where(self.indefinite, 0.0, over(along, curvature))
        self._update(alpha.astype(self.b.dtype), beta.astype(self.b.dtype))
        self._energy = np.where(curvature > 0, curvature, 1.0)
        self._fresh[:] = False
        self._reduce()


class Sweeps(Method):
    """Sweeps of SOR over all parts, colour after colour: one round for each colour, and two for the norms."""

    def __init__(self, A: RowMatrix, b: Array, coloured: Coloured) -> None:
        super().__init__(A, Identity(), b)
        self._coloured = coloured

    def begin(self, x: Array) -> Array:
        """Start from x; return the norms of b - A x."""
        self._coloured.begin(x, x.shape, x.dtype)
        self._coloured.right(self.b)
        return super().begin(x)

    def advance(self, count: int) -> Array:
        """Take some sweeps; return the norms of b - A x."""
        for _ in range(count):
            self._coloured.sweep()
        self._residual(self.r)
        return self._norms()
