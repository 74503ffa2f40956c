"""pymdptoolbox's solvers with their names and attributes, and values that are accurate to the tolerance.

Transitions are an array (A, S, S) or A matrices (S, S), dense or sparse; rewards (S,), (S, A) or in the layout of the
transitions. After :meth:`run` a solver has ``V`` and ``policy``, tuples as in pymdptoolbox, ``iter`` and ``time``.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..._check import count, positive
from ..._public import publish
from ..._solution import plural, warn
from .._average import average
from .._finite import finite_horizon
from .._process import Process
from ._base import MDP, SOLVER, asserted, renamed, required
from ._howard import howard
from ._learning import QLearning

Array = npt.NDArray[Any]

__all__ = [
    "MDP",
    "FiniteHorizon",
    "PolicyIteration",
    "PolicyIterationModified",
    "QLearning",
    "RelativeValueIteration",
    "ValueIteration",
    "ValueIterationGS",
]


def _threshold(epsilon: float, discount: float) -> float:
    """Return the span of a change of the values at which the bounds are epsilon wide."""
    return epsilon if discount == 1 else math.inf if discount == 0 else epsilon * (1 - discount) / discount


def _overlap(process: Process) -> float:
    """Return the sum over next states of their least probability in any row, which every row has in common."""
    rows, count = process.rows, len(process.rows.reward)
    known = np.bincount(rows.next, minlength=rows.states)
    often = np.flatnonzero(known >= count)  # other next states are impossible in some row
    place = np.full(rows.states, -1)
    place[often] = np.arange(len(often))
    owner = np.repeat(np.arange(count), np.diff(rows.entry))
    chosen = place[rows.next] >= 0
    table = np.zeros((count, len(often)))
    np.add.at(table, (owner[chosen], place[rows.next[chosen]]), rows.weight[chosen])
    return float(table.min(axis=0, initial=np.inf).sum()) if len(often) else 0.0


def _max_sweeps(process: Process, value: Array, epsilon: float, discount: float) -> int:
    """Return a number of sweeps after the first that is enough, as the span of value iteration's changes shrinks.

    The factor is the discount times the mass that two rows need not have in common.
    """
    w = np.empty_like(value)
    low, high = process.model.backup(value, w, None, 1, discount, None)
    allowed, factor = _threshold(epsilon, discount), discount * (1 - _overlap(process))
    if high - low < allowed or factor <= 0:
        return 1 if high - low < allowed else 2
    return max(1, math.ceil(math.log(allowed / (high - low)) / math.log(factor)))


@SOLVER
class ValueIteration(MDP):
    """Value iteration; unlike pymdptoolbox's, ``V`` is within epsilon / 2 of the optimal values.

    Parameters
    ----------
    %(process)s
    %(discount)s
    %(epsilon)s
    %(sweeps)s
    initial_value : float or (S,)
        The initial values.
    %(skip_check)s

    Attributes
    ----------
    max_iter : int
        The number of sweeps after the first that is enough for value iteration, if it is less than the argument. It
        limits the run only if another number is assigned to it.
    thresh : float
        The span of a sweep's changes at which the bounds are epsilon wide.

    %(raises)s

    See Also
    --------
    fastiter.mdp.MDP.solve : The same with bounds, a history and warm starts.

    Examples
    --------
    >>> from fastiter.mdp.compat import example, mdp
    >>> P, R = example.forest()
    >>> solver = mdp.ValueIteration(P, R, 0.96)
    >>> solver.run()
    >>> solver.policy
    (0, 0, 0)
    """

    def __init__(
        self,
        transitions: Any,
        reward: Any,
        discount: float,
        epsilon: float = 0.01,
        max_iter: int = 1000,
        initial_value: Any = 0,
        skip_check: bool = False,
    ) -> None:
        required(type(self).__name__, discount=discount, epsilon=epsilon, max_iter=max_iter)
        super().__init__(transitions, reward, discount, epsilon, max_iter)
        self._value0 = self._numbers("initial_value", initial_value)
        self.V, self.thresh = self._value0.copy(), _threshold(epsilon, self.discount)
        self._requested = self._enough = max_iter
        if self.discount < 1:
            process = self._problem._process
            self.max_iter = self._enough = min(max_iter, _max_sweeps(process, self._value0, epsilon, self.discount))

    def run(self) -> None:
        """Solve the process; a run that does not converge warns."""
        limit = self._requested if self.max_iter == self._enough else self.max_iter
        if self.discount == 1:
            self._sweep(self._value0, limit)
        else:
            self._solve(self._start(), limit)

    def _start(self) -> Array | None:
        return self._value0


@SOLVER
class ValueIterationGS(ValueIteration):
    """Value iteration in place, by Gauss-Seidel sweeps.

    Parameters
    ----------
    %(process)s
    %(discount)s
    %(epsilon)s
    %(sweeps)s
    initial_value : float or (S,)
        The initial values.
    %(skip_check)s

    %(raises)s

    See Also
    --------
    fastiter.mdp.MDP.solve : The same with bounds, a history and warm starts.

    Examples
    --------
    >>> from fastiter.mdp.compat import example, mdp
    >>> P, R = example.forest()
    >>> solver = mdp.ValueIterationGS(P, R, 0.96)
    >>> solver.run()
    >>> solver.policy
    (0, 0, 0)
    """

    _method = "gs"

    def _start(self) -> Array | None:
        return self._value0 if self._value0.any() else None


@SOLVER
class PolicyIteration(MDP):
    """Policy iteration, from ``policy0`` if it is given.

    Parameters
    ----------
    %(process)s
    discount : float
        From 0 to below 1.
    policy0 : (S,) integers
        The initial policy; by default the actions with the largest rewards.
    max_iter : int
        The maximum number of policies.
    eval_type : {0, 1, "matrix", "iterative"}
        Accepted and ignored: a policy's values are computed to rounding.
    %(skip_check)s

    %(raises)s

    See Also
    --------
    fastiter.mdp.MDP.solve : The same with bounds, a history and warm starts.

    Examples
    --------
    >>> from fastiter.mdp.compat import example, mdp
    >>> P, R = example.forest()
    >>> solver = mdp.PolicyIteration(P, R, 0.9)
    >>> solver.run()
    >>> [round(v, 3) for v in solver.V]
    [26.244, 29.484, 33.484]
    """

    def __init__(
        self,
        transitions: Any,
        reward: Any,
        discount: float,
        policy0: Any = None,
        max_iter: int = 1000,
        eval_type: Any = 0,
        skip_check: bool = False,
    ) -> None:
        with asserted():
            if positive("PolicyIteration", "discount", discount) == 1:
                raise ValueError("PolicyIteration: discount must be below 1, got 1")
        kinds = {0: "matrix", 1: "iterative", "matrix": "matrix", "iterative": "iterative"}
        if isinstance(eval_type, bool) or eval_type not in kinds:
            raise ValueError(
                f"PolicyIteration: eval_type must be one of {', '.join(map(repr, kinds))}, got {eval_type!r}"
            )
        required("PolicyIteration", max_iter=max_iter)
        super().__init__(transitions, reward, discount, None, max_iter)
        self.eval_type, self.V = kinds[eval_type], np.zeros(self.S)
        self.policy = self._greedy(self.V) if policy0 is None else policy0
        with asserted(), renamed("PolicyIteration"):
            place = self._problem._process.place("evaluate", self.policy)
        self.policy = self._problem._process.label(place)

    def run(self) -> None:
        """Solve the process; a run that ends before no action is better warns."""
        began = time.perf_counter()
        solution = howard("PolicyIteration", self._problem, self.policy, self.max_iter)
        if not solution.is_best:
            got = f"better ones after {plural(solution.steps)}; try a larger max_iter"
            warn(f"PolicyIteration: no action must be better, got {got}")
        self._finish(began, solution.value, solution.policy, solution.steps)


@SOLVER
class PolicyIterationModified(MDP):
    """Modified policy iteration, within epsilon / 2 of the optimal values.

    Parameters
    ----------
    %(process)s
    %(discount)s
    %(epsilon)s
    max_iter : int
        The maximum number of sweeps over all actions.
    %(skip_check)s

    %(raises)s

    See Also
    --------
    fastiter.mdp.MDP.solve : The same with bounds, a history and warm starts.

    Examples
    --------
    >>> from fastiter.mdp.compat import example, mdp
    >>> P, R = example.forest()
    >>> solver = mdp.PolicyIterationModified(P, R, 0.9)
    >>> solver.run()
    >>> solver.policy
    (0, 0, 0)
    """

    _method = "mpi"

    def __init__(
        self,
        transitions: Any,
        reward: Any,
        discount: float,
        epsilon: float = 0.01,
        max_iter: int = 1000,
        skip_check: bool = False,
    ) -> None:
        required(type(self).__name__, discount=discount, epsilon=epsilon, max_iter=max_iter)
        super().__init__(transitions, reward, discount, epsilon, max_iter)
        self.thresh = _threshold(epsilon, self.discount)
        lowest = 0.0 if self.discount == 1 else float(self._problem.rewards.min()) / (1 - self.discount)
        self.V, self.policy = np.full(self.S, lowest), self._greedy(np.zeros(self.S))

    def run(self) -> None:
        """Solve the process; a run that does not converge warns."""
        if self.discount == 1:
            self._sweep(np.zeros(self.S), self.max_iter)
        else:
            self._solve(None, self.max_iter)


@SOLVER
class RelativeValueIteration(MDP):
    """Relative value iteration: ``average_reward``, and the bias as ``V``, which is the average in the last state.

    Parameters
    ----------
    %(process)s
    %(epsilon)s
    %(sweeps)s
    %(skip_check)s

    Attributes
    ----------
    average_reward : float
        The lower bound on the average reward, which the policy earns at least.

    %(raises)s

    See Also
    --------
    fastiter.mdp.average : The same with bounds on the average reward.

    Examples
    --------
    >>> from fastiter.mdp.compat import example, mdp
    >>> P, R = example.forest()
    >>> solver = mdp.RelativeValueIteration(P, R)
    >>> solver.run()
    >>> round(solver.average_reward, 2)
    3.24
    """

    def __init__(
        self, transitions: Any, reward: Any, epsilon: float = 0.01, max_iter: int = 1000, skip_check: bool = False
    ) -> None:
        required("RelativeValueIteration", epsilon=epsilon, max_iter=max_iter)
        super().__init__(transitions, reward, None, epsilon, max_iter)
        self.discount, self.gain, self.V = 1, 0.0, np.zeros(self.S)
        self.average_reward: float | None = None

    def run(self) -> None:
        """Solve the process; a run that does not converge warns."""
        began = time.perf_counter()
        solution = self._attempted(partial(average, self._problem), self.max_iter)
        self.average_reward = self.gain = solution.gain_bounds[0]
        self._finish(
            began,
            solution.value - (solution.value[-1] - solution.value.dtype.type(self.gain)),
            solution.policy,
            solution.steps,
        )


@SOLVER
class FiniteHorizon(MDP):
    """Backward induction: ``V`` (S, N + 1) and ``policy`` (S, N), arrays with one column per step.

    Parameters
    ----------
    %(process)s
    discount : float
        In [0, 1].
    N : int
        The number of steps.
    h : (S,)
        The terminal values, 0 by default.
    %(skip_check)s

    %(raises)s

    See Also
    --------
    fastiter.mdp.finite_horizon : The same, also for time-dependent processes.

    Examples
    --------
    >>> from fastiter.mdp.compat import example, mdp
    >>> P, R = example.forest()
    >>> solver = mdp.FiniteHorizon(P, R, 0.9, 3)
    >>> solver.run()
    >>> solver.policy.tolist()
    [[0, 0, 0], [0, 0, 1], [0, 0, 0]]
    """

    _warns_undiscounted = False

    def __init__(
        self, transitions: Any, reward: Any, discount: float, N: int, h: Any = None, skip_check: bool = False
    ) -> None:
        with asserted():
            self.N = count("FiniteHorizon", "N", N, 1)
        required("FiniteHorizon", discount=discount)
        super().__init__(transitions, reward, discount, None, None)
        self._last = None if h is None else self._numbers("h", h)
        self.V, self.policy = np.zeros((self.S, N + 1)), np.zeros((self.S, N), np.int64)
        self.V[:, N] = 0 if self._last is None else self._last

    def run(self) -> None:
        """Compute the values and the policies of all steps."""
        began = time.perf_counter()
        solution = finite_horizon(self._problem, self.N, self._last)
        self.V, self.policy = solution.value.T, solution.policy.T
        self.iter, self.time = self.N, time.perf_counter() - began


publish(globals())
