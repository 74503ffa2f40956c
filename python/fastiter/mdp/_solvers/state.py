"""The state of a solver: two buffers of values, the greedy actions, and the changes of the last sweep."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import _core
from .._process import Process
from .._result import Bounds

Array = npt.NDArray[Any]

#: (v, w, action): sets w to an operator applied to v in place of the process's own; returns the extreme changes
Operator = Callable[[Array, Array, Array], tuple[float, float]]

STOPS = ("span", "sup")
#: Maximum number of states between two polls for signals: about a twentieth of a second
PIECE = 2**20
#: Stands for an unlimited number of steps, small enough for the kernels' counters
MAX_STEPS = 2**62


def largest_of(x: Array) -> float:
    """Return the largest absolute value."""
    return max(float(x.max(initial=0)), -float(x.min(initial=0)))


class Work:
    """Values v, and w = T v with its greedy actions and the changes w - v after each :meth:`backup`."""

    def __init__(
        self, process: Process, v: Array, discount: float, operator: Operator | None = None, accuracy: Any = None
    ) -> None:
        self.process, self.discount = process, discount
        self._operator = operator
        self.model = process.model
        self.v, self.w = v, np.empty_like(v)
        self.action = np.full(len(v), -1, np.int32)
        self.change = (0.0, 0.0)
        self.modulus = process.modulus(discount)
        self.accuracy = process.accuracy(discount) if accuracy is None else accuracy
        #: The bounds from the last backup
        self.bounds = Bounds(-np.inf, np.inf, 0.0, self.accuracy.reachable())
        self.steps, self._size = 0, 0.0
        #: Whether w, its bounds and actions are those of v: the last step was a backup
        self.is_backed_up = True
        #: The constant that a method has removed from v, and the resulting gain of T v
        self.shift = 0.0

    def backup(self) -> None:
        """Set w to T v, and the bounds."""
        if self._operator is not None:
            low, high = self._operator(self.v, self.w, self.action)
        else:
            low, high = self.model.backup(self.v, self.w, self.action, 1, self.discount, None)
        self._finish((low, high) if low <= high else (0.0, 0.0))  # no state has an action

    def _finish(self, change: tuple[float, float]) -> None:
        self.change = change
        self._size = self.largest()
        self.bounds = Bounds(*self.accuracy.bounds(*change, self._size))
        self.steps += 1

    def advance(self) -> None:
        """Set v to w."""
        self.v, self.w = self.w, self.v

    def error(self) -> float:
        """Return the largest |w - v - shift|: the Bellman residual of v + shift / (1 - factor)."""
        return max(abs(self.change[0] - self.shift), abs(self.change[1] - self.shift))

    def is_rounding(self, residual: float, unimproved: int) -> bool:
        """Whether only rounding errors remain of the changes in the last backup, after steps without progress."""
        rest = residual if self.modulus[1] >= 1 else residual - 2 * self.bounds.rounding
        return _core.mdp.is_rounding(rest, self.bounds.floor, unimproved)

    def is_finite(self) -> bool:
        """Whether all values of the last backup are finite."""
        return math.isfinite(self._size)

    def largest(self) -> float:
        """Return the largest absolute value of w."""
        return largest_of(self.w)

    def everywhere(self, residual: float) -> float:
        """Return the largest residual of all parts of the process."""
        return residual

    def chain(self) -> Any:
        """Return the Markov chain of the greedy actions."""
        return self.model.chain(self.action)

    def sweep_chain(self, chain: Any, count: int) -> None:
        """Set w to the values of the policy's operator applied ``count`` times to w; v is overwritten."""
        pieces = max(1, PIECE // max(len(self.w), 1))
        while count > 0:
            now = min(count, pieces)
            chain.backup(self.w, self.v, None, now, self.discount, None)
            if now % 2:
                self.advance()
            count -= now


#: When steps are judged, and left to other methods: csrc/mdp/progress.hpp
Judgement = _core.mdp.Judgement


class Method:
    """The steps of a solver."""

    name = ""
    #: The bounds of the stopping test: one of STOPS
    stop = "span"
    #: Steps without a smaller residual after which only rounding can remain
    patience = 1000
    #: Whether the last step changed the method's current policy
    moved = False
    #: The residual of the last step, if it was not a backup
    residual = np.inf
    #: When the steps, all of them backups, are left to other methods
    judgement: Judgement | None = None
    _judged = 0

    def step(self, work: Work) -> bool:
        """Make a backup, which sets v, w = T v, actions and changes, and return True; or set ``residual``, False."""
        raise NotImplementedError

    def leaves(self, history: list[float], atol: float) -> bool:
        """Whether the steps are left to other methods."""
        if self.judgement is None or len(history) < (self._judged or self.judgement.first):
            return False
        self._judged = _core.mdp.next_judgement(self.judgement, np.array(history), len(history), atol)
        return self._judged == 0

    def update(self, work: Work) -> None:
        """Set v to the values of the last step that was not a backup."""
