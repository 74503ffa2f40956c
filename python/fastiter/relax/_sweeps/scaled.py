"""Equations for projections whose |a_i|^2 is out of range, scaled with their b by powers of two."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .matrix import Csr

Array = npt.NDArray[Any]

#: Magnitudes between which squares, their sums and 1 / |a_i|^2 keep full precision in the dtype of sums
RANGE = {"float32": (1e-15, 1e15), "float64": (1e-140, 1e140), "complex128": (1e-140, 1e140)}
#: The range of the exponents of powers of two in each dtype
POWERS = {"float32": 120, "float64": 1000, "complex128": 1000}


class Prepared(Protocol):
    """A matrix in the kernels' layout."""

    def sweep(
        self, x: Array, b: Array, d: Array | int, k: int, omega: Array, momentum: Array | int, count: int, kind: int, /
    ) -> None: ...
    def residual(self, x: Array, b: Array, r: Array | int, k: int, norms: Array, /) -> None: ...


class ByRows:
    """A matrix whose rows are the caller's times ``scale`` (rows,), for a batch (rows, batch)."""

    def __init__(self, one: Prepared, scale: Array) -> None:
        self.one, self.scale = one, scale

    def _scale(self, b: Array) -> Array:
        return self.scale.reshape(*self.scale.shape, *(1,) * (b.ndim - self.scale.ndim)).astype(b.real.dtype)

    def sweep(
        self, x: Array, b: Array, d: Array | int, k: int, omega: Array, momentum: Array | int, count: int, kind: int, /
    ) -> None:
        """Sweep over the scaled equations."""
        self.one.sweep(x, b * self._scale(b), d, k, omega, momentum, count, kind)

    def residual(self, x: Array, b: Array, r: Array | int, k: int, norms: Array, /) -> None:
        """Compute b - A x of the caller's equations, and the squares of its norm."""
        own = np.empty_like(b)
        self.one.residual(x, b * self._scale(b), own, k, norms)
        with np.errstate(over="ignore", invalid="ignore"):
            own /= self._scale(b)
            norms[:] = (np.abs(own).astype(np.float64) ** 2).reshape(len(own), len(norms)).sum(axis=0)
        if not isinstance(r, int):
            r[...] = own


def powers_of_two(largest: Array, dtype: str) -> Array | None:
    """Return 1, or a power that brings ``largest`` near 1 if it is out of range; None if all are in range."""
    low, high = RANGE[dtype]
    is_out = (largest > 0) & ((largest < low) | (largest > high))
    if not is_out.any():
        return None
    powers = np.clip(np.frexp(np.where(is_out, largest, 1))[1], -POWERS[dtype], POWERS[dtype])
    return np.where(is_out, np.ldexp(1.0, -powers), 1.0)


def scales_of(A: Csr) -> Array | None:
    """Return the scales of the rows (rows,), or (rows, batch); None if not needed, as for float32: sums are float64."""
    if A.value.dtype == np.float32 or A.value.size == 0:
        return None
    size = np.abs(A.value)
    if powers_of_two(np.array([size.max(), np.min(size, where=size > 0, initial=1.0)]), "float64") is None:
        return None  # no entry is out of range
    row = np.repeat(np.arange(A.n), np.diff(A.start))
    largest = np.zeros((A.n, *A.value.shape[:-1]))
    np.maximum.at(largest, row, size.T)
    return powers_of_two(largest, "float64")


def scaled(A: Csr, scale: Array) -> Csr:
    """Return A with its rows multiplied."""
    row = np.repeat(np.arange(A.n), np.diff(A.start))
    return replace(A, value=np.ascontiguousarray((A.value.T * scale[row]).T))


def scales_of_points(coefficients: Array, dtype: str) -> Array | None:
    """Return the scales for the coefficients (7,) or (7, *grid) of a stencil, whose sums are in its own dtype."""
    return powers_of_two(np.abs(coefficients).max(axis=0, initial=0), dtype)
