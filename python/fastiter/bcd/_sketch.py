"""Sketch and project: linear systems by projections onto random combinations of their rows."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .. import _core
from .._array_like import as_array
from .._check import check_array, check_choice, check_flag, count, positive, type_name
from .._solution import Solution, judged, plural
from ._data import Data
from ._problem import _vector
from ._result import reached

Array = npt.NDArray[Any]
SKETCHES = ("kaczmarz", "block", "gaussian", "count")
_PATIENCE = 200
#: The binary exponent of the largest entry of A above which the system is scaled
_EXTREME = 300


class SketchSolution(Solution):
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
        "sketch_solve" with the sketch; "converged", "max_steps", "stagnated" or "diverged", if numbers of the system or
        of the solution are out of the range of their dtype.

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

    def _failure(self) -> str | None:
        if self.converged:
            return None
        after = f"got {self.residual:.2g} after {plural(self.steps)} ({self.reason!r})"
        if self.reason == "diverged":
            return f"the solution must be within the range of {self.value.dtype}, {after}"
        return f"the residual must come to rtol ||b||, {after}; is b in the range of A? Try a larger max_steps or size"


def sketch_solve(
    A: Any,
    b: Any,
    x0: Array | None = None,
    *,
    sketch: Literal["kaczmarz", "block", "gaussian", "count"] = "kaczmarz",
    size: int = 16,
    rtol: float = 1e-6,
    max_steps: int = 1_000_000,
    rng: Any = None,
    throw: bool = False,
) -> SketchSolution:
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
        Converged if ||b - A x|| <= ``rtol`` ||b||.
    max_steps : int
        The maximum number of projections.
    rng : numpy.random.Generator or int, optional
        The source of S; an int is a seed, and None is 0.
    throw : bool
        Raise if it does not converge, instead of a warning.

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
    check_flag(function, "throw", throw)
    rtol, most = positive(function, "rtol", rtol), count(function, "max_steps", max_steps, 0)
    size = count(function, "size", size, 1)
    data = Data(function, "A", A)
    m, n = data.shape
    b = _vector(function, "b", b, m)
    x = np.zeros(n)
    if x0 is not None:
        x0 = as_array(function, "x0", x0, data.dtype)
        check_array(function, "x0", x0)
        if x0.shape != (n,) or x0.dtype != data.dtype or not np.isfinite(x0).all():
            expected = f"be finite and have shape ({n},) and dtype {data.dtype}"
            raise ValueError(f"{function}: x0 must {expected}, got {x0.shape} and {x0.dtype}")
        x = x0.astype(np.float64)
    generator = generator_of(function, rng)
    with np.errstate(over="ignore", invalid="ignore"):
        found = _solution((data, b), x, (sketch, size, generator), (rtol, most))
    return judged(function, found, throw)


def _solution(
    system: tuple[Data, Array], x: Array, how: tuple[str, int, np.random.Generator], limits: tuple[float, int]
) -> SketchSolution:
    """Take steps until convergence or failure."""
    function, (sketch, size, generator), (rtol, most) = "sketch_solve", how, limits
    (m, n), dtype = system[0].shape, system[0].dtype
    data, b, unit = _scaled(function, *system)
    steps_of = _Kaczmarz(data, b, generator) if sketch == "kaczmarz" else _Sketched(data, b, generator, (sketch, size))
    tolerance, steps, best, since, reason = rtol * _norm(b), 0, np.inf, 0, "max_steps"
    while True:
        residual = _norm(steps_of.residual(x))
        best, since = (residual, 0) if residual < best * (1 - 1e-6) else (best, since + 1)
        if not np.isfinite(residual):
            reason = "diverged"
        elif residual <= tolerance:
            reason = reached(residual, x.astype(dtype))
        elif since > _PATIENCE:
            reason = "stagnated"
        elif steps < most and m and n:
            some = min(steps_of.every, most - steps)
            steps_of.run(x, some)
            steps += some
            continue
        break
    return SketchSolution(
        value=x.astype(dtype),
        converged=reason == "converged",
        steps=steps,
        residual=residual / unit,
        method=f"{function}, {sketch}",
        reason=reason,
    )


def _norm(x: Array) -> float:
    """Return the Euclidean norm, without overflow or underflow of squares."""
    largest = float(np.abs(x).max(initial=0.0))
    return largest * float(np.linalg.norm(x / largest)) if 0 < largest < np.inf else largest


def _scaled(function: str, data: Data, b: Array) -> tuple[Data, Array, float]:
    """Return the system times a power of 2, and this power: 1 unless squares of A would overflow or underflow."""
    whole: Any = data.dense if data.sparse is None else data.sparse
    exponent = int(np.frexp(float(abs(whole).max()) if min(whole.shape) else 1.0)[1])
    if abs(exponent) < _EXTREME:
        return data, b, 1.0
    unit = 2.0 ** -max(exponent, -1000)
    return Data(function, "A", whole * unit), b * unit, unit


def generator_of(function: str, rng: Any) -> np.random.Generator:
    """Return the generator, or a new one with the given seed."""
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is not None and (isinstance(rng, bool) or not isinstance(rng, (int, np.integer))):
        raise TypeError(f"{function}: rng must be a numpy.random.Generator, an int or None, got {type_name(rng)}")
    return np.random.default_rng(0 if rng is None else count(function, "rng", rng))


class _Kaczmarz:
    """Steps with single rows, which are columns of A'."""

    def __init__(self, data: Data, b: Array, rng: np.random.Generator) -> None:
        whole: Any = data.dense if data.sparse is None else data.sparse
        self._rows = Data("sketch_solve", "A", whole.T)
        self._whole, self.b, self._rng = whole, b, rng
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

    def __init__(self, data: Data, b: Array, rng: np.random.Generator, how: tuple[str, int]) -> None:
        whole: Any = data.dense if data.sparse is None else data.sparse.tocsr()
        self._A, self.b, self._rng = whole.astype(np.float64), b, rng
        self._sketch, self._size = how[0], min(how[1], max(len(b), 1))
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
