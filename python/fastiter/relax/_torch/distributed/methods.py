"""The steps of distributed solvers on columns (n_local, k): conjugate gradients, and preconditioned corrections."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..._omega.auto import MARGIN
from ..._omega.spectrum import EVERY, MAX_PRODUCTS, eigenvalues
from ..._solvers.accelerate import Recurrence
from .matrix import CHUNK, RowMatrix, flat
from .preconditioners import Identity

Array = npt.NDArray[Any]


class Method:
    """Steps from x towards A^-1 b. All ranks take the same steps, and get the same norms."""

    #: Whether :meth:`advance` returns the norms of the true residual b - A x, not of a recurrence for it
    is_exact = True

    def __init__(self, A: RowMatrix, precond: Identity, b: Array) -> None:
        self.A, self.precond, self.b = A, precond, b
        self.indefinite = np.zeros(b.shape[1], bool)
        self.r = np.empty_like(b)

    def begin(self, x: Array) -> Array:
        """Start from x, which the steps update in place; return the norms (k,) of b - A x."""
        self.x = x
        self._residual(self.r)
        return self._norms()

    def advance(self, count: int) -> Array:
        """Take some steps and return the norms (k,) of the residuals."""
        raise NotImplementedError

    def observe(self, steps: int, ratio: float) -> None:
        """Receive the largest ratio of a residual to its target."""

    def renew(self, which: Array) -> Array:
        """Return the norms of b - A x; the columns ``which`` continue from this residual."""
        return self._norms()

    def _residual(self, out: Array) -> Array:
        self.A._residual(*map(torch.from_numpy, (self.x, self.b, out)))
        return out

    def _norms(self) -> Array:
        result: Array = np.sqrt(self.A._dots([(self.r, self.r)])[0])
        return result


class Corrections(Method):
    """x <- x + d, d <- momentum d + omega M^-1 (b - A x): Richardson's iteration, or Chebyshev's acceleration of it."""

    def __init__(self, A: RowMatrix, precond: Identity, b: Array, factors: float | Recurrence) -> None:
        super().__init__(A, precond, b)
        self._factors, self._d, self._room = factors, np.zeros_like(b), np.empty_like(b)

    def advance(self, count: int) -> Array:
        """Take some steps; the norms take one round."""
        kind = self.b.dtype.type
        for _ in range(count):
            z = self.precond.apply(self.r)
            if isinstance(self._factors, Recurrence):
                omega, momentum = self._factors.next()
                self._d *= kind(momentum)
                self._d += np.multiply(z, kind(omega), out=self._room)
                self.x += self._d
            else:
                self.x += np.multiply(z, kind(self._factors), out=self._room)
            self._residual(self.r)
        return self._norms()

    def observe(self, steps: int, ratio: float) -> None:
        """Lower the smallest eigenvalue if the residual falls more slowly than it implies."""
        if isinstance(self._factors, Recurrence):
            self._factors.observe(steps, ratio)


class Cg(Method):
    """Conjugate gradients with one reduction per step: w = A u is computed before the inner products of u are summed.

    With p <- u + beta p and s <- w + beta s, so that s = A p, and gamma = r^T u, delta = u^T w:
    p^T A p = delta - beta gamma / alpha (Chronopoulos and Gear). Here w and s have the opposite signs.
    """

    is_exact = False

    def begin(self, x: Array) -> Array:
        """Start from x; return the norms of b - A x."""
        self.x = x
        self._residual(self.r)
        self._p, self._s, self._w = np.zeros_like(x), np.zeros_like(x), np.empty_like(x)
        self._fresh = np.ones(x.shape[1], bool)
        self._alpha, self._before = np.ones(x.shape[1]), np.ones(x.shape[1])
        self.alphas: list[float] = []
        self.betas: list[float] = []
        self._reduce()
        result: Array = np.sqrt(self._square)
        return result

    def advance(self, count: int) -> Array:
        """Take some steps; each takes one round for the product and one for all inner products."""
        for _ in range(count):
            self._step()
        result: Array = np.sqrt(self._square)
        return result

    def renew(self, which: Array) -> Array:
        """Return the norms of b - A x; the columns ``which`` restart from there, along their residuals."""
        r = self._residual(np.empty_like(self.r))
        result: Array = np.sqrt(self.A._dots([(r, r)])[0])
        if which.any():
            self._restart(which, r)
        return result

    def _restart(self, which: Array, r: Array) -> None:
        self.r[:, which] = r[:, which]
        self._fresh |= which
        self._reduce()

    def _reduce(self) -> None:
        self._u = u = np.ascontiguousarray(self.precond.apply(self.r))
        w = self.A._minus_product(u, self._w)
        if u is self.r:
            self._gamma, delta = self.A._dots([(u, u), (u, w)])
            self._square = self._gamma
        else:
            self._gamma, delta, self._square = self.A._dots([(self.r, u), (u, w), (self.r, self.r)])
        self._delta = -delta

    def _curvature(self) -> tuple[Array, Array]:
        beta = np.where(self._fresh, 0.0, over(self._gamma, self._before))
        return beta, self._delta - beta * over(self._gamma, self._alpha)

    def _step(self) -> None:
        beta, curvature = self._curvature()
        doubtful = ~self._fresh & (self._gamma != 0) & ((curvature <= 0) | (self._gamma < 0))
        if doubtful.any():  # by the recurrence, perhaps only because of rounding errors
            self._restart(doubtful, self._residual(np.empty_like(self.r)))
            beta, curvature = self._curvature()
        self.indefinite |= (self._gamma < 0) | ((self._gamma > 0) & (curvature <= 0))
        alpha = np.where(self.indefinite, 0.0, over(self._gamma, curvature))
        self._update(alpha.astype(self.b.dtype), beta.astype(self.b.dtype))
        self.alphas.append(float(alpha[0]))
        self.betas.append(float(beta[0]))
        self._alpha, self._before = np.where(alpha != 0, alpha, 1.0), self._gamma
        self._fresh[:] = False
        self._reduce()

    def _update(self, alpha: Array, beta: Array) -> None:
        """Update the four vectors chunk by chunk, so that each chunk is read from memory once."""
        k = len(alpha)
        every = [flat(x) for x in (self._p, self._s, self._u, self._w, self.x, self.r)]
        room = flat(np.empty((CHUNK // k + 1, k), self.b.dtype))
        a, c = (alpha[0], beta[0]) if k == 1 else (alpha, beta)
        for _, rows in self.A._chunks(k):
            p, s, u, w, x, r = (z[rows] for z in every)
            product = room[: rows.stop - rows.start]
            p *= c
            p += u
            s *= c
            s += w
            x += np.multiply(p, a, out=product)
            r += np.multiply(s, a, out=product)


def over(u: Array, v: Array) -> Array:
    """Return u / v, and 0 where v is 0."""
    result: Array = np.where(v != 0, u / np.where(v != 0, v, 1), 0)
    return result


def bounds_of(function: str, A: RowMatrix, precond: Identity) -> tuple[float, float]:
    """Return bounds of the eigenvalues of M^-1 A: the Ritz values of some steps of CG.

    Ritz values lie inside the spectrum; if the upper bound were too small, the modes beyond it would grow.
    """
    start = A._random(1)
    method = Cg(A, precond, start)
    method.begin(np.zeros_like(start))
    first, low, high = float(method._square[0]), 0.0, 0.0
    for steps in range(EVERY, MAX_PRODUCTS + 1, EVERY):
        method.advance(EVERY)
        alphas, betas = method.alphas, method.betas
        while alphas and alphas[-1] == 0:
            alphas, betas = alphas[:-1], betas[:-1]
        if method.indefinite.any() or not alphas:
            raise ValueError(f"{function}: bounds must be given if A is not positive definite, got None")
        before = low
        low, high = _ritz(alphas, betas)
        is_done = method._square[0] <= 1e-24 * first or len(alphas) < steps
        if is_done or abs(low - before) <= 0.02 * low:
            break
    return 0.95 * low, MARGIN * high


def _ritz(alphas: list[float], betas: list[float]) -> tuple[float, float]:
    """Return the smallest and the largest eigenvalue of the tridiagonal matrix of CG's coefficients."""
    diagonal = [1 / alphas[0]]
    off = []
    for last, alpha, beta in zip(alphas, alphas[1:], betas[1:], strict=False):
        diagonal.append(1 / alpha + beta / last)
        off.append(float(np.sqrt(beta)) / last)
    values, _ = eigenvalues(diagonal, off)
    return float(values[0]), float(values[-1])
