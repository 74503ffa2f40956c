"""Averages of x, f(x) and the first x: the iterations of Picard, Krasnoselskii and Mann, and Halpern."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..._check import positive
from .base import Base, number_or_rule, value_at
from .protocol import Active


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
