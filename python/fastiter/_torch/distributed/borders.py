"""The states that cross the borders between the shards of a sequence, for whole rows or for packed sequences."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..._sequences import check_bounds, check_lengths
from ..sequences import Sequences
from .collectives import Line


@dataclass(frozen=True)
class Border:
    """The rows whose states cross to and from neighbouring ranks, and the rows that start and end on this rank.

    Without packing, all rows cross every border, start on the first rank and end on the last. At most one packed
    sequence crosses a border: messages have one row, which is zero if none does.

    Attributes
    ----------
    starts, ends : bool Tensor (S,) or bool
        The sequences whose first and last step is on this rank; one flag for all rows without packing.
    enters, leaves : int or None
        The packed sequence that continues from the rank before, and the one that continues on the rank after.
    packed : bool
        Whether the sequences are packed.
    """

    starts: Tensor | bool
    ends: Tensor | bool
    enters: int | None = None
    leaves: int | None = None
    packed: bool = False

    @property
    def is_crossed(self) -> bool:
        """Whether the received state affects the sent one, if no step resets the state."""
        return not self.packed or (self.enters is not None and self.enters == self.leaves)

    def message(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Return tensors with the shapes and dtypes of a message, without allocating memory."""
        return [x.new_empty(()).expand(1, *x.shape[1:]) if self.packed else x for x in states]

    def entry(
        self, own: Sequence[Tensor] | None, received: Sequence[Tensor] | None, like: Sequence[Tensor]
    ) -> list[Tensor] | None:
        """Return the states before this rank's first step: given ones where sequences start, else received ones.

        ``like`` are the default states, whose dtypes messages have: given 16-bit states are converted. The result is
        None if no states are given or received.
        """
        if own is not None:
            own = [x.to(y.dtype) for x, y in zip(own, like, strict=True)]
        if received is None or (self.packed and self.enters is None):
            return None if own is None else [self._where(self.starts, x) for x in own]
        if not self.packed:
            return list(received)
        first = [x.clone() for x in like] if own is None else [self._where(self.starts, x) for x in own]
        for x, y in zip(first, received, strict=True):
            x[self.enters] = y[0]
        return first

    def leaving(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Return the rows of the final states, or of other tensors passed forward, that the next rank needs."""
        return self._rows(states, self.leaves)

    def entering(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Return the rows of the initial states, or of their gradients, that belong to the previous rank."""
        return self._rows(states, self.enters)

    def final(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Return the final states of the sequences that end on this rank, and zeros for all others."""
        return [self._where(self.ends, x) for x in states]

    def started(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return the gradients of the states of the sequences that start on this rank, and zeros for all others."""
        return [self._where(self.starts, x) for x in gradients]

    def last_gradient(
        self, own: Sequence[Tensor | None], received: Sequence[Tensor] | None, like: Sequence[Tensor]
    ) -> list[Tensor]:
        """Return the gradient of the states after this rank's last step, from the results and from the next rank."""
        result = [
            x.new_zeros(x.shape) if y is None else self._where(self.ends, y) for x, y in zip(like, own, strict=True)
        ]
        if received is not None and not self.packed:
            return list(received)
        if received is not None and self.leaves is not None:
            for x, y in zip(result, received, strict=True):
                x[self.leaves] = y[0]
        return result

    def _rows(self, states: Sequence[Tensor], row: int | None) -> list[Tensor]:
        if not self.packed:
            return list(states)
        return [x.new_zeros(1, *x.shape[1:]) if row is None else x[row : row + 1] for x in states]

    def _where(self, rows: Tensor | bool, x: Tensor) -> Tensor:
        if isinstance(rows, bool):
            return x.clone() if rows else torch.zeros_like(x)
        return torch.where(rows.to(x.device).reshape(-1, *(1,) * (x.dim() - 1)), x, 0)


def divided(
    function: str, line: Line, steps: Sequence[int], sequences: Sequences, batch: int
) -> tuple[Border, Sequences]:
    """Return the border of this rank's shard, and the division of its own steps into sequences.

    ``lengths`` and ``cu_seqlens`` count the steps of all ranks and are the same on every rank; ``reset`` has flags only
    for the steps of this rank. They are checked here, as the total number of steps is known here.
    """
    total, rank = sum(steps), line.ranks.rank
    start = sum(steps[:rank])
    stop = start + steps[rank]
    reset, lengths, bounds = sequences
    whole = Border(line.is_first, line.is_last)
    if lengths is not None:
        values = lengths.tolist()
        check_lengths(function, tuple(lengths.shape), min(values, default=0), max(values, default=0), batch, total)
        return whole, Sequences(reset, (lengths - start).clamp(0, stop - start), None)
    if bounds is None:
        return whole, sequences
    ends = bounds.tolist()
    falls = any(b < a for a, b in itertools.pairwise(ends))
    check_bounds(function, tuple(bounds.shape), ends[0], ends[-1], falls, total)
    border = _packed(line, ends, start, stop)
    return border, Sequences(reset, None, (bounds - start).clamp(0, stop - start))


def _packed(line: Line, bounds: Sequence[int], start: int, stop: int) -> Border:
    pairs = list(itertools.pairwise(bounds))
    at_start, at_stop = (next((s for s, (a, b) in enumerate(pairs) if a < at < b), None) for at in (start, stop))
    none = line.is_first  # sequences without steps start and end on the first rank
    with_first = [none if a == b else start <= a < stop for a, b in pairs]
    with_last = [none if a == b else start < b <= stop for a, b in pairs]
    starts, ends = (torch.tensor(flags, dtype=torch.bool) for flags in (with_first, with_last))
    if line.reverse:
        return Border(ends, starts, at_stop, at_start, True)
    return Border(starts, ends, at_start, at_stop, True)
