"""Return distributions: projections, and the best policies for a utility or the tail of the return.

The state is augmented by a stock c, which accumulates the rewards so far: c' = (c + r) / gamma.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from .._array_like import as_array
from .._check import check_array, check_entries, check_finite, count, positive, type_name
from .._public import publish
from ._finite import finite_horizon
from ._outcomes import Outcomes, augmented, checked, stays

Array = npt.NDArray[Any]

__all__ = [
    "StockValues",
    "TailValues",
    "best_tail",
    "cvar",
    "project_categorical",
    "project_quantile",
    "stock_augmented",
]


def project_categorical(p: Array, x: Array, z: Array) -> Array:
    """Return distributions projected to the atoms z: mass goes to its neighbouring atoms, or to the nearest end.

    Parameters
    ----------
    p, x : (..., k) float64
        The probabilities and the values of k outcomes of each distribution.
    z : (m,) float64
        The atoms, increasing.

    Returns
    -------
    (..., m)
        The probabilities of the atoms; the mean is preserved if no mass is beyond the ends.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    See Also
    --------
    project_quantile : Equal masses at free positions.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.mdp import distributional
    >>> distributional.project_categorical(np.array([0.5, 0.5]), np.array([0.25, 3.0]), np.arange(3.0))
    array([0.375, 0.125, 0.5  ])
    """
    function = "project_categorical"
    p, x = _checked_law(function, p, x)
    z = as_array(function, "z", z)
    check_array(function, "z", z, ("float64",))
    if z.ndim != 1 or len(z) == 0 or not (np.diff(z) > 0).all() or not np.isfinite(z).all():
        raise ValueError(f"{function}: z must be finite atoms (m,) that rise, got shape {z.shape}")
    return _projected(p, x, len(z), np.ascontiguousarray(z))


def project_quantile(p: Array, x: Array, m: int) -> Array:
    """Return the means over m equal parts of the probability: the Wasserstein projection to m equal masses.

    Parameters
    ----------
    p, x : (..., k) float64
        The probabilities and the values of k outcomes of each distribution.
    m : int
        The number of parts.

    Returns
    -------
    (..., m)
        The means, increasing.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    See Also
    --------
    project_categorical : Free masses at given positions.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.mdp import distributional
    >>> distributional.project_quantile(np.array([0.5, 0.5]), np.array([1.0, 3.0]), 4)
    array([1., 1., 3., 3.])
    """
    function = "project_quantile"
    p, x = _checked_law(function, p, x)
    sums = p.sum(axis=-1)
    check_entries(function, "p", sums, sums > 0, "have a positive sum in each distribution")
    return _projected(p, x, count(function, "m", m, 1), None)


def _projected(p: Array, x: Array, m: int, z: Array | None) -> Array:
    out = np.empty((*p.shape[:-1], m))
    lines = int(np.prod(p.shape[:-1]))
    _core.mdp.project(lines, p.shape[-1], np.ascontiguousarray(p), np.ascontiguousarray(x), m, z, out)
    return out


def _checked_law(function: str, p: Any, x: Any) -> tuple[Array, Array]:
    p, x = as_array(function, "p", p), as_array(function, "x", x)
    check_array(function, "p", p, ("float64",))
    check_array(function, "x", x, ("float64",))
    if p.ndim == 0 or p.shape != x.shape:
        raise ValueError(f"{function}: p and x must have one shape (..., k), got {p.shape} and {x.shape}")
    check_entries(function, "p", p, np.isfinite(p) & (p >= 0), "be finite and at least 0")
    check_finite(function, "x", x)
    return p, x


def cvar(p: Array, x: Array, level: float) -> Array:
    """Return the CVaR, the mean of the lowest ``level`` of each distribution: max over b of b - E (b - X)_+ / level.

    Parameters
    ----------
    p, x : (..., k) float64
        The probabilities, which sum to 1, and the values of the outcomes.
    level : float
        In (0, 1]; 1 is the mean.

    Returns
    -------
    (...,)
        The means.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    See Also
    --------
    best_tail : The policy that maximizes it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.mdp import distributional
    >>> distributional.cvar(np.array([0.25, 0.25, 0.5]), np.array([0.0, 1.0, 5.0]), 0.5)
    array(0.5)
    """
    p, x = _checked_law("cvar", p, x)
    sums = p.sum(axis=-1)
    check_entries("cvar", "p", sums, np.abs(sums - 1) <= 1e-10, "sum to 1 in each distribution")
    level = _level("cvar", level)
    order = np.argsort(x, axis=-1)
    x, p = np.take_along_axis(x, order, -1), np.take_along_axis(p, order, -1)
    before = np.cumsum(p, axis=-1) - p
    return np.asarray((np.clip(level - before, 0, p) * x).sum(axis=-1) / level)


def _level(function: str, level: object) -> float:
    value = positive(function, "level", level, zero=False)
    if value > 1:
        raise ValueError(f"{function}: level must be at most 1, got {level}")
    return value


class StockValues(NamedTuple):
    """The best expected utilities of c + G by state and stock.

    Attributes
    ----------
    value : (H + 1, S, C)
        With the steps h .. H - 1 to go.
    policy : (H, S, C) int64
        The best action.

    See Also
    --------
    stock_augmented : The function that returns it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.mdp import distributional
    >>> outcomes = [[[(1.0, 1.0, 0)], [(0.5, 0.0, 0), (0.5, 3.0, 0)]]]  # a sure reward of 1, or 0 or 3
    >>> stocks = np.arange(-12.0, 13)
    >>> value, policy = distributional.stock_augmented(outcomes, 2, stocks, np.positive)
    >>> value.shape, policy.shape
    ((3, 1, 25), (2, 1, 25))
    """

    value: Array
    policy: Array


def stock_augmented(
    outcomes: Outcomes,
    horizon: int,
    stocks: Array,
    utility: Callable[[Array], Array],
    gamma: float = 1.0,
    *,
    degree: float = 1.0,
) -> StockValues:
    """Return the best E U(c + G) for each state and stock c, G the discounted return of ``horizon`` steps.

    As c + r + gamma G' = gamma (c' + G') with c' = (c + r) / gamma, backward induction on (state, stock) is exact for U
    with U(gamma x) = gamma^degree U(x), such as min(x, 0), max(x, 0), x and -|x|^degree; for gamma 1 for any U.

    Parameters
    ----------
    outcomes : outcomes[s][a], lists of (probability, reward, next state)
        The process.
    horizon : int
        H.
    stocks : (C,) float64
        An increasing grid. Values between grid points are interpolated, those beyond the ends are those at the end: for
        gamma 1 and integer rewards an integer grid that covers all sums is exact.
    utility : callable
        U of an array.
    gamma : float
        The discount, in (0, 1].
    degree : float
        The degree of U.

    Returns
    -------
    StockValues
        Values and policies of all steps.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    See Also
    --------
    best_tail : The utility whose best value is a CVaR.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.mdp import distributional
    >>> outcomes = [[[(1.0, 1.0, 0)], [(0.5, 0.0, 0), (0.5, 3.0, 0)]]]  # a sure reward of 1, or 0 or 3
    >>> stocks = np.arange(-12.0, 13)
    >>> found = distributional.stock_augmented(outcomes, 2, stocks, lambda x: np.minimum(x, 0))
    >>> found.value[0, 0, 10], found.policy[0, 0, 10]  # from the stock -2: the sure reward, twice
    (np.float64(0.0), np.int64(0))
    """
    function = "stock_augmented"
    stocks = as_array(function, "stocks", stocks)
    check_array(function, "stocks", stocks, ("float64",))
    if stocks.ndim != 1 or len(stocks) < 2 or not (np.diff(stocks) > 0).all() or not np.isfinite(stocks).all():
        raise ValueError(f"{function}: stocks must be at least two finite numbers that rise, got shape {stocks.shape}")
    gamma, degree = positive(function, "gamma", gamma, zero=False), positive(function, "degree", degree, zero=False)
    if gamma > 1:
        raise ValueError(f"{function}: gamma must be at most 1, got {gamma:g}")
    if not callable(utility):
        raise TypeError(f"{function}: utility must be a function of an array, got {type_name(utility)}")
    horizon, listed = count(function, "horizon", horizon, 1), checked(function, outcomes)
    S, C = len(listed), len(stocks)
    last = np.asarray(utility(stocks.copy()), np.float64)
    if last.shape != (C,) or not np.isfinite(last).all():
        raise ValueError(f"{function}: utility must return {C} finite numbers, got shape {last.shape}")
    discount = gamma**degree  # 1 for a gamma or a degree within rounding, which needs no terminal states
    problem = augmented(listed, stocks, gamma, None if discount == 1 else discount)
    solution = finite_horizon(problem, horizon, np.tile(last, S))
    return StockValues(solution.value.reshape(-1, S, C), solution.policy.reshape(-1, S, C))


class TailValues(NamedTuple):
    """The best tail of the return.

    Attributes
    ----------
    value : float
        The largest CVaR of the return.
    stock : float
        The stock with which the policy starts; -stock is the quantile of its return at the level.
    policy : (H, S, C) int64
        The best action by step, state and stock.

    See Also
    --------
    best_tail : The function that returns it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.mdp import distributional
    >>> outcomes = [[[(1.0, 1.0, 0)], [(0.5, 0.0, 0), (0.5, 3.0, 0)]]]  # a sure reward of 1, or 0 or 3
    >>> stocks = np.arange(-12.0, 13)
    >>> distributional.best_tail(outcomes, 0, 2, 1.0, stocks).value  # the mean
    3.0
    """

    value: float
    stock: float
    policy: Array


def best_tail(
    outcomes: Outcomes, start: int, horizon: int, level: float, stocks: Array, gamma: float = 1.0
) -> TailValues:
    """Return the policy with the largest CVaR of the return: max over c of -c + E min(c + G, 0) / level.

    One backward induction serves all c; the policy depends on the state, the step and the stock.

    Parameters
    ----------
    outcomes : outcomes[s][a], lists of (probability, reward, next state)
        The process.
    start : int
        The initial state.
    horizon : int
        The number of steps.
    level : float
        In (0, 1]: the probability of the lower tail whose mean is maximized.
    stocks : (C,) float64
        As for :func:`stock_augmented`. Initial stocks from which some sequence of rewards leaves the grid are excluded;
        minus the quantile of the best return has to be among the others.
    gamma : float
        The discount, in (0, 1].

    Returns
    -------
    TailValues
        The CVaR, the initial stock (the largest optimal one) and the policy.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    See Also
    --------
    stock_augmented : Other utilities.
    cvar : The CVaR of a given distribution.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.mdp import distributional
    >>> outcomes = [[[(1.0, 1.0, 0)], [(0.5, 0.0, 0), (0.5, 3.0, 0)]]]  # a sure reward of 1, or 0 or 3
    >>> stocks = np.arange(-12.0, 13)
    >>> found = distributional.best_tail(outcomes, 0, 2, 0.25, stocks)
    >>> found.value, found.stock
    (2.0, -2.0)
    """
    level, listed = _level("best_tail", level), checked("best_tail", outcomes)
    if count("best_tail", "start", start) >= len(listed):
        raise ValueError(f"best_tail: start must be from 0 to {len(listed) - 1}, got {start}")
    solution = stock_augmented(outcomes, horizon, stocks, lambda c: np.minimum(c, 0), gamma)
    tails = np.where(stays(listed, horizon, stocks, gamma), -stocks + solution.value[0, start] / level, -np.inf)
    if np.isneginf(tails).all():
        raise ValueError("best_tail: stocks must be a grid that some first stock does not leave, got a narrower one")
    best = len(stocks) - 1 - int(np.argmax(tails[::-1] >= tails.max() - 1e-12))
    return TailValues(float(tails[best]), float(stocks[best]), solution.policy)


publish(globals())
