"""Values and their bounds after the last sweep, for one or for several processes with the same states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ._process import Process

Array = npt.NDArray[Any]


def enclosed(
    processes: Sequence[Process], discount: float, w: Array, numbers: Array, negated: bool
) -> tuple[Array, Array, Array, Array]:
    """Return the values in the dtype of w (B, S), lower and upper bounds in float64, and the residuals (B,).

    ``numbers`` (B, 5) are the least and the largest change of the last sweep, and the first three of its
    :class:`Bounds`. The residual is the largest difference of the bounds; without a discount, the largest change.
    """
    wide, low, high, rounding = w.astype(np.float64), numbers[:, 2:3], numbers[:, 3:4], numbers[:, 4:]
    lower, upper, middle = wide + (low - rounding), wide + (high + rounding), wide + (low + high) / 2
    endless = [m for m, process in enumerate(processes) if process.modulus(discount)[1] >= 1]
    for m in endless:
        lower[m], upper[m] = _undiscounted(processes[m], wide[m], numbers[m])
        middle[m] = wide[m]
    if processes[0].is_terminal.any():
        for x in (lower, upper, middle):
            x[:, processes[0].is_terminal] = 0
    residual = (upper - lower).max(axis=1, initial=0)
    if not np.isfinite(residual).all():  # values have overflowed
        lower[np.isnan(lower)], upper[np.isnan(upper)] = -np.inf, np.inf
    residual[endless] = np.abs(numbers[endless, :2]).max(axis=1)
    value = middle.astype(w.dtype)
    return (-value, -upper, -lower, residual) if negated else (value, lower, upper, residual)


def _undiscounted(process: Process, w: Array, numbers: Array) -> tuple[Array, Array]:
    """Return bounds without a discount, infinite where none are known.

    They need that policies which never end have the value -inf. Then T v <= v makes w an upper bound, and T v >= v a
    lower one. If all rewards are at most -c < 0, w scaled by a little is such a v: docs/mdp/bounds.md.
    """
    rounding, infinite = float(numbers[4]), np.full_like(w, np.inf)
    above, below = float(numbers[1]) + rounding, rounding - float(numbers[0])
    if not process.endless_is_costly:
        return -infinite, infinite
    cost = -float(process.rows.reward.max(initial=-np.inf))
    upper = w if above <= 0 else w * (cost / (cost + above)) if cost > 0 else infinite
    lower = w if below <= 0 else w * (cost / (cost - below)) if cost > below else -infinite
    wide = 2 * rounding + 2.0**-50 * np.abs(w)
    return lower - 2 * wide, upper + wide
