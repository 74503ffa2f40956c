"""Inputs of the scans, for the tests on arrays and on tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.support.cases import Array

REAL = (np.float32, np.float64)
COMPLEX = (np.complex64, np.complex128)
every_dtype = pytest.mark.parametrize("dtype", [*REAL, *COMPLEX], ids=["f32", "f64", "c64", "c128"])
real_dtypes = pytest.mark.parametrize("dtype", REAL, ids=["f32", "f64"])
both_kinds = pytest.mark.parametrize("kind", ["linear", "block"])
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
#: Axes of a (B, T, ...) that have one element or are absent
BROADCASTS = {"full": (), "one row": (0,), "one step": (1,), "constant": (0, 1)}


class ScanInputs(NamedTuple):
    """a (B, T, D), x (B, T, D), h0 (B, D); for blocks a (B, T, N, K, K), x (B, T, N, K), h0 (B, N, K)."""

    a: Array
    x: Array
    state: Array


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    drawn = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        drawn = drawn + 1j * rng.standard_normal(shape)
    return drawn.astype(dtype)


def scan_inputs(
    kind: str, B: int, T: int, sizes: tuple[int, ...], dtype: Any, broadcast: str = "full", seed: int = 0
) -> ScanInputs:
    """sizes: (D,) or (N, K). Factors have magnitude about 1, so that states neither vanish nor grow."""
    rng = np.random.default_rng(seed)
    shape = [B, T, *sizes, *sizes[1:]]
    for axis in BROADCASTS[broadcast]:
        shape[axis] = 1
    a = normal(rng, tuple(shape), dtype) / np.sqrt(sizes[-1] if kind == "block" else 1).astype(dtype)
    return ScanInputs(a, normal(rng, (B, T, *sizes), dtype), normal(rng, (B, *sizes), dtype))


def resets(B: int, T: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((B, T)) < 0.3


def some_lengths(B: int, T: int) -> list[int]:
    """Return lengths from 0 to T, both ends included if there are enough rows."""
    return [(7 * b) % (T + 1) if b else T for b in range(B)]
