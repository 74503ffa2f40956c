"""Steps of fixed-point methods on arrays, by the compiled kernels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import _core

#: The most differences that a method keeps
MOST_MEMORY = 32


@dataclass(eq=False)
class AndersonHistory:
    """The last ``m`` differences of residuals and iterates of each of ``samples``, and their Gram matrices."""

    samples: int
    n: int
    m: int
    dtype: Any
    arrays: tuple[Any, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        samples, n, m = self.samples, self.n, self.m
        last = (np.zeros((samples, n), self.dtype) for _ in range(2))
        differences = (np.zeros((samples, m, n), self.dtype) for _ in range(2))
        self.arrays = (*last, *differences, np.zeros((samples, m, m)), np.full(samples, -1))

    def step(self, vectors: tuple[Any, Any, Any, Any], restart: Any, beta: float, ridge: float, kind: int) -> None:
        """Compute ``next`` from ``(slot, x, f, next)``: rows of contiguous arrays, and the samples they belong to."""
        rows = vectors[0].shape[0]
        bits = 8 * np.dtype(self.dtype).itemsize
        _core.fixedpoint.anderson(bits, (rows, self.n, self.m), vectors, self.arrays, restart, beta, ridge, kind == 1)
