"""Messages between neighbouring ranks: values that a rank owns and others read, and exchanges of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .collectives import Ranks


def exchange(ranks: Ranks, parcels: Sequence[Tensor]) -> list[Tensor]:
    """Send one tensor (m, ...) to each rank and return the tensors received from each, in two rounds.

    The sizes m may differ and may be 0; dtype and the other sizes are the same on all ranks. The rank's own parcel is
    returned unchanged.
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
    """The ghosts of a rank, which are values that it reads from other ranks, and its own values that others read.

    Parameters
    ----------
    ranks : Ranks
        The group. Every rank constructs its halo at the same time, in two rounds.
    needed : sequence of Tensor
        For each rank the indices of that rank's own values that this rank reads; empty for this rank itself.

    Attributes
    ----------
    given : list of Tensor
        For each rank the indices of this rank's values that the other reads.
    counts : list of int
        For each rank the number of its values that this rank reads.
    size : int
        The number of ghosts, which are grouped by rank.
    """

    def __init__(self, ranks: Ranks, needed: Sequence[Tensor]) -> None:
        self.ranks = ranks
        self.sent = exchange(ranks, needed)
        self.counts = [len(x) for x in needed]
        self.size = sum(self.counts)

    def start(self, x: Tensor, ghosts: Tensor) -> Callable[[], None]:
        """Start to send values of x (n, ...) and to fill ``ghosts`` (size, ...); the result waits: one round."""
        parts = ghosts.split(self.counts)
        return self._started([x.index_select(0, index) for index in self.sent], parts)

    def start_back(self, ghosts: Tensor) -> Callable[[], list[Tensor]]:
        """Start to send the contents of ``ghosts`` (size, ...) to the owners: one round.

        The returned function waits, and returns for each rank the values (m, ...) for the indices in ``sent``.
        """
        result = [ghosts.new_empty((len(index), *ghosts.shape[1:])) for index in self.sent]
        wait = self._started([part.contiguous() for part in ghosts.split(self.counts)], result)

        def received() -> list[Tensor]:
            wait()
            return result

        return received

    def _started(self, sent: Sequence[Tensor], received: Sequence[Tensor]) -> Callable[[], None]:
        ranks = self.ranks
        works = [(ranks.start_receive(rank, x), rank) for rank, x in enumerate(received)]
        works += [(ranks.start(rank, x), rank) for rank, x in enumerate(sent)]

        def wait() -> None:
            ranks.wait_all(works)
            len(sent)  # keeps the memory alive until the messages have been sent

        return wait
