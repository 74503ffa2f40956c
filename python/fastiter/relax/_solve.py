"""Steps until the true residual is small enough, or until it is clear that it will not be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import _vectors
from ._adaptive import GO_ON, KEEP, RESTORE
from ._prepare import System
from ._result import Limits, LinearSolution, Progress

Array = npt.NDArray[Any]

#: A residual that has grown by this factor will not fall again.
DIVERGED = 1e10
#: Stagnation: twice in a row, the smallest residual in this many steps was neither a millionth below that of the same
#: number of previous steps, which even the slowest useful sweep achieves, nor well above it: with a good omega, SOR's
#: residual first grows for many steps, then falls.
PATIENCE, RISE = 200, 1.05

#: step(x, count): x, an array or a tensor, after `count` more steps; may be x itself, updated in place
Step = Callable[[Any, int], Any]


class Watch:
    """The residuals at each check, and the status of each column.

    Finished columns are updated together with the others, and their residuals may grow again: `residual` and `steps`
    are those at a column's end, and :class:`Kept` restores its value there.
    """

    def __init__(self, first: Array, target: Array, check_every: int) -> None:
        self.history, self.residual, self.target = [first], first.copy(), target
        self.least, self.least_before = np.full(len(first), np.inf), np.full(len(first), np.inf)
        self.was_flat = np.zeros(len(first), bool)
        self.steps = np.zeros(len(first), np.int64)
        self.reason = np.array(["max_steps"] * len(first), dtype="<U10")
        self.is_open = np.ones(len(first), bool)
        self.window = max(2, -(-PATIENCE // check_every))
        self._decide(first)

    def ratio(self, norms: Array) -> float:
        """Return the largest ratio of a residual to its target among the columns that are not done.

        If the target is 0, the rounding error of the first residual takes its place.
        """
        target = np.where(self.target > 0, self.target, 2.0**-52 * self.history[0])[self.is_open]
        return float(np.max(np.divide(norms[self.is_open], target), initial=0))

    def check(self, steps: int, norms: Array) -> Array:
        """Record the residuals after ``steps`` steps, and return a mask (k,) of the columns that are now done."""
        self.history.append(norms)
        self.least = np.fmin(self.least, norms)
        was_open = self.is_open.copy()
        self.steps[was_open], self.residual[was_open] = steps, norms[was_open]
        self._decide(norms)
        return was_open & ~self.is_open

    def _decide(self, norms: Array) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            good = np.isfinite(norms) & (norms <= self.target)  # an infinite b has an infinite target
            lost = ~np.isfinite(norms) | (norms > DIVERGED * np.maximum(self.history[0], self.target))
        self._close(good & self.is_open, "converged")
        self._close(lost & self.is_open, "diverged")
        if len(self.history) % self.window == 0:
            falls, rises = self.least < (1 - 1e-6) * self.least_before, self.least > RISE * self.least_before
            flat = ~(falls | rises)
            self._close(self.is_open & flat & self.was_flat, "stagnated")
            self.least_before, self.least, self.was_flat = self.least, np.full(len(norms), np.inf), flat

    def stop(self) -> Array:
        """Close all columns at the request of the callback; return a mask (k,) of those that were open."""
        was_open = self.is_open.copy()
        self._close(was_open, "callback")
        return was_open

    def _close(self, columns: Array, reason: str) -> None:
        self.reason[columns], self.is_open[columns] = reason, False


class Kept:
    """The columns of x that finished before the others."""

    def __init__(self) -> None:
        self._x: Any = None
        self._columns: Any = False

    def keep(self, x: Any, closed: Array, watch: Watch) -> None:
        """Save the columns of x (n, k), an array or a tensor, that are closed, if others go on."""
        if not (closed.any() and watch.is_open.any()):
            return
        if self._x is None:
            self._x = x.clone() if hasattr(x, "clone") else x.copy()
        columns = np.flatnonzero(closed)
        self._x[:, columns], self._columns = x[:, columns], self._columns | closed

    def put_back(self, x: Any) -> None:
        """Copy them back into x."""
        if self._x is not None:
            columns = np.flatnonzero(self._columns)
            x[:, columns] = self._x[:, columns]


class Run(NamedTuple):
    """A solver's steps.

    ``observe`` receives :meth:`Watch.ratio` at each check, and returns whether to save a copy of x, or to restore it;
    ``omega`` returns the current one; ``residual`` returns the norms of b - A x, if the steps begin by computing it.
    """

    step: Step
    method: str
    omega: Callable[[], float | None] = lambda: None
    observe: Callable[[int, float], int] | None = None
    residual: Callable[[Any], Array] | None = None


def iterate(function: str, system: System, run: Run, b: object, x0: object, limits: Limits) -> LinearSolution:
    """Check the arguments and iterate from x0, or from 0, until every column is done."""
    given, start = _vectors.check_vectors(function, system, b, x0)
    limits = limits.checked(function)
    given = system.unknowns(given)
    _vectors.check_finite(function, "b", given)
    own_b = _vectors.inside(system, given)
    if start is None:
        x = np.zeros((system.columns, *own_b.shape[1:]), own_b.dtype)
    else:
        _vectors.check_finite(function, "x0", start)
        x = np.array(_vectors.inside(system, start))
    single = given.ndim == len(system.grid or (1,))
    target = limits.relative(own_b.dtype) * _vectors.norm(own_b) + limits.atol
    norms_of = run.residual or (lambda x: _vectors.residual(system, x, own_b))
    watch = Watch(norms_of(x), target, limits.check_every)
    done, kept, copy = 0, Kept(), (x, watch.residual)
    kept.keep(x, ~watch.is_open, watch)

    def progress() -> Progress:
        numbers = (watch.residual, watch.target)
        residual, tolerance = (float(n[0]) if single else n.copy() for n in numbers)
        return Progress(
            done, residual, tolerance, run.omega(), lambda: np.array(_vectors.outside(system, x), order="C")
        )

    with np.errstate(all="ignore"):
        while watch.is_open.any() and done < limits.max_steps:
            count = min(limits.check_every, limits.max_steps - done)
            x, done = run.step(x, count), done + count
            norms = norms_of(x)
            verdict = run.observe(done, watch.ratio(norms)) if run.observe else GO_ON
            if verdict == KEEP:
                copy = np.array(x), norms
            elif verdict == RESTORE:
                x[...], norms = copy
            kept.keep(x, watch.check(done, norms), watch)
            if limits.stops(progress):
                kept.keep(x, watch.stop(), watch)
    kept.put_back(x)
    return _solution(np.ascontiguousarray(_vectors.outside(system, x)), watch, single, run)


def _copy(system: System, x: Array) -> Array:
    return np.array(_vectors.outside(system, x), order="C")


def _solution(value: Array, watch: Watch, single: bool, run: Run) -> LinearSolution:
    history, converged = np.array(watch.history), watch.reason == "converged"
    return LinearSolution(
        value=value,
        converged=bool(converged[0]) if single else converged,
        steps=int(watch.steps[0]) if single else watch.steps,
        residual=float(watch.residual[0]) if single else watch.residual,
        tolerance=float(watch.target[0]) if single else watch.target,
        history=history[:, 0] if single else history,
        reason=str(watch.reason[0]) if single else tuple(map(str, watch.reason)),
        method=run.method,
        omega=run.omega(),
    )
