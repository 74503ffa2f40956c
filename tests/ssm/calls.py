"""Inputs of selective scans, for the tests on arrays and on tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from fastiter.ssm import reference
from tests.support.cases import Array

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])


class ScanInputs(NamedTuple):
    """The arrays of selective_scan, by name; None: not given."""

    u: Array
    delta: Array
    A: Array
    B: Array
    C: Array
    D: Array | None
    z: Array | None
    delta_bias: Array | None
    state: Array | None

    def arguments(self) -> dict[str, Any]:
        """The arguments that are not None."""
        return {name: x for name, x in self._asdict().items() if x is not None}


def scan_inputs(
    batch: int,
    channels: int,
    time: int,
    states: int,
    dtype: npt.DTypeLike = np.float64,
    *,
    groups: int = 1,
    fixed: str = "",
    without: tuple[str, ...] = (),
    sequences: int | None = None,
    is_complex: bool = False,
    seed: int = 0,
) -> ScanInputs:
    """fixed: which of B and C are the same at all steps. Rates range from slow to fast decay and rotate both ways."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    def number(*shape: int) -> Array:
        return normal(*shape) + 1j * normal(*shape) if is_complex else normal(*shape)

    signal, steps = (batch, channels, time), 2 * time if is_complex else time
    B, C = (number(channels, states) if name in fixed else normal(batch, groups, states, steps) for name in ("B", "C"))
    first = (batch if sequences is None else sequences, channels, states)
    rates = -np.exp(2 * rng.standard_normal((channels, states)) - 1).astype(dtype)
    if is_complex:
        rates = rates + 1j * normal(channels, states)  # in radians per step, so that the rounding of angles matters
    made = ScanInputs(
        normal(*signal),
        normal(*signal),
        rates,
        B,
        C,
        normal(channels),
        normal(*signal),
        normal(channels),
        number(*first),
    )
    return made._replace(**dict.fromkeys(without))


def wide(inputs: ScanInputs) -> dict[str, Any]:
    """The arguments for the specification, in float64 or complex128, B and C of complex states in pairs."""
    given = inputs.arguments()
    if np.iscomplexobj(inputs.A):
        given |= {name: reference.paired(given[name]) for name in ("B", "C") if given[name].ndim > 2}
    return {name: widened(x) for name, x in given.items()}


def widened(x: Array) -> Array:
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def specified(inputs: ScanInputs, softplus: bool = True, **cut: Any) -> tuple[Array, Array]:
    """out and the last state of the specification, computed in float64."""
    cuts = reference.Cut(*(None if cut.get(n) is None else np.asarray(cut[n]) for n in reference.Cut._fields))
    return reference.selective_scan(**wide(inputs), delta_softplus=softplus, cut=cuts)


def specified_gradients(
    inputs: ScanInputs, dout: Array | None, dlast: Array | None, softplus: bool = True, **cut: Any
) -> reference.Gradients:
    """The gradients of the specification, computed in float64, with the shapes of the inputs."""
    cuts = reference.Cut(*(None if cut.get(n) is None else np.asarray(cut[n]) for n in reference.Cut._fields))
    cotangents = {"dout": dout, "dlast": dlast}
    given = {name: None if x is None else widened(x) for name, x in cotangents.items()}
    found = reference.backward(**wide(inputs), delta_softplus=softplus, cut=cuts, **given)
    parts = {n: g.view(np.float64) for n, g in (("B", found.B), ("C", found.C)) if g.ndim > 2 and np.iscomplexobj(g)}
    return found._replace(**parts)


def some_lengths(batch: int, time: int) -> list[int]:
    """Lengths from 0 to T, both ends included if there are enough rows."""
    return [(7 * b) % (time + 1) if b else time for b in range(batch)]


def some_bounds(sequences: int, time: int) -> list[int]:
    """cu_seqlens of sequences of different lengths, one of them empty if there are more than two."""
    inner = sorted((13 * s) % (time + 1) for s in range(1, sequences))
    return [0, *([inner[0], *inner[:-1]] if len(inner) > 1 else inner), time]


def some_resets(batch: int, time: int) -> Array:
    return np.random.default_rng(5).random((batch, time)) < 0.2


def assert_near(actual: Any, expected: Any, dtype: npt.DTypeLike, terms: int, name: str = "array") -> None:
    """Compare with the specification in float64: eps of the dtype times (16 + sqrt(terms)), relative to the largest.

    A step rounds about a dozen times: d A log2 e, the exponential, softplus and the gate, each within a unit or two in
    the last place; `terms` is the number of terms that are added up, over states, steps or channels.
    """
    actual = widened(np.asarray(actual))
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, expected {expected.shape}"
    if not expected.size:
        return
    bound = float(np.finfo(dtype).eps) * (16 + terms**0.5) * max(float(np.abs(expected).max()), 1e-30)
    worst = float(np.abs(actual - expected).max())
    assert worst <= bound, f"{name}: off by {worst:.3g}, allowed {bound:.3g}"
