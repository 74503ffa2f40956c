"""Chebyshev's semi-iteration for affine maps with a real spectrum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..._check import count, type_name
from .base import Base
from .newton_krylov import inverse
from .protocol import Active


@dataclass
class Chebyshev(Base):
    """d <- momentum d + omega (f(x) - x), x <- x + d, for f(x) = M x + b with eigenvalues of M in ``bounds``.

    Without bounds these are estimated from ``estimates`` steps of Arnoldi's method, which also check that f is affine.
    A sample that fails, as f is not affine or has eigenvalues elsewhere, goes on by x <- f(x) from its best iterate.
    """

    name: ClassVar[str] = "chebyshev"
    growth: ClassVar[float] = 1e4
    rescues: ClassVar[bool] = True
    bounds: Any = None
    estimates: Any = 20

    def check(self, function: str) -> None:
        self.estimates = count(function, "estimates", self.estimates, 2)
        if self.bounds is None:
            return
        pair = self.bounds
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(map(_is_number, pair)):
            raise TypeError(f"{function}: bounds must be two numbers (low, high) or None, got {type_name(pair)}")
        low, high = map(float, pair)
        if not -math.inf < low <= high < 1:
            raise ValueError(f"{function}: bounds must have low <= high < 1, got {(low, high)}")
        self.bounds = (low, high)

    def begin(self) -> None:
        self.d = self.space.zeros(self.samples, self.n)
        self.low, self.high = np.zeros((2, self.samples))
        self.rho = np.zeros(self.samples)
        self.is_plain = np.zeros(self.samples, bool)

    def step(self, at: Active) -> Any:
        space, slots = self.space, at.slots
        if at.restart is not None:
            self.is_plain[slots[np.flatnonzero(at.restart)]] = True
        if at.steps == 0:
            self.low[slots], self.high[slots] = self.bounds if self.bounds is not None else self._estimated(at)
        # The eigenvalues of I - M are in [1 - high, 1 - low].
        low, high = 1 - self.high[slots], 1 - self.low[slots]
        centre, half = (high + low) / 2, np.maximum((high - low) / 2, 1e-12 * np.abs(high))
        before = self.rho[slots]
        first = at.steps == 0
        now = half / centre if first else 1 / (2 * centre / half - before)
        omega, momentum = (1 / centre, 0 * now) if first else (2 * now / half, now * before)
        self.rho[slots] = now
        d = space.column(momentum) * space.take(self.d, slots) + space.column(omega) * (at.f - at.x)
        space.put(self.d, slots, d)
        plain = self.is_plain[slots]
        return space.where(space.column(plain.astype(np.float64)) > 0, at.f, at.x + d) if plain.any() else at.x + d

    def _estimated(self, at: Active) -> tuple[Any, Any]:
        """Return bounds of the spectrum of each row, a twentieth of its width wider than Arnoldi's values."""
        space, rows = self.space, len(at.slots)
        at.f = space.copy(at.f)  # f may reuse this memory for the other points
        size = 1 + space.host(space.dot(at.x, at.x))[:, 0] ** 0.5
        v = space.column(np.ones(rows)) * space.normal(self.n)[None, :]
        v = v * space.column(inverse(space.host(space.dot(v, v))[:, 0] ** 0.5))
        limit = min(self.estimates, self.n)
        basis, hessenberg = [v], np.zeros((rows, limit + 1, limit))
        scale = space.column(size)
        for k in range(limit):
            w = (at.evaluate(at.x + scale * basis[k]) - at.f) / scale
            if k == 0:
                self._check_affine(at, basis[0], scale, w)
            for _ in range(2):
                for i, each in enumerate(basis):
                    part = space.dot(each, w)
                    w = w - part * each
                    hessenberg[:, i, k] += space.host(part)[:, 0]
            norm = space.host(space.dot(w, w))[:, 0] ** 0.5
            hessenberg[:, k + 1, k] = norm
            basis.append(w * space.column(inverse(norm)))
        return self._bounds(hessenberg[:, :limit], at)

    def _bounds(self, matrix: Any, at: Active) -> tuple[Any, Any]:
        low, high = np.zeros((2, len(matrix)))
        for i, each in enumerate(matrix):
            if not np.isfinite(each).all():
                raise ValueError(f"{self.function}: f must be finite near x0 for method 'chebyshev', got NaN or inf")
            values = np.linalg.eigvals(each)
            width = max(float(np.ptp(values.real)), 1e-3)
            if np.abs(values.imag).max() > max(0.01 * width, self.space.eps**0.5):
                raise ValueError(
                    f"{self.function}: f must have a real spectrum for method 'chebyshev', got an eigenvalue near "
                    f"{complex(values[np.abs(values.imag).argmax()]):.3g} in sample {at.slots[i]}"
                )
            low[i], high[i] = values.real.min() - 0.05 * width, values.real.max()
            if high[i] >= 1:
                raise ValueError(
                    f"{self.function}: f must have a spectrum below 1 for method 'chebyshev', got an eigenvalue near "
                    f"{high[i]:.3g} in sample {at.slots[i]}"
                )
            high[i] = min(high[i] + 0.05 * width, high[i] + 0.1 * (1 - high[i]))
        return low, high

    def _check_affine(self, at: Active, v: Any, scale: Any, w: Any) -> None:
        """Check that f(x + 2 v) - f(x) and f(x) - f(x - 2 v) are twice f(x + v) - f(x), up to rounding.

        A map with a kink, such as abs(x), may be affine on either side of it.
        """
        space, left = self.space, np.zeros(len(at.slots))
        for side in (2, -2):
            value = (at.evaluate(at.x + side * scale * v) - at.f) / scale
            left = np.maximum(left, space.host(space.dot(value - side * w, value - side * w))[:, 0] ** 0.5)
        f_size = space.host(space.dot(at.f, at.f))[:, 0] ** 0.5
        size = space.host(space.dot(w, w))[:, 0] ** 0.5 + f_size / space.host(scale)[:, 0] + 1
        wrong = np.flatnonzero(~(left <= 1e3 * space.eps * size))
        if len(wrong):
            raise ValueError(
                f"{self.function}: f must be affine, f(x) = M x + b, for method 'chebyshev', got one that is off by "
                f"{left[wrong[0]] / size[wrong[0]]:.2g} of its size in sample {at.slots[wrong[0]]}"
            )


def _is_number(x: object) -> bool:
    return isinstance(x, (int, float, np.floating, np.integer)) and not isinstance(x, bool)
