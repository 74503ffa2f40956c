"""The iteration of a distributed method until the true residual is small enough, or clearly will not become so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...._call.iterate import Columns, Limits, Progress, Step, iterate
from ..._solvers.iteration import GROWTH, EndedColumns, Flatness, View, largest_ratio
from ..._solvers.result import LinearSolution
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


def solve_by(problem: Problem, make: Callable[[Array], Method], limits: Limits) -> LinearSolution[Tensor]:
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
        return _Iteration(problem, method, target, limits, scale).solution(x)


class _Iteration:
    def __init__(self, problem: Problem, method: Method, target: Array, limits: Limits, scale: Array) -> None:
        self.problem, self.method, self.target, self.limits, self.scale = problem, method, target, limits, scale
        self._ended, self._view = EndedColumns(), View(False, np.array, np.array, lambda x: x, torch.from_numpy)

    def solution(self, x: Array) -> LinearSolution[Tensor]:
        """Take all steps from x (n_local, k), which they update in place."""
        record = Columns(len(self.target), GROWTH, from_first=True, overflows=True)
        limits = self.limits._replace(callback=self._is_stopped if self.problem.calls_back else None)
        iterate(self._steps(x, record), limits, record)
        self._renew(record)
        self._ended.restore(x, self._view)
        results: dict[str, Any] = record.results()
        for name in ("residual", "tolerance"):
            results[name] = np.ldexp(results[name], self.scale)
        history = np.ldexp(np.array(record.history), self.scale)
        if self._is_single:
            results = {name: value[0].item() if name != "reason" else value[0] for name, value in results.items()}
            history = np.ascontiguousarray(history[:, 0])
        result = LinearSolution(value=self._value(x), method=self.problem.method, history=history, **results)
        return on_tensors(result)

    def _steps(self, x: Array, record: Columns) -> Iterator[Step]:
        method, limits, flatness = self.method, self.limits, Flatness(self.limits.check_every)
        done, norms, is_flat = 0, method.begin(x), np.zeros(len(self.target), bool)
        while True:
            yield Step(done, norms, self.target, self._copy, stagnated=is_flat | method.indefinite)
            self._renew(record)
            self._ended.save(method.x, self._view, record)
            count = min(limits.check_every, limits.max_steps - done)
            norms, done = method.advance(count), done + count
            if not method.is_exact:
                norms = self._true(norms, record.active)
            method.observe(done, largest_ratio(record, norms, self.target))
            is_flat = flatness.check(norms)

    def _true(self, norms: Array, active: Array) -> Array:
        """Return the norms with those of the true residuals, which are decisive, where the recurrence's are small."""
        small = active & (norms <= self.target)
        if not small.any():
            return norms
        true = self.method.renew(np.zeros(len(small), bool))
        late = small & ~(true <= self.target)
        if late.any():
            self.method.renew(late)
        return np.where(small, true, norms)

    def _renew(self, record: Columns) -> None:
        """Replace the residuals of the columns that have ended at the last check without convergence by true ones."""
        columns = record.closed & ~record.converged
        if columns.any() and not self.method.is_exact:
            record.residual[columns] = self.method.renew(np.zeros(len(columns), bool))[columns]

    def _is_stopped(self, progress: Progress) -> bool:
        """Return whether the callback of any rank ends the solution: one round."""
        numbers = (np.ldexp(x, self.scale) for x in (progress.residual, progress.tolerance))
        residual, tolerance = (x.item() if self._is_single else torch.from_numpy(x) for x in numbers)
        active = None if self._is_single else torch.from_numpy(progress.active)
        own = replace(progress, residual=residual, tolerance=tolerance, active=active)
        every = self.problem.A._ranks.all_gather(torch.tensor([self.limits.stops(lambda: own)]))
        return any(bool(x) for x in every)

    @property
    def _is_single(self) -> bool:
        return len(self.problem.shape) == 1

    def _copy(self) -> Tensor:
        return self._value(self.method.x.copy())

    def _value(self, x: Array) -> Tensor:
        return torch.from_numpy(np.ldexp(x, self.scale)).view(self.problem.shape)


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
    exponents: Array = np.frexp(chosen)[1].astype(np.int32)
    return exponents
