"""Inputs of mLSTM, for the tests on arrays and on tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastiter.ssm import reference, reference_attention
from tests.support.cases import Array

NAMES = ("q", "k", "v", "i", "f")


def mlstm_inputs(
    size: tuple[int, int, int, int, int],
    dtype: npt.DTypeLike = np.float64,
    *,
    shared: int = 1,
    state: bool = True,
    sequences: int | None = None,
) -> dict[str, Any]:
    """size: (B, T, N, K, V); `shared` value heads share q and k. Each gate determines the maximum at some steps."""
    B, T, N, K, V = size
    rng = np.random.default_rng([*size, shared])

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    heads = N // shared
    made: dict[str, Any] = dict(
        zip(NAMES, (normal(B, T, heads, K), normal(B, T, heads, K), normal(B, T, N, V)), strict=False)
    )
    made |= {"i": 2 * normal(B, T, N), "f": 2 * normal(B, T, N) + dtype(1)}  # type: ignore[operator]
    if state:
        rows = B if sequences is None else sequences
        made["state"] = (normal(rows, N, K, V), normal(rows, N, K), normal(rows, N))
    return made


def specified(inputs: dict[str, Any], scale: float | None = None, eps: float = 1e-6, **cut: Any) -> tuple[Any, Any]:
    """h and the last state of the specification, computed in float64."""
    wide = [inputs[name].astype(np.float64) for name in NAMES]
    state = inputs.get("state")
    first = None if state is None else tuple(x.astype(np.float64) for x in state)
    cuts = reference.Cut(*(None if cut.get(n) is None else np.asarray(cut[n]) for n in reference.Cut._fields))
    factor = inputs["q"].shape[-1] ** -0.5 if scale is None else scale
    return reference_attention.mlstm(*wide, state=first, scale=factor, eps=eps, cut=cuts)  # type: ignore[arg-type]


def assert_mlstm_near(actual: Any, expected: Any, dtype: npt.DTypeLike, gate: float = 0.0) -> None:
    """Compare h and the last state.

    The divisor may be much smaller than the terms of its sum, and then has their absolute error: 400 eps allow for it.
    Exponents are differences of numbers as large as `gate`, whose rounding errors accumulate over the steps like a
    random walk: 16 times eps of the largest.
    """
    eps = float(np.finfo(dtype).eps)
    for name, a, e in zip(("h", "C", "n", "m"), (actual[0], *actual[1]), (expected[0], *expected[1]), strict=True):
        a = np.asarray(a, np.float64)
        assert a.shape == e.shape, name
        if e.size:
            worst = float(np.abs(a - e).max()) / max(float(np.abs(e).max()), 1e-30)
            assert worst <= (400 + 16 * gate) * eps, f"{name}: off by {worst / eps:.0f} eps"
