"""The diagonal cells on NumPy arrays against the specification: sizes, layouts, outputs, hostile values."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import fastiter
from tests.newton.calls import GATES, STATES, ParaInputs, every_cell, para_inputs, places, replaced, run, specified
from tests.rnn.calls import assert_close_where_finite, both_dtypes, both_ways, full_and_ragged, some_lengths
from tests.support.cases import Array, assert_close, assert_same_bits, nans
from tests.support.layouts import LAYOUTS, OUTS, swapped
from tests.support.pairs import pairs

# Sizes around every edge: 1, 2, 3, 4 interleaved lines, vectors of 2 to 16 units, turns of 8 steps, groups of 64 lines.
BATCHES = (0, 1, 2, 3, 5, 16)
TIMES = (0, 1, 2, 7, 8, 17)
WIDTHS = (0, 1, 2, 15, 16, 17, 33, 64, 65, 130)


def assert_states_close(actual: Any, expected: Any, T: int, method: str) -> None:
    """Compare with a scale of at least 1: states are sums of terms near 1, which cancel when few.

    Newton's method accepts an error of 64 eps.
    """
    for a, e in zip((actual[0], *actual[1]), (expected[0], *expected[1]), strict=True):
        scale = max(1.0, float(np.max(abs(e), initial=0)))
        assert_close(a, e, T, 64**2 if method == "newton" else 1, scale=scale)


both_methods = pytest.mark.parametrize("method", ["sequential", "newton"])


def sizes() -> list[tuple[int, int, int]]:
    """Return (B, T, D) that combine every two values of two sizes."""
    every = [
        (B, TIMES[(i + j) % len(TIMES)], D) for (i, B), (j, D) in itertools.product(*map(enumerate, (BATCHES, WIDTHS)))
    ]
    return [*every, *itertools.product((3,), TIMES, WIDTHS[1:]), (2, 9, 1100)]


@pairs
@both_methods
@full_and_ragged
@both_ways
@both_dtypes
@every_cell
def test_sizes(cell: str, dtype: Any, reverse: bool, ragged: bool, method: str) -> None:
    for B, T, D in sizes() if method == "sequential" else sizes()[::3]:
        inputs = para_inputs(cell, B, T, D, dtype)
        how = {"reverse": reverse, "lengths": some_lengths(B, T) if ragged else None}
        expected = specified(cell, inputs, **how)
        if method == "newton":
            how |= {"method": method, "window": 5}
        assert_states_close(run(cell, inputs, **how), expected, T, method)


@both_methods
@every_cell
def test_long_sequence(cell: str, method: str) -> None:
    B, T, D = 3, 700, 17
    inputs, lengths = para_inputs(cell, B, T, D, np.float32), (700, 1, 699)
    assert_close(run(cell, inputs, lengths=lengths, method=method), specified(cell, inputs, lengths=lengths), T)


@both_ways
@every_cell
def test_a_missing_state_equals_zeros(cell: str, reverse: bool) -> None:
    inputs = para_inputs(cell, 3, 5, 17, np.float32)
    zeros = inputs._replace(state=tuple(np.zeros_like(s) for s in inputs.state))
    actual = getattr(fastiter, cell)(inputs.wx, *inputs.weights(), reverse=reverse)
    assert_same_bits(actual, run(cell, zeros, reverse=reverse))


def test_a_state_of_one_part_is_that_part_or_a_tuple() -> None:
    inputs = para_inputs("paragru", 3, 5, 17, np.float32)
    h, last = run("paragru", inputs)
    assert isinstance(last, tuple)
    assert_same_bits(fastiter.paragru(inputs.wx, inputs.a, inputs.state), (h, last))
    assert_same_bits(fastiter.paragru(inputs.wx, inputs.a, last), fastiter.paragru(inputs.wx, inputs.a, last[0]))


@every_cell
def test_results(cell: str) -> None:
    inputs = para_inputs(cell, 2, 3, 5, np.float32)
    h, last = run(cell, inputs)
    assert len(last) == len(STATES[cell])
    assert all(x.dtype == np.float32 for x in (h, *last))
    assert_same_bits(h[:, -1], last[0])
    for how in ({"method": "sequential"}, {"backend": "cpu"}, {"method": "auto", "window": 3}):
        assert_same_bits(run(cell, inputs, **how), (h, last))
    *_, info = run(cell, inputs, return_info=True)
    assert (info.method, info.steps, info.fallbacks) == ("sequential", None, None)


@full_and_ragged
@both_ways
@every_cell
def test_backend_reference_is_the_specification(cell: str, reverse: bool, ragged: bool) -> None:
    inputs = para_inputs(cell, 4, 3, 5, np.float64)
    how = {"reverse": reverse, "lengths": some_lengths(4, 3) if ragged else None}
    expected = specified(cell, inputs, **how)
    out = nans(expected[0].shape, np.float64)
    actual = run(cell, inputs, backend="reference", out=out, **how)
    assert_same_bits(actual, expected)
    assert actual[0] is out
    *newton, info = run(cell, inputs, backend="reference", method="newton", return_info=True, **how)
    assert_close(tuple(newton), expected, 3)
    assert info.method == "newton"
    assert info.steps.max() <= 3


# --- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@every_cell
def test_any_layout_of_any_input(cell: str, layout: str) -> None:
    for place, D, method in itertools.product(places(cell), (17, 1), ("sequential", "newton")):
        inputs = para_inputs(cell, 3, 5, D, np.float32)
        viewed = replaced(inputs, cell, place, LAYOUTS[layout])
        plain = replaced(viewed, cell, place, lambda x: np.array(x, order="C"))
        actual = run(cell, viewed, method=method)
        assert_same_bits(actual, run(cell, plain, method=method), f"{place}, D {D}")
        assert not any(np.may_share_memory(x, y) for x in viewed.state for y in (actual[0], *actual[1]))


@every_cell
def test_inputs_are_not_written(cell: str) -> None:
    inputs = para_inputs(cell, 3, 4, 5, np.float64)
    before = tuple(x.copy() for x in (*inputs[:3], *inputs.state))
    for method in ("sequential", "newton"):
        run(cell, inputs, lengths=[4, 0, 3], method=method)
        assert_same_bits((*inputs[:3], *inputs.state), before)


@every_cell
def test_time_major_in_is_time_major_out_without_a_copy(cell: str) -> None:
    for B, T, D in ((3, 4, 5), (70, 20, 3), (5, 19, 130)):
        inputs = para_inputs(cell, B, T, D, np.float32)
        h, last = run(cell, inputs)
        assert h.flags.c_contiguous
        time_major = run(cell, inputs._replace(wx=swapped(inputs.wx, 0, 1)))
        assert time_major[0].swapaxes(0, 1).flags.c_contiguous
        assert_same_bits(time_major, (h, last))


# --- outputs ---------------------------------------------------------------------------------------------------------


@pairs
@both_methods
@both_ways
@pytest.mark.parametrize("layout", OUTS)
@every_cell
def test_out(cell: str, layout: str, reverse: bool, method: str) -> None:
    for (B, T, D), dtype in itertools.product([(3, 5, 17), (2, 2, 1)], (np.float32, np.float64)):
        inputs, how = para_inputs(cell, B, T, D, dtype), {"reverse": reverse, "lengths": some_lengths(B, T)}
        out, memory = OUTS[layout]((B, T, D), dtype)
        expected = run(cell, inputs, method=method, **how)
        actual = run(cell, inputs, out=out, method=method, **how)
        assert actual[0] is out
        assert_same_bits(actual, expected)
        out[...] = np.nan
        assert np.isnan(memory).all(), "written outside of out"


@both_methods
@both_ways
@every_cell
def test_every_element_is_written_and_padding_is_zero(
    cell: str, reverse: bool, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, filled = np.empty, []

    def nan_filled(shape: Any, dtype: Any = float, **more: Any) -> Array:
        filled.append(shape)
        y = empty(shape, dtype, **more)
        y.fill(np.nan)
        return y

    for B, T, D in ((3, 5, 17), (7, 2, 33), (2, 0, 3), (1, 4, 1)):
        for lengths in (None, some_lengths(B, T), [0] * B):
            inputs = para_inputs(cell, B, T, D, np.float32)
            expected = run(cell, inputs, reverse=reverse, lengths=lengths, method=method)
            with monkeypatch.context() as patch:
                patch.setattr(np, "empty", nan_filled)
                h, last = run(cell, inputs, reverse=reverse, lengths=lengths, method=method)
            assert_same_bits((h, last), expected)
            for row, length in enumerate(lengths or ()):
                assert_same_bits(h[row, length:], np.zeros_like(h[row, length:]))
    assert filled


# --- hostile values --------------------------------------------------------------------------------------------------


@pairs
@both_methods
@both_ways
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "-inf"])
@every_cell
def test_a_poisoned_sequence_does_not_touch_the_others(cell: str, poison: float, reverse: bool, method: str) -> None:
    B, T, D, row = 7, 6, 17, 3
    for lengths in (None, (6, 2, 6, 5, 0, 3, 6)):
        clean, how = para_inputs(cell, B, T, D, np.float32), {"reverse": reverse, "lengths": lengths, "method": method}
        expected = run(cell, clean, **how)
        for place, index in (("wx", (row, 2, 0, 4)), ("h", (row, 0))):
            poisoned = replaced(clean, cell, place, np.array)
            (poisoned.wx if place == "wx" else poisoned.state[0])[index] = poison
            h, last = run(cell, poisoned, **how)
            for a, e in zip((h, *last), (expected[0], *expected[1]), strict=True):
                assert_same_bits(np.delete(a, row, 0), np.delete(e, row, 0))
            with np.errstate(invalid="ignore"):
                specification = specified(cell, poisoned, reverse=reverse, lengths=lengths)
            assert_close_where_finite((h, *last), (specification[0], *specification[1]), T, 1)


@both_methods
@both_ways
@every_cell
def test_padding_is_not_read(cell: str, reverse: bool, method: str) -> None:
    T, lengths = 5, (3, 0, 5)
    clean = para_inputs(cell, 3, T, 5, np.float64)
    poisoned = replaced(clean, cell, "wx", np.array)
    for row, length in enumerate(lengths):
        poisoned.wx[row, length:] = np.nan
    how = {"reverse": reverse, "lengths": lengths, "method": method}
    assert_same_bits(run(cell, poisoned, **how), run(cell, clean, **how))


@both_methods
@both_dtypes
@every_cell
def test_saturated_gates(cell: str, dtype: Any, method: str) -> None:
    B, T, D = 5, 4, 17
    clean = para_inputs(cell, B, T, D, dtype)
    for g, value in itertools.product(range(GATES[cell]), (-1e4, -200.0, 200.0, 1e4)):
        inputs = replaced(clean, cell, "wx", np.array)
        inputs.wx[:, :, g] = value
        actual = run(cell, inputs, method=method)
        assert all(np.isfinite(s).all() for s in (actual[0], *actual[1]))
        # sLSTM: exp of the difference of two a_i or a_f is off by as much as their last digit. So is each e^-200.
        scale = abs(value) if cell == "paraslstm" and g < 2 else None
        assert_close(actual, specified(cell, inputs), T, 200**2 if value == -200 else 1, scale=scale)


@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e-39, 1e-44])
@every_cell
def test_huge_and_denormal_values(cell: str, scale: float) -> None:
    # One step only: a second would multiply huge by huge and overflow to inf - inf in any order of summation.
    B, D = 5, 17
    clean = para_inputs(cell, B, 1, D, np.float32)
    for place, method in itertools.product(places(cell), ("sequential", "newton")):
        inputs = replaced(clean, cell, place, lambda x: x * np.float32(scale))
        h, last = run(cell, inputs, method=method)
        specification = specified(cell, inputs)
        assert_close_where_finite((h, *last), (specification[0], *specification[1]), 1, D)


# --- equal bits ------------------------------------------------------------------------------------------------------


@pairs
@full_and_ragged
@both_ways
@both_dtypes
@every_cell
def test_the_state_continues_a_sequence(cell: str, dtype: Any, reverse: bool, ragged: bool) -> None:
    B, T = 7, 10
    for D, split in itertools.product((5, 70), range(T + 1)):
        inputs = para_inputs(cell, B, T, D, dtype)
        lengths = np.array(some_lengths(B, T)) if ragged else None
        whole = run(cell, inputs, reverse=reverse, lengths=lengths)
        state, pieces = inputs.state, []
        for start, stop in ((split, T), (0, split)) if reverse else ((0, split), (split, T)):
            piece = inputs._replace(wx=inputs.wx[:, start:stop], state=state)
            left = None if lengths is None else np.clip(lengths - start, 0, stop - start)
            h, state = run(cell, piece, reverse=reverse, lengths=left)
            pieces.insert(0 if reverse else 1, h)
        assert_same_bits((np.concatenate(pieces, axis=1), state), whole)


@every_cell
def test_step_by_step_equals_all_at_once(cell: str) -> None:
    T = 20
    inputs = para_inputs(cell, 3, T, 33, np.float32)
    whole, state = run(cell, inputs), inputs.state
    for t in range(T):
        h, state = run(cell, inputs._replace(wx=inputs.wx[:, t : t + 1], state=state))
        assert_same_bits(h[:, 0], whole[0][:, t])
    assert_same_bits(state, whole[1])


@pairs
@both_methods
@full_and_ragged
@both_dtypes
@every_cell
def test_a_row_alone_equals_that_row_of_a_batch(cell: str, dtype: Any, ragged: bool, method: str) -> None:
    B, T = 16, 12
    for D, reverse in ((33, False), (130, True), (3, False)):
        wx, a, p, state = para_inputs(cell, B, T, D, dtype)
        lengths = some_lengths(B, T) if ragged else None
        h, last = run(cell, ParaInputs(wx, a, p, state), reverse=reverse, lengths=lengths, method=method)
        for row in range(B):
            one = slice(row, row + 1)
            alone = ParaInputs(wx[one], a, p, tuple(s[one] for s in state))
            how = {"reverse": reverse, "lengths": None if lengths is None else lengths[one], "method": method}
            assert_same_bits(run(cell, alone, **how), (h[one], tuple(s[one] for s in last)))


# Large enough that every thread gets a share: units of one row, rows, a few of both.
SHARED_SIZES = [(1, 170, 256), (16, 45, 64), (13, 100, 33), (2, 170, 130), (64, 220, 3)]


@pairs
@both_methods
@full_and_ragged
@both_ways
@both_dtypes
@every_cell
def test_any_number_of_threads(cell: str, dtype: Any, reverse: bool, ragged: bool, method: str) -> None:
    for B, T, D in SHARED_SIZES:
        inputs = para_inputs(cell, B, T, D, dtype)
        how = {"reverse": reverse, "lengths": some_lengths(B, T) if ragged else None, "method": method}
        fastiter.set_num_threads(1)
        expected = run(cell, inputs, **how)
        for threads in (2, 5):
            fastiter.set_num_threads(threads)
            assert_same_bits(run(cell, inputs, **how), expected, f"{(B, T, D)}, {threads} threads")
