"""delta_scan on NumPy arrays against the specification: sizes, rows, layouts, threads, hostile values."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastiter
from tests.delta.calls import (
    DECAYS,
    METHODS,
    DeltaInputs,
    delta_inputs,
    every_method,
    run,
    some_bounds,
    some_resets,
    specified,
    with_and_without_decay,
)
from tests.rnn.calls import assert_close_where_finite, both_dtypes, some_lengths
from tests.rnn.test_arrays import LAYOUTS, OUTS
from tests.support.cases import assert_close, assert_same_bits, nans
from tests.support.pairs import pairs

# Sizes around every edge: vectors of 2, 4, 8 and 16, blocks of 4 vectors and of 64 columns, tiles of 3 and 6 lines.
BATCHES = (1, 2, 0, 3)
TIMES = (5, 70, 1, 17, 0, 33)
FACTORS = (None, 1, 3, None, 20)
HEADS = (1, 2, 3)
KEYS = (1, 4, 7, 16, 33, 65)
VALUES = (1, 3, 8, 17, 33, 64, 65, 130)


def sizes() -> list[tuple[int, int, int | None, int, int, int]]:
    """Return (B, T, M, N, K, V) that combine every two values of K and V."""
    return [
        (
            BATCHES[(i + 2 * j) % len(BATCHES)],
            TIMES[(i + j) % len(TIMES)],
            FACTORS[(2 * i + j) % len(FACTORS)],
            HEADS[(i + j) % len(HEADS)],
            K,
            V,
        )
        for (i, K), (j, V) in itertools.product(enumerate(KEYS), enumerate(VALUES))
    ]


def terms(T: int, M: int | None) -> int:
    return T * (M or 1)


@pairs
@with_and_without_decay
@both_dtypes
@every_method
def test_sizes(method: Any, chunk: int, dtype: Any, gated: bool) -> None:
    for B, T, M, N, K, V in sizes():
        inputs = delta_inputs(B, T, N, K, V, dtype, M=M, gated=gated)
        actual = run(inputs, method=method, chunk=chunk)
        assert_close(actual, specified(inputs), terms(T, M), K, name=f"{(B, T, M, N, K, V)}")


ROWS: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "lengths": lambda B, T: {"lengths": some_lengths(B, T)},
    "reset": lambda B, T: {"reset": some_resets(B, T)},
    "reset for all rows": lambda B, T: {"reset": some_resets(1, T)[0]},
    "lengths and resets": lambda B, T: {"lengths": some_lengths(B, T), "reset": some_resets(B, T)},
    "first step reset": lambda B, T: {"reset": np.arange(T) == 0},
    "every step reset": lambda B, T: {"reset": np.ones((B, T), bool)},
}


@pairs
@pytest.mark.parametrize("rows", ROWS)
@with_and_without_decay
@every_method
def test_rows(method: Any, chunk: int, gated: bool, rows: str) -> None:
    for B, T, M in ((3, 70, None), (2, 9, 2), (5, 1, None), (1, 0, None)):
        inputs, how = delta_inputs(B, T, 2, 7, 33, M=M, gated=gated), ROWS[rows](B, T)
        expected = specified(inputs, **how)
        # one scale, since states of reset rows may be all zeros
        actual = run(inputs, method=method, chunk=chunk, **how)
        assert_close(actual, expected, terms(T, M), 7, scale=10.0)


@with_and_without_decay
@every_method
def test_packed_rows(method: Any, chunk: int, gated: bool) -> None:
    for T, S, M in ((150, 4, None), (90, 3, 2), (3, 5, None), (0, 2, None), (0, 0, None), (9, 1, None)):
        inputs, bounds = delta_inputs(1, T, 2, 7, 33, M=M, gated=gated, rows=S), some_bounds(S, T)
        how: dict[str, Any] = {"cu_seqlens": bounds, "reset": some_resets(1, T)}
        o, last = run(inputs, method=method, chunk=chunk, **how)
        assert_close((o, last), specified(inputs, **how), terms(T, M), 7, scale=10.0)
        for s in range(S):  # each row has equal bits when alone
            steps = slice(bounds[s], bounds[s + 1])
            cut = [None if x is None else x[:, steps] for x in inputs]
            alone = DeltaInputs(*cut)._replace(state=inputs.state[s : s + 1])
            expected = (o[:, steps], last[s : s + 1])
            assert_same_bits(run(alone, method=method, chunk=chunk, reset=how["reset"][:, steps]), expected)


@pytest.mark.parametrize("make", [list, tuple, np.array, lambda x: np.array(x, np.uint8)])
def test_lengths_and_bounds_of_any_integer_type(make: Callable[[list[int]], Any]) -> None:
    inputs = delta_inputs(3, 4, 1, 5, 3)
    assert_same_bits(run(inputs, lengths=make([4, 0, 2])), run(inputs, lengths=np.array([4, 0, 2])))
    packed = delta_inputs(1, 4, 1, 5, 3, rows=2)
    assert_same_bits(run(packed, cu_seqlens=make([0, 1, 4])), run(packed, cu_seqlens=np.array([0, 1, 4])))


@with_and_without_decay
def test_a_missing_state_equals_zeros_and_auto_is_sequential(gated: bool) -> None:
    inputs = delta_inputs(2, 9, 2, 7, 33, np.float32, gated=gated)
    expected = run(inputs, method="sequential")
    assert_same_bits(run(inputs), expected)
    none: Any = None
    zeros = inputs._replace(state=np.zeros_like(inputs.state))
    for method, chunk in METHODS:
        how: dict[str, Any] = {"method": method, "chunk": chunk}
        assert_same_bits(run(inputs._replace(state=none), **how), run(zeros, **how))


def test_backend_reference_is_the_specification() -> None:
    inputs = delta_inputs(3, 5, 2, 7, 3)
    how: dict[str, Any] = {"lengths": [5, 0, 2], "reset": some_resets(3, 5)}
    out = nans((3, 5, 2, 3), np.float64)
    actual = run(inputs, backend="reference", out=out, **how)
    assert actual[0] is out
    assert_same_bits(actual, specified(inputs, **how))


# --- the same bits ---------------------------------------------------------------------------------------------------


@with_and_without_decay
@both_dtypes
def test_the_state_continues_a_sequence(dtype: Any, gated: bool) -> None:
    T = 7
    for V, M, split in itertools.product((3, 17, 40, 64), (None, 2), (0, 1, 4, T)):
        inputs = delta_inputs(2, T, 2, 5, V, dtype, M=M, gated=gated)
        whole, state, pieces = run(inputs, method="sequential"), inputs.state, []
        for steps in (slice(0, split), slice(split, T)):
            cut = [None if x is None else x[:, steps] for x in inputs]
            o, state = run(DeltaInputs(*cut)._replace(state=state), method="sequential")
            pieces.append(o)
        assert_same_bits((np.concatenate(pieces, 1), state), whole)


@every_method
def test_a_row_and_a_head_alone_equal_those_of_many(method: Any, chunk: int) -> None:
    q, k, v, beta, h0, decay = delta_inputs(3, 20, 3, 7, 70, np.float32)
    assert decay is not None
    o, last = run(DeltaInputs(q, k, v, beta, h0, decay), method=method, chunk=chunk)
    for b, n in itertools.product(range(3), range(3)):
        row, head = slice(b, b + 1), slice(n, n + 1)
        steps = [x[row, :, head] for x in (q, k, v, beta)]
        alone = DeltaInputs(*steps, h0[row, head], decay[row, :, head])
        assert_same_bits(run(alone, method=method, chunk=chunk), (o[row, :, head], last[row, head]))


@both_dtypes
@every_method
def test_any_number_of_threads(method: Any, chunk: int, dtype: Any) -> None:
    for B, T, N, K, V in ((1, 40, 1, 33, 130), (3, 30, 2, 16, 64), (7, 9, 1, 40, 40)):
        inputs = delta_inputs(B, T, N, K, V, dtype)
        how: dict[str, Any] = {"method": method, "chunk": chunk, "lengths": some_lengths(B, T)}
        fastiter.set_num_threads(1)
        expected = run(inputs, **how)
        for threads in (2, 3, 5):
            fastiter.set_num_threads(threads)
            assert_same_bits(run(inputs, **how), expected, f"{(B, T, N, K, V)}, {threads} threads")


# --- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", ["sequential", "chunk"])
def test_any_layout_of_any_input(method: Any, layout: str) -> None:
    for (K, V), M in itertools.product(((7, 17), (1, 1)), (None, 2)):
        inputs = delta_inputs(3, 5, 2, K, V, np.float32, M=M)
        for name, x in inputs.arrays().items():
            viewed = inputs._replace(**{name: LAYOUTS[layout](x)})
            plain = inputs._replace(**{name: np.array(getattr(viewed, name), order="C")})
            assert_same_bits(run(viewed, method=method), run(plain, method=method), f"{name}, K {K}")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_are_not_written(layout: str) -> None:
    inputs = delta_inputs(3, 4, 2, 5, 6)
    inputs = inputs._replace(**{name: LAYOUTS[layout](x) for name, x in inputs.arrays().items()})
    flags = LAYOUTS[layout](some_resets(3, 4))
    before = [x.copy() for x in (*inputs.arrays().values(), flags)]
    o, last = run(inputs, lengths=[4, 0, 3], reset=flags)
    for x, copy in zip((*inputs.arrays().values(), flags), before, strict=True):
        assert_same_bits(x, copy)
        assert not np.may_share_memory(x, o) and not np.may_share_memory(x, last)
    assert_same_bits((o, last), run(inputs, lengths=[4, 0, 3], reset=before[-1]))


@pytest.mark.parametrize("layout", OUTS)
@every_method
def test_out(method: Any, chunk: int, layout: str) -> None:
    for B, T, N, K, V in ((3, 5, 2, 7, 17), (2, 2, 1, 1, 1), (0, 3, 1, 2, 2), (2, 0, 1, 2, 2)):
        how: dict[str, Any] = {"method": method, "chunk": chunk, "lengths": some_lengths(B, T)}
        inputs = delta_inputs(B, T, N, K, V, np.float32)
        out, memory = OUTS[layout]((B, T, N, V), np.float32)
        expected = run(inputs, **how)
        actual = run(inputs, out=out, **how)
        assert actual[0] is out
        assert_same_bits(actual, expected)
        out[...] = np.nan
        assert np.isnan(memory).all(), "written outside of out"


@every_method
def test_every_element_is_written(method: Any, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastiter.delta import _functional

    monkeypatch.setattr(_functional, "empty", nans)
    for B, T, N, K, V in ((3, 5, 2, 7, 17), (2, 70, 1, 5, 33), (2, 0, 1, 3, 3)):
        inputs, lengths = delta_inputs(B, T, N, K, V), some_lengths(B, T)
        o, last = run(inputs, method=method, chunk=chunk, lengths=lengths)
        assert not np.isnan(o).any() and not np.isnan(last).any()
        for row, length in enumerate(lengths):
            assert_same_bits(o[row, length:], np.zeros_like(o[row, length:]))


# --- hostile values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e38], ids=["nan", "inf", "-inf", "huge"])
@every_method
def test_a_poisoned_head_affects_neither_the_others_nor_earlier_steps(method: Any, chunk: int, poison: float) -> None:
    B, T, N, row, head, step = 3, 20, 2, 1, 1, 11
    clean = delta_inputs(B, T, N, 7, 70, np.float32)
    expected = run(clean, method=method, chunk=chunk)
    for name, x in clean.arrays().items():
        y = x.copy()
        index = (row, head, 0) if name == "state" else (row, step, head)
        y[index] = poison
        o, last = run(clean._replace(**{name: y}), method=method, chunk=chunk)
        for a, e in ((o, expected[0]), (last, expected[1])):
            assert_same_bits(np.delete(a, row, 0), np.delete(e, row, 0))
        assert_same_bits(o[row, :, 1 - head], expected[0][row, :, 1 - head])
        if name != "state":
            assert_close(o[row, :step, head], expected[0][row, :step, head], T, 7, scale=10.0)


@every_method
def test_a_reset_ends_the_effect_of_a_poisoned_step(method: Any, chunk: int) -> None:
    clean, flags = delta_inputs(2, 20, 2, 7, 33), np.arange(20) == 12
    expected = run(clean, method=method, chunk=chunk, reset=flags)
    for name, x in clean.arrays().items():
        if name == "state":
            y = np.full_like(x, np.nan)
        else:
            y = x.copy()
            y[:, 9:12] = np.nan
        if name == "decay":
            y[:, 12] = np.nan  # not read
        o, last = run(clean._replace(**{name: y}), method=method, chunk=chunk, reset=flags)
        assert_same_bits((o[:, 12:], last), (expected[0][:, 12:], expected[1]))


@every_method
def test_padding_is_not_read(method: Any, chunk: int) -> None:
    lengths = (3, 0, 5)
    clean = delta_inputs(3, 5, 2, 7, 33)
    expected = run(clean, method=method, chunk=chunk, lengths=lengths)
    changed = {}
    for name, x in clean.arrays().items():
        changed[name] = x.copy()
        for row, length in enumerate(lengths):
            if name != "state":
                changed[name][row, length:] = np.nan
    assert_same_bits(run(clean._replace(**changed), method=method, chunk=chunk, lengths=lengths), expected)


@both_dtypes
@every_method
def test_long_sequences_stay_bounded(method: Any, chunk: int, dtype: Any) -> None:
    """With ||k|| = 1 and beta in [0, 2] no factor enlarges a state, so errors do not grow either."""
    T = 4096
    inputs = delta_inputs(1, T, 1, 16, 16, np.float64, gated=False)
    inputs = inputs._replace(beta=np.where(np.arange(T) % 3 == 0, 2.0, inputs.beta[0, :, 0])[None, :, None])
    rounded = DeltaInputs(*(None if x is None else x.astype(dtype) for x in inputs))
    actual = run(rounded, method=method, chunk=chunk)
    assert all(np.isfinite(x).all() for x in actual)
    assert_close(actual, specified(rounded), T, 16)


@pytest.mark.parametrize("decays", DECAYS)
@every_method
def test_products_of_decays_beyond_the_range_do_no_harm(method: Any, chunk: int, decays: str) -> None:
    """Results equal the step-by-step ones even if a product of decays alone overflows or vanishes."""
    T = 40
    inputs = delta_inputs(2, T, 1, 5, 17, np.float32)
    g = DECAYS[decays](np.random.default_rng(0)).astype(np.float32)
    h0, v = inputs.state, inputs.v
    if decays.startswith("larger"):  # 1e300 times a state of zeros
        h0, v = np.zeros_like(h0), np.where(np.arange(T)[:, None, None] < 30, np.float32(0), v)
    inputs = inputs._replace(decay=np.broadcast_to(g[:, None], (2, T, 1)), state=h0, v=v)
    o, last = run(inputs, method=method, chunk=chunk)
    expected = specified(inputs)
    for t in range(T):  # each step at its own scale
        assert_close_where_finite(o[:, t], expected[0][:, t], T, 5)
    assert_close_where_finite(last, expected[1], T, 5)
    assert np.isfinite(expected[0]).all()


@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e-39, 1e-44])
@every_method
def test_huge_and_denormal_values(method: Any, chunk: int, scale: float) -> None:
    clean = delta_inputs(3, 6, 2, 7, 17, np.float32)
    for name in ("q", "v", "state"):  # the arguments in which o is linear
        inputs = clean._replace(**{name: getattr(clean, name) * np.float32(scale)})
        assert_close_where_finite(run(inputs, method=method, chunk=chunk), specified(inputs), 6, 7)
