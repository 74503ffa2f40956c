"""The spectral radius of Jacobi's iteration matrix, from matrix-vector products alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ._prepare import JACOBI, System

Array = npt.NDArray[Any]

#: Products that an estimate may take, and after how many it looks whether the last ones have changed anything
MOST, EVERY = 120, 10


def jacobi_range(jacobi: System, symmetric: bool) -> tuple[float, float]:
    """Return the least and the largest eigenvalue of I - D^-1 A as estimated from inside.

    symmetric: Lanczos' method in the inner product of D, in which D^-1 A is symmetric if A is, and D positive. Else
    both are taken from the growth of powers, and are -rho and rho.
    """
    if symmetric:
        return _lanczos(jacobi)
    rho = power(lambda x: _apply(jacobi, x), jacobi.rows, jacobi.dtype)
    return -rho, rho


def _apply(jacobi: System, x: Array) -> Array:
    """(I - D^-1 A) x, one Jacobi step for b = 0."""
    y = np.array(x)
    jacobi.of(jacobi.dtype).sweep(y, np.zeros_like(y), 0, 1, np.ones(1), 0, 1, JACOBI)
    return y


def start(n: int, dtype: np.dtype[Any]) -> Array:
    """Return a vector that is as good as any: random, but always the same."""
    return np.random.default_rng(n).standard_normal(n).astype(dtype)


def power(apply: Any, n: int, dtype: np.dtype[Any]) -> float:
    """Return the mean growth of a vector over the last half of the powers."""
    x, growth = start(n, dtype), []
    for _ in range(MOST):
        norm = float(np.linalg.norm(x))
        if norm == 0 or not math.isfinite(norm):
            break
        x = apply(x / norm)
        growth.append(float(np.linalg.norm(x)))
    if not growth or growth[-1] == 0:
        return 0.0
    late = growth[len(growth) // 2 :]
    return math.exp(sum(math.log(g) for g in late if g > 0) / len(late))


def _diagonal(jacobi: System) -> Array:
    """D, from one step for x = 0 and b = 1, which is D^-1 b."""
    x = np.zeros(jacobi.rows, jacobi.dtype)
    jacobi.of(jacobi.dtype).sweep(x, np.ones_like(x), 0, 1, np.ones(1), 0, 1, JACOBI)
    return 1 / x.real.astype(np.float64)


def _lanczos(jacobi: System) -> tuple[float, float]:
    d = _diagonal(jacobi)
    v = start(jacobi.rows, jacobi.dtype)
    before, alphas, betas = np.zeros_like(v), [], [0.0]
    v /= math.sqrt(np.vdot(v, d * v).real)
    found = (0.0, 0.0)
    for step in range(1, min(MOST, jacobi.rows) + 1):
        w = _apply(jacobi, v)
        alpha = float(np.vdot(d * v, w).real)
        w = w - alpha * v - betas[-1] * before
        beta = math.sqrt(max(0.0, float(np.vdot(w, d * w).real)))
        alphas.append(alpha)
        if step % EVERY == 0 or beta < 1e-10 or step == min(MOST, jacobi.rows):
            last, found = found, _extremes(alphas, betas[1:])
            is_steady = abs(found[1] - last[1]) <= 0.02 * abs(1 - found[1])
            if beta < 1e-10 or is_steady:
                break
        before, v = v, (w / beta).astype(jacobi.dtype)
        betas.append(beta)
    return found


def _extremes(alphas: list[float], betas: list[float]) -> tuple[float, float]:
    off = betas[: len(alphas) - 1]
    values = np.linalg.eigvalsh(np.diag(alphas) + np.diag(off, 1) + np.diag(off, -1))
    return float(values[0]), float(values[-1])


def young(beta: float) -> float:
    """The best omega of SOR for a consistently ordered matrix; 1 where Jacobi does not converge."""
    return 2 / (1 + math.sqrt(1 - beta * beta)) if 0 <= beta < 1 else 1.0


class Adaptive:
    """Young's and Hageman's estimate: while omega is below the best, the residual's factor tells rho, and so omega.

    factor = lam gives beta = (lam + omega - 1) / (omega sqrt(lam)). At the best omega and above, the factor is
    omega - 1 and oscillates, and tells nothing; near it the factor takes long to settle. So omega grows only where two
    windows in a row agree that the rate is far below that of omega - 1. Where the residual grows, it comes down.
    """

    def __init__(self, omega: float) -> None:
        self.omega = omega
        self._start: tuple[int, float] | None = None
        self._last, self._best = 0.0, math.inf

    def observe(self, steps: int, norms: Array) -> None:
        """Note a residual."""
        now = (steps, float(np.max(norms, initial=0)))
        self._best = min(self._best, now[1])
        if now[1] > 10 * self._best:
            self.omega, self._start, self._best = 1 + (self.omega - 1) / 2, now, now[1]
        if self._start is None:
            self._start = now
        if steps - self._start[0] < max(20, 4 / (2 - self.omega)):
            return
        lam, last = _factor(self._start, now), self._last
        self._start, self._last = now, lam
        is_steady = 0 < lam < 1 and abs(lam - last) < 0.1 * (1 - lam)
        if not is_steady or math.log(lam) < 0.4 * math.log(max(self.omega - 1, 1e-300)):
            return
        beta = (lam + self.omega - 1) / (self.omega * math.sqrt(lam))
        if self.omega < young(beta) < 2:
            self.omega, self._last = young(beta), 0.0


def _factor(first: tuple[int, float], last: tuple[int, float]) -> float:
    (s, before), (t, now) = first, last
    if t == s or before <= 0 or now <= 0 or not math.isfinite(now):
        return 0.0
    return math.exp(math.log(now / before) / (t - s))
