"""Checks of the arguments that several solvers and problems have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .._array_like import as_array
from .._check import check_array, count, positive, type_name

Array = npt.NDArray[Any]


def row_count(A: Any) -> int:
    shape = np.shape(A) if not hasattr(A, "shape") else A.shape
    return int(shape[0]) if len(shape) == 2 else -1


def vector(function: str, name: str, b: Any, n: int) -> Array:
    """Return a vector of float64."""
    b = as_array(function, name, b)
    if name == "y" and type(b) is np.ndarray and b.dtype.kind in "iub":  # labels
        b = b.astype(np.float64)
    check_array(function, name, b)
    if b.shape != (n,):
        raise ValueError(f"{function}: {name} must have shape ({n},) to go with A, got {b.shape}")
    if not np.isfinite(b).all():
        raise ValueError(f"{function}: {name} must be finite, got NaN or infinity")
    return np.array(b, np.float64)


def spread(function: str, name: str, x: Any, m: int) -> Array:
    """Return a number, or one for each column, as a vector of float64."""
    is_number = isinstance(x, (int, float, np.integer)) and not isinstance(x, bool)
    x = np.float64(x) if is_number else as_array(function, name, x)
    if type(x) is np.ndarray and x.dtype.kind in "iu":
        x = x.astype(np.float64)
    if not isinstance(x, (np.ndarray, np.floating)) or x.dtype.name not in ("float32", "float64"):
        got = f"dtype {x.dtype}" if isinstance(x, np.ndarray) else type_name(x)
        raise TypeError(f"{function}: {name} must be a number or an array of shape ({m},), got {got}")
    if x.shape not in ((), (m,)):
        raise ValueError(f"{function}: {name} must be a number or have shape ({m},), got {x.shape}")
    return np.array(np.broadcast_to(x, (m,)), np.float64)


def penalty(function: str, name: str, x: Any, m: int) -> Array:
    if isinstance(x, (int, float)):
        positive(function, name, x)
    values = spread(function, name, x, m)
    wrong = values[~(np.isfinite(values) & (values >= 0))]
    if len(wrong):
        raise ValueError(f"{function}: {name} must be finite and at least 0, got {wrong[0]:g}")
    return values


def sample_weights(function: str, weights: Any, n: int) -> Array | None:
    if weights is None:
        return None
    values = vector(function, "weights", weights, n)
    if (values < 0).any():
        raise ValueError(f"{function}: weights must be at least 0, got {values.min():g}")
    return values


def start(function: str, x0: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return a starting point in float64, 0 by default."""
    if x0 is None:
        return np.zeros(shape)
    x0 = as_array(function, "x0", x0, dtype)
    check_array(function, "x0", x0)
    if x0.shape != shape or x0.dtype != dtype:
        expected = f"{shape} and dtype {dtype}"
        raise ValueError(f"{function}: x0 must have shape {expected}, got {x0.shape} and {x0.dtype}")
    if not np.isfinite(x0).all():
        raise ValueError(f"{function}: x0 must be finite, got NaN or infinity")
    return np.array(x0, np.float64)


def generator_of(function: str, rng: Any) -> np.random.Generator:
    """Return the generator, or a new one with the given seed."""
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is not None and (isinstance(rng, bool) or not isinstance(rng, (int, np.integer))):
        raise TypeError(f"{function}: rng must be a numpy.random.Generator, an int or None, got {type_name(rng)}")
    return np.random.default_rng(0 if rng is None else count(function, "rng", rng))
