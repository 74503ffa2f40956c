"""Long calls in pieces, between which Python handles signals: Ctrl-C ends a long sweep within about half a second."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

#: How long a piece takes, and so many entries for sure less than that: a call with no more is one piece.
SECONDS, ENTRIES = 0.05, 2**23


def pieces(count: int, entries: int) -> Iterator[int]:
    """Yield numbers of sweeps that sum to ``count``; one reads so many entries, and the caller does them in between."""
    size = max(1, ENTRIES // max(entries, 1))
    while count > 0:
        size = min(size, count)
        began = perf_counter()
        yield size
        count -= size
        speed = size / max(perf_counter() - began, 1e-6)
        size = max(1, min(4 * size, int(SECONDS * speed)))
