"""The result of a solver, and the warning and exception for a solver that has not converged."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar, cast

import numpy as np

#: The type of a solution's value: an array, a tensor or a structure of these
Value = TypeVar("Value", covariant=True)


class ConvergenceWarning(UserWarning):
    """A solver has stopped without convergence; its result is the last iterate.

    ``throw=True`` raises a :class:`ConvergenceError` instead, and
    ``warnings.simplefilter("ignore", fastiter.ConvergenceWarning)`` silences the warning.

    See Also
    --------
    ConvergenceError : The exception that ``throw=True`` raises instead.
    Solution : The result, with the reason for stopping.

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
        The function, the tolerance and the residual when it stopped.
    solution : Solution, optional
        The result without convergence.

    Attributes
    ----------
    solution : Solution or None
        The result without convergence; None if the solver was stopped before it had one.

    See Also
    --------
    ConvergenceWarning : The warning that is issued without ``throw``.
    Solution.raise_if_failed : Raises this exception for a result that did not converge.

    Examples
    --------
    >>> import fastiter, numpy as np
    >>> try:
    ...     fastiter.relax.jacobi(np.array([[1.0, 2.0], [3.0, 1.0]]), np.ones(2), throw=True)
    ... except fastiter.ConvergenceError as error:
    ...     error.solution.reason
    'diverged'
    """

    def __init__(self, message: str, solution: Solution[Any] | None = None) -> None:
        super().__init__(message)
        self.solution = solution


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Solution(Generic[Value]):
    """The result of a solver: the fields that all solvers have in common.

    Linear systems return a :class:`fastiter.relax.LinearSolution`, recurrences a
    :class:`fastiter.torch.RecurrenceSolution`.

    For type checkers it is generic in its value: a function of any solution on arrays takes a
    ``Solution[npt.NDArray[Any]]``, of any solution on tensors a ``Solution[Tensor]``.

    Attributes
    ----------
    value : object
        The solution, or the last iterate where the solver did not converge: an array, a tensor or a tuple of these.
    converged : bool, or array of bool
        Whether it converged; one flag for each column or sequence if there are several.
    steps : int, or array of int
        The number of steps.
    residual : float, or array of float
        The final value of the norm that the convergence test uses.
    method : str
        The method that ran.
    reason : str, or tuple of str
        The reason for stopping; only ``"converged"`` means success.

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

    value: Value
    converged: Any
    steps: Any
    residual: Any
    method: str
    reason: Any

    def raise_if_failed(self) -> None:
        """Raise :class:`ConvergenceError` unless every column or sequence converged.

        Raises
        ------
        ConvergenceError
            With the message of the solver's warning, and this solution as its attribute.
        """
        message = self._failure()
        if message is not None:
            raise ConvergenceError(f"{self.method}: {message}", self)

    def _failure(self) -> str | None:
        """Return a sentence that describes the failure; None if everything converged."""
        return None if bool(all_of(self.converged)) else f"the solver must converge, got {self._reasons()}"

    def _reasons(self) -> str:
        """Return the reason for stopping, or the distinct reasons."""
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
        if self._reasons():
            numbers = [f"{self._reasons()} after {plural(span(self.steps))}", f"residual {span(self.residual, '.2g')}"]
        else:  # an empty batch
            numbers = ["no samples"]
        parts = [self.method, *numbers, *self._details(), f"value {shapes}"]
        return f"{type(self).__name__}({', '.join(parts)})"


class Failure(NamedTuple):
    """The column or sample that is furthest from convergence, and ``where`` it is, empty if there is only one."""

    reason: str
    steps: int
    residual: float
    tolerance: float
    where: str


def worst_failure(solution: Any, noun: str) -> Failure | None:
    """Return the worst failure of a solution with a tolerance; ``noun``: "column" or "sample"; None without failure."""
    if bool(all_of(solution.converged)):
        return None
    numbers = solution.reason, solution.steps, solution.residual, solution.tolerance
    if isinstance(solution.reason, str):
        return None if solution.reason == "callback" else Failure(*numbers, "")
    failures = [
        (Failure(reason, int(steps), float(residual), float(tolerance), ""), k)
        for k, (reason, steps, residual, tolerance) in enumerate(zip(*map(list, numbers), strict=True))
        if reason not in ("converged", "callback")
    ]
    if not failures:
        return None
    worst, k = max(failures, key=lambda failure: _excess(failure[0]))
    count = f"the worst of {len(failures)} out of {len(solution.reason)} that failed"
    return worst._replace(where=f" in {noun} {k}, {count}")


def _excess(failure: Failure) -> float:
    is_nan = failure.residual != failure.residual
    return float("inf") if is_nan else failure.residual / max(failure.tolerance, 1e-300)


def all_of(x: Any) -> Any:
    """Return a bool itself, or whether all elements of an array or a tensor are true."""
    return x if isinstance(x, bool) else x.all()


def plural(steps: int | str) -> str:
    """Return a number of steps with its noun."""
    return f"{steps} step" if str(steps) == "1" else f"{steps} steps"


def span(x: Any, form: str = "") -> str:
    """Return a number as text, or the range of the elements of an array."""
    if not hasattr(x, "min"):
        return format(x, form)
    if len(x) == 0:
        return "no"
    low, high = format(x.min().item(), form), format(x.max().item(), form)
    return low if low == high else f"{low} to {high}"


def is_true(answer: object) -> bool:
    """Return whether a callback returned True: only that stops a solver, as callbacks may return anything."""
    return isinstance(answer, (bool, np.bool_)) and bool(answer)


AnySolution = TypeVar("AnySolution", bound=Solution[Any])


def judged(function: str, solution: AnySolution, throw: bool) -> AnySolution:
    """Return a solution; if it did not converge, warn, or raise if ``throw`` is True."""
    message = None if solution.converged is True else solution._failure()
    if message is None:
        return solution
    if throw:
        raise ConvergenceError(f"{function}: {message}", solution)
    warn(f"{function}: {message}")
    return solution


def attempted(solve: Callable[..., AnySolution], *arguments: Any, **options: Any) -> AnySolution:
    """Return a solver's solution, also one that did not converge, for a caller that warns by names of its own."""
    try:
        return solve(*arguments, throw=True, **options)
    except ConvergenceError as error:
        if error.solution is None:
            raise
        return cast(AnySolution, error.solution)


def warn(message: str) -> None:
    """Issue a ConvergenceWarning attributed to the line that called the package."""
    warnings.warn(message, ConvergenceWarning, stacklevel=outside())


def outside() -> int:
    """Return the ``stacklevel`` that attributes a warning of the caller to the line that called the package.

    Frames of torch are skipped too: its decorators, modules and backward passes call the package on behalf of the user.
    """
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("fastiter", "torch"):
        level, frame = level + 1, frame.f_back
    return level
