"""Losses of classes with l1 and l2: quasi-Newton steps in all coordinates, on centred columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from .._call.iterate import Limits, Step, iterate
from ._data import Entries, entries_of, is_sparse
from ._estimators import with_ones
from ._result import PATIENCE, BCDSolution, Checks, step_of

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
    def entries(self) -> Entries:
        """The arrays of the matrix."""
        return entries_of(self.matrix) if is_sparse(self.matrix) else Entries(values=self.matrix)

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
        averages = (np.asarray(sums, np.float64).ravel() / (total or 1.0)).astype(X.dtype).astype(np.float64)
    return np.where(np.isfinite(averages), averages, 0.0)


class Samples(NamedTuple):
    """A problem for the kernels, except its matrix."""

    n: int
    m: int
    classes: int
    has_intercept: bool
    labels: Array
    weights: Array | None
    means: Array
    subtracts: bool
    l1: float
    l2: float


class Classes(NamedTuple):
    """Labels from 0, their number, the weights of the samples, and those of magnitudes and squares of coefficients."""

    labels: Array
    number: int
    weights: Array | None
    l1: float
    l2: float


def minimise(A: Centred, classes: Classes, x: Array, rtol: float, max_steps: int) -> BCDSolution[Array]:
    """Minimise the losses of centred columns plus l1 |w|_1 + l2 |w|^2 / 2 from x, which is overwritten.

    x is (m, k) in float64 with k = 1 for two classes and k classes otherwise; (m + 1, k) with intercepts, which have no
    penalty.
    """

    def begun(at: Array) -> Any:
        return _core.bcd.quasi_newton(A.dtype.itemsize * 8, A.entries, by_rows, samples, at)

    by_rows = is_sparse(A.matrix) and A.matrix.format == "csr"
    samples = Samples(
        *(*A.shape, x.shape[1], len(x) > A.shape[1]),
        *(np.ascontiguousarray(classes.labels, np.float64), classes.weights, A.middle, A.subtracts),
        *(classes.l1, classes.l2),
    )
    solver = begun(x)
    scale = solver.residual() if not x.any() else begun(np.zeros_like(x)).residual()
    tolerance = rtol * (scale or solver.residual())
    record = iterate(_steps(solver, x, tolerance, max_steps), Limits(max_steps=max_steps), Checks())
    return BCDSolution(
        value=x,
        method="quasi-Newton",
        objective=solver.objective(),
        gap=np.inf,
        active=np.zeros(x.shape, bool),
        identified=0,
        **record.results(),
    )


def _steps(solver: Any, x: Array, tolerance: float, max_steps: int) -> Iterator[Step]:
    """Take steps; they stagnate if neither the residual nor the objective falls any more."""
    done, best, improved, taken = 0, (np.inf, np.inf), 0, _EVERY
    while True:
        residual, objective = solver.residual(), solver.objective()
        if residual < best[0] or objective < best[1]:
            best, improved = (min(residual, best[0]), min(objective, best[1])), done
        is_finite = math.isfinite(objective) and bool(np.isfinite(x).all())
        numbers = residual, tolerance, objective
        yield step_of(done, numbers, lambda: x, is_finite, taken == 0 or done - improved > PATIENCE)
        taken = solver.run(min(_EVERY, max_steps - done), tolerance)
        done += taken
