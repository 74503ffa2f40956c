"""SQUAREM, the squared extrapolation of two steps, for monotone maps such as those of EM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..._check import positive
from .base import Accelerated
from .protocol import GROWN, NAN, OVERFLOW, Active

#: A step this little longer than 1 is not worth the evaluation that follows an extrapolation.
_NEARLY_ONE = 1.01


@dataclass
class Squarem(Accelerated):
    """Two steps r = f(x) - x and v = f(f(x)) - f(x) - r, then x + 2 a r + a^2 v with a = ||r|| / ||v||, then f.

    a is at least 1, which is f(f(x)), and at most a bound of each sample, ``largest`` at first. The bound grows by
    ``factor`` when a reaches it, and shrinks by as much, but not below ``largest``, if that extrapolation fails: then
    f(f(x)) takes its place. It fails outside the domain, where f is not finite, and if its residual exceeds
    ``growth_limit`` times that of x.
    """

    name: ClassVar[str] = "squarem"
    growth: ClassVar[float] = 1e8
    rescues: ClassVar[bool] = True
    guarded: ClassVar[tuple[int, ...]] = (NAN, OVERFLOW, GROWN)
    growth_limit: Any = 1e4
    largest: Any = 1.0
    factor: Any = 4.0

    def check(self, function: str) -> None:
        self.growth_limit = positive(function, "growth_limit", self.growth_limit, zero=False)
        for name in ("largest", "factor"):
            value = positive(function, name, getattr(self, name), zero=False)
            if value < 1:
                raise ValueError(f"{function}: {name} must be at least 1, got {value:g}")
            setattr(self, name, value)

    def begin(self) -> None:
        #: x and r of the first step of a cycle, and the value of the second
        self.x, self.r, self.plain = (self.space.zeros(self.samples, self.n) for _ in range(3))
        self.base, self.bound = np.zeros(self.samples), np.full(self.samples, self.largest)
        #: The steps of the cycle so far, and whether its a is the bound
        self.phase, self.is_bound = np.zeros(self.samples, np.int64), np.zeros(self.samples, bool)

    def extrapolated(self, slots: Any) -> Any:
        return self.phase[slots] == 2

    def fallback(self, slots: Any) -> Any:
        self.phase[slots] = 0
        shrinks = slots[self.is_bound[slots]]
        self.bound[shrinks] = np.maximum(self.bound[shrinks] / self.factor, self.largest)
        return self.space.take(self.plain, slots)

    def step(self, at: Active) -> Any:
        space, slots = self.space, at.slots
        if at.restart is not None:
            self.phase[slots[np.flatnonzero(at.restart)]] = 0
        out, phase = space.copy(at.f), self.phase[slots]
        first, second, third = (np.flatnonzero(phase == k) for k in range(3))
        if len(first):
            x, f = (space.take(part, first) for part in (at.x, at.f))
            space.put(self.x, slots[first], x)
            space.put(self.r, slots[first], f - x)
            self.base[slots[first]], self.phase[slots[first]] = at.residual[first], 1
        if len(second):
            x, f = (space.take(part, second) for part in (at.x, at.f))
            space.put(out, second, self._extrapolation(slots[second], x, f))
        if len(third):
            fails = ~(at.residual[third] <= self.growth_limit * self.base[slots[third]])
            self._grow(slots[third[~fails]])
            self.phase[slots[third]] = 0
            if fails.any():
                space.put(out, third[fails], self.fallback(slots[third[fails]]))
        return out

    def _grow(self, slots: Any) -> None:
        """Let the bounds grow that a has reached."""
        self.bound[slots[self.is_bound[slots]]] *= self.factor

    def _extrapolation(self, slots: Any, x: Any, f: Any) -> Any:
        """Return the extrapolated x of samples, or f where it would not be much longer than two steps."""
        space = self.space
        start, r = space.take(self.x, slots), space.take(self.r, slots)
        v = f - x - r
        above, below = (space.host(space.dot(part, part))[:, 0] for part in (r, v))
        ratio = np.sqrt(np.divide(above, below, out=np.ones_like(above), where=below > 0))
        a = np.clip(np.where(np.isfinite(ratio), ratio, 1), 1, self.bound[slots])
        self.is_bound[slots] = a == self.bound[slots]
        is_long = a > _NEARLY_ONE
        self.phase[slots] = np.where(is_long, 2, 0)
        self._grow(slots[~is_long])
        space.put(self.plain, slots, f)
        step = space.column(a)
        return space.where(space.column(is_long.astype(np.float64)) > 0, start + 2 * step * r + step * step * v, f)
