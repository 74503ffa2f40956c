"""Paths of lassos: working sets, their Gram matrix, and bounds that save products with columns that cannot enter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .._array_like import as_array
from .._check import check_array, check_flag, count, positive
from .._solution import Solution, judged
from ._data import Data
from ._problem import _vector
from ._result import reached

Array = npt.NDArray[Any]
#: Minimum number of columns that enter a working set at once; sweeps between two checks of its slopes, and their
#: maximum
_ENTRANTS, _SWEEPS, _LOOKS = 64, 8, 500
_POINTS, _SHORTEST = 50, 1e-2
#: The accuracy within a working set that rounding permits, as a fraction of the tolerance
_LEAST, _TINY = 2.0**-40, 2.0**-1000


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LassoPath(Solution):
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
        For each weight "converged", "stagnated", "max_steps" or, beyond the range of the dtype, "diverged".
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

    l1: Any
    objective: Any
    tolerance: float

    def _failure(self) -> str | None:
        if bool(self.converged.all()):
            return None
        worst = float(self.residual[~self.converged].max())
        return f"the duality gaps must come to {self.tolerance:.2g}, got {worst:.2g}; try a larger max_steps or rtol"


def lasso_path(
    A: Any,
    b: Any,
    l1: Any = None,
    *,
    l2: float = 0.0,
    nonnegative: bool = False,
    rtol: float = 1e-6,
    max_steps: int = 100,
    throw: bool = False,
) -> LassoPath:
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
        Converged if the duality gap is at most ``rtol`` ||b||^2 / 2.
    max_steps : int
        The maximum number of working sets for each weight.
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
    b = _vector(function, "b", b, data.shape[0])
    check_flag(function, "nonnegative", nonnegative)
    check_flag(function, "throw", throw)
    l2, rtol = positive(function, "l2", l2), positive(function, "rtol", rtol)
    most = count(function, "max_steps", max_steps, 1)
    data.check_scale(function)
    sets = WorkingSets(data, b, l2, nonnegative)
    weights = _grid(sets) if l1 is None else _weights(function, l1)
    with np.errstate(over="ignore"):
        tolerance = rtol * float(b @ b) / 2
    rows = np.zeros((len(weights), data.shape[1]), data.dtype)
    gaps, objectives, steps = np.zeros(len(weights)), np.zeros(len(weights)), np.zeros(len(weights), np.int64)
    for k, weight in enumerate(weights):
        gaps[k], objectives[k], steps[k] = sets.solve(float(weight), tolerance, most)
        rows[k] = sets.solution()
    ends = zip(gaps, steps, rows, strict=True)
    reasons = [reached(gap, x) if gap <= tolerance else _reason(int(used) < most) for gap, used, x in ends]
    found = LassoPath(
        value=rows,
        converged=np.array([reason == "converged" for reason in reasons], np.bool_),
        steps=steps,
        residual=gaps,
        method=function,
        reason=tuple(reasons),
        l1=weights,
        objective=objectives,
        tolerance=tolerance,
    )
    return judged(function, found, throw)


def _reason(ended: bool) -> str:
    return "stagnated" if ended else "max_steps"


def _weights(function: str, l1: Any) -> Array:
    l1 = as_array(function, "l1", l1)
    check_array(function, "l1", l1)
    if l1.ndim != 1 or not (np.isfinite(l1).all() and (l1 > 0).all()):
        got = f"shape {l1.shape}" if l1.ndim != 1 else f"{l1[~(np.isfinite(l1) & (l1 > 0))][0]:g}"
        raise ValueError(f"{function}: l1 must be a list of finite numbers above 0, got {got}")
    return np.array(l1, np.float64)


def _grid(sets: WorkingSets) -> Array:
    largest = sets.largest_slope()
    return np.geomspace(largest, largest * _SHORTEST, _POINTS) if largest > 0 else np.ones(1)


class WorkingSets:
    """The columns that may be in the solution, in the order in which they entered, with their part of A' A."""

    def __init__(self, data: Data, b: Array, l2: float, nonnegative: bool) -> None:
        self.data, self.b, self.l2, self.nonnegative = data, b, l2, nonnegative
        self.columns, self.x = np.zeros(0, np.int64), np.zeros(0)
        self.gram, self.against = np.zeros((0, 0)), np.zeros(0)
        self.part: Any = None  # these columns of A
        self.u = -b  # A x - b
        self.norms = np.sqrt(data.squares())
        self.g = data.transposed_product(self.u)
        self.drift = np.zeros(data.shape[1])  # bounds |A' u - g| divided by the norm of the column

    def largest_slope(self) -> float:
        return float((-self.g if self.nonnegative else np.abs(self.g)).max(initial=0.0))

    def start(self, x: Array) -> None:
        """Start from x (m,), or from its projection onto x >= 0."""
        x = np.maximum(x, 0) if self.nonnegative else x
        self._enter(np.flatnonzero(x))
        self.x = x[self.columns].astype(np.float64)
        self._move()

    def solve(self, l1: float, tolerance: float, most: int) -> tuple[float, float, int]:
        """Solve for one weight; return the duality gap, the objective and the number of working sets."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self._solve(l1, tolerance, most)

    def _solve(self, l1: float, tolerance: float, most: int) -> tuple[float, float, int]:
        gap, objective, inner = np.inf, np.inf, 0.1
        for step in range(1, most + 1):
            self._refresh(l1)
            before, (gap, objective) = gap, self._gap(l1)
            if gap <= tolerance or (step > 1 and not np.isfinite(gap)):  # overflow of squares is permanent
                return gap, objective, step
            rising = -self.g if self.nonnegative else np.abs(self.g)
            rising[self.columns] = 0
            entrants = np.flatnonzero(rising > l1)
            limit = max(_ENTRANTS, 2 * int(np.count_nonzero(self.x)))
            if len(entrants) > limit:
                entrants = entrants[np.argpartition(-rising[entrants], limit)[:limit]]
            if not len(entrants) and gap > before / 4:
                inner /= 16  # the working set is right, but was not solved accurately enough
                if inner < _LEAST:
                    return gap, objective, step
            self._enter(entrants)
            scale = max(tolerance, _LEAST * float(self.b @ self.b))
            self._descend(l1, inner * scale / (float(np.abs(self.x).sum()) + scale / l1 + _TINY))
            self._move()
        self._refresh(l1)
        return (*self._gap(l1), most)

    def solution(self) -> Array:
        """Return all of x, in the dtype of the data."""
        x = np.zeros(self.data.shape[1], self.data.dtype)
        with np.errstate(over="ignore"):
            x[self.columns] = self.x
        return x

    def _refresh(self, l1: float) -> None:
        """Compute g where it may exceed l1, or belongs to the working set."""
        bound = (-self.g if self.nonnegative else np.abs(self.g)) + self.norms * self.drift
        stale = (bound > l1) & (self.drift > 0)
        stale[self.columns] = True
        chosen = np.flatnonzero(stale)
        found = np.empty(len(chosen))
        self.data.matrix.products_of(self.u, chosen, len(chosen), found)
        self.g[chosen], self.drift[chosen] = found, 0.0

    def _gap(self, l1: float) -> tuple[float, float]:
        """Return the duality gap at the dual point s u, where columns below l1 add nothing, and the objective."""
        u, x = self.u, self.x
        rising = -self.g if self.nonnegative else np.abs(self.g)
        objective = float(u @ u / 2 + l1 * np.abs(x).sum() + self.l2 / 2 * (x @ x))
        if self.l2 > 0:
            over = np.maximum(rising - l1, 0.0)
            return float(objective + u @ u / 2 + u @ self.b + over @ over / (2 * self.l2)), objective
        scale = min(1.0, l1 / max(float(rising.max(initial=0.0)), l1))
        return float(objective + scale * scale * (u @ u) / 2 + scale * (u @ self.b)), objective

    def _enter(self, entrants: Array) -> None:
        """Add columns, with their products with each other and with b."""
        if not len(entrants):
            return
        data, old = self.data, len(self.columns)
        if data.sparse is not None:
            fresh: Any = data.sparse[:, entrants].astype(np.float64)
            sp: Any = type(fresh)
            self.part = fresh if self.part is None else _joined(sp, self.part, fresh)
            products = (self.part.T @ fresh).toarray()
        else:
            fresh = data.columns(entrants)
            self.part = fresh if self.part is None else np.concatenate([self.part, fresh], axis=1)
            products = self.part.T @ fresh
        gram = np.empty((old + len(entrants),) * 2)
        gram[:old, :old] = self.gram
        gram[:, old:], gram[old:, :old] = products, products[:old].T
        self.gram, self.against = gram, np.concatenate([self.against, fresh.T @ self.b])
        self.columns = np.concatenate([self.columns, entrants])
        self.x = np.concatenate([self.x, np.zeros(len(entrants))])

    def _descend(self, l1: float, tolerance: float) -> None:
        """Solve the problem of the working set, by sweeps of the compiled solver and by elimination in the support."""
        size = len(self.x)
        lower = np.zeros(size) if self.nonnegative else np.full(size, -np.inf)
        curvature = self.gram.diagonal() + self.l2
        curvature = np.where(curvature > 0, curvature, 1.0)
        parts = (np.full(size, l1), np.full(size, self.l2), lower, np.full(size, np.inf), curvature)
        matrix = _core.bcd.matrix(64, size, size, (None, None, self.gram), (None, None, None))
        own = np.arange(size + 1)
        blocks = (own, own.astype(np.int32), curvature, None)
        sequence = np.tile(np.arange(size, dtype=np.int32), _SWEEPS)
        g, slopes = np.empty((2, size))
        kinds = (3, 1, False, 0, 0)
        signs = np.full(size, 2.0)
        for _ in range(_LOOKS):
            x = np.ascontiguousarray(self.x)
            solver = _core.bcd.solver(matrix, kinds, (self.against, None), parts, blocks, size, x)
            solver.run(sequence, len(sequence))
            solver.state(g, slopes, size, False)
            self.x, before, signs = x, signs, np.sign(x)
            if float(np.abs(slopes).max(initial=0.0)) <= tolerance:
                return
            if np.array_equal(before, signs):
                self._eliminate(l1, signs)

    def _eliminate(self, l1: float, signs: Array) -> None:
        """Solve for the support with these signs; move there, or to the point where the first coordinate becomes 0."""
        support = np.flatnonzero(signs)
        matrix = self.gram[np.ix_(support, support)] + self.l2 * np.eye(len(support))
        if not np.isfinite(matrix).all():
            return
        at = self.x[support]
        slope = matrix @ at - self.against[support] + l1 * signs[support]
        try:
            step = -np.linalg.solve(matrix, slope)
        except np.linalg.LinAlgError:
            step = np.full(len(support), np.nan)
        fall = -float(slope @ step)
        if not (fall >= 0 and abs(float(step @ matrix @ step) - fall) <= 1e-6 * fall):
            step = _singular_step(matrix, slope)
        target = at + step
        crossing = target * signs[support] < 0
        ways = np.divide(at, at - target, out=np.full(len(at), np.inf), where=crossing)
        share = float(ways.min(initial=1.0))
        if np.isfinite(target).all():
            moved = at + share * step
            moved[(ways <= share) | (np.sign(moved) != signs[support])] = 0
            self.x[support] = moved

    def _move(self) -> None:
        """Update u for the present x."""
        u = (self.part @ self.x if self.part is not None else np.zeros_like(self.b)) - self.b
        self.drift += float(np.linalg.norm(u - self.u)) * (1 + 1e-12)
        self.u = u


def _singular_step(matrix: Array, slope: Array) -> Array:
    """Return a step of a singular quadratic: down a direction without curvature if there is one, else to a minimum."""
    values, vectors = np.linalg.eigh(matrix)
    along = vectors.T @ slope
    is_flat = values <= 2.0**-40 * values[-1]
    if np.linalg.norm(along[is_flat]) > 2.0**-30 * np.linalg.norm(along):
        return np.asarray(-(2.0**60) * (vectors[:, is_flat] @ along[is_flat]))
    return np.asarray(-(vectors[:, ~is_flat] @ (along[~is_flat] / values[~is_flat])))


def _joined(kind: Any, a: Any, b: Any) -> Any:
    """Return compressed columns side by side."""
    start = np.concatenate([a.indptr, a.indptr[-1] + b.indptr[1:]])
    shape = (a.shape[0], a.shape[1] + b.shape[1])
    return kind((np.concatenate([a.data, b.data]), np.concatenate([a.indices, b.indices]), start), shape=shape)
