"""pymdptoolbox's solvers by their names and attributes, with values that are right to the tolerance.

Transitions are an array (A, S, S) or A matrices (S, S), dense or sparse; rewards (S,), (S, A) or in the layout of the
transitions. After :meth:`run` a solver has ``V`` and ``policy``, tuples as there, ``iter`` and ``time``.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ..._public import publish
from .._average import average
from .._finite import finite_horizon
from .._mdp import MDP

__all__ = [
    "FiniteHorizon",
    "PolicyIteration",
    "PolicyIterationModified",
    "RelativeValueIteration",
    "ValueIteration",
    "ValueIterationGS",
]


class _Solver:
    """What all solvers have: the process, and the attributes that a run sets."""

    _method = "vi"

    def __init__(self, transitions: Any, reward: Any, discount: float | None, epsilon: float, max_iter: int) -> None:
        layout = list(transitions) if isinstance(transitions, np.ndarray) else transitions
        self._problem = MDP(layout, reward, discount)
        self.S, self.A = self._problem.S, len(layout)
        self.discount, self.epsilon, self.max_iter = discount, epsilon, max_iter
        self.V: Any = None
        self.policy: Any = None
        self.iter = 0
        self.time: float | None = None
        self.verbose = False
        self._value0: Any = None

    def setSilent(self) -> None:
        """Set ``verbose`` to False; nothing is printed either way."""
        self.verbose = False

    def setVerbose(self) -> None:
        """Set ``verbose`` to True; nothing is printed either way."""
        self.verbose = True

    def run(self) -> None:
        """Solve the process; a run that does not converge warns."""
        began = time.perf_counter()
        found: Any = self._problem
        found = found.solve(self._method, tol=self.epsilon, max_steps=self.max_iter, value0=self._value0)
        self.V, self.policy = tuple(found.value.tolist()), tuple(found.policy.tolist())
        self.iter, self.time = found.steps, time.perf_counter() - began


def _first_values(initial_value: Any, states: int) -> Any:
    return None if np.isscalar(initial_value) and initial_value == 0 else np.full(states, 0.0) + initial_value


class ValueIteration(_Solver):
    """Value iteration; unlike pymdptoolbox's, ``V`` is within epsilon / 2 of the optimal values.

    Parameters
    ----------
    transitions : (A, S, S), or A matrices (S, S)
        The probabilities, dense or sparse.
    reward : (S,), (S, A), or the layout of the transitions
        The rewards.
    discount : float
        In [0, 1).
    epsilon : float
        The width of the bounds at which it stops.
    max_iter : int
        The most sweeps.
    initial_value : float or (S,)
        The first values.
    skip_check : bool
        Accepted, and ignored: the checks are fast.

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
        super().__init__(transitions, reward, discount, epsilon, max_iter)
        first = _first_values(initial_value, self.S)
        self._value0 = None if first is None else first.astype(self._problem.dtype)


class ValueIterationGS(ValueIteration):
    """Value iteration in place, by Gauss-Seidel sweeps.

    Parameters
    ----------
    transitions : (A, S, S), or A matrices (S, S)
        The probabilities, dense or sparse.
    reward : (S,), (S, A), or the layout of the transitions
        The rewards.
    discount : float
        In [0, 1).
    epsilon : float
        The width of the bounds at which it stops.
    max_iter : int
        The most sweeps.
    initial_value : float or (S,)
        The first values.
    skip_check : bool
        Accepted, and ignored: the checks are fast.

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


class PolicyIteration(_Solver):
    """Policy iteration, from ``policy0`` if it is given.

    Parameters
    ----------
    transitions : (A, S, S), or A matrices (S, S)
        The probabilities, dense or sparse.
    reward : (S,), (S, A), or the layout of the transitions
        The rewards.
    discount : float
        In [0, 1).
    policy0 : (S,) integers
        The first policy.
    max_iter : int
        The most policies.
    eval_type : int
        Accepted, and ignored: a policy's values are found to rounding.
    skip_check : bool
        Accepted, and ignored: the checks are fast.

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

    _method = "pi"

    def __init__(
        self,
        transitions: Any,
        reward: Any,
        discount: float,
        policy0: Any = None,
        max_iter: int = 1000,
        eval_type: int = 0,
        skip_check: bool = False,
    ) -> None:
        super().__init__(transitions, reward, discount, 1e-6, max_iter)
        if policy0 is not None:
            self._value0 = self._problem.evaluate(policy0)


class PolicyIterationModified(_Solver):
    """Modified policy iteration, within epsilon / 2 of the optimal values.

    Parameters
    ----------
    transitions : (A, S, S), or A matrices (S, S)
        The probabilities, dense or sparse.
    reward : (S,), (S, A), or the layout of the transitions
        The rewards.
    discount : float
        In [0, 1).
    epsilon : float
        The width of the bounds at which it stops.
    max_iter : int
        The most sweeps over all actions.
    skip_check : bool
        Accepted, and ignored: the checks are fast.

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
        super().__init__(transitions, reward, discount, epsilon, max_iter)


class RelativeValueIteration(_Solver):
    """Relative value iteration: ``average_reward``, and the bias as ``V``, 0 in the first state.

    Parameters
    ----------
    transitions : (A, S, S), or A matrices (S, S)
        The probabilities, dense or sparse.
    reward : (S,), (S, A), or the layout of the transitions
        The rewards.
    epsilon : float
        The width of the bounds at which it stops.
    max_iter : int
        The most sweeps.
    skip_check : bool
        Accepted, and ignored: the checks are fast.

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
        super().__init__(transitions, reward, None, epsilon, max_iter)
        self.average_reward: float | None = None

    def run(self) -> None:
        """Solve the process; a run that does not converge warns."""
        began = time.perf_counter()
        found = average(self._problem, tol=self.epsilon, max_steps=self.max_iter)
        self.V, self.policy = tuple(found.value.tolist()), tuple(found.policy.tolist())
        self.average_reward, self.iter, self.time = found.gain, found.steps, time.perf_counter() - began


class FiniteHorizon(_Solver):
    """Backward induction: ``V`` (S, N + 1) and ``policy`` (S, N), arrays with a column for each step.

    Parameters
    ----------
    transitions : (A, S, S), or A matrices (S, S)
        The probabilities, dense or sparse.
    reward : (S,), (S, A), or the layout of the transitions
        The rewards.
    discount : float
        In [0, 1].
    N : int
        The number of steps.
    h : (S,)
        The terminal values, 0 by default.
    skip_check : bool
        Accepted, and ignored: the checks are fast.

    See Also
    --------
    fastiter.mdp.finite_horizon : The same, with processes that depend on time.

    Examples
    --------
    >>> from fastiter.mdp.compat import example, mdp
    >>> P, R = example.forest()
    >>> solver = mdp.FiniteHorizon(P, R, 0.9, 3)
    >>> solver.run()
    >>> solver.policy.tolist()
    [[0, 0, 0], [0, 0, 1], [0, 0, 0]]
    """

    def __init__(
        self, transitions: Any, reward: Any, discount: float, N: int, h: Any = None, skip_check: bool = False
    ) -> None:
        super().__init__(transitions, reward, None if discount == 1 else discount, 0.01, N)
        self.discount, self.N, self._last = discount, N, h

    def run(self) -> None:
        """Compute the values and the policies of all steps."""
        began = time.perf_counter()
        last = None if self._last is None else np.array(self._last, self._problem.dtype)
        found = finite_horizon(self._problem, self.N, last)
        self.V, self.policy = found.value.T, found.policy.T
        self.iter, self.time = self.N, time.perf_counter() - began


publish(globals())
