"""Launch shapes of the fused CUDA recurrence: from `fastiter.tune`, adapted to the kernels' registers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...tune import DEVICES, Device, rnn_plan
from .._cells import CELLS

#: Registers per thread for other than r, sums and the state of elements; with fewer of them the compiler spills.
_OTHER_REGISTERS = 132
#: Maximum registers of sums per thread; a tile of rows that needs more is halved.
_MOST_SUMS = 64


@dataclass(frozen=True)
class Problem:
    """The product of each step: r h' forward, r^T dp backward, for every head and row."""

    cell: str
    width: int
    heads: int
    batch: int
    itemsize: int
    tensor_cores: bool
    backward: bool

    @property
    def outs(self) -> int:
        """Number of matrices of ``width`` rows in the product."""
        return 1 if self.backward else CELLS[self.cell].gates

    @property
    def terms(self) -> int:
        """Terms per sum."""
        return CELLS[self.cell].gates * self.width if self.backward else self.width


@dataclass(frozen=True)
class Plan:
    """A launch, in the terms of kernels/rnn/tiles.cuh. ``blocks`` blocks compute one head for one tile of rows."""

    units: int
    row_warps: int
    split: int
    columns: int
    held: int
    blocks: int
    tiles: int
    shared: int
    resident: int

    @property
    def threads(self) -> int:
        """Threads per block."""
        return 32 * self.row_warps * self.split

    @property
    def rows(self) -> int:
        """Rows of the batch per block."""
        return 8 * self.columns

    @property
    def padded(self) -> int:
        """Terms per sum, including the padding of the last tiles."""
        return 16 * self.split * self.tiles

    def defines(self) -> dict[str, object]:
        """Return the preprocessor defines of the kernels."""
        return {
            "UNITS": self.units,
            "ROW_WARPS": self.row_warps,
            "SPLIT": self.split,
            "COLUMNS": self.columns,
            "HELD": self.held,
            "JOINED": int(self.blocks > 1),
            "RESIDENT": self.resident,
        }


@lru_cache(maxsize=32)
def _card(index: int) -> Device:
    with torch.cuda.device(index):
        return Device.current()


def card(x: Tensor) -> Device:
    """Return the properties of the device of ``x``; for a CPU those of an H100."""
    return _card(x.device.index) if x.is_cuda else DEVICES["H100"]


def shape(problem: Problem, units: int, row_warps: int, split: int, columns: int, held: int, resident: int = 1) -> Plan:
    """Return the plan with these numbers; ``held`` is limited to the tiles of r that exist and fit into registers."""
    size, outs = problem.itemsize, problem.outs
    tiles = math.ceil(problem.terms / (16 * split))
    of_warp = outs * units // (16 * row_warps) * tiles
    held = max(min(held, of_warp, _room(problem, units, row_warps, split, columns, resident)), 0)
    stride = math.ceil(16 * split * tiles / 64) * 64 + 16
    parts = split * (1 if problem.tensor_cores else 2)
    vectors = 8 * columns * stride * size
    partial = parts * 8 * columns * (outs * units + 4) * max(size, 4)
    rest = row_warps * split * (of_warp - held) * 256 * size
    blocks = math.ceil(problem.width / units)
    return Plan(units, row_warps, split, columns, held, blocks, tiles, vectors + partial + rest, resident)


def _sums(problem: Problem, units: int, row_warps: int, columns: int) -> int:
    """Return the registers per thread for sums."""
    each = (4 if problem.tensor_cores else 8) * max(problem.itemsize // 4, 1)
    return each * columns * (problem.outs * units // (16 * row_warps))


def _room(problem: Problem, units: int, row_warps: int, split: int, columns: int, resident: int) -> int:
    """Return how many tiles of r fit into a thread's registers; negative if even the rest does not fit."""
    threads, cell = 32 * row_warps * split, CELLS[problem.cell]
    registers = min(255, 65536 // (threads * resident))
    of_element = 3 * len(cell.states) + 12 if problem.backward else cell.gates + len(cell.states) + 7
    elements = math.ceil(units * 8 * columns / threads) * of_element * max(problem.itemsize // 4, 1)
    room = registers - _OTHER_REGISTERS - _sums(problem, units, row_warps, columns) - elements
    return room // (2 * problem.itemsize)


@lru_cache(maxsize=4096)
def plan(problem: Problem, device: Device) -> Plan | None:
    """Return the fused launch, or None if r does not fit on the GPU or one step at a time is faster."""
    function: Any = problem.cell.split("_")[0]
    found = rnn_plan(
        device,
        cell=function,
        heads=problem.heads,
        width=problem.width,
        batch=problem.batch,
        dtype="bfloat16" if problem.itemsize == 2 else "float32",
        backward=problem.backward,
    )
    if found.variant != "fused":
        return None
    units, row_warps, split, columns = found.units, found.row_warps, found.depth_warps, found.batch_tile // 8
    while columns > 1 and _sums(problem, units, row_warps, columns) > _MOST_SUMS:
        columns //= 2
    while row_warps * split < 8 and _room(problem, units, row_warps, split, columns, 1) < 0:
        split *= 2  # fewer elements per thread: the tuner counts neither those nor 8-byte numbers
    for resident in range(found.blocks_per_sm, 0, -1):
        its = shape(problem, units, row_warps, split, columns, found.fragments_registers, resident)
        fits = resident * (its.shared + 1024) <= device.shared and its.shared <= device.block_shared
        if fits and (its.blocks == 1 or its.blocks <= device.sms * resident):
            return its
    return None
