"""causal_conv1d and its steps on arrays: the numbers of the specification for all sizes and layouts."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter import ssm
from fastiter.ssm import reference_conv
from tests.ssm.calls import assert_near, both_dtypes, some_bounds, some_lengths
from tests.ssm.conv_calls import SIZES, ConvInputs, channels_last, conv_inputs, some_labels, specified
from tests.support.cases import Array, assert_same_bits
from tests.support.layouts import LAYOUTS
from tests.support.pairs import pairs

in_both_orders = pytest.mark.parametrize("order", ["time", "channels"])


def run(inputs: ConvInputs, **options: Any) -> Any:
    return ssm.causal_conv1d(**inputs.arguments(), return_last_state=True, **options)


def check(inputs: ConvInputs, **options: Any) -> None:
    dtype, width = inputs.x.dtype, inputs.weight.shape[1]
    out, last = run(inputs, **options)
    expected, kept = specified(inputs, **options)
    assert out.dtype == last.dtype == dtype
    assert_near(out, expected, dtype, width, "out")
    assert_same_bits(last, kept.astype(dtype))


# ---- checks of the specification ------------------------------------------------------------------------------------


def test_the_specification_is_numpy_s_convolution() -> None:
    inputs = conv_inputs(2, 3, 20, 4)
    out, last = specified(inputs)
    for b in range(2):
        for d in range(3):
            whole = np.concatenate([inputs.state[b, d], inputs.x[b, d]])
            expected = np.convolve(whole, inputs.weight[d, ::-1], "valid") + inputs.bias[d]
            np.testing.assert_allclose(out[b, d], expected, rtol=1e-12, atol=1e-14)
            assert_same_bits(last[b, d], whole[-3:])


def test_the_specification_of_steps_continues_a_convolution() -> None:
    inputs = conv_inputs(2, 3, 9, 4)
    expected, last = specified(inputs, activation="silu")
    for kept in (3, 5):
        for ring in (False, True):
            state = np.zeros((2, 3, kept))
            state[..., kept - 3 :] = inputs.state
            outs = []
            for t in range(0, 9, 3):  # the ring begins at 0: the previous input is in its last place
                steps, seen = inputs.x[..., t : t + 3], np.full(2, t) if ring else None
                out, state = reference_conv.causal_conv1d_update(
                    steps, state, inputs.weight, inputs.bias, activation=True, cache_seqlens=seen
                )
                outs.append(out)
            np.testing.assert_allclose(np.concatenate(outs, 2), expected, rtol=1e-12, atol=1e-14)
            places = (np.arange(6, 9) % kept) if ring else slice(kept - 3, None)
            assert_same_bits(state[..., places], last)


# ---- numbers --------------------------------------------------------------------------------------------------------


@pairs
@both_dtypes
@in_both_orders
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes(size: tuple[int, int, int, int], order: str, dtype: Any) -> None:
    check(conv_inputs(*size, dtype, order=order), activation="silu")
    check(conv_inputs(*size, dtype, order=order, without=("bias", "state")))


@both_dtypes
@in_both_orders
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 20])
def test_lengths_and_packed_rows(width: int, order: str, dtype: Any) -> None:
    inputs = conv_inputs(4, 20, 70, width, dtype, order=order)
    check(inputs, lengths=some_lengths(4, 70), activation="silu")
    out, last = run(inputs, lengths=[0, 70, 1, 33])
    assert not out[0].any() and not out[3, :, 33:].any()
    assert_same_bits(last[0], inputs.state[0])
    packed = conv_inputs(1, 20, 70, width, dtype, order=order, sequences=5)
    bounds = some_bounds(5, 70)
    check(packed, cu_seqlens=bounds)
    whole, kept = run(packed, cu_seqlens=bounds)
    for s in range(5):
        here = slice(bounds[s], bounds[s + 1])
        first = packed.state[s : s + 1]
        out, last = run(packed._replace(x=packed.x[..., here], state=first))
        assert_same_bits(whole[..., here], out)
        assert_same_bits(kept[s], last[0])


def test_empty_packed_rows() -> None:
    inputs = conv_inputs(1, 3, 0, 4, sequences=2)
    out, last = run(inputs, cu_seqlens=[0, 0, 0])
    assert out.shape == (1, 3, 0)
    assert_same_bits(last, inputs.state)
    out, last = run(conv_inputs(1, 3, 0, 4, sequences=0), cu_seqlens=[0])
    assert out.shape == (1, 3, 0) and last.shape == (0, 3, 3)


@both_dtypes
@in_both_orders
@pytest.mark.parametrize("width", [1, 3, 4, 6])
def test_numbered_sequences(width: int, order: str, dtype: Any) -> None:
    inputs = conv_inputs(3, 20, 90, width, dtype, order=order, without=("state",))
    labels = some_labels(3, 90)
    out = ssm.causal_conv1d(**inputs.arguments(), seq_idx=labels, activation="swish")
    assert_near(out, specified(inputs, seq_idx=labels, activation="silu")[0], dtype, width)
    assert not out[..., -90 // 5 :].any()
    bounds = [0, 7, 8, 50, 90]
    rising = np.repeat(np.arange(4, dtype=np.int16), np.diff(bounds))
    x = inputs.x.copy()
    x[..., 7] = np.nan  # must not reach the other sequences
    out = ssm.causal_conv1d(x, *inputs[1:3], seq_idx=np.broadcast_to(rising, (3, 90)))
    for first, last in itertools.pairwise(bounds):
        alone = ssm.causal_conv1d(x[..., first:last], *inputs[1:3])
        assert_same_bits(out[..., first:last], alone)
    one = ssm.causal_conv1d(**inputs.arguments(), seq_idx=np.full((3, 90), 5))
    assert_same_bits(one, ssm.causal_conv1d(**inputs.arguments()))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    inputs = conv_inputs(3, 20, 40, 4, np.float32)
    same = ConvInputs(*[LAYOUTS[layout](np.array(y)) if y.ndim > 1 else y for y in inputs])
    dense = ConvInputs(*[np.array(y, order="C") for y in same])
    before = [np.array(y) for y in same]
    for options in ({}, {"activation": "silu", "lengths": [40, 3, 0]}):
        for a, e in zip(run(same, **options), run(dense, **options), strict=True):
            assert_same_bits(np.array(a, order="C"), e)
    for y, kept in zip(same, before, strict=True):
        assert_same_bits(np.array(y), kept)


def test_the_output_has_the_order_of_the_input() -> None:
    x = conv_inputs(2, 5, 7, 2).x
    assert ssm.causal_conv1d(x, np.ones((5, 2))).flags.c_contiguous
    assert ssm.causal_conv1d(channels_last(x), np.ones((5, 2))).transpose(0, 2, 1).flags.c_contiguous


@in_both_orders
@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_storage_types(stored: str, order: str) -> None:
    """The arithmetic is in float32: the result equals that of the widened inputs, rounded once."""
    dtype = pytest.importorskip("ml_dtypes").bfloat16 if stored == "bfloat16" else np.float16
    inputs = ConvInputs(*[y.astype(dtype) for y in conv_inputs(2, 20, 70, 4, np.float32)])
    if order == "channels":
        inputs = inputs._replace(x=channels_last(inputs.x))
    widened = ConvInputs(*[y.astype(np.float32) for y in inputs])
    for options in ({}, {"activation": "silu"}):
        out, last = run(inputs, **options)
        expected, kept = run(widened, **options)
        assert out.dtype == last.dtype == dtype
        assert_same_bits(out.astype(np.float32), expected.astype(dtype).astype(np.float32))
        assert_same_bits(last.astype(np.float32), kept)
        mixed = run(inputs._replace(weight=widened.weight), **options)[0]
        assert_same_bits(mixed.astype(np.float32), out.astype(np.float32))


@both_dtypes
@in_both_orders
def test_threads_and_pieces_have_the_same_bits(order: str, dtype: Any) -> None:
    inputs = conv_inputs(2, 150, 700, 4, dtype, order=order)
    fastiter.set_num_threads(1)
    expected = run(inputs, activation="silu")
    for threads in (2, 3):
        fastiter.set_num_threads(threads)
        assert_same_bits(run(inputs, activation="silu"), expected)
    state, pieces = inputs.state, []
    for steps in (slice(0, 1), slice(1, 3), slice(3, 70), slice(70, 700)):
        cut = inputs._replace(state=state, x=inputs.x[..., steps])
        out, state = run(cut, activation="silu")
        pieces.append(out)
    assert_same_bits((np.concatenate(pieces, -1), state), expected)


@both_dtypes
@in_both_orders
def test_nan_and_infinity_reach_the_steps_that_they_belong_to(order: str, dtype: Any) -> None:
    inputs = conv_inputs(1, 20, 100, 4, dtype, order=order)
    plain = run(inputs)[0]
    for value in (np.nan, np.inf):
        x = inputs.x.copy()
        x[0, 3, 50] = x[0, 3, 99] = value
        out = run(inputs._replace(x=x))[0]
        reached = np.zeros(out.shape, bool)
        reached[0, 3, [50, 51, 52, 53, 99]] = True
        assert_same_bits(out[~reached], plain[~reached])
        assert not np.isfinite(out[reached]).any()
    lowest = np.finfo(dtype).min
    one = np.ones((1, 1), dtype)
    values = np.array([[[0.0, -0.0, 100, -100, 1000, -1000, lowest]]], dtype)
    out = ssm.causal_conv1d(values, one, activation="silu")
    np.testing.assert_allclose(out, reference_conv.silu(values), rtol=8 * float(np.finfo(dtype).eps), atol=1e-40)


def test_the_backend_reference() -> None:
    inputs = conv_inputs(2, 4, 5, 3)
    for options in ({}, {"activation": "silu", "lengths": [5, 2]}):
        for a, e in zip(run(inputs, backend="reference", **options), specified(inputs, **options), strict=True):
            assert_same_bits(a, e)


# ---- steps ----------------------------------------------------------------------------------------------------------


#: (rows, channels, steps, taps, inputs in the state)
STEPS = [
    (1, 1, 1, 1, 0),
    (2, 37, 1, 4, 3),
    (2, 16, 1, 4, 4),
    (3, 37, 1, 4, 4),
    (3, 20, 3, 3, 5),
    (1, 5, 9, 2, 4),
    (2, 6, 2, 20, 30),
    (0, 3, 1, 2, 1),
]


@pairs
@both_dtypes
@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize(("rows", "channels", "steps", "width", "kept"), STEPS)
def test_steps(rows: int, channels: int, steps: int, width: int, kept: int, ring: bool, dtype: Any) -> None:
    inputs = conv_inputs(rows, channels, steps, width, dtype)
    seen = np.arange(rows) * 7 + 2 if ring else None
    start = np.random.default_rng(2).standard_normal((rows, channels, kept)).astype(dtype)
    for activation in (None, "silu"):
        state = start.copy()
        given = (inputs.x, state, inputs.weight, inputs.bias, activation, seen)
        wide = [y.astype(np.float64) for y in given[:4]]
        expected = reference_conv.causal_conv1d_update(*wide, activation=activation == "silu", cache_seqlens=seen)
        out = ssm.causal_conv1d_update(*given)
        assert out.dtype == dtype
        assert_near(out, expected[0], dtype, width, "out")
        assert_same_bits(state, expected[1].astype(dtype))
    if steps == 1:
        state = start.copy()
        flat = ssm.causal_conv1d_update(inputs.x[..., 0], state, *given[2:])
        assert_same_bits(flat, out[..., 0])


def test_steps_of_chosen_rows_and_of_any_layout() -> None:
    inputs, rows = conv_inputs(3, 20, 2, 4, np.float32), [4, -1, 0]
    start = np.random.default_rng(2).standard_normal((5, 20, 6)).astype(np.float32)
    every = start[[4, 1, 0]]
    expected = ssm.causal_conv1d_update(inputs.x, every, *inputs[1:3], "silu")
    for layout in ("C order", "Fortran order", "every second", "field"):
        if layout == "field":
            pool = np.zeros(start.shape, np.dtype([("byte", "u1"), ("x", "f4")]))["x"]
        elif layout == "every second":
            pool = np.zeros((10, 40, 12), np.float32)[::2, ::2, ::-2]
        else:
            pool = np.zeros(start.shape, np.float32, order="F" if layout == "Fortran order" else "C")
        pool[...] = start
        out = ssm.causal_conv1d_update(channels_last(inputs.x), pool, *inputs[1:3], "silu", conv_state_indices=rows)
        assert not out[1].any()
        assert_same_bits(out[[0, 2]], expected[[0, 2]])
        assert_same_bits(np.array(pool), np.concatenate([every[2:], start[1:4], every[:1]]))


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
def test_one_step_of_chosen_rows_as_models_call_it(stored: str) -> None:
    """A state of four numbers per channel is updated in registers, with the bits of a state that has gaps."""
    dtype = pytest.importorskip("ml_dtypes").bfloat16 if stored == "bfloat16" else np.dtype(stored)
    x, weight, bias, _ = (y.astype(dtype) for y in conv_inputs(3, 50, 1, 4, np.float32))
    start = np.random.default_rng(2).standard_normal((5, 50, 4)).astype(dtype)
    with_gaps = np.zeros((5, 50, 8), dtype)[..., ::2]
    with_gaps[...] = start
    for activation in (None, "silu"):
        more = (weight, bias, activation, None, [4, -1, 0])
        dense = np.array(with_gaps)
        outs = [ssm.causal_conv1d_update(x[..., 0], state, *more) for state in (dense, with_gaps)]
        assert not outs[0][1].astype(np.float32).any()
        assert_same_bits(outs[0].astype(np.float32), outs[1].astype(np.float32))
        assert_same_bits(dense.astype(np.float32), np.array(with_gaps).astype(np.float32))
        assert_same_bits(dense[1:4].astype(np.float32), start[1:4].astype(np.float32))


def test_a_state_of_another_dtype() -> None:
    inputs = conv_inputs(2, 20, 1, 4, np.float32)
    state = inputs.state.astype(np.float16)
    wide = state.astype(np.float32)
    out = ssm.causal_conv1d_update(inputs.x, state, *inputs[1:3])
    assert_same_bits(out, ssm.causal_conv1d_update(inputs.x, wide, *inputs[1:3]))
    assert_same_bits(state, wide.astype(np.float16))


def test_steps_continue_a_convolution_to_the_bit() -> None:
    inputs = conv_inputs(2, 20, 12, 4, np.float32)
    out, last = run(inputs, activation="silu")
    state = inputs.state.copy()
    steps = [ssm.causal_conv1d_update(inputs.x[..., t], state, *inputs[1:3], "silu") for t in range(12)]
    assert_same_bits(np.stack(steps, -1), out)
    assert_same_bits(state, last)


@pytest.mark.parametrize("state_len", [0, 1, 3, 9])
def test_the_states_of_packed_sequences(state_len: int) -> None:
    x: Array = np.random.default_rng(1).standard_normal((30, 5)).astype(np.float32)
    for bounds in ([0, 30], [0, 2, 2, 11, 30], [0, 0, 30, 30]):
        states = ssm.causal_conv1d_varlen_states(x, bounds, state_len)
        assert_same_bits(states, reference_conv.causal_conv1d_varlen_states(x, np.array(bounds), state_len))
        if state_len:
            weight = np.ones((5, state_len + 1), np.float32)
            _, last = ssm.causal_conv1d(x.T[None], weight, return_last_state=True, cu_seqlens=bounds)
            assert_same_bits(states, last)
