"""The spectral radius of Jacobi's iteration matrix, from products and sweeps alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ._prepare import System

Array = npt.NDArray[Any]

#: Windows after which a larger omega has to have paid
SETTLED = 4

#: Products that an estimate may take, and after how many it looks whether the last ones have changed anything
MOST, EVERY = 120, 10


def jacobi_range(jacobi: System) -> tuple[float, float]:
    """Return the least and the largest eigenvalue of I - D^-1 A as estimated from inside, D in blocks if it is.

    By Lanczos' method where that is possible. Else both are taken from the growth of powers, and are -rho and rho. A
    batch is one matrix, with its matrices as blocks.
    """
    found = lanczos(jacobi) if is_definite(jacobi) else None
    if found is not None:
        return found
    rho = power(lambda x: x - jacobi.divided(jacobi.times(x)), jacobi.random())
    return -rho, rho


def is_definite(jacobi: System) -> bool:
    """Say whether A looks Hermitian, with a diagonal that is positive definite."""
    return jacobi.has_positive_diagonal() and is_hermitian(jacobi)


def is_hermitian(system: System) -> bool:
    """Say whether A looks Hermitian, by its products with two vectors."""
    u, v = system.random(0), system.random(1)
    Au, Av = system.times(u), system.times(v)
    scale = float(np.linalg.norm(u) * np.linalg.norm(Av)) * float(np.finfo(system.dtype).eps)
    return bool(abs(complex(np.vdot(u, Av)) - complex(np.vdot(Au, v))) <= 10 * scale)


def power(apply: Callable[[Array], Array], x: Array, most: int | None = None) -> float:
    """Return the mean growth of x over the last half of the powers."""
    growth: list[float] = []
    for _ in range(MOST if most is None else most):
        norm = float(np.linalg.norm(x))
        if norm == 0 or not math.isfinite(norm):
            break
        x = apply(x / x.dtype.type(norm))
        growth.append(float(np.linalg.norm(x)))
    return mean_growth(growth)


def mean_growth(growth: list[float]) -> float:
    """Return the geometric mean over the last half."""
    if not growth or growth[-1] == 0:
        return 0.0
    late = growth[len(growth) // 2 :]
    return math.exp(sum(math.log(g) for g in late if g > 0) / len(late))


def lanczos(jacobi: System) -> tuple[float, float] | None:
    """Return the range of I - D^-1 A by the inner product of D, in which D^-1 A is Hermitian; None where it is none.

    With each v goes q = D v. The recurrence is that of the q, and v = D^-1 q: no product with D is ever taken.
    """
    q = jacobi.random()
    v, before = jacobi.divided(q), np.zeros_like(q)
    alphas: list[float] = []
    betas = [0.0]
    found, most, nothing = (0.0, 0.0), min(MOST, v.size), (10 * float(np.finfo(q.dtype).eps)) ** 2
    square = _dot(v, q)
    for step in range(1, most + 1):
        if not square > 0:
            return None
        scale = v.real.dtype.type(1 / math.sqrt(square))
        v, q = scale * v, scale * q
        p = jacobi.times(v)
        alphas.append(_dot(v, p))
        p -= q.real.dtype.type(alphas[-1]) * q + q.real.dtype.type(betas[-1]) * before
        v, q, before = jacobi.divided(p), p, q
        square = _dot(v, q)
        is_done = abs(square) < nothing or step == most
        if step % EVERY == 0 or is_done:
            last, found = found, extremes(alphas, betas[1:])
            if is_done or abs(found[1] - last[1]) <= 0.02 * abs(1 - found[1]):
                break
        betas.append(math.sqrt(max(square, 0.0)))
    return found


def _dot(u: Array, v: Array) -> float:
    return float(np.vdot(u, v).real)


def extremes(alphas: list[float], betas: list[float]) -> tuple[float, float]:
    """Return the range of I minus the tridiagonal matrix of alphas and betas."""
    off = betas[: len(alphas) - 1]
    values = 1 - np.linalg.eigvalsh(np.diag(alphas) + np.diag(off, 1) + np.diag(off, -1))
    return float(values[-1]), float(values[0])


def young(beta: float) -> float:
    """The best omega of SOR for a consistently ordered matrix; 1 where Jacobi does not converge."""
    return 2 / (1 + math.sqrt(1 - beta * beta)) if 0 <= beta < 1 else 1.0


class Adaptive:
    """Young's and Hageman's estimate: while omega is below the best, the residual's factor tells rho, and so omega.

    factor = lam gives beta = (lam + omega - 1) / (omega sqrt(lam)). At the best omega and above, the factor is
    omega - 1 and oscillates, and tells nothing; near it the factor takes long to settle. So omega grows only where two
    windows in a row agree that the rate is far below that of omega - 1. Where the residual grows, it comes down. The
    theory is that of consistently ordered matrices. For others a larger omega may be worse: one that has not paid is
    taken back for good.
    """

    def __init__(self, omega: float) -> None:
        self.omega = omega
        self._start: tuple[int, float] | None = None
        self._last, self._best = 0.0, math.inf
        self._trial: Trial | None = None
        self._is_fixed = False

    def observe(self, steps: int, norms: Array) -> None:
        """Note a residual."""
        if self._is_fixed:
            return
        now = (steps, float(np.max(norms, initial=0)))
        self._best = min(self._best, now[1])
        if now[1] > 10 * self._best:
            self.omega, self._start, self._best = 1 + (self.omega - 1) / 2, now, now[1]
        if self._start is None:
            self._start = now
        window = max(20, 4 / (2 - self.omega))
        if self._trial is not None and steps - self._trial.since[0] >= SETTLED * window:
            if not self._has_paid(factor(self._trial.since, now)):
                return
            self._trial = None
        if steps - self._start[0] < window:
            return
        lam, last = factor(self._start, now), self._last
        self._start, self._last = now, lam
        is_steady = 0 < lam < 1 and abs(lam - last) < 0.1 * (1 - lam)
        if not is_steady or math.log(lam) < 0.4 * math.log(max(self.omega - 1, 1e-300)):
            return
        beta = (lam + self.omega - 1) / (self.omega * math.sqrt(lam))
        if self.omega < young(beta) < 2 and (self._trial is None or self._has_paid(lam)):
            self._trial = Trial(now, lam, self.omega)
            self.omega, self._last = young(beta), 0.0

    def _has_paid(self, lam: float) -> bool:
        """Say whether the residual falls faster than before, by the theory it does by far; else take omega back."""
        if self._trial is None or lam <= 0 or math.log(lam) < 1.05 * math.log(self._trial.factor):
            return True
        self.omega, self._is_fixed = self._trial.omega, True
        return False


class Trial(NamedTuple):
    """Of a larger omega: since when, and the factor and the omega before."""

    since: tuple[int, float]
    factor: float
    omega: float


def factor(first: tuple[int, float], last: tuple[int, float]) -> float:
    """Return by how much the residual falls a step, from (steps, residual) twice; 0 where that says nothing."""
    (s, before), (t, now) = first, last
    if t == s or before <= 0 or now <= 0 or not math.isfinite(now):
        return 0.0
    return math.exp(math.log(now / before) / (t - s))
