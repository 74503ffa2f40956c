"""Variants of kernels/quant/triton_gradient.py for the compile gate."""

from __future__ import annotations

from typing import Any

import triton.language as tl

_POINTERS = ("dy_ptr", "x_ptr", "y_ptr", "dx_ptr", "scale_ptr", "limits_ptr")
_OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


def _variant(
    types: str, sums: int, integers: bool, exact: bool, one: bool, limited: bool = True, clips: bool = True
) -> Any:
    wide = "fp64" if types == "fp64" else "fp32"
    signature = dict.fromkeys(_POINTERS[:4], f"*{types}") | {"scale_ptr": f"*{wide}", "limits_ptr": f"*{wide}"}
    signature |= {"sums_ptr": "*fp64" if sums == 1 else f"*{wide}", "zero_ptr": "*i64", "powers_ptr": "*i1"}
    signature |= {"numel": "i32", "run": "i32", "count": "i32"}
    constants: dict[str, Any] = {"ROUNDING": 6, "T": tl.float64 if wide == "fp64" else tl.float32}
    constants |= {
        "LIMITED": limited,
        "CLIPS": limited and clips,
        "INTEGERS": integers,
        "MAY_BE_EXACT": exact,
        "SUMS": sums,
        "HAS_SCALE": limited,
        "SHARING": 1 if one else 3,
    }
    constants |= {"HAS_ZERO_POINT": integers, "INDEX": tl.int32, "BLOCK": 1024}
    absent = ([] if sums else ["sums_ptr"]) + ([] if limited else ["scale_ptr", "limits_ptr"])
    absent += ([] if integers else ["zero_ptr"]) + ([] if exact and not one else ["powers_ptr"])
    return "quantize_bwd_kernel", signature, {**constants, **dict.fromkeys(absent)}, _OPTIONS


EXACT = True
TRITON = [
    _variant("fp32", 1, False, True, True),  # a learned binary point
    _variant("bf16", 2, False, True, False),  # one for each channel
    _variant("fp64", 2, True, False, False),
    _variant("fp32", 0, False, False, True, limited=False),  # formats with blocks
    _variant("fp32", 1, False, True, True, clips=False),  # a learned binary point with ste="pass"
    ("step_fwd_kernel", {"point_ptr": "*fp32", "step_ptr": "*fp64", "numel": "i32"}, {"BLOCK": 256}, _OPTIONS),
]
