"""Checks of array arguments. Each message is one sentence: function, argument, expected, received."""

from __future__ import annotations

import inspect
import math
import numbers
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core
from ._suggest import other_choice

Array = npt.NDArray[Any]
FLOATS = ("float32", "float64")
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def type_name(x: object) -> str:
    """Return the name of the type of ``x`` in messages."""
    return f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")


def check_flag(function: str, name: str, value: object) -> None:
    """Check that an option is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{function}: {name} must be a bool, got {type_name(value)}")


def check_choice(function: str, name: str, value: object, choices: Sequence[str]) -> None:
    """Check that an option is one of the strings in ``choices``."""
    if isinstance(value, str) and value in choices:
        return
    listed = f"{name} must be one of {', '.join(map(repr, choices))}"
    if not isinstance(value, str):
        raise TypeError(f"{function}: {listed}, got {type_name(value)}")
    raise ValueError(f"{function}: {listed}, got {value!r}{other_choice(value, choices)}")


def check_takes(function: str, name: str, f: object, form: str, given: int, by_name: str) -> None:
    """Check that the argument ``name`` is a function of ``form``, and takes the ``given`` number of arguments.

    ``by_name`` says what is not among them but given by keyword.
    """
    if not callable(f):
        raise TypeError(f"{function}: {name} must be a function of {form}, got {type_name(f)}")
    try:
        signature = inspect.signature(f)
    except (TypeError, ValueError):  # some compiled functions have none
        return
    try:
        signature.bind(*[None] * given)
    except TypeError:
        taken = ", ".join(map(str, signature.parameters))
        raise TypeError(
            f"{function}: {name} must take the {given} arguments {form} of this call ({by_name}), "
            f"got a function of ({taken})"
        ) from None


def positive(function: str, name: str, x: object, *, zero: bool = True) -> float:
    """Return ``x`` as a float; refuse anything but a finite number >= 0 (or > 0)."""
    if type(x) is float and (0 < x < math.inf or (x == 0 and zero)):
        return x
    if type(x) is not float and (isinstance(x, bool) or not isinstance(x, numbers.Real)):
        raise TypeError(f"{function}: {name} must be a number, got {type_name(x)}")
    value = float(x) if fits_float(x) else math.inf
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        got = x if fits_float(x) else "a number that no float holds"
        raise ValueError(f"{function}: {name} must be finite and {'at least' if zero else 'above'} 0, got {got}")
    return value


def count(function: str, name: str, x: object, minimum: int = 0, maximum: int | None = None) -> int:
    """Return ``x`` as an int; refuse anything but an integer >= ``minimum``, and <= ``maximum`` unless that is None."""
    if type(x) is int and x >= minimum and (maximum is None or x <= maximum):
        return x
    if isinstance(x, bool) or not isinstance(x, (int, np.integer)):
        raise TypeError(f"{function}: {name} must be an int, got {type_name(x)}")
    if x < minimum:
        raise ValueError(f"{function}: {name} must be at least {minimum}, got {x}")
    if maximum is not None and x > maximum:
        raise ValueError(f"{function}: {name} must be at most {maximum}, got {x}")
    return int(x)


def check_entries(function: str, name: str, x: Array, good: Array, expected: str) -> None:
    """Check that ``good`` is True for all entries of ``x``; the message has the first other entry and its index."""
    if not good.all():
        where = tuple(map(int, np.unravel_index(int(np.argmin(good)), good.shape)))
        raise ValueError(f"{function}: {name} must {expected}, got {x[where]}{at_index(where)}")


def check_finite(function: str, name: str, x: Array) -> None:
    """Refuse infinities and NaN, by the index of the first."""
    is_finite = np.isfinite(x)
    if not is_finite.all():
        check_entries(function, name, x, is_finite, "be finite")


def at_index(where: Sequence[int]) -> str:
    """Return an index as the end of a message; nothing for the only entry of an array without axes."""
    return f" at index {where[0] if len(where) == 1 else tuple(where)}" if where else ""


def fits_float(number: Any) -> bool:
    """Return whether a number is within the range of a float; an int or a Fraction may exceed it."""
    if isinstance(number, float):
        return True
    try:
        float(number)
    except OverflowError:
        return False
    return True


def check_arrays(function: str, names: Sequence[str], arrays: Sequence[object], dtypes: Sequence[str] = FLOATS) -> None:
    """Check that all are ndarrays of one of the dtypes (in native byte order); the first array sets the dtype."""
    dtype = getattr(arrays[0], "dtype", None)
    for x in arrays:
        if type(x) is not np.ndarray or x.dtype != dtype:
            break
    else:
        if dtype in _FLOATS:
            return
    for name, x in zip(names, arrays, strict=True):
        check_array(function, name, x, dtypes)
        if x.dtype != dtype:  # type: ignore[attr-defined]
            raise TypeError(f"{function}: {name} must have dtype {dtype} like {names[0]}, got {x.dtype}")  # type: ignore[attr-defined]


def check_array(function: str, name: str, x: object, dtypes: Sequence[str] = FLOATS) -> None:
    """Check that ``x`` is an ndarray of one of the dtypes, compared by name as bfloat16 comes from another package."""
    if type(x) is np.ndarray and x.dtype.name in dtypes and x.dtype.isnative:
        return
    expected = f"a NumPy array of {' or '.join(part for part in (', '.join(dtypes[:-1]), dtypes[-1]) if part)}"
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{function}: {name} must be {expected}, got {type_name(x)}")
    refuse_mask(function, name, x)
    if isinstance(x, np.matrix):
        raise TypeError(f"{function}: {name} must be an array (np.asarray(x) is), got numpy.matrix")
    if x.dtype.name not in dtypes or not x.dtype.isnative:
        remedy = " (x.astype(float) is)" if x.dtype.kind in "iu" and "float64" in dtypes else ""
        raise TypeError(f"{function}: {name} must be {expected}{remedy}, got dtype {x.dtype}")


def float_dtype(function: str, dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return the argument ``dtype`` as one of NumPy's, which must be float32 or float64."""
    try:
        result = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"{function}: dtype must be float32 or float64, got {dtype!r}") from None
    if result not in _FLOATS:
        raise TypeError(f"{function}: dtype must be float32 or float64, got {result}")
    return result


def refuse_mask(function: str, name: str, x: object) -> None:
    """Check that ``x`` is not a masked array: masked elements would be treated as valid."""
    masked = sys.modules.get("numpy.ma")  # absent unless it has been imported
    if masked is not None and isinstance(x, masked.MaskedArray):
        raise TypeError(f"{function}: {name} must be without a mask (x.filled(value) is), got a masked array")


def check_out(
    function: str,
    out: object,
    shape: tuple[int, ...],
    names: Sequence[str],
    inputs: Sequence[Array],
    dtypes: Sequence[str] = FLOATS,
) -> None:
    """Check that ``out`` is a writable array of this shape and of the first input's dtype, and overlaps no input."""
    check_array(function, "out", out, dtypes)
    assert isinstance(out, np.ndarray)  # for the type checker: check_array has checked it
    if out.dtype != inputs[0].dtype:
        raise TypeError(f"{function}: out must have dtype {inputs[0].dtype} like {names[0]}, got {out.dtype}")
    check_room(function, out, shape)
    check_apart(function, out, names, inputs)


def check_room(function: str, out: Array, shape: tuple[int, ...], name: str = "out") -> None:
    """Check that ``out`` is writable, has this shape and does not overlap itself."""
    if out.shape != shape:
        raise ValueError(f"{function}: {name} must have shape {shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError(f"{function}: {name} must be writable, got a read-only array")
    if overlaps_itself(out.shape, out.strides, out.itemsize):
        raise ValueError(f"{function}: {name} must have one place for each element, got strides {out.strides}")


def check_apart(function: str, out: Array, names: Sequence[str], inputs: Sequence[Array], written: str = "out") -> None:
    """Check that ``out``, the argument ``written``, shares no memory with any input."""
    for name, x in zip(names, inputs, strict=True):
        if np.may_share_memory(out, x):
            raise ValueError(f"{function}: {written} must not share memory with the inputs, got the memory of {name}")


def overlaps_itself(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> bool:
    """Return whether elements may share memory: if a stride is below the extent of the axes with smaller strides."""
    span = itemsize
    for stride, size in sorted((abs(stride), size) for stride, size in zip(strides, shape, strict=True)):
        if size > 1 and stride < span:
            return 0 not in shape
        span += (size - 1) * stride
    return False


def integers(function: str, name: str, x: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return a contiguous int64 copy of ``x``; refuse anything but integers."""
    refuse_mask(function, name, x)
    try:
        array = np.asarray(x)
    except ValueError:
        raise TypeError(f"{function}: {name} must be integers of one shape, got a ragged sequence") from None
    if array.size == 0 and array.dtype == np.float64 and not isinstance(x, np.ndarray):
        array = array.astype(np.int64)  # an empty list has no dtype of its own
    if array.dtype.kind not in "iu":
        raise TypeError(f"{function}: {name} must be integers, got dtype {array.dtype}")
    if array.dtype.kind == "u" and array.max(initial=0) > np.iinfo(np.int64).max:
        raise ValueError(f"{function}: {name} must be at most 2**63 - 1, got {array.max()}")
    return np.array(array, dtype=np.int64, order="C")  # a copy that the caller cannot change; 0-d arrays stay 0-d


def unit_stride(x: Array) -> Array:
    """Return ``x``, or a copy, with aligned elements and a contiguous last axis."""
    flags, size = x.flags, x.itemsize
    if flags.c_contiguous and flags.aligned:
        return x
    in_elements = all(stride % size == 0 for stride in x.strides)
    if flags.aligned and in_elements and (x.shape[-1] <= 1 or x.strides[-1] == size):
        return x
    return np.ascontiguousarray(x)


#: Arrays of at least this many bytes reuse freed memory, whose pages are already mapped.
_LARGE = 1 << 20


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an uninitialised C-contiguous array."""
    nbytes = math.prod(shape) * dtype.itemsize
    return (
        np.empty(shape, dtype)
        if nbytes < _LARGE
        else np.frombuffer(memoryview(_core.Buffer(nbytes)), dtype).reshape(shape)
    )


def empty_steps(wx: Array, inner: tuple[int, ...], dtype: np.dtype[Any] | None = None) -> Array:
    """Return a dense (B, T, *inner) with time or batch outermost in memory, as in ``wx``; by default in its dtype."""
    batch, time = wx.shape[:2]
    dtype = wx.dtype if dtype is None else dtype
    if abs(wx.strides[1]) > abs(wx.strides[0]):
        return empty((time, batch, *inner), dtype).swapaxes(0, 1)
    return empty((batch, time, *inner), dtype)
