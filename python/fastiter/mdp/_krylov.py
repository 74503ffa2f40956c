"""The values of a policy: (1 - gamma P) v = r by BiCGSTAB, with sweeps of the policy's operator where it fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_MOST = 500  # iterations of BiCGSTAB between two looks at the true residual
_SWEEPS = 50  # of the policy's operator where BiCGSTAB has not helped


class Chain:
    """A Markov chain with its rewards, or others, and its discount."""

    def __init__(
        self, model: Any, discount: float, dtype: np.dtype[Any], states: int, reward: Array | None = None
    ) -> None:
        self._model, self._discount, self._reward = model, discount, reward
        self._none = np.zeros(states, dtype)

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
        self._model.backup(v, w, None, count, self._discount, self._reward)
        return w if count % 2 else v


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
        The most rounds of BiCGSTAB; each that does not halve the residual is followed by sweeps.
    """
    residual = chain.residual(v)
    size = norm(residual)
    for _ in range(most):
        if size <= target:
            break
        found = v + bicgstab(chain, residual, max(target, 1e-14 * size))
        if not np.isfinite(found).all():
            found = v
        remaining = chain.residual(found)
        if norm(remaining) > size / 2:
            swept = chain.sweep(found if norm(remaining) < size else v, _SWEEPS)
            after = chain.residual(swept)
            if norm(after) < norm(remaining):
                found, remaining = swept, after
        if not norm(remaining) < 0.9 * size:
            return found if norm(remaining) < size else v
        v, residual, size = found, remaining, norm(remaining)
    return v


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
