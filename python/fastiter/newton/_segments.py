"""Segments of rows that are computed separately: the sequences of a packed row, and the steps between two resets."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Segments(NamedTuple):
    """Segments in the order of sequences, and within each in the order of computation.

    Attributes
    ----------
    lines, starts, lengths : int64 (segments,)
        The row of the arrays, the first step in it, and the number of steps, which may be 0.
    firsts, lasts : int64 (sequences,)
        The first and last segment of each sequence, with its initial and final state.
    longest : int
        The maximum length.
    """

    lines: Array
    starts: Array
    lengths: Array
    firsts: Array
    lasts: Array
    longest: int

    def counts(self, passes: Array) -> Array:
        """Return (2, sequences), the maximum of the passes and the sum of the fallbacks over the segments of each."""
        if not len(self.firsts):
            return passes
        largest, fallbacks = np.maximum.reduceat(passes[0], self.firsts), np.add.reduceat(passes[1], self.firsts)
        return np.stack([largest, fallbacks])


def segments(
    batch: int, time: int, reverse: bool, reset: Array | None, lengths: Array | None, cu_seqlens: Array | None
) -> Segments | None:
    """Return the segments, or None if each row is a single segment."""
    if reset is None and cu_seqlens is None:
        return None
    if cu_seqlens is not None:
        begins, ends, lines = cu_seqlens[:-1], cu_seqlens[1:], np.zeros(len(cu_seqlens) - 1, np.int64)
    else:
        begins, lines = np.zeros(batch, np.int64), np.arange(batch)
        ends = np.full(batch, time) if lengths is None else lengths
    flags = None if reset is None else np.broadcast_to(reset, (batch, time))
    bounds = []
    for line, begin, end in zip(lines, begins, ends, strict=True):
        inside = [] if flags is None else np.flatnonzero(flags[line, begin:end]) + begin + reverse
        bounds.append(np.concatenate([[begin], inside, [end]]).astype(np.int64)[:: -1 if reverse else 1])
    counts = np.array([len(x) - 1 for x in bounds], np.int64)
    lows = [x[1:] if reverse else x[:-1] for x in bounds]
    sizes = [abs(np.diff(x)) for x in bounds]
    lasts = np.cumsum(counts) - 1
    whole = np.concatenate([np.zeros(0, np.int64), *sizes])
    return Segments(
        np.repeat(lines, counts),
        np.concatenate([np.zeros(0, np.int64), *lows]),
        whole,
        lasts - counts + 1,
        lasts,
        int(whole.max(initial=0)),
    )
