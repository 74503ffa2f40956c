"""Large results: their memory is reused, but never while a view of it exists."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import fastiter

LARGE = (64, 64, 4, 1, 128)  # h alone takes 2 MB


def test_memory_is_kept_and_returned() -> None:
    wx, r = np.zeros(LARGE, np.float32), np.zeros((4, 1, 128, 128), np.float32)
    fastiter.release_memory()
    h, _ = fastiter.lstm(wx, r)
    del h
    gc.collect()
    assert fastiter.release_memory() >= 64 * 64 * 128 * 4
    assert fastiter.release_memory() == 0


def test_memory_in_use_is_not_used_again() -> None:
    rng = np.random.default_rng(0)
    r = rng.standard_normal((4, 1, 128, 128), np.float32) / 12
    inputs = [rng.standard_normal(LARGE, np.float32) for _ in range(3)]
    results = [fastiter.lstm(wx, r)[0] for wx in inputs]
    views = [h[:, ::2, 0] for h in results]
    expected = [h.copy() for h in views]
    del results
    gc.collect()
    for wx in inputs[::-1]:
        fastiter.lstm(wx, r)
    for view, bits in zip(views, expected, strict=True):
        np.testing.assert_array_equal(view, bits)


def test_memory_of_a_tensor_is_its_own() -> None:
    torch = pytest.importorskip("torch")
    import fastiter.torch

    wx, r = torch.randn(LARGE), torch.randn(4, 1, 128, 128) / 12
    h, _ = fastiter.torch.lstm(wx, r)
    kept = h[3].clone()
    part = h[3]
    del h
    gc.collect()
    fastiter.torch.lstm(wx.neg(), r)
    assert torch.equal(part, kept)
