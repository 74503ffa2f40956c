"""Representative variants of kernels/ssm/triton_selective_gradient.py."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

_FORWARD = runpy.run_path(str(Path(__file__).with_name("triton_selective.py")))
constants_of, memory_of, variant = (_FORWARD[name] for name in ("constants_of", "memory_of", "variant"))

_SIZES = ["reset_row", "channels", "time", "groups", "blocks", "rows", "N"]
_NAMES = "u delta A B C D z bias states dout du ddelta dz carry dA dB dC dD dbias reset lengths starts"


def _backward(storage: str, cut: str, order: str, without: str, fixed: bool, aligned: bool) -> tuple[Any, ...]:
    signals, weights, others, where = memory_of(storage, cut, without, fixed, aligned)
    every = {**signals, **weights, **others, **where}
    constants = constants_of(storage, fixed, aligned, 4 if storage == "fp64" else 16 if aligned else 8) | {"STEPS": 4}
    strided = "u delta z dout du ddelta dz"
    return variant("bwd", {name: every[name] for name in _NAMES.split()}, strided, _SIZES, order, **constants)


TRITON = [
    _backward("bf16", "", "time", "", False, True),
    _backward("fp32", "reset lengths", "channels", "", False, False),
    _backward("fp16", "starts", "time", "", False, False),
    _backward("fp64", "", "time", "D z bias", True, True),
]
#: With Triton 3.6 the variant in bfloat16 spills 8 bytes on sm_80, and the one in float64 16 on sm_100.
OLDER_SPILL = {"selective_bwd_kernel": 16}
