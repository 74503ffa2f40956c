"""Conversion of array-likes: numbers, sequences of numbers, and objects that NumPy converts to arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ._check import refuse_mask, type_name

#: Libraries whose arrays are never converted to NumPy arrays
_OTHERS = ("torch", "cupy", "cupyx")


def as_arrays(function: str, names: Sequence[str], arrays: Sequence[Any], dtype: Any = None) -> Sequence[Any]:
    """Convert the array-likes among the arguments to arrays; return arrays, None and anything else unchanged.

    Sequences and numbers have no dtype of their own: they get ``dtype``, by default that of the first argument that has
    one, else float64, or complex128 if one of them is complex.
    """
    for x in arrays:
        if type(x) is not np.ndarray and x is not None:
            break
    else:
        return arrays
    if dtype is None:
        dtype = next((x.dtype for x in arrays if isinstance(getattr(x, "dtype", None), np.dtype)), None)
    read = [_read(function, name, x) for name, x in zip(names, arrays, strict=True)]
    if dtype is None:
        is_complex = any(isinstance(x, np.ndarray) and x.dtype.kind == "c" for x in read)
        dtype = np.dtype(np.complex128 if is_complex else np.float64)
    named = zip(names, arrays, read, strict=True)
    return [_converted(function, name, y, dtype) if y is not x and _is_weak(x) else y for name, x, y in named]


def as_array(function: str, name: str, x: Any, dtype: Any = None) -> Any:
    """Convert one argument like :func:`as_arrays`."""
    return x if type(x) is np.ndarray else as_arrays(function, (name,), (x,), dtype)[0]


def as_flags(function: str, name: str, x: Any) -> Any:
    """Convert a sequence of bool to an array; return anything else unchanged."""
    flags = _read(function, name, x) if isinstance(x, (list, tuple)) else x
    return flags if getattr(flags, "dtype", None) == np.bool_ else x


def _is_weak(x: object) -> bool:
    """Return whether ``x`` is a Python number or sequence, which has no dtype of its own."""
    return isinstance(x, (list, tuple, int, float, complex)) and not isinstance(x, np.generic)


def _read(function: str, name: str, x: Any) -> Any:
    """Convert an array-like to an array of the dtype that NumPy chooses."""
    if isinstance(x, (np.ndarray, bool)):
        return x
    if not _is_weak(x) and not (hasattr(x, "__array__") and type(x).__module__.partition(".")[0] not in _OTHERS):
        return x
    for part in x if isinstance(x, (list, tuple)) else ():
        refuse_mask(function, name, part)
        if type(part).__module__.partition(".")[0] in _OTHERS:
            raise TypeError(f"{function}: {name} must be numbers or NumPy arrays, got a list of {type_name(part)}")
    try:
        return np.asarray(x)
    except ValueError:
        raise ValueError(f"{function}: {name} must be numbers in rows of one length, got a ragged list") from None


def _converted(function: str, name: str, x: Any, dtype: np.dtype[Any]) -> Any:
    """Convert the numbers of a sequence to ``dtype``; refuse integers that it may not represent exactly."""
    if x.dtype.kind not in ("iufc" if dtype.kind == "c" else "iuf"):
        raise TypeError(f"{function}: {name} must be numbers, got a list of {x.dtype}")
    if x.dtype.kind in "iu" and x.size:
        limit = 2 ** (_mantissa(dtype) + 1)
        largest = max(int(x.max()), -int(x.min()))
        if largest > limit:
            raise ValueError(f"{function}: {name} must have whole numbers up to {limit} for {dtype}, got {largest}")
    return x.astype(dtype)


def _mantissa(dtype: np.dtype[Any]) -> int:
    """Return the number of stored bits of the mantissa."""
    return 7 if dtype.name == "bfloat16" else int(np.finfo(dtype).nmant)
