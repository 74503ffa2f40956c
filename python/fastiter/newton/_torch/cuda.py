"""Launches the kernels of kernels/newton/newton.cu for Newton's method and its gradients: one launch for all steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..._backend import BackendError
from ..._torch import launch as gpu
from .._cells import ParaCell

#: Cells with kernels for Newton's method
SOLVED = ("paragru", "paralstm")
#: Default number of steps per window; a block of _THREADS threads limits it further
WINDOW = 256
#: Bytes of the adjacent units per block and of the consecutive steps per thread; maximum threads per block
_UNITS, _CHUNK, _THREADS = 32, 32, 256


def check_cut(function: str, reset: object, cu_seqlens: object) -> None:
    """Refuse arguments that the GPU kernels do not support."""
    for name, value in (("reset", reset), ("cu_seqlens", cu_seqlens)):
        if value is not None:
            raise BackendError(f"{function}: {name} must be None on a CUDA device, got {name}")


def check_method(function: str, newton: bool) -> None:
    """Check that there is a kernel for the method."""
    if newton and function not in SOLVED:
        raise BackendError(f"{function}: method must be 'auto' or 'sequential' on a CUDA device, got 'newton'")


class Launch:
    """A launch for all rows and units: a block computes units of one row, a thread consecutive steps of one unit."""

    def __init__(self, cell: ParaCell, x: Tensor, window: int = WINDOW) -> None:
        batch, time, _, width = x.shape
        item = x.element_size()
        self.units, self.chunk = _UNITS // item, _CHUNK // item
        self.window = min(window, _THREADS // self.units * self.chunk)
        self.blocks, self.windows = -(-width // self.units), -(-time // self.window)
        chunks = -(-max(1, min(self.window, time)) // self.chunk)
        self.threads = -(-chunks * self.units // 32) * 32
        self.grid = batch * self.blocks
        self.defines = {
            "REAL": "double" if x.dtype == torch.float64 else "float",
            "CELL": cell.code,
            "UNITS": self.units,
            "CHUNK": self.chunk,
        }
        states, warps = len(cell.states), self.threads // 32
        maps = warps * self.units * (states + 1) * states
        self.solve_bytes = (maps + 2 * (self.threads + self.units) * states + warps) * item + 2 * warps * 4
        sums = warps * self.units * (cell.gates + 2 * cell.peepholes)
        self.gradient_bytes = (maps + self.units * states + sums) * item

    def run(self, kernel: str, args: Sequence[gpu.Argument], shared: int) -> None:
        """Launch a kernel with a block for each row and group of units."""
        gpu.launch_cuda(
            "newton/newton", kernel, (self.grid,), (self.threads,), args, shared=shared, defines=self.defines
        )


def _shape(x: Tensor, lengths: Tensor | None, reverse: bool) -> list[gpu.Argument]:
    """Return the kernels' SHAPE_ARGUMENTS."""
    batch, time, _, width = x.shape
    return [gpu.as_int64(lengths, x), *map(np.int64, (batch, time, width)), np.int32(reverse)]


def forward(
    cell: ParaCell,
    wx: Tensor,
    a: Tensor,
    p: Tensor | None,
    first: Tensor | None,
    reverse: bool,
    lengths: Tensor | None,
    newton: tuple[int, int, float, float],
    outputs: Sequence[Tensor],
) -> None:
    """Fill the outputs: h, the final states, the numbers of passes and fallbacks, and c of all steps if it is saved."""
    h, last, steps, *rest = outputs
    window, max_steps, rtol, atol = newton
    launch = Launch(cell, wx, window)
    if not launch.grid:
        return
    counts = torch.zeros((launch.grid, launch.windows), dtype=torch.int32, device=wx.device)
    memory = [wx, a, p, first, h, rest[0] if rest else None, last, counts]
    strides = map(np.int64, (*wx.stride()[:3], *h.stride()[:2], launch.windows))
    options: list[gpu.Argument] = [np.int32(launch.window), np.int64(max_steps), np.float64(rtol), np.float64(atol)]
    launch.run("newton_fwd", [*memory, *strides, *options, *_shape(wx, lengths, reverse)], launch.solve_bytes)
    sizes = [np.int64(n) for n in (launch.blocks, launch.windows, wx.shape[0])]
    arguments: list[gpu.Argument] = [counts, *sizes, steps]
    gpu.launch_cuda("newton/newton", "newton_counts", (wx.shape[0],), (32,), arguments, defines=launch.defines)


def backward(
    cell: ParaCell,
    memory: Sequence[Tensor | None],
    reverse: bool,
    lengths: Tensor | None,
) -> None:
    """Compute the gradients; ``memory`` is wx, a, p, first, h, c, dh, dlast, then the outputs dwx, dfirst, da, dp."""
    wx, _, _, _, h, _, dh, _, dwx, *_ = memory
    assert wx is not None and h is not None and dwx is not None
    launch = Launch(cell, wx)
    if not launch.grid:
        return
    of_dh = (0, 0) if dh is None else dh.stride()[:2]
    strides = map(np.int64, (*wx.stride()[:3], *h.stride()[:2], *of_dh, *dwx.stride()[:3]))
    launch.run("newton_bwd", [*memory, *strides, *_shape(wx, lengths, reverse)], launch.gradient_bytes)
