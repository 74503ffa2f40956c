"""The result of block coordinate descent, its progress, and the arguments that determine when it ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from .._check import check_choice, check_flag, count, positive, type_name
from .._solution import Solution, is_true, plural

STOPS = ("slope", "gap")
#: Minimum number of checks without progress after which the limit of rounding is reached
PATIENCE = 100
_REMEDIES = {
    "max_steps": "try a larger max_steps or larger blocks",
    "stagnated": "try a larger rtol: rounding errors hide the remaining residual",
    "diverged": "the objective is not bounded below, or it or the value is beyond the range of its dtype",
}


def reached(residual: float, value: Any) -> str:
    """Return the reason when the tolerance is reached: both may be infinite, and so may a value in its own dtype."""
    return "converged" if np.isfinite(residual) and np.isfinite(value).all() else "diverged"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class BCDSolution(Solution):
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
        The rule and the update; "converged", "max_steps", "stagnated", "diverged" or "callback".
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

    objective: float
    gap: float
    active: Any
    identified: int
    tolerance: float
    history: Any
    objectives: Any

    def _failure(self) -> str | None:
        if self.converged or self.reason == "callback":
            return None
        is_newton = not self.method.startswith("bcd") or self.method.endswith("newton")
        more = "" if is_newton or self.reason != "max_steps" else ", or update='newton'"
        return (
            f"the residual must come to {self.tolerance:.2g}, got {self.residual:.2g} after "
            f"{plural(self.steps)} ({self.reason!r}); {_REMEDIES[self.reason]}{more}"
        )

    def _details(self) -> list[str]:
        return [f"objective {self.objective:.6g}"]


@dataclass(frozen=True, eq=False)
class BCDProgress:
    """The state of a solver at a check, the argument of ``callback``.

    Attributes
    ----------
    steps : int
        The updates so far.
    residual, tolerance, objective : float
        As in :class:`BCDSolution`.

    See Also
    --------
    bcd : Takes a ``callback``.
    BCDSolution : The result at the end.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.bcd import LeastSquares, bcd
    >>> problem = LeastSquares(np.ones((2, 2)) + np.eye(2), np.array([1.0, 2.0]))
    >>> bcd(problem, check_every=1, callback=lambda progress: progress.steps == 3).reason
    'callback'
    """

    steps: int
    residual: float
    tolerance: float
    objective: float
    _value: Callable[[], Any] = field(repr=False)

    @property
    def value(self) -> Any:
        """A copy of the iterate, made on access."""
        return self._value()


class Progress:
    """Counts the checks and updates since the objective was lowest; after enough of both only rounding is left.

    Parameters
    ----------
    patience : float
        The number of updates without a lower objective after which only rounding is left, however often it is checked.
    """

    def __init__(self, patience: float) -> None:
        self._patience, self._best, self._checks, self._steps = patience, math.inf, 0, 0

    def has_ended(self, objective: float, steps: int) -> bool:
        """Return whether only rounding is left."""
        if objective < self._best:
            self._best, self._checks, self._steps = objective, 0, steps
            return False
        self._checks += 1
        return self._checks > PATIENCE and steps - self._steps > self._patience


class Limits(NamedTuple):
    """The arguments that determine when a solver ends, and whether it then raises an error."""

    rtol: float
    stop: str
    max_steps: int
    check_every: int | None
    callback: Callable[[BCDProgress], Any] | None
    throw: bool

    def checked(self, function: str) -> Limits:
        """Return the limits as numbers; refuse other types and values."""
        check_choice(function, "stop", self.stop, STOPS)
        if self.callback is not None and not callable(self.callback):
            raise TypeError(f"{function}: callback must be callable or None, got {type_name(self.callback)}")
        check_flag(function, "throw", self.throw)
        every = None if self.check_every is None else count(function, "check_every", self.check_every, 1)
        most = count(function, "max_steps", self.max_steps, 0)
        return Limits(positive(function, "rtol", self.rtol), self.stop, most, every, self.callback, self.throw)

    def ends(self, progress: BCDProgress) -> bool:
        """Call the callback, if there is one, and return whether it ends the solution."""
        return self.callback is not None and is_true(self.callback(progress))
