"""The loop of all methods: evaluate, test each sample for convergence, drop those that have ended, step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from .. import _core
from .._check import type_name
from .._solution import judged
from ._result import FixedPointProgress, FixedPointSolution, Limits
from ._space import NORMS, Numbers, Rows, Space
from ._state import Layout

#: The kernel's verdicts, by their numbers
CONVERGED, NAN, OVERFLOW, GROWN, STALE = 1, 2, 3, 4, 5
_REASONS = {NAN: "nan", OVERFLOW: "diverged", GROWN: "diverged", STALE: "stagnated"}
#: Maximum number of restarts of a sample from the same best iterate, without its history; each time its first step is
#: half as long
RESCUES = 6


@dataclass
class Active:
    """The samples that have not ended, at a step: rows of buffers."""

    #: The sample of each row
    slots: Rows
    x: Any
    #: f(x)
    f: Any
    #: ||f(x) - x|| of all samples
    residuals: Numbers
    #: Mask, as bytes, of the rows whose history must be discarded; None: no row
    restart: Any
    #: The steps before this one
    steps: int
    #: Evaluates f at other points for the same rows
    evaluate: Callable[[Any], Any]
    #: (x, v) -> f'(x) v for the same rows; None if f has no derivatives
    jvp: Callable[[Any, Any], Any] | None

    @property
    def residual(self) -> Numbers:
        """||f(x) - x|| of the rows."""
        return self.residuals[self.slots]

    def rows(self, chosen: Rows) -> tuple[Any, ...]:
        """Return slots and restart of some rows."""
        return self.slots[chosen], None if self.restart is None else self.restart[chosen]


class Method(Protocol):
    """A method, with the history of all samples."""

    name: str
    #: The residual, relative to the best one, at which a sample has diverged
    growth: float
    #: Whether a sample that fails restarts from its best iterate
    rescues: bool

    def step(self, at: Active) -> Any:
        """Return the next x of each row, in new memory."""

    def suspended(self) -> Method:
        """Return a copy that continues from another x, possibly of another map."""


@dataclass
class Problem:
    """A map on states, as a map on buffers."""

    function: str
    f: Callable[..., Any]
    space: Space
    layout: Layout
    args: tuple[Any, ...] = ()
    compact: bool = True
    jvp: Callable[..., Any] | None = None
    judged: str = "||f(x) - x||"

    def __post_init__(self) -> None:
        for i, arg in enumerate(self.args):
            if not hasattr(arg, "shape") or len(arg.shape) == 0 or arg.shape[0] != self.layout.samples:
                got = tuple(arg.shape) if hasattr(arg, "shape") else type_name(arg)
                raise ValueError(f"{self.function}: args[{i}] must have {self.layout.samples} rows, got {got}")
        self.taken, self.all_rows = self.args, True

    def choose(self, slots: Rows) -> None:
        """Select the rows of the arguments that belong to the samples."""
        self.all_rows = len(slots) == self.layout.samples
        if self.compact and self.args:
            self.taken = self.args if self.all_rows else tuple(self.space.take(arg, slots) for arg in self.args)

    def call(self, f: Callable[..., Any], slots: Rows, buffers: tuple[Any, ...], name: str) -> Any:
        """Return a buffer with the result of f for the states in buffers."""
        layout, space = self.layout, self.space
        if self.all_rows or self.compact:
            try:
                return layout.read(self._called(f, buffers, name), len(slots), name)
            except Exception as error:
                if self.all_rows or isinstance(error, TypeError):
                    raise
                raise ValueError(
                    f"{self.function}: f must take any number of samples, got an error with {len(slots)} of "
                    f"{layout.samples} (arrays of one row for each sample can be args; or compact=False): {error}"
                ) from error
        full = []
        for buffer in buffers:
            every = space.zeros(layout.samples, buffer.shape[1])
            space.put(every, slots, buffer)
            full.append(every)
        found = layout.read(self._called(f, tuple(full), name), layout.samples, name)
        return space.take(found, slots)

    def _called(self, f: Callable[..., Any], buffers: tuple[Any, ...], name: str) -> Any:
        """Return the result of f for the states in buffers, which it must not change: the method still needs them."""
        layout, space = self.layout, self.space
        before = [*map(space.version, buffers)]
        result = f(*(layout.unpack(space.protected(buffer)) for buffer in buffers), *self.taken)
        if [*map(space.version, buffers)] != before:
            raise ValueError(f"{self.function}: {name} must leave x as it is, got one that is changed in place")
        return result


class Run:
    """One call of a solver."""

    def __init__(self, problem: Problem, limits: Limits, method: Method, x: Any) -> None:
        self.problem, self.space, self.limits, self.method = problem, problem.space, limits, method
        samples, n = x.shape
        self.slots: Rows = np.arange(samples)
        self.residual, self.scale = np.full((2, samples), math.nan)
        self.best, self.since = np.full(samples, math.inf), np.zeros(samples, np.int64)
        self.value, self.best_x = self.space.copy(x), self.space.copy(x)
        self.rescued_at = np.full(samples, math.inf)
        self.best_scale = np.full(samples, math.nan)
        self.state = (self.residual, self.scale, self.best, self.best_scale, self.since)
        self.found = self.verdict, self.is_best = tuple(np.zeros((2, samples), np.uint8))
        self.steps, self.evaluations, self.rescued = np.zeros((3, samples), np.int64)
        self.reason = ["max_steps"] * samples
        self.history: list[Numbers] = []
        self.calls, self.n = 0, n
        rtol = limits.rtol if limits.rtol is not None else (1e-5 if self.space.eps > 1e-10 else 1e-8)
        self.judging = (rtol, limits.atol, float(method.growth), limits.patience)
        self.rtol = rtol
        self.norm = NORMS.index(limits.norm) if self.space.bits and isinstance(limits.norm, str) else None

    def evaluate(self, x: Any) -> Any:
        self.calls += 1
        return self.problem.call(self.problem.f, self.slots, (x,), "f(x)")

    def jvp(self, x: Any, v: Any) -> Any:
        self.calls += 1
        assert self.problem.jvp is not None  # for the type checker
        return self.problem.call(self.problem.jvp, self.slots, (x, v), "jvp(x, v)")

    def measure(self, x: Any, f: Any) -> int:
        """Judge each row; return the number of verdicts."""
        rows, state, found = len(self.slots), self.state, self.found
        if self.norm is not None:
            sizes, vectors = (rows, self.n), (self.slots, x, f, self.best_x)
            bits = self.space.bits
            return _core.fixedpoint.measure(bits, sizes, vectors, state, found, self.judging, self.norm)
        self.residual[self.slots], self.scale[self.slots] = self.norms(x, f)
        flagged = _core.fixedpoint.judge(rows, self.slots, state, found, self.judging)
        better = np.flatnonzero(self.is_best[:rows])
        if len(better):
            self.space.put(self.best_x, self.slots[better], self.space.take(x, better))
        return flagged

    def norms(self, x: Any, f: Any) -> tuple[Numbers, Numbers]:
        norm, layout, space = self.limits.norm, self.problem.layout, self.space
        if isinstance(norm, str):
            return space.norms(x, f, norm)
        found = []
        for each in (f - x, f):
            got = norm(layout.unpack(each))
            numbers = space.host(got).reshape(-1) if hasattr(got, "shape") or not layout.batched else None
            if numbers is None or numbers.shape != (len(self.slots),):
                shape = tuple(got.shape) if hasattr(got, "shape") else type_name(got)
                raise ValueError(
                    f"{self.problem.function}: norm(state) must return one number for each of the "
                    f"{len(self.slots)} samples, got {shape}"
                )
            found.append(numbers)
        return found[0], found[1]

    def settle(self, x: Any, steps: int) -> tuple[Rows, Rows]:
        """Record why samples end; return the rows that continue, and those that restart from their best iterate."""
        rows = len(self.slots)
        verdict, slots = self.verdict[:rows], self.slots
        ended = verdict == CONVERGED
        failed = np.flatnonzero(verdict > CONVERGED)
        best = self.best[slots[failed]]
        self.rescued[slots[failed]] *= best >= self.rescued_at[slots[failed]]
        may = self.method.rescues & (self.rescued[slots[failed]] < RESCUES) & np.isfinite(best)
        back = failed[may]
        self.rescued[slots[back]] += 1
        self.rescued_at[slots[back]] = self.best[slots[back]]
        self.since[slots[back]] = 0
        for row in failed[~may]:
            self.reason[slots[row]] = _REASONS[int(verdict[row])]
        for slot in slots[ended]:
            self.reason[slot] = "converged"
        done = np.flatnonzero(ended)
        self.space.put(self.value, slots[done], self.space.take(x, done))
        ended[failed[~may]] = True
        self.end(np.flatnonzero(ended), steps)
        return np.flatnonzero(~ended), back

    def end(self, rows: Rows, steps: int, reason: str = "") -> None:
        """Record the results of samples that end; those without convergence get their best iterate."""
        slots = self.slots[rows]
        self.steps[slots], self.evaluations[slots] = steps, self.calls
        for slot in slots if reason else ():
            self.reason[slot] = reason
        failed = np.array([slot for slot in slots if self.reason[slot] != "converged"], np.intp)
        known = failed[np.isfinite(self.best[failed])]
        self.space.put(self.value, known, self.space.take(self.best_x, known))
        self.residual[known], self.scale[known] = self.best[known], self.best_scale[known]

    def shortened(self, at: Active, x: Any) -> Any:
        """Return the first steps of restarted samples, half as long with each restart."""
        factor = np.where(at.restart, 0.5 ** (self.rescued[at.slots] - 1.0), 1)
        return at.x + self.space.column(factor) * (x - at.x)

    def progress(self, x: Any, steps: int) -> FixedPointProgress:
        slots = self.slots

        def value() -> Any:
            full = self.space.copy(self.value)
            self.space.put(full, slots, x)
            return self.problem.layout.unpack(full)

        return FixedPointProgress(steps, self.residual.copy(), slots.copy(), value)

    def go(self, x: Any) -> None:
        """Step until all samples have ended."""
        limits, space, problem = self.limits, self.space, self.problem
        samples = len(self.slots)
        waiting: Any = None  # mask of all samples, as bytes: those whose history must be discarded
        steps = 0
        while len(self.slots):
            f = self.evaluate(x)
            back = self.slots[:0]
            if self.measure(x, f):
                keep, back = self.settle(x, steps)
                self.history.append(self.residual.copy())
                if len(keep) < len(self.slots):
                    position = np.full(len(self.slots), -1)
                    position[keep] = np.arange(len(keep))
                    back = position[back]
                    self.slots, x, f = self.slots[keep], space.take(x, keep), space.take(f, keep)
                    problem.choose(self.slots)
            else:
                self.history.append(self.residual.copy())
            if not len(self.slots):
                break
            if limits.callback is not None and limits.ends(partial(self.progress, x, steps)):
                self.end(np.arange(len(self.slots)), steps, "callback")
                break
            if steps >= limits.max_steps:
                self.end(np.arange(len(self.slots)), steps)
                break
            restart = None if waiting is None else waiting[self.slots]
            waiting = None
            jvp = None if problem.jvp is None else self.jvp
            at = Active(self.slots, x, f, self.residual, restart, steps, self.evaluate, jvp)
            x = self.method.step(at)
            if restart is not None:
                x = self.shortened(at, x)
            if len(back):
                space.put(x, back, space.take(self.best_x, self.slots[back]))
                waiting = np.zeros(samples, np.uint8)
                waiting[self.slots[back]] = 1
            steps += 1

    def solution(self) -> FixedPointSolution:
        layout, space = self.problem.layout, self.space
        tolerance = self.limits.atol + self.rtol * self.scale
        converged = np.array([reason == "converged" for reason in self.reason], bool)
        history = np.array(self.history).reshape(len(self.history), len(converged))
        numbers = [converged, self.steps, self.residual, tolerance, self.evaluations, history]
        if layout.batched:
            given = [space.numbers(each) for each in numbers]
        else:
            given = [*(each[0].item() for each in numbers[:5]), space.numbers(history[:, 0])]
        return FixedPointSolution(
            value=layout.unpack(self.value),
            converged=given[0],
            steps=given[1],
            residual=given[2],
            method=self.method.name,
            reason=tuple(self.reason) if layout.batched else self.reason[0],
            tolerance=given[3],
            evaluations=given[4],
            history=given[5],
        )._remembering(self.problem.judged, self.method, tuple(self.value.shape), space.noun, space.dtype_name)


def solve(problem: Problem, x0: Any, limits: Limits, make: Callable[[Space, int, int], Method]) -> FixedPointSolution:
    """Return the fixed points of a problem by the method that ``make(space, samples, n)`` returns."""
    x = problem.layout.pack(x0)
    run = Run(problem, limits, make(problem.space, *x.shape), x)
    run.go(x)
    return judged(problem.function, run.solution(), limits.throw)
