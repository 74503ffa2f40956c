"""linear_scan and block_scan on arrays: the bits of the loop for dense, ragged, packed and reset rows."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter.reference import scan as reference
from tests.rnn.calls import assert_runs
from tests.scan.calls import (
    BROADCASTS,
    both_kinds,
    both_ways,
    every_dtype,
    real_dtypes,
    resets,
    scan_inputs,
    some_lengths,
)
from tests.support.cases import Array, assert_same_bits
from tests.support.isas import kinds_to_compare
from tests.support.pairs import pairs

SCANS = {"linear": fastiter.linear_scan, "block": fastiter.block_scan}
SPECIFIED = {"linear": reference.linear_scan, "block": reference.block_scan}
SIZES = {"linear": [(1,), (3,), (16,), (37,), (130,), (300,)], "block": [(k % 3 + 1, k) for k in range(1, 17)]}


def loop(a: Array, x: Array, h0: Array | None = None) -> Array:
    """Compute the recurrence by a plain NumPy loop."""
    h, state = np.empty_like(x), np.zeros_like(x[:, 0]) if h0 is None else h0
    for t in range(x.shape[1]):
        state = a[:, t] * state + x[:, t]
        h[:, t] = state
    return h


def assert_equal(actual: Any, expected: Any, dtype: Any) -> None:
    """Assert equal bits for real numbers; complex ones may differ, as NumPy may round complex products differently."""
    if np.dtype(dtype).kind != "c":
        return assert_same_bits(actual, expected)
    for mine, theirs in zip(actual, expected, strict=True):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
        eps = np.finfo(mine.dtype).eps
        largest = np.abs(theirs).max(initial=0)
        assert np.abs(mine - theirs).max(initial=0) <= 8 * eps * (1 + theirs.shape[1]) * largest


# ---- checks of the specification -----------------------------------------------------------------------------------


@both_ways
def test_the_specification_in_rational_numbers(reverse: bool) -> None:
    """Powers of two and small integers are not rounded, so h is the exact sum over all products."""
    rng = np.random.default_rng(1)
    a, x = rng.integers(-2, 3, (2, 9, 3)).astype(float), rng.integers(-4, 5, (2, 9, 3)).astype(float)
    h0 = rng.integers(-3, 4, (2, 3)).astype(float)
    h, last = reference.linear_scan(a, x, h0, reverse=reverse)
    steps = range(9)[::-1] if reverse else range(9)
    for b in range(2):
        for d in range(3):
            order = list(steps)
            for n, t in enumerate(order):
                terms = [Fraction(x[b, s, d]) for s in order[: n + 1]] + [Fraction(h0[b, d])]
                factors = [order[m + 1 : n + 1] for m in range(n + 1)] + [order[: n + 1]]
                total = Fraction(0)
                for term, through in zip(terms, factors, strict=True):
                    for s in through:
                        term *= Fraction(a[b, s, d])
                    total += term
                assert Fraction(h[b, t, d]) == total
            assert last[b, d] == h[b, order[-1], d]


def test_the_specification_of_blocks_is_matrix_products() -> None:
    inputs = scan_inputs("block", 2, 7, (3, 4), np.float64)
    h, _ = reference.block_scan(*inputs)
    state = inputs.state
    for t in range(7):
        state = np.einsum("bnij,bnj->bni", inputs.a[:, t], state) + inputs.x[:, t]
        np.testing.assert_allclose(h[:, t], state, rtol=1e-13, atol=1e-13)


# ---- bits -----------------------------------------------------------------------------------------------------------


@pairs
@pytest.mark.parametrize("broadcast", BROADCASTS)
@both_ways
@every_dtype
@both_kinds
def test_results_equal_the_specification(kind: str, dtype: Any, reverse: bool, broadcast: str) -> None:
    for sizes in SIZES[kind]:
        for B, T in ((1, 1), (3, 9), (5, 4), (0, 3), (3, 0)):
            inputs = scan_inputs(kind, B, T, sizes, dtype, broadcast)
            expected = SPECIFIED[kind](*inputs, reverse=reverse)
            out = np.full_like(inputs.x, np.nan)
            h, last = SCANS[kind](*inputs, reverse=reverse, out=out)
            assert h is out
            assert_equal((h, last), expected, dtype)
            assert_equal(SCANS[kind](*inputs, reverse=reverse), expected, dtype)


@real_dtypes
def test_the_bits_of_the_loop(dtype: Any) -> None:
    a, x, h0 = scan_inputs("linear", 3, 257, (65,), dtype)
    assert_same_bits(fastiter.linear_scan(a, x, h0)[0], loop(a, x, h0))


@real_dtypes
def test_signs_and_permutations_are_exact_for_every_length(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    lengths = [*range(1, 301), *(2**k + d for k in range(9, 17) for d in (-1, 0, 1)), 99_999, 100_000, 100_001]
    longest = max(lengths)
    signs = rng.choice([-1.0, 1.0], (1, longest, 2)).astype(dtype)
    x = rng.integers(-8, 9, (1, longest, 2)).astype(dtype)
    expected = loop(signs, x)
    for T in lengths:
        h, last = fastiter.linear_scan(signs[:, :T], x[:, :T])
        assert_same_bits((h, last), (expected[:, :T], expected[:, T - 1]))
    orders = np.stack([rng.permutation(4) for _ in range(longest)])
    swaps = np.eye(4, dtype=dtype)[orders][None, :, None]
    state = np.arange(4.0).astype(dtype).reshape(1, 1, 4)
    moved = np.empty((1, longest, 1, 4), dtype)
    at = state[0, 0]
    for t in range(longest):
        at = at[orders[t]]
        moved[0, t, 0] = at
    for T in (*lengths[:300:7], *lengths[300:]):
        h, _ = fastiter.block_scan(swaps[:, :T], np.zeros((1, T, 1, 4), dtype), state)
        assert_same_bits(h, moved[:, :T])


@both_kinds
@real_dtypes
def test_products_that_overflow_or_vanish_do_no_harm(kind: str, dtype: Any) -> None:
    """a1 a2 is infinite, or 0, but a2 (a1 h + x) is not."""
    big = dtype(2.0 ** (np.finfo(dtype).maxexp - 2))
    a = np.tile(np.array([big, 1 / big, 1 / big, big], dtype), 8)
    x = np.tile(np.array([0, 0.5, 0, -0.5], dtype), 8)
    shape = (1, 32, 1) if kind == "linear" else (1, 32, 1, 1)
    factors = a.reshape((*shape, 1) if kind == "block" else shape)
    h, _ = SCANS[kind](factors, x.reshape(shape), np.ones(shape[:1] + shape[2:], dtype))
    assert_same_bits(h.reshape(1, 32, 1), loop(a.reshape(1, 32, 1), x.reshape(1, 32, 1), np.ones((1, 1), dtype)))
    assert np.isfinite(h).all()


@both_kinds
def test_nonfinite_values_stay_in_their_row_and_unit(kind: str) -> None:
    sizes = (37,) if kind == "linear" else (5, 3)
    a, x, h0 = scan_inputs(kind, 4, 9, sizes, np.float32)
    clean, _ = SCANS[kind](a, x, h0)
    for value in (np.nan, np.inf, 1e-40):
        spoiled = x.copy()
        spoiled[2, 3, 1] = value
        h, _ = SCANS[kind](a, spoiled, h0)
        touched = np.zeros(x.shape, bool)
        touched[2, 3:, 1] = True
        assert_same_bits(h[~touched], clean[~touched])


# ---- ragged, packed and reset rows ----------------------------------------------------------------------------------


@both_ways
@both_kinds
def test_streaming_is_exact_at_every_split(kind: str, reverse: bool) -> None:
    a, x, h0 = scan_inputs(kind, 2, 12, (21,) if kind == "linear" else (3, 5), np.float32)
    h, last = SCANS[kind](a, x, h0, reverse=reverse)
    for split in range(13):
        parts = [slice(split, None), slice(0, split)] if reverse else [slice(0, split), slice(split, None)]
        state, pieces = h0, []
        for part in parts:
            piece, state = SCANS[kind](a[:, part], x[:, part], state, reverse=reverse)
            pieces.append(piece)
        assert_same_bits((np.concatenate(pieces[::-1] if reverse else pieces, 1), state), (h, last))


@both_ways
@every_dtype
@both_kinds
def test_resets_lengths_and_packed_rows(kind: str, dtype: Any, reverse: bool) -> None:
    B, T = 4, 11
    a, x, h0 = scan_inputs(kind, B, T, (19,) if kind == "linear" else (2, 3), dtype)
    flags = resets(B, T)
    for how in ({"reset": flags}, {"reset": flags[0]}, {"lengths": some_lengths(B, T)}):
        both = {**how, "reverse": reverse}
        assert_equal(SCANS[kind](a, x, h0, **both), SPECIFIED[kind](a, x, h0, **both), dtype)
    bounds = np.array([0, 3, 3, 10, 11])
    given = (a[:1], x[:1], h0)
    how = {"cu_seqlens": bounds, "reverse": reverse}
    assert_equal(SCANS[kind](*given, **how), SPECIFIED[kind](*given, **how), dtype)
    for s, (begin, end) in enumerate(itertools.pairwise(bounds)):
        alone = SCANS[kind](a[:1, begin:end], x[:1, begin:end], h0[s : s + 1], reverse=reverse)
        h, last = SCANS[kind](*given, **how)
        for mine, expected in zip((h[:, begin:end], last[s : s + 1]), alone, strict=True):
            np.testing.assert_array_equal(mine, expected)


@both_kinds
def test_padding_is_not_read_but_overwritten(kind: str) -> None:
    a, x, h0 = scan_inputs(kind, 3, 6, (7,) if kind == "linear" else (2, 2), np.float32)
    lengths = [6, 2, 0]
    for b, n in enumerate(lengths):
        a[b, n:], x[b, n:] = np.nan, np.nan
    h, last = SCANS[kind](a, x, h0, lengths=lengths, out=np.full_like(x, np.nan))
    assert np.isfinite(h).all() and not h[1, 2:].any() and not h[2].any()
    assert_same_bits(last[2], h0[2])


# ---- memory and threads ---------------------------------------------------------------------------------------------


@both_kinds
def test_any_strides(kind: str) -> None:
    a, x, h0 = scan_inputs(kind, 3, 5, (17,) if kind == "linear" else (3, 4), np.float32)
    expected = SCANS[kind](a, x, h0)

    def views(y: Array) -> list[Array]:
        wide = np.full((*y.shape[:-1], 2 * y.shape[-1]), np.nan, y.dtype)
        wide[..., ::2] = y
        locked = y.copy()
        locked.flags.writeable = False
        swapped = y.swapaxes(0, 1).copy().swapaxes(0, 1)
        return [wide[..., ::2], np.asfortranarray(y), y[::-1].copy()[::-1], swapped, locked]

    for mine in views(a):
        assert_same_bits(SCANS[kind](mine, x, h0), expected)
    for mine in views(x):
        assert_same_bits(SCANS[kind](a, mine, h0), expected)
    for mine in views(h0):
        assert_same_bits(SCANS[kind](a, x, mine), expected)
    for place in views(np.full_like(x, np.nan))[:4]:
        assert_same_bits(SCANS[kind](a, x, h0, out=place), expected)


@both_kinds
def test_one_thread_and_three_give_the_same_bits(kind: str) -> None:
    a, x, h0 = scan_inputs(kind, 5, 600, (67,) if kind == "linear" else (11, 5), np.float32)
    threads, results = fastiter.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            fastiter.set_num_threads(count)
            results.append(SCANS[kind](a, x, h0))
    finally:
        fastiter.set_num_threads(threads)
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


PRINT_BITS = """
import hashlib, numpy as np, fastiter
from tests.scan.calls import scan_inputs
for kind, scan in (("linear", fastiter.linear_scan), ("block", fastiter.block_scan)):
    for dtype in (np.float32, np.float64):
        for size in (3, 16):
            inputs = scan_inputs(kind, 3, 50, (size,) if kind == "linear" else (3, size), dtype)
            print(hashlib.sha256(b"".join(y.tobytes() for y in scan(*inputs))).hexdigest())
"""


def test_every_instruction_set_gives_the_same_bits() -> None:
    digests = {isa: assert_runs("-c", PRINT_BITS, FASTITER_ISA=isa) for isa in kinds_to_compare()}
    assert len(set(digests.values())) == 1, digests
