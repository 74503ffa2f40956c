"""The options `reverse` and `out` of the sequence functions on arrays; their calls, with steps reversed by hand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from numpy.lib.stride_tricks import as_strided

from fastiter import ssm
from tests.ssm.attention_calls import attention_inputs
from tests.ssm.calls import scan_inputs
from tests.ssm.conv_calls import channels_last, conv_inputs
from tests.ssm.mlstm_calls import mlstm_inputs
from tests.support.cases import Array, assert_same_bits
from tests.support.layouts import OUTS
from tests.support.pairs import pairs

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


every_rows = pytest.mark.parametrize("rows", ROWS)


def run(call: Reversible, **options: Any) -> tuple[Any, list[Any]]:
    out, last = getattr(ssm, call.name)(**call.given, **call.options, **options)
    return out, parts(last)


@every_rows
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16], ids=["f32", "f64", "f16"])
def test_reversed_steps_have_the_bits_of_reversed_arguments(rows: str, dtype: Any) -> None:
    for call in calls(rows, np.float64 if dtype == np.float64 else np.float32):
        if dtype == np.float16:
            call.given[call.like] = call.given[call.like].astype(dtype)
            if call.name == "causal_conv1d":
                call.given["state"] = call.given["state"].astype(dtype)
        cut = with_resets(call, rows)
        expected, states = by_hand(getattr(ssm, call.name), call, cut)
        out, last = run(call, reverse=True, **cut)
        assert_same_bits(call.steps(out), expected, call.name)
        for found, state in zip(last, states, strict=True):
            assert_same_bits(found, state, f"last state of {call.name}")


@pairs
@every_rows
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("layout", OUTS)
def test_out_has_the_bits_of_a_new_array(rows: str, reverse: bool, layout: str) -> None:
    for call in calls(rows):
        cut = {**with_resets(call, rows), "reverse": reverse}
        expected, states = run(call, **cut)
        out, memory = OUTS[layout](expected.shape, np.float32)
        found, last = run(call, **cut, out=out)
        assert found is out
        assert_same_bits(out, expected, call.name)
        assert_same_bits(np.concatenate([x.ravel() for x in last]), np.concatenate([x.ravel() for x in states]))
        out[...] = np.nan
        assert np.isnan(memory).all(), "written outside of out"


@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["f32", "f16"])
def test_out_of_the_specification_and_of_sixteen_bits(dtype: Any) -> None:
    for call in calls("lengths"):
        call.given[call.like] = call.given[call.like].astype(dtype)
        if call.name == "causal_conv1d":
            call.given["state"] = call.given["state"].astype(dtype)
        for options in ({}, {"backend": "reference", "reverse": True}):
            expected, _ = run(call, **ROWS["lengths"], **options)
            out = np.full(expected.shape, np.nan, dtype)
            assert run(call, **ROWS["lengths"], **options, out=out)[0] is out
            assert_same_bits(out, expected, call.name)


def test_a_convolution_with_labels_in_reverse() -> None:
    call = list(calls("whole rows"))[-1]
    labels = np.sort(np.random.default_rng(0).integers(0, 4, (3, 37)), 1)
    given = {"x": call.given["x"], "weight": call.given["weight"], "seq_idx": labels}
    turned = {**given, "x": given["x"][..., ::-1].copy(), "seq_idx": labels[:, ::-1].copy()}
    assert_same_bits(ssm.causal_conv1d(**given, reverse=True), ssm.causal_conv1d(**turned)[..., ::-1])


def test_refused_outputs_and_directions() -> None:
    for call in calls("whole rows"):
        function, like = getattr(ssm, call.name), call.given[call.like]
        given, name = {**call.given, **call.options}, f"^{call.name}: "
        with pytest.raises(TypeError, match=f"{name}reverse must be a bool, got int"):
            function(**given, reverse=1)
        with pytest.raises(ValueError, match=f"{name}out must not share memory with the inputs, got the memory of"):
            function(**given, out=like[::-1])
        with pytest.raises(ValueError, match=f"{name}out must have shape"):
            function(**given, out=np.empty((*like.shape[:-1], like.shape[-1] + 1), like.dtype))
        with pytest.raises(TypeError, match=f"{name}out must have dtype float32 like {call.like}, got float64"):
            function(**given, out=np.empty(like.shape))
        with pytest.raises(ValueError, match=f"{name}out must have one place for each element"):
            function(**given, out=as_strided(np.empty(1, like.dtype), like.shape, (0,) * like.ndim))
