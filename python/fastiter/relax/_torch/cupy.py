"""Solves systems given as CuPy arrays, after their conversion to tensors: called by the functions of fastiter.relax."""

from __future__ import annotations

import dataclasses
import importlib
import warnings
from typing import Any

import torch
from torch import Tensor

from ..._call.iterate import Limits
from .._solvers.result import LinearSolution
from .._sweeps.stencil import Stencil
from .chebyshev import Chebyshev
from .relaxation import Relaxation


def solve(method: Any, A: Any, b: Tensor, x0: Tensor | None, limits: Limits, **options: Any) -> LinearSolution:
    """Solve by a method. A is a Stencil, dense, or (indptr, indices, data, shape); only value is not a NumPy array."""
    limits = _with_arrays(limits)
    if method == "chebyshev":
        bounds = options.pop("bounds", None)
        result = Chebyshev(Relaxation(_matrix(A), "jacobi", **options), bounds=bounds)._solve(method, b, x0, limits)
    else:
        result = Relaxation(_matrix(A), method, **options)._solve(method, b, x0, limits)
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


def _matrix(A: Any) -> Tensor | Stencil:
    with warnings.catch_warnings():  # torch's beta warning about CSR tensors, which the user did not create
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return _rows(A)


def _rows(A: Any) -> Tensor | Stencil:
    if isinstance(A, tuple):
        starts, columns, values, shape = A
        return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)
    return A.to_sparse_csr() if isinstance(A, Tensor) else A
