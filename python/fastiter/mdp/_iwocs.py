"""Robust policies against a static set of models, by incremental worst-case search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._check import check_flag, count, positive
from .._solution import Solution, judged, plural
from ._layouts import Rows, Sparse, permuted_rows, stacked_rows
from ._mdp import MDP

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RobustPolicy(Solution):
    """A policy that is good against the worst model of a set.

    Attributes
    ----------
    value : (S,)
        The policy's values in its worst model.
    converged : bool
        True if no model is worse for the policy than the worst model found so far, up to ``tol``.
    steps : int
        The number of models that were solved.
    residual : float
        The loss of the policy's value in the last model.
    method, reason : str
        "iwocs"; "converged" or "max_steps".
    policy : (S,) int64
        The policy.
    worst : (steps + 1, rows) int64
        The models that were found, the nominal one first, as a model number for each row.

    See Also
    --------
    iwocs : The function that returns it.
    MDPSolution : The result for a single model.

    Examples
    --------
    >>> from fastiter import experimental, mdp
    >>> found = experimental.iwocs([mdp.examples.windy_walk(alpha) for alpha in (0.1, 0.4)], start=0)
    >>> found.converged, found.steps, found.value[0].round(2)
    (True, 2, np.float64(-8.43))
    """

    policy: Any
    worst: Any

    def _failure(self) -> str | None:
        if self.converged:
            return None
        after = plural(self.steps)
        return (
            f"the worst model must be found, got a worse one by {self.residual:.2g} after {after}; try more max_steps"
        )


def iwocs(
    models: Sequence[MDP],
    start: int,
    *,
    rectangular: bool = False,
    tol: float = 1e-6,
    max_steps: int = 50,
    throw: bool = False,
) -> RobustPolicy:
    """Return a policy that maximizes the least value of a start state over models, by adding worst models one by one.

    Each step solves the last model found, forms the policy ``argmax_a min_j Q_j(s, a)`` over all models so far, and
    searches for its worst model. It ends when that is no worse than the least optimal value so far.

    Parameters
    ----------
    models : sequence of MDP
        The set, the nominal model first: processes with the same states, actions and discount below 1.
    start : int
        The state whose value is maximized.
    rectangular : bool
        Whether each row may come from a different model. By default one model holds for all rows.
    tol : float
        The tolerance by which the worst model may be worse.
    max_steps : int
        The maximum number of models.
    throw : bool
        Raise an error if it does not converge, instead of a warning.

    Returns
    -------
    RobustPolicy
        The policy and its worst model.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    ConvergenceError
        If ``throw`` is True and it does not converge.

    See Also
    --------
    robust : Sets that are given by a radius.
    RobustPolicy : The result.

    References
    ----------
    P. Zouitine et al., Solving robust MDPs as a sequence of static RL problems, 2024.

    Examples
    --------
    >>> from fastiter import experimental, mdp
    >>> models = [mdp.examples.windy_walk(alpha) for alpha in (0.1, 0.4)]  # the nominal one first
    >>> found = experimental.iwocs(models, start=0)
    >>> found.policy[:8]
    array([2, 2, 2, 2, 2, 1, 1, 0])
    """
    function = "iwocs"
    rows = _checked(function, models, start)
    check_flag(function, "rectangular", rectangular)
    check_flag(function, "throw", throw)
    tol = positive(function, "tol", tol, zero=False)
    max_steps = count(function, "max_steps", max_steps, 1)
    choice = np.zeros(rows, np.int64)
    found, values, policy, least, gap = [choice], np.zeros(models[0].S), np.zeros(0, np.int64), np.inf, np.inf
    q = np.full(rows, np.inf)
    steps = 0
    while steps < max_steps and not gap <= tol:
        model, steps = _composed(models, choice), steps + 1
        optimal = model.solve(tol=tol / 10, value0=values if steps > 1 else None).value
        least = min(least, float(optimal[start]))
        q = np.minimum(q, model.action_values(optimal))
        policy = _greedy(model, q)
        worst = _worst(models, policy, start, rectangular, tol / 10)
        values, choice = worst[0], np.where(worst[1] < 0, choice, worst[1])
        gap = least - float(values[start])
        found.append(choice)
    done = gap <= tol
    label = models[0]._process.label(policy)
    solution = RobustPolicy(
        value=values,
        policy=label,
        worst=np.stack(found),
        converged=done,
        steps=steps,
        residual=max(gap, 0.0),
        method=function,
        reason="converged" if done else "max_steps",
    )
    return judged(function, solution, throw)


def _checked(function: str, models: Any, start: Any) -> int:
    """Check that the models have the same rows, and return their number."""
    if not isinstance(models, (list, tuple)) or not models or not all(isinstance(m, MDP) for m in models):
        raise TypeError(f"{function}: models must be a list of MDPs, got {type(models).__name__}")
    first = models[0]
    discount = first._discount(function)
    if first._process.modulus(discount)[1] >= 1:
        raise ValueError(f"{function}: gamma must be below 1, got {discount:g}")
    if any(model._is_semi for model in models):
        raise ValueError(f"{function}: gamma must be one number for all rows, got an array")
    for k, model in enumerate(models):
        same = np.array_equal(model.row_starts, first.row_starts) and model.dtype == first.dtype
        if not same or model._process.discount != discount or model._negated:
            raise ValueError(
                f"{function}: models must have the same rows, discount and dtype as the first and sense 'max', "
                f"got others in model {k}"
            )
    if count(function, "start", start) >= first.S:
        raise ValueError(f"{function}: start must be from 0 to {first.S - 1}, got {start}")
    return int(first.rows)


def _sparse(model: MDP) -> Sparse:
    rows = model._process.rows
    return Sparse(rows.entry, rows.next, rows.weight, rows.states)


def _composed(models: Sequence[MDP], choice: Array) -> MDP:
    """Return the process whose row j comes from model choice[j]."""
    first = models[0]
    place = choice * first.rows + np.arange(first.rows)
    kept = permuted_rows(stacked_rows([_sparse(m) for m in models]), place)
    reward = np.concatenate([m.rewards for m in models])[place]
    rows = first._process.rows._replace(entry=kept.start, next=kept.column, weight=kept.value, reward=reward)
    return MDP._of(rows, first._process.discount, np.diff(rows.row) == 0)


def _greedy(model: MDP, q: Array) -> Array:
    """Return the first action with the largest q in each state, as a position within the state; -1 if it has none."""
    row = model._process.rows.row
    policy = np.full(model.S, -1, np.int64)
    for s in np.flatnonzero(np.diff(row)):
        policy[s] = np.argmax(q[row[s] : row[s + 1]])
    return policy


def _worst(models: Sequence[MDP], policy: Array, start: int, rectangular: bool, tol: float) -> tuple[Array, Array]:
    """Return the least values of a policy over the set, and the model of each row, -1 for unused rows."""
    first, place = models[0], policy.astype(np.int32)
    has = place >= 0
    used = first._process.rows.row[:-1][has] + place[has]
    if rectangular:
        return _adversary(models, used, has, tol)
    evaluated = [m._policy_values("iwocs", place) for m in models]
    k = int(np.argmin([v[start] for v in evaluated]))
    return evaluated[k], np.full(first.rows, k)


def _adversary(models: Sequence[MDP], used: Array, has: Array, tol: float) -> tuple[Array, Array]:
    """Return the least values by dynamic programming over the adversary's choices, and these choices."""
    first, M = models[0], len(models)
    place = (used[:, None] + first.rows * np.arange(M)).reshape(-1)
    kept = permuted_rows(stacked_rows([_sparse(m) for m in models]), place)
    reward = -np.concatenate([m.rewards for m in models])[place]
    row = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.where(has, M, 0))])
    rows = Rows(row, kept.start, kept.column, kept.value, reward)
    found = MDP._of(rows, first._process.discount, ~has).solve(tol=tol)
    choice = np.full(first.rows, -1)
    choice[used] = found.policy[has]
    return -found.value, choice
