"""The options `reverse` and `out` of the sequence functions on arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from fastiter import ssm
from tests.ssm.reverse_calls import ROWS, Reversible, by_hand, calls, parts, with_resets
from tests.support.cases import assert_same_bits
from tests.support.layouts import OUTS

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
