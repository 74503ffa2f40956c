"""Matrices and stencils in the layouts of the CUDA relaxation kernels, and launches of sweeps and residuals.

A phase is the update of one colour, or a Jacobi sweep. All phases of a call are one cooperative launch with a grid
barrier between phases, unless a phase moves so much memory that launch overhead is negligible: then each phase is a
separate launch, whose reads may hit the L1 cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._torch import launch as gpu
from ..._torch.ops import contiguous
from .._sweeps.prepare import BACKWARD, FORWARD, JACOBI, SYMMETRIC
from .._sweeps.stencil import Stencil
from .layouts import BlockRows, Slices

__all__ = ["BACKWARD", "FORWARD", "JACOBI", "SYMMETRIC", "OfBlocks", "OfRows", "OfStencil", "norms_of"]

#: Threads per block, a power of two; tests use fewer.
THREADS = 256
#: Bytes of memory traffic from which a phase is launched separately
APART = 32 << 20
_NAMES = {torch.float32: "float", torch.float64: "double", torch.complex128: "Complex"}


def launch_phases(
    stem: str,
    kernel: str,
    tasks: int,
    threads: int,
    resident: int,
    traffic: int,
    phases: int,
    arguments: Sequence[gpu.Argument],
    defines: dict[str, object],
    x: Tensor,
) -> None:
    """Launch all phases: in one launch of at most the resident blocks, or separately with a block for each task."""

    def launch(blocks: int, first: int, last: int, arrived: Tensor | None) -> None:
        args = (*arguments, np.int64(first), np.int64(last), arrived)
        together = arrived is not None
        gpu.launch_cuda(stem, kernel, (blocks,), (threads,), args, cooperative=together, defines=defines)

    if phases > 1 and traffic < APART:
        blocks = min(tasks, resident * gpu.multiprocessors(x))
        launch(blocks, 0, phases, torch.zeros(1, dtype=torch.int32, device=x.device))
    else:
        for phase in range(phases):
            launch(tasks, phase, phase + 1, None)


def sums_of(parts: Tensor) -> Tensor:
    """Return the sums (k,) of partial norms (count, k), in an order that depends only on count."""
    while len(parts) > 1:
        count, k = parts.shape
        shares = 1 if count <= 4096 else 64
        sums = parts.new_empty((shares, k))
        args = (parts, np.int64(count), np.int64(k), sums)
        gpu.launch_cuda("relax/norms", "relax_norms_kernel", (k, shares), (THREADS,), args, shared=8 * THREADS)
        parts = sums
    return parts[0]


def norms_of(matrix: _Matrix, x: Tensor, b: Tensor) -> np.ndarray[Any, Any]:
    """Return ||b - A x|| of each column on the host, with a synchronization."""
    squares: np.ndarray[Any, Any] = matrix.residual(x, b).cpu().numpy()
    if np.isfinite(squares).all() and (squares > 1e-290).all():  # smaller squares may have lost digits to underflow
        return np.sqrt(squares)
    r = torch.empty_like(b)
    matrix.residual(x, b, r)
    return norm_of(matrix.as_columns(r))


def norm_of(r: Tensor) -> np.ndarray[Any, Any]:
    """Return the 2-norm of each column on the host, scaled so that it neither overflows nor underflows."""
    size = r.abs().to(torch.float64).reshape(len(r), columns(r))
    if len(r) == 0:
        return np.zeros(size.shape[1])
    largest = size.amax(dim=0)
    scale = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
    result: np.ndarray[Any, Any] = (scale * (size / scale).square().sum(dim=0).sqrt()).cpu().numpy()
    return result


def columns(x: Tensor) -> int:
    """Return the number of columns k of x (n, k), 1 for x (n,)."""
    return 1 if x.dim() == 1 else x.shape[1]


class _Matrix:
    """Base class of the matrices. "Own" vectors are in the order of the layout's rows, contiguous, on the device.

    order, place: the caller's row of each own row, and the inverse; None if they are the same. batch: number of
    systems, with vectors (batch, n); 0 for a single system.
    """

    batch = 0

    rows: int
    own_rows: int
    colours: int
    order: Tensor | None = None
    place: Tensor | None = None

    def inside(self, x: Tensor) -> Tensor:
        """Return the caller's vectors as own vectors: x itself if the order is the same."""
        if self.order is None:
            return contiguous(x)
        padding = self.own_rows - self.rows
        x = torch.cat([x, x.new_zeros((padding, *x.shape[1:]))]) if padding else x
        return contiguous(x).index_select(1 if self.batch else 0, self.order)

    def outside(self, x: Tensor) -> Tensor:
        """Return own vectors in the caller's order, the inverse of :meth:`inside`."""
        return x if self.place is None else x.index_select(1 if self.batch else 0, self.place)

    def as_columns(self, x: Tensor) -> Tensor:
        """Return own vectors as columns."""
        return x.T if self.batch else x

    def without_fixed(self, x: Tensor) -> Tensor:
        """Return own vectors with 0 at unknowns without an equation."""
        return x

    def no_rhs(self, x: Tensor) -> Tensor:
        """Return a right-hand side b = 0 that matches x."""
        return torch.zeros_like(x)

    def random(self, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Tensor:
        """Return the x of relax._sweeps.prepare.System.random as an own vector."""
        shape = (self.rows, self.batch) if self.batch else (self.rows,)
        x = torch.from_numpy(np.random.default_rng([seed, self.rows]).standard_normal(shape))
        return self.without_fixed(self.inside(self.as_columns(x).to(device, dtype)))

    def phases(self, sweeps: int, kind: int) -> int:
        """Return the number of phases of the given number of sweeps."""
        return sweeps * (1 if kind == JACOBI else 2 * self.colours if kind == SYMMETRIC else self.colours)

    def sweep(self, x: Tensor, b: Tensor, omega: Tensor, sweeps: int, kind: int) -> Tensor:
        """Return x after sweeps: x itself, updated in place, or for Jacobi possibly a new tensor."""
        count = self.phases(sweeps, kind)
        if x.numel() == 0 or count == 0:
            return x
        y = torch.empty_like(x) if kind == JACOBI else x
        self._sweep(x, b, y, omega, count, kind)
        return y if count % 2 and kind == JACOBI else x

    def residual(self, x: Tensor, b: Tensor, r: Tensor | None = None) -> Tensor:
        """Return the sums (k,) of |b - A x|^2, and write b - A x to r if given."""
        if b.numel() == 0:
            return torch.zeros(columns(self.as_columns(b)), dtype=torch.float64, device=b.device)
        return sums_of(self._residual(x, b, r))

    def remainder(self, x: Tensor, b: Tensor) -> Tensor:
        """Return b - A x."""
        r = torch.empty_like(b)
        if b.numel():
            self._residual(x, b, r)
        return r

    def _sweep(self, x: Tensor, b: Tensor, y: Tensor, omega: Tensor, phases: int, kind: int) -> None:
        raise NotImplementedError

    def _residual(self, x: Tensor, b: Tensor, r: Tensor | None) -> Tensor:
        raise NotImplementedError


def tiles_of(value: Tensor, k: int, rows_of_lane: int) -> dict[str, object]:
    """Return the defines of sweeps.cu except VECTOR; larger tiles of columns or blocks take more registers."""
    tile = 1 if k == 1 or (value.is_complex() and rows_of_lane == 2) else 4
    resident = 4 if tile == rows_of_lane == 1 and not value.is_complex() else 2
    named: dict[str, object] = {"MATRIX": _NAMES[value.dtype], "COLUMNS": tile}
    return named | {"BLOCK_ROWS": rows_of_lane, "RESIDENT": resident}


class OfRows(_Matrix):
    """A sparse matrix in slices of rows (SELL), or a batch of them with one pattern.

    `values` (entries,) or (batch, entries) are in the caller's order, to which the layout's entry numbers refer.
    """

    def __init__(self, layout: Slices, on_device: dict[str, Tensor], values: Tensor) -> None:
        self.rows = self.own_rows = layout.n
        self.colours, self._slices = len(layout.colours) - 1, len(layout.slice_row) - 1
        self._largest_colour = int(np.diff(layout.colours).max(initial=0))
        self.order, self.place = on_device.get("order"), on_device.get("place")
        self._at = on_device
        self.batch = len(values) if values.dim() == 2 else 0
        # Entry number -1 selects the appended zero.
        with_zero = torch.cat([contiguous(values.detach()), values.new_zeros((*values.shape[:-1], 1))], dim=-1)
        self._value = with_zero[..., on_device["entry"]]
        self.diagonal = with_zero[..., on_device["diagonal"]].sum(dim=-1)
        wide = torch.complex128 if values.is_complex() else torch.float64
        self.inverse = self.diagonal.to(wide).reciprocal()

    def _layout(self) -> list[Tensor]:
        return [self._at["slice_row"], self._at["slice_entry"], self._at["column"], self._value]

    def _tasks(self, slices: int, k: int, tile: Any) -> int:
        return math.ceil(slices * math.ceil(k / tile) * 32 / THREADS)

    def _defines(self, x: Tensor) -> tuple[int, dict[str, object]]:
        """Return the number of columns of x, or of systems, and the defines of the kernels."""
        k = columns(self.as_columns(x))
        defines = tiles_of(self._value, 1 if self.batch else k, 1) | {"VECTOR": _NAMES[x.dtype]}
        return k, defines | ({"SYSTEMS": 1} if self.batch else {})

    def _sweep(self, x: Tensor, b: Tensor, y: Tensor, omega: Tensor, phases: int, kind: int) -> None:
        k, defines = self._defines(x)
        numbers = (omega, np.int64(k), np.int32(self.colours), np.int32(kind))
        args: list[gpu.Argument] = [*self._layout(), self.inverse, self._at["colours"], b, x, y, *numbers]
        moved = self._value.nbytes + self._at["column"].nbytes + self.inverse.nbytes + 3 * x.nbytes
        tasks = self._tasks(self._largest_colour, k, defines["COLUMNS"])
        resident: Any = defines["RESIDENT"]
        kernel = ("relax/sweeps", "relax_slices_kernel", tasks, THREADS, resident, moved // self.colours)
        launch_phases(*kernel, phases, args, defines, x)

    def _residual(self, x: Tensor, b: Tensor, r: Tensor | None) -> Tensor:
        k, defines = self._defines(x)
        parts = torch.empty((self._slices, k), dtype=torch.float64, device=x.device)
        args = (*self._layout(), self.diagonal, np.int64(self._slices), b, x, r, parts, np.int64(k))
        grid = (self._tasks(self._slices, k, defines["COLUMNS"]),)
        gpu.launch_cuda("relax/sweeps", "relax_slices_residual_kernel", grid, (THREADS,), args, defines=defines)
        return parts


class OfBlocks(_Matrix):
    """A block sparse matrix (BSR), with the inverses of its diagonal blocks."""

    def __init__(self, layout: BlockRows, device: torch.device) -> None:
        self.rows, self.own_rows = layout.rows, layout.n * layout.size
        self.colours, self._n, self._size = len(layout.colours) - 1, layout.n, layout.size
        self._largest_colour = int(np.diff(layout.colours).max(initial=0))
        if layout.order is not None:
            self.order = torch.from_numpy(layout.order).to(device)
            self.place = torch.argsort(self.order)[: self.rows]
        names = ("start", "column", "value", "diagonal", "inverse", "colours")
        self._at: dict[str, Tensor] = {name: torch.from_numpy(getattr(layout, name)).to(device) for name in names}
        self._at_once = 32 // min(32, 2 ** math.ceil(math.log2(max(1, self._size))))  # block rows per warp
        self._rows_of_lane = 2 if self._size > 32 else 1

    def _tasks(self, rows: int, k: int, tile: Any) -> int:
        return math.ceil(math.ceil(rows / self._at_once) * math.ceil(k / tile) * 32 / THREADS)

    def _sweep(self, x: Tensor, b: Tensor, y: Tensor, omega: Tensor, phases: int, kind: int) -> None:
        k, at = columns(x), self._at
        defines = tiles_of(at["value"], k, self._rows_of_lane) | {"VECTOR": _NAMES[x.dtype]}
        numbers = (omega, np.int64(k), np.int32(self.colours), np.int32(kind))
        matrix = (at["start"], at["column"], at["value"], at["inverse"], at["colours"], np.int32(self._size))
        moved = at["value"].nbytes + at["inverse"].nbytes + 3 * x.nbytes
        tasks = self._tasks(self._largest_colour, k, defines["COLUMNS"])
        resident: Any = defines["RESIDENT"]
        kernel = ("relax/sweeps", "relax_blocks_kernel", tasks, THREADS, resident, moved // self.colours)
        launch_phases(*kernel, phases, (*matrix, b, x, y, *numbers), defines, x)

    def _residual(self, x: Tensor, b: Tensor, r: Tensor | None) -> Tensor:
        k, at = columns(x), self._at
        defines = tiles_of(at["value"], k, self._rows_of_lane) | {"VECTOR": _NAMES[x.dtype]}
        items = math.ceil(self._n / self._at_once)
        parts = torch.empty((items, k), dtype=torch.float64, device=x.device)
        matrix = (at["start"], at["column"], at["value"], at["diagonal"], np.int64(self._n), np.int32(self._size))
        grid = (self._tasks(self._n, k, defines["COLUMNS"]),)
        args = (*matrix, b, x, r, parts, np.int64(k))
        gpu.launch_cuda("relax/sweeps", "relax_blocks_residual_kernel", grid, (THREADS,), args, defines=defines)
        return parts


class OfStencil(_Matrix):
    """A stencil; vectors hold all points of the grid, in its order."""

    def __init__(self, stencil: Stencil, device: torch.device) -> None:
        self.rows = self.own_rows = stencil.shape[0]
        self.colours = 2
        points = stencil.grid if len(stencil.grid) == 3 else (stencil.grid[0], 1, stencil.grid[1])
        self.points = points
        c = stencil.coefficients
        if len(stencil.grid) == 2:  # a 2D grid has size 1 along the middle axis
            c = np.concatenate([c[:3], np.zeros((2, *c.shape[1:]), c.dtype), c[3:]])
        fixed = None if stencil.mask is None else torch.from_numpy(~stencil.mask).to(device)
        self.coefficients = torch.from_numpy(c if c.ndim == 1 else c.reshape(7, -1)).to(device)
        self.inverse, self.fixed = None, fixed
        if c.ndim > 1:
            self.inverse = self.coefficients[0].reciprocal()
            if fixed is not None:
                self.inverse.masked_fill_(fixed.reshape(-1), 0)
        self._area = points[1] * points[2]
        # The summation order of norms depends on these two, so they must not depend on the GPU.
        self._threads = min(THREADS, 32 * math.ceil(self._area / 32)) if self._area else THREADS
        self._depth = min(16, max(2, self.rows >> 18))

    def without_fixed(self, x: Tensor) -> Tensor:
        """Return own vectors with 0 at given points."""
        return x if self.fixed is None else x.masked_fill(self.fixed.reshape(-1), 0)

    def _arguments(self, b: Tensor, x: Tensor, y: Tensor | None) -> tuple[gpu.Argument, ...]:
        n0, n1, n2 = self.points
        sizes = (np.int64(n0), np.int32(n1), np.int32(n2))
        return (*sizes, self.coefficients, self.inverse, self.fixed, b, x, y)

    def _items(self) -> int:
        return math.ceil(self._area / self._threads) * math.ceil(self.points[0] / self._depth)

    def _defines(self) -> dict[str, object]:
        is_double = self.coefficients.dtype == torch.float64
        return {"NUMBER": "double" if is_double else "float", "RESIDENT": 3}

    def _sweep(self, x: Tensor, b: Tensor, y: Tensor, omega: Tensor, phases: int, kind: int) -> None:
        defines = self._defines()
        args = (*self._arguments(b, x, y), omega, np.int32(self._depth), np.int32(kind))
        resident: Any = defines["RESIDENT"]
        moved = 3 * x.nbytes + (0 if self.inverse is None else self.coefficients.nbytes)
        kernel = ("relax/stencil", "relax_stencil_kernel", self._items(), self._threads, resident, moved)
        launch_phases(*kernel, phases, args, defines, x)

    def _residual(self, x: Tensor, b: Tensor, r: Tensor | None) -> Tensor:
        parts = torch.empty((self._items() * (self._threads // 32), 1), dtype=torch.float64, device=x.device)
        args = (*self._arguments(b, x, r), parts, np.int32(self._depth))
        launched = ("relax/stencil", "relax_stencil_residual_kernel", (self._items(),), (self._threads,), args)
        gpu.launch_cuda(*launched, defines=self._defines())
        return parts
