"""Sketch and project: linear systems by projections onto random combinations of their rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from .._call.iterate import Callback, Limits, Progress, Record, Step, iterate
from .._check import check_choice, count
from .._solution import Solution, Value, judged, plural
from ._arguments import generator_of, start, vector
from ._data import Data
from ._result import is_in_range

Array = npt.NDArray[Any]
SKETCHES = ("kaczmarz", "block", "gaussian", "count")
_PATIENCE = 200
#: The binary exponent of the largest entry of A above which the system is scaled
_EXTREME = 300


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SketchSolution(Solution[Value]):
    """The result of :func:`sketch_solve`.

    Attributes
    ----------
    value : (n,)
        The solution, in the dtype of A.
    converged : bool
        Whether the residual reached the tolerance.
    steps : int
        The number of projections.
    residual : float
        ||b - A x||.
    method, reason : str
        "sketch_solve" with the sketch; "converged", "max_steps", "stagnated", "callback" or "diverged", if numbers of
        the system or of the solution are out of the range of their dtype.
    tolerance : float
        The residual at which it converges.

    See Also
    --------
    sketch_solve : Returns it.
    fastiter.Solution : The attributes shared by the results of all solvers.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.bcd import sketch_solve
    >>> sketch_solve(np.eye(2), np.ones(2)).converged
    True
    """

    converged: bool
    steps: int
    residual: float
    reason: str
    tolerance: float

    def _failure(self) -> str | None:
        if self.converged or self.reason == "callback":
            return None
        after = f"got {self.residual:.2g} after {plural(self.steps)} ({self.reason!r})"
        if self.reason == "diverged":
            own: Any = self
            return f"the solution must be within the range of {own.value.dtype}, {after}"
        remedy = "is b in the range of A? Try a larger max_steps or size"
        return f"the residual must fall to {self.tolerance:.2g}, {after}; {remedy}"


def sketch_solve(
    A: Any,
    b: Any,
    x0: Array | None = None,
    *,
    sketch: Literal["kaczmarz", "block", "gaussian", "count"] = "kaczmarz",
    size: int = 16,
    rtol: float = 1e-6,
    atol: float = 0.0,
    max_steps: int = 1_000_000,
    callback: Callback | None = None,
    throw: bool = False,
    rng: Any = None,
) -> SketchSolution[Array]:
    """Solve A x = b by projections x <- x + A' S (S' A A' S)^+ S' (b - A x) with random S.

    Parameters
    ----------
    A : (m, n) array or sparse matrix
        The matrix of a system that has a solution, float32 or float64: an array, or CSR or CSC.
    b : (m,) array
        The right-hand side.
    x0 : (n,) array, optional
        The starting point, 0 by default, in the dtype of A; the limit is the solution nearest to it.
    sketch : {"kaczmarz", "block", "gaussian", "count"}
        The distribution of S. "kaczmarz": one row, with a probability proportional to its squared norm, in O(n).
        "block": ``size`` rows. "gaussian": ``size`` combinations of all rows with normally distributed weights.
        "count": ``size`` random sums of the rows with random signs.
    size : int
        The number of columns of S, except for "kaczmarz".
    rtol : float
        Converged if ||b - A x|| <= ``rtol`` ||b|| + ``atol``.
    atol : float
        A tolerance in the units of b.
    max_steps : int
        The maximum number of projections.
    callback : callable, optional
        Called with a :class:`fastiter.Progress` at each check, about once for each pass over the rows of A; True ends
        the solution.
    throw : bool
        Raise if it does not converge, instead of a warning.
    rng : numpy.random.Generator or int, optional
        The source of S; an int is a seed, and None is 0.

    Returns
    -------
    SketchSolution
        The solution and its residual.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    ConvergenceError
        If ``throw`` is True and it does not converge.

    See Also
    --------
    fastiter.relax.kaczmarz : Projections onto all rows in turn.
    sketched_newton : Constrained optimisation with this solver.

    References
    ----------
    R. M. Gower, P. Richtarik: Randomized iterative methods for linear systems. SIAM J. Matrix Anal. Appl. 36(4), 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.bcd import sketch_solve
    >>> found = sketch_solve(np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([3.0, 4.0]), rtol=1e-9)
    >>> found.value.round(6)
    array([1., 1.])
    """
    function = "sketch_solve"
    check_choice(function, "sketch", sketch, SKETCHES)
    limits = Limits(rtol, atol, max_steps, callback, throw).checked(function)
    size = count(function, "size", size, 1)
    data = Data(function, "A", A)
    m, n = data.shape
    b = vector(function, "b", b, m)
    x = start(function, x0, (n,), data.dtype)
    sketches = Sketches(sketch, size, generator_of(function, rng))
    with np.errstate(over="ignore", invalid="ignore"):
        return judged(function, _solution(data, b, x, sketches, limits), throw)


class Sketches(NamedTuple):
    """The distribution of S, its number of columns, and its source."""

    kind: str
    size: int
    rng: np.random.Generator


def _solution(data: Data, b: Array, x: Array, sketches: Sketches, limits: Limits) -> SketchSolution[Array]:
    """Take all steps from x, which they update in place."""
    system, unit = _scaled(data)
    if unit != 1:

        def unscaled(progress: Progress) -> Progress:
            return replace(progress, residual=progress.residual / unit, tolerance=progress.tolerance / unit)

        limits = limits._replace(atol=limits.atol * unit).with_callback(unscaled)
    projections = (_Kaczmarz if sketches.kind == "kaczmarz" else _Sketched)(system, b * unit, sketches)
    results = iterate(_steps(projections, x, data.dtype, limits), limits, Record(overflows=True)).results()
    results |= {name: results[name] / unit for name in ("residual", "tolerance")}
    return SketchSolution(value=x.astype(data.dtype), method=f"sketch_solve, {sketches.kind}", **results)


def _steps(projections: _Kaczmarz | _Sketched, x: Array, dtype: np.dtype[Any], limits: Limits) -> Iterator[Step]:
    """Take steps; they stagnate if the residual does not fall any more."""
    assert limits.rtol is not None  # as sketch_solve has a default
    tolerance = limits.rtol * _norm(projections.b) + limits.atol
    done, smallest, checks = 0, np.inf, 0

    def value() -> Array:
        return x.astype(dtype)

    while True:
        residual = _norm(projections.residual(x))
        smallest, checks = (residual, 0) if residual < smallest * (1 - 1e-6) else (smallest, checks + 1)
        is_lost = residual <= tolerance and not is_in_range(residual, value())
        yield Step(
            *(done, residual, tolerance, value),
            can_converge=not is_lost,
            diverged=is_lost,
            stagnated=checks > _PATIENCE,
        )
        if not (len(projections.b) and len(x)):
            return
        count = min(projections.every, limits.max_steps - done)
        projections.run(x, count)
        done += count


def _norm(x: Array) -> float:
    """Return the Euclidean norm, without overflow or underflow of squares."""
    largest = float(np.abs(x).max(initial=0.0))
    return largest * float(np.linalg.norm(x / largest)) if 0 < largest < np.inf else largest


def _scaled(data: Data) -> tuple[Data, float]:
    """Return the matrix times a power of 2, and this power: 1 unless squares of A would overflow or underflow."""
    whole: Any = data.dense if data.sparse is None else data.sparse
    exponent = int(np.frexp(float(abs(whole).max()) if min(whole.shape) else 1.0)[1])
    if abs(exponent) < _EXTREME:
        return data, 1.0
    unit = 2.0 ** -max(exponent, -1000)
    return Data("sketch_solve", "A", whole * unit), unit


class _Kaczmarz:
    """Steps with single rows, which are columns of A'."""

    def __init__(self, data: Data, b: Array, sketches: Sketches) -> None:
        whole: Any = data.dense if data.sparse is None else data.sparse
        self._rows = Data("sketch_solve", "A", whole.T)
        self._whole, self.b, self._rng = whole, b, sketches.rng
        squares = self._rows.squares()
        self._ends = np.cumsum(squares)
        self._inverse = np.divide(1.0, squares, out=np.zeros_like(squares), where=squares > 0)
        self.every = max(len(b), 1)

    def residual(self, x: Array) -> Array:
        return np.asarray(self.b - self._whole @ x)

    def run(self, x: Array, count: int) -> None:
        if not self._ends[-1] > 0:
            return
        order = np.empty(count, np.int32)
        _core.bcd.draw(self._ends, len(self._ends), self._rng.random(count), count, order)
        _core.bcd.kaczmarz(self._rows.matrix, self.b, self._inverse, x, order, count)


class _Sketched:
    """Steps with several combinations of rows."""

    def __init__(self, data: Data, b: Array, sketches: Sketches) -> None:
        whole: Any = data.dense if data.sparse is None else data.sparse.tocsr()
        self._A, self.b, self._rng = whole.astype(np.float64), b, sketches.rng
        self._sketch, self._size = sketches.kind, min(sketches.size, max(len(b), 1))
        self.every = max(len(b) // self._size, 1) if self._sketch == "block" else 1

    def residual(self, x: Array) -> Array:
        return np.asarray(self.b - self._A @ x)

    def run(self, x: Array, count: int) -> None:
        for _ in range(count):
            rows, target = self._combined()
            rows = rows if isinstance(rows, np.ndarray) else rows.toarray()
            left = target - rows @ x
            x += rows.T @ np.linalg.lstsq(rows @ rows.T, left, rcond=None)[0]

    def _combined(self) -> tuple[Any, Array]:
        """Return S' A and S' b."""
        m, k = len(self.b), self._size
        if self._sketch == "block":
            chosen = self._rng.choice(m, k, replace=False)
            return self._A[chosen], self.b[chosen]
        if self._sketch == "gaussian":
            S = self._rng.standard_normal((k, m))
        else:
            S = np.zeros((k, m))
            S[self._rng.integers(0, k, m), np.arange(m)] = 2.0 * self._rng.integers(0, 2, m) - 1
        return np.asarray(S @ self._A), S @ self.b
