"""The steps `profile` and `memcheck`: NVIDIA's profiler and sanitizer over one call of each kernel with a goal.

    python -m bench.card.profile calls     makes the calls; the tools run this command

If a tool is not installed, its step is skipped and the record says so.
"""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.card.runner import ROOT, environment
from bench.card.worker import Item
from bench.harness.record import Record

KERNELS = "regex:rnn_fwd|rnn_bwd|linear_scan|quantize|stencil|jacobi|newton|para_|delta"
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


def calls(device: str, small: bool) -> None:
    """Call every kernel with a goal once, forward and backward."""
    import torch

    import fastiter.torch
    from bench.card.correctness import inputs, with_gradients
    from bench.card.device import drawn

    batch, time = (2, 3) if small else (16, 128)
    for width in (16,) if small else (64, 256, 768):
        with_gradients("lstm", *(x.to(device) for x in inputs("lstm", torch.bfloat16, width, batch, time)))
    shape = (2, 9, 8) if small else (8, 8192, 1024)
    a, x = drawn(*shape, seed=0).sigmoid().to(device), drawn(*shape, seed=1).to(device)
    scanned = [a.requires_grad_(), x.requires_grad_()]
    torch.autograd.grad(fastiter.torch.linear_scan(*scanned)[0].sum(), scanned)
    for fmt in ("fixed<8,4,RND,SAT>", "nvfp4", "posit<16,1>"):
        fastiter.torch.quant.quantize(x.detach(), fmt)
    jacobi(device, (8, 8) if small else (8192, 8192))
    batch, length, width = (2, 9, 16) if small else (8, 8192, 256)
    tensors = [drawn(batch, length, 3, width, seed=3).to(device), 0.3 * drawn(3, width, seed=4).to(device)]
    methods: tuple[Any, ...] = ("newton", "sequential")
    for method in methods:
        leaves = [each.requires_grad_() for each in tensors]
        torch.autograd.grad(fastiter.torch.paragru(*leaves, method=method)[0].sum(), leaves)
    if device != "cpu":
        torch.cuda.synchronize()


def jacobi(device: str, grid: tuple[int, int]) -> None:
    """Two sweeps on the five-point Laplacian."""
    import numpy as np
    import torch

    import fastiter.relax
    import fastiter.torch

    b = torch.ones(grid, device=device)
    laplacian = fastiter.relax.Stencil(grid, np.array([4, -1, -1, -1, -1], np.float32))
    backend: Any = "cpu" if device == "cpu" else "cuda"
    fastiter.torch.relax.Relaxation(laplacian, "jacobi", backend=backend).sweep(torch.zeros_like(b), b, 2)


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
    target = [sys.executable, "-m", "bench.card.profile", "calls"]
    options = ["--target-processes", "all", "--clock-control", "none", "-k", KERNELS, "-f", "-o", str(report)]
    done = run([tool, *options, *sections, *target], limit)
    if done.returncode:
        raise RuntimeError(" ".join((done.stdout + done.stderr).strip().splitlines()[-3:]))
    output = run([tool, "-i", f"{report}.ncu-rep", "--page", "details", "--csv"], 60)
    return {"kernels": read(output.stdout)}


def items(dry: bool) -> list[Item]:
    if dry:
        return [Item("calls", partial(dry_calls))]
    return [Item("ncu", partial(profiled, 150), 165)]


def dry_calls() -> Record:
    """Make the calls on the emulation."""
    from bench.card import emulated
    from bench.card.device import Place

    Place(True).run(partial(calls, "cpu", True))
    return {"launched": sorted(set(emulated.LAUNCHED))}


def checked(limit: float) -> Record:
    """Run the calls under the sanitizer's memcheck."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"skipped": "compute-sanitizer is not installed"}
    target = [sys.executable, "-m", "bench.card.profile", "checked"]
    done = run([tool, "--tool", "memcheck", "--error-exitcode", "9", *target], limit)
    if done.returncode:
        raise RuntimeError(" ".join((done.stdout + done.stderr).strip().splitlines()[-8:]))
    return {"errors": 0}


def memcheck(dry: bool) -> list[Item]:
    if dry:
        return [Item("memcheck", lambda: {"skipped": "a dry run has no card"})]
    return [Item("memcheck", partial(checked, 80), 85)]


def main() -> None:
    which: dict[str, Callable[[], None]] = {
        "calls": partial(calls, "cuda", False),
        "checked": partial(calls, "cuda", True),
    }
    which[sys.argv[1]]()


if __name__ == "__main__":
    main()
