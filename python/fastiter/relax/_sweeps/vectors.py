"""Checks of right-hand sides and initial guesses, and their layout in the kernels: contiguous, one row per unknown."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..._array_like import as_array
from ..._check import check_array, refuse_mask
from ..._check import check_finite as check_finite
from ..._check import count as count
from ..._check import positive as positive
from .matrix import DTYPES, VECTORS
from .prepare import System
from .scaled import Prepared

Array = npt.NDArray[Any]


def check_vectors(
    function: str, system: System, b: object, x: object, x_name: str = "x0", *, in_place: bool = False
) -> tuple[Array, Array | None]:
    """Check b, and x unless it is None: shapes (n,), (n, k) or, for a batch, (batch, n), and dtypes that match A's.

    Array-likes are returned as arrays, except for an x that is updated in place.
    """
    dtypes = VECTORS[system.dtype.name]
    if system.grid is not None:
        dtypes = [name for name in DTYPES if np.dtype(name) >= system.dtype]
    b = b if type(b) is np.ndarray else as_array(function, "b", b, system.dtype)
    check_array(function, "b", b, dtypes)
    assert isinstance(b, np.ndarray)  # for the type checker: check_array has checked it
    batch, expected = system.batch, f"({system.rows},) or ({system.rows}, k)"
    if batch:
        expected = f"(batch, n) = ({batch}, {system.rows})"
    fixed = (batch, system.rows) if batch else system.grid
    if system.grid is not None:
        expected = f"{system.grid} or ({', '.join(map(str, system.grid))}, k)"
        fixed = (*system.grid, *b.shape[len(system.grid) :][:1])
    if not (b.ndim in (1, 2) and b.shape[0] == system.rows if fixed is None else b.shape == fixed):
        raise ValueError(f"{function}: b must have shape {expected} to go with A, got {b.shape}")
    if x is None:
        return b, None
    x = x if in_place else as_array(function, x_name, x, b.dtype)
    check_array(function, x_name, x, [b.dtype.name])
    assert isinstance(x, np.ndarray)  # the same
    shape = (batch, system.columns) if batch else b.shape if fixed else (system.columns, *b.shape[1:])
    if x.shape != shape:
        raise ValueError(f"{function}: {x_name} must have shape {shape} to go with A and b, got {x.shape}")
    return b, x


def numbers_of(function: str, name: str, x: object) -> Array:
    """Return ``x`` as an array; refuse anything but real or complex numbers, which SciPy passes in any dtype."""
    refuse_mask(function, name, x)
    try:
        result = np.asarray(x)
    except ValueError:
        raise TypeError(f"{function}: {name} must be numbers of one shape, got a ragged sequence") from None
    if result.dtype.kind not in "biufc":
        raise TypeError(f"{function}: {name} must be numbers, got dtype {result.dtype}")
    return result


def check_writable(function: str, x: Array, b: Array) -> None:
    """Refuse an x that cannot be overwritten while b is read."""
    if not x.flags.writeable:
        raise ValueError(f"{function}: x must be writable, got a read-only array")
    if np.may_share_memory(x, b):
        raise ValueError(f"{function}: x must not share memory with b, got overlapping arrays")


def inside(system: System, x: Array) -> Array:
    """Return x in the kernels' layout, (n, k) contiguous and aligned: x itself if it has this layout already."""
    if system.grid is not None:
        own = np.ascontiguousarray(x).reshape(system.rows, *x.shape[len(system.grid) :])
    else:
        own = np.ascontiguousarray(x.T if system.batch else x)
    return own if own.flags.aligned else own.copy()


class Vectors(NamedTuple):
    """The vectors of a solution in the kernels' layout, and whether b is one right-hand side."""

    b: Array
    x: Array
    single: bool


def checked(function: str, system: System, b: object, x0: object) -> Vectors:
    """Return b and a copy of x0, or 0; refuse infinities and NaN, except at points without an equation."""
    values, start = check_vectors(function, system, b, x0)
    if system.grid is not None:  # a stencil may have points without an equation
        values = system.unknowns(values)
    check_finite(function, "b", values)
    own = inside(system, values)
    if start is None:
        x = np.zeros((system.columns, *own.shape[1:]), own.dtype)
    else:
        check_finite(function, "x0", start)
        x = np.array(inside(system, start))
    return Vectors(own, x, values.ndim == len(system.grid or (1,)))


def outside(system: System, x: Array) -> Array:
    """Undo :func:`inside`: return an array in the caller's shape, contiguous."""
    if system.grid is not None:
        return np.ascontiguousarray(x).reshape(*system.grid, *x.shape[1:])
    return np.ascontiguousarray(x.T if system.batch else x)


def width(x: Array) -> int:
    """Return k of an array (n,) or (n, k)."""
    return 1 if x.ndim == 1 else x.shape[1]


def residual(A: Prepared, x: Array, b: Array, r: Array | None = None) -> Array:
    """Return ||b - A x|| of each column (k,), and write b - A x to r; all arrays are in the kernels' layout."""
    norms = np.empty(b.shape[1] if b.ndim > 1 else 1)
    A.residual(x, b, 0 if r is None else r, len(norms), norms)
    if np.isfinite(norms).all() and (norms > _TINY).all():
        return np.sqrt(norms)
    r = np.empty_like(b) if r is None else r
    A.residual(x, b, r, len(norms), norms)
    return norm(r)


_TINY = 1e-290  # squares of smaller numbers may lose digits


def norm(r: Array) -> Array:
    """Return the 2-norm of each column without overflow or underflow; NaN and infinity propagate."""
    r = r if r.ndim == 2 else r[:, None]
    largest = np.abs(r).max(axis=0, initial=0).astype(np.float64)
    scale = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
    with np.errstate(invalid="ignore", over="ignore"):
        result: Array = scale * np.sqrt((np.abs(r / scale).astype(np.float64) ** 2).sum(axis=0))
    return np.where(np.isnan(r).any(axis=0), np.nan, result)
