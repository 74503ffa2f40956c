"""Solves systems given as CuPy arrays, after their conversion to tensors: called by the functions of fastiter.relax."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import torch
from torch import Tensor

from ..._solution import Solution
from ..stencil import Stencil
from .chebyshev import Chebyshev
from .relaxation import Relaxation


def solve(method: str, A: Any, b: Tensor, x0: Tensor | None, limits: dict[str, Any], **options: Any) -> Solution:
    """Solve by a method. A is a Stencil, dense, or (indptr, indices, data, shape); only value is not a NumPy array."""
    if method == "chebyshev":
        bounds = options.pop("bounds", None)
        found = Chebyshev(Relaxation(_matrix(A), "jacobi", **options), bounds=bounds).solve(b, x0, **limits)
    else:
        found = Relaxation(_matrix(A), method, **options).solve(b, x0, **limits)
    rest = {field.name: getattr(found, field.name) for field in dataclasses.fields(found) if field.name != "value"}
    on_host: dict[str, Any] = {name: x.numpy() if isinstance(x, Tensor) else x for name, x in rest.items()}
    return dataclasses.replace(found, **on_host)


def _matrix(A: Any) -> Tensor | Stencil:
    with warnings.catch_warnings():  # torch's beta warning about CSR tensors, which the user did not create
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return _rows(A)


def _rows(A: Any) -> Tensor | Stencil:
    if isinstance(A, tuple):
        starts, columns, values, shape = A
        return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)
    return A.to_sparse_csr() if isinstance(A, Tensor) else A
