"""Scans of all sizes: around vector widths, wider than a cache, larger than all caches."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter.reference import scan as reference
from tests.scan.calls import both_ways, normal, real_dtypes, resets, scan_inputs, some_lengths
from tests.support.cases import Array, assert_same_bits

# Vectors of 2, 4, 8 and 16 numbers; up to four vectors of a step stay in registers.
WIDTHS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 129, 257)


@both_ways
@real_dtypes
def test_every_width(dtype: Any, reverse: bool) -> None:
    for i, D in enumerate(WIDTHS):
        for B, T in ((1, 9), (5, 1), (2 + i % 8, 7 + i % 13), (6, 70)):
            inputs = scan_inputs("linear", B, T, (D,), dtype)
            for how in ({}, {"lengths": some_lengths(B, T)}, {"reset": resets(B, T)}):
                both: dict[str, Any] = {"reverse": reverse, **how}
                expected = reference.linear_scan(*inputs, **both)
                assert_same_bits(fastiter.linear_scan(*inputs, **both), expected, f"{(B, T, D)}, {list(how)}")


@both_ways
@real_dtypes
def test_every_block(dtype: Any, reverse: bool) -> None:
    for K, N in itertools.product(range(1, 17), (1, 2, 3, 5, 9, 17)):
        for B, T in ((1, 3), (3, 4)):
            inputs = scan_inputs("block", B, T, (N, K), dtype)
            both = {"reverse": reverse, "reset": resets(B, T), "lengths": some_lengths(B, T)}
            expected = reference.block_scan(*inputs, **both)
            assert_same_bits(fastiter.block_scan(*inputs, **both), expected, f"{(B, T, N, K)}")


@pytest.mark.parametrize("threads", [1, 3])
def test_lines_wider_than_one_thread_processes_at_once(threads: int) -> None:
    fastiter.set_num_threads(threads)
    for B, T, D in ((1, 5, 40_000), (2, 3, 17_001), (1, 4, 33)):
        inputs = scan_inputs("linear", B, T, (D,), np.float32)
        assert_same_bits(fastiter.linear_scan(*inputs), reference.linear_scan(*inputs))
        assert_same_bits(fastiter.linear_scan(*inputs, reverse=True), reference.linear_scan(*inputs, reverse=True))
    inputs = scan_inputs("block", 1, 3, (1500, 3), np.float64)
    assert_same_bits(fastiter.block_scan(*inputs), reference.block_scan(*inputs))


@both_ways
def test_results_larger_than_every_cache(reverse: bool) -> None:
    """Results larger than the caches use non-temporal stores if their lines are aligned."""
    for D in (2048, 2047):
        a, x, h0 = scan_inputs("linear", 2, 1000, (D,), np.float32)
        a = 0.9 * np.tanh(a)
        lengths = [1000, 900]
        expected = reference.linear_scan(a, x, h0, reverse=reverse, lengths=lengths)
        assert_same_bits(fastiter.linear_scan(a, x, h0, reverse=reverse, lengths=lengths), expected)
        memory = np.empty(2 * 1000 * D + 3, np.float32)
        out = memory[3:].reshape(2, 1000, D)
        assert_same_bits(fastiter.linear_scan(a, x, h0, reverse=reverse, lengths=lengths, out=out), expected)
    a, x, h0 = scan_inputs("linear", 70, 3000, (16,), np.float32)
    a = 0.9 * np.tanh(a)
    expected = reference.linear_scan(a.reshape(1, -1, 16)[:, :3000], x[:1], h0[:1], reverse=reverse)
    h, last = fastiter.linear_scan(a, x, h0, reverse=reverse)
    assert_same_bits((h[:1], last[:1]), expected)


@pytest.mark.parametrize("K", [2, 3, 4, 8])
@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_blocks_larger_than_every_cache_at_any_alignment(K: int, dtype: Any) -> None:
    """The groups before the first address that allows a non-temporal store are computed separately, or none is used."""
    inputs = scan_inputs("block", 1, 80, (168_000 // np.dtype(dtype).itemsize // K, K), dtype)  # 13 MB of results
    inputs[0][...] *= 0.5
    expected = fastiter.block_scan(*inputs)
    few = slice(0, 40 // K)
    cached = fastiter.block_scan(inputs.a[:, :, few], inputs.x[:, :, few], inputs.state[:, few])
    assert_same_bits((expected[0][:, :, few], expected[1][:, few]), cached)
    for offset in (0, 1, 8, 12):  # between lines or not, and at the beginning of a group of 2, 3, 4 or 8 or not
        out = np.empty(inputs[1].size + 16, dtype)[offset:][: inputs[1].size].reshape(inputs[1].shape)
        assert_same_bits(fastiter.block_scan(*inputs, out=out), expected, f"offset {offset}")


def test_time_outermost() -> None:
    a, x, h0 = scan_inputs("linear", 5, 7, (20,), np.float32)
    expected = fastiter.linear_scan(a, x, h0)
    across = [y.swapaxes(0, 1).copy().swapaxes(0, 1) for y in (a, x, np.full_like(x, np.nan))]
    h, last = fastiter.linear_scan(across[0], across[1], h0, out=across[2])
    assert h is across[2]
    assert_same_bits((h, last), expected)


@both_ways
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_reset_discards_factor_and_state(value: float, reverse: bool) -> None:
    """Neither the factor nor the state is multiplied by 0: both may be infinite."""
    a, x, h0 = scan_inputs("linear", 3, 6, (21,), np.float32)
    flags = np.zeros((3, 6), bool)
    flags[:, 3] = True
    a[:, 3] = value
    x[:, 4 if reverse else 2] = value
    h, _ = fastiter.linear_scan(a, x, h0, reset=flags, reverse=reverse)
    assert_same_bits(h[:, 3], x[:, 3])
    after = slice(0, 4) if reverse else slice(3, None)
    assert np.isfinite(h[:, after]).all()
    negative = np.full((1, 2, 3), -0.0, np.float32)
    h, last = fastiter.linear_scan(np.ones_like(negative), negative, reset=np.array([True, True]))
    assert_same_bits((h, last), (negative, negative[:, 0]))


def test_denormal_states_are_not_flushed() -> None:
    x = np.zeros((1, 30, 5), np.float32)
    h, _ = fastiter.linear_scan(np.full(5, 0.5, np.float32), x, np.full((1, 5), 2e-38, np.float32))
    expected, _ = reference.linear_scan(np.full(5, 0.5, np.float32), x, np.full((1, 5), 2e-38, np.float32))
    assert_same_bits(h, expected)
    assert 0 < h[0, 20, 0] < np.finfo(np.float32).tiny


def test_against_a_filter_of_scipy() -> None:
    signal = pytest.importorskip("scipy.signal")
    rng = np.random.default_rng(0)
    for pole in (0.97, -0.5, 1.0, 0.6 + 0.7j):
        dtype = np.complex128 if isinstance(pole, complex) else np.float64
        x = normal(rng, (3, 200, 5), dtype)
        expected = signal.lfilter([1], [1, -pole], x, axis=1)
        h, _ = fastiter.linear_scan(np.array([pole], dtype), x)
        np.testing.assert_allclose(h, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0)])
def test_empty_inputs(shape: tuple[int, int, int]) -> None:
    B, T, D = shape
    h0 = np.ones((B, D))
    for lengths in (None, [0] * B):
        h, last = fastiter.linear_scan(np.ones(shape), np.ones(shape), h0, lengths=lengths)
        assert h.shape == shape
        if T == 0 or lengths:
            assert_same_bits(last, h0)
    h, last = fastiter.block_scan(np.ones((B, T, D, 2, 2)), np.ones((B, T, D, 2)))
    assert h.shape == (B, T, D, 2)
    assert last.shape == (B, D, 2)
    h, last = fastiter.linear_scan(np.ones((1, 0, D)), np.ones((1, 0, D)), cu_seqlens=[0])
    assert h.shape == (1, 0, D)
    assert last.shape == (0, D)


def test_large_results_are_arrays_like_any_others() -> None:
    inputs = scan_inputs("linear", 4, 300, (256,), np.float32)
    kept = [fastiter.linear_scan(inputs.a * np.float32(k), inputs.x, inputs.state)[0] for k in (0, 1, -1)]
    expected = [reference.linear_scan(inputs.a * np.float32(k), inputs.x, inputs.state)[0] for k in (0, 1, -1)]
    for h, e in zip(kept, expected, strict=True):
        assert h.nbytes > 1 << 20
        assert h.flags.writeable
        assert h.flags.c_contiguous
        assert_same_bits(h, e)


def bfloat(x: Array, dtype: Any) -> Array:
    return x.astype(np.float32).astype(dtype)


@both_ways
def test_bfloat16_of_ml_dtypes(reverse: bool) -> None:
    stored = pytest.importorskip("ml_dtypes").bfloat16
    for D in (1, 15, 16, 17, 100):
        a, x, h0 = scan_inputs("linear", 5, 40, (D,), np.float32)
        a, x = bfloat(np.tanh(a), stored), bfloat(x, stored)
        for how in ({}, {"lengths": some_lengths(5, 40)}, {"reset": resets(5, 40)}):
            both: dict[str, Any] = {"reverse": reverse, **how}
            expected, state = reference.linear_scan(a.astype(np.float32), x.astype(np.float32), h0, **both)
            h, last = fastiter.linear_scan(a, x, h0, **both)
            assert h.dtype == stored
            assert_same_bits((h.astype(np.float32), last), (bfloat(expected, stored).astype(np.float32), state))
            specified = fastiter.linear_scan(a, x, h0, backend="reference", **both)
            assert specified[0].dtype == stored
            assert_same_bits((specified[0].astype(np.float32), specified[1]), (h.astype(np.float32), last))
            out = np.empty_like(x)
            assert fastiter.linear_scan(a, x, h0, out=out, **both)[0] is out
            assert_same_bits(out.astype(np.float32), h.astype(np.float32))
    with pytest.raises(
        TypeError, match="linear_scan: state must have dtype float32 to go with bfloat16 x, got bfloat16"
    ):
        fastiter.linear_scan(a, x, bfloat(h0, stored))
