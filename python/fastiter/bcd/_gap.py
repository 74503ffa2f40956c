"""Duality gaps: the derivative of the losses, scaled to be feasible, is a dual point."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ._problem import Problem

Array = npt.NDArray[Any]


def has_gap(problem: Problem) -> bool:
    """Return whether the gap tends to 0, which requires l1, l2 or both bounds for each coordinate."""
    l1, l2, lower, upper = problem._separable
    bounded = (l1 > 0) | (l2 > 0) | (np.isfinite(lower) & np.isfinite(upper))
    return problem._loss != "quadratic" and bool(bounded.all())


def duality_gap(problem: Problem, objective: float, u: Array, g: Array) -> float:
    """Return the primal objective minus the dual one at s u, with the largest s <= 1 for which that is finite.

    With f* and h* the conjugates of a sample's loss and of a coordinate's separable part, the dual objective at u is
    -sum_i f*_i(u_i) - sum_j h*_j(-a_j . u); u is (classes, n), g = A' u.
    """
    if problem._loss == "quadratic":
        return np.inf
    l1, l2, lower, upper = problem._separable
    with np.errstate(divide="ignore", invalid="ignore"):
        rising = np.where((l2 == 0) & (upper == np.inf) & (-g > l1), l1 / -g, 1.0)
        falling = np.where((l2 == 0) & (lower == -np.inf) & (g > l1), l1 / g, 1.0)
        scale = min(rising.min(initial=1.0), falling.min(initial=1.0))
        v = -scale * g
        excess = np.sign(v) * np.maximum(np.abs(v) - l1, 0.0)
        x = np.where(l2 > 0, excess / np.where(l2 > 0, l2, 1.0), np.where(excess > 0, upper, lower))
        x = np.where((excess == 0) | np.isinf(x), 0.0, x)  # infinite where rounding makes |v| larger than l1
    x = np.clip(x, lower, upper)
    conjugates = v * x - l1 * np.abs(x) - l2 * x * x / 2
    return float(objective + _conjugates_of_losses(problem, scale * u) + conjugates.sum())


def _conjugates_of_losses(problem: Problem, theta: Array) -> float:
    if problem._loss == "squares":
        return float(theta[0] @ theta[0] / 2 + theta[0] @ problem._b)
    weights = np.ones(theta.shape[1]) if problem._weights is None else problem._weights
    used = weights > 0
    share = theta[:, used] / weights[used]
    if problem._loss == "logistic":
        p = share[0] + problem._b[used]
        entropy = _entropy(p) + _entropy(1 - p)
    else:
        share[problem._b[used].astype(np.int64), np.arange(share.shape[1])] += 1
        entropy = _entropy(share).sum(axis=0)
    return float(weights[used] @ entropy)


def _entropy(p: Array) -> Array:
    p = np.clip(p, 0.0, 1.0)  # rounding may lead outside the interval
    return np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0)
