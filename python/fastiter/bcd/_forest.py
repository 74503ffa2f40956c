"""Quadratics with large blocks whose graphs are forests, which are minimised exactly in time O(|b|)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .._array_like import as_array
from .._check import check_array, check_choice, integers
from .._solution import judged
from ._problem import Quadratic
from ._result import PATIENCE, BCDProgress, BCDSolution, Limits, Progress, reached

Array = npt.NDArray[Any]
KINDS = ("red-black", "trees", "greedy trees")


def forest_bcd(
    A: Any,
    b: Any,
    x0: Array | None = None,
    *,
    blocks: Any = "trees",
    order: Any = None,
    rtol: float = 1e-6,
    max_steps: int = 100_000,
    check_every: int | None = None,
    throw: bool = False,
    callback: Callable[[BCDProgress], Any] | None = None,
) -> BCDSolution:
    """Minimise x' A x / 2 - b' x by blocks whose graphs are forests, each block exactly in time O(|b|).

    Parameters
    ----------
    A : (n, n) sparse matrix
        Symmetric and positive definite, float32 or float64, in CSR or CSC: the edges of a graph, and the diagonal.
    b : (n,) array
        The linear part.
    x0 : (n,) array, optional
        The starting point, 0 by default, in the dtype of A.
    blocks : {"red-black", "trees", "greedy trees"} or (n,) array of int
        "red-black": blocks of independent nodes, two of them if no cycle is odd. "trees": each node joins the first
        block in which it closes no cycle. "greedy trees": in each step, nodes join in the order of decreasing magnitude
        of the gradient, except those with two neighbours in one tree. An array holds the number of each node's block,
        from 0.
    order : (n,) array of int, optional
        The order of nodes in which "trees" builds its blocks, 0, 1, ... by default.
    rtol : float
        Converged if the largest entry of the gradient is at most ``rtol`` times that of b.
    max_steps : int
        The maximum number of updates of a block.
    check_every : int, optional
        The number of updates between two checks: by default, ten of each block, or one with "greedy trees".
    throw : bool
        Raise if it does not converge, instead of a warning.
    callback : callable, optional
        Called with a :class:`BCDProgress` at each check; True ends the solution.

    Returns
    -------
    BCDSolution
        The minimiser.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or a given block has a cycle.
    ConvergenceError
        If ``throw`` is True and it does not converge.

    See Also
    --------
    bcd : Smaller blocks of any graph, l1 and bounds.
    Quadratic : The problem.

    References
    ----------
    J. Nutini, I. Laradji, M. Schmidt: Let's make block coordinate descent converge faster. JMLR 23(131), 2022.

    Examples
    --------
    >>> import numpy as np, scipy.sparse
    >>> from fastiter.bcd import forest_bcd
    >>> chain = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(4, 4), format="csr")
    >>> found = forest_bcd(chain, np.array([1.0, 0.0, 0.0, 1.0]), check_every=1)  # a chain is a tree
    >>> found.value.round(12), found.steps
    (array([1., 1., 1., 1.]), 1)
    """
    function = "forest_bcd"
    limits = Limits(rtol, "slope", max_steps, check_every, callback, throw).checked(function)
    try:
        problem = Quadratic(A, b)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("Quadratic:", f"{function}:", 1)) from None
    if problem._data.sparse is None:
        raise TypeError(f"{function}: A must be a sparse matrix in CSR or CSC, got a dense array")
    x = np.zeros(len(problem._b))
    if x0 is not None:
        x0 = as_array(function, "x0", x0, problem.dtype)
        check_array(function, "x0", x0)
        if x0.shape != x.shape or x0.dtype != problem.dtype or not np.isfinite(x0).all():
            expected = f"be finite and have shape {x.shape} and dtype {problem.dtype}"
            raise ValueError(f"{function}: x0 must {expected}, got {x0.shape} and {x0.dtype}")
        x = x0.astype(np.float64)
    sweeps = _Blocks(function, problem, blocks, order)
    with np.errstate(over="ignore", invalid="ignore"):
        return judged(function, _iterate(sweeps, x, limits), throw)


class _Blocks:
    """The blocks, and the steps that update them."""

    def __init__(self, function: str, problem: Quadratic, blocks: Any, order: Any) -> None:
        rows = _symmetric(problem._data.sparse)
        self.A, self.b, self.dtype, self._at = rows.astype(np.float64), problem._b, problem.dtype, 0
        n = len(self.b)
        self._unit = _unit(self.A.data, problem._diagonal)
        self._scaled_b = self.b * self._unit
        self.rows = (rows.indptr.astype(np.int64), rows.indices.astype(np.int32), self.A.data * self._unit)
        self.kind, member = blocks, None
        if isinstance(blocks, str):
            check_choice(function, "blocks", blocks, KINDS)
        if order is not None:
            if not (isinstance(blocks, str) and blocks == "trees"):
                raise ValueError(f"{function}: order must be None unless blocks is 'trees', got an order")
            order = integers(function, "order", order)
            if not np.array_equal(np.sort(order.ravel()), np.arange(n)) or order.ndim != 1:
                raise ValueError(f"{function}: order must have each node from 0 to {n - 1} once, got {order.shape}")
        self.function, self.count = function, 0
        if not isinstance(blocks, str):
            self.kind, member = "given", integers(function, "blocks", blocks)
            if member.shape != (n,) or member.min(initial=0) < 0 or member.max(initial=0) >= max(n, 1):
                got = f"{member.min(initial=0)} to {member.max(initial=0)}" if member.shape == (n,) else member.shape
                raise ValueError(f"{function}: blocks must be {n} numbers of blocks from 0 to {n - 1}, got {got}")
            member, self.count = member.astype(np.int32), int(member.max(initial=-1)) + 1
        elif blocks != "greedy trees":
            member = np.empty(n, np.int32)
            order = np.arange(n) if order is None else order
            nodes = order.astype(np.int32) if blocks == "trees" else None
            self.count = _core.bcd.forest_partition(n, self.rows, nodes, blocks == "trees", member)
        self.forests = _core.bcd.forests(n, self.rows, member, self.count)
        if self.forests.has_cycles():
            raise ValueError(f"{function}: blocks must be forests, got one with a cycle")
        if self.forests.has_signs() or (problem._diagonal <= 0).any():
            raise ValueError(f"{function}: A must be positive definite, got a pivot that is not positive")

    def gradient(self, x: Array) -> Array:
        return np.asarray(self.A @ x - self.b)

    def step(self, x: Array, gradient: Array, count: int) -> int:
        """Update some blocks; ``gradient`` is that at x."""
        if self.kind == "greedy trees":
            sizes = np.empty(count, np.int64)
            done = int(self.forests.run_greedy(x, gradient * self._unit, count, sizes))
            if done < 0:
                raise ValueError(f"{self.function}: A must be positive definite, got a pivot that is not positive")
            return done
        done = self.forests.run(self._scaled_b, x, self._at, count)
        self._at = (self._at + done) % self.count
        return int(done)


def _unit(entries: Array, diagonal: Array) -> float:
    """Return a power of 2 for A and b, 1 unless the inverse of a subnormal number on the diagonal would overflow."""
    least = float(diagonal.min(initial=1.0))
    if not 0 < least < np.finfo(np.float64).tiny:
        return 1.0
    return 2.0 ** min(-int(np.floor(np.log2(float(np.abs(entries).max())))), 1000)


def _symmetric(A: Any) -> Any:
    """Return a symmetric matrix in compressed columns: entries that differ by rounding are averaged."""
    return A if (A != A.T).nnz == 0 else ((A + A.T) / 2).tocsc()


def _iterate(blocks: _Blocks, x: Array, limits: Limits) -> BCDSolution:
    every = limits.check_every or (10 * blocks.count if blocks.count else 1)
    tolerance = limits.rtol * float(np.abs(blocks.b).max(initial=0.0))
    history: list[float] = []
    objectives: list[float] = []
    steps, seen, reason = 0, Progress(PATIENCE * blocks.count), "max_steps"
    while True:
        gradient = blocks.gradient(x)
        residual, objective = float(np.abs(gradient).max(initial=0.0)), float(x @ (gradient - blocks.b) / 2)
        history.append(residual)
        objectives.append(objective)
        is_rounding = seen.has_ended(objective, steps)
        progress = BCDProgress(steps, residual, tolerance, objective, lambda: x.astype(blocks.dtype))
        if residual <= tolerance:
            reason = reached(residual, progress.value)
        elif not np.isfinite(objective):
            reason = "diverged"
        elif is_rounding:
            reason = "stagnated"
        elif limits.ends(progress):
            reason = "callback"
        elif steps < limits.max_steps:
            steps += blocks.step(x, gradient, min(every, limits.max_steps - steps))
            continue
        break
    return BCDSolution(
        value=x.astype(blocks.dtype),
        converged=reason == "converged",
        steps=steps,
        residual=residual,
        method=f"forest_bcd, {blocks.kind}",
        reason=reason,
        objective=objective,
        gap=np.inf,
        active=np.zeros(len(x), bool),
        identified=0,
        tolerance=tolerance,
        history=np.array(history),
        objectives=np.array(objectives),
    )
