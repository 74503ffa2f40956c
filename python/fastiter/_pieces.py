"""Long recurrences in pieces of time, between which Python handles signals such as Ctrl-C.

A piece continues from the state of the one before it, with the same bits as a run over all steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

#: Operations in a piece: about a tenth of a second on one core, thousands of times the cost of a call
LONGEST = 10**9


def pieces(time: int, operations: int, reverse: bool) -> list[slice]:
    """Return the pieces of ``time`` steps, in the order of computation; ``operations``: those of a step."""
    steps = max(LONGEST // max(operations, 1), 1)
    found = [slice(begin, min(begin + steps, time)) for begin in range(0, time, steps)]
    return found[::-1] if reverse else found


def valid_in(lengths: Any, steps: slice) -> Any:
    """Return how many steps of each row lie in a piece; None where all do."""
    return None if lengths is None else np.clip(lengths - steps.start, 0, steps.stop - steps.start)


def flags_in(reset: Any, steps: slice) -> Any:
    """Return the flags (B, T) or (T,) of a piece, None where there are none."""
    return None if reset is None else reset[..., steps]
