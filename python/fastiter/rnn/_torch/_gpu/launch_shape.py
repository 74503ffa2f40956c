"""A launch of the fused CUDA recurrence: its parameters, and the registers and shared memory that they require."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ....tune import DEVICES, Device
from ..._cells import CELLS

#: Registers per thread besides r, sums and elements, by element size in bytes; with fewer the compiler spills.
_OTHER_REGISTERS = {2: 66, 4: 98, 8: 132}
#: The number of these that are saved without lengths, packed rows, resets and clipping
_PLAIN_LESS = {2: 20, 4: 8, 8: 0}
#: Additional registers for blocks of a cluster; and their total where a thread has more than 128 registers
_CLUSTER_MORE = {2: 14, 4: 14, 8: 16}
_CLUSTER_AT_EASE = {2: 124, 4: 132, 8: 144}
#: The same for blocks that exchange vectors through global memory, which includes loads in flight. Holding more tiles
#: of r than these leave room for would take long to compile.
_JOINED_REGISTERS = {2: 124, 4: 132, 8: 144}
#: Additional registers of these for the forward pass in 16 bits
_FORWARD_MORE = 8
#: Additional registers for packets with tags
_TAGGED_MORE = 12

#: Maximum threads per block: with more, the compiler has fewer than 128 registers per thread.
MAX_THREADS = 512
#: Maximum registers of sums per thread; a tile of rows that needs more is halved.
MAX_SUMS = 64

#: How the blocks of a head exchange vectors: not at all (one block), through global memory, or within a cluster
Exchange: TypeAlias = Literal["none", "memory", "cluster"]


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
    plain: bool = False  #: without lengths, packed rows, resets and clipping

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
    """A launch, in the notation of kernels/rnn/tiles.cuh. ``blocks`` blocks compute one head for one tile of rows."""

    units: int
    row_warps: int
    split: int
    columns: int
    in_registers: int
    blocks: int
    tiles: int
    shared: int
    resident: int
    clustered: bool = False  #: the blocks of a head form a cluster
    tagged: bool = False  #: they exchange packets with tags

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
        joined = self.blocks > 1 and not self.clustered
        return {
            "UNITS": self.units,
            "ROW_WARPS": self.row_warps,
            "SPLIT": self.split,
            "COLUMNS": self.columns,
            "HELD": self.in_registers,
            "JOINED": int(joined),
            "RESIDENT": self.resident,
            **({"TILES": self.tiles} if joined else {}),
            **({"TAGGED": 1} if self.tagged else {}),
            **({"CLUSTER": self.blocks} if self.clustered else {}),
        }


@lru_cache(maxsize=32)
def _card(index: int) -> Device:
    with torch.cuda.device(index):
        return Device.current()


def card(x: Tensor) -> Device:
    """Return the properties of the device of ``x``; for a CPU those of an H100."""
    return _card(x.device.index) if x.is_cuda else DEVICES["H100"]


def shape(
    problem: Problem,
    units: int,
    row_warps: int,
    split: int,
    columns: int,
    in_registers: int,
    resident: int = 1,
    cluster: int = 0,
) -> Plan:
    """Return the plan with these parameters; ``in_registers`` is limited to the tiles of r that exist and fit.

    ``cluster``: the number of blocks per head if they form a cluster. The vectors have room for all units of each
    block, including padding.
    """
    size, outs = problem.itemsize, problem.outs
    terms = problem.terms // problem.width * cluster * units if cluster else problem.terms
    tiles = math.ceil(terms / (16 * split))
    of_warp = outs * units // (16 * row_warps) * tiles
    exchange: Exchange = "cluster" if cluster else exchange_of(problem, units)
    in_registers = max(
        min(in_registers, of_warp, room(problem, units, row_warps, split, columns, resident, exchange)), 0
    )
    stride = math.ceil(16 * split * tiles / 64) * 64 + 16
    parts = split * (1 if problem.tensor_cores else 2)
    in_lanes = sums_in_lanes(problem, units, row_warps, split)
    buffers = 2 if cluster or in_lanes else 1
    vectors = 8 * columns * stride * size * buffers + (16 if cluster else 0)
    partial = 0 if in_lanes else parts * 8 * columns * (outs * units + 4) * max(size, 4)
    rest = row_warps * split * (of_warp - in_registers) * 256 * size
    blocks, shared = cluster or math.ceil(problem.width / units), vectors + partial + rest
    return Plan(units, row_warps, split, columns, in_registers, blocks, tiles, shared, resident, cluster > 0)


def tagged(problem: Problem, its: Plan, in_registers: int) -> Plan | None:
    """Return the forward launch with packets with tags instead of a barrier, or None if its numbers allow none.

    In kernels/rnn/tiles.cuh a packet has 7 units, so that vectors are longer and blocks more numerous, by a seventh.
    """
    if problem.backward:
        return None
    paired = problem.outs == 4 and its.units // (4 * its.row_warps) % 2 == 1
    in_lanes = sums_in_lanes(problem, its.units, its.row_warps, its.split)
    if exchange_of(problem, its.units) != "memory" or problem.itemsize != 2 or its.units % 8 or (in_lanes and paired):
        return None
    wide = replace(problem, width=math.ceil(problem.width / 7) * 8)
    numbers = (its.units, its.row_warps, its.split, its.columns)
    left = max(room(wide, *numbers, its.resident, "memory") - _TAGGED_MORE // (2 * problem.itemsize), 0)
    return replace(shape(wide, *numbers, min(in_registers, left), its.resident), tagged=True)


def sums_in_lanes(problem: Problem, units: int, row_warps: int, split: int) -> bool:
    """Return whether the lane that computes an element has its sums: kInLanes in kernels/rnn/tiles.cuh."""
    tiles = problem.outs * units // (16 * row_warps)
    return problem.tensor_cores and split == 1 and (2 * tiles % problem.outs == 0 or problem.outs == 4)


def chains(problem: Problem, units: int, row_warps: int, split: int, columns: int, tiles: int) -> int:
    """Return in how many chains of products a sum of ``tiles`` tiles is added: kChains in kernels/rnn/tiles.cuh."""
    most = 4 // (problem.outs * units // (16 * row_warps) * columns)
    return max(min(most, tiles // 4), 1) if sums_in_lanes(problem, units, row_warps, split) else 1


def sums_of(problem: Problem, units: int, row_warps: int, columns: int) -> int:
    """Return the registers per thread for sums."""
    return each_sum(problem) * columns * (problem.outs * units // (16 * row_warps))


def exchange_of(problem: Problem, units: int) -> Exchange:
    """Return how blocks of ``units`` units exchange vectors if they form no cluster."""
    return "memory" if units < problem.width else "none"


def other_registers(problem: Problem, exchange: Exchange) -> int:
    """Return the registers per thread besides r, sums and elements."""
    size = problem.itemsize
    if exchange == "memory":
        return _JOINED_REGISTERS[size] + _FORWARD_MORE * (size == 2 and not problem.backward)
    return _OTHER_REGISTERS[size] - _PLAIN_LESS[size] * problem.plain + _CLUSTER_MORE[size] * (exchange == "cluster")


def each_sum(problem: Problem) -> int:
    """Return the registers per thread for the sums of a tile of 16 rows of r and 8 rows of the batch."""
    return (4 if problem.tensor_cores else 8) * max(problem.itemsize // 4, 1)


def each_element(problem: Problem) -> int:
    """Return the registers per thread for an element (a unit of a row): its inputs of two steps, and its addresses."""
    gates, states = CELLS[problem.cell].gates, len(CELLS[problem.cell].states)
    numbers = 7 * states + 26 if problem.backward else 2 * gates + states + 12
    numbers -= (8 if problem.backward else 4) * problem.plain
    return numbers * max(problem.itemsize // 4, 1)


def room(
    problem: Problem, units: int, row_warps: int, split: int, columns: int, resident: int, exchange: Exchange
) -> int:
    """Return how many tiles of r fit in a thread's registers; negative if the rest alone does not fit."""
    threads = 32 * row_warps * split
    registers = min(255, 65536 // (threads * resident))
    elements = math.ceil(units * 8 * columns / threads) * each_element(problem)
    others = other_registers(problem, exchange)
    if exchange == "cluster" and registers > 128:
        others = max(others, _CLUSTER_AT_EASE[problem.itemsize])
    count = chains(problem, units, row_warps, split, columns, math.ceil(problem.terms / (16 * split)))
    room = registers - others - count * sums_of(problem, units, row_warps, columns) - elements
    return room // (2 * problem.itemsize)
