"""Checks and layouts of arrays shared by the functions of the family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _check
from .._array_like import as_arrays

Array: TypeAlias = npt.NDArray[Any]
#: Dtypes in which arrays may be stored
STORED = ("float32", "float64", "float16", "bfloat16")


def check_out(function: str, out: object, first: str, arrays: Mapping[str, Array], reset: Array | None) -> None:
    """Check that ``out`` is like the argument ``first`` and shares no memory with any argument."""
    named = {first: arrays[first], **arrays} | ({} if reset is None else {"reset": reset})
    _check.check_out(function, out, arrays[first].shape, tuple(named), tuple(named.values()), STORED)


def from_likes(function: str, **arguments: Any) -> Sequence[Any]:
    """Convert array-likes among the arguments to arrays; those without a dtype get the dtype of the arithmetic."""
    first = next((x for x in arguments.values() if isinstance(getattr(x, "dtype", None), np.dtype)), None)
    return as_arrays(function, tuple(arguments), tuple(arguments.values()), None if first is None else computed(first))


def aligned(x: Array | None) -> Array | None:
    """Return ``x``, or a copy, with aligned elements and strides that are multiples of the element size."""
    if x is None:
        return x
    flags = x.flags
    if flags.aligned and (flags.c_contiguous or all(stride % x.itemsize == 0 for stride in x.strides)):
        return x
    return np.ascontiguousarray(x)


def computed(x: Array) -> np.dtype[Any]:
    """Return the dtype of the arithmetic and of the state."""
    return np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
