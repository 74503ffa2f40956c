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

_LIMITS = ("rtol", "atol", "max_steps", "check_every")


def solve(b: Tensor, x0: Tensor | None, A: Any, method: str, **options: Any) -> Solution:
    """Solve by a method. A is a Stencil, dense, or (shape, indptr, indices, data); only value is not a NumPy array."""
    limits = {name: options.pop(name) for name in _LIMITS if name in options}
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
        shape, starts, columns, values = A
        return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)
    return A.to_sparse_csr() if isinstance(A, Tensor) else A
