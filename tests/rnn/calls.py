"""Calls of the recurrent cells and of the specification by name, and runs in separate processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fastiter
from fastiter.reference import rnn as reference
from tests.support.cases import RNN_CELLS, Array, RnnInputs, tolerance

ROOT = Path(__file__).parents[2]
Output = tuple[Array, tuple[Array, ...], tuple[Array, ...]]

every_cell = pytest.mark.parametrize(("cell", "activation"), RNN_CELLS, ids=[*map("".join, RNN_CELLS)])
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
full_and_ragged = pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])


def options(activation: str, **more: Any) -> dict[str, Any]:
    return {"activation": activation, **more} if activation else more


def run(cell: str, activation: str, inputs: RnnInputs, **more: Any) -> Output:
    """Return (h, final states, all states) of the kernels."""
    result: Output = getattr(fastiter, cell)(*inputs, **options(activation, return_all_states=True, **more))
    return result


def specified(cell: str, activation: str, inputs: RnnInputs, **more: Any) -> Output:
    """Return the same from the specification in float64, rounded to the inputs' dtype."""
    result: Output = getattr(reference, cell)(*cast(tuple(inputs), np.float64), **options(activation, **more))
    return cast(result, inputs.wx.dtype)


def cast(arrays: Any, dtype: npt.DTypeLike) -> Any:
    if arrays is None:
        return None
    if isinstance(arrays, tuple):
        return tuple(cast(a, dtype) for a in arrays)
    with np.errstate(over="ignore", invalid="ignore"):
        return arrays.astype(dtype)


def flat(output: Output) -> tuple[Array, ...]:
    h, last, states = output
    return (h, *last, *states)


def some_lengths(B: int, T: int, seed: int = 0) -> list[int]:
    """Return unsorted lengths from 0 to T, both ends included if there are enough rows."""
    lengths = np.random.default_rng([seed, B, T]).integers(0, T + 1, B)
    lengths[1:2], lengths[2:3] = T, 0
    return [int(length) for length in lengths]


def assert_close_where_finite(actual: Any, expected: Any, length: int, width: int) -> None:
    """Apply the tolerance of cases.py plus a few smallest denormals to finite elements; NaN and inf must agree."""
    if isinstance(expected, tuple):
        for a, e in zip(actual, expected, strict=True):
            assert_close_where_finite(a, e, length, width)
        return
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    assert np.isfinite(actual[finite]).all()
    relative = tolerance(expected.dtype, length, width)
    info = np.finfo(expected.dtype)
    bound = relative * np.max(np.abs(expected[finite]), initial=0.0) + relative / info.eps * info.smallest_subnormal
    assert np.max(np.abs(actual[finite] - expected[finite]), initial=0.0) <= bound


def python(*arguments: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the interpreter on `arguments` in the root folder, in a process that can neither hang nor end the tests."""
    paths = [str(Path(fastiter.__file__).parents[1]), str(ROOT)]
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def assert_runs(*arguments: str, timeout: float = 120, **environment: str) -> str:
    """Return the output of a process, asserting that it ends without an error."""
    done = python(*arguments, timeout=timeout, **environment)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout
