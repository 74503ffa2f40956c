"""Calls of the sequence functions with their steps reversed by hand, for the tests on arrays and on tensors."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tests.ssm.attention_calls import attention_inputs
from tests.ssm.calls import scan_inputs
from tests.ssm.conv_calls import channels_last, conv_inputs
from tests.ssm.mlstm_calls import mlstm_inputs
from tests.support.cases import Array

B, T, BOUNDS = 3, 37, (0, 5, 5, 20, 37)
ROWS: dict[str, dict[str, Any]] = {
    "whole rows": {},
    "lengths": {"lengths": np.array([T, 0, 11])},
    "packed": {"cu_seqlens": np.array(BOUNDS)},
}


class Reversible(NamedTuple):
    """A call: the function, the arguments by name, those with an axis of steps, this axis, and the one like out."""

    name: str
    given: dict[str, Any]
    timed: tuple[str, ...]
    axis: int
    like: str
    options: Mapping[str, Any] = MappingProxyType({})

    def reversed(self, x: Array, steps: slice) -> Array:
        """Return a copy of some steps in reversed order; two numbers a step are pairs."""
        numbers = x.shape[self.axis] // self.given[self.like].shape[self.axis]
        by_step = np.moveaxis(x, self.axis, -1).reshape(*np.moveaxis(x, self.axis, -1).shape[:-1], -1, numbers)
        turned = by_step[..., steps, :][..., ::-1, :]
        return np.moveaxis(turned.reshape(*turned.shape[:-2], -1), -1, self.axis).copy()

    def steps(self, x: Array) -> Array:
        """Return a result as (B, T, ...)."""
        return np.moveaxis(x, self.axis, 1)


def calls(rows: str, dtype: npt.DTypeLike = np.float32) -> Iterator[Reversible]:
    """Yield calls of every sequence function; the states are those of the sequences."""
    batch, count = (1, len(BOUNDS) - 1) if rows == "packed" else (B, B)
    attention = {"sequences": count, "shared": 2}
    names = ("q", "k", "v", "log_decay", "decay")
    for decay in ("none", "fixed", "scalar", "any vector"):
        inputs = attention_inputs((batch, T, 4, 5, 6), dtype, decay, bonus=True, **attention).arguments()
        timed = tuple(name for name in names if name in inputs and inputs[name].ndim > 1)
        yield Reversible("linear_attention", inputs, timed, 1, "v", {"scale": 0.5})
    inputs = attention_inputs((batch, T, 4, 5, 6), dtype, "vector", **attention).arguments()
    a, b = (np.roll(inputs["q"].repeat(2, 2), shift, 1) / 4 for shift in (1, 2))
    yield Reversible("dplr_delta_rule", {**inputs, "a": a, "b": b}, ("q", "k", "v", "a", "b", "log_decay"), 1, "v")
    yield Reversible("mlstm", mlstm_inputs((batch, T, 4, 5, 6), dtype, **attention), tuple("qkvif"), 1, "v")
    yield _ssd(batch, count, dtype)
    last = {"return_last_state": True}
    scan, options = ("u", "delta", "B", "C", "z"), {**last, "delta_softplus": True}
    for how in ({}, {"fixed": "B", "without": ("z", "D")}, {"is_complex": True}):
        made = scan_inputs(batch, 18, T, 4, dtype, groups=2, sequences=count, **how)  # type: ignore[arg-type]
        for inputs in (made, made._replace(u=channels_last(made.u), B=made.B)):
            given = inputs.arguments()
            timed = tuple(name for name in scan if name in given and given[name].ndim > 2)
            yield Reversible("selective_scan", given, timed, -1, "u", options)
    for order in ("time", "channels"):
        conv = conv_inputs(batch, 18, T, 4, dtype, order=order, sequences=count)
        yield Reversible("causal_conv1d", conv.arguments(), ("x",), -1, "x", {**last, "activation": "silu"})


def _ssd(batch: int, count: int, dtype: npt.DTypeLike) -> Reversible:
    rng = np.random.default_rng(5)
    shapes = {"x": (batch, T, 4, 6), "dt": (batch, T, 4), "B": (batch, T, 2, 5), "C": (batch, T, 2, 5)}
    shapes |= {"z": (batch, T, 4, 6), "D": (4,), "dt_bias": (4,), "state": (count, 4, 6, 5)}
    given = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    given["A"] = -rng.random(4).astype(dtype)
    return Reversible("ssd", given, ("x", "dt", "B", "C", "z"), 1, "x", {"dt_softplus": True})


def with_resets(call: Reversible, rows: str) -> dict[str, Any]:
    """Return the division of the steps, with resets if the function takes them."""
    if call.name == "causal_conv1d":
        return ROWS[rows]
    return {**ROWS[rows], "reset": np.random.default_rng(2).random((1 if rows == "packed" else B, T)) < 0.1}


def by_hand(function: Any, call: Reversible, cut: dict[str, Any]) -> tuple[Array, list[Any]]:
    """Return out as (B, T, ...) and the parts of the last states of the sequences, each run alone on reversed steps."""
    out = np.zeros_like(call.steps(call.given[call.like]))
    lengths = cut.get("lengths", np.full(len(out), T))
    sequences = [(row, slice(0, length)) for row, length in enumerate(lengths)]
    if "cu_seqlens" in cut:
        bounds = cut["cu_seqlens"]
        sequences = [(0, slice(*ends)) for ends in itertools.pairwise(bounds)]
    states: list[Any] = []
    for s, (row, steps) in enumerate(sequences):
        own = {n: call.reversed(x[row : row + 1], steps) for n, x in call.given.items() if n in call.timed}
        own = {**call.given, **own, **call.options}
        own["state"] = [x[s : s + 1] for x in parts(own["state"])]
        own["state"] = own["state"][0] if len(own["state"]) == 1 else tuple(own["state"])
        if "reset" in cut:
            own["reset"] = cut["reset"][row : row + 1, steps][:, ::-1].copy()
        alone, last = function(**own)
        out[row, steps] = call.steps(alone)[0, ::-1]
        states.append(parts(last))
    return out, [np.concatenate(of_part) for of_part in zip(*states, strict=True)]


def parts(state: Any) -> list[Any]:
    """Return the parts of a state."""
    return list(state) if isinstance(state, tuple) else [state]
