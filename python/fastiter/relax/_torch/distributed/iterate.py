"""The iteration of a distributed method until the true residual is small enough, or clearly will not become so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..._result import Limits, LinearSolution, Progress
from ..._solve import Kept, Watch
from ..tensors import on_tensors
from .matrix import RowMatrix
from .methods import Method

Array = npt.NDArray[Any]


class Problem(NamedTuple):
    """A system: its matrix, this rank's rows of b and x0 (n_local, k), and the names and shapes of the results.

    ``calls_back``: whether any rank has a callback, in which case all ranks exchange the results.
    """

    A: RowMatrix
    b: Array
    x0: Array | None
    method: str
    shape: torch.Size
    calls_back: bool


def iterate(problem: Problem, make: Callable[[Array], Method], limits: Limits) -> LinearSolution:
    """Solve A x = b by the method that ``make`` returns for a scaled b.

    Each column is scaled by a power of 2, so that the squares of its numbers neither overflow nor underflow.
    """
    A, scale = problem.A, _exponents(problem)
    b = np.ldexp(problem.b, -scale)
    x = np.zeros_like(b) if problem.x0 is None else np.ldexp(problem.x0, -scale)
    with np.errstate(all="ignore"):
        method = make(b)
        norm = np.sqrt(A._dots([(b, b)])[0])
        target = limits.relative(problem.b.dtype) * norm + np.ldexp(np.full(len(norm), limits.atol), -scale)
        watch = Watch(method.begin(x), target, limits.check_every)
        run = _Run(problem, method, watch, limits, scale)
        run.all()
    run.kept.put_back(x)
    return run.solution(x)


class _Run:
    def __init__(self, problem: Problem, method: Method, watch: Watch, limits: Limits, scale: Array) -> None:
        self.problem, self.method, self.watch, self.limits, self.scale = problem, method, watch, limits, scale
        self.kept, self.done = Kept(), 0

    def all(self) -> None:
        """Take all steps."""
        watch, limits, method = self.watch, self.limits, self.method
        self.kept.keep(method.x, ~watch.is_open, watch)
        while watch.is_open.any() and self.done < limits.max_steps:
            count = min(limits.check_every, limits.max_steps - self.done)
            norms = method.advance(count)
            self.done += count
            self._check(norms)
        if not method.is_exact and watch.is_open.any():
            watch.residual[watch.is_open] = method.renew(np.zeros(len(watch.is_open), bool))[watch.is_open]

    def _check(self, norms: Array) -> None:
        watch, method = self.watch, self.method
        if not method.is_exact:
            small = watch.is_open & (norms <= watch.target)
            if small.any():  # by the recurrence; the true residuals are decisive
                true = method.renew(np.zeros(len(small), bool))
                late = small & ~(true <= watch.target)
                if late.any():
                    method.renew(late)
                norms = np.where(small, true, norms)
        method.observe(self.done, watch.ratio(norms))
        closed = watch.check(self.done, norms)
        lost = method.indefinite & watch.is_open
        watch._close(lost, "indefinite")
        closed |= lost
        if self.problem.calls_back and self._is_stopped():
            closed |= watch.stop()
        failed = closed & (watch.reason != "converged")
        if failed.any() and not method.is_exact:
            watch.residual[failed] = method.renew(np.zeros(len(failed), bool))[failed]
        self.kept.keep(method.x, closed, watch)

    def _is_stopped(self) -> bool:
        """Return whether the callback of any rank ends the solution: one round."""
        answer = self.limits.stops(self._progress)
        every = self.problem.A._ranks.all_gather(torch.tensor([answer]))
        return any(bool(x) for x in every)

    def _progress(self) -> Progress:
        numbers = (np.ldexp(x, self.scale) for x in (self.watch.residual, self.watch.target))
        residual, tolerance = (x.item() if self._is_single else torch.from_numpy(x) for x in numbers)
        return Progress(self.done, residual, tolerance, None, lambda: self._value(self.method.x.copy()))

    @property
    def _is_single(self) -> bool:
        return len(self.problem.shape) == 1

    def _value(self, x: Array) -> Tensor:
        return torch.from_numpy(np.ldexp(x, self.scale)).view(self.problem.shape)

    def solution(self, x: Array) -> LinearSolution:
        """Return the solution x (n_local, k)."""
        watch = self.watch
        numbers: dict[str, Any] = {
            "converged": watch.reason == "converged",
            "steps": watch.steps,
            "residual": np.ldexp(watch.residual, self.scale),
            "tolerance": np.ldexp(watch.target, self.scale),
        }
        history = np.ldexp(np.array(watch.history), self.scale)
        reasons = tuple(map(str, watch.reason))
        if self._is_single:
            numbers = {name: value[0].item() for name, value in numbers.items()}
            history = np.ascontiguousarray(history[:, 0])
        reason = reasons[0] if self._is_single else reasons
        found = LinearSolution(
            value=self._value(x), method=self.problem.method, reason=reason, history=history, **numbers
        )
        return on_tensors(found)


def _exponents(problem: Problem) -> Array:
    """Return the exponents of 2 (k,) of the largest numbers of b, or of x0 where b is 0: one round."""
    A, k = problem.A, problem.b.shape[1]
    own = np.zeros((len(A._parts), 2, k))
    for at, x in enumerate((problem.b, problem.x0)):
        if x is not None:
            for number, part in enumerate(A._parts):
                own[number, at] = np.abs(x[part.first : part.last]).max(axis=0, initial=0)
    largest = A._gathered(own).max(axis=0, initial=0)
    chosen = np.where(largest[0] > 0, largest[0], largest[1])
    found: Array = np.frexp(chosen)[1].astype(np.int32)
    return found
