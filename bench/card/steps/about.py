"""The step `about`: the card, the machine, and the versions of the software that the other steps use."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import time

from bench.card.worker import Item
from bench.harness import machine
from bench.harness.record import Record

PACKAGES = ("torch", "triton", "cupy-cuda13x", "nvidia-cuda-nvrtc", "numpy")
#: Packages to compare with, and that of NVIDIA's sanitizer: the extra `card`
PEERS = ("flashrnn", "flash-linear-attention", "mamba-ssm", "causal-conv1d", "xlstm", "mlstm-kernels", "torchao")
SANITIZER = "nvidia-cuda-sanitizer-api"
TOOLS = ("nvidia-smi", "nvcc", "ncu", "compute-sanitizer", "g++")


def sanitizer() -> str | None:
    """Return the path of compute-sanitizer: that on the path, or else in NVIDIA's wheel."""
    if found := shutil.which("compute-sanitizer"):
        return found
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        files = importlib.metadata.files(SANITIZER) or ()
        inside = [str(path.locate()) for path in files if path.name == "compute-sanitizer"]
        programs = [path for path in inside if os.access(path, os.X_OK)]
        return min(programs, key=os.path.getsize, default=None)  # a script that sets paths, before the program itself
    return None


def versions() -> Record:
    """The installed packages, and the tools on the path."""
    items: dict[str, str | None] = {}
    for name in (*PACKAGES, *PEERS, SANITIZER):
        try:
            items[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            items[name] = None
    from fastiter import _nvrtc

    return {
        "packages": items,
        "nvrtc": ".".join(map(str, _nvrtc.version())),
        "tools": [x for x in TOOLS if shutil.which(x)],
        "compute-sanitizer": sanitizer(),
    }


def described() -> Record:
    """The machine, and the import times of torch and fastiter.torch."""
    started = time.perf_counter()
    import fastiter.torch  # noqa: F401

    return {"import_seconds": round(time.perf_counter() - started, 2), "machine": machine.describe()}


def clocks() -> Record:
    """The card's name, driver, clocks, power limit and modes, as nvidia-smi reports them."""
    fields = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,mig.mode.current,compute_mode"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(zip(fields.split(","), [part.strip() for part in done.stdout.splitlines()[0].split(",")], strict=True))


def items(dry: bool) -> list[Item]:
    result = [Item("versions", versions), Item("machine", described, 4)]
    return result if dry else [*result, Item("driver", clocks)]
