"""RWKV-4's attention: the specification, the equations in plain NumPy loops.

Shapes: w and bonus (D,), k and v (B, T, D), each part of the state (B, D). The arguments are trusted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
State = tuple[Array, Array, Array]

#: The scale of a state without steps
NO_MAXIMUM = -1e38


def wkv(w: Array, bonus: Array, k: Array, v: Array, first: State | None = None) -> tuple[Array, State]:
    """(out, last): weighted means of v over the steps up to t, with weights e^k[s] that decay by e^w at each step.

    The weight of step t itself is e^(bonus + k[t]). The state is the sums of the weights times v and of the weights,
    both divided by e^m, and m, the largest logarithm of a weight so far. Every exponent is a difference from a maximum.
    """
    batch, time, width = k.shape
    empty = np.zeros((batch, width), k.dtype)
    p, q, m = (empty, empty, np.full_like(empty, NO_MAXIMUM)) if first is None else first
    out = np.zeros_like(v)
    for t in range(time):
        top = np.maximum(m, k[:, t] + bonus)
        former, added = np.exp(m - top), np.exp(k[:, t] + bonus - top)
        out[:, t] = (former * p + added * v[:, t]) / (former * q + added)
        top = np.maximum(m + w, k[:, t])
        former, added = np.exp(m + w - top), np.exp(k[:, t] - top)
        p, q, m = former * p + added * v[:, t], former * q + added, top
    return out, (p, q, m)
