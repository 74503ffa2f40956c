"""Sigmoid and tanh of the GPU's cells in float, over all magnitudes: errors in ulp, and special values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.gpu.host.host import KERNELS, Host, program  # noqa: E402

SOURCE = f"""#include "{KERNELS / "rnn" / "cells.cuh"}"
KERNEL evaluate(const float* x, float* s, float* t, int64 size) {{
    for (int64 i = threadIdx.x; i < size; i += 32) s[i] = sigmoid(x[i]), t[i] = hyperbolic_tangent(x[i]);
}}
"""
Array = np.ndarray


def evaluate(folder: Path, x: Array) -> tuple[Array, Array]:
    source = folder / "cells.cu"
    source.write_text(SOURCE)
    s, t = torch.full((2, len(x)), 7.0).unbind()
    binary = program(source, folder, defines={"ELEMENT": "float", "CELL": 2})
    Host(folder).run(binary, "evaluate", (1,), (32,), (torch.from_numpy(x), s, t, np.int64(len(x))))
    return s.numpy(), t.numpy()


def ulps(found: Array, expected: Array) -> float:
    """Return the largest error in units of the last place of the expected value, subnormal numbers included."""
    return float(np.max(np.abs(found - expected) / np.spacing(np.abs(expected).astype(np.float32)).astype(float)))


def test_errors_in_ulp(tmp_path: Path) -> None:
    """On a card the reciprocal is within 1 ulp instead of half of one, and the exponential within 2: in all within 4.

    The sigmoid may be 0 where it is subnormal.
    """
    bits = np.arange(0, 0x42D00000, 19_991, dtype=np.uint32)  # to 104, where the exponential is 0
    half = np.unique(np.concatenate([bits.view(np.float32), np.linspace(0, 20, 20_001, dtype=np.float32)]))
    x = np.concatenate([half, -half])
    s, t = evaluate(tmp_path, x)
    wide = x.astype(float)
    assert ulps(t, np.tanh(wide)) < 2
    expected, least = 1 / (1 + np.exp(-wide)), np.finfo(np.float32).tiny
    normal = expected >= least
    assert ulps(s[normal], expected[normal]) < 2.5
    assert np.all(np.abs(s[~normal] - expected[~normal]) < least)
    assert np.all(t[half.size :] == -t[: half.size])


def test_special_values(tmp_path: Path) -> None:
    x = np.array([np.inf, -np.inf, np.nan, 0, -0.0, 1e-45, -1e-45, 3e38, -3e38], np.float32)
    s, t = evaluate(tmp_path, x)
    np.testing.assert_array_equal(s, np.array([1, 0, np.nan, 0.5, 0.5, 0.5, 0.5, 1, 0], np.float32))
    np.testing.assert_array_equal(t, np.array([1, -1, np.nan, 0, 0, 1e-45, -1e-45, 1, -1], np.float32))
