"""Exact comparison of fixed-point numbers with each other and with other real numbers, by value."""

from __future__ import annotations

import operator
from collections.abc import Callable
from numbers import Number, Rational
from typing import Any

import numpy as np
import numpy.typing as npt

from ..._check import refuse_mask
from .._formats.fixed import Fixed

Array = npt.NDArray[Any]
#: Codes and their format
Codes = tuple[Array, Fixed]
#: The types that compare exactly with Fractions
_EXACT = (Rational, float)


class Comparable:
    """Fixed-point numbers that compare by value, element by element."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    codes: Array
    fmt: Fixed

    def to_float(self) -> npt.NDArray[np.float64]:
        """Return the values as floats.

        Returns
        -------
        ndarray of float64
            Rounded to nearest where a code has more than 53 bits.
        """
        return as_floats(self.codes, self.fmt)

    def to_fractions(self) -> Array:
        """Return the exact values.

        Returns
        -------
        ndarray of object
            Numbers of the type :class:`fractions.Fraction`.
        """
        return as_fractions(self.codes, self.fmt)

    def _compared(self, other: object, op: Callable[[Any, Any], Any]) -> Any:
        theirs = (other.codes, other.fmt) if isinstance(other, Comparable) else _numbers_of(other)
        return _compared((self.codes, self.fmt), theirs, op)

    def __eq__(self, other: object) -> Any:
        return self._compared(other, operator.eq)

    def __ne__(self, other: object) -> Any:
        return self._compared(other, operator.ne)

    def __lt__(self, other: object) -> Any:
        return self._compared(other, operator.lt)

    def __le__(self, other: object) -> Any:
        return self._compared(other, operator.le)

    def __gt__(self, other: object) -> Any:
        return self._compared(other, operator.gt)

    def __ge__(self, other: object) -> Any:
        return self._compared(other, operator.ge)


def as_floats(codes: Array, fmt: Fixed) -> npt.NDArray[np.float64]:
    """Return the values as float64, rounded to nearest where a code has more than 53 bits."""
    return np.ldexp(codes.astype(np.float64), -fmt.fraction)


def as_fractions(codes: Array, fmt: Fixed) -> Array:
    """Return the exact values as Fractions."""
    return np.array([code * fmt.step for code in codes.ravel().tolist()], object).reshape(codes.shape)


def _numbers_of(y: object) -> Codes | Array | None:
    """Return integers as codes, and floats or exact objects as an array; None for anything that is not a number."""
    if not isinstance(y, (Number, list, tuple, np.ndarray)) and not hasattr(y, "__array__"):
        return None
    refuse_mask("FixedArray", "the other side of a comparison", y)
    try:
        array = np.asarray(y)
    except ValueError:
        raise TypeError("FixedArray: a comparison must be with numbers of one shape, got a ragged sequence") from None
    if array.dtype.kind in "iu":
        width = 8 * array.dtype.itemsize
        return array, Fixed(width, width, array.dtype.kind == "i")
    if array.dtype.kind == "O" and all(isinstance(v, _EXACT) for v in array.flat):
        return array
    if array.dtype.name in ("float16", "float32", "float64", "bfloat16"):
        return array.astype(np.float64)
    raise TypeError(f"FixedArray: a comparison must be with real numbers, got dtype {array.dtype}")


def _compared(x: Codes, y: Codes | Array | None, op: Callable[[Any, Any], Any]) -> Any:
    """Return op of the values, or NotImplemented if there is no number to compare with."""
    if y is None:
        return NotImplemented
    if isinstance(y, tuple):
        return _truths(op(*_aligned(x, y)))
    if y.dtype.kind == "f" and x[1].width <= 53:  # float64 holds the values
        return _truths(op(as_floats(*x), y))
    with np.errstate(invalid="ignore"):  # comparing a NaN in an object array
        return _truths(op(as_fractions(*x), y.astype(object)))


def _aligned(x: Codes, y: Codes) -> list[Array]:
    """Return the codes as multiples of the finer step."""
    fraction = max(x[1].fraction, y[1].fraction)
    bits = max(fmt.width + fraction - fmt.fraction + (not fmt.signed) for _, fmt in (x, y))
    dtype = np.dtype(np.int64 if bits <= 64 else object)  # Python integers where 64 bits cannot hold both
    moved = []
    for codes, fmt in (x, y):
        left = fraction - fmt.fraction
        moved.append(codes.astype(dtype) << (np.int64(left) if bits <= 64 else left))
    return moved


def _truths(result: Any) -> Any:
    return result if isinstance(result, np.ndarray) and result.dtype == bool else np.asarray(result, bool)[()]
