"""The step `plans`: the fused recurrence with many launch shapes, to which the tuner's model is fitted.

python -m bench.card.steps.plans --simulate FILE.json     the same with the machine code emulator, without a card
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.card.device import Place, drawn
from bench.card.steps.correctness import GATES, heads
from bench.card.worker import Item
from bench.harness.record import Record
from fastiter.rnn._cells import CELLS
from fastiter.rnn._torch._gpu import kernels as gpu
from fastiter.rnn._torch._gpu import launch_plan
from fastiter.rnn._torch._gpu.launch_plan import Plan, Problem
from fastiter.rnn._torch.ops import RnnBackward, RnnForward
from fastiter.tune import Device

BATCH, TIME = 16, 1024
#: Head sizes with a goal first
WIDTHS = (64, 768, 128, 256, 192, 16, 32, 384, 512)
#: Numbers of warps along the rows of r and along the terms of the sums
WARPS = tuple((rows, split) for rows in (1, 2, 4, 8, 16) for split in (1, 2, 4, 8, 16) if rows * split in (4, 8, 16))
#: Maximum number of plans with one block, and with several blocks per head, for a width and direction
MAX_PLANS = 6


def problem_of(cell: str, width: int, backward: bool, batch: int = BATCH) -> Problem:
    """Return a call without lengths, packed rows, resets and clips."""
    return Problem(cell, width, heads(width), batch, 2, True, backward, plain=True)


def candidates(problem: Problem, card: Device, limit: int = MAX_PLANS) -> list[Plan]:
    """Return the launcher's plan, and other feasible ones, with one block per head and with several."""
    plans: list[Plan] = []
    width, step = problem.width, 16 if problem.backward else 4
    units = sorted({n for n in (width, width // 2, width // 4, 64, 32, 16, 12) if n and n <= width and n % step == 0})
    for each, (rows, split), columns in itertools.product(units, WARPS, (1, 2)):
        if problem.outs * each % (16 * rows) or 8 * columns > max(8, problem.batch):
            continue
        if launch_plan.room(problem, each, rows, split, columns, 1, "none" if each >= problem.width else "memory") < 0:
            continue
        its = launch_plan.shape(problem, each, rows, split, columns, 64)
        its = launch_plan.tagged(problem, its, 64) or its
        groups = problem.heads * -(-problem.batch // its.rows)
        resident = its.blocks == 1 or groups * its.blocks <= card.sms
        if its.shared <= card.block_shared and resident and each * its.rows <= 8 * its.threads:
            plans.append(its)
    plans.sort(key=lambda its: (its.blocks, its.threads, its.columns))
    alone, joined = ([its for its in plans if (its.blocks > 1) is is_joined] for is_joined in (False, True))
    chosen = launch_plan.plan(problem, card)
    return list(dict.fromkeys([*([chosen] if chosen else []), *spread(alone, limit), *spread(joined, limit)]))


def spread(plans: list[Plan], limit: int) -> list[Plan]:
    """Return some of the plans, evenly spread from the first to the last."""
    count = min(limit, len(plans))
    return [plans[k * (len(plans) - 1) // max(count - 1, 1)] for k in range(count)]


# ---- calls with a plan -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def inputs(cell: str, width: int, batch: int, time: int, device: str) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return wx, r, and what a forward pass returns for the gradients."""
    count, gates = heads(width), GATES[cell]
    wx = drawn(batch, time, gates, count, width, seed=0, dtype=torch.bfloat16).to(device)
    r = (drawn(gates, count, width, width, seed=1) / math.sqrt(width)).to(device, torch.bfloat16)
    return wx, r, forward(cell, wx, r, None)


def forward(cell: str, wx: Tensor, r: Tensor, plan: Plan | None) -> list[Tensor]:
    call = RnnForward(cell, wx, r, None, [], False, None, None, True, True, None, None, None, None, 0)
    return gpu.forward(call, plan=plan)


def backward(cell: str, r: Tensor, saved_tensors: list[Tensor], dh: Tensor, plan: Plan) -> list[Tensor]:
    """Return only the gradient of wx: those of r and b are separate products."""
    count = len(CELLS[cell].states)
    states, saved = [saved_tensors[0], *saved_tensors[1 + count : 2 * count]], saved_tensors[2 * count :]
    gradients: list[Tensor | None] = [dh, *[None] * (count - 1)]
    final: list[Tensor | None] = [None] * count
    call = RnnBackward(cell, r, [], states, saved, gradients, final, False, None, None, False, False, False)
    return gpu.backward(call, plan=plan)


def measured(place: Place, problem: Problem, its: Plan, batch: int, time: int) -> Record:
    """Return the microseconds per step, and the deviation from the result of the launcher's own plan."""
    wx, r, saved_tensors = place.run(partial(inputs, problem.cell, problem.width, batch, time, place.device))
    if problem.backward:
        dh = drawn(*saved_tensors[0].shape, seed=2, dtype=torch.bfloat16).to(place.device)
        call: Callable[[], list[Tensor]] = partial(backward, problem.cell, r, saved_tensors, dh, its)
        off = 0.0
        place.run(call)
    else:
        call = partial(forward, problem.cell, wx, r, its)
        off = (place.run(call)[0].float() - saved_tensors[0].float()).abs().max().item()
        if not off <= 4 * torch.finfo(torch.bfloat16).eps:
            raise ArithmeticError(f"h is off by {off:.1e}")
    us = 1e3 * place.milliseconds(call) / time
    return {**described(problem, its), "us": us, "off": off}


def described(problem: Problem, its: Plan) -> Record:
    sizes = {"cell": problem.cell, "D": problem.width, "N": problem.heads, "B": problem.batch}
    return {**sizes, "backward": problem.backward, "plan": asdict(its)}


def name_of(problem: Problem, its: Plan) -> str:
    way = "backward" if problem.backward else "forward"
    blocks = f"cluster of {its.blocks}" if its.clustered else f"{its.blocks}"
    shape = f"{blocks} x {its.units} units, {its.row_warps} x {its.split} warps, {its.rows} rows"
    return f"{problem.cell} {problem.width} {way}, {shape}"


def compile_all(work: list[tuple[Problem, Plan]]) -> Record:
    """Compile the plans in parallel."""
    from fastiter import _cuda

    variants: list[tuple[str, dict[str, object]]] = []
    for problem, its in work:
        defines = {"ELEMENT": "BFloat16", "CELL": CELLS[problem.cell].code, **its.defines(), "TF32": 0, "PLAIN": 1}
        variants.append((f"rnn/{'backward' if problem.backward else 'forward'}", defines))
    _cuda.compile_all(variants)
    return {"variants": len(variants)}


def items(dry: bool) -> list[Item]:
    place = Place(dry)
    card = place.card()
    if dry:
        problem = problem_of("lstm", 16, False, 2)
        its = candidates(problem, card)[0]
        return [Item(name_of(problem, its), partial(measured, place, problem, its, 2, 3))]
    work = [(problem_of("lstm", width, back), width) for width in WIDTHS for back in (False, True)]
    pairs = [(problem, its) for problem, _ in work for its in candidates(problem, card)]
    first = Item("compile", partial(compile_all, pairs), 0.4 * len(pairs), 180)  # 6 s of one of 16 cores for each
    return [first, *(Item(name_of(*pair), partial(measured, place, *pair, BATCH, TIME), 0.5, 20) for pair in pairs)]


# ---- by the emulator -------------------------------------------------------------------------------------------------


def simulated(cells: list[str], widths: list[int], limit: int) -> Iterator[Record]:
    """Yield the same rows from the emulator, for an H100."""
    from fastiter.tune import DEVICES
    from tests.gpu.emulator import recurrence
    from tests.gpu.emulator.latencies import Latencies

    for cell, width, back in itertools.product(cells, widths, (False, True)):
        problem = problem_of(cell, width, back)
        for its in candidates(problem, DEVICES["H100"], limit):
            step = recurrence.simulate(problem, its)
            yield {
                **described(problem, its),
                "cycles": step.bound,
                "us": step.bound / Latencies().clock,
                "issue": step.issue,
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulate", type=Path, required=True, metavar="FILE.json", help="add the rows to this file")
    parser.add_argument("--cells", type=lambda text: text.split(","), default=["lstm"])
    parser.add_argument("--widths", type=lambda text: [int(each) for each in text.split(",")], default=list(WIDTHS))
    parser.add_argument("--most", type=int, default=MAX_PLANS, help="maximum of plans with one block, and with several")
    options = parser.parse_args()
    rows: list[Any] = json.loads(options.simulate.read_text()) if options.simulate.exists() else []
    for row in simulated(options.cells, options.widths, options.most):
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
        options.simulate.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


if __name__ == "__main__":
    main()
