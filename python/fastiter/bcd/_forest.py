"""Quadratics with large blocks whose graphs are forests, which are minimised exactly in time O(|b|)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .._call.iterate import Callback, Limits, Step, iterate
from .._check import check_choice, integers
from .._solution import judged
from ._arguments import start
from ._data import Entries
from ._problem import Quadratic
from ._result import PATIENCE, BCDSolution, Checks, Stalled, step_of

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
    atol: float = 0.0,
    max_steps: int = 100_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int | None = None,
) -> BCDSolution[Array]:
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
        Converged if the largest entry of the gradient is at most ``rtol`` times that of b, plus ``atol``.
    atol : float
        A tolerance in the units of the gradient.
    max_steps : int
        The maximum number of updates of a block.
    callback : callable, optional
        Called with a :class:`fastiter.Progress` at each check, which has the ``objective``; True ends the solution.
    throw : bool
        Raise if it does not converge, instead of a warning.
    check_every : int, optional
        The number of updates between two checks: by default, ten of each block, or one with "greedy trees".

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
    every = 1 if check_every is None else check_every
    limits = Limits(rtol, atol, max_steps, callback, throw, every).checked(function)
    try:
        problem = Quadratic(A, b)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("Quadratic:", f"{function}:", 1)) from None
    if problem._data.sparse is None:
        raise TypeError(f"{function}: A must be a sparse matrix in CSR or CSC, got a dense array")
    x = start(function, x0, problem.shape, problem.dtype)
    sweeps = _Blocks(function, problem, blocks, order)
    if check_every is None:
        limits = limits._replace(check_every=10 * sweeps.count or 1)
    with np.errstate(over="ignore", invalid="ignore"):
        return judged(function, _solution(sweeps, x, limits), throw)


class _Blocks:
    """The blocks, and the steps that update them."""

    def __init__(self, function: str, problem: Quadratic, blocks: Any, order: Any) -> None:
        rows = _symmetric(problem._data.sparse)
        self.A, self.b, self.dtype, self._at = rows.astype(np.float64), problem._b, problem.dtype, 0
        n = len(self.b)
        self._unit = _unit(self.A.data, problem._diagonal)
        self._scaled_b = self.b * self._unit
        self.rows = Entries(rows.indptr.astype(np.int64), rows.indices.astype(np.int32), self.A.data * self._unit)
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
    smallest = float(diagonal.min(initial=1.0))
    if not 0 < smallest < np.finfo(np.float64).tiny:
        return 1.0
    return 2.0 ** min(-int(np.floor(np.log2(float(np.abs(entries).max())))), 1000)


def _symmetric(A: Any) -> Any:
    """Return a symmetric matrix in compressed columns: entries that differ by rounding are averaged."""
    return A if (A != A.T).nnz == 0 else ((A + A.T) / 2).tocsc()


def _solution(blocks: _Blocks, x: Array, limits: Limits) -> BCDSolution[Array]:
    """Take all steps from x, which they update in place."""
    record = iterate(_steps(blocks, x, limits), limits, Checks())
    return BCDSolution(
        value=x.astype(blocks.dtype),
        method=f"forest_bcd, {blocks.kind}",
        objective=record.objectives[-1],
        gap=np.inf,
        active=np.zeros(len(x), bool),
        identified=0,
        **record.results(),
    )


def _steps(blocks: _Blocks, x: Array, limits: Limits) -> Iterator[Step]:
    assert limits.rtol is not None  # as forest_bcd has a default
    tolerance = limits.rtol * float(np.abs(blocks.b).max(initial=0.0)) + limits.atol
    stalled, done = Stalled(PATIENCE * blocks.count), 0

    def value() -> Array:
        return x.astype(blocks.dtype)

    while True:
        gradient = blocks.gradient(x)
        residual, objective = float(np.abs(gradient).max(initial=0.0)), float(x @ (gradient - blocks.b) / 2)
        is_stalled = stalled.check(objective, done)
        yield step_of(done, (residual, tolerance, objective), value, math.isfinite(objective), is_stalled)
        done += blocks.step(x, gradient, min(limits.check_every, limits.max_steps - done))
