"""elman, lstm, gru and slstm on NumPy arrays against the specification: sizes, layouts, outputs, hostile values."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastiter
from tests.rnn.calls import (
    assert_close_where_finite,
    both_dtypes,
    both_ways,
    every_cell,
    flat,
    full_and_ragged,
    options,
    run,
    some_lengths,
    specified,
)
from tests.support.cases import GATES, STATES, Array, RnnInputs, assert_close, assert_same_bits, nans, rnn_inputs
from tests.support.layouts import LAYOUTS, OUTS, swapped
from tests.support.pairs import pairs

# Sizes around every edge of the tiles: rows of 3, 6 and 12, vectors of 2, 4, 8 and 16 units, panels of 4 vectors.
BATCHES = (0, 1, 2, 3, 5, 6, 7, 13, 16)
TIMES = (0, 1, 2, 9)
HEADS = (1, 2, 3)
WIDTHS = (1, 2, 5, 15, 16, 17, 33, 64, 65, 130)


def sizes() -> list[tuple[int, int, int, int]]:
    """Return (B, T, N, D) that combine every two values of two sizes."""
    return [
        (B, TIMES[(i + j) % len(TIMES)], HEADS[(i + 2 * j) % len(HEADS)], D)
        for (i, B), (j, D) in itertools.product(enumerate(BATCHES), enumerate(WIDTHS))
    ]


def test_every_pair_of_sizes_occurs() -> None:
    for i, j in itertools.combinations(range(4), 2):
        values = (BATCHES, TIMES, HEADS, WIDTHS)
        assert {(s[i], s[j]) for s in sizes()} == set(itertools.product(values[i], values[j]))


@pairs
@full_and_ragged
@both_ways
@both_dtypes
@every_cell
def test_sizes(cell: str, activation: str, dtype: Any, reverse: bool, ragged: bool) -> None:
    for B, T, N, D in sizes():
        inputs = rnn_inputs(cell, B, T, N, D, dtype)
        how = {"reverse": reverse, "lengths": some_lengths(B, T) if ragged else None}
        assert_close(run(cell, activation, inputs, **how), specified(cell, activation, inputs, **how), T, D)


@every_cell
def test_long_sequence(cell: str, activation: str) -> None:
    B, T, N, D = 3, 300, 2, 17
    inputs = rnn_inputs(cell, B, T, N, D, np.float32)
    how = {"lengths": (300, 1, 299)}
    assert_close(run(cell, activation, inputs, **how), specified(cell, activation, inputs, **how), T, D)


@both_ways
@every_cell
def test_a_missing_bias_or_state_equals_zeros(cell: str, activation: str, reverse: bool) -> None:
    wx, r, b, state = rnn_inputs(cell, 3, 5, 2, 17, np.float32)
    none: Any = None
    zeros = RnnInputs(wx, r, np.zeros_like(b), tuple(np.zeros_like(s) for s in state))
    expected = run(cell, activation, zeros, reverse=reverse)
    assert_same_bits(run(cell, activation, zeros._replace(b=none), reverse=reverse), expected)
    assert_same_bits(run(cell, activation, zeros._replace(state=none), reverse=reverse), expected)


@every_cell
def test_results(cell: str, activation: str) -> None:
    inputs = rnn_inputs(cell, 2, 3, 2, 5, np.float32)
    h, last, states = run(cell, activation, inputs)
    assert len(last) == len(states) == len(STATES[cell])
    assert all(x.dtype == np.float32 for x in (h, *last, *states))
    assert_same_bits(states[0], h)
    assert_same_bits(tuple(s[:, -1] for s in states), last)
    assert_same_bits(getattr(fastiter, cell)(*inputs, **options(activation)), (h, last))
    assert_same_bits(getattr(fastiter, cell)(*inputs, **options(activation, backend="cpu")), (h, last))


@full_and_ragged
@both_ways
@every_cell
def test_backend_reference_is_the_specification(cell: str, activation: str, reverse: bool, ragged: bool) -> None:
    inputs = rnn_inputs(cell, 4, 3, 2, 5, np.float64)
    how = {"reverse": reverse, "lengths": some_lengths(4, 3) if ragged else None}
    expected = specified(cell, activation, inputs, **how)
    out = nans(expected[0].shape, np.float64)
    actual = run(cell, activation, inputs, backend="reference", out=out, **how)
    assert_same_bits(actual, expected)
    assert actual[0] is out


@pytest.mark.parametrize("make", [list, tuple, np.array, lambda x: np.array(x, np.uint8), lambda x: np.array(x)[::1]])
def test_lengths_of_any_integer_type(make: Callable[[list[int]], Any]) -> None:
    inputs = rnn_inputs("gru", 3, 4, 1, 5, np.float64)
    assert_same_bits(run("gru", "", inputs, lengths=make([4, 0, 2])), run("gru", "", inputs, lengths=[4, 0, 2]))


# --- layouts ---------------------------------------------------------------------------------------------------------


def places(cell: str) -> list[str]:
    return ["wx", "r", "b", *STATES[cell]]


def replaced(inputs: RnnInputs, cell: str, place: str, change: Callable[[Array], Array]) -> RnnInputs:
    if place in inputs._fields:
        return inputs._replace(**{place: change(getattr(inputs, place))})
    state = dict(zip(STATES[cell], inputs.state, strict=True))
    return inputs._replace(state=tuple(change(s) if name == place else s for name, s in state.items()))


@pytest.mark.parametrize("layout", LAYOUTS)
@every_cell
def test_any_layout_of_any_input(cell: str, activation: str, layout: str) -> None:
    for place, D in itertools.product(places(cell), (17, 1)):
        inputs = rnn_inputs(cell, 3, 5, 2, D, np.float32)
        viewed = replaced(inputs, cell, place, LAYOUTS[layout])
        plain = replaced(viewed, cell, place, lambda x: np.array(x, order="C"))
        assert_same_bits(run(cell, activation, viewed), run(cell, activation, plain), f"{place}, D {D}")


@pytest.mark.parametrize("layout", LAYOUTS)
@every_cell
def test_inputs_are_not_written(cell: str, activation: str, layout: str) -> None:
    inputs = rnn_inputs(cell, 3, 4, 2, 5, np.float64)
    for place in places(cell):
        inputs = replaced(inputs, cell, place, LAYOUTS[layout])
    before = [x.copy() for x in (*inputs[:3], *inputs.state)]
    h, last, states = run(cell, activation, inputs, lengths=[4, 0, 3])
    for x, copy in zip((*inputs[:3], *inputs.state), before, strict=True):
        assert_same_bits(x, copy)
        assert not any(np.may_share_memory(x, y) for y in (h, *last, *states))


@every_cell
def test_time_major_in_is_time_major_out_without_a_copy(cell: str, activation: str) -> None:
    wx, r, b, state = rnn_inputs(cell, 3, 4, 2, 5, np.float32)
    h, _, states = run(cell, activation, RnnInputs(swapped(wx, 0, 1), r, b, state))
    assert all(x.swapaxes(0, 1).flags.c_contiguous for x in (h, *states))
    h, _, states = run(cell, activation, RnnInputs(wx, r, b, state))
    assert all(x.flags.c_contiguous for x in (h, *states))


# --- outputs ---------------------------------------------------------------------------------------------------------


@pairs
@both_ways
@pytest.mark.parametrize("layout", OUTS)
@every_cell
def test_out(cell: str, activation: str, layout: str, reverse: bool) -> None:
    for (B, T, N, D), dtype in itertools.product([(3, 5, 2, 17), (2, 2, 1, 1)], (np.float32, np.float64)):
        inputs, how = rnn_inputs(cell, B, T, N, D, dtype), {"reverse": reverse, "lengths": some_lengths(B, T)}
        out, memory = OUTS[layout]((B, T, N, D), dtype)
        expected = run(cell, activation, inputs, **how)
        actual = run(cell, activation, inputs, out=out, **how)
        assert actual[0] is out
        assert actual[2][0] is out
        assert_same_bits(actual, expected)
        out[...] = np.nan
        assert np.isnan(memory).all(), "written outside of out"
        assert getattr(fastiter, cell)(*inputs, **options(activation, out=out, **how))[0] is out
        assert_same_bits(out, expected[0])


@pytest.mark.parametrize("shape", [(0, 3, 2, 5), (3, 0, 2, 5), (0, 0, 1, 1)])
def test_empty_out(shape: tuple[int, int, int, int]) -> None:
    inputs = rnn_inputs("lstm", *shape, np.float32)
    out = nans(shape, np.float32)
    h, last, _ = run("lstm", "", inputs, out=out)
    assert h is out
    assert_same_bits(last, inputs.state)


@both_ways
@every_cell
def test_every_element_is_written_and_padding_is_zero(
    cell: str, activation: str, reverse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, filled = np.empty, []

    def nan_filled(shape: Any, dtype: Any = float, **more: Any) -> Array:
        filled.append(shape)
        y = empty(shape, dtype, **more)
        y.fill(np.nan)
        return y

    for B, T, N, D in ((3, 5, 2, 17), (7, 2, 1, 33), (2, 0, 1, 3), (1, 4, 3, 1)):
        for lengths in (None, some_lengths(B, T), [0] * B):
            inputs = rnn_inputs(cell, B, T, N, D, np.float32)
            expected = run(cell, activation, inputs, reverse=reverse, lengths=lengths)
            with monkeypatch.context() as patch:
                patch.setattr(np, "empty", nan_filled)
                actual = run(cell, activation, inputs, reverse=reverse, lengths=lengths)
            assert_same_bits(actual, expected)
            for row, length in enumerate(lengths or ()):
                for s in actual[2]:
                    assert_same_bits(s[row, length:], np.zeros_like(s[row, length:]))
    assert filled


def test_large_results_are_arrays_like_any_others() -> None:
    """Results of 1 MB or more reuse the memory of results that are no longer referenced."""
    inputs = rnn_inputs("lstm", 16, 70, 4, 64, np.float32)
    scaled = [inputs._replace(wx=inputs.wx * np.float32(k)) for k in range(4)]
    kept = [run("lstm", "", x)[2] for x in scaled]
    for x, states in zip(scaled, kept, strict=True):
        assert_same_bits(run("lstm", "", x)[2], states)
        assert all(s.flags.writeable and s.flags.aligned and s.nbytes > 1 << 20 for s in states)
    expected, view = kept[1][0].copy(), kept[1][0][1:, ::2]
    del kept, states
    for x in scaled:
        run("lstm", "", x)
    assert_same_bits(view, expected[1:, ::2])
    view += 1
    assert_same_bits(view, expected[1:, ::2] + np.float32(1))


# --- hostile values --------------------------------------------------------------------------------------------------


@pairs
@both_ways
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "-inf"])
@every_cell
def test_a_poisoned_sequence_does_not_touch_the_others(
    cell: str, activation: str, poison: float, reverse: bool
) -> None:
    B, T, N, D, row, head = 7, 6, 2, 17, 3, 1
    for lengths in (None, (6, 2, 6, 5, 0, 3, 6)):
        clean = rnn_inputs(cell, B, T, N, D, np.float32)
        expected = run(cell, activation, clean, reverse=reverse, lengths=lengths)
        for place, index in (("wx", (row, 2, 0, head, 4)), ("h", (row, head, 0))):
            poisoned = replaced(clean, cell, place, np.array)
            (poisoned.wx if place == "wx" else poisoned.state[0])[index] = poison
            actual = run(cell, activation, poisoned, reverse=reverse, lengths=lengths)
            for a, e in zip(flat(actual), flat(expected), strict=True):
                assert_same_bits(np.delete(a, row, 0), np.delete(e, row, 0))
                assert_same_bits(a[row, ..., 1 - head, :], e[row, ..., 1 - head, :])
            with np.errstate(invalid="ignore"):
                specification = specified(cell, activation, poisoned, reverse=reverse, lengths=lengths)
            assert_close_where_finite(actual[0], specification[0], T, D)


@both_ways
@every_cell
def test_padding_is_not_read(cell: str, activation: str, reverse: bool) -> None:
    T, lengths = 5, (3, 0, 5)
    clean = rnn_inputs(cell, 3, T, 2, 5, np.float64)
    poisoned = replaced(clean, cell, "wx", np.array)
    for row, length in enumerate(lengths):
        poisoned.wx[row, length:] = np.nan
    expected = run(cell, activation, clean, reverse=reverse, lengths=lengths)
    assert_same_bits(run(cell, activation, poisoned, reverse=reverse, lengths=lengths), expected)


@both_dtypes
@every_cell
def test_saturated_gates(cell: str, activation: str, dtype: Any) -> None:
    B, T, D = 5, 4, 17
    clean = rnn_inputs(cell, B, T, 2, D, dtype)
    for g, value in itertools.product(range(GATES[cell]), (-1e4, -200.0, 200.0, 1e4)):
        inputs = replaced(clean, cell, "wx", np.array)
        inputs.wx[:, :, g] = value
        actual = run(cell, activation, inputs)
        assert all(np.isfinite(s).all() for s in actual[2])
        # sLSTM: exp of the difference of two a_i or a_f has a relative error as large as their last digit.
        scale = abs(value) if cell == "slstm" and g < 2 else None
        assert_close(actual, specified(cell, activation, inputs), T, D, scale=scale)


@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e-39, 1e-44])
@every_cell
def test_huge_and_denormal_values(cell: str, activation: str, scale: float) -> None:
    # One step only: a second would multiply huge by huge and overflow to inf - inf in any order of summation.
    B, N, D = 5, 2, 17
    clean = rnn_inputs(cell, B, 1, N, D, np.float32)
    for place in places(cell):
        inputs = replaced(clean, cell, place, lambda x: x * np.float32(scale))
        assert_close_where_finite(run(cell, activation, inputs), specified(cell, activation, inputs), 1, D)


@pytest.mark.parametrize("cell", ["elman", "lstm", "gru"])
def test_denormal_results_are_not_flushed(cell: str) -> None:
    T, D = 4, 5
    wx, r, _, state = rnn_inputs(cell, 3, T, 1, D, np.float32)
    none: Any = None
    tiny = RnnInputs(wx * np.float32(1e-40), r, none, tuple(s * np.float32(1e-40) for s in state))
    activation = "tanh" if cell == "elman" else ""
    actual = run(cell, activation, tiny)
    assert np.abs(actual[0]).max() > 0
    assert_close_where_finite(actual, specified(cell, activation, tiny), T, D)
