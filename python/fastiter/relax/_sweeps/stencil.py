"""Operators on grids without a stored matrix: each point with its neighbours along the axes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import _core
from ..._array_like import as_array, as_flags
from ..._check import check_array, type_name
from .matrix import DTYPES, NUMBERS, Csr
from .order import Arrangement, arrange
from .prepare import System
from .scaled import ByRows, Prepared, scales_of_points

Array = npt.NDArray[Any]


class Stencil:
    """(A x)[p] = c[0] x[p] + sum over the axes of c[before] x[p - 1] + c[after] x[p + 1], x = 0 outside the grid.

    Parameters
    ----------
    grid : tuple of int
        The points along each axis, two or three.
    coefficients : (2 d + 1,) or (2 d + 1, *grid)
        The coefficient of the point itself, then those of the points before and after it along each axis, first axis
        first; one number each, or one for each point. float32, float64 or complex128.
    mask : bool (*grid), optional
        False where x is given (Dirichlet): it has no equation, sweeps do not change it, and its neighbours read it.

    Raises
    ------
    TypeError
        If grid is no tuple of ints, coefficients have another dtype, or mask is no array of bool.
    ValueError
        If the grid has not two or three sizes of at least 0, or coefficients or mask have a wrong shape; for
        infinities and NaN.

    See Also
    --------
    Batch : Matrices with one pattern.
    Relaxation : Prepares a stencil for many solutions.

    Notes
    -----
    A stencil can replace A in :class:`Relaxation` (all methods but block methods), :func:`chebyshev` and
    :func:`ssor_cg`, with x and b in the shape of the grid, or (*grid, k). They have the dtype of the coefficients or a
    wider one, which is then used throughout: float64, or complex128, whose real and imaginary parts are two right-hand
    sides if the coefficients are real. In red-black order, to which "color" is equivalent, several sweeps are fused
    into one pass over the grid; other orders look up each point.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax import Stencil, sor
    >>> laplacian = Stencil((63, 63), np.array([4.0, -1, -1, -1, -1]))
    >>> sor(laplacian, np.ones((63, 63)), omega=1.906455, order="red-black").steps
    257
    """

    def __init__(self, grid: tuple[int, ...], coefficients: Array, mask: Array | None = None) -> None:
        if not isinstance(grid, (tuple, list)) or not all(isinstance(n, (int, np.integer)) for n in grid):
            raise TypeError(f"Stencil: grid must be a tuple of ints, got {type_name(grid)}")
        self.grid = tuple(int(n) for n in grid)
        if len(self.grid) not in (2, 3) or min(self.grid) < 0:
            raise ValueError(f"Stencil: grid must have two or three sizes from 0 on, got {self.grid}")
        coefficients, mask = as_array("Stencil", "coefficients", coefficients), as_flags("Stencil", "mask", mask)
        check_array("Stencil", "coefficients", coefficients, DTYPES)
        count = 2 * len(self.grid) + 1
        if coefficients.shape not in ((count,), (count, *self.grid)):
            expected = f"({count},) or {(count, *self.grid)}"
            raise ValueError(f"Stencil: coefficients must have shape {expected}, got {coefficients.shape}")
        if not np.isfinite(coefficients).all():
            where = tuple(map(int, np.argwhere(~np.isfinite(coefficients))[0]))
            raise ValueError(f"Stencil: coefficients must be finite, got another at {where}")
        if mask is not None and (not isinstance(mask, np.ndarray) or mask.dtype != np.bool_):
            raise TypeError(
                f"Stencil: mask must be a NumPy array of bool, got {getattr(mask, 'dtype', type_name(mask))}"
            )
        if mask is not None and mask.shape != self.grid:
            raise ValueError(f"Stencil: mask must have shape {self.grid}, got {mask.shape}")
        self.coefficients = np.array(coefficients, order="C")
        self.mask = None if mask is None else mask.copy()

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the equivalent matrix."""
        points = int(np.prod(self.grid))
        return points, points

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the coefficients, and of x and b."""
        return self.coefficients.dtype

    def __repr__(self) -> str:
        """Return one line, without the arrays."""
        kind = "constant" if self.coefficients.ndim == 1 else "variable"
        fixed = "" if self.mask is None else f", {int((~self.mask).sum())} given points"
        return f"Stencil({self.grid}, {len(self.coefficients)} {kind} coefficients, {self.dtype}{fixed})"

    def _entries(self) -> Iterator[tuple[int, tuple[slice, ...], tuple[slice, ...]]]:
        """Yield the index of each coefficient, the points that have it, and the points that it multiplies."""
        whole = (slice(None),) * len(self.grid)
        yield 0, whole, whole
        for axis in range(len(self.grid)):
            lower, upper = ((*whole[:axis], part, *whole[axis + 1 :]) for part in (slice(None, -1), slice(1, None)))
            yield 1 + 2 * axis, upper, lower
            yield 2 + 2 * axis, lower, upper

    def tocsr(self) -> Any:
        """Return the equivalent sparse matrix.

        Returns
        -------
        scipy.sparse.csr_array
            The matrix; the rows of given points are empty.
        """
        from scipy.sparse import csr_array

        index, wide = np.arange(self.shape[0]).reshape(self.grid), self._wide()
        rows, columns, values = [], [], []
        for number, here, there in self._entries():
            own = np.ones(self.grid, bool)[here] if self.mask is None else self.mask[here]
            rows.append(index[here][own])
            columns.append(index[there][own])
            values.append(wide[number][here][own])
        entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
        return csr_array(entries, self.shape)

    def toarray(self) -> Array:
        """Return the equivalent dense matrix.

        Returns
        -------
        ndarray (points, points)
            The matrix, with zeros in the rows of given points.
        """
        index, wide = np.arange(self.shape[0]).reshape(self.grid), self._wide()
        A = np.zeros(self.shape, self.dtype)
        for number, here, there in self._entries():
            A[index[here].ravel(), index[there].ravel()] = wide[number][here].ravel()
        if self.mask is not None:
            A[~self.mask.ravel()] = 0
        return A

    def matvec(self, x: Array) -> Array:
        """Return A x, 0 at given points.

        Parameters
        ----------
        x : (*grid), (*grid, k), (points,) or (points, k)
            The vectors, in the shape of the grid or flattened, of any dtype.

        Returns
        -------
        array like x
            In the dtype that the coefficients and x promote to.

        Raises
        ------
        ValueError
            If x has another shape.
        """
        x, dimensions = np.asarray(x), len(self.grid)
        is_grid = x.shape[:dimensions] == self.grid and x.ndim <= dimensions + 1
        if not is_grid and not (x.ndim in (1, 2) and len(x) == self.shape[0]):
            expected = f"{self.grid} or ({self.shape[0]},), or one more axis"
            raise ValueError(f"Stencil.matvec: x must have shape {expected}, got {x.shape}")
        of_x = x.reshape(*self.grid, *x.shape[dimensions if is_grid else 1 :])
        wide = self._wide().reshape(-1, *self.grid, *(1,) * (of_x.ndim - dimensions))
        y = np.zeros(of_x.shape, np.result_type(self.dtype, x.dtype))
        for number, here, there in self._entries():
            y[here] += wide[number][here] * of_x[there]
        if self.mask is not None:
            y[~self.mask] = 0
        return y.reshape(x.shape)

    def __matmul__(self, x: Array) -> Array:
        """Return A x: see :meth:`matvec`."""
        return self.matvec(x)

    def _wide(self) -> Array:
        """Return the coefficients of each point."""
        c = self.coefficients
        return c if c.ndim > 1 else np.broadcast_to(c.reshape(-1, *(1,) * len(self.grid)), (len(c), *self.grid))


class OfStencil(System):
    """A stencil in any order."""

    def __init__(self, function: str, stencil: Stencil, order: object, *, projections: bool = False) -> None:
        super().__init__(function, *stencil.shape, stencil.dtype)
        self.projections = projections
        self.stencil, self.points = stencil, stencil.grid
        self.entries = self.rows * (2 * len(stencil.grid) + 1)
        self.grid = stencil.grid
        self.is_coloured = isinstance(order, str) and order in ("red-black", "color")
        self.arrangement = (
            Arrangement() if self.is_coloured else arrange(function, _pattern(stencil.grid, order), order)
        )
        self.colours = 2 if self.is_coloured else self.arrangement.number_of_colours
        self.of(self.dtype)

    def _numbers(self, dtype: np.dtype[Any]) -> int:
        own = dtype.name if self.dtype.kind == dtype.kind else "float64"
        return NUMBERS[own, own]

    def _prepare(self, numbers: int) -> Prepared:
        s, own = self.stencil, {number: name for (name, _), number in NUMBERS.items()}[numbers]
        c = np.ascontiguousarray(s.coefficients, own)
        n0, n1, n2 = self.points if len(self.points) == 3 else (self.points[0], 1, self.points[1])
        if len(self.points) == 2:  # in 2D the middle axis is missing
            c = np.ascontiguousarray(np.concatenate([c[:3], np.zeros((2, *c.shape[1:]), c.dtype), c[3:]]))
        scale = scales_of_points(c, own) if self.projections else None
        c = c if scale is None else np.ascontiguousarray(c * scale, own)
        fixed = 0 if s.mask is None else np.ascontiguousarray(~s.mask).view(np.uint8)
        order = (self.arrangement.order, self.arrangement.clusters, self.arrangement.colours)
        one: Prepared = _core.relax.stencil(
            numbers, n0, n1, n2, c, c.ndim == 1, fixed, self.is_coloured, self.projections, *order
        )
        if scale is not None:
            one = ByRows(one, np.broadcast_to(scale.ravel(), self.rows))
        return _OneByOne(one, np.dtype(own))

    @property
    def diagonal(self) -> Array:
        """The coefficient of each point itself (points,), 0 where x is given."""
        own = np.broadcast_to(self.stencil.coefficients[0], self.points)
        return np.ascontiguousarray(self.unknowns(own)).reshape(-1)

    def unknowns(self, b: Array) -> Array:
        """Return b with 0 at points without an equation."""
        if self.stencil.mask is None:
            return b
        mask = self.stencil.mask.reshape(*self.points, *(1,) * (b.ndim - len(self.points)))
        return np.where(mask, b, b.dtype.type(0))

    def random(self, seed: int = 0) -> Array:
        """Return a random x with 0 at given points."""
        return np.ascontiguousarray(self.unknowns(super().random(seed).reshape(self.points))).reshape(-1)

    def _singular(self, row: int) -> str:
        point = tuple(map(int, np.unravel_index(row, self.points))) if np.prod(self.points) else ()
        return f"A must have no zero on the diagonal, got 0 at point {point}"


def prepare_stencil(function: str, A: Stencil, sweep: str, order: object, block_size: int | None) -> OfStencil:
    """Return the system of a stencil for a sweep: "jacobi", "kaczmarz" or "sor"."""
    if block_size is not None:
        raise ValueError(
            f"{function}: block_size must be None for a Stencil, whose points are single, got {block_size}"
        )
    if sweep == "kaczmarz" and isinstance(order, str) and order != "natural":
        raise ValueError(f"{function}: order must be 'natural' or an array of row numbers, got {order!r}")
    if sweep == "jacobi" and not (isinstance(order, str) and order == "natural"):
        raise ValueError(f"{function}: order must be 'natural' if all rows go at the same time, got {order!r}")
    return OfStencil(function, A, order, projections=sweep == "kaczmarz")


def _pattern(grid: tuple[int, ...], order: object) -> Csr:
    """The sparsity pattern for the order, without the diagonal; a row's entries are not sorted."""
    points = int(np.prod(grid))
    if not (isinstance(order, str) and order == "cluster"):
        return Csr(points, np.broadcast_to(np.int64(0), points + 1), np.empty(0, np.int32), np.empty(0))
    index, row, column = np.arange(points, dtype=np.int32).reshape(grid), [], []
    for axis in range(len(grid)):
        lower, upper = (np.delete(index, end, axis).reshape(-1) if points else index.reshape(-1) for end in (-1, 0))
        row += [lower, upper]
        column += [upper, lower]
    rows = np.concatenate(row)
    start = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(rows, minlength=points))])
    return Csr(points, start, np.concatenate(column)[np.argsort(rows, kind="stable")], np.empty(0))


class _OneByOne:
    """A stencil applied to right-hand sides (points, k) one by one; real and imaginary parts, too, if it is real."""

    def __init__(self, one: Prepared, own: np.dtype[Any]) -> None:
        self.one, self.own = one, own

    def _columns(self, x: Array, k: int) -> Array:
        return x.reshape(len(x), k).view(self.own)

    def sweep(
        self, x: Array, b: Array, d: Array | int, k: int, omega: Array, momentum: Array | int, count: int, kind: int, /
    ) -> None:
        """Sweep over each column."""
        arrays = [self._columns(array, k) for array in (x, b, d) if not isinstance(array, int)]
        if arrays[0].shape[1] == 1:
            return self.one.sweep(x, b, d, 1, omega, momentum, count, kind)
        for c in range(arrays[0].shape[1]):
            column = [np.ascontiguousarray(array[:, c]) for array in arrays]
            self.one.sweep(column[0], column[1], column[2] if len(column) == 3 else 0, 1, omega, momentum, count, kind)
            for array, changed in zip(arrays[::2], column[::2], strict=True):  # x and d
                array[:, c] = changed
        return None

    def residual(self, x: Array, b: Array, r: Array | int, k: int, norms: Array, /) -> None:
        """Compute b - A x of each column, and the squares of its norm, summed over a real and an imaginary part."""
        xs, bs = self._columns(x, k), self._columns(b, k)
        if xs.shape[1] == 1:
            return self.one.residual(x, b, r, 1, norms)
        squares, column = np.empty((xs.shape[1], 1)), np.empty(len(x), self.own)
        for c in range(xs.shape[1]):
            own_x, own_b = np.ascontiguousarray(xs[:, c]), np.ascontiguousarray(bs[:, c])
            self.one.residual(own_x, own_b, column, 1, squares[c])
            if not isinstance(r, int):
                self._columns(r, k)[:, c] = column
        norms[:] = squares.reshape(k, len(squares) // max(k, 1)).sum(axis=1)
        return None
