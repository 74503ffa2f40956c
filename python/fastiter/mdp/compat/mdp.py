"""pymdptoolbox's solvers with their names and attributes, and values that are accurate to the tolerance.

Transitions are an array (A, S, S) or A matrices (S, S), dense or sparse; rewards (S,), (S, A) or in the layout of the
transitions. After :meth:`run` a solver has ``V`` and ``policy``, tuples as in pymdptoolbox, ``iter`` and ``time``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from ..._check import check_entries, count, positive, refuse_mask, type_name
from ..._docs import documented
from ..._public import publish
from ..._solution import attempted, plural, warn
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


#: This module's argument names, by the corresponding ones of :class:`MDP` and its methods
_NAMES = {"P": "transitions", "R": "reward", "gamma": "discount", "policy": "policy0"}
#: The remedy in messages of :class:`MDP` that these solvers do not offer
_REMEDY = " (renormalize=True divides by the sum)"


@contextmanager
def _renamed(function: str) -> Iterator[None]:
    """Replace the names of functions and arguments in error messages by this module's names."""
    try:
        yield
    except (TypeError, ValueError) as error:
        text = str(error).removeprefix("MDP: ").removeprefix("evaluate: ").replace(_REMEDY, "")
        text = re.sub(rf"\b({'|'.join(_NAMES)})\b", lambda found: _NAMES[found[0]], text)
        raise type(error)(f"{function}: {text}") from None


def _matrices(function: str, transitions: Any) -> list[Any]:
    """Return the matrix of each action."""
    refuse_mask(function, "transitions", transitions)
    expected = "an array (A, S, S) or a list of A matrices (S, S)"
    if not isinstance(transitions, (list, tuple, np.ndarray)) or getattr(transitions, "ndim", 1) == 0:
        raise TypeError(f"{function}: transitions must be {expected}, got {type_name(transitions)}")
    if len(transitions) == 0 or not all(len(getattr(one, "shape", ())) == 2 for one in transitions):
        raise TypeError(f"{function}: transitions must be {expected}, got others")
    return list(transitions)


#: Parts of docstrings
SOLVER = documented(
    {
        "process": """
            transitions : (A, S, S), or A matrices (S, S)
                The probabilities, dense or sparse.
            reward : (S,), (S, A), or the layout of the transitions
                The rewards.
        """,
        "discount": """
            discount : float
                In [0, 1).
        """,
        "epsilon": """
            epsilon : float
                The width of the bounds at which it stops.
        """,
        "sweeps": """
            max_iter : int
                The maximum number of sweeps.
        """,
        "skip_check": """
            skip_check : bool
                Accepted, and ignored: the checks are fast.
        """,
    }
)


class _Solver:
    """The process, and the attributes that a run sets."""

    _method: Any = "vi"
    #: Whether the discount may be None
    _may_be_undiscounted = False

    def __init__(self, transitions: Any, reward: Any, discount: float | None, epsilon: float, max_iter: int) -> None:
        function = type(self).__name__
        layout = _matrices(function, transitions)
        positive(function, "epsilon", epsilon, zero=False)
        count(function, "max_iter", max_iter, 1)
        if discount is not None or not self._may_be_undiscounted:
            discount = positive(function, "discount", discount)
        with _renamed(function):
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

    def _found(self, solve: Any) -> Any:
        """Return a solution; without convergence, warn with this module's names."""
        found: Any = attempted(solve, tol=self.epsilon, max_steps=self.max_iter)
        if not found.converged:
            got = f"{self.epsilon:g}, got {found.residual:.2g} after {plural(found.steps)}"
            warn(f"{type(self).__name__}: the bounds must come within {got}; try a larger max_iter or epsilon")
        return found

    def run(self) -> None:
        """Solve the process; a run that does not converge warns."""
        began = time.perf_counter()
        found = self._found(partial(self._problem.solve, self._method, value0=self._value0))
        self.V, self.policy = tuple(found.value.tolist()), tuple(found.policy.tolist())
        self.iter, self.time = found.steps, time.perf_counter() - began


def _numbers(function: str, name: str, x: Any, problem: MDP) -> Any:
    """Return a number, or one number per state, as values (S,) in the dtype of the process."""
    refuse_mask(function, name, x)
    try:
        given = np.asarray(x)
    except ValueError:
        raise TypeError(f"{function}: {name} must be numbers, got a ragged sequence") from None
    if given.dtype.kind not in "iuf":
        raise TypeError(f"{function}: {name} must be numbers, got dtype {given.dtype}")
    if given.shape not in ((), (problem.S,)):
        raise ValueError(f"{function}: {name} must be a number or have shape ({problem.S},), got {given.shape}")
    with np.errstate(over="ignore"):
        values = np.full(problem.S, given).astype(problem.dtype)
    check_entries(function, name, values, np.isfinite(values), f"be finite in {problem.dtype}")
    return values


@SOLVER
class ValueIteration(_Solver):
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
        values = _numbers(type(self).__name__, "initial_value", initial_value, self._problem)
        self._value0 = values if values.any() or np.ndim(initial_value) else None


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


@SOLVER
class PolicyIteration(_Solver):
    """Policy iteration, from ``policy0`` if it is given.

    Parameters
    ----------
    %(process)s
    %(discount)s
    policy0 : (S,) integers
        The initial policy.
    max_iter : int
        The maximum number of policies.
    eval_type : int
        Accepted and ignored: a policy's values are computed to rounding.
    %(skip_check)s

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
        if positive("PolicyIteration", "discount", discount) == 1:
            raise ValueError("PolicyIteration: discount must be below 1, got 1")
        super().__init__(transitions, reward, discount, 1e-6, max_iter)
        if policy0 is not None:
            with _renamed("PolicyIteration"):
                self._value0 = self._problem.evaluate(policy0)


@SOLVER
class PolicyIterationModified(_Solver):
    """Modified policy iteration, within epsilon / 2 of the optimal values.

    Parameters
    ----------
    %(process)s
    %(discount)s
    %(epsilon)s
    max_iter : int
        The maximum number of sweeps over all actions.
    %(skip_check)s

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


@SOLVER
class RelativeValueIteration(_Solver):
    """Relative value iteration: ``average_reward``, and the bias as ``V``, 0 in the first state.

    Parameters
    ----------
    %(process)s
    %(epsilon)s
    %(sweeps)s
    %(skip_check)s

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

    _may_be_undiscounted = True

    def __init__(
        self, transitions: Any, reward: Any, epsilon: float = 0.01, max_iter: int = 1000, skip_check: bool = False
    ) -> None:
        super().__init__(transitions, reward, None, epsilon, max_iter)
        self.average_reward: float | None = None

    def run(self) -> None:
        """Solve the process; a run that does not converge warns."""
        began = time.perf_counter()
        found = self._found(partial(average, self._problem))
        self.V, self.policy = tuple(found.value.tolist()), tuple(found.policy.tolist())
        self.average_reward, self.iter, self.time = found.gain, found.steps, time.perf_counter() - began


@SOLVER
class FiniteHorizon(_Solver):
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

    _may_be_undiscounted = True

    def __init__(
        self, transitions: Any, reward: Any, discount: float, N: int, h: Any = None, skip_check: bool = False
    ) -> None:
        N, discount = count("FiniteHorizon", "N", N, 1), positive("FiniteHorizon", "discount", discount)
        super().__init__(transitions, reward, None if discount == 1 else discount, 0.01, N)
        self.discount, self.N = discount, N
        self._last = None if h is None else _numbers("FiniteHorizon", "h", h, self._problem)

    def run(self) -> None:
        """Compute the values and the policies of all steps."""
        began = time.perf_counter()
        found = finite_horizon(self._problem, self.N, self._last)
        self.V, self.policy = found.value.T, found.policy.T
        self.iter, self.time = self.N, time.perf_counter() - began


publish(globals())
