"""Robust policies against a static set of models, by incremental worst-case search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..._call.iterate import Limits, Progress, Record, Step, iterate
from ..._check import check_flag, count
from ..._solution import Solution, judged, plural
from .._layouts import Rows, permuted_rows, stacked_rows
from .._mdp import MDP

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RobustPolicy(Solution[Array]):
    """A policy that is good against the worst model of a set.

    Attributes
    ----------
    value : (S,)
        The policy's values in its worst model.
    converged : bool
        True if no model is worse for the policy than the worst model found so far, up to ``atol``.
    steps : int
        The number of models that were solved.
    residual : float
        The loss of the policy's value in the last model.
    method, reason : str
        "iwocs"; "converged", "max_steps" or "callback".
    policy : (S,) int64
        The policy.
    worst : (steps + 1, rows) int64
        The models that were found, the nominal one first, as a model number for each row.

    See Also
    --------
    iwocs : The function that returns it.
    fastiter.mdp.MDPSolution : The result for a single model.

    Examples
    --------
    >>> from fastiter import experimental, mdp
    >>> found = experimental.iwocs([mdp.examples.windy_walk(alpha) for alpha in (0.1, 0.4)], start=0)
    >>> found.converged, found.steps, found.value[0].round(2)
    (True, 2, np.float64(-8.43))
    """

    converged: bool
    steps: int
    residual: float
    reason: str
    policy: Array
    worst: Array

    def _failure(self) -> str | None:
        if self.reason in ("converged", "callback"):
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
    atol: float = 1e-6,
    max_steps: int = 50,
    callback: Callable[[Progress], Any] | None = None,
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
    atol : float
        The tolerance by which the worst model may be worse.
    max_steps : int
        The maximum number of models.
    callback : callable, optional
        Called with a :class:`fastiter.Progress` after each model; if it returns True, the search ends.
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
    fastiter.mdp.robust : Sets that are given by a radius.
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
    limits = Limits(None, atol, max_steps, callback, throw).checked(function, smallest_max=1, zero=False)
    search = _Search(models, start, rectangular, limits.atol, rows)
    record = iterate(search.steps(), limits, Record(overflows=True))
    solution = RobustPolicy(
        value=search.values,
        policy=models[0]._process.label(search.policy),
        worst=np.stack(search.worst),
        converged=record.reason == "converged",
        steps=record.last.steps,
        residual=record.last.residual,
        method=function,
        reason=record.reason,
    )
    return judged(function, solution, throw)


class _Search:
    """The models found so far, and the policy with its values in the last of them."""

    def __init__(self, models: Sequence[MDP], start: int, rectangular: bool, atol: float, rows: int) -> None:
        self.models, self.start, self.rectangular, self.atol = models, start, rectangular, atol
        self.worst = [np.zeros(rows, np.int64)]
        self.values, self.policy = np.zeros(models[0].S), np.zeros(0, np.int64)

    def steps(self) -> Iterator[Step]:
        """Yield after each model; the residual is the loss of the policy's value in its worst model."""
        smallest, q, steps = np.inf, np.full(len(self.worst[0]), np.inf), 0
        while True:
            choice = self.worst[-1]
            model = _composed(self.models, choice)
            optimal = model.solve(atol=self.atol / 10, value0=self.values if steps else None).value
            steps, smallest = steps + 1, min(smallest, float(optimal[self.start]))
            q = np.minimum(q, model.action_values(optimal))
            self.policy = _greedy(model, q)
            self.values, worst = _worst(self.models, self.policy, self.start, self.rectangular, self.atol / 10)
            self.worst.append(np.where(worst < 0, choice, worst))
            loss = smallest - float(self.values[self.start])
            yield Step(steps, max(loss, 0.0), self.atol, self.values.copy)


def _checked(function: str, models: Any, start: Any) -> int:
    """Check that the models have the same rows, and return their number."""
    if not isinstance(models, (list, tuple)) or not models or not all(isinstance(m, MDP) for m in models):
        raise TypeError(f"{function}: models must be a list of MDPs, got {type(models).__name__}")
    first = models[0]
    discount = first._discount(function)
    if first._process.modulus(discount)[1] >= 1:
        raise ValueError(f"{function}: gamma must be below 1, got {discount:g}")
    if any(model._process.rows.pair is not None for model in models):
        raise ValueError(f"{function}: models must have one row of P for each state and action, got shared ones")
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


def _composed(models: Sequence[MDP], choice: Array) -> MDP:
    """Return the process whose row j comes from model choice[j]."""
    first = models[0]
    place = choice * first.rows + np.arange(first.rows)
    rows_in_order = permuted_rows(stacked_rows([m._process.rows.matrix for m in models]), place)
    reward = np.concatenate([m.rewards for m in models])[place]
    rows = first._process.rows._replace(
        entry=rows_in_order.start, next=rows_in_order.column, weight=rows_in_order.value, reward=reward
    )
    return MDP._of(rows, first._process.discount, np.diff(rows.row) == 0)


def _greedy(model: MDP, q: Array) -> Array:
    """Return the first action with the largest q in each state, as a position within the state; -1 if it has none."""
    row = model._process.rows.row
    policy = np.full(model.S, -1, np.int64)
    for s in np.flatnonzero(np.diff(row)):
        policy[s] = np.argmax(q[row[s] : row[s + 1]])
    return policy


def _worst(models: Sequence[MDP], policy: Array, start: int, rectangular: bool, atol: float) -> tuple[Array, Array]:
    """Return the least values of a policy over the set, and the model of each row, -1 for unused rows."""
    first, place = models[0], policy.astype(np.int32)
    has = place >= 0
    used = first._process.rows.row[:-1][has] + place[has]
    if rectangular:
        return _adversary(models, used, has, atol)
    evaluated = [m._policy_values("iwocs", place) for m in models]
    k = int(np.argmin([v[start] for v in evaluated]))
    return evaluated[k], np.full(first.rows, k)


def _adversary(models: Sequence[MDP], used: Array, has: Array, atol: float) -> tuple[Array, Array]:
    """Return the least values by dynamic programming over the adversary's choices, and these choices."""
    first, M = models[0], len(models)
    place = (used[:, None] + first.rows * np.arange(M)).reshape(-1)
    rows_in_order = permuted_rows(stacked_rows([m._process.rows.matrix for m in models]), place)
    reward = -np.concatenate([m.rewards for m in models])[place]
    row = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.where(has, M, 0))])
    rows = Rows(row, rows_in_order.start, rows_in_order.column, rows_in_order.value, reward)
    solution = MDP._of(rows, first._process.discount, ~has).solve(atol=atol)
    choice = np.full(first.rows, -1)
    choice[used] = solution.policy[has]
    return -solution.value, choice
