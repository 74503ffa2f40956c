"""Calls of the compiled proximal operators on arrays."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import _core
from ..._array_like import as_array
from ..._backend import Backend, Backends, choose
from ..._check import check_array, check_arrays, count, empty, fits_float, type_name

Array = npt.NDArray[Any]

#: The numbers of the kernels in csrc/fixedpoint/cpu/prox.hpp
KINDS = {"simplex": 0, "l1_ball": 1, "softmax_entropy": 2, "entropy": 3}
#: Range of the weights of the entropies: the reciprocal of a smaller one is out of float32's range
MINIMUM, MAXIMUM = 1e-30, 100.0


def check_groups(function: str, y: Any, axis: Any) -> int:
    """Return the axis of the groups from 0 on, after checking that y has it."""
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise TypeError(f"{function}: axis must be an int, got {type_name(axis)}")
    if y.ndim == 0:
        raise ValueError(f"{function}: y must have at least one axis, got a single number")
    if not -y.ndim <= axis < y.ndim:
        raise ValueError(f"{function}: axis must be from {-y.ndim} to {y.ndim - 1} for y {tuple(y.shape)}, got {axis}")
    return int(axis) % int(y.ndim)


def check_not_empty(function: str, y: Any, axis: int) -> None:
    """Refuse empty groups, whose sum can only be 0."""
    if y.shape[axis] == 0:
        raise ValueError(f"{function}: y must have at least one number along axis {axis}, got {tuple(y.shape)}")


def check_weight(function: str, name: str, value: float, maximum: float = MAXIMUM) -> float:
    """Return the weight of an entropy, a finite number, after checking that it is in range."""
    if not MINIMUM <= value <= maximum:
        raise ValueError(f"{function}: {name} must be from {MINIMUM:g} to {maximum:g}, got {value:g}")
    return value


def finite(function: str, name: str, x: Any) -> float:
    """Return ``x`` as a float; refuse anything but a finite number."""
    if isinstance(x, bool) or not isinstance(x, numbers.Real):
        raise TypeError(f"{function}: {name} must be a number, got {type_name(x)}")
    value = float(x) if fits_float(x) else math.inf
    if not math.isfinite(value):
        raise ValueError(f"{function}: {name} must be finite, got {x if fits_float(x) else 'what no float holds'}")
    return value


def bounds(function: str, name: str, x: Any, y: Array) -> Array:
    """Return a number, or an array that broadcasts to y, in the dtype of y."""
    if not isinstance(x, np.ndarray):
        if isinstance(x, bool) or not isinstance(x, numbers.Real) or not fits_float(x):
            raise TypeError(f"{function}: {name} must be a number or an array, got {type_name(x)}")
        with np.errstate(over="ignore"):
            return np.array(x, y.dtype)
    check_arrays(function, ("y", name), (y, x))
    check_broadcast(function, name, x.shape, y.shape)
    return np.ascontiguousarray(x).reshape(x.shape)


def check_broadcast(function: str, name: str, shape: tuple[int, ...], to: tuple[int, ...]) -> None:
    """Check that an array of a shape can be broadcast to another."""
    tail = to[len(to) - len(shape) :]
    if len(shape) > len(to) or any(n not in (1, m) for n, m in zip(shape, tail, strict=True)):
        raise ValueError(f"{function}: {name} must broadcast to the shape {to} of y, got {shape}")


def check_sizes(function: str, sizes: Any, size: int) -> tuple[int, ...]:
    """Return the sizes of the groups of an axis, after checking that they sum to its size."""
    if not isinstance(sizes, (tuple, list)) and not (isinstance(sizes, np.ndarray) and sizes.ndim == 1):
        raise TypeError(f"{function}: sizes must be a sequence of integers, got {type_name(sizes)}")
    parts = tuple(count(function, "sizes", part) for part in sizes)
    if sum(parts) != size:
        raise ValueError(f"{function}: sizes must have the sum {size}, the size of the axis, got {sum(parts)}")
    return parts


def layout(shape: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    """Return (outer, size, inner) of a contiguous array with groups along an axis."""
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


def _cpu(name: str, y: Array, parameter: float, axis: int) -> Array:
    array = np.ascontiguousarray(y)
    out = empty(y.shape, y.dtype)
    _core.fixedpoint.prox(KINDS[name], y.itemsize * 8, layout(y.shape, axis), parameter, array, out)
    return out


def _specified(name: str, y: Array, parameter: float, axis: int) -> Array:
    from .. import reference_prox

    return reference_prox.along(name, y, parameter, axis)


_BACKENDS: Backends[Array] = {"cpu": _cpu, "reference": _specified}


def checked(function: str, y: Any) -> Array:
    """Return y as a contiguous array of float32 or float64."""
    array = as_array(function, "y", y)
    check_array(function, "y", array)
    return np.ascontiguousarray(array).reshape(np.shape(array))


def run(function: str, name: str, y: Array, parameter: float, axis: int, backend: Backend | None) -> Array:
    """Return an operator of the groups along an axis."""
    return choose(function, _BACKENDS, backend)(name, y, parameter, axis)
