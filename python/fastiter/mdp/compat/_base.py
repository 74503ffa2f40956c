"""The base of pymdptoolbox's solvers: the process in its layouts, and the attributes that each solver has."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..._check import check_entries, count, positive, refuse_mask, type_name
from ..._docs import documented
from ..._solution import Solution, attempted, outside, plural, warn
from .. import _mdp
from . import error, util

Array = npt.NDArray[Any]

#: This package's argument names, by the corresponding ones of :class:`fastiter.mdp.MDP` and its methods
_NAMES = {"P": "transitions", "R": "reward", "gamma": "discount", "policy": "policy0"}
#: The remedy in messages of :class:`fastiter.mdp.MDP` that these solvers do not offer
_REMEDY = " (renormalize=True divides by the sum)"


@contextmanager
def asserted() -> Iterator[None]:
    """Make ValueErrors AssertionErrors, too, which pymdptoolbox raises for wrong arguments."""
    try:
        yield
    except error.Error:
        raise
    except ValueError as wrong:
        raise error.ArgumentError(str(wrong)) from None


@contextmanager
def renamed(function: str, names: Mapping[str, str] = _NAMES) -> Iterator[None]:
    """Replace the names of functions and arguments in error messages by a compatible module's names."""
    try:
        yield
    except (TypeError, ValueError) as wrong:
        text = str(wrong).removeprefix("MDP: ").removeprefix("evaluate: ").replace(_REMEDY, "")
        text = re.sub(rf"\b({'|'.join(names)})\b", lambda match: names[match[0]], text)
        raise type(wrong)(f"{function}: {text}") from None


def _matrices(function: str, transitions: Any) -> list[Any]:
    """Return the matrix of each action."""
    refuse_mask(function, "transitions", transitions)
    expected = "an array (A, S, S) or a list of A matrices (S, S)"
    if isinstance(transitions, Mapping):
        transitions = _listed(transitions)
    if not isinstance(transitions, (list, tuple, np.ndarray)) or getattr(transitions, "ndim", 1) == 0:
        raise TypeError(f"{function}: transitions must be {expected}, got {type_name(transitions)}")
    if len(transitions) == 0 or not all(len(getattr(one, "shape", ())) == 2 for one in transitions):
        raise TypeError(f"{function}: transitions must be {expected}, got others")
    return list(transitions)


def _listed(mapping: Mapping[Any, Any]) -> Any:
    """Return the values of a dict with the keys 0, 1, ... as a list, and any other dict unchanged."""
    keys = range(len(mapping))
    return [mapping[a] for a in keys] if set(mapping) == set(keys) else mapping


def _rewards(reward: Any) -> Any:
    """Return rewards in a layout of :class:`fastiter.mdp.MDP`."""
    if isinstance(reward, Mapping):
        reward = _listed(reward)
    if isinstance(reward, np.ndarray) and reward.dtype == object:
        reward = list(reward)
    return reward.toarray() if hasattr(reward, "toarray") and getattr(reward, "ndim", 2) == 2 else reward


def required(function: str, **arguments: Any) -> None:
    """Refuse None for arguments that only the base class does without."""
    for name, x in arguments.items():
        if x is None:
            raise TypeError(f"{function}: {name} must be a number, got None")


def _is_vector(reward: Any) -> bool:
    """Return whether rewards are (S,), of states only."""
    return not hasattr(reward, "tocsr") and not isinstance(reward, Mapping) and np.ndim(reward[0]) == 0


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
                From 0 to 1. At 1 a warning says that nothing may converge: sweeps end once the changes of all values
                differ by less than epsilon, and ``V`` has the sums of rewards of as many steps.
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
        "raises": """
            Raises
            ------
            TypeError
                If transitions are no matrices, or a number or a reward has another type.
            Error
                A class of ``fastiter.mdp.compat.error``, as pymdptoolbox's, if an argument is out of its range, rows
                of transitions are no probabilities that sum to 1, or shapes do not go together.
        """,
    }
)


@SOLVER
class MDP:
    """A process and the attributes of a solver, the base of the classes whose ``run`` solves it.

    Parameters
    ----------
    %(process)s
    discount : float or None
        From 0 to 1; None for solvers without a discount.
    epsilon : float or None
        The tolerance, above 0; None for solvers without one.
    max_iter : int or None
        The maximum number of iterations, above 0; None for solvers without one.
    %(skip_check)s

    Attributes
    ----------
    P, R : tuple
        The matrix (S, S) of each action as given, and the expected rewards (S,) of each action.
    S, A : int
        The numbers of states and actions.
    V, policy : array or tuple
        The values and the actions; tuples after :meth:`run`.
    iter : int
        The number of iterations.
    time : float or None
        The seconds that :meth:`run` took.
    verbose : bool
        Has no effect.

    %(raises)s

    See Also
    --------
    fastiter.mdp.MDP : The same with bounds, a history and warm starts.

    Examples
    --------
    >>> from fastiter.mdp.compat import example, mdp
    >>> problem = mdp.MDP(*example.forest(), 0.9, None, None)
    >>> problem.S, problem.A, problem.R[1].tolist()
    (3, 2, [0.0, 1.0, 2.0])
    """

    _method: Any = "vi"
    #: Whether the solver sums rewards without end, so that a discount of 1 gets a warning
    _warns_undiscounted = True

    def __init__(
        self, transitions: Any, reward: Any, discount: Any, epsilon: Any, max_iter: Any, skip_check: bool = False
    ) -> None:
        function = type(self).__name__
        layout = _matrices(function, transitions)
        self.discount, self.epsilon, self.max_iter = discount, epsilon, max_iter
        with asserted():
            if epsilon is not None:
                positive(function, "epsilon", epsilon, zero=False)
            if max_iter is not None:
                count(function, "max_iter", max_iter, 1)
            if discount is not None:
                self.discount = positive(function, "discount", discount)
        self._problem = self._checked(function, layout, _rewards(reward))
        self.P, self.R = tuple(layout), self._of_actions(reward, len(layout))
        self.S, self.A = self._problem.S, len(layout)
        self.V: Any = None
        self.policy: Any = None
        self.iter = 0
        self.time: float | None = None
        self.verbose = False
        if self.discount == 1 and self._warns_undiscounted:
            text = f"{function}: discount must be below 1 for values that converge in general, got 1"
            warnings.warn(text, UserWarning, stacklevel=outside())

    def _checked(self, function: str, layout: Sequence[Any], reward: Any) -> _mdp.MDP:
        """Return the process; raise pymdptoolbox's kind of exception for wrong probabilities."""
        try:
            with asserted(), renamed(function):
                return _mdp.MDP(layout, reward, None if self.discount == 1 else self.discount)
        except error.ArgumentError as wrong:
            try:
                util.check(layout, reward)
            except error.Error as kind:
                raise type(kind)(str(wrong)) from None
            except TypeError:
                pass
            raise

    def _of_actions(self, reward: Any, A: int) -> tuple[Array, ...]:
        """Return the expected rewards (S,) of each action, -inf where a state does not have it."""
        rows = self._problem._process.rows
        table = np.full((rows.states, A), -np.inf, rows.reward.dtype)
        owner = np.repeat(np.arange(rows.states), np.diff(rows.row))
        label = rows.label if rows.label is not None else np.arange(len(owner)) - rows.row[owner]
        table[owner, label] = rows.reward
        columns = tuple(np.ascontiguousarray(table[:, a]) for a in range(A))
        return columns[:1] * A if _is_vector(reward) else columns

    def setSilent(self) -> None:
        """Set ``verbose`` to False; nothing is printed either way."""
        self.verbose = False

    def setVerbose(self) -> None:
        """Set ``verbose`` to True; nothing is printed either way."""
        self.verbose = True

    def run(self) -> None:
        """Raise NotImplementedError: the derived classes solve the process.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(f"{type(self).__name__}: run must be called on a solver, got the base class")

    def _attempted(self, solve: Any, max_steps: int) -> Any:
        """Return a solution; without convergence, warn with this module's names."""
        solution: Any = attempted(solve, atol=self.epsilon, max_steps=max_steps)
        self._judge(solution)
        return solution

    def _judge(self, solution: Solution[Any]) -> None:
        if not solution.converged:
            self._warn(solution.residual, solution.steps)

    def _warn(self, residual: float, steps: int) -> None:
        got = f"{self.epsilon:g}, got {residual:.2g} after {plural(steps)}"
        warn(f"{type(self).__name__}: the bounds must come within {got}; try a larger max_iter or epsilon")

    def _finish(self, began: float, value: Array, policy: Array, steps: int) -> None:
        self.V, self.policy = tuple(value.tolist()), tuple(policy.tolist())
        self.iter, self.time = steps, time.perf_counter() - began

    def _solve(self, value0: Array | None, max_steps: int) -> None:
        """Run the solver's method from initial values."""
        began = time.perf_counter()
        solution = self._attempted(partial(self._problem.solve, self._method, value0=value0), max_steps)
        self._finish(began, solution.value, solution.policy, solution.steps)

    def _sweep(self, value: Array, max_steps: int) -> None:
        """Sweep without a discount until the changes of all values differ by less than epsilon."""
        began, process = time.perf_counter(), self._problem._process
        v, w, action = value.astype(process.dtype), np.empty(self.S, process.dtype), np.empty(self.S, np.int32)
        steps, span = 0, np.inf
        while span >= self.epsilon and steps < max_steps:
            low, high = process.model.backup(v, w, action, 1, 1.0, None)
            v, w = w, v
            steps, span = steps + 1, high - low
        if not span < self.epsilon:
            self._warn(span, steps)
        self._finish(began, v, process.label(action), steps)

    def _greedy(self, value: Array) -> Array:
        """Return the best actions for given values of the next states."""
        process = self._problem._process
        action = np.empty(self.S, np.int32)
        discount = 1.0 if self.discount is None else self.discount
        process.model.backup(value.astype(process.dtype), np.empty(self.S, process.dtype), action, 1, discount, None)
        return process.label(action)

    def _numbers(self, name: str, x: Any) -> Array:
        """Return a number, or one number per state, as values (S,) in the dtype of the process."""
        function, problem = type(self).__name__, self._problem
        refuse_mask(function, name, x)
        try:
            array = np.asarray(x)
        except ValueError:
            raise TypeError(f"{function}: {name} must be numbers, got a ragged sequence") from None
        if array.dtype.kind not in "iuf":
            raise TypeError(f"{function}: {name} must be numbers, got dtype {array.dtype}")
        with asserted():
            if array.shape not in ((), (problem.S,)):
                raise ValueError(f"{function}: {name} must be a number or have shape ({problem.S},), got {array.shape}")
            with np.errstate(over="ignore"):
                values: Array = np.full(problem.S, array).astype(problem.dtype)
            check_entries(function, name, values, np.isfinite(values), f"be finite in {problem.dtype}")
        return values
