"""The ranks that own the states of a decision process."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Owners:
    """The rank of each state, and its position among the states of its rank.

    Parameters
    ----------
    counts : sequence of int
        The number of states of each rank.
    lists : list of (n,) int64, optional
        The states of each rank in increasing order; None if the first rank has the first states, and so on.
    """

    def __init__(self, counts: tuple[int, ...], lists: list[Array] | None) -> None:
        self.counts = counts
        self._first = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
        self._lists, self._table = lists, np.zeros(0, np.int64)
        if lists is not None:
            self._table = np.empty(self._first[-1], np.int64)
            for first, states in zip(self._first, lists, strict=False):
                self._table[states] = first + np.arange(len(states))

    def states(self, rank: int) -> Array:
        """Return the states of a rank."""
        if self._lists is not None:
            return self._lists[rank]
        return np.arange(self._first[rank], self._first[rank + 1])

    def locate(self, states: Array) -> tuple[Array, Array]:
        """Return the rank of each of the given states, and its position on that rank."""
        at = self._table[states] if self._lists is not None else states
        rank = np.searchsorted(self._first, at, side="right") - 1
        return rank, at - self._first[rank]


def check_owners(function: str, lists: list[Array], states: int) -> None:
    """Check that each state is on exactly one rank; every rank raises the same error."""
    counts = np.zeros(states, np.int64)
    for own in lists:
        counts[own] += 1
    if (counts != 1).any():
        s = int(np.argmax(counts != 1))
        where = [str(rank) for rank, own in enumerate(lists) if s in own]
        got = f"on ranks {' and '.join(where)}" if where else "on none"
        raise ValueError(f"{function}: owned must have each of the {states} states on one rank, got state {s} {got}")
