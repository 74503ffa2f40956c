"""The machine and software of the measurement."""

from __future__ import annotations

import contextlib
import io
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fastiter
from bench.harness.timing import load_average


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fastiter_config() -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        fastiter.show_config()
    return text.getvalue()


def describe() -> dict[str, Any]:
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "system": platform.platform(),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "fastiter": fastiter.__version__,
        },
        "environment": {
            name: value
            for name, value in os.environ.items()
            if name.startswith(("OMP_", "KMP_", "MKL_", "MALLOC_", "GLIBC_", "LD_PRELOAD"))
        },
        "config": fastiter_config(),
        "load": load_average(),
    }


def refuse_unfair_environment() -> None:
    """Raise if OpenMP workers sleep when idle, which would slow down torch's small layers several times."""
    if os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive":
        raise SystemExit("bench: unset OMP_WAIT_POLICY=passive; it slows torch down, so that ratios are meaningless")
