"""The values of a policy: (1 - gamma P) v = r by BiCGSTAB, with sweeps of the policy's operator where it fails."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .._solution import ConvergenceError
from ._work import PIECE

Array = npt.NDArray[Any]

_MOST = 500  # iterations of BiCGSTAB between two looks at the true residual
_SWEEPS = 50  # of the policy's operator where BiCGSTAB has not helped
_MOST_SWEEPS = 250_000  # the same, where values are wanted to rounding


class Chain:
    """A Markov chain with its rewards, or others, and its discount.

    ``modulus`` is the factor by which a sweep shrinks a residual in the end, by default the discount.
    """

    def __init__(
        self,
        model: Any,
        discount: float,
        dtype: np.dtype[Any],
        states: int,
        reward: Array | None = None,
        modulus: float | None = None,
    ) -> None:
        self._model, self._discount, self._reward = model, discount, reward
        self._none = np.zeros(states, dtype)
        self.modulus = discount if modulus is None else modulus

    def with_reward(self, reward: Array) -> Chain:
        """Return the chain with other rewards."""
        return Chain(self._model, self._discount, reward.dtype, len(reward), reward, self.modulus)

    def residual(self, v: Array) -> Array:
        """Return r + gamma P v - v."""
        w = np.empty_like(v)
        self._model.backup(v, w, None, 1, self._discount, self._reward)
        w -= v
        return w

    def multiply(self, x: Array) -> Array:
        """Return x - gamma P x."""
        w = np.empty_like(x)
        self._model.backup(x, w, None, 1, self._discount, self._none)
        return np.subtract(x, w, out=w)

    def sweep(self, v: Array, count: int) -> Array:
        """Return v after sweeps v <- r + gamma P v."""
        v, w = v.copy(), np.empty_like(v)
        pieces = max(1, PIECE // max(len(v), 1))
        while count > 0:
            now = min(count, pieces)
            self._model.backup(v, w, None, now, self._discount, self._reward)
            if now % 2:
                v, w = w, v
            count -= now
        return v

    def sweeps_to_an_eighth(self) -> int:
        """Return how many sweeps shrink a residual to an eighth, at most ``_MOST_SWEEPS``."""
        if not 0 < self.modulus < 1:
            return _SWEEPS
        return min(max(_SWEEPS, math.ceil(math.log(0.125) / math.log(self.modulus))), _MOST_SWEEPS)


def norm(x: Array) -> float:
    """Return the 2-norm, summed in float64."""
    return float(np.sqrt(np.dot(x, x))) if x.dtype == np.float64 else float(np.linalg.norm(x.astype(np.float64)))


def solve(chain: Chain, v: Array, target: float, most: int = 20) -> Array:
    """Return values whose residual has a 2-norm of at most ``target``, or the best that rounding allows.

    Parameters
    ----------
    chain : Chain
        The chain.
    v : (S,)
        The first guess; not changed.
    target : float
        The 2-norm of r + gamma P v - v to reach; 0 asks for the best.
    most : int
        The most rounds of BiCGSTAB; after one that does not halve the residual all are sweeps, as on long cycles.
    """
    residual = chain.residual(v)
    size, helps = norm(residual), True
    sweeps = _SWEEPS if most == 1 else chain.sweeps_to_an_eighth()
    for _ in range(most):
        if size <= target:
            break
        found = v + bicgstab(chain, residual, max(target, 1e-14 * size)) if helps else v
        if not np.isfinite(found).all():
            found = v
        remaining = chain.residual(found)
        if norm(remaining) > size / 2:
            helps = False
            swept = chain.sweep(found if norm(remaining) < size else v, sweeps)
            after = chain.residual(swept)
            if norm(after) < norm(remaining):
                found, remaining = swept, after
        if not norm(remaining) < 0.9 * size:
            return found if norm(remaining) < size else v
        v, residual, size = found, remaining, norm(remaining)
    return v


def solved(function: str, chain: Chain, b: Array) -> Array:
    """Return values whose residual is rounding, of the rewards b; raise where there are none.

    Rewards are divided by a power of 2 near the largest, as squares of huge or tiny ones overflow or vanish.
    """
    exponent = int(np.frexp(np.abs(b).max(initial=0))[1])
    scaled = np.ldexp(b, -exponent)
    chain = chain.with_reward(scaled)
    x = solve(chain, np.zeros_like(b), 0.0)
    remaining, size = norm(chain.residual(x)), norm(scaled)
    if not remaining <= 1e3 * np.finfo(b.dtype).eps * max(size, norm(x)):
        raise ConvergenceError(f"{function}: the residual of a policy's values must vanish, got {remaining:.2g}")
    with np.errstate(over="ignore"):
        values: Array = np.ldexp(x, exponent)
    if not np.isfinite(values).all():
        raise ConvergenceError(f"{function}: values must be within the range of {b.dtype}, got larger ones")
    return values


def bicgstab(chain: Chain, b: Array, target: float) -> Array:
    """Return x with |b - (1 - gamma P) x| <= target by BiCGSTAB from 0, or the last x before it broke down."""
    x, r = np.zeros_like(b), b.copy()
    shadow, p, v = r.copy(), np.zeros_like(b), np.zeros_like(b)
    rho = alpha = omega = 1.0
    for _ in range(_MOST):
        rho, before = float(np.dot(shadow, r)), rho
        if rho == 0 or omega == 0:
            return x
        p = r + r.dtype.type(rho / before * (alpha / omega)) * (p - r.dtype.type(omega) * v)
        v = chain.multiply(p)
        below = float(np.dot(shadow, v))
        if below == 0:
            return x
        alpha = rho / below
        s = r - r.dtype.type(alpha) * v
        t = chain.multiply(s)
        square = float(np.dot(t, t))
        omega = float(np.dot(t, s)) / square if square else 0.0
        x += r.dtype.type(alpha) * p + r.dtype.type(omega) * s
        r = s - r.dtype.type(omega) * t
        if norm(r) <= target:
            return x
    return x
