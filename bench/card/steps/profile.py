"""The step `profile`: NVIDIA's profiler over one large call of each kernel with a goal.

If it is not installed, the step is skipped and the record says so.
"""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import sys
from functools import partial

from bench.card.calls import CALLS, kernels_in
from bench.card.runner import ROOT, environment
from bench.card.worker import Item
from bench.harness.record import Record

#: The calls with a goal
PROFILED = (
    "lstm",
    "lstm in clusters",
    "lstm of several blocks a head",
    "linear_scan",
    "linear_attention",
    "linear_attention, a decay a head",
    "delta_scan",
    "delta_scan in bfloat16",
    "selective_scan",
    "mlstm",
    "quantize",
    "paragru by Newton's method",
    "sweeps of a stencil",
)
SECTIONS = (
    "SpeedOfLight",
    "LaunchStats",
    "Occupancy",
    "WarpStateStats",
    "SchedulerStats",
    "MemoryWorkloadAnalysis",
)
#: The profiler's quantities that the record keeps for each kernel
SHOWN = (
    "Duration",
    "Memory Throughput",
    "DRAM Throughput",
    "Registers Per Thread",
    "Achieved Occupancy",
    "Issued Warp",
    "No Eligible",
    "Executed Ipc Active",
    "Stall",
)
FOLDER = ROOT / "build" / "card"


def kernels() -> list[str]:
    """Return the kernels of the calls, for a profiler that would also profile torch's."""
    return sorted({name for call in PROFILED for source in CALLS[call].sources for name in kernels_in(source)})


def run(command: list[str], limit: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=limit, check=False
    )


def read(text: str) -> dict[str, dict[str, str]]:
    """Parse the profiler's table: by kernel, the value and unit of each recorded quantity."""
    lines = [line for line in text.splitlines() if line.startswith('"')]
    kernels: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(io.StringIO("\n".join(lines))):
        name, metric = row.get("Kernel Name", ""), row.get("Metric Name", "")
        if metric.startswith(SHOWN):
            its = kernels.setdefault(f"{row.get('ID', '')} {name.partition('(')[0]}", {})
            its[metric] = f"{row.get('Metric Value', '')} {row.get('Metric Unit', '')}".strip()
    return kernels


def profiled(limit: float) -> Record:
    """Run the profiler and keep a few numbers; its full report is in build/card."""
    tool = shutil.which("ncu")
    if tool is None:
        return {"skipped": "ncu is not installed"}
    FOLDER.mkdir(parents=True, exist_ok=True)
    sections = [word for name in SECTIONS for word in ("--section", name)]
    report = FOLDER / "profile"
    target = [sys.executable, "-m", "bench.card.calls", "--sizes", "large", "--calls", *PROFILED]
    options = [
        "--target-processes",
        "all",
        "--clock-control",
        "none",
        "-k",
        f"regex:^({'|'.join(kernels())})$",
        "-f",
        "-o",
        str(report),
    ]
    done = run([tool, *options, *sections, *target], limit)
    if done.returncode:
        raise RuntimeError(" ".join((done.stdout + done.stderr).strip().splitlines()[-3:]))
    output = run([tool, "-i", f"{report}.ncu-rep", "--page", "details", "--csv"], 60)
    return {"kernels": read(output.stdout)}


def items(dry: bool) -> list[Item]:
    if dry:
        return [Item("ncu", lambda: {"skipped": "a dry run has no card"})]
    return [Item("ncu", partial(profiled, 150), 50, 165)]
