"""The specification of block coordinate descent: dense NumPy loops, with everything recomputed in each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Problem(NamedTuple):
    """A loss "squares", "logistic", "softmax" or "quadratic", and vectors with one number for each coordinate."""

    loss: str
    A: Array
    b: Array
    l1: Array
    l2: Array
    lower: Array
    upper: Array
    classes: int = 1


def objective(p: Problem, x: Array) -> float:
    """Return the objective."""
    z = p.A @ x.reshape(p.A.shape[1], p.classes)
    if p.loss == "quadratic":
        smooth = x @ z[:, 0] / 2 - p.b @ x
    elif p.loss == "squares":
        smooth = ((z[:, 0] - p.b) ** 2).sum() / 2
    elif p.loss == "logistic":
        smooth = (np.log1p(np.exp(-abs(z[:, 0]))) + np.maximum(z[:, 0], 0) - p.b * z[:, 0]).sum()
    else:
        top = z.max(axis=1)
        smooth = (np.log(np.exp(z - top[:, None]).sum(axis=1)) + top - z[np.arange(len(z)), p.b.astype(int)]).sum()
    return float(smooth + (p.l1 * abs(x) + p.l2 * x * x / 2).sum())


def _probabilities(p: Problem, x: Array) -> Array:
    z = p.A @ x.reshape(p.A.shape[1], p.classes)
    if p.loss == "logistic":
        return np.asarray(1 / (1 + np.exp(-z)))
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def gradient(p: Problem, x: Array) -> Array:
    """Return the gradient of the loss and of l2."""
    if p.loss == "quadratic":
        own = p.A @ x - p.b
    elif p.loss == "squares":
        own = p.A.T @ (p.A @ x - p.b)
    else:
        target = p.b[:, None] if p.loss == "logistic" else np.eye(p.classes)[p.b.astype(int)]
        own = (p.A.T @ (_probabilities(p, x) - target)).ravel()
    return np.asarray(own + p.l2 * x)


def hessian(p: Problem, x: Array | None = None) -> Array:
    """Return the second derivatives at x; without x, an upper bound of them as a matrix (Boehning's for softmax)."""
    k, rows = p.classes, p.A
    if p.loss == "quadratic":
        own = p.A
    elif p.loss == "squares":
        own = p.A.T @ p.A
    else:
        if p.loss == "logistic":
            q = np.full((len(rows), 1), 0.5) if x is None else _probabilities(p, x)
            weight = (q * (1 - q))[:, :, None]
        elif x is None:
            weight = np.broadcast_to((np.eye(k) - 1 / k) / 2, (len(rows), k, k))
        else:
            q = _probabilities(p, x)
            weight = q[:, :, None] * (np.eye(k) - q[:, None, :])
        own = np.einsum("ia,ikl,ib->akbl", rows, weight, rows).reshape(rows.shape[1] * k, rows.shape[1] * k)
    return np.asarray(own + np.diag(p.l2))


def curvature(p: Problem) -> Array:
    """Return L_i, upper bounds of the second derivatives in each coordinate."""
    if p.loss == "quadratic":
        return np.asarray(np.diag(p.A) + p.l2)
    squares = (p.A**2).sum(axis=0) * (1 if p.loss == "squares" else 0.25)
    return np.asarray(np.repeat(squares, p.classes) + p.l2)


def least_subgradient(p: Problem, x: Array) -> Array:
    """Return the minimum-norm subgradient of the objective, with the normal cones of the bounds."""
    g = gradient(p, x)
    low, high = g + np.where(x > 0, p.l1, -p.l1), g + np.where(x < 0, -p.l1, p.l1)
    low, high = np.where(x <= p.lower, -np.inf, low), np.where(x >= p.upper, np.inf, high)
    return np.where(low > 0, low, np.where(high < 0, high, 0.0))


def block_score(p: Problem, x: Array, block: Array, rule: str) -> float:
    """Return the score of a fixed block under a greedy rule; "gsq" is that of smooth problems."""
    s, H = least_subgradient(p, x)[block], hessian(p)[np.ix_(block, block)]
    if rule == "gsq":
        return float(s @ np.linalg.solve(H, s))
    if rule == "gsd":
        return float((s**2 / curvature(p)[block]).sum())
    return float((s**2).sum() / (block_bound(p, block) if rule == "gsl" else 1))


def block_bound(p: Problem, block: Array) -> float:
    """Return L_b: the largest eigenvalue of the block of the matrix bound, at most the sum of its L_i."""
    largest = float(np.linalg.eigvalsh(hessian(p)[np.ix_(block, block)])[-1])
    return float(min(largest, curvature(p)[block].sum()))


def variable_block(p: Problem, x: Array, size: int, rule: str) -> Array:
    """Return the coordinates of the largest scores, in order, under "gs" or "gsd"."""
    s = least_subgradient(p, x) ** 2
    score = s / curvature(p) if rule == "gsd" else s
    return np.sort(np.argsort(-score, kind="stable")[:size])


def model_minimiser(p: Problem, x: Array, block: Array, H: Array) -> Array:
    """Return the d that minimises g_b d + d H d / 2 + the separable part of x_b + d, by coordinate descent."""
    g, at, d = gradient(p, x)[block], x[block], np.zeros(len(block))
    for _ in range(10_000):
        before = d.copy()
        for i in range(len(block)):
            v = at[i] + d[i] - (g[i] + H[i] @ d) / H[i, i]
            v = np.sign(v) * max(abs(v) - p.l1[block[i]] / H[i, i], 0.0)
            d[i] = min(max(v, p.lower[block[i]]), p.upper[block[i]]) - at[i]
        if np.array_equal(before, d):
            break
    return d


def direction(p: Problem, x: Array, block: Array, update: str) -> Array:
    """Return the step of a block for "gradient", "matrix" or "newton", which halves it until F decreases enough."""
    if update == "gradient":
        return model_minimiser(p, x, block, block_bound(p, block) * np.eye(len(block)))
    H = hessian(p, x if update == "newton" else None)[np.ix_(block, block)]
    d = model_minimiser(p, x, block, H)
    if update == "matrix" or p.loss in ("squares", "quadratic"):
        return d
    at, t, ahead = objective(p, x), 1.0, x.copy()
    expected = gradient(p, x)[block] @ d + (p.l1[block] * (abs(x[block] + d) - abs(x[block]))).sum()
    while t > 2.0**-50:
        ahead[block] = x[block] + t * d
        if objective(p, ahead) - at <= 1e-4 * t * expected + 2.0**-50 * abs(at):
            break
        t /= 2
    return t * d


def descend(p: Problem, x: Array, choose: Callable[[Array, int], Array], update: str, steps: int) -> Sequence[Array]:
    """Return the iterates of steps in the blocks ``choose(x, step)``, the first of them x."""
    iterates = [x.copy()]
    for step in range(steps):
        x = x.copy()
        block = choose(x, step)
        x[block] += direction(p, x, block, update)
        iterates.append(x)
    return iterates
