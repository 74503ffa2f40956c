"""The fused recurrence: compiles a plan's kernels for sm_90, executes a thread, and returns the cycles of a step.

python -m tests.gpu.emulator.recurrence                      the table of docs/gpu.md
python -m tests.gpu.emulator.recurrence --record FILE.json   with the latencies measured on a card
python -m tests.gpu.emulator.recurrence --no-clusters        with blocks that exchange states through memory
python -m tests.gpu.emulator.recurrence --widths 64 --waits  what a step waits for
"""

from __future__ import annotations

import argparse
import math
import re
import struct
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from fastiter import _nvrtc
from fastiter.rnn._cells import CELLS
from fastiter.rnn._torch._gpu.launch_plan import Plan, Problem, plan
from fastiter.tune import DEVICES

from .latencies import Latencies
from .sass import Program, disassemble, parse
from .thread import Thread, Visit
from .values import State

WIDTHS = (16, 32, 64, 128, 192, 256, 384, 512, 768)
UNITS, BATCH, TIME = 768, 16, 1024
#: Number of executed steps, and the first step that is like its successors
STEPS, SETTLED = 8, 4
STEMS = {False: ("rnn/forward", "rnn_fwd"), True: ("rnn/backward", "rnn_bwd")}
_SIZES = {"int64": ("q", 8), "int32": ("i", 4), "uint32": ("I", 4), "Real": ("f", 4), "float": ("f", 4)}


@dataclass(frozen=True)
class Step:
    """A step of a warp: the cycles until its last result, its instruction counts, and its waits in cycles."""

    cycles: float
    counts: Counter[str]
    waits: dict[str, float]
    warps: int
    assumed: tuple[str, ...]

    @property
    def issue(self) -> float:
        """The cycles in which a scheduler, one of four, issues the instructions of its warps."""
        return self.counts["all"] * math.ceil(self.warps / 4)

    @property
    def bound(self) -> float:
        """The larger of the two: the duration of a step in this model."""
        return max(self.cycles, self.issue)


def problem_of(cell: str, width: int, backward: bool, batch: int = BATCH, units: int = UNITS) -> Problem:
    """Return a recurrence with heads of this width in bfloat16, without lengths, packed rows, resets and clips."""
    return Problem(cell, width, max(1, units // width), batch, 2, True, backward, plain=True)


def planned(problem: Problem, clusters: bool = True) -> Plan | None:
    """Return the launcher's plan for an H100, or for one without ``clusters``."""
    return plan(problem, DEVICES["H100"], clusters)


def kernel_arguments(stem: str, kernel: str) -> list[tuple[str, str]]:
    """Return the type and name of each argument, from the source; the type of a pointer is "*"."""
    source = _nvrtc.source_of(stem)
    macro = re.search(r"#define SHAPE_ARGUMENTS((?:.*\\\n)*.*)", source)
    found = re.search(rf"\b{kernel}\(([^)]*)\)", source)
    assert macro is not None and found is not None, f"{stem} does not declare {kernel} as the emulator expects"
    text = found[1].replace("SHAPE_ARGUMENTS", macro[1].replace("\\", " "))
    arguments: list[tuple[str, str]] = []
    for part in text.split(","):
        words = part.replace("__restrict__", "").replace("const", "").split()
        pointer = "*" in part or (len(words) == 1 and arguments[-1][0] == "*")  # const int64 *starts, *offsets
        arguments.append(("*" if pointer else words[0], words[-1].lstrip("*")))
    return arguments


def pack(arguments: list[tuple[str, str]], values: dict[str, float]) -> bytes:
    """Return the block of arguments; pointers without a value are null, and numbers 0."""
    out = b""
    for kind, name in arguments:
        form, size = ("Q", 8) if kind == "*" else _SIZES[kind]
        value = values.get(name, 0)
        out += b"\0" * (-len(out) % size) + struct.pack(f"<{form}", value if form == "f" else int(value))
    return out


def values_of(problem: Problem, its: Plan, save: bool) -> dict[str, float]:
    """Return the arguments of a call of a training step: all states are kept, and no option is used."""
    names = ["wx", "r", "h_last", "h"] if not problem.backward else ["r", "h", "dh", "dwx"]
    others = [state for state in CELLS[problem.cell].states if state != "h"]
    if problem.backward:
        names += [*others, "saved", *(["dq"] if problem.cell == "gru" else [])]
    else:
        names += [f"{state}_last" for state in others] + ([*others, "saved"] if save else [])
    names += ["arrived"] + (["exchange"] if its.blocks > 1 and not its.clustered else [])
    pointers = {name: float((0x7F00 + number) << 32) for number, name in enumerate(names)}
    sizes = {"batch": problem.batch, "time": STEPS, "heads": problem.heads, "width": problem.width}
    lines = {"line_row": STEPS, "line_time": 1, "blocks": its.blocks}
    return {**pointers, **sizes, **lines, "clip_state": math.inf, "clip_grad": math.inf}


@lru_cache(maxsize=64)
def compiled(stem: str, defines: tuple[tuple[str, object], ...]) -> Program:
    """Return the machine code of a variant for sm_90."""
    return parse(disassemble(_nvrtc.compile_source(_nvrtc.source_of(stem), stem, "sm_90", dict(defines))))


def defines_of(problem: Problem, its: Plan) -> dict[str, object]:
    """Return the macros of the launch."""
    kind = {"ELEMENT": "BFloat16" if problem.itemsize == 2 else "float", "CELL": CELLS[problem.cell].code}
    return {**kind, **its.defines(), "TF32": 0, "PLAIN": int(problem.plain)}


def loop_of_steps(visits: dict[int, list[Visit]]) -> list[Visit]:
    """Return the visits of the loop over the steps: the loop with the most products between two visits.

    These are products of fragments, or of numbers for dtypes without tensor cores.
    """

    def products(found: list[Visit]) -> int:
        return sum(found[-1].counts[name] - found[-2].counts[name] for name in ("HMMA", "FFMA"))

    loops = [found for found in visits.values() if len(found) > SETTLED + 1]
    assert loops, "no loop has as many turns as there are steps"
    return max(loops, key=products)


def simulate(problem: Problem, its: Plan, latencies: Latencies | None = None, save: bool = True) -> Step:
    """Execute the first thread of a launch, and return a step in the steady state."""
    stem, kernel = STEMS[problem.backward]
    program = compiled(stem, tuple(sorted(defines_of(problem, its).items())))
    arguments = pack(kernel_arguments(stem, kernel), values_of(problem, its, save))
    groups = problem.heads * -(-problem.batch // its.rows)
    constants = {0: its.threads, 4: 1, 8: 1, 12: groups * its.blocks, 16: 1, 20: 1, 0x28: 0xFFFDC0}
    special = {"SR_TID.X": 0, "SR_TID.Y": 0, "SR_TID.Z": 0, "SR_CTAID.X": 0, "SR_LANEID": 0, "SR_NTID.X": its.threads}
    thread = Thread(program, State(arguments, constants, special), latencies or Latencies())
    trace = thread.run()
    visits = loop_of_steps(trace.visits)
    first, last = visits[SETTLED], visits[SETTLED + 1]
    waits = {name: cycles - first.waits.get(name, 0.0) for name, cycles in last.waits.items()}
    return Step(
        last.cycle - first.cycle, last.counts - first.counts, waits, its.threads // 32, tuple(sorted(trace.assumed))
    )


# ---- the table ------------------------------------------------------------------------------------------------------


def row(width: int, latencies: Latencies, cell: str, clusters: bool) -> tuple[str, list[Step | None]]:
    """Return a width's row, and the steps: forward without gradients, forward with gradients, and backward."""
    steps: list[Step | None] = []
    for backward, save in ((False, False), (False, True), (True, True)):
        problem = problem_of(cell, width, backward)
        its = planned(problem, clusters)
        steps.append(None if its is None else simulate(problem, its, latencies, save))
    its = planned(problem_of(cell, width, False), clusters)
    if its is None or None in steps:
        return f"| {width} | a product and a cell a step | | | | |", steps
    forward, saving, back = (step for step in steps if step is not None)
    ms = [1e-3 * TIME * cycles / latencies.clock for cycles in (forward.bound, saving.bound + back.bound)]
    kind = "a cluster of {} blocks a head" if its.clustered else "{} blocks a head"
    blocks = "one block a head" if its.blocks == 1 else kind.format(its.blocks)
    counts = " / ".join(str(step.counts["all"]) for step in (saving, back))
    products = " / ".join(str(step.counts["HMMA"]) for step in (saving, back))
    cycles = " / ".join(f"{step.bound:.0f}" for step in (forward, saving, back))
    text = (
        f"| {width} | {blocks}, {its.threads} threads | {counts} | {products} | {cycles} | {ms[0]:.3g} / {ms[1]:.3g} |"
    )
    return text, steps


HEADER = (
    "| D | launch | instructions | products | cycles: forward / saving / backward | ms: forward / both |\n"
    "|---:|---|---:|---:|---:|---:|"
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=lambda text: [int(each) for each in text.split(",")], default=WIDTHS)
    parser.add_argument("--cell", choices=sorted(CELLS), default="lstm")
    parser.add_argument("--record", type=Path, help="bench/results/<card>.json, whose latencies are taken")
    parser.add_argument("--memory", type=float, help="cycles of a load from memory")
    parser.add_argument("--no-clusters", action="store_true", help="as before compute capability 9.0")
    parser.add_argument("--waits", action="store_true", help="what each step waits for, in cycles")
    given = parser.parse_args()
    latencies = Latencies() if given.record is None else Latencies.of_record(given.record)
    latencies = latencies if given.memory is None else replace(latencies, memory=given.memory)
    print(HEADER)
    for width in given.widths:
        text, steps = row(width, latencies, given.cell, not given.no_clusters)
        print(text, flush=True)
        for step in steps if given.waits else []:
            if step is not None:
                longest = sorted(step.waits.items(), key=lambda pair: -pair[1])
                told = ", ".join(f"{name} {cycles:.0f}" for name, cycles in longest[:6])
                print(f"    {step.cycles:.0f} cycles, issue {step.issue:.0f}; waits: {told}; assumed: {step.assumed}")


if __name__ == "__main__":
    main()
