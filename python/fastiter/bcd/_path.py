"""Paths of lassos, each started from the last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .._array_like import as_array
from .._call.iterate import Callback, Limits, Progress
from .._check import check_array, check_flag, positive
from .._plot import axes_of, draw_path, numbers
from .._solution import Solution, Value, judged
from ._arguments import vector
from ._data import Data
from ._result import is_in_range

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[Any]
_POINTS, _SHORTEST = 50, 1e-2


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LassoPath(Solution[Value]):
    """The solutions of a lasso for several weights of the l1 norm.

    Attributes
    ----------
    value : (k, m)
        The solution of each weight, in the dtype of the data.
    converged : (k,) bool
        Whether each duality gap reached the tolerance.
    steps : (k,) int
        The number of working sets that were solved for each weight.
    residual : (k,)
        The duality gaps.
    method : str
        "lasso_path".
    reason : tuple of str
        For each weight "converged", "stagnated", "max_steps", "callback" or, beyond the range of the dtype, "diverged".
    l1 : (k,)
        The weights.
    objective : (k,)
        The values of the objective.
    tolerance : float
        The gap at which each converges.

    See Also
    --------
    lasso_path : Returns it.
    fastiter.Solution : The attributes shared by the results of all solvers.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.bcd import lasso_path
    >>> lasso_path(np.eye(2), np.array([3.0, 1.0]), [2.0, 0.5]).value
    array([[1. , 0. ],
           [2.5, 0.5]])
    """

    converged: Value
    steps: Value
    residual: Value
    reason: tuple[str, ...]
    l1: Value
    objective: Value
    tolerance: float

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the coefficients over the weights, which fall from left to right on a logarithmic axis.

        Coefficients that are zero for all weights have no curve, nor have weights that a callback has left out.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes
            The axes, whose lines are labelled ``x[0]``, ``x[1]`` and so on.

        Raises
        ------
        ModuleNotFoundError
            If matplotlib is not installed.
        TypeError
            If ``ax`` is no Axes.
        """
        solved = np.array([reason != "callback" for reason in self.reason], np.bool_)
        return draw_path(numbers(self.l1)[solved], numbers(self.value)[solved], axes_of("plot", ax))

    def _failure(self) -> str | None:
        failed = [reason not in ("converged", "callback") for reason in self.reason]
        if not any(failed):
            return None
        own: Any = self
        worst = float(own.residual[failed].max())
        return f"the duality gaps must fall to {self.tolerance:.2g}, got {worst:.2g}; try a larger max_steps or rtol"


def lasso_path(
    A: Any,
    b: Any,
    l1: Any = None,
    *,
    l2: float = 0.0,
    nonnegative: bool = False,
    rtol: float = 1e-6,
    atol: float = 0.0,
    max_steps: int = 100,
    callback: Callback | None = None,
    throw: bool = False,
) -> LassoPath[Array]:
    """Minimise ||A x - b||^2 / 2 + l1 ||x||_1 + l2 ||x||^2 / 2 for several l1, each started from the last solution.

    Parameters
    ----------
    A : (n, m) array or sparse matrix
        The data, float32 or float64: an array in any order, or CSR or CSC.
    b : (n,) array
        The targets.
    l1 : (k,) array, optional
        The weights, above 0, preferably in decreasing order. By default 50, spaced evenly in their logarithm, from the
        smallest for which x is 0 down to a hundredth of it.
    l2 : float
        The weight of ||x||^2 / 2.
    nonnegative : bool
        Whether x is constrained to be non-negative.
    rtol : float
        Converged if the duality gap is at most ``rtol`` ||b||^2 / 2 + ``atol``.
    atol : float
        A tolerance in the units of the objective.
    max_steps : int
        The maximum number of working sets for each weight.
    callback : callable, optional
        Called with a :class:`fastiter.Progress` after each weight but the last; its ``residual`` and ``objective`` are
        those of the weights so far, infinite for the ``active`` ones after it. True ends the path: each of these gets
        the last solution, the reason "callback", and the duality gap there.
    throw : bool
        Raise if one does not converge, instead of a warning.

    Returns
    -------
    LassoPath
        The solutions and their duality gaps.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    ConvergenceError
        If ``throw`` is True and one does not converge.

    See Also
    --------
    bcd : One problem, also with other losses.
    Lasso : The interface of scikit-learn.

    References
    ----------
    M. Massias, A. Gramfort, J. Salmon: Celer: a fast solver for the lasso with dual extrapolation. ICML 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.bcd import lasso_path
    >>> A = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> path = lasso_path(A, np.array([2.0, 3.0, 1.0]))
    >>> (path.value[0] == 0).all(), (path.residual <= path.tolerance).all()
    (np.True_, np.True_)
    """
    function = "lasso_path"
    data = Data(function, "A", A)
    b = vector(function, "b", b, data.shape[0])
    check_flag(function, "nonnegative", nonnegative)
    l2 = positive(function, "l2", l2)
    limits = Limits(rtol, atol, max_steps, callback, throw).checked(function, smallest_max=1)
    data.check_scale(function)
    points = _POINTS if l1 is None else len(weights := _weights(function, l1))
    sets = WorkingSets(*_shortened(data, b, points), l2, nonnegative)
    weights = _grid(sets) if l1 is None else weights
    assert limits.rtol is not None  # as there is a default
    with np.errstate(over="ignore"):
        tolerance = limits.rtol * float(b @ b) / 2 + limits.atol
        return judged(function, _path(sets, weights, tolerance, limits, data.dtype), throw)


def _path(
    sets: WorkingSets, weights: Array, tolerance: float, limits: Limits, dtype: np.dtype[Any]
) -> LassoPath[Array]:
    """Solve for one weight after the other."""
    k = len(weights)
    rows, steps = np.zeros((k, len(sets.x)), dtype), np.zeros(k, np.int64)
    gaps, objectives = np.full((2, k), np.inf)
    reasons: list[str] = []
    max_steps = limits.max_steps

    def progress() -> Progress:
        i, numbers = len(reasons), {"objective": objectives.copy(), "l1": float(weight)}
        return Progress(int(steps.sum()), gaps.copy(), tolerance, np.arange(i, k), numbers, rows.copy)

    for i, weight in enumerate(weights):
        gaps[i], objectives[i], steps[i] = sets.solve(float(weight), tolerance, max_steps)
        rows[i] = sets.solution()
        if gaps[i] <= tolerance:
            reasons.append("converged" if is_in_range(gaps[i], rows[i]) else "diverged")
        elif max_steps == 0:
            reasons.append("callback")
        else:
            reasons.append("stagnated" if steps[i] < max_steps else "max_steps")
        if max_steps and i + 1 < k and limits.stops(progress):
            max_steps = 0  # the other weights only get their duality gaps
    return LassoPath(
        value=rows,
        converged=np.array([reason == "converged" for reason in reasons], np.bool_),
        steps=steps,
        residual=gaps,
        method="lasso_path",
        reason=tuple(reasons),
        l1=weights,
        objective=objectives,
        tolerance=tolerance,
    )


def _weights(function: str, l1: Any) -> Array:
    l1 = as_array(function, "l1", l1)
    check_array(function, "l1", l1)
    if l1.ndim != 1 or not (np.isfinite(l1).all() and (l1 > 0).all()):
        got = f"shape {l1.shape}" if l1.ndim != 1 else f"{l1[~(np.isfinite(l1) & (l1 > 0))][0]:g}"
        raise ValueError(f"{function}: l1 must be a list of finite numbers above 0, got {got}")
    return np.array(l1, np.float64)


def _shortened(data: Data, b: Array, points: int) -> tuple[Data, Array]:
    """Return the same least squares with one row more than columns, if that pays for so many weights.

    Sweeps of a path read the data several times for each weight; a Gram matrix costs (columns / 2) products of columns,
    of which twelve take about the time of one in a sweep.
    """
    n, m = data.shape
    if data.dense is None or n < 2 * m or m > 12 * points:
        return data, b
    factor = np.empty((m + 1, m + 1))
    if not data.matrix.reduced(np.ascontiguousarray(b), factor):
        return data, b
    return Data("lasso_path", "A", factor[:m].T, is_checked=True), factor[m]


def _grid(sets: WorkingSets) -> Array:
    largest = sets.largest_slope()
    return np.geomspace(largest, largest * _SHORTEST, _POINTS) if largest > 0 else np.ones(1)


class WorkingSets:
    """The lasso of one data matrix, started for each weight from the last solution.

    With ``ones`` (n,), the columns are made orthogonal to it without changing the data, as b must be already; this is
    the lasso with an intercept.
    """

    def __init__(self, data: Data, b: Array, l2: float, nonnegative: bool, ones: Array | None = None) -> None:
        self.dtype, self.nonnegative = data.dtype, nonnegative
        self.x = np.zeros(data.shape[1])
        b = np.ascontiguousarray(b)
        self._solver = _core.bcd.lasso(data.matrix, b, ones, data.own_squares, l2, nonnegative, self.x)

    def largest_slope(self) -> float:
        return self._solver.largest_slope()

    def start(self, x: Array) -> None:
        """Start from x (m,), or from its projection onto x >= 0."""
        self.x[:] = np.maximum(x, 0) if self.nonnegative else x
        self._solver.start()

    def solve(self, l1: float, tolerance: float, max_steps: int) -> tuple[float, float, int]:
        """Solve for one weight; return the duality gap, the objective and the number of working sets."""
        return self._solver.solve(l1, tolerance, max_steps)

    def solution(self) -> Array:
        """Return x, in the dtype of the data."""
        with np.errstate(over="ignore"):
            return self.x.astype(self.dtype)
