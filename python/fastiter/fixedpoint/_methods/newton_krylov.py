"""Newton's method with linear systems solved by GMRES."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..._check import count, positive
from .base import Accelerated
from .protocol import Active


@dataclass
class NewtonKrylov(Accelerated):
    """x <- x + d with (I - f'(x)) d = f(x) - x, by at most ``inner`` steps of GMRES.

    f'(x) v is ``jvp(x, v)``, or a difference of two values. A step that increases the residual by more than a factor of
    ``growth_limit`` is halved, up to ``halvings`` times.
    """

    name: ClassVar[str] = "newton_krylov"
    growth: ClassVar[float] = 1e6
    rescues: ClassVar[bool] = False
    inner: Any = 20
    inner_rtol: Any = 0.1
    growth_limit: Any = 1.0
    halvings: Any = 8

    def check(self, function: str) -> None:
        self.inner = count(function, "inner", self.inner, 1)
        self.inner_rtol = positive(function, "inner_rtol", self.inner_rtol, zero=False)
        self.growth_limit = positive(function, "growth_limit", self.growth_limit, zero=False)
        self.halvings = count(function, "halvings", self.halvings)

    def begin(self) -> None:
        self.x, self.plain = (self.space.zeros(self.samples, self.n) for _ in range(2))
        self.base, self.halved = np.full(self.samples, np.inf), np.zeros(self.samples, np.int64)

    def fallback(self, slots: Any) -> Any:
        self.base[slots], self.halved[slots] = np.inf, 0
        return self.space.take(self.plain, slots)

    def step(self, at: Active) -> Any:
        space, slots = self.space, at.slots
        shorter = ~(at.residual <= self.growth_limit * self.base[slots]) & (self.halved[slots] < self.halvings)
        if shorter.all():
            self.halved[slots] += 1
            return 0.5 * (at.x + space.take(self.x, slots))
        if at.jvp is None:
            at.f = space.copy(at.f)  # f may reuse this memory for the other points
        moved = at.x + self._direction(at)
        back, on = np.flatnonzero(shorter), np.flatnonzero(~shorter)
        if len(back):
            space.put(moved, back, 0.5 * (space.take(at.x, back) + space.take(self.x, slots[back])))
            self.halved[slots[back]] += 1
        self.base[slots[on]], self.halved[slots[on]] = at.residual[on], 0
        space.put(self.x, slots[on], space.take(at.x, on))
        space.put(self.plain, slots[on], space.take(at.f, on))
        return moved

    def _derivative(self, at: Active, v: Any) -> Any:
        """Return f'(x) v, where the rows of v have norm 1 or 0."""
        if at.jvp is not None:
            return at.jvp(at.x, v)
        size = self.space.host(self.space.dot(at.x, at.x))[:, 0] ** 0.5
        step = self.space.column((1 + size) * self.space.eps**0.5)
        return (at.evaluate(at.x + step * v) - at.f) / step

    def _direction(self, at: Active) -> Any:
        """Return d of each row by GMRES from 0; the rows stop together, once all have reached ``inner_rtol``."""
        space, rows = self.space, len(at.slots)
        r = at.f - at.x
        norm = space.host(space.dot(r, r))[:, 0] ** 0.5
        basis = [r * space.column(inverse(norm))]
        limit = min(self.inner, self.n)
        hessenberg, c = np.zeros((rows, limit + 1, limit)), np.zeros((rows, limit))
        for k in range(limit):
            w = basis[k] - self._derivative(at, basis[k])
            for _ in range(2):  # twice, as rounding leaves components along the basis
                for i, each in enumerate(basis):
                    part = space.dot(each, w)
                    w = w - part * each
                    hessenberg[:, i, k] += space.host(part)[:, 0]
            size = space.host(space.dot(w, w))[:, 0] ** 0.5
            hessenberg[:, k + 1, k] = size
            c, left = least_squares(hessenberg[:, : k + 2, : k + 1], norm)
            if (left <= self.inner_rtol * norm).all():
                break
            basis.append(w * space.column(inverse(size)))
        direction = 0 * r
        for i in range(c.shape[1]):
            direction = direction + space.column(c[:, i]) * basis[i]
        return direction


def inverse(norm: Any) -> Any:
    """Return 1 / norm, and 0 where the norm is 0 or not finite."""
    usable = (norm > 0) & np.isfinite(norm)
    return np.where(usable, 1 / np.where(usable, norm, 1), 0)


def least_squares(hessenberg: Any, norm: Any) -> tuple[Any, Any]:
    """Return c (rows, k) that minimises ||norm e_1 - hessenberg c||, and the minimum; 0 where not finite."""
    rows, height, k = hessenberg.shape
    c, left = np.zeros((rows, k)), np.where(np.isfinite(norm), norm, 0)
    for i in range(rows):
        right = np.zeros(height)
        right[0] = norm[i]
        if np.isfinite(hessenberg[i]).all() and np.isfinite(norm[i]):
            c[i] = np.linalg.lstsq(hessenberg[i], right, rcond=None)[0]
            left[i] = np.linalg.norm(right - hessenberg[i] @ c[i])
    return c, left
