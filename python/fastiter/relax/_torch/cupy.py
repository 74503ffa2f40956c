"""Solves systems given as CuPy arrays, after their conversion to tensors: called by the functions of fastiter.relax."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from torch import Tensor

from ..._call.iterate import Limits
from .._solvers.result import LinearSolution
from .implicit import solve_on_card


def solve(method: Any, A: Any, b: Tensor, x0: Tensor | None, limits: Limits, **options: Any) -> LinearSolution[Tensor]:
    """Solve by a method. A is a Stencil, dense, or (indptr, indices, data, shape); only value is not a NumPy array."""
    result = solve_on_card(method, A, b, x0, _with_arrays(limits), **options)
    names = ("converged", "steps", "residual", "tolerance", "history")
    return dataclasses.replace(result, **{name: _array(getattr(result, name)) for name in names})


def _array(x: Any) -> Any:
    return x.numpy() if isinstance(x, Tensor) else x


def _with_arrays(limits: Limits) -> Limits:
    """Return limits whose callback receives CuPy's x, and NumPy arrays of numbers."""
    if limits.callback is None:
        return limits
    cupy = importlib.import_module("cupy")
    return limits.with_callback(lambda progress: progress._converted(_array, cupy.from_dlpack))
