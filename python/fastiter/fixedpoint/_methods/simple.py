"""Methods that keep at most a few vectors of each sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..._check import check_flag, positive
from .._solve import Active
from .base import Base, number_or_rule, value_at


@dataclass
class Picard(Base):
    """x <- x + damping (f(x) - x)."""

    name: ClassVar[str] = "picard"
    damping: Any = 1.0

    def check(self, function: str) -> None:
        self.damping = positive(function, "damping", self.damping, zero=False)

    def step(self, at: Active) -> Any:
        if self.damping == 1:
            return self.space.copy(at.f)
        return at.x + self.damping * (at.f - at.x)


@dataclass
class KrasnoselskiiMann(Base):
    """x <- x + relaxation_k (f(x) - x), which converges for every non-expansive map with a fixed point."""

    name: ClassVar[str] = "krasnoselskii_mann"
    relaxation: Any = 0.5

    def check(self, function: str) -> None:
        self.relaxation = number_or_rule(function, "relaxation", self.relaxation, positive)

    def step(self, at: Active) -> Any:
        return at.x + value_at(self.relaxation, self.function, "relaxation", at.steps) * (at.f - at.x)


@dataclass
class Halpern(Base):
    """x <- x_0 / (k + 2) + (1 - 1 / (k + 2)) f(x)."""

    name: ClassVar[str] = "halpern"

    def begin(self) -> None:
        self.anchor = None

    def step(self, at: Active) -> Any:
        if self.anchor is None:
            self.anchor = self.space.copy(at.x) if len(at.slots) == self.samples else self._anchor(at)
        weight = 1 / (at.steps + 2)
        return weight * self.space.take(self.anchor, at.slots) + (1 - weight) * at.f

    def _anchor(self, at: Active) -> Any:
        anchor = self.space.zeros(self.samples, self.n)
        self.space.put(anchor, at.slots, at.x)
        return anchor


@dataclass
class Aitken(Base):
    """x <- x + omega (f(x) - x), with the omega for which the last step would have been exact.

    omega <- -omega r_old.(r - r_old) / ||r - r_old||^2 for each sample (Irons and Tuck 1969), or for each component.
    """

    name: ClassVar[str] = "aitken"
    growth: ClassVar[float] = 1e3
    rescues: ClassVar[bool] = True
    relaxation: Any = 1.0
    componentwise: Any = False
    largest: Any = 100.0

    def check(self, function: str) -> None:
        self.relaxation = positive(function, "relaxation", self.relaxation, zero=False)
        self.largest = positive(function, "largest", self.largest, zero=False)
        check_flag(function, "componentwise", self.componentwise)

    def begin(self) -> None:
        space = self.space
        self.omega = space.zeros(self.samples, self.n if self.componentwise else 1) + self.relaxation
        self.last = space.zeros(self.samples, self.n)
        self.has_last = np.zeros(self.samples, bool)

    def step(self, at: Active) -> Any:
        space, r = self.space, at.f - at.x
        last, omega = space.take(self.last, at.slots), space.take(self.omega, at.slots)
        change = r - last
        above, below = (last * change, change * change) if self.componentwise else self._dots(last, change)
        usable = below > 0
        found = -omega * above / space.where(usable, below, below * 0 + 1)
        found = space.where((abs(found) <= self.largest) & usable, found, omega * 0 + self.relaxation)
        known = self.has_last[at.slots]
        if at.restart is not None:
            known = known & (at.restart == 0)
        mask = space.column(known.astype(np.float64)) > 0
        omega = space.where(mask, found, omega * 0 + self.relaxation)
        space.put(self.omega, at.slots, omega)
        space.put(self.last, at.slots, r)
        self.has_last[at.slots] = True
        return at.x + omega * r

    def _dots(self, last: Any, change: Any) -> tuple[Any, Any]:
        return self.space.dot(last, change), self.space.dot(change, change)


@dataclass
class Squarem(Base):
    """Two steps r = f(x) - x and v = f(f(x)) - f(x) - r, then x - 2 a r + a^2 v with a = -||r|| / ||v||, then f.

    If the residual of the extrapolation exceeds ``growth_limit`` times that of x, f(f(x)) is used in its place.
    """

    name: ClassVar[str] = "squarem"
    growth: ClassVar[float] = 1e4
    rescues: ClassVar[bool] = True
    growth_limit: Any = 10.0
    largest: Any = 1e3

    def check(self, function: str) -> None:
        self.growth_limit = positive(function, "growth_limit", self.growth_limit, zero=False)
        self.largest = positive(function, "largest", self.largest, zero=False)

    def begin(self) -> None:
        self.x, self.r, self.plain = (self.space.zeros(self.samples, self.n) for _ in range(3))
        self.base = np.zeros(self.samples)

    def step(self, at: Active) -> Any:
        space, phase = self.space, at.steps % 3
        if phase == 0:
            space.put(self.x, at.slots, at.x)
            space.put(self.r, at.slots, at.f - at.x)
            self.base[at.slots] = at.residual
            return space.copy(at.f)
        if phase == 1:
            space.put(self.plain, at.slots, at.f)
            found = self._extrapolated(at)
            if at.restart is None:
                return found
            fresh = space.column(np.asarray(at.restart, np.float64)) > 0
            return space.where(fresh, at.f, found)
        worse = ~(at.residual <= self.growth_limit * self.base[at.slots])
        if not worse.any():
            return space.copy(at.f)
        return space.where(space.column(worse.astype(np.float64)) > 0, space.take(self.plain, at.slots), at.f)

    def _extrapolated(self, at: Active) -> Any:
        space = self.space
        x, r = space.take(self.x, at.slots), space.take(self.r, at.slots)
        v = at.f - at.x - r
        above, below = space.dot(r, r), space.dot(v, v)
        step = (above / space.where(below > 0, below, below * 0 + 1)) ** 0.5
        usable = (below > 0) & (step > 1) & (step <= self.largest)
        step = space.where(usable, step, step * 0 + 1)  # 1: f(f(x))
        return x + 2 * step * r + step * step * v
