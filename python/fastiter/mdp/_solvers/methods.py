"""Variants of value iteration, and prioritized sweeping."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..._call.iterate import Limits
from .._process import Process
from .state import MAX_STEPS, PIECE, Method, Work

Array = npt.NDArray[Any]

#: The maximum number of sweeps of a window, and the fraction of its first change at which they end
_WINDOW_SWEEPS, _WINDOW_FALL = 30, 0.001
#: The maximum decrease of a value in the first sweep, relative to the largest change, for windows to be used
_FALL = 1e-6


class ValueIteration(Method):
    """v <- T v."""

    name = "vi"

    def step(self, work: Work) -> bool:
        if work.steps:
            work.advance()
        work.backup()
        return True


class ModifiedPolicyIteration(Method):
    """v <- T_pi^m T v, with pi greedy; the chain of pi is a compact copy of its rows.

    Parameters
    ----------
    sweeps : int
        m.
    """

    name = "mpi"

    def __init__(self, sweeps: int) -> None:
        self.sweeps = sweeps
        self._chain: Any = None
        self._action: Array = np.zeros(0, np.int32)

    def step(self, work: Work) -> bool:
        if work.steps:
            if self._chain is None or not np.array_equal(self._action, work.action):
                self._chain, self._action = work.chain(), work.action.copy()
            work.sweep_chain(self._chain, self.sweeps)
            work.advance()
        work.backup()
        return True


class GaussSeidel(Method):
    """v_s <- v_s + omega ((T v)_s - v_s) state after state, until a sweep changes little; then a backup.

    In an order outwards from the absorbing states a sweep corrects values only as far out as the probability of inward
    steps reaches, so that a large distance takes many sweeps. Each sweep is therefore followed by one in overlapping
    windows of the order, each swept until its own changes are small, before the next window further out. Windows are
    only used from values that no sweep lowers: from others they take longer, as overestimated values further out
    attract the policy of a window.

    Parameters
    ----------
    order : {"ascending", "descending", "symmetric"} or (S,) int32
        The order of states; an array is swept on a copy of the process in that order.
    omega : float
        The relaxation factor; it is reset to 1 if a sweep with a larger one changes more than the previous sweep.
    exact : bool
        Whether to solve for self-transitions exactly.
    limits : Limits
        Determines when the changes are small enough for a backup.
    window : int
        The number of states in a window, 0 for sweeps over all states only.
    """

    name = "gs"

    def __init__(self, order: str | Array, omega: float, exact: bool, limits: Limits, window: int = 0) -> None:
        self.order, self.omega, self.exact, self.window = order, omega, exact, window
        self._allowed, self._max_steps = limits.atol, limits.max_steps
        self.residual, self._is_swept = np.inf, False  # since the last backup
        self._copy: tuple[Any, Array] | None = None  # the process and the values in the given order

    def step(self, work: Work) -> bool:
        allowed = max(self._allowed, work.bounds.floor)
        if (self._is_swept and self.residual <= allowed) or work.steps + 1 >= self._max_steps:
            self._allowed /= 4  # unless this backup ends it
            self._is_swept = False
            self.update(work)
            work.backup()
            return True
        if self.window and not work.steps and work.modulus[1] >= 1:
            self._begin_below(work)
        first = None if work.steps or not self.window else work.v.copy()
        change = self._sweep(work)
        work.steps += 1
        self._is_swept = True
        scaled = change if work.modulus[1] >= 1 else work.accuracy.symmetric(change)
        if self.omega > 1 and scaled > self.residual:
            self.omega = 1.0
        self.residual = scaled / min(self.omega, 1.0)
        if first is not None and self._copy is not None:
            fall = float((first[self.order] - self._copy[1]).max(initial=0))
            self.window = self.window if fall <= _FALL * change else 0
        if self.window and not self.residual <= allowed:
            self._sweep_windows(work, change * allowed / scaled / 4)
        return False

    def update(self, work: Work) -> None:
        """Set v to the values of the copy, if there is one."""
        if self._copy is not None and isinstance(self.order, np.ndarray):
            work.v[self.order] = self._copy[1]

    def _sweep(self, work: Work) -> float:
        """Sweep over all states in pieces, and return the largest change."""
        model, v, n = work.model, work.v, len(work.v)
        if isinstance(self.order, np.ndarray):
            if self._copy is None:
                self._copy = model.permuted(self.order), v[self.order]
            model, v = self._copy
        falls = self.order == "descending" if isinstance(self.order, str) else False
        falls |= isinstance(self.order, str) and self.order == "symmetric" and work.steps % 2 == 1
        if n <= PIECE and not falls:
            return model.sweep(v, None, n, work.discount, self.omega, self.exact)
        change = 0.0
        for first in range(0, n, PIECE):
            part = np.arange(first, min(first + PIECE, n), dtype=np.int32)
            part = n - 1 - part if falls else part
            change = max(change, model.sweep(v, part, len(part), work.discount, self.omega, self.exact))
        return change

    def _begin_below(self, work: Work) -> None:
        """Set v, which is 0, to the value of paying the largest cost in each state, if all rows have a cost."""
        rows = work.process.rows
        if work.v.any() or not (rows.reward < 0).all():
            self.window = 0
            return
        work.v[rows.row[1:] > rows.row[:-1]] = len(work.v) * float(rows.reward.min(initial=0))

    def _sweep_windows(self, work: Work, enough: float) -> None:
        """Sweep each window until its changes are ``enough``, or a small fraction of the first change."""
        assert self._copy is not None  # made by the first sweep
        (model, v), total = self._copy, 0
        n, order = len(v), np.arange(len(v), dtype=np.int32)
        limit = (self._max_steps - 1 - work.steps) * n  # states, so that one sweep is left for the bounds
        for first in range(0, max(n - self.window // 2, 1), self.window // 2):
            part, target = order[first : first + self.window], 0.0
            for k in range(_WINDOW_SWEEPS):
                if total + len(part) > limit:
                    break
                change = model.sweep(v, part, len(part), work.discount, 1.0, self.exact)
                total += len(part)
                target = target if k else max(_WINDOW_FALL * change, enough)
                if change <= target:
                    break
        work.steps += -(-total // n)


class Prioritized(Method):
    """Backups of the state whose value would change most, from a heap; then a backup of all states."""

    name = "ps"

    def __init__(self, process: Process, limits: Limits) -> None:
        self._process, self._tol, self._max_steps = process, limits.atol, limits.max_steps

    def step(self, work: Work) -> bool:
        process, allowed = self._process, max(self._tol, work.bounds.floor)
        if work.modulus[1] < 1:
            allowed = allowed / work.accuracy.symmetric(1.0) if work.modulus[1] else np.inf
        arguments, n = (*process.predecessors, work.discount, allowed / 2), len(work.v)
        limit = (self._max_steps - 1 - work.steps) * n  # backups of states; one sweep is left for the bounds
        if limit >= n:
            heap, total = work.model.prioritized(*arguments), n  # initially, one backup of each
            while True:
                backups = heap.run(work.v, PIECE // 16, min(limit - total, MAX_STEPS))[1]
                total += backups
                if backups < PIECE // 16:  # the heap is empty, or the next state takes too many
                    break
            work.steps += -(-total // n)
        work.backup()
        self._tol /= 4  # unless this backup ends it
        return True


class Anchored(Method):
    """v_k = beta_k v_0 + (1 - beta_k) T v_(k-1), beta_k = 1 / sum over i <= k of gamma^(-2 i): Halpern's iteration."""

    name = "anchored"

    def __init__(self) -> None:
        self._first: Array | None = None
        self._power = self._sum = 1.0

    def step(self, work: Work) -> bool:
        if self._first is None:
            self._first = work.v.copy()
        else:
            self._power /= work.modulus[1] ** 2 if work.modulus[1] > 0 else 1.0
            self._sum += self._power
            beta = 1 / self._sum
            work.v[...] = beta * self._first + (1 - beta) * work.w
        work.backup()
        return True


class Deflated(Method):
    """v <- T (v - mean of v): values without their constant part, which the bounds, valid for any v, restore."""

    name = "deflated"

    def step(self, work: Work) -> bool:
        if work.steps:
            work.advance()
            work.shift = float(work.v.dtype.type(work.v.mean()))
            work.v -= work.v.dtype.type(work.shift)
        work.backup()
        return True
