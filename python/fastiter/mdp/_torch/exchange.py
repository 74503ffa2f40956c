"""Exchange of the values of other ranks' states: those that a rank's rows read, or all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..._torch.distributed.collectives import Ranks
from ..._torch.distributed.halo import Halo
from .partition import Owners

Array = npt.NDArray[Any]

EXCHANGES = ("auto", "halo", "gather")
#: The fraction of all values from which on all are gathered, which avoids copying values into messages
_MAX_SHARE = 0.75


class Exchange:
    """Copies the values of other ranks into a buffer that begins with those of this rank's states."""

    def __init__(self, owners: Owners, size: int) -> None:
        self.counts = owners.counts
        #: The number of values in a buffer
        self.size = size

    def buffer(self, dtype: np.dtype[Any]) -> Array:
        """Return a buffer of zeros."""
        return np.zeros(self.size, dtype)

    def places(self, states: Array) -> npt.NDArray[np.int32]:
        """Return the positions in the buffer of the states that this rank's rows read."""
        raise NotImplementedError

    def run(self, buffer: Array) -> None:
        """Fill the buffer with the values of other ranks, in one round."""
        raise NotImplementedError


class _HaloExchange(Exchange):
    """One message to each rank that reads values of this one; ghost values follow this rank's values in the buffer."""

    def __init__(self, ranks: Ranks, owners: Owners, others: Array) -> None:
        self._own, self._owners, self._rank = owners.counts[ranks.rank], owners, ranks.rank
        rank, place = owners.locate(others)
        order = np.lexsort((place, rank))
        self._others, self._ghost = others, np.argsort(order)
        parts = [torch.from_numpy(place[order][rank[order] == other]) for other in range(ranks.size)]
        self._halo = Halo(ranks, parts)
        super().__init__(owners, self._own + len(others))

    def places(self, states: Array) -> npt.NDArray[np.int32]:
        rank, place = self._owners.locate(states)
        other = rank != self._rank
        place[other] = self._own + self._ghost[np.searchsorted(self._others, states[other])]
        return place.astype(np.int32)

    def run(self, buffer: Array) -> None:
        x = torch.from_numpy(buffer)
        self._halo.start(x[: self._own], x[self._own :])()


class _GatherExchange(Exchange):
    """One all-gather; the values of all ranks follow this rank's, each padded to the largest number of states."""

    def __init__(self, ranks: Ranks, owners: Owners) -> None:
        self._ranks, self._owners, self._longest = ranks, owners, max(owners.counts)
        super().__init__(owners, (ranks.size + 1) * self._longest)

    def places(self, states: Array) -> npt.NDArray[np.int32]:
        rank, place = self._owners.locate(states)
        return np.where(rank == self._ranks.rank, place, (rank + 1) * self._longest + place).astype(np.int32)

    def run(self, buffer: Array) -> None:
        own, *every = torch.from_numpy(buffer).split(self._longest)
        self._ranks.all_gather_into(every, own)


def new_exchange(ranks: Ranks, owners: Owners, read: Array, exchange: str) -> Exchange:
    """Return the exchange for rows that read these states; "auto" chooses the cheaper one, which takes one more round.

    Parameters
    ----------
    ranks, owners : Ranks, Owners
        The group, and the owners of the states.
    read : (entries,) int64
        The next states of this rank's rows.
    how : {"auto", "halo", "gather"}
        The exchange.
    """
    states = np.unique(read)
    others = states[owners.locate(states)[0] != ranks.rank]
    if exchange == "auto":
        ghosts = sum(int(x) for x in ranks.all_gather(torch.tensor([len(others)])))
        every = (ranks.size - 1) * ranks.size * max(owners.counts)
        exchange = "gather" if ghosts > _MAX_SHARE * every else "halo"
    return _GatherExchange(ranks, owners) if exchange == "gather" else _HaloExchange(ranks, owners, others)
