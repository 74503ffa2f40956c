"""Inputs, tolerances and outputs that the tests of every family share."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# (name, activation) of every recurrent cell; "" if the cell has no activation option.
RNN_CELLS = [("elman", "tanh"), ("elman", "relu"), ("lstm", ""), ("gru", ""), ("slstm", "")]
GATES = {"elman": 1, "lstm": 4, "gru": 3, "slstm": 4}
STATES = {"elman": ("h",), "lstm": ("h", "c"), "gru": ("h",), "slstm": ("h", "c", "n", "m")}


class RnnInputs(NamedTuple):
    """Arguments of a cell, in the order of its signature."""

    wx: Array
    r: Array
    b: Array
    state: tuple[Array, ...]


def rnn_inputs(cell: str, B: int, T: int, N: int, D: int, dtype: npt.DTypeLike, seed: int = 0) -> RnnInputs:
    """Pre-activations ~ N(0, 1), r and b ~ U(-1, 1) / sqrt(D) (torch's initial weights), a state mid-sequence."""
    # Drawn in float64, then rounded, so that both dtypes get the same case.
    rng = np.random.default_rng([seed, B, T, N, D])
    G = GATES[cell]
    bound = 1 / math.sqrt(max(D, 1))
    wx = rng.standard_normal((B, T, G, N, D))
    r = rng.uniform(-bound, bound, (G, N, D, D))
    b = rng.uniform(-bound, bound, (G, N, D))
    h, c, m = np.tanh(rng.standard_normal((B, N, D))), rng.standard_normal((B, N, D)), rng.standard_normal((B, N, D))
    # sLSTM's n: elements that begin (0), that the clamp at 1 may still affect (0.5), and that continue.
    n = rng.choice([0.0, 0.5, 1.0, 2.5], (B, N, D))
    state = (h, c, n, m)[: len(STATES[cell])]
    return RnnInputs(wx.astype(dtype), r.astype(dtype), b.astype(dtype), tuple(s.astype(dtype) for s in state))


def normal_like(arrays: tuple[Array, ...], seed: int = 0) -> tuple[Array, ...]:
    """Return cotangents: arrays ~ N(0, 1) with the same shapes and dtypes."""
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(a.shape).astype(a.dtype) for a in arrays)


def nans(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """An output full of NaN: an element that a kernel forgets to write fails every comparison."""
    return np.full(shape, np.nan, dtype)


def tolerance(dtype: npt.DTypeLike, length: int = 1, width: int = 1) -> float:
    """eps (8 + sqrt(length) + sqrt(width)): the error that rounding explains, relative to the largest element.

    width: the terms of a dot product (D); length: the terms that are added up over the sequence (T, or B T for the
    gradient of a weight). Roundings are practically independent, so the error of a sum of K terms is about sqrt(K) eps
    of its largest partial sum. The two errors add up but do not multiply, because gates forget: the errors of one step
    decay over the following ones. 8 covers the dozen roundings of one step, exp and tanh within 4 ulp included.
    Measured, the specification in float32 against float64, all cells, T and D from 1 to 512, 12 seeds: states within 3
    eps, gradients within 0.7 of this bound. Only where a gradient is a single sum that cancels (B T and D of one or
    two) can rounding exceed it; give such a case its scale.
    """
    return float(np.finfo(dtype).eps) * (8 + math.sqrt(length) + math.sqrt(width))


def assert_close(
    actual: Any, expected: Any, length: int = 1, width: int = 1, *, scale: float | None = None, name: str = "array"
) -> None:
    """max |actual - expected| <= tolerance * max |expected|, shapes and dtypes equal; tuples element by element.

    scale replaces max |expected| where the terms cancel and the result is small beside them.
    """
    if isinstance(expected, tuple):
        assert len(actual) == len(expected), f"{name}: {len(actual)} arrays, expected {len(expected)}"
        for k, (a, e) in enumerate(zip(actual, expected, strict=True)):
            assert_close(a, e, length, width, scale=scale, name=f"{name}[{k}]")
        return
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, expected {expected.shape}"
    assert actual.dtype == expected.dtype, f"{name}: dtype {actual.dtype}, expected {expected.dtype}"
    if expected.size == 0:
        return
    largest = float(np.max(np.abs(expected))) if scale is None else scale
    error = np.abs(actual - expected)
    worst = np.unravel_index(int(np.argmax(error)), error.shape)  # argmax returns the index of a NaN if there is one
    bound = tolerance(expected.dtype, length, width) * largest
    assert error[worst] <= bound, (
        f"{name}: at {tuple(map(int, worst))} got {actual[worst]!r}, expected {expected[worst]!r}: "
        f"off by {error[worst]:.3g}, allowed {bound:.3g}"
    )


def assert_same_bits(actual: Any, expected: Any, name: str = "array") -> None:
    """Assert equal shapes, dtypes and values, including signs of zeros (NaN equals NaN); tuples element by element."""
    if isinstance(expected, tuple):
        assert len(actual) == len(expected), f"{name}: {len(actual)} arrays, expected {len(expected)}"
        for k, (a, e) in enumerate(zip(actual, expected, strict=True)):
            assert_same_bits(a, e, f"{name}[{k}]")
        return
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, expected {expected.shape}"
    assert actual.dtype == expected.dtype, f"{name}: dtype {actual.dtype}, expected {expected.dtype}"
    if np.iscomplexobj(expected):
        return assert_same_bits((actual.real, actual.imag), (expected.real, expected.imag), name)
    np.testing.assert_array_equal(actual, expected, err_msg=name)
    np.testing.assert_array_equal(np.signbit(actual), np.signbit(expected), err_msg=f"{name}: sign of zero")
