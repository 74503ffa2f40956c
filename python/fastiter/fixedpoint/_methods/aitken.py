"""Aitken's relaxation, for each sample or component."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..._check import check_flag, positive
from .base import Accelerated
from .protocol import Active


@dataclass
class Aitken(Accelerated):
    """x <- x + omega (f(x) - x), with the omega for which the last step would have been exact.

    omega <- -omega r_old.(r - r_old) / ||r - r_old||^2 for each sample (Irons and Tuck 1969), or for each component,
    but no larger in absolute value than ``largest``; ``relaxation`` where it is undefined, as r = r_old.
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
        self.x, self.last = (space.zeros(self.samples, self.n) for _ in range(2))
        self.has_last = np.zeros(self.samples, bool)

    def fallback(self, slots: Any) -> Any:
        last, omega = self.space.take(self.last, slots), self.space.take(self.omega, slots)
        self.space.put(self.omega, slots, omega * 0 + self.relaxation)
        return self.space.take(self.x, slots) + self.relaxation * last

    def step(self, at: Active) -> Any:
        space, r = self.space, at.f - at.x
        last, omega = space.take(self.last, at.slots), space.take(self.omega, at.slots)
        change = r - last
        above, below = (last * change, change * change) if self.componentwise else self._dots(last, change)
        usable = below > 0
        result = -omega * above / space.where(usable, below, below * 0 + 1)
        size = abs(result)
        result = space.where(
            size > self.largest, result * (self.largest / space.where(size > 0, size, size * 0 + 1)), result
        )
        result = space.where((size < math.inf) & usable, result, omega * 0 + self.relaxation)
        known = self.has_last[at.slots]
        if at.restart is not None:
            known = known & (at.restart == 0)
        mask = space.column(known.astype(np.float64)) > 0
        omega = space.where(mask, result, omega * 0 + self.relaxation)
        space.put(self.omega, at.slots, omega)
        space.put(self.last, at.slots, r)
        space.put(self.x, at.slots, at.x)
        self.has_last[at.slots] = True
        return at.x + omega * r

    def _dots(self, last: Any, change: Any) -> tuple[Any, Any]:
        return self.space.dot(last, change), self.space.dot(change, change)
