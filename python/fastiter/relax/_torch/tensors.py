"""Conversion of sparse tensors to the matrices of fastiter.relax, and of its results to tensors."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._call.iterate import Limits
from ..._check import type_name
from ..._torch.ops import check_entries
from .._solvers.result import LinearSolution
from .._sweeps.matrix import Batch, Csr

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
        """Return the matrix in CSR; zeros inside blocks remain entries."""
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
        result = object.__new__(cls)
        result.format, result.shape, result.dtype, result.blocksize = "csr", (A.n, A.columns), A.value.dtype, None
        result.indptr, result.indices, result.data = A.start, A.column, A.value
        return result


_LAYOUTS = {
    torch.sparse_csr: "csr",
    torch.sparse_csc: "csc",
    torch.sparse_bsr: "bsr",
    torch.sparse_bsc: "bsc",
    torch.sparse_coo: "coo",
}


def check_matrix(function: str, A: object, others: str = "") -> None:
    """Refuse anything but a sparse tensor with a dtype of the kernels."""
    if not isinstance(A, Tensor):
        more = "" if not hasattr(A, "tocsr") else " (fastiter.relax takes SciPy's matrices)"
        raise TypeError(f"{function}: A must be a sparse tensor{others}, got {type_name(A)}{more}")
    if A.layout not in _LAYOUTS:
        raise TypeError(f"{function}: A must be a sparse tensor{others}, got a dense one (A.to_sparse_csr() is sparse)")
    if A.dtype not in DTYPES:
        raise TypeError(f"{function}: A must have dtype float32, float64 or complex128, got {A.dtype}")


def rows_of(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return crow and col on the CPU, and the values, differentiable in those of A (n, n), of any sparse layout."""
    kind = _LAYOUTS[A.layout]
    if kind == "csr":
        return A.crow_indices().cpu(), A.col_indices().cpu(), _values(A)
    if kind == "coo":
        A = A.coalesce()
        (row, col), values = A.indices(), A.values()
    else:
        by_column = kind in ("csc", "bsc")
        start, minor = _pattern(A)
        lines = torch.arange(len(start) - 1, device=start.device)
        major, values = torch.repeat_interleave(lines, start.diff()), _values(A)
        row, col = (minor, major) if by_column else (major, minor)
        if values.dim() == 3:
            height, width = (torch.arange(size, device=row.device) for size in values.shape[1:])
            row = (row[:, None, None] * len(height) + height[:, None]).expand(values.shape).reshape(-1)
            col = (col[:, None, None] * len(width) + width).expand(values.shape).reshape(-1)
        place = torch.argsort(row * A.shape[1] + col, stable=True)
        row, col, values = row[place], col[place], values.reshape(-1)[place]
    counts = torch.bincount(row.cpu(), minlength=A.shape[0])
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), col.cpu(), values


def _values(A: Tensor) -> Tensor:
    """Return the values of a compressed sparse tensor, differentiable to any order."""
    if torch.is_grad_enabled() and A.requires_grad:
        return _Values.apply(A)  # type: ignore[no-any-return]
    return A.values().detach()  # as torch cannot conjugate a view of a complex CSR tensor


def _pattern(A: Tensor) -> tuple[Tensor, Tensor]:
    """Return the start of each row or column, and the position of each entry in it."""
    by_column = A.layout in (torch.sparse_csc, torch.sparse_bsc)
    return (A.ccol_indices(), A.row_indices()) if by_column else (A.crow_indices(), A.col_indices())


class _Values(torch.autograd.Function):
    """The values of a compressed sparse tensor; torch's own are silently not differentiable twice."""

    @staticmethod
    def forward(ctx: Any, A: Tensor) -> Tensor:
        ctx.pattern = (*_pattern(A.detach()), A.shape, A.layout)
        return A.values().clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return _Compressed.apply(g, *ctx.pattern)  # type: ignore[no-any-return]


class _Compressed(torch.autograd.Function):
    """The sparse tensor of some values, the adjoint of :class:`_Values`."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, start: Tensor, minor: Tensor, shape: torch.Size, layout: Any) -> Tensor:
        ctx.pattern = (start, minor, shape, layout)
        ctx.block = values.shape[1:]
        return torch.sparse_compressed_tensor(start, minor, values, shape, layout=layout, check_invariants=False)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        start, minor, shape, layout = ctx.pattern
        if g.layout == layout and all(map(torch.equal, _pattern(g), (start, minor))):
            return _values(g), None, None, None, None
        major = torch.repeat_interleave(torch.arange(len(start) - 1, device=start.device), start.diff())
        row, column = (major, minor) if layout in (torch.sparse_csr, torch.sparse_bsr) else (minor, major)
        height, width = ctx.block or (1, 1)
        dense = g if g.layout == torch.strided else g.to_dense()
        blocks = dense.reshape(shape[0] // height, height, shape[1] // width, width).transpose(1, 2)
        return blocks[row, column].reshape(-1, *ctx.block), None, None, None, None


def matrix_of(function: str, A: Any) -> Sparse | Batch:
    """Convert a sparse tensor to a matrix that :class:`fastiter.relax.Relaxation` takes."""
    check_matrix(function, A, " or a Stencil")
    kind = _LAYOUTS[A.layout]
    if A.dim() == 3 and kind == "csr":
        return _batch_of(function, A)
    if A.dim() != 2:
        expected = "(n, n), or in CSR (batch, n, n)"
        raise ValueError(f"{function}: A must have shape {expected}, got {tuple(A.shape)}")
    if kind in ("csr", "bsr"):
        return Sparse(kind, A)
    crow, col, values = (x.detach().cpu().contiguous().numpy() for x in rows_of(A))
    return Sparse.of_rows(Csr(A.shape[1], crow, col, values))


def _batch_of(function: str, A: Tensor) -> Batch:
    crow, col, values = A.crow_indices(), A.col_indices(), A.values()
    if len(crow) == 0:
        raise ValueError(f"{function}: A must have at least one matrix, got shape {tuple(A.shape)}")
    differs = (crow != crow[:1]).any(dim=1) | (col != col[:1]).any(dim=1)
    if bool(differs.any()):
        number = int(differs.to(torch.int8).argmax())
        raise ValueError(f"{function}: A must have one pattern for all its matrices, got another in matrix {number}")
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


def check_finite(function: str, name: str, x: Tensor) -> None:
    """Refuse infinities and NaN, by the index of the first; synchronizes."""
    check_entries(function, name, x, x.isfinite(), "be finite")


def on_tensors(result: LinearSolution[Any]) -> LinearSolution[Tensor]:
    """Return the solution with its arrays as tensors."""

    def tensor(x: Any) -> Any:
        return torch.from_numpy(x) if isinstance(x, np.ndarray) else x

    found: Any = replace(result, **{of.name: tensor(getattr(result, of.name)) for of in fields(result)})
    return found


def limits_on_tensors(limits: Limits) -> Limits:
    """Return limits for a solution of arrays whose callback receives tensors."""
    return limits.with_callback(lambda progress: progress._converted(torch.from_numpy, torch.from_numpy))
