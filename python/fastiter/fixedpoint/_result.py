"""The result of a fixed-point solver."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from .._plot import PlotsHistory
from .._solution import Solution, Value, plural, worst_failure

_REMEDIES = {
    "max_steps": "try a larger max_steps, or method='anderson'",
    "stagnated": "try a larger rtol or atol, as rounding errors may hide the rest, a larger patience or another method",
    "diverged": "the map need not be a contraction: try method='anderson' or 'newton_krylov', or a smaller damping",
    "nan": "f has returned NaN, or x0 has NaN; domain= keeps accelerated methods where f is defined",
}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FixedPointSolution(PlotsHistory, Solution[Value]):
    """The fixed point x = f(x) of each sample, and the state of convergence.

    The attributes are numbers if ``batched`` is False, otherwise arrays with one number for each sample; they are
    tensors on the CPU if x0 has tensors.

    Attributes
    ----------
    value : object
        x, in the structure of x0; where a sample did not converge, its iterate with the smallest residual.
    converged : bool or (B,)
        True where ``||f(x) - x|| <= rtol ||f(x)|| + atol``.
    steps : int or (B,)
        The steps until the end of the sample.
    residual : float or (B,)
        ``||f(x) - x||`` for x = ``value``.
    method : str
        The method that ran.
    reason : str or tuple of str
        The reason for ending: "converged", "max_steps", "stagnated", "diverged", "nan" or "callback".
    tolerance : float or (B,)
        The residual at which it converges.
    evaluations : int or (B,)
        The number of evaluations of f for the sample.
    history : (checks,) or (checks, B)
        The residual at each step, beginning with that of x0; for a sample that has ended, the last one is repeated.

    See Also
    --------
    fixed_point : Returns it, and takes it as x0 for a warm start.
    fastiter.Solution : The attributes shared by the results of all solvers.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import fixed_point
    >>> found = fixed_point(np.cos, np.ones((2, 1)), rtol=1e-12)
    >>> found.value.round(6).ravel(), found.evaluations
    (array([0.739085, 0.739085]), array([7, 7]))
    """

    tolerance: Any
    evaluations: Any
    history: Any
    #: The method with its history, the sizes and the arrays' library and dtype; not a field, as it is not a result
    _memory: ClassVar[Any] = None
    #: The norm for the test of convergence, in messages
    _judged: ClassVar[str] = "||f(x) - x||"

    def _with_value(self, value: Any) -> FixedPointSolution[Any]:
        """Return this solution with another form of its value, and with the state for a warm start."""
        result = replace(self, value=value)
        vars(result).update(_judged=self._judged, _memory=self._memory)
        return result

    def _failure(self) -> str | None:
        failure = worst_failure(self, "sample")
        if failure is None:
            return None
        return (
            f"{self._judged} must fall to {failure.tolerance:.2g}, got {failure.residual:.2g} after "
            f"{plural(failure.steps)} ({failure.reason!r}){failure.where}; {_REMEDIES[failure.reason]}"
        )
