"""Occupancies: how often a stochastic policy visits each state and takes each action."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from .._array_like import as_array
from .._check import check_array, count, type_name
from ._layouts import Rows
from ._mdp import MDP
from ._process import SUM_TOLERANCE, Process
from ._solvers.krylov import Chain, solved

Array = npt.NDArray[Any]


class Occupancy(NamedTuple):
    """Expected numbers of visits, discounted if there is a discount.

    Attributes
    ----------
    state : (S,)
        The visits of each state, of a terminal one the arrivals.
    pair : (rows,)
        The number of times that each action is taken, by state and then by action; for dense tensors (S, A).

    See Also
    --------
    occupancy : The function that returns it.

    Examples
    --------
    >>> from fastiter import mdp
    >>> forest = mdp.examples.forest(3, 0.9)
    >>> mdp.occupancy(forest, forest.solve().policy, 0).pair.round(3)
    array([1.9  , 0.   , 1.539, 0.   , 6.561, 0.   ])
    """

    state: Any
    pair: Any


def occupancy(problem: MDP, policy: Any, start: Any, *, horizon: int | None = None) -> Occupancy:
    """Return the sum over t of gamma^t times the probabilities of each state, and of each action, at step t.

    Parameters
    ----------
    problem : MDP
        The process. Its discount is below 1 unless there is a horizon; then None stands for 1.
    policy : (rows,), (S, A) or (S,)
        The probability of each action, in the dtype of P, by state and then by action, (S, A) where all states have A
        actions; or integers (S,), one action for each state as in ``MDPSolution.policy``.
    start : (S,) or int
        The probabilities of the first state, in the dtype of P, or this state.
    horizon : int
        The number of steps t = 0 .. horizon - 1; None: all steps.

    Returns
    -------
    Occupancy
        The visits of states, and of pairs of a state and an action.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    ConvergenceError
        If the visits cannot be computed to rounding.

    See Also
    --------
    MDP.evaluate : The values of a policy.
    fastiter.torch.mdp.occupancy : The same on tensors, with gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter import mdp
    >>> swim = mdp.examples.riverswim(3)
    >>> mdp.occupancy(swim, np.full((3, 2), 0.5), 0, horizon=10).state.round(2)
    array([6.48, 2.91, 0.61])
    """
    function = "occupancy"
    if not isinstance(problem, MDP):
        raise TypeError(f"{function}: problem must be an MDP, got {type_name(problem)}")
    process = problem._process
    shares = _shares(function, process, policy)
    first = _start(function, process, start)
    if horizon is None:
        discount = problem._discount(function)
        if process.modulus(discount)[1] >= 1:
            raise ValueError(f"{function}: horizon must be a number of steps if gamma is 1, got None")
        visits = _discounted(function, process, discount, shares, first)
    else:
        steps, visits = count(function, "horizon", horizon, 1), np.empty(process.states, process.dtype)
        discount = 1.0 if process.discount is None else process.discount
        head = process.bits, process.states, process.arrays
        _core.mdp.visits(*head, discount, steps, (shares, first), (visits, None))
    return Occupancy(visits, shares * np.repeat(visits, np.diff(process.rows.row)))


def _shares(function: str, process: Process, policy: Any) -> Array:
    """Return the probability of each pair."""
    rows = process.rows
    counts = np.diff(rows.row)
    is_list = isinstance(policy, (list, tuple)) and all(isinstance(x, (int, np.integer)) for x in policy)
    policy = np.array(policy) if is_list else as_array(function, "policy", policy)
    if isinstance(policy, np.ndarray) and policy.dtype.kind in "iu":
        place, shares = process.place(function, policy), np.zeros(len(rows.reward), process.dtype)
        shares[(rows.row[:-1] + place)[place >= 0]] = 1
        return shares
    check_array(function, "policy", policy, (process.dtype.name,))
    wide = (process.states, int(counts[0]) if (counts == counts[0]).all() else -1)
    if policy.shape not in ((len(rows.reward),), wide):
        expected = f"(rows,) = ({len(rows.reward)},)" + (f" or (S, A) = {wide}" if wide[1] >= 0 else "")
        raise ValueError(f"{function}: policy must have shape {expected}, got {policy.shape}")
    shares = np.ascontiguousarray(policy.reshape(-1))
    check_shares(function, rows, shares)
    return shares


def check_shares(function: str, rows: Rows, shares: Array) -> None:
    """Refuse numbers that are not the probabilities of each state's actions."""
    state = np.repeat(np.arange(rows.states), np.diff(rows.row))
    wrong = ~((shares >= 0) & (shares <= 2))
    if wrong.any():
        i = int(np.argmax(wrong))
        action = i - int(rows.row[state[i]]) if rows.label is None else int(rows.label[i])
        where = f"state {state[i]}, action {action}"
        raise ValueError(f"{function}: policy must have probabilities from 0 to 1, got {shares[i]:g} in {where}")
    sums = np.bincount(state, weights=shares, minlength=rows.states)
    off = (np.abs(sums - 1) > SUM_TOLERANCE[shares.dtype.name]) & (np.diff(rows.row) > 0)
    if off.any():
        s = int(np.argmax(off))
        raise ValueError(f"{function}: policy must sum to 1 in each state, got {sums[s]:.12g} in state {s}")


def check_start(function: str, start: Array) -> None:
    """Refuse numbers that are not the probabilities of states."""
    wrong = ~((start >= 0) & (start <= 2))
    if wrong.any():
        s = int(np.argmax(wrong))
        raise ValueError(f"{function}: start must have probabilities from 0 to 1, got {start[s]:g} in state {s}")
    total = float(start.sum(dtype=np.float64))
    if abs(total - 1) > SUM_TOLERANCE[start.dtype.name]:
        raise ValueError(f"{function}: start must sum to 1, got {total:.12g}")


def _start(function: str, process: Process, start: Any) -> Array:
    S = process.states
    if isinstance(start, (int, np.integer)):
        first = np.zeros(S, process.dtype)
        s = count(function, "start", start)
        if s >= S:
            raise ValueError(f"{function}: start must be a state from 0 to {S - 1}, got {s}")
        first[s] = 1
        return first
    start = as_array(function, "start", start, process.dtype)
    check_array(function, "start", start, (process.dtype.name,))
    if start.shape != (S,):
        raise ValueError(f"{function}: start must have shape (S,) = ({S},), got {start.shape}")
    check_start(function, start)
    return np.ascontiguousarray(start)


def _discounted(function: str, process: Process, discount: float, shares: Array, start: Array) -> Array:
    """Return m = start + W^T m, with W the policy's chain times the discount.

    Pairs that share rows are a chain of states and rows, from a state to the rows of its pairs and from there to the
    next states, so that P is not expanded.
    """
    rows, S = process.rows, process.states
    scale = process.dtype.type(discount)
    if rows.pair is None:
        crow, col = rows.entry[rows.row], rows.next[: rows.entry[-1]]
        weights = scale * rows.weight[: rows.entry[-1]] * np.repeat(shares, np.diff(rows.entry))
    else:
        crow = np.concatenate([rows.row, rows.row[-1] + rows.entry[1:]])
        col = np.concatenate([S + rows.pair, rows.next[: rows.entry[-1]]])
        weights = np.concatenate([shares, scale * rows.weight[: rows.entry[-1]]])
    n = len(crow) - 1
    b = np.zeros(n, process.dtype)
    b[:S] = start
    arrays = None, crow, np.ascontiguousarray(col, np.int32), weights, np.zeros_like(b)
    model = _core.mdp.model(process.bits, n, arrays).transposed()
    modulus = process.modulus(discount)[1]
    chain = Chain(model, 1.0, b, b, modulus if n == S else math.sqrt(modulus))
    return solved(function, chain, b)[:S].copy()
