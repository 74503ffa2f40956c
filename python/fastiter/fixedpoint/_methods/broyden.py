"""The good Broyden method with limited memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ... import _core
from ..._check import count, positive
from .base import Accelerated
from .protocol import Active

#: Initial capacity of a history, in updates
FIRST_ROOM = 16


@dataclass
class Broyden(Accelerated):
    """x <- x - H (f(x) - x), with rank-one updates of H = -damping I by the secant condition of each step.

    A step that increases the residual by more than a factor of ``growth_limit`` is halved, up to ``halvings`` times.
    """

    name: ClassVar[str] = "broyden"
    growth: ClassVar[float] = 1e3
    rescues: ClassVar[bool] = True
    m: Any = 100
    damping: Any = 1.0
    growth_limit: Any = 100.0
    halvings: Any = 4

    def check(self, function: str) -> None:
        self.m = count(function, "m", self.m, 1)
        self.damping = positive(function, "damping", self.damping, zero=False)
        self.growth_limit = positive(function, "growth_limit", self.growth_limit, zero=False)
        self.halvings = count(function, "halvings", self.halvings)

    def begin(self) -> None:
        space, samples, n = self.space, self.samples, self.n
        self.room = min(self.m, FIRST_ROOM)
        last = (space.zeros(samples, n) for _ in range(2))
        updates = (space.zeros(samples, self.room, n) for _ in range(2))
        self.history = (*last, *updates, np.full(samples, -1))
        self.base, self.halved = np.full(samples, np.inf), np.zeros(samples, np.int64)

    def _grow(self) -> None:
        """Double the capacity, up to m updates, before the oldest would be dropped."""
        last_x, last_r, u, v, pushed = self.history
        new = min(self.m, 2 * self.room)
        if int(pushed.max(initial=0)) < self.room or new == self.room:
            return
        larger = [self.space.zeros(self.samples, new, self.n) for _ in range(2)]
        for to, of in zip(larger, (u, v), strict=True):
            to[:, : self.room] = of
        self.history, self.room = (last_x, last_r, *larger, pushed), new

    def resumed(self, other: Any) -> Broyden:
        self.room = other.room
        self.history = tuple(map(self.space.copy, other.history))
        pushed = self.history[4]
        pushed[pushed >= 0] = -1 - pushed[pushed >= 0]
        return self

    def fallback(self, slots: Any) -> Any:
        self.history[4][slots] = 0  # updates that have led out of the domain would again
        return self.space.take(self.history[0], slots) + self.damping * self.space.take(self.history[1], slots)

    def step(self, at: Active) -> Any:
        slots, space = at.slots, self.space
        if at.restart is not None:
            self.base[slots[np.flatnonzero(at.restart)]] = np.inf
        residual = at.residual
        shorter = ~(residual <= self.growth_limit * self.base[slots]) & (self.halved[slots] < self.halvings)
        if not shorter.any():
            self.base[slots], self.halved[slots] = residual, 0
            return self._move(slots, at.x, at.f, at.restart)
        back, on = np.flatnonzero(shorter), np.flatnonzero(~shorter)
        out = space.empty(len(slots), self.n)
        space.put(out, back, 0.5 * (space.take(at.x, back) + space.take(self.history[0], slots[back])))
        self.halved[slots[back]] += 1
        if len(on):
            self.base[slots[on]], self.halved[slots[on]] = residual[on], 0
            chosen, restart = at.rows(on)
            space.put(out, on, self._move(chosen, space.take(at.x, on), space.take(at.f, on), restart))
        return out

    def _move(self, slots: Any, x: Any, f: Any, restart: Any) -> Any:
        space = self.space
        self._grow()
        if not space.bits:
            return self._plain(slots, x, f, restart)
        out = space.empty(len(slots), self.n)
        vectors, sizes = (slots, x, f, out), (len(slots), self.n, self.room)
        _core.fixedpoint.broyden(space.bits, sizes, vectors, self.history, restart, self.damping)
        return out

    def _plain(self, slots: Any, x: Any, f: Any, restart: Any) -> Any:
        """Compute the step by array operations, where the kernels do not run."""
        space, m = self.space, self.room
        last_x, last_r, all_u, all_v, pushed = self.history
        before = pushed[slots] if restart is None else np.where(restart, -1, pushed[slots])
        r = f - x
        s, y = x - space.take(last_x, slots), r - space.take(last_r, slots)
        space.put(last_x, slots, x)
        space.put(last_r, slots, r)
        has_last = before >= 0
        filled = np.minimum(np.where(has_last, before + 1, -1 - before), m)
        at = np.where(has_last, before % m, -1)
        index = np.arange(m)
        used = (index < filled[:, None]) & (index != at[:, None])
        mask = space.column(used.reshape(-1).astype(np.float64)).reshape(len(slots), m, 1)
        u, v = mask * all_u[slots], mask * all_v[slots]
        new_v = self._combined(v, u, s) - self.damping * s
        new_u = s + self.damping * y - self._combined(u, v, y)
        below = space.dot(new_v, y)
        usable = (abs(below) > 0) & (space.column(has_last.astype(np.float64)) > 0)
        new_u = space.where(usable, new_u / space.where(usable, below, below * 0 + 1), new_u * 0)
        new_v = space.where(usable, new_v, new_v * 0)
        rows = np.flatnonzero(has_last)
        if len(rows):
            all_u[slots[rows], at[rows]] = space.take(new_u, rows)
            all_v[slots[rows], at[rows]] = space.take(new_v, rows)
        pushed[slots] = np.where(has_last, before + 1, -1 - before)
        return x + self.damping * r - self._combined(u, v, r) - new_u * space.dot(new_v, r)

    @staticmethod
    def _combined(a: Any, b: Any, x: Any) -> Any:
        """Return sum_i a_i (b_i.x) of each row."""
        return (a.swapaxes(1, 2) @ (b @ x[:, :, None]))[:, :, 0]
