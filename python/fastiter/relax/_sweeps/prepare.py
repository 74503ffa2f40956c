"""The matrix of a method, read and converted to the layout of its kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import _core
from ..._check import check_array
from .matrix import (
    DTYPES,
    NUMBERS,
    Batch,
    Blocks,
    Csr,
    Read,
    as_matrix,
    is_sparse,
    read_blocks,
    read_csr,
    refuse,
    square,
    without_zeros,
)
from .order import Arrangement, arrange, permutation
from .scaled import ByRows, Prepared, scaled, scales_of

Array = npt.NDArray[Any]

FULL, LOWER, UPPER = 0, 1, 2
FORWARD, BACKWARD, SYMMETRIC, JACOBI = 0, 1, 2, 3


def _own(A: Read) -> Read:
    """Return a copy of A: it is read again for vectors of another dtype, and after unpickling."""
    return replace(A, start=A.start.copy(), column=A.column.copy(), value=A.value.copy())


class System:
    """A matrix and an order, with a copy in the kernels' layout for each dtype of vectors, made on first use.

    rows, columns: the shape of A; batch: the number of matrices, 0 if not a batch; dtype: that of A. A pickle contains
    only A and the order.
    """

    entries: int  # read by a sweep for each column of x

    def __init__(self, function: str, rows: int, columns: int, dtype: np.dtype[Any], batch: int = 0) -> None:
        self.function, self.rows, self.columns, self.dtype, self.batch = function, rows, columns, dtype, batch
        self._copies: dict[np.dtype[Any], Prepared] = {}
        self.colours, self.is_coloured = 1, False
        self.grid: tuple[int, ...] | None = None  # the shape of x and b of a stencil

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_copies": {}}

    def of(self, dtype: np.dtype[Any]) -> Prepared:
        """Return the copy for vectors of this dtype."""
        result = self._copies.get(dtype)
        if result is None:
            try:
                result = self._copies[dtype] = self._prepare(self._numbers(dtype))
            except ZeroDivisionError as singular:
                row, system = singular.args
                of = f" of system {system}" if self.batch else ""
                raise ValueError(f"{self.function}: {self._singular(row)}{of}") from None
        return result

    def _numbers(self, dtype: np.dtype[Any]) -> int:
        return NUMBERS[self.dtype.name, dtype.name]

    def _prepare(self, numbers: int) -> Prepared:
        raise NotImplementedError

    def unknowns(self, b: Array) -> Array:
        """Return b with 0 at points without an equation."""
        return b

    def _singular(self, row: int) -> str:
        return f"A must have no zero on the diagonal, got 0 in row {row}"

    def random(self, seed: int = 0) -> Array:
        """Return a random x in the kernels' layout, determined by the seed, and 0 at points without an equation."""
        shape = (self.columns, self.batch) if self.batch else (self.columns,)
        return np.random.default_rng([seed, self.columns]).standard_normal(shape).astype(self.dtype)

    def times(self, x: Array) -> Array:
        """Return A x, both in the kernels' layout."""
        k = self.batch or 1
        r, norms = np.empty((self.rows, *x.shape[1:]), x.dtype), np.empty(k)
        self.of(x.dtype).residual(x, np.zeros_like(r), r, k, norms)
        return np.negative(r, out=r)

    def divided(self, b: Array) -> Array:
        """Return D^-1 b with D the (block) diagonal, for the systems of Jacobi's method and of stencils."""
        x = np.zeros_like(b)
        if x.size:
            self.of(b.dtype).sweep(x, b, 0, self.batch or 1, np.ones(1), 0, 1, JACOBI)
        return x

    def has_positive_diagonal(self) -> bool:
        """Return whether D is real, up to rounding, and positive, for the systems of Jacobi's method and stencils."""
        inverse = self.divided(np.ones_like(self.random()))
        rounding = 10 * float(np.finfo(self.dtype).eps) * np.abs(inverse)
        return bool(((np.abs(inverse.imag) <= rounding) & (inverse.real >= 0)).all())


class Scalar(System):
    """Row after row, or the rows of one colour in parallel."""

    def __init__(
        self, function: str, A: Csr, arrangement: Arrangement, *, jacobi: bool = False, part: int = FULL
    ) -> None:
        super().__init__(function, A.n, A.columns, A.value.dtype, A.batch)
        self.A, self.arrangement, self.jacobi, self.part = _own(A), arrangement, jacobi, part
        self.entries = len(A.column)
        self.colours, self.is_coloured = arrangement.number_of_colours, arrangement.is_coloured
        self.of(self.dtype)

    def _prepare(self, numbers: int) -> Prepared:
        A, arrangement, n = self.A, self.arrangement, self.rows
        if self.batch:
            single = Arrangement(0, np.arange(n + 1), np.array([0, n])) if self.jacobi else arrangement
            arrays = (A.start, A.column, A.value, single.order, single.clusters, single.colours)
            return _core.relax.csr(numbers, n, *arrays, self.part, self.batch)
        if self.jacobi:
            return _core.relax.sell(numbers, n, A.start, A.column, A.value, 0, 0, self.part)
        if arrangement.is_coloured:
            return _core.relax.sell(
                numbers, n, A.start, A.column, A.value, arrangement.order, arrangement.colours, self.part
            )
        arrays = (A.start, A.column, A.value, arrangement.order, arrangement.clusters, arrangement.colours)
        return _core.relax.csr(numbers, n, *arrays, self.part, 0)


class Dense(System):
    """Row after row of a dense matrix."""

    def __init__(self, function: str, A: Array, order: Array | int) -> None:
        super().__init__(function, len(A), len(A), A.dtype)
        self.A, self.order, self.entries = np.array(A, order="C"), order, A.size
        self.of(self.dtype)

    def _prepare(self, numbers: int) -> Prepared:
        return _core.relax.dense(numbers, self.rows, self.A, self.order)


class OfBlocks(System):
    """Block after block, or the blocks of one colour in parallel."""

    def __init__(self, function: str, A: Blocks, arrangement: Arrangement, *, jacobi: bool) -> None:
        super().__init__(function, A.rows, A.rows, A.value.dtype, A.batch)
        self.A, self.colours, self.is_coloured = _own(A), arrangement.number_of_colours, arrangement.is_coloured
        self.entries = len(A.column) * A.size**2
        # In Jacobi's method blocks are independent: each is its own cluster.
        self.arrangement = Arrangement(0, np.arange(A.n + 1), np.array([0, A.n])) if jacobi else arrangement
        self.of(self.dtype)

    def _prepare(self, numbers: int) -> Prepared:
        A, arrangement = self.A, self.arrangement
        arrays = (A.start, A.column, A.value, arrangement.order, arrangement.clusters, arrangement.colours)
        return _core.relax.bsr(numbers, A.n, A.size, A.rows, *arrays, A.batch)

    def has_positive_diagonal(self) -> bool:
        """Return whether the diagonal blocks look Hermitian and are positive definite."""
        A = self.A
        blocks = A.value[..., np.repeat(np.arange(A.n), np.diff(A.start)) == A.column, :, :]
        adjoint = blocks.conj().swapaxes(-1, -2)
        return bool((np.linalg.eigvalsh((blocks + adjoint) / 2) > 0).all())

    def _singular(self, row: int) -> str:
        last = min(self.rows, (row + 1) * self.A.size) - 1
        where = f"rows {row * self.A.size} to {last}" if self.A.size > 1 else f"row {row}"
        return f"A must have no singular block on the diagonal, got one in block {row}, {where}"


class Projections(System):
    """Equation after equation."""

    def __init__(self, function: str, A: Csr, order: Array | int) -> None:
        super().__init__(function, A.n, A.columns, A.value.dtype, A.batch)
        self.A, self.order, self.entries = _own(A), order, 2 * len(A.column)
        self.scale = scales_of(self.A)
        self.of(self.dtype)

    def _prepare(self, numbers: int) -> Prepared:
        A = self.A if self.scale is None else scaled(self.A, self.scale)
        built = _core.relax.kaczmarz(numbers, A.n, A.columns, A.start, A.column, A.value, self.order, A.batch)
        return built if self.scale is None else ByRows(built, self.scale)

    def random(self, seed: int = 0) -> Array:
        """Return a combination of the rows: no sweep acts on vectors orthogonal to all of them."""
        width = (self.batch,) if self.batch else ()
        b = np.random.default_rng([seed, self.rows]).standard_normal((self.rows, *width)).astype(self.dtype)
        x = np.zeros((self.columns, *width), self.dtype)
        if x.size and b.size:
            self.of(self.dtype).sweep(x, b, 0, self.batch or 1, np.ones(1), 0, 1, FORWARD)
        return x


def prepare(function: str, A: Any, method: str, order: Any, block_size: int | None) -> System:
    """Return the system of ``A`` for a method: "jacobi", "kaczmarz" or "sor", in blocks if there is a block size."""
    if method == "kaczmarz":
        return _projections(function, as_matrix(function, A), order)
    A = square(function, A)
    jacobi = method == "jacobi"
    if jacobi and not (isinstance(order, str) and order == "natural"):
        raise ValueError(f"{function}: order must be 'natural' if all rows go at the same time, got {order!r}")
    if block_size is not None:
        blocks = by_values(A, read_blocks(function, A, block_size or None), order)
        return OfBlocks(function, blocks, arrange(function, blocks, order), jacobi=jacobi)
    is_listed = isinstance(order, (np.ndarray, list, tuple))
    if isinstance(A, np.ndarray) and (is_listed or (isinstance(order, str) and order == "natural")):
        return _dense(function, A, order)
    csr = by_values(A, read_csr(function, A), order)
    return Scalar(function, csr, arrange(function, csr, order), jacobi=jacobi)


def by_values(A: Any, read: Read, order: object) -> Read:
    """Return a matrix without its stored zeros, which would link rows for a coloured order.

    The zeros of a Batch, and of a pattern whose values are to be differentiated, are kept.
    """
    if not isinstance(order, str) or order == "natural" or read.batch or getattr(A, "keeps_zeros", False):
        return read
    return without_zeros(read)


def _dense(function: str, A: Array, order: Any) -> Dense:
    check_array(function, "A", A, DTYPES)
    finite = np.isfinite(A).all(axis=1)
    if not finite.all():
        raise ValueError(f"{function}: A must be finite, got a value in row {int(np.argmin(finite))} that is not")
    return Dense(function, A, 0 if isinstance(order, str) else permutation(function, order, len(A)))


def _projections(function: str, A: Any, order: Any) -> Projections:
    if not isinstance(A, np.ndarray) or A.ndim == 2:
        csr = read_csr(function, A) if isinstance(A, (np.ndarray, Batch)) else _any_sparse(function, A)
        if isinstance(order, str) and order == "natural":
            return Projections(function, csr, 0)
        if isinstance(order, str):
            raise ValueError(f"{function}: order must be 'natural' or an array of row numbers, got {order!r}")
        return Projections(function, csr, permutation(function, order, csr.n))
    raise ValueError(f"{function}: A must have shape (rows, columns), got {A.shape}")


def _any_sparse(function: str, A: Any) -> Csr:
    if not is_sparse(A):
        refuse(function, A)
    return read_csr(function, A)
