"""Losses of classes with l1 and l2: quasi-Newton steps in all coordinates, on centred columns."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from ._data import _arrays, is_sparse
from ._estimators import with_ones
from ._result import PATIENCE, BCDSolution, reached

Array = npt.NDArray[Any]
#: Steps between two checks
_EVERY = 10


class Centred(NamedTuple):
    """A matrix minus the mean of each column, for which intercepts make up.

    Dense columns are centred in memory, column by column, followed by a column of ones for the intercepts; products
    with sparse columns subtract the means instead.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    matrix: Any
    #: The means, 0 without an intercept, and whether products subtract them
    middle: Array
    subtracts: bool

    @property
    def entries(self) -> tuple[Any, Any, Any, bool]:
        """The arrays of the matrix, and whether it is stored by rows."""
        if is_sparse(self.matrix):
            return (*_arrays(self.matrix), self.matrix.format == "csr")
        return None, None, self.matrix, False

    def intercepts(self, x: Array) -> Array:
        """Return the intercepts of the given columns, for coefficients and intercepts of centred ones."""
        return np.asarray(x[-1] - self.middle @ x[:-1])


def centre(X: Any, weights: Array | None, has_intercept: bool, implicit: bool) -> Centred:
    """Return a dense array, or a matrix in CSR or CSC, with centred columns if there is an intercept.

    Sparse columns are centred only if they are ``implicit``: used by products alone.
    """
    n, m = X.shape
    middle = means(X, weights) if has_intercept and (implicit or not is_sparse(X)) else np.zeros(m)
    if is_sparse(X):
        matrix = X if implicit or not has_intercept else with_ones(X)
        return Centred(X.shape, X.dtype, matrix, middle, implicit and has_intercept)
    if not has_intercept:
        return Centred(X.shape, X.dtype, np.asfortranarray(X), middle, False)
    columns = np.empty((n, m + 1), X.dtype, order="F")
    np.subtract(X, middle.astype(X.dtype), out=columns[:, :m])
    columns[:, m] = 1
    return Centred(X.shape, X.dtype, columns, middle, False)


def means(X: Any, weights: Array | None) -> Array:
    """Return the mean of each column in the precision of X, 0 where it is beyond its range."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(X.shape[0] if weights is None else weights.sum())
        sums = X.sum(axis=0, dtype=np.float64) if weights is None else X.T @ weights
        found = (np.asarray(sums, np.float64).ravel() / (total or 1.0)).astype(X.dtype).astype(np.float64)
    return np.where(np.isfinite(found), found, 0.0)


class Classes(NamedTuple):
    """Labels from 0, their number, the weights of the samples, and those of magnitudes and squares of coefficients."""

    labels: Array
    number: int
    weights: Array | None
    l1: float
    l2: float


def minimise(A: Centred, classes: Classes, x: Array, rtol: float, max_steps: int) -> BCDSolution:
    """Minimise the losses of centred columns plus l1 |w|_1 + l2 |w|^2 / 2 from x, which is overwritten.

    x is (m, k) in float64 with k = 1 for two classes and k classes otherwise; (m + 1, k) with intercepts, which have no
    penalty.
    """

    def begun(at: Array) -> Any:
        data = np.ascontiguousarray(classes.labels, np.float64), classes.weights, (A.middle, A.subtracts)
        shape = (*A.shape, x.shape[1])
        return _core.bcd.quasi_newton(
            A.dtype.itemsize * 8, shape, A.entries, data, (classes.l1, classes.l2), len(x) > A.shape[1], at
        )

    solver = begun(x)
    scale = solver.residual() if not x.any() else begun(np.zeros_like(x)).residual()
    tolerance = rtol * (scale or solver.residual())
    reason, steps, history, objectives = _iterate(solver, x, tolerance, max_steps)
    return BCDSolution(
        value=x,
        converged=reason == "converged",
        steps=steps,
        residual=solver.residual(),
        method="quasi-Newton",
        reason=reason,
        objective=solver.objective(),
        gap=np.inf,
        active=np.zeros(x.shape, bool),
        identified=0,
        tolerance=tolerance,
        history=np.array(history),
        objectives=np.array(objectives),
    )


def _iterate(solver: Any, x: Array, tolerance: float, max_steps: int) -> tuple[str, int, list[float], list[float]]:
    """Take steps until the residual is small or does not fall any more; return the reason and the history."""
    history: list[float] = []
    objectives: list[float] = []
    steps, best, improved, taken = 0, (np.inf, np.inf), 0, _EVERY
    while True:
        residual, objective = solver.residual(), solver.objective()
        history.append(residual)
        objectives.append(objective)
        if residual < best[0] or objective < best[1]:
            best, improved = (min(residual, best[0]), min(objective, best[1])), steps
        if residual <= tolerance:
            return reached(residual, x), steps, history, objectives
        if not (np.isfinite(objective) and np.isfinite(residual) and np.isfinite(x).all()):
            return "diverged", steps, history, objectives
        if taken == 0 or steps - improved > PATIENCE:
            return "stagnated", steps, history, objectives
        if steps >= max_steps:
            return "max_steps", steps, history, objectives
        taken = solver.run(min(_EVERY, max_steps - steps), tolerance)
        steps += taken
