"""Launch shapes of the fused CUDA recurrence: from `fastiter.tune`, adapted to the kernels' registers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...tune import DEVICES, Device, rnn_constraints, rnn_plan, solve
from ...tune._rnn_plan import RESERVED
from .._cells import CELLS

#: Registers per thread for other than r, sums and elements, by the size of a number; with fewer the compiler spills.
_OTHER_REGISTERS = {2: 66, 4: 98, 8: 132}
#: Fewer of them if no step asks for lengths, packed rows, resets and clips
_PLAIN_LESS = {2: 20, 4: 8, 8: 0}
#: Of blocks that exchange vectors: the loads in flight. More tiles of r than that leaves room for take long to compile.
_JOINED_REGISTERS = {2: 124, 4: 132, 8: 144}
#: Maximum threads per block: with more, the compiler has fewer than 128 registers per thread.
_MOST_THREADS = 512
#: Threads of a block that copies exchanged vectors, if its registers allow it
_COPYING_THREADS = 256
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
    plain: bool = False  #: without lengths, packed rows, resets and clips

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
    return _each_sum(problem) * columns * (problem.outs * units // (16 * row_warps))


def _other_registers(problem: Problem, is_joined: bool) -> int:
    size = problem.itemsize
    return _JOINED_REGISTERS[size] if is_joined else _OTHER_REGISTERS[size] - _PLAIN_LESS[size] * problem.plain


def _each_sum(problem: Problem) -> int:
    """Return the registers per thread for the sums of a tile of 16 rows of r and 8 rows of the batch."""
    return (4 if problem.tensor_cores else 8) * max(problem.itemsize // 4, 1)


def _each_element(problem: Problem) -> int:
    """Return the registers per thread for an element, a unit and a row: its inputs of two steps, and its addresses."""
    gates, states = CELLS[problem.cell].gates, len(CELLS[problem.cell].states)
    numbers = 7 * states + 26 if problem.backward else 2 * gates + states + 12
    numbers -= (8 if problem.backward else 4) * problem.plain
    return numbers * max(problem.itemsize // 4, 1)


def _room(problem: Problem, units: int, row_warps: int, split: int, columns: int, resident: int) -> int:
    """Return how many tiles of r fit into a thread's registers; negative if even the rest does not fit."""
    threads = 32 * row_warps * split
    registers = min(255, 65536 // (threads * resident))
    elements = math.ceil(units * 8 * columns / threads) * _each_element(problem)
    room = (
        registers
        - _other_registers(problem, units < problem.width)
        - _sums(problem, units, row_warps, columns)
        - elements
    )
    return room // (2 * problem.itemsize)


@lru_cache(maxsize=4096)
def plan(problem: Problem, device: Device) -> Plan | None:
    """Return the fused launch, or None if r does not fit on the GPU or one step at a time is faster."""
    asked = _asked(problem)
    found = rnn_plan(device, **asked)
    if found.variant != "fused":
        return None
    alone = _alone(problem, device)
    if alone is not None:
        return alone
    numbers = (found.units, found.row_warps, found.depth_warps, found.batch_tile // 8)
    rest = (found.fragments_registers, found.blocks_per_sm)
    return (
        _adapted(problem, device, *numbers, *rest)
        or _constrained(problem, device, asked)
        or _adapted(problem, device, *numbers, *rest, spills=True)
    )


def _asked(problem: Problem) -> dict[str, Any]:
    """Return the arguments by which the tuner knows the problem."""
    dtype = "bfloat16" if problem.itemsize == 2 else "float32"
    sizes = {"heads": problem.heads, "width": problem.width, "batch": problem.batch}
    return {"cell": problem.cell.split("_")[0], **sizes, "dtype": dtype, "backward": problem.backward}


def _alone(problem: Problem, device: Device) -> Plan | None:
    """Return one block for each head and 8 rows if all are resident, and a thread has two elements at most.

    The cells of two elements take a step some 2000 cycles by the simulation of the machine code, a barrier between
    blocks alone more than that; the kernel is faster than the tuner's model has it.
    """
    if problem.heads * math.ceil(problem.batch / 8) > device.sms:
        return None
    units = math.ceil(problem.width / 16) * 16
    found = _adapted(problem, device, units, 1, 1, 1, problem.terms, 1)
    return found if found is not None and units * found.rows <= 2 * found.threads else None


def _adapted(
    problem: Problem,
    device: Device,
    units: int,
    row_warps: int,
    split: int,
    columns: int,
    held: int,
    resident: int,
    spills: bool = False,
) -> Plan | None:
    """Return the launch with more warps, and fewer rows or resident blocks if the kernel needs it; None: still not.

    The tuner counts fewer registers per thread, and none for elements or for 8-byte numbers. With ``spills``, the
    division of the warps that lacks the fewest registers will do.
    """
    while columns > 1 and _sums(problem, units, row_warps, columns) > _MOST_SUMS:
        columns //= 2
    for at_once in range(resident, 0, -1):
        for rows, terms in _warps(problem, units, row_warps, split, columns, at_once, spills):
            its = shape(problem, units, rows, terms, columns, held, at_once)
            fits = at_once * (its.shared + RESERVED) <= device.shared and its.shared <= device.block_shared
            if fits and (its.blocks == 1 or its.blocks <= device.sms * at_once):
                return its
    return None


def _warps(
    problem: Problem, units: int, row_warps: int, split: int, columns: int, resident: int, spills: bool
) -> list[tuple[int, int]]:
    """Return divisions of the warps by rows of r and by terms, the best first, from the one given to 16 warps.

    A step waits for the cell of a thread's elements, one after the other, so that more warps are faster while a thread
    has more than one; they have to leave it the registers for that. Blocks that exchange vectors copy them sooner, too.
    """
    found = [(row_warps, split)]
    tiles, wanted = problem.outs * units // 16, units * 8 * columns
    if units < problem.width:
        wanted = max(wanted, _COPYING_THREADS)
    while 2 * 32 * row_warps * split <= _MOST_THREADS and 8 * split <= problem.terms:
        if 32 * row_warps * split >= wanted and _room(problem, units, row_warps, split, columns, resident) >= 0:
            break
        row_warps, split = (2 * row_warps, split) if tiles % (2 * row_warps) == 0 else (row_warps, 2 * split)
        found.append((row_warps, split))
    room = {each: _room(problem, units, *each, columns, resident) for each in found}
    if spills:
        return sorted(found, key=lambda each: -room[each])
    return [each for each in reversed(found) if room[each] >= 0]


def _constrained(problem: Problem, device: Device, asked: dict[str, Any]) -> Plan | None:
    """Return the launch with the tuner's least cost among those that fit by the kernel's own count of resources."""
    text, cost = rnn_constraints(device, **asked)
    size, parts = problem.itemsize, 1 if problem.tensor_cores else 2
    alone, joined = (_other_registers(problem, is_joined) for is_joined in (False, True))
    own = f"""
elements >= 1; threads == {device.warp} * warps
threads * elements >= units * batch_tile; threads * (elements - 1) < units * batch_tile
sums_held == {_each_sum(problem)} * rows_per_warp * columns; sums_held <= {_MOST_SUMS}
needed == others + sums_held + {_each_element(problem)} * elements + r_held
r_held == {2 * size} * fragments_registers
others == {alone} + {joined - alone} * several
needed <= {device.thread_registers}; threads * blocks_per_sm * needed <= {device.registers}
64 * lines >= 16 * depth_warps * depth_per_warp; 64 * (lines - 1) < 16 * depth_warps * depth_per_warp
partial == {parts * max(size, 4)} * depth_warps * batch_tile * ({problem.outs} * units + 4)
own == {256 * size} * warps * fragments_shared + {size} * batch_tile * (64 * lines + 16) + partial
own <= {device.block_shared}; blocks_per_sm * (own + {RESERVED}) <= {device.shared}
blocks <= 1 or blocks <= {device.sms} * blocks_per_sm
"""
    for found in solve(f"{text}\n{own}", minimize=cost):
        numbers = (found["units"], found["row_warps"], found["depth_warps"], found["columns"])
        rest = (found["fragments_registers"], found["blocks_per_sm"])
        return _adapted(problem, device, *numbers, *rest) or _adapted(problem, device, *numbers, *rest, spills=True)
    return None
