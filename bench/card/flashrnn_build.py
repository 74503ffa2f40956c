"""Compiles flashrnn's fused kernels, which takes minutes for each width, in parallel with the rest of part 1.

    python -m bench.card.flashrnn_build lstm 64

compiles one in this process and leaves a marker file; `start` compiles several in sequence in the background.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.card.runner import ROOT, environment

READY = ROOT / "build" / "card" / "flashrnn"
#: In the order of their goals
WANTED = (("lstm", 64), ("lstm", 768), ("lstm", 128), ("lstm", 256), ("slstm", 64))


def start() -> str:
    """Start the background process, and return what it builds, or why nothing was started."""
    if importlib.util.find_spec("flashrnn") is None:
        return "flashrnn is not installed"
    missing = [pair for pair in WANTED if not is_ready(*pair)]
    READY.mkdir(parents=True, exist_ok=True)
    each = [f'"{sys.executable}" -m bench.card.flashrnn_build {function} {width}' for function, width in missing]
    environ = {**environment(), "MAX_JOBS": "4"}
    if shutil.which("nvcc") is None and (folder := wheels_of_nvcc()) is not None:
        environ["CUDA_HOME"] = str(folder)
    command = ["nice", "-n", "19", "timeout", "2400", "sh", "-c", "; ".join(each)]
    with (READY / "log").open("a") as log:
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environ,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    return ", ".join(f"{function} {width}" for function, width in missing) or "all are built"


def wheels_of_nvcc() -> Path | None:
    """Return the folder of NVIDIA's wheels if they contain nvcc, with which flashrnn compiles."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(place) / "cu13" for place in (spec.submodule_search_locations or [] if spec else [])]
    return next((folder for folder in folders if (folder / "bin" / "nvcc").exists()), None)


def is_ready(function: str, width: int) -> bool:
    """Return whether flashrnn's kernels for this width have been built."""
    return (READY / f"{function}-{width}").exists()


def only_built(function: str, work: dict[str, Tensor]) -> dict[str, Callable[..., Tensor]]:
    """Return flashrnn's calls if its kernels were built beforehand, else none."""
    from bench import cuda

    return cuda.flashrnn_calls(function, work) if is_ready(function, work["r"].shape[-1]) else {}


def build(function: str, width: int) -> None:
    """Run flashrnn once, forward and backward, on the shapes of the contest."""
    import torch

    from bench import cuda

    work = cuda.recurrence(cuda.Sizes("cuda"), width)
    wx, r = (x.requires_grad_() for x in work.values())
    flashrnn: Any = importlib.import_module("flashrnn").flashrnn
    bias = torch.zeros(r.shape[:3], device="cuda", dtype=torch.bfloat16)
    h = flashrnn(wx, r, bias, function=function, backend="cuda_fused", dtype="bfloat16")[0][0]
    h.float().sum().backward()
    torch.cuda.synchronize()
    (READY / f"{function}-{width}").touch()


if __name__ == "__main__":
    build(sys.argv[1], int(sys.argv[2]))
