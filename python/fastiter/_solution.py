"""The result of a solver, and how a solver reports that it has not converged."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np


class ConvergenceWarning(UserWarning):
    """A solver has ended without convergence; its result is the last iterate.

    ``throw=True`` makes it a :class:`ConvergenceError`, and
    ``warnings.simplefilter("ignore", fastiter.ConvergenceWarning)`` silences it.

    See Also
    --------
    ConvergenceError : The exception in its place.
    Solution : The result, with the reason for ending.

    Examples
    --------
    >>> import warnings
    >>> import fastiter, numpy as np
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     solution = fastiter.relax.jacobi(np.array([[4.0, -1.0], [-2.0, 8.0]]), np.ones(2), max_steps=2)
    >>> caught[0].category is fastiter.ConvergenceWarning, solution.reason
    (True, 'max_steps')
    """


class ConvergenceError(RuntimeError):
    """A solver has not converged, and ``throw=True`` or :meth:`Solution.raise_if_failed` asked for an exception.

    Parameters
    ----------
    message : str
        The function, and the tolerance and residual where it ended.
    solution : Solution, optional
        The result without convergence.

    Attributes
    ----------
    solution : Solution or None
        The result without convergence; None if the solver was stopped before it had one.

    See Also
    --------
    ConvergenceWarning : The warning in its place, without ``throw``.
    Solution.raise_if_failed : Raises it for a result.

    Examples
    --------
    >>> import fastiter, numpy as np
    >>> try:
    ...     fastiter.relax.jacobi(np.array([[1.0, 2.0], [3.0, 1.0]]), np.ones(2), throw=True)
    ... except fastiter.ConvergenceError as error:
    ...     error.solution.reason
    'diverged'
    """

    def __init__(self, message: str, solution: Solution | None = None) -> None:
        super().__init__(message)
        self.solution = solution


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Solution:
    """The result of a solver: what all of them have in common.

    Linear systems return a :class:`fastiter.relax.LinearSolution`, recurrences a
    :class:`fastiter.torch.RecurrenceSolution`.

    Attributes
    ----------
    value : object
        The solution, or the last iterate where the solver did not converge: an array, a tensor or a tuple of these.
    converged : bool, or array of bool
        Whether it converged; one for each column or sequence if there are several.
    steps : int, or array of int
        The number of steps.
    residual : float, or array of float
        The norm by which convergence was judged, at the end.
    method : str
        The method that ran.
    reason : str, or tuple of str
        The reason for ending; ``"converged"`` is the only one that is a success.

    See Also
    --------
    fastiter.relax.LinearSolution : The result for linear systems.
    fastiter.torch.RecurrenceSolution : The result for recurrences.

    Examples
    --------
    >>> import fastiter, numpy as np
    >>> solution = fastiter.relax.sor(np.array([[4.0, -1.0], [-2.0, 8.0]]), np.array([2.0, 12.0]), omega=1.0)
    >>> isinstance(solution, fastiter.Solution), solution.converged, solution.steps
    (True, True, 7)
    >>> solution.raise_if_failed()
    """

    value: Any
    converged: Any
    steps: Any
    residual: Any
    method: str
    reason: Any

    def raise_if_failed(self) -> None:
        """Raise :class:`ConvergenceError` unless all of it converged.

        Raises
        ------
        ConvergenceError
            With the message that the solver's warning had, and this solution as its attribute.
        """
        message = self._failure()
        if message is not None:
            raise ConvergenceError(f"{self.method}: {message}", self)

    def _failure(self) -> str | None:
        """Return a sentence that describes the failure; None if all of it converged."""
        return None if bool(all_of(self.converged)) else f"the solver must converge, got {self._reasons()}"

    def _reasons(self) -> str:
        """Return the reason for ending, or each different one."""
        reasons = (self.reason,) if isinstance(self.reason, str) else self.reason
        return " and ".join(map(repr, dict.fromkeys(reasons)))

    def _details(self) -> list[str]:
        """Return further parts of the representation."""
        return []

    def __repr__(self) -> str:
        """Return one line, without the arrays."""
        value: Any = tuple(self.value.values()) if isinstance(self.value, dict) else self.value
        values = value if isinstance(value, (tuple, list)) else (value,)
        shapes = ", ".join(f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}" for x in values)
        parts = [self.method, f"{self._reasons()} after {plural(span(self.steps))}"]
        parts += [f"residual {span(self.residual, '.2g')}", *self._details(), f"value {shapes}"]
        return f"{type(self).__name__}({', '.join(parts)})"


def all_of(x: Any) -> Any:
    """Return whether all are true: of a bool, an array or a tensor."""
    return x if isinstance(x, bool) else x.all()


def plural(steps: int | str) -> str:
    """Return a number of steps with its noun."""
    return f"{steps} step" if str(steps) == "1" else f"{steps} steps"


def span(x: Any, form: str = "") -> str:
    """Return a number as text, or the least and the largest of several."""
    if not hasattr(x, "min"):
        return format(x, form)
    if len(x) == 0:
        return "no"
    low, high = format(x.min().item(), form), format(x.max().item(), form)
    return low if low == high else f"{low} to {high}"


def is_true(answer: object) -> bool:
    """Return whether a callback's answer is True: only that ends a solution, as callbacks may return anything."""
    return isinstance(answer, (bool, np.bool_)) and bool(answer)


AnySolution = TypeVar("AnySolution", bound=Solution)


def judged(function: str, solution: AnySolution, throw: bool) -> AnySolution:
    """Return a solution; warn if it did not converge, or raise if ``throw`` says so."""
    message = solution._failure()
    if message is None:
        return solution
    if throw:
        raise ConvergenceError(f"{function}: {message}", solution)
    warn(f"{function}: {message}")
    return solution


def warn(message: str) -> None:
    """Warn about convergence, at the line that called the package."""
    warnings.warn(message, ConvergenceWarning, stacklevel=outside())


def outside() -> int:
    """Return the ``stacklevel`` with which a caller's warning is at the line that called the package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "fastiter":
        level, frame = level + 1, frame.f_back
    return level
