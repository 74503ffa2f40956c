"""Representative variants of kernels/ssm/triton_selective_step.py."""

from __future__ import annotations

from typing import Any

import triton.language as tl

_AXES = {"state": "row head channel state", "A": "head channel state", "D": "head channel", "bias": "head channel"}
_AXES |= dict.fromkeys(("x", "dt", "z"), "row head channel") | dict.fromkeys("BC", "row head state")
_SIZES = ["heads", "channels", "heads_per_group", "places", "blocks", "N"]


def _step(storage: str, without: str, one_rate: bool, states: int) -> tuple[Any, ...]:
    float64 = storage == "fp64"
    names = ["state", "x", "dt", "A", "B", "C", "D", "z", "bias", "out"]
    memory: dict[str, str | None] = {name: None if name in without else f"*{storage}" for name in names}
    memory |= {"A": "*fp64" if float64 else "*fp32", "rows": None if "rows" in without else "*i64"}
    types: dict[str, str] = {name: kind for name, kind in memory.items() if kind}
    constants: dict[str, Any] = {name: None for name, kind in memory.items() if kind is None}
    constants |= {"state_state": 1, "x_channel": 1, "B_state": 1, "C_state": 1, "SOFTPLUS": True, "ONE_RATE": one_rate}
    constants |= {"BP": 1024 // states, "BN": states, "STATE": tl.float64 if float64 else tl.float32}
    strides = [f"{name}_{axis}" for name, axes in _AXES.items() for axis in axes.split()]
    types |= dict.fromkeys([*(name for name in strides if name not in constants), *_SIZES], "i64")
    return "selective_step_kernel", types, constants, {"num_warps": 4, "enable_fp_fusion": True}


TRITON = [
    _step("bf16", "rows", False, 16),
    _step("fp32", "", True, 128),
    _step("fp64", "rows D z bias", False, 64),
]
