"""Launch shapes of the fused CUDA recurrence: which part of r each block and warp holds, and where."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

#: Tiles of r that a warp may hold in registers: few numbers, as each is a variant to compile.
_HELD = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


@dataclass(frozen=True)
class Card:
    """What a plan needs to know of a device."""

    multiprocessors: int
    shared: int  # bytes that a block may have


@dataclass(frozen=True)
class Problem:
    """A product of each step: ``outs`` matrices of ``width`` units by ``terms``, for every head and row."""

    outs: int
    width: int
    terms: int
    heads: int
    batch: int
    itemsize: int
    tensor_cores: bool


@dataclass(frozen=True)
class Plan:
    """A launch: see kernels/cuda/rnn_tiles.cuh. ``blocks`` make one head for one tile of rows."""

    unit_warps: int
    split: int
    row_tiles: int
    held: int
    blocks: int
    tiles: int
    shared: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.unit_warps * self.split

    @property
    def rows(self) -> int:
        """Rows of the batch that a block takes together."""
        return 8 * self.row_tiles

    @property
    def padded(self) -> int:
        """Terms of a product, those that pad the last tiles included."""
        return 16 * self.split * self.tiles

    def defines(self) -> dict[str, object]:
        """What the kernels are compiled with."""
        joined = int(self.blocks > 1)
        return {
            "UNIT_WARPS": self.unit_warps,
            "SPLIT": self.split,
            "ROW_TILES": self.row_tiles,
            "HELD": self.held,
            "JOINED": joined,
        }


def card(x: Tensor) -> Card:
    """Return what the device of ``x`` offers; a CPU stands for an H100."""
    if not x.is_cuda:
        return Card(132, 227 << 10)
    properties = torch.cuda.get_device_properties(x.device)
    shared = properties.shared_memory_per_multiprocessor - 1024  # the driver keeps 1 KiB of each block
    return Card(properties.multi_processor_count, getattr(properties, "shared_memory_per_block_optin", shared))


def shape(problem: Problem, unit_warps: int, split: int, row_tiles: int, held: int | None = None) -> Plan:
    """Return the plan with these numbers of warps and rows: as much of r in registers as they hold, the rest shared."""
    size, outs = problem.itemsize, problem.outs
    tiles = math.ceil(problem.terms / (16 * split))
    if held is None:
        held = _held(problem, unit_warps * split, row_tiles, tiles)
    stride = math.ceil(16 * split * tiles / 64) * 64 + 16
    parts = split * (1 if problem.tensor_cores else 2)
    vectors = 8 * row_tiles * stride * size
    partial = parts * outs * 8 * row_tiles * (16 * unit_warps + 4) * max(size, 4)
    rest = unit_warps * split * (tiles - held) * outs * 256 * size
    blocks = math.ceil(problem.width / (16 * unit_warps))
    return Plan(unit_warps, split, row_tiles, held, blocks, tiles, vectors + partial + rest)


def _held(problem: Problem, warps: int, row_tiles: int, tiles: int) -> int:
    size, outs = problem.itemsize, problem.outs
    sums = (4 if problem.tensor_cores else 8) * outs * row_tiles * max(size // 4, 1)
    room = (240 if warps <= 8 else 128) - 112 - sums
    of_tile = outs * 2 * size  # registers of four bytes for 8 numbers a lane
    return max((count for count in _HELD if count <= tiles and count * of_tile <= room), default=0)


def _shapes(problem: Problem, device: Card) -> Iterator[Plan]:
    for unit_warps, split, row_tiles in itertools.product((1, 2, 4), (1, 2, 4, 8, 16), (1, 2)):
        if not 2 <= unit_warps * split <= 16 or (row_tiles - 1) * 8 >= problem.batch:
            continue
        plan = shape(problem, unit_warps, split, row_tiles)
        if plan.shared <= device.shared and (plan.blocks == 1 or plan.blocks <= device.multiprocessors):
            yield plan


def _nanoseconds(problem: Problem, plan: Plan, device: Card) -> float:
    """A rough cost of one step of the whole call: it only ranks the plans."""
    groups = problem.heads * math.ceil(problem.batch / plan.rows)
    at_once = max(device.multiprocessors // plan.blocks, 1)
    rounds = math.ceil(groups / at_once)
    meeting = 1200.0 + plan.rows * plan.padded * problem.itemsize / 64 if plan.blocks > 1 else 100.0
    of_warp = plan.tiles * problem.outs * plan.row_tiles * problem.itemsize * (1 if problem.tensor_cores else 6)
    from_shared = (plan.tiles - plan.held) * problem.outs * problem.itemsize
    busy = max(plan.unit_warps * plan.split / 4, 1) * (2.5 * of_warp + 2.0 * from_shared)
    cells = 60.0 * math.ceil(4 * plan.row_tiles / plan.split)
    sums = 4.0 * plan.split * problem.outs * (1 if problem.tensor_cores else 2)
    return rounds * (meeting + busy + cells + sums)


@lru_cache(maxsize=4096)
def plan(problem: Problem, device: Card) -> Plan | None:
    """Return the launch that looks fastest, or None where r does not fit into the card."""
    return min(_shapes(problem, device), key=lambda it: _nanoseconds(problem, it, device), default=None)
