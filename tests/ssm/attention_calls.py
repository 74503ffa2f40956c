"""Inputs of linear attention, for the tests on arrays and on tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastiter.ssm import reference, reference_attention
from tests.ssm.calls import assert_near
from tests.support.cases import Array


class AttentionInputs(NamedTuple):
    """The arrays of linear_attention, by name; None: not given."""

    q: Array
    k: Array
    v: Array
    log_decay: Array | None = None
    decay: Array | None = None
    bonus: Array | None = None
    state: Array | None = None

    def arguments(self) -> dict[str, Any]:
        """The arguments that are not None."""
        return {name: x for name, x in self._asdict().items() if x is not None}


#: Forms of the decay: its axes, (N,), (B, T, N) or (B, T, N, K), and whether it is a logarithm
DECAYS = {
    "none": (0, False),
    "fixed": (1, True),
    "scalar": (3, True),
    "vector": (4, True),
    "any scalar": (3, False),
    "any vector": (4, False),
}


def attention_inputs(
    size: tuple[int, int, int, int, int],
    dtype: npt.DTypeLike = np.float64,
    decay: str = "none",
    *,
    shared: int = 1,
    bonus: bool = False,
    state: bool = True,
    sequences: int | None = None,
) -> AttentionInputs:
    """size: (B, T, N, K, V); `shared` value heads share q and k. Decays that are not logarithms include 0 and -1."""
    B, T, N, K, V = size
    rng = np.random.default_rng([*size, shared])

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    q, k, v = normal(B, T, N // shared, K), normal(B, T, N // shared, K) / K**0.5, normal(B, T, N, V)
    axes, is_log = DECAYS[decay]
    shape = (N,) if axes == 1 else (B, T, N, K)[:axes]
    factors = rng.choice([0.0, -1.0, 0.5, 1.0, -0.7, 0.9], shape) if not is_log else -(rng.random(shape) ** 3)
    given = None if axes == 0 else factors.astype(dtype)
    first = normal(B if sequences is None else sequences, N, K, V) if state else None
    weights = normal(N, K) if bonus else None
    return AttentionInputs(q, k, v, given if is_log else None, None if is_log else given, weights, first)


def specified(inputs: AttentionInputs, scale: float = 1.0, **cut: Any) -> tuple[Array, Array]:
    """o and the last state of the specification, computed in float64."""
    q, k, v, log_decay, decay, bonus, first = (None if x is None else x.astype(np.float64) for x in inputs)
    assert q is not None
    assert k is not None
    assert v is not None
    factors = decay if log_decay is None else np.exp(log_decay)
    if factors is not None and factors.ndim == 1:
        factors = np.broadcast_to(factors, v.shape[:3])
    cuts = reference.Cut(*(None if cut.get(n) is None else np.asarray(cut[n]) for n in reference.Cut._fields))
    return reference_attention.linear_attention(q, k, v, factors, bonus, scale, state=first, cut=cuts)


def assert_attention_near(actual: Any, expected: Any, dtype: npt.DTypeLike, size: tuple[int, ...]) -> None:
    """Compare o and the last state: each number is a sum of at most K + T products."""
    for name, a, e in zip(("o", "last"), actual, expected, strict=True):
        assert_near(a, e, dtype, size[1] + size[3], name)
