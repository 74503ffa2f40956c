"""Inputs of delta_scan, and calls of it and of its specification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

import fastiter
from fastiter.reference import delta as reference
from tests.rnn.calls import cast
from tests.support.cases import Array

#: (method, chunk); each chunk size cuts the sequences of these tests in different places.
METHODS = [("sequential", 64), ("chunk", 64), ("chunk", 16), ("chunk", 5), ("chunk", 1)]
every_method = pytest.mark.parametrize(("method", "chunk"), METHODS, ids=[f"{m}{c}" for m, c in METHODS])
with_and_without_decay = pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])


class DeltaInputs(NamedTuple):
    """Arguments of delta_scan; decay is keyword-only."""

    q: Array
    k: Array
    v: Array
    beta: Array
    state: Array
    decay: Array | None

    def arrays(self) -> dict[str, Array]:
        return {name: x for name, x in self._asdict().items() if x is not None}


def delta_inputs(
    B: int,
    T: int,
    N: int,
    K: int,
    V: int,
    dtype: npt.DTypeLike = np.float64,
    *,
    M: int | None = None,
    gated: bool = True,
    rows: int | None = None,
    seed: int = 0,
) -> DeltaInputs:
    """Queries and values ~ N(0, 1), keys of length 1, beta ~ U(0, 2), decays ~ U(0.5, 1) among zeros and ones.

    M: factors per step, None without a factor axis; rows: the number of states if it is not B.
    """
    # Drawn in float64, then rounded, so that both dtypes get the same case.
    rng = np.random.default_rng([seed, B, T, N, K, V, 0 if M is None else M])
    factors = (B, T, N) if M is None else (B, T, M, N)
    k = rng.standard_normal((*factors, K))
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    decay = rng.choice([0.0, 1.0, 2.0], (B, T, N), p=[0.05, 0.15, 0.8])
    decay = np.where(decay == 2, rng.uniform(0.5, 1, decay.shape), decay)
    drawn = DeltaInputs(
        rng.standard_normal((B, T, N, K)),
        k,
        rng.standard_normal((*factors, V)),
        rng.uniform(0, 2, factors),
        rng.standard_normal((B if rows is None else rows, N, K, V)),
        decay if gated else None,
    )
    return DeltaInputs(*(None if x is None else x.astype(dtype) for x in drawn))


def run(inputs: DeltaInputs, **how: Any) -> tuple[Array, Array]:
    """Return (o, last) of the kernels."""
    return fastiter.delta_scan(*inputs[:5], decay=inputs.decay, **how)


def specified(inputs: DeltaInputs, **how: Any) -> tuple[Array, Array]:
    """Return the same from the specification in float64, rounded to the inputs' dtype."""
    wide = DeltaInputs(*cast(tuple(inputs), np.float64))
    result: tuple[Array, Array] = cast(reference.delta_scan(*wide[:5], decay=wide.decay, **how), inputs.q.dtype)
    return result


def some_resets(B: int, T: int, seed: int = 0) -> Array:
    """Return random flags, one in six set."""
    return np.random.default_rng([seed, B, T]).random((B, T)) < 1 / 6


def some_bounds(S: int, T: int, seed: int = 0) -> Array:
    """Return cu_seqlens of S sequences; if there are several, some are empty."""
    inner = np.random.default_rng([seed, S, T]).integers(0, T + 1, max(S - 1, 0))
    inner[1:2] = inner[:1]
    return np.array([0, *sorted(inner), T][: S + 1] if S else [0])


#: Decays of 40 steps whose products overflow float32 or vanish.
DECAYS: dict[str, Callable[[Any], Array]] = {
    "zeros": lambda rng: np.zeros(40),
    "single zeros": lambda rng: np.where(np.arange(40) % 7 == 3, 0.0, 0.9),
    "ones": lambda rng: np.ones(40),
    "negative": lambda rng: rng.uniform(-1, 1, 40),
    "tiny": lambda rng: rng.uniform(0, 1e-3, 40),
    "tinier": lambda rng: np.full(40, 1e-30),
    "large, then tiny": lambda rng: np.where(np.arange(40) % 2 == 0, 1e25, 1e-25),
    "growing": lambda rng: np.full(40, 3.0),
    "larger than the range after nothing": lambda rng: np.where(np.arange(40) < 30, 1e10, 0.5),
}
