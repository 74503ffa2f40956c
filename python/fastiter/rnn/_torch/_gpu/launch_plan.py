"""Launches of the fused CUDA recurrence: from `fastiter.tune`, adapted to the kernels' registers, or with clusters."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from ....tune import Device, rnn_constraints, rnn_plan, solve
from ....tune._rnn_plan import RESERVED
from .launch_cluster import clustered, cycles
from .launch_shape import (
    MAX_SUMS,
    MAX_THREADS,
    Plan,
    Problem,
    card,
    each_element,
    each_sum,
    exchange_of,
    other_registers,
    room,
    shape,
    sums_of,
    tagged,
)

__all__ = ["Plan", "Problem", "card", "plan", "room", "shape", "tagged"]

#: Preferred threads per block for copying exchanged vectors, if the registers allow them
_COPYING_THREADS = 256


@lru_cache(maxsize=4096)
def plan(problem: Problem, device: Device, clusters: bool = True) -> Plan | None:
    """Return the fused launch, or None if r does not fit on the GPU or one step at a time is faster."""
    requested = _requested(problem)
    result, alone = rnn_plan(device, **requested), _alone(problem, device)
    of_cluster = clustered(problem, device) if clusters else None
    other = cycles(problem, alone, device) if alone is not None else result.cycles
    if of_cluster is not None and of_cluster[1] < other:
        return of_cluster[0]
    if alone is not None or result.variant != "fused":
        return alone
    numbers = (result.units, result.row_warps, result.depth_warps, result.batch_tile // 8)
    rest = (result.fragments_registers, result.blocks_per_sm)
    return (
        _adapted(problem, device, *numbers, *rest)
        or _constrained(problem, device, requested)
        or _adapted(problem, device, *numbers, *rest, spills=True)
    )


def _requested(problem: Problem) -> dict[str, Any]:
    """Return the problem as arguments of the tuner."""
    dtype = "bfloat16" if problem.itemsize == 2 else "float32"
    sizes = {"heads": problem.heads, "width": problem.width, "batch": problem.batch}
    return {"cell": problem.cell.split("_")[0], **sizes, "dtype": dtype, "backward": problem.backward}


def _alone(problem: Problem, device: Device) -> Plan | None:
    """Return a launch of one block per head and 8 rows if all are resident and threads have at most two elements.

    By the simulation of the machine code, the cells of two elements take about 2000 cycles per step, and a barrier
    between blocks alone takes longer. The kernel is faster than the tuner's model predicts.
    """
    if problem.heads * math.ceil(problem.batch / 8) > device.sms:
        return None
    units = math.ceil(problem.width / 16) * 16
    result = _adapted(problem, device, units, 1, 1, 1, problem.terms, 1)
    return result if result is not None and units * result.rows <= 2 * result.threads else None


def _adapted(
    problem: Problem,
    device: Device,
    units: int,
    row_warps: int,
    split: int,
    columns: int,
    in_registers: int,
    resident: int,
    spills: bool = False,
) -> Plan | None:
    """Return the launch with more warps, and with fewer rows or resident blocks if necessary; None if it does not fit.

    The tuner counts fewer registers per thread, and none for elements or for 8-byte numbers. With ``spills``, the
    division of the warps that lacks the fewest registers is accepted.
    """
    while columns > 1 and sums_of(problem, units, row_warps, columns) > MAX_SUMS:
        columns //= 2
    for at_once in range(resident, 0, -1):
        for rows, terms in _warps(problem, units, row_warps, split, columns, at_once, spills):
            its = shape(problem, units, rows, terms, columns, in_registers, at_once)
            both = (tagged(problem, its, problem.terms), its)
            fitting = [each for each in both if each is not None and _fits(each, device)]
            if fitting:
                return min(fitting, key=lambda each: _passes(problem, each, device))
    return None


def _fits(its: Plan, device: Device) -> bool:
    """Return whether the resident blocks of a multiprocessor have enough shared memory, and a head's are resident."""
    fits = its.resident * (its.shared + RESERVED) <= device.shared and its.shared <= device.block_shared
    return fits and (its.blocks == 1 or its.blocks <= device.sms * its.resident)


def _passes(problem: Problem, its: Plan, device: Device) -> int:
    """Return how many launches the heads and rows take, all blocks of one being resident."""
    groups = problem.heads * math.ceil(problem.batch / its.rows)
    return 1 if its.blocks == 1 else math.ceil(groups / (device.sms * its.resident // its.blocks))


def _warps(
    problem: Problem, units: int, row_warps: int, split: int, columns: int, resident: int, spills: bool
) -> list[tuple[int, int]]:
    """Return divisions of the warps by rows of r and by terms, the best first, from the given one up to 16 warps.

    A thread computes the cells of its elements one after the other, so more warps are faster as long as a thread has
    more than one element and enough registers. Blocks that exchange vectors also copy them faster with more warps.
    """
    result = [(row_warps, split)]
    tiles, needed, exchange = problem.outs * units // 16, units * 8 * columns, exchange_of(problem, units)
    if exchange == "memory":
        needed = max(needed, _COPYING_THREADS)
    while 2 * 32 * row_warps * split <= MAX_THREADS and 8 * split <= problem.terms:
        if (
            32 * row_warps * split >= needed
            and room(problem, units, row_warps, split, columns, resident, exchange) >= 0
        ):
            break
        row_warps, split = (2 * row_warps, split) if tiles % (2 * row_warps) == 0 else (row_warps, 2 * split)
        result.append((row_warps, split))
    left = {each: room(problem, units, *each, columns, resident, exchange) for each in result}
    if spills:
        return sorted(result, key=lambda each: -left[each])
    return [each for each in reversed(result) if left[each] >= 0]


def _constrained(problem: Problem, device: Device, requested: dict[str, Any]) -> Plan | None:
    """Return the launch of minimum cost by the tuner's model among those that fit by the kernel's resource counts."""
    text, cost = rnn_constraints(device, **requested)
    size, parts = problem.itemsize, 1 if problem.tensor_cores else 2
    alone, joined = other_registers(problem, "none"), other_registers(problem, "memory")
    own = f"""
elements >= 1; threads == {device.warp} * warps
threads * elements >= units * batch_tile; threads * (elements - 1) < units * batch_tile
sums_held == {each_sum(problem)} * rows_per_warp * columns; sums_held <= {MAX_SUMS}
needed == others + sums_held + {each_element(problem)} * elements + r_held
r_held == {2 * size} * fragments_registers
others == {alone} + {joined - alone} * several
needed <= {device.thread_registers}; threads * blocks_per_sm * needed <= {device.registers}
64 * lines >= 16 * depth_warps * depth_per_warp; 64 * (lines - 1) < 16 * depth_warps * depth_per_warp
partial == {parts * max(size, 4)} * depth_warps * batch_tile * ({problem.outs} * units + 4)
own == {256 * size} * warps * fragments_shared + {size} * batch_tile * (64 * lines + 16) + partial
own <= {device.block_shared}; blocks_per_sm * (own + {RESERVED}) <= {device.shared}
blocks <= 1 or blocks <= {device.sms} * blocks_per_sm
"""
    for result in solve(f"{text}\n{own}", minimize=cost):
        numbers = (result["units"], result["row_warps"], result["depth_warps"], result["columns"])
        rest = (result["fragments_registers"], result["blocks_per_sm"])
        return _adapted(problem, device, *numbers, *rest) or _adapted(problem, device, *numbers, *rest, spills=True)
    return None
