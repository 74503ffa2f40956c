"""The compiled interpreter of plans against the specification, its bits, and its errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.decode.machines import Machine
from tests.decode.operations import CASES, TOKENS, make

STEPS, CAPACITY = 7, 9
EACH = pytest.mark.parametrize("name", CASES)


def close(got: Any, expected: Any, dtype: str) -> None:
    """Compare with a tolerance of 200 roundings of the largest number: sums have up to 300 terms."""
    scale = max(1.0, float(abs(expected).max()))
    np.testing.assert_allclose(got, expected, rtol=0, atol=200 * np.finfo(dtype).eps * scale)


def tokens(rows: int, step: int) -> Any:
    return (np.arange(rows) * 3 + step * step) % TOKENS


@EACH
@pytest.mark.parametrize(("dtype", "rows"), [("float32", 1), ("float64", 3), ("float32", 8)])
def test_operations(name: str, dtype: str, rows: int) -> None:
    machine = Machine(*make(name), dtype, rows, CAPACITY)
    for step in range(STEPS):
        expected = machine.specified(tokens(rows, step))
        close(machine.step(tokens(rows, step)), expected, dtype)
    for state, got, wanted in machine.pairs():
        assert np.shape(got) == np.shape(wanted), state
        close(got, wanted, dtype)
