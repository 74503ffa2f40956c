"""The loop of all methods: evaluate, test each sample for convergence, drop those that have ended, step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np

from .. import _core
from .._call.iterate import Progress, Reason, Step, default_rtol
from .._check import empty, type_name
from .._solution import judged
from ._methods.protocol import CONVERGED, ROUNDED, VANISHING, Active, Method
from ._problem import Problem, Stopping
from ._result import FixedPointSolution
from ._space import NORMS, Numbers, Rows

#: The reasons for ending, by the verdicts; then those that are no verdicts
_NAMES = ("max_steps", "converged", "nan", "diverged", "diverged", "stagnated", "stagnated", "max_steps", "callback")
_REASONS = np.array(_NAMES, object)
_OTHERS = {"max_steps": 0, "callback": 8}
#: The numbers that the kernel keeps of each sample's residuals, `Track`
_TRACK = 9
#: The most numbers of an x that compiled code steps; larger arrays reuse memory
_SMALL = 1 << 16
#: Maximum number of restarts of a sample from the same best iterate, without its history; each time its first step is
#: half as long
RESCUES = 6


@cache
def _mask_of(verdicts: tuple[int, ...]) -> Any:
    """Return a mask of all verdicts, True for some."""
    return np.isin(np.arange(len(_REASONS)), verdicts)


class Run:
    """One call of a solver, and its record: the kernel judges each sample, and a check asks whether all have ended."""

    def __init__(self, problem: Problem, stopping: Stopping, method: Method, x: Any) -> None:
        self.problem, self.space, self.method = problem, problem.space, method
        self.limits, self.stopping = stopping.limits, stopping
        samples, n = x.shape
        self.slots: Rows = np.arange(samples)
        self.value, self.best_x = self.space.copy(x), self.space.empty(samples, n)
        # One block, as each array takes as long to allocate as a step of a small problem
        block = empty((10 + _TRACK, samples), np.dtype(np.float64))
        block[:3], block[3:5], block[5:] = math.nan, math.inf, 0
        self.residual, self.scale, self.best_scale, self.best, self.rescued_at = block[:5]
        self.track = block[10:].reshape(samples, _TRACK)
        #: `extra`: the evaluations of single samples beyond `calls`, which are of all that have not ended
        self.steps, self.evaluations, self.rescued, self.extra, self.reason = block[5:10].view(np.int64)
        self.state = (self.residual, self.scale, self.best, self.best_scale, self.track)
        self.judgement = self.verdict, self.is_best = tuple(np.zeros((2, samples), np.uint8))
        self.guards = _mask_of(method.guarded)
        #: Whether the last step of a sample has been replaced by a plain one
        self.replaced, self.has_replaced = np.zeros(samples, bool), False
        #: The residuals of all samples at successive steps
        self.history: Any = _core.fixedpoint.History(samples)
        self.calls, self.last_steps, self.n = 0, 0, n
        norm, rtol = stopping.norm, stopping.limits.rtol
        self.rtol = default_rtol(self.space.dtype_name) if rtol is None else rtol
        growth, eps = float(method.growth), float(self.space.eps)
        self.judging = (self.rtol, stopping.limits.atol, growth, stopping.patience, eps)
        self.norm = NORMS.index(norm) if self.space.bits and isinstance(norm, str) else None
        layout = problem.layout
        is_plain = self.space.has_loop and layout.kind is None and not layout.is_complex
        is_checked = self.norm is not None and self.limits.callback is None and method.domain is None
        # Python would spend more time between two evaluations of a small problem than the kernels
        self.loop = method.loop if is_plain and is_checked and samples * n < _SMALL else None

    def evaluate(self, x: Any) -> Any:
        self.calls += 1
        return self.problem.call(self.problem.f, self.slots, (x,), "f(x)")

    def jvp(self, x: Any, v: Any) -> Any:
        self.calls += 1
        assert self.problem.jvp is not None  # for the type checker
        return self.problem.call(self.problem.jvp, self.slots, (x, v), "jvp(x, v)")

    @contextmanager
    def only(self, rows: Rows) -> Iterator[None]:
        """Evaluate f for some of the rows."""
        whole, before = self.slots, self.calls
        self.slots = whole[rows]
        self.problem.choose(self.slots)
        try:
            yield
        finally:
            self.extra[whole] -= self.calls - before
            self.extra[self.slots] += self.calls - before
            self.slots = whole
            self.problem.choose(whole)

    def measure(self, x: Any, f: Any) -> int:
        """Judge each row; return the number of verdicts."""
        rows, state, result = len(self.slots), self.state, self.judgement
        if self.norm is not None:
            sizes, vectors = (rows, self.n), (self.slots, x, f, self.best_x)
            bits = self.space.bits
            return _core.fixedpoint.measure(bits, sizes, vectors, state, result, self.judging, self.norm)
        self.residual[self.slots], self.scale[self.slots] = self.norms(x, f)
        flagged = _core.fixedpoint.judge(rows, self.slots, state, result, self.judging)
        better = np.flatnonzero(self.is_best[:rows])
        if len(better):
            self.space.put(self.best_x, self.slots[better], self.space.take(x, better))
        return flagged

    def norms(self, x: Any, f: Any) -> tuple[Numbers, Numbers]:
        norm, layout, space = self.stopping.norm, self.problem.layout, self.space
        if isinstance(norm, str):
            return space.norms(x, f, norm)
        result = []
        for each in (f - x, f):
            got = norm(layout.unpack(each))
            numbers = space.host(got).reshape(-1) if hasattr(got, "shape") or not layout.batched else None
            if numbers is None or numbers.shape != (len(self.slots),):
                shape = tuple(got.shape) if hasattr(got, "shape") else type_name(got)
                raise ValueError(
                    f"{self.problem.function}: norm(state) must return one number for each of the "
                    f"{len(self.slots)} samples, got {shape}"
                )
            if (numbers < 0).any():
                raise ValueError(
                    f"{self.problem.function}: norm(state) must return numbers of at least 0, got {numbers.min():g}"
                )
            result.append(numbers)
        return result[0], result[1]

    def try_zero(self, x: Any, f: Any) -> tuple[Any, Any]:
        """Return x and f(x) with 0 and f(0) for the rows that tend to 0 if 0 solves them.

        A relative tolerance alone would have them go on until x underflows.
        """
        rows = np.flatnonzero(self.verdict[: len(self.slots)] == VANISHING)
        zero = self.space.zeros(len(rows), self.n)
        x, f = self.space.copy(x), self.space.copy(f)  # f may reuse this memory
        with self.only(rows):
            if self.method.domain is not None and not self.problem.admits(self.method.domain, self.slots, zero).all():
                return x, f
            try:
                with np.errstate(all="ignore"):
                    value = self.evaluate(zero)
            except Exception:  # f need not be defined at 0, which is no iterate of the method
                return x, f
            residual, scale = self.norms(zero, value)
            limit = self.limits.atol + self.rtol * scale
            solves = np.flatnonzero((residual <= limit) & (limit < math.inf))
            self.residual[self.slots[solves]], self.scale[self.slots[solves]] = residual[solves], scale[solves]
        self.verdict[rows[solves]] = CONVERGED
        self.space.put(x, rows[solves], self.space.take(zero, solves))
        self.space.put(f, rows[solves], self.space.take(value, solves))
        return x, f

    def settle(self, x: Any, steps: int) -> tuple[Rows, Rows, Rows]:
        """Record why samples end.

        Returns the rows that continue, those of them that restart from their best iterate, and those that take a plain
        step in place of the last one.
        """
        rows = len(self.slots)
        verdict, slots = self.verdict[:rows], self.slots
        ended = verdict == CONVERGED
        none = slots[:0]
        if np.count_nonzero(ended) == rows:
            if rows == len(self.value):
                self.value[...] = x
            else:
                self.space.put(self.value, slots, x)
            self.reason[slots], self.steps[slots] = CONVERGED, steps
            self.evaluations[slots] = self.calls + self.extra[slots]
            return none, none, none
        bad = (verdict > CONVERGED) & (verdict != VANISHING)
        again = np.flatnonzero(self.guards[verdict] & bad)
        if len(again):
            again = again[self.method.extrapolated(slots[again]) & ~self.replaced[slots[again]]]
            bad[again] = False
        failed = np.flatnonzero(bad)
        back = failed
        done = np.flatnonzero(ended)
        if len(failed):
            returns = self.rescue(slots[failed], verdict[failed] != ROUNDED)
            back, ended[failed[~returns]] = failed[returns], True
        self.space.put(self.value, slots[done], self.space.take(x, done))
        rows_ended = np.flatnonzero(ended)
        self.reason[slots[rows_ended]] = verdict[rows_ended]
        self.end(rows_ended, steps)
        return np.flatnonzero(~ended), back, again

    def rescue(self, slots: Rows, may: Any) -> Any:
        """Return the mask of the failed samples that restart from their best iterate."""
        best = self.best[slots]
        self.rescued[slots] *= best >= self.rescued_at[slots]
        may = may & self.method.rescues & (self.rescued[slots] < RESCUES) & np.isfinite(best)
        back = slots[may]
        self.rescued[back] += 1
        self.rescued_at[back] = self.best[back]
        self.track[back] = 0
        return may

    def end(self, rows: Rows, steps: int) -> None:
        """Record the results of samples that end; those without convergence get their best iterate."""
        slots = self.slots[rows]
        self.steps[slots], self.evaluations[slots] = steps, self.calls + self.extra[slots]
        is_failed = self.reason[slots] != CONVERGED
        if is_failed.any():
            failed = slots[is_failed]
            known = failed[np.isfinite(self.best[failed])]
            self.space.put(self.value, known, self.space.take(self.best_x, known))
            self.residual[known], self.scale[known] = self.best[known], self.best_scale[known]

    def shortened(self, at: Active, x: Any) -> Any:
        """Return the first steps of restarted samples, half as long with each restart."""
        factor = np.where(at.restart, 0.5 ** (self.rescued[at.slots] - 1.0), 1)
        return at.x + self.space.column(factor) * (x - at.x)

    @property
    def tolerance(self) -> Numbers:
        """The residual at which each sample converges."""
        tolerance: Numbers = self.limits.atol + self.rtol * self.scale
        return tolerance

    def check(self, step: Step) -> bool:
        self.last_steps = step.steps  # not the step, whose value refers to this object: a cycle would keep the arrays
        return not len(self.slots)

    def stop(self, reason: Reason) -> None:
        if len(self.slots):
            self.reason[self.slots] = _OTHERS[reason]
            self.end(np.arange(len(self.slots)), self.last_steps)

    def progress(self, step: Step) -> Progress:
        residual, tolerance, evaluations = self.residual, self.tolerance, {"evaluations": self.calls}
        if not self.problem.layout.batched:
            return Progress(step.steps, residual.item(), tolerance.item(), None, evaluations, step.value)
        arrays = map(self.space.numbers, (residual.copy(), tolerance, self.slots.copy()))
        residual, tolerance, active = arrays
        return Progress(step.steps, residual, tolerance, active, evaluations, step.value)

    def current(self, slots: Rows, x: Any) -> Any:
        """Return a state: x for the given samples, and for others their values."""
        full = self.space.copy(self.value)
        self.space.put(full, slots, x)
        return self.problem.layout.unpack(full)

    def ahead(self, x: Any, steps: int) -> tuple[Any, Any, int, int]:
        """Step until a sample has a verdict; return x, f(x), the number of verdicts and the steps so far."""
        assert self.loop is not None and self.norm is not None  # for the type checker
        bits, rows, problem = self.space.bits, len(self.slots), self.problem
        judging = (bits, (rows, self.n), self.slots, self.best_x, self.state, self.judgement, self.judging, self.norm)
        first = problem.layout.unpack(self.space.protected(x))
        limit = self.limits.max_steps - steps
        x, value, flagged, taken = _core.fixedpoint.anderson_loop(
            problem.f, first, problem.taken, limit, judging, self.loop, self.history
        )
        self.calls += taken + 1
        if taken:
            self.replaced[self.slots] = False
        x, f = x.reshape(rows, self.n), problem.layout.read(value, rows)
        if flagged is None:
            self.loop = None  # f returns views or other types, which Python reads
            flagged = self.measure(x, f)
        return x, f, flagged, steps + taken

    def stepped(self, x: Any, f: Any, again: Rows, restart: Any, steps: int) -> Any:
        """Return the next x of each row; of the rows ``again``, whose last x has no usable value, by plain steps."""
        if len(again):
            space, rows = self.space, len(self.slots)
            on, moved = np.setdiff1d(np.arange(rows), again), space.empty(rows, self.n)
            space.put(moved, again, self.method.fallback(self.slots[again]))
            if len(on):
                some = None if restart is None else restart[on]
                with self.only(on):
                    space.put(moved, on, self.stepped(space.take(x, on), space.take(f, on), again[:0], some, steps))
            return moved
        jvp = None if self.problem.jvp is None else self.jvp
        at = Active(self.slots, x, f, self.residual, restart, steps, self.evaluate, jvp)
        moved = self.method.step(at)
        return moved if restart is None else self.shortened(at, moved)

    def guard(self, x: Any, again: Rows, back: Rows) -> None:
        """Replace the rows of x that are outside the domain by plain steps."""
        if self.has_replaced:
            self.replaced[self.slots] = False
        self.has_replaced = len(again) > 0 or self.method.domain is not None
        if not self.has_replaced:
            return
        self.replaced[self.slots[again]] = True
        if self.method.domain is None:
            return
        outside = self.method.extrapolated(self.slots) & ~self.replaced[self.slots]
        outside[back] = False
        if outside.any():
            outside &= ~self.problem.admits(self.method.domain, self.slots, x)
        rows = np.flatnonzero(outside)
        if len(rows):
            self.space.put(x, rows, self.method.fallback(self.slots[rows]))
            self.replaced[self.slots[rows]] = True

    def checks(self, x: Any) -> Iterator[Step]:
        """Step until all samples have ended."""
        space = self.space
        waiting: Any = None  # mask of all samples, as bytes: those whose history must be discarded
        steps = 0
        while len(self.slots):
            if self.loop is not None and waiting is None and self.problem.all_rows:
                x, f, flagged, steps = self.ahead(x, steps)
            else:
                f = self.evaluate(x)
                flagged = self.measure(x, f)
            back = again = self.slots[:0]
            if flagged:
                x, f, back, again = self.without_ended(x, f, steps)
            self.history.append(self.residual)
            if not len(self.slots):
                break
            yield Step(steps, self.residual, None, partial(self.current, self.slots, x))
            restart = None if waiting is None else waiting[self.slots]
            waiting = None
            x = self.stepped(x, f, again, restart, steps)
            if len(back):
                space.put(x, back, space.take(self.best_x, self.slots[back]))
                waiting = np.zeros(len(self.residual), np.uint8)
                waiting[self.slots[back]] = 1
            self.guard(x, again, back)
            steps += 1

    def without_ended(self, x: Any, f: Any, steps: int) -> tuple[Any, Any, Rows, Rows]:
        """Drop the samples that end; return the rows of x and f of the others, and of those the ones of `settle`."""
        if np.count_nonzero(self.verdict[: len(self.slots)] == VANISHING):
            x, f = self.try_zero(x, f)
        remaining, back, again = self.settle(x, steps)
        if len(remaining) < len(self.slots):
            position = np.full(len(self.slots), -1)
            position[remaining] = np.arange(len(remaining))
            back, again = position[back], position[again]
            self.slots = self.slots[remaining]
            if len(remaining):
                x, f = self.space.take(x, remaining), self.space.take(f, remaining)
                self.problem.choose(self.slots)
        return x, f, back, again

    def solution(self) -> FixedPointSolution[Any]:
        """Return the solution; if a sample has not converged, warn or raise."""
        layout, space = self.problem.layout, self.space
        converged = self.reason == CONVERGED
        has_converged = np.count_nonzero(converged) == len(converged)
        tolerance, reasons = self.tolerance, _REASONS[self.reason]
        history = empty((self.history.steps, len(converged)), np.dtype(np.float64))
        self.history.copy_to(history)
        arrays = converged, self.steps, self.residual, tolerance, self.evaluations
        if layout.batched:
            numbers, reason = map(space.numbers, arrays), tuple(reasons.tolist())
        else:
            numbers, reason, history = map(np.ndarray.item, arrays), reasons[0], history[:, 0]
        converged, steps, residual, tolerance, evaluations = numbers
        result = FixedPointSolution(
            value=layout.unpack(self.value),
            converged=converged,
            steps=steps,
            residual=residual,
            method=self.method.name,
            reason=reason,
            tolerance=tolerance,
            evaluations=evaluations,
            history=space.numbers(history),
        )
        memory = self.method, tuple(self.value.shape), space.noun, space.dtype_name
        vars(result).update(_judged=self.problem.judged, _memory=memory)
        return result if has_converged else judged(self.problem.function, result, self.limits.throw)
