"""The result of a fixed-point solver, its progress, and the arguments that determine when it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

from .._check import check_choice, check_flag, count, positive, type_name
from .._solution import Solution, all_of, is_true, plural
from ._space import NORMS

_REMEDIES = {
    "max_steps": "try a larger max_steps, or method='anderson'",
    "stagnated": "try a larger rtol or atol, as rounding errors may hide the rest, a larger patience or another method",
    "diverged": "the map need not be a contraction: try method='anderson' or 'newton_krylov', or a smaller damping",
    "nan": "f has returned NaN, or x0 has NaN; domain= keeps accelerated methods where f is defined",
}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FixedPointSolution(Solution):
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

    def _remembering(self, judged: str, *memory: Any) -> FixedPointSolution:
        """Return this solution with the state for a warm start."""
        object.__setattr__(self, "_judged", judged)
        object.__setattr__(self, "_memory", memory)
        return self

    def _with_value(self, value: Any) -> FixedPointSolution:
        """Return this solution with another form of its value, and with the state for a warm start."""
        made = replace(self, value=value)
        return made if self._memory is None else made._remembering(self._judged, *self._memory)

    def _failure(self) -> str | None:
        if bool(all_of(self.converged)):
            return None
        single = isinstance(self.reason, str)
        reasons, steps, residual, tolerance = (
            [x] if single else list(x) for x in (self.reason, self.steps, self.residual, self.tolerance)
        )
        failed = [k for k, reason in enumerate(reasons) if reason not in ("converged", "callback")]
        if not failed:
            return None
        k = max(failed, key=lambda k: _excess(float(residual[k]), float(tolerance[k])))
        which = "" if single else f" in sample {k}, the worst of {len(failed)} out of {len(reasons)} that failed"
        return (
            f"{self._judged} must fall to {float(tolerance[k]):.2g}, got {float(residual[k]):.2g} after "
            f"{plural(int(steps[k]))} ({reasons[k]!r}){which}; {_REMEDIES[reasons[k]]}"
        )


def _excess(residual: float, tolerance: float) -> float:
    return float("inf") if residual != residual else residual / max(tolerance, 1e-300)


@dataclass(frozen=True, eq=False)
class FixedPointProgress:
    """The state of a solver after an evaluation, the argument of ``callback``.

    Attributes
    ----------
    steps : int
        The steps so far.
    residual : (B,)
        ``||f(x) - x||`` of each sample; for a sample that has ended, at its end.
    active : (active,)
        The indices of the samples that have not ended.

    See Also
    --------
    fixed_point : Takes a ``callback``.
    FixedPointSolution : The result at the end.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import fixed_point
    >>> fixed_point(np.cos, np.ones((2, 1)), callback=lambda progress: progress.steps == 2).reason
    ('callback', 'callback')
    """

    steps: int
    residual: Any
    active: Any
    _value: Callable[[], Any] = field(repr=False)

    @property
    def value(self) -> Any:
        """A copy of x in the structure of x0, made on access."""
        return self._value()


class Limits(NamedTuple):
    """The arguments that determine when a solver ends, and whether it then raises an error."""

    rtol: float | None = None
    atol: float = 0.0
    max_steps: int = 1000
    norm: Any = "l2"
    patience: int = 100
    callback: Callable[[FixedPointProgress], Any] | None = None
    throw: bool = False

    def checked(self, function: str) -> Limits:
        """Return the limits as numbers; refuse other types and values."""
        if not callable(self.norm):
            check_choice(function, "norm", self.norm, NORMS)
        if self.callback is not None and not callable(self.callback):
            raise TypeError(f"{function}: callback must be callable or None, got {type_name(self.callback)}")
        check_flag(function, "throw", self.throw)
        return Limits(
            None if self.rtol is None else positive(function, "rtol", self.rtol),
            positive(function, "atol", self.atol),
            count(function, "max_steps", self.max_steps),
            self.norm,
            count(function, "patience", self.patience, 1),
            self.callback,
            self.throw,
        )

    def ends(self, progress: Callable[[], FixedPointProgress]) -> bool:
        """Call the callback, if there is one, and return whether it ends the solution."""
        return self.callback is not None and is_true(self.callback(progress()))
