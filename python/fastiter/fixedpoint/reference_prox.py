"""The specification of the compiled proximal operators: sorting, or bisection of a monotone function, in float64.

With y a group of numbers, each returns argmin over x of f(x) + |x - y|^2 / 2:

    simplex          f: 0 where x >= 0 and sum x = r, else infinity
    l1_ball          f: 0 where sum |x| <= r, else infinity
    softmax_entropy  f = a (sum x log x - |x|^2 / 2) on the simplex with r = 1
    entropy          f = a sum x log x

The optimality conditions reduce each to one unknown number: the threshold tau with sum max(y - tau, 0) = r; nu with sum
x = 1 and a (1 + log x) + (1 - a) x = y + nu; x with a (1 + log x) + x = y.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: Number of halvings after which an interval of exponents in float64 has no number inside
_HALVINGS = 1100


def simplex(y: Array, r: float) -> Array:
    """Return max(y - tau, 0); the k largest numbers are above tau for the largest k with y_k > (sum of these - r) / k.

    Parameters
    ----------
    y : (size,)
        A group.
    r : float
        The sum of x.
    """
    if not np.isfinite(y.max()):
        return np.full_like(y, np.nan)
    z = y - y.max()
    falling = np.sort(z[np.isfinite(z)])[::-1]
    tau = -r
    for k in range(1, len(falling) + 1):
        of_k = (falling[:k].sum() - r) / k
        if falling[k - 1] > of_k:
            tau = of_k
    return np.asarray(np.maximum(z - tau, 0))


def l1_ball(y: Array, r: float) -> Array:
    """Return y inside the ball, and outside the projection of |y| onto the simplex with the signs of y.

    Parameters
    ----------
    y : (size,)
        A group.
    r : float
        The radius.
    """
    if not np.isfinite(np.abs(y).sum()):
        return np.full_like(y, np.nan)
    return y if np.abs(y).sum() <= r else np.copysign(simplex(np.abs(y), r), y)


def softmax_entropy(y: Array, a: float) -> Array:
    """Return x for the nu between those that make the largest x 1 / size and 1, found by bisection.

    Parameters
    ----------
    y : (size,)
        A group.
    a : float
        The weight alpha of the shifted entropy; 1 gives softmax.
    """
    if not np.isfinite(y.max()):
        return np.full_like(y, np.nan)
    z = y - y.max()

    def side(w: Array) -> Array:
        return a * (1 + w) + (1 - a) * np.exp(w)

    def of(nu: float) -> Array:
        return np.exp(_root(lambda w: side(w) - z - nu, np.full_like(z, -_HALVINGS), np.zeros_like(z)))

    low, high = side(np.array(-np.log(len(y)))), np.array(1.0)
    result = of(float(_root(lambda nu: np.array(of(float(nu)).sum() - 1), low, high, 56)))
    return np.asarray(result / result.sum())


def entropy(y: Array, a: float) -> Array:
    """Return x, found by bisection of log x.

    Parameters
    ----------
    y : (size,)
        Numbers.
    a : float
        The weight.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        top = np.maximum(np.log(np.maximum(y, a)), 0) + 1
        low = np.minimum(y / a - 2, np.log(a) - 800)
        w = _root(lambda w: a * (1 + w) + np.exp(w) - y, np.maximum(low, -1e6), top, 200)
        result = np.exp(w)
        result = np.where(result > a, y - a * (1 + w), result)
    return np.where(y == np.inf, y, np.where(np.isnan(y), y, result))


def _root(rising: Callable[[Array], Array], low: Array, high: Array, halvings: int = 64) -> Array:
    """Return the root of a rising function, element by element, by bisection."""
    for _ in range(halvings):
        middle = (low + high) / 2
        above = rising(middle) > 0
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return (low + high) / 2


#: The operators by name
OPERATORS: dict[str, Callable[[Array, float], Array]] = {
    "simplex": simplex,
    "l1_ball": l1_ball,
    "softmax_entropy": softmax_entropy,
    "entropy": entropy,
}


def along(name: str, y: Array, parameter: float, axis: int) -> Array:
    """Return the operator of each group along an axis, rounded to the dtype of y.

    Parameters
    ----------
    name : str
        The operator.
    y : ndarray
        Groups.
    parameter : float
        The radius or weight.
    axis : int
        The axis of the groups.
    """
    moved = np.moveaxis(np.asarray(y, np.float64), axis, -1)
    out = np.empty_like(moved)
    for group in np.ndindex(moved.shape[:-1]):
        out[group] = OPERATORS[name](moved[group], parameter)
    return np.moveaxis(out, -1, axis).astype(y.dtype)
