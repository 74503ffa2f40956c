"""The specification of fixed-point methods: equations in plain NumPy, for one sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def anderson_step(
    x: Sequence[Array], f: Sequence[Array], m: int, beta: float = 1.0, ridge: float = 0.0, kind: int = 2
) -> Array:
    """Return the iterate after ``x[0], ..., x[k]``, whose values are ``f[0], ..., f[k]``, each (n,).

    With r = f - x, g = x + beta r and the last min(m, n) differences of r, g and x,

        next = g_k - sum_i c_i dg_i,  c = argmin ||r_k - sum c_i dr_i||^2 + ridge sum (c_i ||dr_i||)^2     kind 2
        (D^-1 dX^T dR D^-1 + ridge S) (D c) = D^-1 dX^T r_k,  D = |diag(dX^T dR)|^(1/2)                 kind 1

    where S has the signs of the diagonal of dX^T dR. A difference whose diagonal is 0 is left out.
    """
    at, r = np.asarray(x, np.float64), np.asarray(f, np.float64) - np.asarray(x, np.float64)
    g = at + beta * r
    dr, dg, dx = (np.diff(each, axis=0)[-min(m, at.shape[1]) :] for each in (r, g, at))
    left = dr if kind == 2 else dx
    matrix, right = left @ dr.T, left @ r[-1]
    diagonal = np.diag(matrix)
    saved = np.flatnonzero(diagonal)
    scale = 1 / np.sqrt(np.abs(diagonal[saved]))
    matrix = matrix[np.ix_(saved, saved)] * np.outer(scale, scale) + ridge * np.diag(np.sign(diagonal[saved]))
    c = scale * np.linalg.solve(matrix, scale * right[saved])
    return np.asarray(g[-1] - c @ dg[saved])


def sinkhorn(C: Array, a: Array, b: Array, epsilon: float, steps: int) -> tuple[Array, Array]:
    """Return f (n,) and g (m,) after ``steps`` updates of g and f in turn from f = 0, and a last one of g; C is (n, m).

    Rows and columns without mass have f or g = -inf, and exp(-inf) = 0.
    """
    f = np.where(a > 0, 0.0, -np.inf)
    for step in range(steps + 1):
        g = np.array([epsilon * (_log(b[j]) - _log_sum_exp((f - C[:, j]) / epsilon)) for j in range(len(b))])
        if step < steps:
            f = np.array([epsilon * (_log(a[i]) - _log_sum_exp((g - C[i]) / epsilon)) for i in range(len(a))])
    return f, g


def mirror_prox_step(
    x: Array, r: Array, B: Callable[[Array], Array], t: float, beta: float = 0.0
) -> tuple[Array, Array]:
    """Return z and the next x (n,) of mirror prox on one simplex, with the reference r (n,).

    z ~ (x exp(-t B x) r^(beta t))^(1 / (1 + beta t)),  next ~ (x exp(-t B z) r^(beta t))^(1 / (1 + beta t))

    where ~ is equality after normalising the sum to 1.
    """

    def moved(direction: Array) -> Array:
        power = (x * np.exp(-t * direction) * r ** (beta * t)) ** (1 / (1 + beta * t))
        return np.asarray(power / power.sum())

    z = moved(B(x))
    return z, moved(B(z))


def _log(x: float) -> float:
    return float(np.log(x)) if x > 0 else -np.inf


def transport_sweep(
    q: Array, sigma: Array, h: Array, mu: Array, weights: Array, incoming: Array
) -> tuple[Array, Array]:
    """Return phi (I,) and the outgoing flux (N,) of a slab: q, sigma and h (I,); mu, weights and incoming (N,)."""
    cells, phi, psi = range(len(q)), np.zeros(len(q)), np.array(incoming, np.float64)
    for n in range(len(mu)):
        for i in cells if mu[n] > 0 else reversed(cells):
            slope = abs(mu[n]) / h[i]
            # slope (out - in) + sigma mean = q / 2, with mean = (out + in) / 2
            out = ((slope - sigma[i] / 2) * psi[n] + q[i] / 2) / (slope + sigma[i] / 2)
            phi[i] += weights[n] * (psi[n] + out) / 2
            psi[n] = out
    return phi, psi


def _log_sum_exp(t: Array) -> float:
    return float(t.max() + np.log(np.exp(t - t.max()).sum()))
