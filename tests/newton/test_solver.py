"""Newton's method over time: the result is the loop's for any weights; the info; options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.newton.calls import ParaInputs, every_cell, para_inputs, run
from tests.rnn.calls import both_dtypes, both_ways, full_and_ragged, some_lengths
from tests.support.cases import assert_close, assert_same_bits
from tests.support.pairs import pairs

#: The method accepts errors of 64 eps, which may then grow up to 256 times; measured, they stay below 200 eps.
WIDTH = 1024**2


def assert_is_the_loop(cell: str, inputs: ParaInputs, **options: Any) -> Any:
    expected = run(cell, inputs)
    h, last, info = run(cell, inputs, method="newton", return_info=True, **options)
    assert all(np.isfinite(x).all() for x in (h, *last))
    assert_close((h, last), expected, h.shape[1], WIDTH, scale=1)
    return info


# Cell, bound of the weights and number of steps for which Newton's method without safeguards is off by up to 1e19,
# without notice
TABLE = [
    *(("paragru", bound, 1024) for bound in (1.0, 2.0, 4.0)),
    *(("paralstm", bound, 1024) for bound in (1.0, 2.0, 4.0)),
    ("paralstm", 4.0, 64),
    *(("paraslstm", bound, 1024) for bound in (1.0, 2.0, 4.0)),
]


@pytest.mark.parametrize("window", [None, 16, 300, 5000])
@pytest.mark.parametrize(("cell", "bound", "T"), TABLE)
def test_large_weights(cell: str, bound: float, T: int, window: int | None) -> None:
    for seed in range(3):
        inputs = para_inputs(cell, 4, T, 32, np.float64, seed, bound)
        inputs = inputs._replace(state=tuple(np.zeros_like(s) for s in inputs.state))
        info = assert_is_the_loop(cell, inputs, window=window)
        assert bound > 2 or not info.fallbacks.any()


@pytest.mark.parametrize("max_steps", [1, 3, 1000])
@both_dtypes
@every_cell
def test_weights_times_100(cell: str, dtype: Any, max_steps: int) -> None:
    inputs = para_inputs(cell, 4, 300, 32, dtype, bound=100)
    info = assert_is_the_loop(cell, inputs, max_steps=max_steps)
    assert info.steps.max() <= max_steps


@pairs
@pytest.mark.parametrize("bound", [0.1, 1.0, 8.0, 100.0])
@pytest.mark.parametrize("window", [1, 7, 64, 1000])
@both_dtypes
@every_cell
def test_without_a_tolerance_it_equals_the_loop_bit_for_bit(cell: str, dtype: Any, window: int, bound: float) -> None:
    inputs = para_inputs(cell, 3, 200, 33, dtype, bound=bound)
    assert_same_bits(run(cell, inputs, method="newton", window=window, rtol=0, atol=0.0), run(cell, inputs))


@pytest.mark.parametrize("bound", [8.0, 16.0])
@both_dtypes
@pytest.mark.parametrize("cell", ["paragru", "paralstm"])
def test_rows_in_which_errors_grow_are_run_by_the_loop(cell: str, dtype: Any, bound: float) -> None:
    """A tolerance does not bound states in which errors keep growing; other states may be off by 256 tolerances."""
    for window in (16, 64, 1000):
        inputs = para_inputs(cell, 4, 1000, 64, dtype, bound=bound)
        h, _, info = run(cell, inputs, method="newton", return_info=True, window=window)
        expected, _ = run(cell, inputs)
        assert (np.abs(h - expected) <= 256 * 64 * np.finfo(dtype).eps * (1 + np.abs(expected))).all()
        assert (info.fallbacks == -(-1000 // window)).all()


@full_and_ragged
@both_ways
@every_cell
def test_directions_and_lengths(cell: str, reverse: bool, ragged: bool) -> None:
    T = 150
    inputs = para_inputs(cell, 6, T, 70, np.float64, bound=2)
    how = {"reverse": reverse, "lengths": some_lengths(6, T) if ragged else None}
    h, last = run(cell, inputs, method="newton", **how)
    assert_close((h, last), run(cell, inputs, **how), T, WIDTH)


# --- info ------------------------------------------------------------------------------------------------------------


@every_cell
def test_passes_are_counted_for_each_row(cell: str) -> None:
    inputs = para_inputs(cell, 4, 100, 20, np.float64)
    *_, info = run(cell, inputs, method="newton", return_info=True, lengths=[100, 1, 0, 3], window=50)
    assert info.method == "newton"
    assert info.steps.shape == info.fallbacks.shape == (4,)
    assert 3 < info.steps[0] < 20
    assert info.steps[1:].tolist() == [1, 0, 3] or info.steps[1:].tolist() == [1, 0, 2]
    assert not info.fallbacks.any()


@every_cell
def test_a_window_of_w_steps_takes_at_most_w_passes(cell: str) -> None:
    inputs = para_inputs(cell, 2, 40, 20, np.float64, bound=100)
    for window in (1, 2, 5, 8):
        *_, info = run(cell, inputs, method="newton", return_info=True, window=window, rtol=0, atol=0, max_steps=window)
        assert info.steps.max() <= window


@every_cell
def test_abandoned_windows_are_counted(cell: str) -> None:
    inputs = para_inputs(cell, 3, 100, 20, np.float64)
    h, last, info = run(cell, inputs, method="newton", return_info=True, window=30, max_steps=1)
    assert info.steps.tolist() == [1, 1, 1]
    assert info.fallbacks.tolist() == [4, 4, 4]
    assert_close((h, last), run(cell, inputs), 100)


@every_cell
def test_only_the_nonfinite_row_is_abandoned(cell: str) -> None:
    inputs = para_inputs(cell, 3, 100, 8, np.float64)  # units that every instruction set solves together
    inputs.wx[1, 50, 0, 3] = np.nan
    h, last, info = run(cell, inputs, method="newton", return_info=True, window=25)
    assert (info.fallbacks > 0).tolist() == [False, True, False]
    expected = run(cell, inputs)
    for x, e in zip((h, *last), (expected[0], *expected[1]), strict=True):
        np.testing.assert_array_equal(x[1], e[1])  # the sign of a NaN has no meaning


def test_a_loose_tolerance_takes_fewer_passes() -> None:
    inputs = para_inputs("paragru", 3, 500, 20, np.float64, bound=2)
    steps = [
        run("paragru", inputs, method="newton", return_info=True, rtol=t, atol=t)[2].steps.max()
        for t in (1e-1, 1e-4, 1e-14)
    ]
    assert steps[0] < steps[1] < steps[2]


@every_cell
def test_options_may_be_numpy_numbers(cell: str) -> None:
    inputs = para_inputs(cell, 2, 30, 5, np.float32)
    expected = run(cell, inputs, method="newton", window=7, max_steps=9, rtol=1e-4, atol=1e-5)
    options = {"window": np.int32(7), "max_steps": np.uint8(9), "rtol": np.float64(1e-4), "atol": np.float64(1e-5)}
    assert_same_bits(run(cell, inputs, method="newton", **options), expected)
    assert_same_bits(
        run(cell, inputs, method="newton", window=2**31 - 1), run(cell, inputs, method="newton", window=30)
    )
