"""The automatic choice: a method is tried, and left if its progress promises more work than another method takes.

Work is counted in operations, about a nanosecond each: entries that sweeps read, blocks that elimination updates, and a
constant for steps in Python. No clock is read, so that a solution has the same bits in every run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ... import _core
from ..._call.iterate import Limits, Progress
from .._process import Process
from .._result import MDPSolution, alone
from .certificate import refined
from .compiled import by_kernels, has_loop
from .methods import ModifiedPolicyIteration
from .options import OPTIONS, Choice
from .policies import InexactPolicyIteration, PolicyIteration
from .state import Judgement, Method, Work
from .steps import quietly

Array = npt.NDArray[Any]

#: The number of first steps, more in small processes: as many as take the operations of a few calls from Python; and
#: the width of a band within which all entries make the values of a policy so cheap that fewer first steps pay
_FIRST, _CALL, _BAND = 4, 50_000, 4
#: Sweeps outwards before they are judged
_OUTWARDS = 128
#: Others are tried if the base method still needs this multiple of the operations so far, and tried again, after a
#: trial with and without progress, once the operations have become these multiples
_NEEDED, _AGAIN, _AFTER_FAILURE = 6, 4, 16
#: Operations of a trial: this fraction of those that the base method still needs, and at most these multiples of those
#: so far; elimination may take more, as it usually turns out to be too expensive long before
_TRIAL, _INEXACT, _DIRECT, _ELIMINATION = 0.25, 1, 1, 4
#: The number of policies that are evaluated by elimination even if this takes more
_POLICIES = 8
#: To judge whether a policy leads to absorbing states: the number of states that are looked at, the least change of
#: their values relative to the largest one, and the distance of next states in the order outwards, relative to their
#: number
_SAMPLE, _CHANGED, _NEAR = 200, 0.01, 0.2


def automatic(
    process: Process,
    choice: Choice,
    start: Array,
    limits: Limits,
    negated: bool,
    first: MDPSolution[Array] | None = None,
) -> MDPSolution[Array]:
    """Return the solution, whether converged or not; ``first`` is that of the first steps, if they have been made."""

    def solver(process: Process, start: Array, limits: Limits) -> MDPSolution[Array]:
        return _raced(process, choice, start, limits, negated, None)

    return refined(process, _raced(process, choice, start, limits, negated, first), limits, negated, solver)


def _raced(
    process: Process, choice: Choice, start: Array, limits: Limits, negated: bool, first: MDPSolution[Array] | None
) -> MDPSolution[Array]:
    race = _Race(process, choice, start, limits, negated)
    first = first or race.opening()
    if first.reason != "max_steps":
        return first
    race.sweep(first)
    race.run()
    return race.solution()


class Opening(NamedTuple):
    """How the automatic choice begins, which depends on the sparsity pattern and the discount only."""

    #: The operations of a sweep, and of a step of "mpi"
    sweep: int
    step: int
    is_banded: bool
    #: When the first steps, of "mpi", are left to other methods
    judgement: Judgement


def opening_of(process: Process) -> Opening:
    """Return how the automatic choice begins."""
    if process.opening is None:
        process.opening = _opening(process)
    opening: Opening = process.opening
    return opening


def _opening(process: Process) -> Opening:
    n, rows = process.states, len(process.rows.reward)
    sweep = len(process.rows.next) + rows
    chosen = sweep * n // max(rows, 1)  # the operations for a policy's rows
    if process.rows.pair is not None:
        chosen = len(process.rows.next) * min(n, process.rows.height) // process.rows.height
    step = sweep + OPTIONS["policy_sweeps"][0] * (chosen + n)
    is_banded = _core.mdp.is_banded(process.bits, n, process.arrays, _BAND)
    first = max(_FIRST, 2 * _CALL // step)
    first = 1 if first <= 2 * _FIRST and is_banded else first
    is_dense_cheap = n * n * (n // 4 + 8) < step  # elimination takes less than a step in any case
    discount = process.discount or 0.0
    rate = -(OPTIONS["policy_sweeps"][0] + 1) * math.log(discount) if discount else math.inf
    return Opening(sweep, step, is_banded, Judgement(first, _CALL / step, 1 if is_dense_cheap else _NEEDED, rate))


def steps_left(history: Array, atol: float, when: Judgement | None = None) -> float:
    """Return how many more steps of the same kind are needed, judged by the later half of the residuals so far."""
    return _core.mdp.steps_left(when, np.ascontiguousarray(history), len(history), atol)


class _Race:
    """The best values so far, the operations spent, and the progress of the base method, "mpi" or "gs"."""

    def __init__(self, process: Process, choice: Choice, start: Array, limits: Limits, negated: bool) -> None:
        self.process, self.choice, self.limits, self.negated = process, choice, limits, negated
        self.initial = self.start = start
        self.steps, self.spent, self.history = 0, 0, list[Array]()
        self.has_ended = False
        self.latest: MDPSolution[Array] | None = None  # the last one, and the one that the base method continues
        self.best: MDPSolution[Array] | None = None
        self.residual = math.inf
        self.own = np.zeros(0)  # the residuals of the base method since it began with the values of another one
        self.next_direct = self.next_inexact = 0  # operations from which on these methods may be tried again
        self.left = math.inf  # operations that remain for the base method
        self.base = "mpi"
        self.sweep_operations, self.step_operations, self.is_banded, self.judgement = opening_of(process)
        self.is_rising = False  # the first residuals of the base method
        self.elimination = _core.mdp.Elimination()

    def run(self) -> None:
        """Alternate between the base method and trials of others, with more and more operations."""
        if not self.has_ended and self.is_banded and self._is_slow(_NEEDED):
            self.next_direct = self._again(self._try_direct())
        if not self.has_ended and self.left > _NEEDED * self.spent and self._leads_inwards():
            self.base, self.step_operations, self.own = "gs", 2 * self.sweep_operations, np.zeros(0)
            first, rate = self.judgement, self.judgement.rate / (OPTIONS["policy_sweeps"][0] + 1)
            self.judgement = Judgement(first.first, first.overhead, first.needed, rate)
            self.sweep(self.stepped("gs", _OUTWARDS))
        policy = np.zeros(0)
        while not self.has_ended:
            assert self.latest is not None  # for the type checker
            is_settled = np.array_equal(policy, self.latest.policy)
            if self._is_slow(self.judgement.needed) and (is_settled or self.spent > self.next_direct):
                self.next_direct = self._again(self._try_direct())
            if not self.has_ended and self._is_slow(_NEEDED) and self.spent > self.next_inexact:
                self.next_inexact = self._again(self._try_inexact())
            if not self.has_ended:
                policy = self.latest.policy
                steps = max(_FIRST, math.ceil(min(1.5 * self.left, self.spent) / self.step_operations))
                self.sweep(self.stepped(self.base, steps))

    def _is_slow(self, needed: float) -> bool:
        """Whether others may need less work than the base method, whose first residuals may still rise."""
        return self.left > needed * self.spent and not self.is_rising

    def _again(self, has_helped: bool) -> int:
        return (_AGAIN if has_helped else _AFTER_FAILURE) * self.spent

    def stepped(self, name: str, steps: int) -> MDPSolution[Array]:
        """Return the result of steps of a method by name."""
        limits = self.limits._replace(max_steps=min(self.limits.max_steps - self.steps, steps))
        return self._run(self.choice._replace(method=name).new_method("solve", self.process, limits), steps, None)

    def opening(self) -> MDPSolution[Array]:
        """Return the result of the first steps."""
        method = ModifiedPolicyIteration(OPTIONS["policy_sweeps"][0])
        method.stop, method.judgement = self.choice.stop, self.judgement
        return self._run(method, self.limits.max_steps, None)

    def sweep(self, solution: MDPSolution[Array]) -> None:
        """Account for steps of the base method, and judge its progress."""
        operations = solution.steps * self.step_operations
        self._note(solution, operations + _CALL, is_base=True)
        self.own = np.concatenate([self.own, solution.history if self.base == "mpi" else solution.history[:-1]])
        # After a prediction that was too small, a single residual leaves only the rate of the discount.
        residuals = self.own[-1:] if self.left <= operations else self.own
        self.left = steps_left(residuals, self.limits.atol, self.judgement) * self.step_operations
        is_early = not self.is_banded and len(self.own) < 2 * _FIRST
        self.is_rising = is_early and steps_left(self.own, self.limits.atol) == math.inf

    def solution(self) -> MDPSolution[Array]:
        """Return the best values, with the steps and residuals of all methods."""
        assert self.best is not None and self.latest is not None  # for the type checker
        best = self.latest if self.latest.reason != "max_steps" else self.best
        return replace(best, steps=self.steps, history=np.concatenate(self.history), reason=self.latest.reason)

    def _try_direct(self) -> bool:
        """Iterate over policies if their values are cheap to get by elimination."""
        # Bands are tried after fewer steps than others, with as many operations.
        spent_by_others = max(self.spent, _FIRST * self.step_operations + _CALL)
        limit = int(min(2 * _TRIAL * self.left, _ELIMINATION * spent_by_others))
        method = PolicyIteration(limit, self.elimination)
        before = self.elimination.operations()

        def spent(steps: int) -> int:
            return self.elimination.operations() - before + steps * (3 * self.sweep_operations + _CALL)

        return self._try(method, spent, _DIRECT, _POLICIES)

    def _try_inexact(self) -> bool:
        method = InexactPolicyIteration(OPTIONS["alpha"][0], int(min(_TRIAL * self.left, _INEXACT * self.spent)))
        return self._try(method, lambda n: method.operations + n * (3 * self.sweep_operations + _CALL), _INEXACT)

    def _try(
        self,
        method: PolicyIteration | InexactPolicyIteration,
        spent: Callable[[int], int],
        share: float,
        minimum: int = 0,
    ) -> bool:
        """Take steps of a method until it gives up, or has spent its operations and needs more than the base method.

        The first trial begins like the method alone, which the first steps may have set back.
        """
        limit, residuals = min(_TRIAL * self.left, share * self.spent), list[float]()

        def leaves(steps: int, residual: float) -> bool:
            residuals.append(residual)
            now = spent(steps)
            if method.has_given_up or steps <= minimum or now <= limit:
                return method.has_given_up
            left = steps_left(np.array(residuals[-5:]), self.limits.atol) * now / steps
            return left >= self.left or now > max(4 * limit, self.left if self.left < math.inf else 0)

        start = self.initial if len(self.own) == self.steps <= _FIRST else self.start
        solution = self._run(method, self.limits.max_steps, leaves, start)
        has_helped = solution.residual < self.residual
        self._note(solution, spent(solution.steps), is_base=False)
        self.own = np.zeros(0) if has_helped else self.own
        return bool(has_helped)

    def _run(
        self, method: Method, steps: int, leaves: Callable[[int, float], bool] | None, start: Array | None = None
    ) -> MDPSolution[Array]:
        self.has_left, own = False, self.limits.callback
        before = self.steps

        def callback(progress: Progress) -> bool:
            self.has_left = leaves is not None and leaves(progress.steps, progress.residual)
            ends = self.limits.stops(lambda: replace(progress, steps=before + progress.steps))
            self.has_left = self.has_left and not ends
            return ends or self.has_left

        limits = self.limits._replace(max_steps=min(self.limits.max_steps - self.steps, steps))
        start = (self.start if start is None else start).copy()
        if own is None and leaves is None and has_loop(method):
            return alone(by_kernels([self.process], [method], start[None], limits, self.negated))
        assert self.process.discount is not None  # for the type checker
        limits = limits._replace(callback=None if own is None and leaves is None else callback)
        return quietly(Work(self.process, start, self.process.discount), method, limits, self.negated)

    def _note(self, solution: MDPSolution[Array], operations: int, is_base: bool) -> None:
        """Account for the steps of a method, and continue from its values if they are better."""
        self.steps, self.spent = self.steps + solution.steps, self.spent + operations
        self.history.append(solution.history)
        self.latest = solution
        is_cut = solution.reason == "max_steps" or (solution.reason == "callback" and self.has_left)
        is_cut |= solution.reason == "stagnated" and not is_base
        self.has_ended = not is_cut or self.steps >= self.limits.max_steps
        if is_cut:
            self.latest = replace(solution, reason="max_steps")
        if is_base or solution.residual < self.residual:
            self.best, self.residual = solution, solution.residual
            # A constant between the bounds would spoil the values near absorbing states.
            value = (
                solution.value
                if not self.process.absorbing.any()
                else solution.upper
                if self.negated
                else solution.lower
            )
            if np.isfinite(value).all():
                self.start = (-value if self.negated else value).astype(self.process.dtype)

    def _leads_inwards(self) -> bool:
        """Whether best actions lead to absorbing states through nearby ones, where values have changed."""
        process, rows = self.process, self.process.rows
        if not process.absorbing.any():
            return False
        change = np.abs(self.start - self.initial)
        some = np.flatnonzero((change > _CHANGED * change.max()) & ~process.absorbing)
        some = some[:: max(len(some) // _SAMPLE, 1)]
        w, action = np.empty_like(self.start), np.empty(process.states, np.int32)
        process.model.backup(self.start, w, action, 1, process.discount or 0.0, None)
        place = np.empty(process.states, np.int64)
        place[process.order_from(process.absorbing)[0]] = np.arange(process.states)
        first = rows.at(rows.row[some] + action[some])
        counts = rows.entry[first + 1] - rows.entry[first]
        entries = np.repeat(rows.entry[first] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        steps = np.repeat(place[some], counts) - place[rows.next[entries]]
        weight = rows.weight[entries]
        is_near = weight @ np.abs(steps) <= _NEAR * process.states * weight.sum()
        return bool(is_near and weight @ np.sign(steps) > 0)
