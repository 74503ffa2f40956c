"""Long calls split into pieces, between which Python handles signals: Ctrl-C stops a sweep within about 0.5 seconds."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

#: Target seconds per piece, and a number of entries that takes less for certain: a smaller call is one piece.
SECONDS, ENTRIES = 0.05, 2**23


def pieces(count: int, entries: int) -> Iterator[int]:
    """Yield numbers of sweeps that sum to ``count``; a sweep reads ``entries``, and the caller runs them in between."""
    size = max(1, ENTRIES // max(entries, 1))
    while count > 0:
        size = min(size, count)
        began = perf_counter()
        yield size
        count -= size
        speed = size / max(perf_counter() - began, 1e-6)
        size = max(1, min(4 * size, int(SECONDS * speed)))
