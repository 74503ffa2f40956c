"""Messages between neighbouring ranks: values that a rank owns and others read, and tensors for every rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .collectives import Ranks


def exchange(ranks: Ranks, parcels: Sequence[Tensor]) -> list[Tensor]:
    """Send one tensor (m, ...) to each rank and return those from each, in two rounds.

    The first lengths m may differ and be 0; dtype and the other lengths are the same on all ranks. The own parcel is
    returned as it is.
    """
    lengths = ranks.all_gather(torch.tensor([len(x) for x in parcels], dtype=torch.int64))
    received = [parcels[0].new_empty((int(row[ranks.rank]), *parcels[0].shape[1:])) for row in lengths]
    received[ranks.rank] = parcels[ranks.rank]
    others = [rank for rank in range(ranks.size) if rank != ranks.rank]
    sent = [parcels[rank].contiguous() for rank in others]
    works = [(ranks.start_receive(rank, received[rank]), rank) for rank in others]
    works += [(ranks.start(rank, x), rank) for rank, x in zip(others, sent, strict=True)]
    ranks.wait_all(works)
    return received


class Halo:
    """The values that a rank reads from others, which form its ghosts, and its own that others read.

    Parameters
    ----------
    ranks : Ranks
        The group. Every rank makes its halo at the same time, in two rounds.
    needed : sequence of Tensor
        For each rank the indices, among that rank's own values, of those that this rank reads; none of its own.

    Attributes
    ----------
    given : list of Tensor
        For each rank the indices of this rank's values that it reads.
    counts : list of int
        For each rank the number of its values that this rank reads.
    size : int
        The number of ghosts, which are grouped by rank.
    """

    def __init__(self, ranks: Ranks, needed: Sequence[Tensor]) -> None:
        self.ranks = ranks
        self.given = exchange(ranks, needed)
        self.counts = [len(x) for x in needed]
        self.size = sum(self.counts)

    def start(self, x: Tensor, ghosts: Tensor) -> Callable[[], None]:
        """Start to send values of x (n, ...) and to fill ``ghosts`` (size, ...); the result waits: one round."""
        parts = ghosts.split(self.counts)
        return self._started([x.index_select(0, index) for index in self.given], parts)

    def start_back(self, ghosts: Tensor) -> Callable[[], list[Tensor]]:
        """Start to send what the ghosts (size, ...) hold to their owners: one round.

        The result waits, and returns for each rank the values (m, ...) that belong to the indices ``given``.
        """
        found = [ghosts.new_empty((len(index), *ghosts.shape[1:])) for index in self.given]
        wait = self._started([part.contiguous() for part in ghosts.split(self.counts)], found)

        def received() -> list[Tensor]:
            wait()
            return found

        return received

    def _started(self, sent: Sequence[Tensor], received: Sequence[Tensor]) -> Callable[[], None]:
        ranks = self.ranks
        works = [(ranks.start_receive(rank, x), rank) for rank, x in enumerate(received)]
        works += [(ranks.start(rank, x), rank) for rank, x in enumerate(sent)]

        def wait() -> None:
            ranks.wait_all(works)
            len(sent)  # keeps the memory until the messages have gone

        return wait
