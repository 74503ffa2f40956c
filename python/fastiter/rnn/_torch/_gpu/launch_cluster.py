"""Launch shapes of the fused CUDA recurrence in which the blocks of a head form a cluster, on GPUs with clusters."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ....tune import Device
from ....tune._rnn_plan import ELEMENT, ELEMENT_ISSUE, EXACT_ISSUE, FRAGMENT_ISSUE, PRODUCT, RESERVED, STEP, SUM
from .launch_shape import MAX_SUMS, MAX_THREADS, Plan, Problem, chains, room, shape, sums_in_lanes, sums_of

#: The lowest compute capability with clusters, and the number of SMs that are certain to be able to share a cluster
OLDEST, NEIGHBOURS = (9, 0), 16
#: The maximum number of blocks per cluster by major compute capability, and for any other
MAX_BLOCKS, PORTABLE = {9: 16, 10: 16}, 8
#: Latency of a remote store and cycles to issue one of 8 bytes, from the simulation of the machine code
REMOTE, SEND = 250, 4
#: Cycles per product in a chain of dependent products on tensor cores
CHAIN = 28
#: Cycles for a barrier of the block and for passing a sum through shared memory
BARRIER = 46
#: Cycles for an SM to read a tile of r from shared memory, whose bandwidth all warps share, per byte of an element
READ = 2
#: A head of up to this width is one block, provided that the blocks of all heads are resident
ALONE = 96
#: Warps per block
WARPS = (4, 8, 16)


def clustered(problem: Problem, device: Device) -> tuple[Plan, float] | None:
    """Return the launch with the fewest cycles per step by the model, and that number; None if r fits in no cluster."""
    if device.capability < OLDEST or problem.width <= ALONE:
        return None
    costs = [(cycles(problem, its, device), number, its) for number, its in enumerate(_candidates(problem, device))]
    if not costs:
        return None
    cost, _, its = min(costs)
    return its, cost


def _candidates(problem: Problem, device: Device) -> Iterator[Plan]:
    """Yield the launches that fit the device."""
    each = 16 // math.gcd(16, problem.outs)
    for blocks in range(2, min(MAX_BLOCKS.get(device.capability[0], PORTABLE), device.sms) + 1):
        units = each * math.ceil(problem.width / (each * blocks))
        if (blocks - 1) * units >= problem.width:
            continue
        for row_warps, split, columns in _divisions(problem, units):
            if sums_of(problem, units, row_warps, columns) > MAX_SUMS:
                continue
            if room(problem, units, row_warps, split, columns, 1, "cluster") < 0:
                continue
            its = shape(problem, units, row_warps, split, columns, problem.terms, cluster=blocks)
            if its.shared <= device.block_shared and its.shared + RESERVED <= device.shared:
                yield its


def _divisions(problem: Problem, units: int) -> Iterator[tuple[int, int, int]]:
    """Yield the numbers of warps along the rows of r and along the terms, and of tiles of 8 rows of the batch."""
    tiles = problem.outs * units // 16
    for columns in (1, 2, 4):
        if columns > 1 and 8 * columns >= 2 * problem.batch:
            return
        for warps in WARPS:
            for row_warps in (each for each in (1, 2, 4, 8, 16) if tiles % each == 0 and warps % each == 0):
                if 32 * warps <= MAX_THREADS:
                    yield row_warps, warps // row_warps, columns


def cycles(problem: Problem, its: Plan, device: Device) -> float:
    """Return the model's cycles for one step of all rows and heads: the maximum of latency and an SM's issue cycles."""
    way, cell, warps = int(problem.backward), problem.cell.split("_")[0], its.threads // 32
    elements = math.ceil(its.units * its.rows / its.threads)
    of_warp = problem.outs * its.units // (16 * its.row_warps) * its.tiles
    products, exact = of_warp * its.columns, 0 if problem.tensor_cores else EXACT_ISSUE
    sent = problem.terms // problem.width * math.ceil(its.blocks * problem.itemsize / 8) * its.clustered
    read = READ * problem.itemsize * warps * (of_warp - its.in_registers)
    division = (problem, its.units, its.row_warps, its.split)
    partial = 0 if sums_in_lanes(*division) else SUM[way] * problem.outs * its.split
    element = ELEMENT[cell][way] + partial + SEND * sent
    chain = CHAIN * its.tiles / chains(*division, its.columns, its.tiles)
    product = warps * exact if exact else max(PRODUCT[way], chain / products)
    latency = STEP[way] + elements * element + products * product + REMOTE * its.clustered + read
    latency -= BARRIER * sums_in_lanes(*division)
    issue = elements * (ELEMENT_ISSUE + SEND * sent) + products * (FRAGMENT_ISSUE + exact)
    groups = problem.heads * math.ceil(problem.batch / its.rows)
    at_once = max(device.sms // NEIGHBOURS, 1) * max(NEIGHBOURS // its.blocks, 1)
    return math.ceil(groups / at_once) * max(latency, warps / 4 * issue)
