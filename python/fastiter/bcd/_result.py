"""The result of block coordinate descent, and the test whether only rounding errors are left."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .._call.iterate import Record, Step
from .._plot import PlotsHistory
from .._solution import Solution, Value, plural

#: Minimum number of checks without progress after which the limit of rounding is reached
PATIENCE = 100
_REMEDIES = {
    "max_steps": "try a larger max_steps or larger blocks",
    "stagnated": "try a larger rtol: rounding errors hide the remaining residual",
    "diverged": "the objective is not bounded below, or it or the value is beyond the range of its dtype",
    "nan": "the function has returned NaN",
}


class Checks(Record):
    """The residuals and objectives at the checks; ``overflows``: a NaN has diverged, as the data is finite."""

    def __init__(self, *, overflows: bool = True) -> None:
        super().__init__(overflows=overflows)
        self.objectives: list[float] = []

    def check(self, step: Step) -> bool:
        """Record a check; return whether it is the last one."""
        self.objectives.append(step.numbers()["objective"])
        return super().check(step)

    def results(self) -> dict[str, Any]:
        """Return the fields of a BCDSolution that follow from the checks."""
        objectives = np.array(self.objectives)
        return super().results() | {"history": np.array(self.history), "objectives": objectives}


def is_in_range(residual: float, value: Any) -> bool:
    """Return whether a residual within the tolerance means convergence: both may be infinite, and so may the value."""
    return math.isfinite(residual) and bool(np.isfinite(value).all())


def step_of(
    steps: int,
    numbers: tuple[float, float, float],
    value: Callable[[], Any],
    is_finite: bool,
    is_stalled: bool,
    can_converge: bool = True,
) -> Step:
    """Return the step of a check with a residual, its tolerance and the objective.

    It diverges where the objective or the iterate is not finite, unless it converges; a converged value must be finite
    in its own dtype.
    """
    residual, tolerance, objective = numbers
    has_diverged = not is_finite
    if residual <= tolerance and can_converge:
        has_diverged = not is_in_range(residual, value())
        can_converge = not has_diverged
    named: Callable[[], dict[str, float]] = partial(dict, objective=objective)
    return Step(steps, residual, tolerance, value, named, can_converge, is_stalled, has_diverged)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class BCDSolution(PlotsHistory, Solution[Value]):
    """A minimiser, and the state of convergence.

    Attributes
    ----------
    value : (m,) or (m, classes)
        The minimiser, in the dtype of the data.
    converged : bool
        True if the residual reached the tolerance.
    steps : int
        The number of updates of a block.
    residual : float
        With ``stop="slope"`` the largest entry of the minimum-norm subgradient of the objective, with "gap" the duality
        gap.
    method, reason : str
        The rule and the update; "converged", "max_steps", "stagnated", "diverged", "callback", or "nan"
        if a function has returned NaN.
    objective : float
        The value of the objective.
    gap : float
        The duality gap, which bounds the distance of the objective from its minimum; infinite if no dual point is
        known.
    active : (m,) or (m, classes) bool
        Coordinates held at a bound, or at 0 by l1.
    identified : int
        The step from which ``active`` has not changed.
    tolerance : float
        The residual at which it converges.
    history, objectives : (checks,)
        The residual and the objective at each check, beginning before the first step.

    See Also
    --------
    bcd : Returns it.
    fastiter.Solution : The attributes shared by the results of all solvers.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.bcd import LeastSquares, bcd
    >>> found = bcd(LeastSquares(np.diag([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 1.0]), l1=3.0))
    >>> found.value, found.active
    (array([0.  , 1.25, 0.  ]), array([ True, False,  True]))
    """

    converged: bool
    steps: int
    residual: float
    reason: str
    objective: float
    gap: float
    active: Value
    identified: int
    tolerance: float
    history: Value
    objectives: Value

    def _failure(self) -> str | None:
        if self.converged or self.reason == "callback":
            return None
        is_newton = not self.method.startswith("bcd") or self.method.endswith("newton")
        more = "" if is_newton or self.reason != "max_steps" else ", or update='newton'"
        return (
            f"the residual must fall to {self.tolerance:.2g}, got {self.residual:.2g} after "
            f"{plural(self.steps)} ({self.reason!r}); {_REMEDIES[self.reason]}{more}"
        )

    def _details(self) -> list[str]:
        return [f"objective {self.objective:.6g}"]


class Stalled:
    """Counts the checks and updates since the objective was lowest; after enough of both only rounding is left.

    Parameters
    ----------
    patience : float
        The number of updates without a lower objective after which only rounding is left, however often it is checked.
    """

    def __init__(self, patience: float) -> None:
        self._patience, self._best, self._checks, self._steps = patience, math.inf, 0, 0

    def check(self, objective: float, steps: int) -> bool:
        """Return whether only rounding is left."""
        if objective < self._best:
            self._best, self._checks, self._steps = objective, 0, steps
            return False
        self._checks += 1
        return self._checks > PATIENCE and steps - self._steps > self._patience
