"""Factors and calls that the tests of quant_matmul share."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastiter.quant import Float, Format, quant_matmul
from tests.quant.cases import KINDS, assert_equal
from tests.support.cases import Array

F32, F64 = Float(8, 23), Float(11, 52)
Rng = np.random.Generator


def operand(rng: Rng, shape: tuple[int, ...], fmt: Format | str, dtype: Any = np.float32) -> Array:
    """Return numbers from the middle of the format's range."""
    low, high = KINDS.get(str(fmt), (-6, 3))
    return (rng.standard_normal(shape) * 2.0 ** min(max((low + high) // 2, -20), 20)).astype(dtype)


def same(actual: Array, expected: Array, what: object) -> None:
    assert_equal(actual, np.asarray(expected).astype(actual.dtype), np.zeros(expected.shape), what)  # type: ignore[arg-type]


def both(a: Array, b: Array, *arguments: Any, **more: Any) -> Array:
    """Return the kernels' product, checked against the specification."""
    result = quant_matmul(a, b, *arguments, **more)
    same(result, quant_matmul(a, b, *arguments, backend="reference", **more), (arguments, more))
    return result
