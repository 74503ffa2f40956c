"""Variants of kernels/quant/triton_blocks.py for the compile gate."""

from __future__ import annotations

from typing import Any

import triton.language as tl

_TYPES = {"x_ptr": "*fp32", "y_ptr": "*fp32", "scales_ptr": "*i8", "g_ptr": "*fp32", "seed_ptr": "*i64"}
_TYPES |= {"numbers": "*fp32", "thresholds": "*fp32", "values": "*fp32"}
_TYPES |= dict.fromkeys(("blocks", "n", "per_line", "size", "carry", "max_exponent"), "i32")
_TYPES |= dict.fromkeys(("k0", "k1", "k2", "k3", "k4"), "i32")
_OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


def _variant(
    kind: int, rounding: int, wide: int, types: str = "fp32", codes: bool = False, dense: bool = True, steps: int = 0
) -> Any:
    double = types == "fp64"
    constants: dict[str, Any] = {"KIND": kind, "ROUNDING": rounding, "T": tl.float64 if double else tl.float32}
    constants |= {"CODES": codes, "REPLACES": False, "MINUS": kind != 6, "STEPS": steps, "SHORT": True, "DENSE": dense}
    constants |= {"ROWS": 2048 // wide, "WIDE": wide}
    absent = ([] if rounding == 9 else ["seed_ptr"]) + ([] if kind == 5 else ["g_ptr"])
    absent += ([] if codes else ["scales_ptr"]) + ([] if kind == 8 else ["thresholds", "values"])
    signature = _TYPES | {"x_ptr": f"*{types}", "y_ptr": "*i8" if codes else f"*{types}"}
    if double:
        signature |= dict.fromkeys(("numbers", "thresholds", "values"), "*fp64") | {"carry": "i64"}
    if codes and kind == 8:
        signature["scales_ptr"] = "*fp64" if double else "*fp32"
    return "quantize_blocks_fwd_kernel", signature, {**constants, **dict.fromkeys(absent)}, _OPTIONS


EXACT = True
TRITON = [
    _variant(4, 6, 32, "bf16", codes=True),  # codes of mxfp4
    _variant(4, 7, 32, "fp64", dense=False),  # rounded up, lines that end inside a block
    _variant(4, 9, 32, "bf16"),  # stochastic
    _variant(5, 9, 16),  # nvfp4, stochastic
    _variant(6, 9, 1024, dense=False),  # the longest blocks
    _variant(8, 6, 64, "bf16", codes=True, steps=4),  # codes of nf4
]
