"""Steps until the true residual is small enough, or until it is clear that it will not be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..._call.iterate import Columns, Limits, Record, Step, iterate
from .._omega.adaptive import KEEP, RESTORE
from .._sweeps import vectors
from .._sweeps.prepare import System
from .result import LinearSolution

Array = npt.NDArray[Any]

#: A residual that has grown by this factor will not fall again.
GROWTH = 1e10
#: Stagnation: twice in a row, the smallest residual in this many steps was neither a millionth below that of the same
#: number of previous steps, which even the slowest useful sweep achieves, nor well above it: with a good omega, SOR's
#: residual first grows for many steps, then falls.
PATIENCE, RISE = 200, 1.05


class Run(NamedTuple):
    """A solver's steps.

    ``step(x, count)`` returns x, an array or a tensor, after ``count`` more steps, which may update it in place;
    ``observe`` receives :func:`largest_ratio` at each check, and returns whether to save a copy of x, or to restore it;
    ``omega`` returns the current one; ``residual`` returns the norms (k,) of b - A x, if the steps begin by computing
    it; ``overflows``: a NaN can only come from an overflow, as all functions are those of the package.
    """

    step: Callable[[Any, int], Any]
    method: str
    omega: Callable[[], float | None] = lambda: None
    observe: Callable[[int, float], int] | None = None
    residual: Callable[[Any], Array] | None = None
    overflows: bool = True


class View(NamedTuple):
    """The user's view of vectors in the layout of the kernels.

    ``single``: whether b is one right-hand side; ``outside``: returns x in the user's layout; ``copy`` and ``columns``:
    return a copy of x, and x as (n, k); ``array``: returns an array of numbers in the user's library.
    """

    single: bool
    outside: Callable[[Any], Any]
    copy: Callable[[Any], Any]
    columns: Callable[[Any], Any]
    array: Callable[[Array], Any]


class Flatness:
    """Whether residuals, a number or an array (k,), neither fall nor rise any more."""

    def __init__(self, check_every: int) -> None:
        self._window, self._checks = max(2, -(-PATIENCE // check_every)), 1
        self._smallest: Any = np.inf
        self._before: Any = np.inf
        self._was_flat: Any = False

    def check(self, norms: Any) -> Any:
        """Record the residuals of a check after steps, and return the verdict, False without one."""
        self._smallest, self._checks = np.fmin(self._smallest, norms), self._checks + 1
        if self._checks % self._window:
            return False
        is_flat = (self._smallest >= (1 - 1e-6) * self._before) & (self._smallest <= RISE * self._before)
        verdict = is_flat & self._was_flat
        self._before, self._smallest, self._was_flat = self._smallest, np.inf, is_flat
        return verdict


class EndedColumns:
    """The columns of x that ended before the others: they change in later steps."""

    def __init__(self) -> None:
        self._x: Any = None
        self._columns: Any = False

    def save(self, x: Any, view: View, record: Columns) -> None:
        """Save the columns of x that ended at the last check."""
        if not record.closed.any():
            return
        if self._x is None:
            self._x = view.columns(view.copy(x))
        columns = np.flatnonzero(record.closed)
        self._x[:, columns], self._columns = view.columns(x)[:, columns], self._columns | record.closed

    def restore(self, x: Any, view: View) -> None:
        """Copy them back into x."""
        if self._x is not None:
            columns = np.flatnonzero(self._columns)
            view.columns(x)[:, columns] = self._x[:, columns]


class Iteration:
    """The steps of one solution from x, which they may update in place."""

    def __init__(self, run: Run, x: Any, norms: Callable[[Any], Any], target: Any, limits: Limits, view: View) -> None:
        self.run, self.x, self.target, self.limits, self.view = run, x, target, limits, view
        self._norms, self._ended = norms, None if view.single else EndedColumns()
        if view.single:
            self.target = float(target[0])

    def solution(self) -> LinearSolution[Any]:
        """Take all steps."""
        limits, overflows = self.limits, self.run.overflows
        if limits.callback is not None:
            limits = limits.with_callback(lambda progress: progress._converted(self.view.array, lambda value: value))
        if self.view.single:  # the record is no attribute: its last step refers to this object
            record = Record(GROWTH, from_first=True, overflows=overflows)
        else:
            record = Columns(len(self.target), GROWTH, from_first=True, overflows=overflows)
        with np.errstate(all="ignore"):
            iterate(self._steps(record), limits, record)
        results, history = record.results(), np.array(record.history)
        if self._ended is not None:
            self._ended.restore(self.x, self.view)
            names = ("converged", "steps", "residual", "tolerance")
            results |= {name: self.view.array(results[name]) for name in names}
        return LinearSolution(
            value=self.view.outside(self.x),
            method=self.run.method,
            omega=self.run.omega(),
            history=self.view.array(history),
            **results,
        )

    def _steps(self, record: Record) -> Iterator[Step]:
        run, limits, flatness = self.run, self.limits, Flatness(self.limits.check_every)
        done, norms, is_flat, saved = 0, self._residual(), False, None
        while True:
            yield Step(done, norms, self.target, self._value, self._numbers, stagnated=is_flat)
            if self._ended is not None and isinstance(record, Columns):
                self._ended.save(self.x, self.view, record)
            count = min(limits.check_every, limits.max_steps - done)
            self.x, done = run.step(self.x, count), done + count
            norms = self._residual()
            if run.observe is not None:
                verdict = run.observe(done, largest_ratio(record, norms, self.target))
                if verdict == KEEP:
                    saved = self.view.copy(self.x), norms
                elif verdict == RESTORE:
                    assert saved is not None  # as a trial begins with KEEP
                    self.x[...], norms = saved
            is_flat = flatness.check(norms)

    def _residual(self) -> Any:
        norms = self._norms(self.x)
        return float(norms[0]) if self.view.single else norms

    def _value(self) -> Any:
        return self.view.copy(self.view.outside(self.x))

    def _numbers(self) -> Mapping[str, Any]:
        return {"omega": self.run.omega()}


def largest_ratio(record: Record, norms: Any, target: Any) -> float:
    """Return the largest ratio of a residual to its target among the columns that have not ended.

    If the target is 0, the rounding error of the first residual takes its place.
    """
    first = record.history[0]
    if not isinstance(record, Columns):
        return float(norms / (target or 2.0**-52 * first))
    active = record.active
    targets = np.where(target > 0, target, 2.0**-52 * first)[active]
    return float(np.max(np.divide(norms[active], targets), initial=0))


def solve(
    function: str, system: System, make: Callable[[Array], Run], b: object, x0: object, limits: Limits
) -> LinearSolution[Array]:
    """Check the arguments and iterate from x0, or from 0, by the steps that ``make`` returns for b."""
    own_b, x, single = vectors.checked(function, system, b, x0)
    size = vectors.norm(own_b)
    limits = limits.checked(function, own_b.dtype)
    run = make(own_b)
    assert limits.rtol is not None  # set by `checked`
    target = limits.rtol * size + limits.atol
    norms = run.residual or partial(vectors.residual, system.of(own_b.dtype), b=own_b)
    view = View(single, partial(vectors.outside, system), _copy, _same, np.asarray)
    return Iteration(run, x, norms, target, limits, view).solution()


def _same(x: Array) -> Array:
    return x


def _copy(x: Array) -> Array:
    return np.array(x, order="C")
