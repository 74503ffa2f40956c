"""Checks of the arguments of relaxation on tensors: sparse tensors or their parts, vectors and options."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._check import check_choice
from ..._torch.ops import CPU_AND_CUDA, check_tensors, checked_integers
from .._sweeps.matrix import check_pattern
from .ops import _Csr, rows
from .tensors import check_matrix, rows_of

DTYPES = (torch.float32, torch.float64, torch.complex128)
METHODS = ("jacobi", "gauss_seidel", "sor", "ssor")
ORDERS = ("natural", "red-black", "color", "cluster")

Matrix = Tensor | tuple[Any, Any, Tensor]


def check_options(function: str, method: object, order: object) -> None:
    """Check the method and the order."""
    check_choice(function, "method", method, METHODS)
    check_choice(function, "order", order, ORDERS)
    if method == "jacobi" and order != "natural":
        raise ValueError(f"{function}: order must be 'natural' for jacobi, got {order!r}")


def checked_parts(function: str, A: Any, *, rectangular: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Check a sparse tensor or its parts; return crow and col on the CPU, and the values.

    ``rectangular``: whether a tensor may have another number of columns than rows.
    """
    if not isinstance(A, (tuple, list)):
        check_matrix(function, A, " or (crow, col, values)")
        if A.dim() != 2 or not (rectangular or A.shape[0] == A.shape[1]):
            expected = "(rows, columns)" if rectangular else "(n, n)"
            raise ValueError(f"{function}: A must have shape {expected}, got {tuple(A.shape)}")
        return rows_of(A)
    if len(A) != 3:
        raise TypeError(f"{function}: A must be a sparse tensor or (crow, col, values), got {len(A)} parts")
    crow, col = (checked_integers(function, name, x) for name, x in zip(("crow", "col"), A, strict=False))
    values = A[2]
    check_tensors(function, ("values",), (values,), DTYPES, CPU_AND_CUDA)
    if crow.dim() != 1 or crow.shape[0] == 0:
        raise ValueError(f"{function}: crow must have shape (n + 1,), got {tuple(crow.shape)}")
    if values.dim() != 1 or col.shape != values.shape:
        raise ValueError(
            f"{function}: col must have the shape (entries,) of values, "
            f"got {tuple(col.shape)} and {tuple(values.shape)}"
        )
    return crow, col, values


def entries_of(function: str, name: str, A: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows, the columns and the values of a sparse tensor or its parts, on the device of the values."""
    crow, col, values = checked_parts(function, A)
    check_pattern(function, name, _Csr(torch.ones(col.shape, dtype=torch.float32, device=col.device), crow, col))
    return rows(crow, col).to(values.device), col.to(values.device), values


def check_shapes(function: str, crow: Tensor, b: Tensor, x: Tensor | None, name: str) -> None:
    n = crow.shape[0] - 1
    if b.dim() not in (1, 2) or b.shape[0] != n:
        raise ValueError(f"{function}: b must have shape ({n},) or ({n}, k) to go with A, got {tuple(b.shape)}")
    if x is not None and x.shape != b.shape:
        raise ValueError(f"{function}: {name} must have shape {tuple(b.shape)} like b, got {tuple(x.shape)}")
