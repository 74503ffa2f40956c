"""Kaczmarz's projections with the CUDA kernels of relaxation: rows without a common column are updated in parallel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._torch import launch
from .._sweeps.matrix import Csr
from .._sweeps.order import Arrangement
from .._sweeps.scaled import scaled
from .cuda import _NAMES, FORWARD, THREADS, _Matrix, columns, launch_phases, tiles_of
from .layouts import projections_of


class OfProjections(_Matrix):
    """A sparse matrix of any shape; x (columns, ...) and b (rows, ...) are in the caller's order."""

    def __init__(
        self, A: Csr, arrangement: Arrangement, device: torch.device, scale: np.ndarray[Any, Any] | None
    ) -> None:
        layout = projections_of(A if scale is None else scaled(A, scale), arrangement)
        self._scale = None if scale is None else torch.from_numpy(scale).to(device)
        self.rows = self.own_rows = A.n
        self.unknowns = A.columns
        self.colours, self._slices = len(layout.colours) - 1, len(layout.slice_row) - 1
        self._largest_colour = int(np.diff(layout.colours).max(initial=0))
        names = ("slice_row", "slice_entry", "column", "value", "row", "inverse", "colours")
        self._at = {name: torch.from_numpy(getattr(layout, name)).to(device) for name in names}

    def no_rhs(self, x: Tensor) -> Tensor:
        """Return a right-hand side b = 0 that matches x."""
        return x.new_zeros((self.rows, *x.shape[1:]))

    def random(self, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Tensor:
        """Return a random vector in the row space, as sweeps do not change components orthogonal to it."""
        b = torch.from_numpy(np.random.default_rng([seed, self.rows]).standard_normal(self.rows)).to(device, dtype)
        one = torch.ones(1, dtype=torch.float64, device=device)
        return self.sweep(b.new_zeros(self.unknowns), b, one, 1, FORWARD)

    def _launched(self, x: Tensor, slices: int) -> tuple[int, int, dict[str, object], list[launch.Argument]]:
        """Return the columns of x, the number of tasks for the slices, the defines, and the first kernel arguments."""
        k, at = columns(x), self._at
        defines = tiles_of(at["value"], k, 1) | {"VECTOR": _NAMES[x.dtype]}
        tile: Any = defines["COLUMNS"]
        tasks = math.ceil(slices * math.ceil(k / tile) * 32 / THREADS)
        return k, tasks, defines, [at["slice_row"], at["slice_entry"], at["column"], at["value"], at["row"]]

    def _scaled(self, b: Tensor) -> Tensor:
        """Return b with the row scaling of the layout: see relax._scaled."""
        return b if self._scale is None else b * self._factors(self._scale, b)

    def _factors(self, scale: Tensor, b: Tensor) -> Tensor:
        return scale.to(b.real.dtype).reshape(-1, *(1,) * (b.dim() - 1))

    def _sweep(self, x: Tensor, b: Tensor, y: Tensor, omega: Tensor, phases: int, kind: int) -> None:
        b = self._scaled(b)
        k, tasks, defines, matrix = self._launched(x, self._largest_colour)
        numbers = (omega, np.int64(k), np.int32(self.colours), np.int32(kind))
        args = [*matrix, self._at["inverse"], self._at["colours"], b, x, *numbers]
        moved = self._at["value"].nbytes + self._at["column"].nbytes + 2 * x.nbytes + b.nbytes
        resident: Any = defines["RESIDENT"]
        kernel = ("relax/kaczmarz", "relax_projections_kernel", tasks, THREADS, resident, moved // self.colours)
        launch_phases(*kernel, phases, args, defines, x)

    def _residual(self, x: Tensor, b: Tensor, r: Tensor | None) -> Tensor:
        k, tasks, defines, matrix = self._launched(b, self._slices)
        parts = torch.empty((self._slices, k), dtype=torch.float64, device=b.device)
        own = torch.empty_like(b) if self._scale is not None and r is None else r
        args = (*matrix, np.int64(self._slices), self._scaled(b), x, own, parts, np.int64(k))
        kernel = ("relax/kaczmarz", "relax_projections_residual_kernel", (tasks,), (THREADS,), args)
        launch.launch_cuda(*kernel, defines=defines)
        if self._scale is not None and own is not None:
            own /= self._factors(self._scale, own)
            return own.abs().to(torch.float64).square().reshape(len(own), k).sum(dim=0, keepdim=True)
        return parts
