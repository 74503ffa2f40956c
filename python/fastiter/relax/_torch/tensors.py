"""Conversion of sparse tensors to the matrices of fastiter.relax, and of its results to tensors."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._check import type_name
from ..._solution import Solution
from .._matrix import Batch, Csr

DTYPES = {torch.float32: "float32", torch.float64: "float64", torch.complex128: "complex128"}


class Sparse:
    """The part of SciPy's sparse matrix interface that :class:`fastiter.relax.Relaxation` needs."""

    def __init__(self, kind: str, A: Tensor) -> None:
        self.format, self.shape = kind, tuple(A.shape)
        arrays = (A.crow_indices(), A.col_indices(), A.values().detach())
        self.indptr, self.indices, self.data = (x.cpu().contiguous().numpy() for x in arrays)
        self.dtype = self.data.dtype
        self.blocksize = self.data.shape[1:] if kind == "bsr" else None

    def tocsr(self) -> Sparse:
        """Return the matrix in CSR; zeros inside blocks stay entries."""
        if self.blocksize is None:
            return self
        height, width = self.blocksize
        counts = np.diff(self.indptr)
        ends = [pair for pair in pairwise(self.indptr) for _ in range(height)]
        blocks = np.concatenate([np.zeros(0, np.int64), *(np.arange(*pair) for pair in ends)])
        row_in = np.repeat(np.tile(np.arange(height), len(counts)), np.repeat(counts, height))
        data = self.data[blocks, row_in].reshape(-1)
        column = (self.indices[blocks][:, None] * width + np.arange(width)).reshape(-1)
        lengths = np.repeat(counts * width, height)
        return Sparse.of_rows(
            Csr(self.shape[1], np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]), column, data)
        )

    @classmethod
    def of_rows(cls, A: Csr) -> Sparse:
        """Make a matrix from compressed rows."""
        found = object.__new__(cls)
        found.format, found.shape, found.dtype, found.blocksize = "csr", (A.n, A.columns), A.value.dtype, None
        found.indptr, found.indices, found.data = A.start, A.column, A.value
        return found


def matrix_of(A: Any) -> Sparse | Batch:
    """Convert a sparse tensor to a matrix that :class:`fastiter.relax.Relaxation` takes."""
    kinds = {torch.sparse_csr: "csr", torch.sparse_bsr: "bsr"}
    layout = A.layout if isinstance(A, Tensor) else None
    if layout not in kinds:
        found = type_name(A) if layout is None else f"a tensor of layout {layout}"
        raise TypeError(f"Relaxation: A must be a sparse CSR or BSR tensor or a Stencil, got {found}")
    if A.dtype not in DTYPES:
        raise TypeError(f"Relaxation: A must have dtype float32, float64 or complex128, got {A.dtype}")
    if A.dim() == 3 and layout == torch.sparse_csr:
        return _batch_of(A)
    if A.dim() != 2:
        expected = "(n, n), or in CSR (batch, n, n)"
        raise ValueError(f"Relaxation: A must have shape {expected}, got {tuple(A.shape)}")
    return Sparse(kinds[layout], A)


def _batch_of(A: Tensor) -> Batch:
    crow, col, values = A.crow_indices(), A.col_indices(), A.values()
    if len(crow) == 0:
        raise ValueError(f"Relaxation: A must have at least one matrix, got shape {tuple(A.shape)}")
    differs = (crow != crow[:1]).any(dim=1) | (col != col[:1]).any(dim=1)
    if bool(differs.any()):
        number = int(differs.to(torch.int8).argmax())
        raise ValueError(f"Relaxation: A must have one pattern for all its matrices, got another in matrix {number}")
    pattern = torch.sparse_csr_tensor(crow[0], col[0], values[0].detach(), A.shape[1:], check_invariants=False)
    return Batch(Sparse("csr", pattern), values.detach().cpu().contiguous().numpy())


def overlap(x: Tensor, b: Tensor) -> bool:
    """Return whether the address ranges of x and b, from first to last element, overlap."""
    if x.numel() == 0 or b.numel() == 0:
        return False
    (first, last), (other_first, other_last) = (
        (
            t.data_ptr(),
            t.data_ptr() + t.element_size() * sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)),
        )
        for t in (x, b)
    )
    return first <= other_last and other_first <= last


def on_tensors(found: Solution) -> Solution:
    """Return the solution with its arrays as tensors."""

    def tensor(x: Any) -> Any:
        return torch.from_numpy(x) if isinstance(x, np.ndarray) else x

    arrays = {name: tensor(getattr(found, name)) for name in ("value", "converged", "steps", "residual", "history")}
    return Solution(**arrays, reason=found.reason, method=found.method, omega=found.omega)
