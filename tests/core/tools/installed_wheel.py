"""python tests/core/tools/installed_wheel.py: a short check of an installed wheel with NumPy on each instruction set.

Not a test module: it is run by the interpreter of a clean environment, which has neither pytest nor this checkout.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fastiter
from fastiter import _core
from fastiter.quant import quantize


def check(function: Callable[..., Any], *arguments: Any) -> None:
    """Compare the compiled kernels with the NumPy reference."""
    found, expected = (function(*arguments, backend=backend) for backend in ("cpu", "reference"))
    pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else ((found, expected),)
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=function.__name__)


def check_families() -> None:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape, np.float32)

    check(fastiter.gru, normal(2, 7, 3, 1, 24), normal(3, 1, 24, 24) / 5)
    check(fastiter.linear_scan, rng.uniform(-1, 1, (2, 33, 20)), rng.standard_normal((2, 33, 20)))
    keys = normal(1, 19, 2, 8)
    keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
    check(fastiter.delta_scan, normal(1, 19, 2, 8), keys, normal(1, 19, 2, 8), np.ones((1, 19, 2), np.float32))
    check(fastiter.paragru, normal(2, 9, 3, 16), normal(3, 16) / 4)
    steps, rates = abs(normal(1, 16, 21)), -abs(normal(16, 4))
    check(fastiter.ssm.selective_scan, normal(1, 16, 21), steps, rates, normal(1, 4, 21), normal(1, 4, 21))

    assert quantize(np.float32([0.3, 300.0, -7.9]), "fixed<8,4,RND,SAT>").tolist() == [0.3125, 7.9375, -7.875]
    assert quantize(np.float32([0.3, 500.0]), "e4m3fn").tolist() == [0.3125, 448.0]


def main() -> None:
    where = Path(fastiter.__file__).parent
    if len(sys.argv) == 1:  # once for each instruction set, which is chosen at import
        versions = f"fastiter {fastiter.__version__}, NumPy {np.__version__}, Python {sys.version.split()[0]}"
        print(f"{versions}: {_core.isa_built()}", flush=True)
        for level in _core.isa_available().split():
            command = [sys.executable, "-W", "error", __file__, level]
            subprocess.run(command, check=True, env=os.environ | {"FASTITER_ISA": level})
        return
    assert _core.isa_chosen() == sys.argv[1]
    assert "torch" not in sys.modules
    check_families()
    assert (where / "kernels" / "common" / "device.cuh").exists()
    assert (where / "kernels" / "scan" / "triton_linear.py").exists()
    print(f"{sys.argv[1]}: all families agree with their references")


if __name__ == "__main__":
    main()
