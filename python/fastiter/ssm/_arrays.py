"""Checks shared by the functions of the family: the division into sequences, dtypes and layouts of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .._array_like import as_arrays, as_flags
from .._check import integers, type_name
from .._sequences import check_bounds, check_lengths, check_packing, check_reset_shape

Array: TypeAlias = npt.NDArray[Any]
#: Dtypes in which arrays may be stored
STORED = ("float32", "float64", "float16", "bfloat16")


class Cut(NamedTuple):
    """The division of the steps into sequences."""

    reset: Array | None
    lengths: Array | None
    cu_seqlens: Array | None

    def count(self, batch: int) -> int:
        return batch if self.cu_seqlens is None else len(self.cu_seqlens) - 1


def checked_cut(
    function: str,
    batch: int,
    time: int,
    reset: object,
    lengths: npt.ArrayLike | None,
    cu_seqlens: npt.ArrayLike | None,
    first: str,
) -> Cut:
    """Check and return the arguments; ``first`` is the name of the argument whose B and T they must match."""
    flags = whole = None
    if reset is not None:
        reset = as_flags(function, "reset", reset)
        if not isinstance(reset, np.ndarray) or reset.dtype != np.bool_:
            got = f"dtype {reset.dtype}" if isinstance(reset, np.ndarray) else type_name(reset)
            raise TypeError(f"{function}: reset must be a NumPy array of bool, got {got}")
        check_reset_shape(function, reset.shape, batch, time)
        flags = np.ascontiguousarray(reset)
    if cu_seqlens is not None:
        check_packing(function, batch, lengths, first)
        bounds = integers(function, "cu_seqlens", cu_seqlens)
        start, end = (int(bounds[0]), int(bounds[-1])) if bounds.ndim == 1 and bounds.size else (0, 0)
        falls = bounds.ndim == 1 and bool((bounds[1:] < bounds[:-1]).any())
        check_bounds(function, bounds.shape, start, end, falls, time)
        return Cut(flags, None, bounds)
    if lengths is not None:
        whole = integers(function, "lengths", lengths)
        least, most = int(whole.min(initial=0)), int(whole.max(initial=0))
        check_lengths(function, whole.shape, least, most, batch, time)
    return Cut(flags, whole, None)


def from_likes(function: str, **given: Any) -> Sequence[Any]:
    """Convert array-likes among the arguments to arrays; those without a dtype get the dtype of the arithmetic."""
    first = next((x for x in given.values() if isinstance(getattr(x, "dtype", None), np.dtype)), None)
    return as_arrays(function, tuple(given), tuple(given.values()), None if first is None else computed(first))


def aligned(x: Array | None) -> Array | None:
    """Return ``x``, or a copy, with aligned elements and strides that are multiples of the element size."""
    if x is None or (x.flags.aligned and all(stride % x.itemsize == 0 for stride in x.strides)):
        return x
    return np.ascontiguousarray(x)


def computed(x: Array) -> np.dtype[Any]:
    """Return the dtype of the arithmetic and of the state."""
    return np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
