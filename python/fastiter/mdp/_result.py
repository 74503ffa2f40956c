"""Results of solvers of decision processes, and bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from .._call.iterate import Limits
from .._check import count
from .._plot import PlotsHistory, axes_of, draw_grid, grid_of, moves_of, numbers
from .._solution import Solution, Value, plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[Any]
#: Steps down and right of the actions north, east, south and west
COMPASS = ((-1, 0), (0, 1), (1, 0), (0, -1))
_REMEDIES = {
    "max_steps": "try a larger max_steps, or method='auto'",
    "stagnated": "try a larger atol or float64: rounding errors hide the remaining residual",
    "diverged": "rewards or values have overflowed",
}
_GAIN_REMEDY = "try tau=0.5 (periodic chains need it) or a larger max_steps"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MDPSolution(PlotsHistory, Solution[Value]):
    """Optimal values of a decision process, a policy, and bounds that hold whether or not the method converged.

    Attributes
    ----------
    value : (S,)
        The midpoint of the bounds, in the dtype of P: off by at most half of ``residual`` if gamma is below 1. Where
        the bounds are infinite, the last values: nothing is known about their error.
    converged : bool
        True if ``residual`` is at most ``tolerance``.
    steps : int
        Sweeps over all states; sweeps of a policy's own chain are not counted.
    residual : float
        The largest ``upper - lower``; if gamma is 1, the largest change in the last sweep, and the bounds may be wider,
        or infinite.
    method, reason : str
        The method that ran, and the reason for ending: "converged", "max_steps", "stagnated", "diverged" or "callback".
    policy : (S,) int64
        One action per state; the policy's value is at least ``lower``; -1 in terminal states.
    lower, upper : (S,) float64
        ``lower <= V* <= upper`` for the exact values of the process as it is stored (:attr:`MDP.transitions`,
        :attr:`MDP.rewards`), whatever has been rounded on the way. Infinite if gamma is 1 and no bound is known.
    tolerance : float
        The residual at which it converges.
    history : (steps,)
        The residual at each check.

    See Also
    --------
    MDP.solve, robust : Return it.
    fastiter.Solution : The attributes that all solvers' results have.

    Notes
    -----
    The solution of several models (:class:`MDPBatch`) has arrays with a leading axis B, arrays (B,) in place of
    numbers, and a tuple of reasons. ``history`` is NaN after the last check of a model.

    Examples
    --------
    >>> from fastiter import mdp
    >>> found = mdp.examples.forest(3, 0.9).solve(atol=1e-9)
    >>> bool((found.lower <= found.value).all()), found.policy
    (True, array([0, 0, 0]))
    """

    policy: Value
    lower: Value
    upper: Value
    tolerance: float
    history: Array
    _begins_before: ClassVar[bool] = False

    def plot_grid(
        self, shape: tuple[int, int], *, moves: Any = COMPASS, model: int | None = None, ax: Axes | None = None
    ) -> Axes:
        """Draw the values of states that are the cells of a grid, and an arrow for the action of each.

        Grids with more than 25 rows or columns have fewer arrows than cells; states without an action have none.

        Parameters
        ----------
        shape : (int, int)
            The rows and columns: state ``row * columns + column`` is the cell.
        moves : (A, 2), optional
            The steps down and right of each action, by default those of :func:`fastiter.mdp.examples.gridworld`: north,
            east, south and west.
        model : int, optional
            One of several models.
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes
            The axes, with an image, its colour bar, and the arrows.

        Raises
        ------
        ModuleNotFoundError
            If matplotlib is not installed.
        TypeError, ValueError
            If the shape, the moves or the model are not those of the process, or ``ax`` is no Axes.
        """
        value, policy = numbers(self.value), numbers(self.policy)
        if value.ndim == 2:
            if model is None:
                raise TypeError(f"plot_grid: model must be an int below {len(value)}, as there are several, got None")
            model = count("plot_grid", "model", model, 0, len(value) - 1)
            value, policy = value[model], policy[model]
        elif model is not None:
            raise TypeError(f"plot_grid: model must be None, as there is only one, got {model}")
        grid = grid_of("plot_grid", shape, len(value))
        steps = moves_of("plot_grid", moves, int(policy.max(initial=-1)) + 1)
        return draw_grid(value.reshape(grid), policy.reshape(grid), steps, axes_of("plot_grid", ax))

    def _residuals(self) -> Any:
        return numbers(self.history).T

    def _details(self) -> list[str]:
        """Return a warning where the residual is no bound on the error: without a discount it is the largest change."""
        finite = np.isfinite(numbers(self.lower)).all() and np.isfinite(numbers(self.upper)).all()
        return [] if finite else ["not all bounds are finite"]

    def _failure(self) -> str | None:
        reasons = (self.reason,) if isinstance(self.reason, str) else self.reason
        failed = [m for m, reason in enumerate(reasons) if reason not in ("converged", "callback")]
        if not failed:
            return None
        one = self if isinstance(self.reason, str) else alone(self, failed[0])
        where = "" if one is self else f" in model {failed[0]}"
        where += f" and {len(failed) - 1} others" if len(failed) > 1 else ""
        return (
            f"the bounds must come within {self.tolerance:.2g}, got {one.residual:.2g}{where} after "
            f"{plural(one.steps)} ({one.reason!r}); {_REMEDIES[one.reason]}"
        )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AverageSolution(Solution[Array]):
    """The optimal average reward of a process, in which each policy has a single recurrent class.

    Attributes
    ----------
    value : (S,)
        The bias h, with g + h = max_a r + P h and h = 0 in state 0.
    converged : bool
        True if the bounds came within ``atol``.
    steps : int
        Sweeps over all states, or policies for "howard".
    residual : float
        The width of the bounds.
    method, reason : str
        The method, and the reason for ending: "converged", "max_steps", "stagnated" (rounding errors, the policy, or
        several recurrent classes prevent a smaller residual), "diverged" or "callback".
    gain : float
        The long-run average reward per step: the midpoint of its bounds.
    gain_bounds : (float, float)
        Bounds on the exact optimal gain of the process with each row divided by its sum; the policy's own gain is at
        least the lower bound.
    policy : (S,) int64
        A policy whose gain is at least the lower bound.
    tolerance : float
        The width of the bounds at which it converges.
    multichain : bool
        Whether it ended at a policy whose chain has several recurrent classes, whose gains may differ.

    See Also
    --------
    average, extended_value_iteration : The functions that return it.
    fastiter.Solution : The attributes that all solvers' results have.

    Examples
    --------
    >>> from fastiter import mdp
    >>> found = mdp.average(mdp.examples.riverswim(6), atol=1e-9)
    >>> round(found.gain, 4), found.policy
    (0.4286, array([1, 1, 1, 1, 1, 1]))
    """

    converged: bool
    steps: int
    residual: float
    reason: str
    gain: float
    gain_bounds: tuple[float, float]
    policy: Array
    tolerance: float
    multichain: bool = False

    def _failure(self) -> str | None:
        if self.reason in ("converged", "callback"):
            return None
        if self.multichain:
            remedy = "; method='rvi' only needs one gain for all states" if self.method == "howard" else ""
            return f"each policy must have one recurrent class, got several after {plural(self.steps)}{remedy}"
        after = f"{self.residual:.2g} after {plural(self.steps)} ({self.reason!r})"
        remedy = _REMEDIES["diverged"] if self.reason == "diverged" else _GAIN_REMEDY
        return f"the bounds of the gain must come within {self.tolerance:.2g}, got {after}; {remedy}"

    def _details(self) -> list[str]:
        return [f"gain {self.gain:.6g}"]


def alone(batch: MDPSolution[Any], m: int = 0) -> MDPSolution[Any]:
    """Return the solution of one of several models."""
    return MDPSolution(
        value=batch.value[m],
        policy=batch.policy[m],
        lower=batch.lower[m],
        upper=batch.upper[m],
        converged=bool(batch.converged[m]),
        steps=int(batch.steps[m]),
        residual=float(batch.residual[m]),
        tolerance=batch.tolerance,
        history=batch.history[m],
        method=batch.method,
        reason=batch.reason[m],
    )


def together(solutions: Sequence[MDPSolution[Any]], S: int, dtype: np.dtype[Any], limits: Limits) -> MDPSolution[Any]:
    """Return the solutions of several models as one, with a leading axis of models."""
    checks = max([len(one.history) for one in solutions], default=0)
    history = np.full((len(solutions), checks), np.nan)
    for m, one in enumerate(solutions):
        history[m, : len(one.history)] = one.history

    def stacked(name: str, kind: Any) -> Any:
        return np.array([getattr(one, name) for one in solutions], kind).reshape(len(solutions), S)

    return MDPSolution(
        value=stacked("value", dtype),
        policy=stacked("policy", np.int64),
        lower=stacked("lower", np.float64),
        upper=stacked("upper", np.float64),
        converged=np.array([one.converged for one in solutions], np.bool_),
        steps=np.array([one.steps for one in solutions], np.int64),
        residual=np.array([one.residual for one in solutions], np.float64),
        tolerance=limits.atol,
        history=history,
        method=solutions[0].method if solutions else "none",
        reason=tuple(one.reason for one in solutions),
    )


class Bounds(NamedTuple):
    """Bounds from a sweep w = T v, by csrc/mdp/bounds.hpp: ``w + low - rounding <= V* <= w + high + rounding``."""

    low: float
    high: float
    #: All rounding errors, including those of the bounds themselves and of the values in their dtype
    rounding: float
    #: A width ``high - low`` from which on more sweeps from these values do not pay
    floor: float

    @property
    def width(self) -> float:
        return self.high - self.low + 2 * self.rounding
