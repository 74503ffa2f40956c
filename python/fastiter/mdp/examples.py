"""Example decision processes from the literature, of any size."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .._check import count, float_dtype, positive
from .._public import publish
from ._layouts import Rows
from ._mdp import MDP
from ._process import finite_number
from ._result import COMPASS

Array = npt.NDArray[Any]
Gamma = float | None

__all__ = ["forest", "garnet", "gridworld", "inventory", "riverswim", "windy_walk"]


def forest(
    S: int = 3, gamma: Gamma = 0.9, *, r1: float = 4.0, r2: float = 2.0, p: float = 0.1, dtype: Any = np.float64
) -> MDP:
    """Return the management of a forest of S ages: action 0 waits, action 1 cuts.

    Parameters
    ----------
    S : int
        The number of ages, at least 2.
    gamma : float or None
        The discount; None for average rewards.
    r1, r2 : float
        The reward of waiting and of cutting in the oldest age; cutting earns 1 in the ages between youngest and oldest.
    p : float
        The probability of a fire, after which the forest is young.
    dtype : dtype, optional
        float32 or float64.

    Returns
    -------
    MDP
        The process.

    Raises
    ------
    TypeError, ValueError
        If S is no int of at least 2, p no probability or a reward not finite. If dtype is neither float32 nor float64,
        or :class:`fastiter.mdp.MDP` refuses gamma.

    See Also
    --------
    gridworld, garnet : Larger processes.

    Examples
    --------
    >>> from fastiter import mdp
    >>> mdp.examples.forest(3, 0.9).solve(atol=1e-9).value.round(3)
    array([26.244, 29.484, 33.484])
    """
    S = count("forest", "S", S, 2)
    p, r1, r2 = _probability("forest", "p", p), finite_number("forest", "r1", r1), finite_number("forest", "r2", r2)
    older = np.minimum(np.arange(1, S + 1), S - 1)
    targets = np.stack([np.zeros(S, np.int64), older, np.zeros(S, np.int64)], axis=1).reshape(-1)
    weights = np.tile([p, 1 - p, 1.0], S)
    rewards = np.zeros((S, 2))
    rewards[-1, 0], rewards[1:-1, 1], rewards[-1, 1] = r1, 1.0, r2
    return _of("forest", np.arange(S + 1) * 2, np.tile([2, 1], S), targets, weights, rewards, gamma, dtype)


def garnet(S: int, A: int, b: int, gamma: Gamma = 0.95, *, seed: int = 0, dtype: Any = np.float64) -> MDP:
    """Return a random process: A actions in each state, each with b next states that are drawn uniformly.

    Parameters
    ----------
    S, A, b : int
        The numbers of states, of actions per state and of next states per action; a next state may be drawn repeatedly.
    gamma : float or None
        The discount; None for average rewards.
    seed : int
        The seed of :func:`numpy.random.default_rng`. Probabilities are the spacings of sorted uniform numbers, rewards
        uniform in [0, 1).
    dtype : dtype, optional
        float32 or float64.

    Returns
    -------
    MDP
        The process.

    Raises
    ------
    TypeError, ValueError
        If S, A or b is no int of at least 1, or seed none of at least 0. If dtype is neither float32 nor float64, or
        :class:`fastiter.mdp.MDP` refuses gamma.

    See Also
    --------
    gridworld : A structured process.

    Examples
    --------
    >>> from fastiter import mdp
    >>> found = mdp.examples.garnet(100, 4, 3).solve()
    >>> found.converged, found.policy.shape
    (True, (100,))
    """
    S, A, b = (count("garnet", name, x, 1) for name, x in (("S", S), ("A", A), ("b", b)))
    rng = np.random.default_rng(count("garnet", "seed", seed))
    targets = rng.integers(0, S, size=(S, A, b))
    cuts = np.sort(rng.random((S, A, b - 1)), axis=2)
    edges = np.concatenate([np.zeros((S, A, 1)), cuts, np.ones((S, A, 1))], axis=2)
    weights, rewards = np.diff(edges, axis=2), rng.random((S, A))
    return _of("garnet", np.arange(S + 1) * A, np.full(S * A, b), targets, weights, rewards, gamma, dtype)


def gridworld(
    n: int, gamma: Gamma = 0.99, *, slip: float = 0.1, reward: float = -1.0, goal: float = 0.0, dtype: Any = np.float64
) -> MDP:
    """Return an n x n grid with the actions north, east, south and west, and an absorbing state in the last corner.

    Parameters
    ----------
    n : int
        The side length; states are numbered y n + x, and n^2 - 1 is the corner.
    gamma : float or None
        The discount; at 1 a stochastic shortest path.
    slip : float
        The probability of each of the two directions perpendicular to the chosen one. Moves off the grid stay in place.
    reward : float
        The reward of each step, except in the corner, which earns 0.
    goal : float
        The additional reward for a step into the corner, multiplied by its probability.
    dtype : dtype, optional
        float32 or float64.

    Returns
    -------
    MDP
        The process.

    Raises
    ------
    TypeError, ValueError
        If n is no int of at least 2 or slip not from 0 to 0.5. If dtype is neither float32 nor float64, or
        :class:`fastiter.mdp.MDP` refuses gamma.

    See Also
    --------
    windy_walk : Moves that may be blown in one direction.
    riverswim : A one-dimensional process.

    Examples
    --------
    >>> from fastiter import mdp
    >>> mdp.examples.gridworld(3, 1.0, slip=0.0).solve().value.reshape(3, 3)  # minus the steps to the corner
    array([[-4., -3., -2.],
           [-3., -2., -1.],
           [-2., -1.,  0.]])
    """
    n = count("gridworld", "n", n, 2)
    slip = _probability("gridworld", "slip", slip)
    if slip > 0.5:
        raise ValueError(f"gridworld: slip must be at most 0.5, as each of two directions has it, got {slip}")
    reward, goal = finite_number("gridworld", "reward", reward), finite_number("gridworld", "goal", goal)
    y, x = np.divmod(np.arange(n * n), n)
    to = np.stack([np.clip(y + dy, 0, n - 1) * n + np.clip(x + dx, 0, n - 1) for dy, dx in COMPASS], axis=1)
    targets = np.stack([to, np.roll(to, 1, axis=1), np.roll(to, -1, axis=1)], axis=2)
    weights = np.broadcast_to([1 - 2 * slip, slip, slip], targets.shape)
    targets[-1] = n * n - 1
    rewards = reward + goal * np.where(targets == n * n - 1, weights, 0).sum(axis=2)
    rewards[-1] = 0
    return _of("gridworld", np.arange(n * n + 1) * 4, np.full(4 * n * n, 3), targets, weights, rewards, gamma, dtype)


def riverswim(S: int = 6, gamma: Gamma = None, *, dtype: Any = np.float64) -> MDP:
    """Return a river with S states: action 0 always drifts left, action 1 swims right against the current.

    Parameters
    ----------
    S : int
        The number of states, at least 2. Drifting in the leftmost state earns 0.005, swimming in the last state 1.
    gamma : float or None
        The discount; None by default, for average rewards.
    dtype : dtype, optional
        float32 or float64.

    Returns
    -------
    MDP
        The process.

    Raises
    ------
    TypeError, ValueError
        If S is no int of at least 2. If dtype is neither float32 nor float64, or :class:`fastiter.mdp.MDP` refuses
        gamma.

    See Also
    --------
    fastiter.mdp.average : The average reward of a process.
    fastiter.mdp.extended_value_iteration : The optimistic average reward.

    Examples
    --------
    >>> from fastiter import mdp
    >>> mdp.average(mdp.examples.riverswim(6)).policy  # swim everywhere
    array([1, 1, 1, 1, 1, 1])
    """
    S = count("riverswim", "S", S, 2)
    middle = np.arange(S)
    left, right = np.maximum(middle - 1, 0), np.minimum(middle + 1, S - 1)
    targets = np.stack([left, left, middle, right], axis=1)
    weights = np.tile([1.0, 0.05, 0.6, 0.35], (S, 1))
    weights[0, 1:], weights[-1, 1:] = (0.0, 0.4, 0.6), (0.4, 0.6, 0.0)
    rewards = np.zeros((S, 2))
    rewards[0, 0], rewards[-1, 1] = 0.005, 1.0
    return _of("riverswim", np.arange(S + 1) * 2, np.tile([1, 3], S), targets, weights, rewards, gamma, dtype)


def inventory(
    capacity: int = 20,
    gamma: Gamma = 0.95,
    *,
    mean: float = 6.0,
    price: float = 4.0,
    cost: float = 2.0,
    order_cost: float = 3.0,
    holding: float = 0.1,
    dtype: Any = np.float64,
) -> MDP:
    """Return an inventory of 0 to ``capacity`` items: action a orders a items, up to the remaining capacity.

    The demand is Poisson distributed, and is met from stock as far as possible. States have different numbers of
    actions.

    Parameters
    ----------
    capacity : int
        The maximum number of items; there are capacity + 1 states.
    gamma : float or None
        The discount; None for average rewards.
    mean : float
        The mean demand.
    price, cost : float
        The selling price and the ordering cost of one item.
    order_cost, holding : float
        The fixed cost of an order, and the cost of each item in stock before the demand.
    dtype : dtype, optional
        float32 or float64.

    Returns
    -------
    MDP
        The process.

    Raises
    ------
    TypeError, ValueError
        If capacity is no int of at least 1 or mean not above 0. If dtype is neither float32 nor float64, or
        :class:`fastiter.mdp.MDP` refuses gamma.

    See Also
    --------
    forest : A process with the same number of actions in each state.

    Examples
    --------
    >>> from fastiter import mdp
    >>> mdp.examples.inventory(8).solve().policy  # the number to order with 0 to 8 in stock
    array([8, 7, 6, 5, 4, 0, 0, 0, 0])
    """
    capacity, mean = count("inventory", "capacity", capacity, 1), positive("inventory", "mean", mean, zero=False)
    price, cost, order_cost, holding = (
        finite_number("inventory", name, x)
        for name, x in (("price", price), ("cost", cost), ("order_cost", order_cost), ("holding", holding))
    )
    ratios = np.log(mean) - np.log(np.arange(1, capacity + 1))  # logarithms: exp(-mean) may be 0
    demand = np.exp(np.concatenate([np.zeros(1), np.cumsum(ratios)]) - mean)
    stock, order = (each.reshape(-1) for each in np.indices((capacity + 1, capacity + 1)))
    stock, order = stock[stock + order <= capacity], order[stock + order <= capacity]
    level = stock + order
    counts = level + 1
    first = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    left = np.arange(first[-1]) - np.repeat(first[:-1], counts)
    at = np.repeat(level, counts)
    # All demands of at least the stock level leave nothing.
    tail = 1 - np.concatenate([np.zeros(1), np.cumsum(demand)])[: capacity + 1]
    weights = np.where(left == 0, np.maximum(tail[at], 0), demand[at - left])  # the tail may round to below 0
    sold = np.bincount(np.repeat(np.arange(len(level)), counts), weights=weights * (at - left))
    rewards = price * sold - cost * order - order_cost * (order > 0) - holding * level
    rows = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(stock, minlength=capacity + 1))])
    return _of("inventory", rows, counts, left, weights, rewards, gamma, dtype)


def windy_walk(alpha: float, gamma: Gamma = 0.95, *, dtype: Any = np.float64) -> MDP:
    """Return a walk through 3 rows of 8 cells; routes through lower rows are longer but less windy.

    Parameters
    ----------
    alpha : float
        The probability that the wind blows one cell to the left instead of the chosen move: alpha in the first row,
        alpha^3 in the second, alpha^6 in the third.
    gamma : float or None
        The discount.
    dtype : dtype, optional
        float32 or float64.

    Returns
    -------
    MDP
        The process.

    Raises
    ------
    TypeError, ValueError
        If alpha is no probability. If dtype is neither float32 nor float64, or :class:`fastiter.mdp.MDP` refuses gamma.

    See Also
    --------
    fastiter.experimental.iwocs : A policy for several alphas.

    Notes
    -----
    States are numbered 8 y + x; the actions are north, east, south and west; each step costs 1 until the last cell of
    the first row.

    Examples
    --------
    >>> from fastiter import mdp
    >>> calm, windy = (mdp.examples.windy_walk(alpha).solve().value[0] for alpha in (0.0, 0.5))
    >>> bool(calm > windy)
    True
    """
    alpha, rows, width = _probability("windy_walk", "alpha", alpha), 3, 8
    y, x = np.divmod(np.arange(rows * width), width)
    to = np.stack([np.clip(y + dy, 0, rows - 1) * width + np.clip(x + dx, 0, width - 1) for dy, dx in COMPASS], axis=1)
    blown = np.broadcast_to((y * width + np.maximum(x - 1, 0))[:, None], to.shape)
    wind = np.broadcast_to((alpha ** np.array([1, 3, 6]))[y][:, None], to.shape)
    targets, weights = np.stack([to, blown], axis=2), np.stack([1 - wind, wind], axis=2)
    targets[width - 1] = width - 1
    rewards = np.full(to.shape, -1.0)
    rewards[width - 1] = 0
    S = rows * width
    return _of("windy_walk", np.arange(S + 1) * 4, np.full(4 * S, 2), targets, weights, rewards, gamma, dtype)


def _of(
    name: str, row: Array, counts: Array, targets: Array, weights: Array, rewards: Array, gamma: Gamma, dtype: Any
) -> MDP:
    kind = float_dtype(name, dtype)
    entry = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    parts = np.ascontiguousarray(weights, kind).reshape(-1), np.ascontiguousarray(rewards, kind).reshape(-1)
    rows = Rows(row.astype(np.int64), entry, np.ascontiguousarray(targets, np.int32).reshape(-1), *parts)
    return MDP._of(rows, gamma)


def _probability(function: str, name: str, x: object) -> float:
    value = positive(function, name, x)
    if value > 1:
        raise ValueError(f"{function}: {name} must be a probability, got {x}")
    return value


publish(globals())
