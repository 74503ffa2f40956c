"""Sweeps over the states of a decision process, which are divided over the ranks of a group."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ..._call.iterate import Limits, Progress
from ..._torch.distributed.collectives import Ranks
from .._layouts import Rows
from .._process import Process, sums_of
from .._solvers.state import Method, Work
from .exchange import Exchange

Array = npt.NDArray[Any]


class _Numbers(NamedTuple):
    """Extremes of the rows of a process, over all ranks."""

    low: float
    high: float
    longest: float
    largest_reward: float
    smallest_best: float


class Shard:
    """The rows of this rank's states, whose next states are positions in a buffer of values.

    Attributes
    ----------
    process : Process
        The rows, with the row sums of all ranks.
    numbers : _Numbers
        The extremes of all ranks' rows.
    """

    def __init__(self, ranks: Ranks, rows: Rows, discount: float, exchange: Exchange, is_terminal: Array) -> None:
        self.ranks, self.exchange, self.discount = ranks, exchange, discount
        #: Mask of the terminal states in the buffer
        self.is_terminal = is_terminal
        low, high = sums_of(rows, is_terminal)
        own = Process(rows, discount, (low, high))
        every = np.array(gathered(ranks, [low, high, own.longest, own.largest_reward, own.smallest_best]))
        lows, highs = every.min(0), every.max(0)
        self.numbers = _Numbers(lows[0], highs[1], highs[2], highs[3], lows[4])
        has_rows = self.numbers.low <= self.numbers.high
        self.process = Process(rows, discount, (float(lows[0]), float(highs[1])) if has_rows else (0.0, 0.0))

    def with_rows(self, rows: Rows) -> Shard:
        """Return the same states with other rows."""
        return Shard(self.ranks, rows, self.discount, self.exchange, self.is_terminal)

    def start(self) -> Array:
        """Return the lower bound on the values from which a single process also starts."""
        process, smallest = self.process, self.numbers.smallest_best
        low, high = process.modulus(self.discount)
        start = np.zeros(process.states, process.dtype)
        if smallest < math.inf:
            with np.errstate(over="ignore"):
                bound = process.dtype.type(smallest / (1 - (high if smallest < 0 else low)))
            start[~process.is_terminal] = bound if np.isfinite(bound) else 0
        return start


def gathered(ranks: Ranks, numbers: list[float]) -> list[list[float]]:
    """Return the given numbers of every rank, in one round."""
    return [x.tolist() for x in ranks.all_gather(torch.tensor(numbers, dtype=torch.float64))]


class ShardWork(Work):
    """Values of this rank's states, with bounds from the changes of all ranks: a round of 24 bytes per backup."""

    def __init__(self, shard: Shard, start: Array) -> None:
        self._shard, n = shard, len(start)
        self._buffers = [shard.exchange.buffer(start.dtype) for _ in range(2)]
        self._buffers[0][:n] = start
        numbers = shard.numbers
        accuracy = shard.process.accuracy(shard.discount, numbers.largest_reward, int(numbers.longest))
        super().__init__(shard.process, self._buffers[0][:n], shard.discount, accuracy=accuracy)
        self.w = self._buffers[1][:n]
        self._largest = 0.0

    def backup(self) -> None:
        self._shard.exchange.run(self._buffers[0])
        low, high = self.model.backup(self.v, self.w, self.action, 1, self.discount, None)
        size = super().largest()  # NaN if a value is NaN
        every = gathered(self._shard.ranks, [low, high, size if math.isfinite(size) else math.inf])
        self._largest = max(row[2] for row in every)
        self._finish(_all(every))

    def advance(self) -> None:
        super().advance()
        self._buffers.reverse()

    def largest(self) -> float:
        return self._largest

    def everywhere(self, residual: float) -> float:
        return max(row[0] for row in gathered(self._shard.ranks, [residual]))

    def sweep_chain(self, chain: Any, count: int) -> None:
        for _ in range(count):
            self._sweep(chain)

    def evaluate(self, chain: Any, sweeps: int) -> tuple[float, float]:
        """Sweep the chain like :meth:`sweep_chain`; return the least and the largest change in the last sweep."""
        change = (0.0, 0.0)
        for _ in range(sweeps):
            change = self._sweep(chain)
        return _all(gathered(self._shard.ranks, list(change)))

    def _sweep(self, chain: Any) -> tuple[float, float]:
        self._shard.exchange.run(self._buffers[1])
        low, high = chain.backup(self.w, self.v, None, 1, self.discount, None)
        self.advance()
        return low, high


def _all(every: list[list[float]]) -> tuple[float, float]:
    low, high = min(row[0] for row in every), max(row[1] for row in every)
    return (low, high) if low <= high else (0.0, 0.0)  # no state has an action


class PolicyIteration(Method):
    """v <- values near those of the greedy policy, by sweeps of its operator.

    The sweeps end once the bounds on the policy's values are ``alpha`` times as wide as those on the optimal values, or
    rounding prevents further progress; all ranks check every ``sweeps`` sweeps.
    """

    name = "pi"

    def __init__(self, alpha: float, sweeps: int, limits: Limits) -> None:
        self._alpha, self._sweeps, self._atol = alpha, sweeps, limits.atol

    def step(self, work: Work) -> bool:
        assert isinstance(work, ShardWork)
        if work.steps:
            chain, smallest = work.chain(), math.inf
            target = max(self._alpha * self._width(work, work.change), self._atol / 4)
            while True:
                width = self._width(work, work.evaluate(chain, self._sweeps))
                if width <= target or not width < smallest:
                    break
                smallest = width
            work.advance()
        work.backup()
        return True

    def _width(self, work: Work, change: tuple[float, float]) -> float:
        if self.stop == "sup":
            return float(work.accuracy.symmetric(max(abs(change[0]), abs(change[1]))))
        low, high, *_ = work.accuracy.bounds(*change, 0.0)
        return float(high - low)


def with_every_callback(ranks: Ranks, limits: Limits) -> Limits:
    """Return the limits with a callback that ends the iteration on all ranks if it does on one: one more round."""
    if limits.callback is None:
        return limits

    def callback(progress: Progress) -> bool:
        return any(row[0] for row in gathered(ranks, [float(limits.stops(lambda: progress))]))

    return limits._replace(callback=callback)
