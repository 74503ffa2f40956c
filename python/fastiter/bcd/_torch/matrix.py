"""Data matrices as tensors, dense or sparse, and products with some of their columns, differentiable to any order."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._check import count, type_name
from ..._torch.ops import FLOATS, check_tensors, checked_integers

#: Devices that the solvers support
DEVICES = ("cpu",)
#: Explicit, as the default device may be another one
_CPU = torch.device("cpu")
_SPARSE = {torch.sparse_csr: "csr", torch.sparse_csc: "csc"}


class Pattern:
    """The shape of a matrix (n, m) and, unless it is dense, the rows and columns of its entries."""

    def __init__(self, shape: tuple[int, int], row: Tensor | None = None, col: Tensor | None = None) -> None:
        self.shape, self.row, self.col = shape, row, col

    def part(self, columns: Tensor | None) -> Part:
        """Return some columns, or all of them."""
        return Part(self, columns)


class Part:
    """Some columns of a matrix given by its values: the matrix itself, or its entries."""

    def __init__(self, pattern: Pattern, columns: Tensor | None) -> None:
        self._pattern, self._columns = pattern, columns
        self._entries: Tensor | None = None
        if pattern.row is not None and pattern.col is not None:
            self._row, self._col = pattern.row, pattern.col
            if columns is not None:
                place = columns.new_full((pattern.shape[1],), -1)
                place[columns] = torch.arange(len(columns), device=_CPU)
                self._entries = torch.nonzero(place[pattern.col] >= 0).flatten()
                self._row, self._col = pattern.row[self._entries], place[pattern.col[self._entries]]

    @property
    def size(self) -> int:
        """The number of elements that a product with one vector computes: one for each entry of a sparse matrix."""
        n, m = self._pattern.shape
        columns = m if self._columns is None else len(self._columns)
        return n + columns if self._pattern.row is None else n + columns + len(self._row)

    def of(self, values: Tensor) -> Tensor:
        """Return the values of these columns."""
        if self._columns is None:
            return values
        if self._pattern.row is None:
            return values.index_select(1, self._columns)
        assert self._entries is not None
        return values.index_select(0, self._entries)

    def times(self, own: Tensor, X: Tensor) -> Tensor:
        """Return the product of these columns with X (columns, k)."""
        if self._pattern.row is None:
            return own @ X
        out = X.new_zeros(self._pattern.shape[0], X.shape[1])
        return out.index_add(0, self._row, own.unsqueeze(1) * X.index_select(0, self._col))

    def transposed(self, own: Tensor, U: Tensor) -> Tensor:
        """Return the product of the transpose of these columns with U (n, k)."""
        if self._pattern.row is None:
            return own.mT @ U
        columns = self._pattern.shape[1] if self._columns is None else len(self._columns)
        out = U.new_zeros(columns, U.shape[1])
        return out.index_add(0, self._col, own.unsqueeze(1) * U.index_select(0, self._row))


class TensorMatrix(NamedTuple):
    """A matrix in the caller's form: dense, or in lines, the rows of a CSR or the columns of a CSC matrix."""

    values: Tensor
    shape: tuple[int, int]
    kind: str = "dense"
    starts: Tensor | None = None
    minor: Tensor | None = None

    @property
    def pattern(self) -> Pattern:
        """The shape, and the row and the column of each entry."""
        if self.starts is None or self.minor is None:
            return Pattern(self.shape)
        lines = torch.arange(len(self.starts) - 1, device=_CPU)
        major = torch.repeat_interleave(lines, self.starts.diff())
        return Pattern(self.shape, *((major, self.minor) if self.kind == "csr" else (self.minor, major)))

    def array(self, function: str) -> Any:
        """Return the matrix in the form for problems of arrays, in the same memory."""
        if self.starts is None or self.minor is None:
            return array_of(self.values)
        try:
            import scipy.sparse as sp
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"{function}: sparse tensors need SciPy, which is not installed") from error
        kind = sp.csr_array if self.kind == "csr" else sp.csc_array
        return kind(tuple(array_of(x) for x in (self.values, self.minor, self.starts)), shape=self.shape)


def read_matrix(function: str, name: str, A: object) -> TensorMatrix:
    """Return a matrix on the CPU of float32 or float64, whose values are differentiable; refuse anything else."""
    if isinstance(A, tuple):
        return _of_parts(function, name, A)
    if hasattr(A, "tocsr") and not isinstance(A, Tensor):
        raise TypeError(f"{function}: {name} must be a tensor (fastiter.bcd takes arrays), got {type_name(A)}")
    if isinstance(A, Tensor) and A.layout not in (torch.strided, *_SPARSE):
        raise TypeError(f"{function}: {name} must be dense, CSR or CSC (A.to_sparse_csr() is), got layout {A.layout}")
    values = A.values() if isinstance(A, Tensor) and A.layout in _SPARSE else A
    check_tensors(function, (name,), (values,), FLOATS, DEVICES)
    assert isinstance(A, Tensor) and isinstance(values, Tensor)
    if A.dim() != 2:
        raise ValueError(f"{function}: {name} must have shape (n, m), got {tuple(A.shape)}")
    shape = A.shape[0], A.shape[1]
    if A.layout is torch.strided:
        return TensorMatrix(A, shape)
    kind = _SPARSE[A.layout]
    by_rows = kind == "csr"
    starts, minor = (A.crow_indices(), A.col_indices()) if by_rows else (A.ccol_indices(), A.row_indices())
    attached: Tensor = _Values.apply(f"{function}: {name}", values) if values.requires_grad else values
    return _checked(function, name, TensorMatrix(attached, shape, kind, starts.long(), minor.long()))


class _Values(torch.autograd.Function):
    """The values of a sparse tensor, through which torch differentiates once and then loses the graph."""

    @staticmethod
    def forward(ctx: Any, name: str, values: Tensor) -> Tensor:
        ctx.name = name
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor]:
        if torch.is_grad_enabled():
            remedy = "(crow, col, values, (n, m)) in its place has derivatives of any order"
            raise RuntimeError(f"{ctx.name} must not be a sparse tensor if its gradient is differentiated; {remedy}")
        return None, g


def _of_parts(function: str, name: str, A: tuple[Any, ...]) -> TensorMatrix:
    if len(A) != 4:
        raise TypeError(f"{function}: {name} must be a tensor or (crow, col, values, (n, m)), got {len(A)} parts")
    crow, col = (checked_integers(function, part, x) for part, x in zip(("crow", "col"), A[:2], strict=True))
    check_tensors(function, ("values",), (A[2],), FLOATS, DEVICES)
    shape = A[3]
    if not isinstance(shape, (tuple, list)) or len(shape) != 2:
        raise TypeError(f"{function}: the shape of {name} must be (n, m), got {type_name(shape)}")
    n, m = (count(function, "the shape", size) for size in shape)
    return _checked(function, name, TensorMatrix(A[2], (n, m), "csr", crow, col))


def _checked(function: str, name: str, matrix: TensorMatrix) -> TensorMatrix:
    """Refuse a pattern that is out of the bounds of its tensors and shape, which torch does not always check."""
    starts, minor, (values, shape) = matrix.starts, matrix.minor, matrix[:2]
    assert starts is not None and minor is not None
    lines, ends = shape if matrix.kind == "csr" else shape[::-1]
    fits = values.dim() == 1 and minor.shape == values.shape and starts.shape == (lines + 1,)
    if fits:
        fits = bool(starts[0] == 0 and starts[-1] == len(minor) and (starts.diff() >= 0).all())
    if fits and len(minor):
        fits = bool(minor.min() >= 0) and bool(minor.max() < ends)
    if not fits:
        raise ValueError(
            f"{function}: {name} must have a pattern inside its tensors and its shape, got one that is not"
        )
    return matrix


def array_of(x: Tensor) -> Any:
    """Return a dense tensor as an array in the same memory."""
    return x.detach().resolve_neg().numpy()
