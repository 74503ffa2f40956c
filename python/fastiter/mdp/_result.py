"""The result of a solver of decision processes, its progress, and the arguments that say when it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from .._check import check_choice, check_flag, count, positive, type_name
from .._solution import Solution, is_true, plural

STOPS = ("span", "sup")
_REMEDIES = {
    "max_steps": "try a larger max_steps, or method='auto'",
    "stagnated": "try a larger tol: rounding hides what is left",
    "diverged": "rewards or values have overflowed",
}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MDPSolution(Solution):
    """Optimal values of a decision process, a policy, and bounds that hold whether or not the method converged.

    Attributes
    ----------
    value : (S,)
        The middle of the bounds, in the dtype of P: off by at most half of ``residual``.
    converged : bool
        True if the stop was reached.
    steps : int
        Sweeps over all states; those of a policy's own chain are not counted.
    residual : float
        The largest ``upper - lower``; where gamma is 1 the largest change of the last sweep.
    method, reason : str
        The method that ran, and the reason for ending: "converged", "max_steps", "stagnated", "diverged" or "callback".
    policy : (S,) int64
        An action of each state whose own value is at least ``lower``; -1 in terminal states.
    lower, upper : (S,) float64
        ``lower <= V* <= upper``, with rounding counted. Infinite where gamma is 1 and no bound is known.
    tolerance : float
        The residual at which it converges.
    history : (steps,)
        The residual at each check.

    See Also
    --------
    MDP.solve, robust : Return it.
    fastiter.Solution : The attributes that all solvers' results have.

    Examples
    --------
    >>> from fastiter import mdp
    >>> found = mdp.examples.forest(3, 0.9).solve(tol=1e-9)
    >>> bool((found.lower <= found.value).all()), found.policy
    (True, array([0, 0, 0]))
    """

    policy: Any
    lower: Any
    upper: Any
    tolerance: float
    history: Any

    def _failure(self) -> str | None:
        if self.converged or self.reason == "callback":
            return None
        return (
            f"the bounds must come within {self.tolerance:.2g}, got {self.residual:.2g} after "
            f"{plural(self.steps)} ({self.reason!r}); {_REMEDIES[self.reason]}"
        )


def alone(found: MDPSolution) -> MDPSolution:
    """Return the solution of the only model of a batch."""
    names = ("value", "policy", "lower", "upper", "history", "reason")
    first: dict[str, Any] = {name: getattr(found, name)[0] for name in names}
    first |= {"converged": bool(found.converged[0]), "steps": int(found.steps[0])}
    return replace(found, **first, residual=float(found.residual[0]))


@dataclass(frozen=True, eq=False)
class MDPProgress:
    """The state of a solver at a check, the argument of ``callback``.

    Attributes
    ----------
    steps : int
        The sweeps so far.
    residual, tolerance : float
        As in :class:`MDPSolution`.

    See Also
    --------
    MDP.solve : Takes a ``callback``.
    MDPSolution : The result at the end.

    Examples
    --------
    >>> from fastiter import mdp
    >>> found = mdp.examples.forest(3, 0.9).solve(callback=lambda progress: progress.steps >= 2)
    >>> found.reason
    'callback'
    """

    steps: int
    residual: float
    tolerance: float
    _value: Callable[[], Any] = field(repr=False)

    @property
    def value(self) -> Any:
        """A copy of the values, made when it is asked for."""
        return self._value()


class Limits(NamedTuple):
    """When a solver ends, and what it does then."""

    tol: float = 1e-6
    stop: str = "span"
    max_steps: int = 100_000
    callback: Callable[[MDPProgress], Any] | None = None
    throw: bool = False

    def checked(self, function: str) -> Limits:
        """Return them as numbers; refuse other types and values."""
        check_choice(function, "stop", self.stop, STOPS)
        if self.callback is not None and not callable(self.callback):
            raise TypeError(f"{function}: callback must be callable or None, got {type_name(self.callback)}")
        check_flag(function, "throw", self.throw)
        tol = positive(function, "tol", self.tol, zero=False)
        return Limits(tol, self.stop, count(function, "max_steps", self.max_steps, 1), self.callback, self.throw)

    def ends(self, progress: MDPProgress) -> bool:
        """Call the callback, if there is one, and return whether it ends the solution."""
        return self.callback is not None and is_true(self.callback(progress))


class Bounds(NamedTuple):
    """V* lies between w + low and w + high, where w = T v."""

    low: float
    high: float

    @property
    def gap(self) -> float:
        return self.high - self.low


def bounds_of(change: tuple[float, float], modulus: tuple[float, float]) -> Bounds:
    """Return MacQueen's bounds from the least and the largest change T v - v.

    A constant added to v adds between modulus[0] and modulus[1] of it to T v, so that the changes still to come sum to
    at least ``low f / (1 - f)`` with f the first factor for low > 0, the second for low < 0, and likewise above.
    """
    low, high = change
    return Bounds(_sum(low, modulus[low < 0]), _sum(high, modulus[high >= 0]))


def _sum(change: float, factor: float) -> float:
    if factor < 1:
        return change * factor / (1 - factor)
    return 0.0 if change == 0 else float(np.copysign(np.inf, change))
