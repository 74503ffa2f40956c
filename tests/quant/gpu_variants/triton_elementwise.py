"""Variants of kernels/quant/triton_elementwise.py for the compile gate: a format of each kind, and its options."""

from __future__ import annotations

from typing import Any

import triton.language as tl

_TYPES = {"x_ptr": "*fp32", "y_ptr": "*fp32", "scale_ptr": "*fp32", "zero_ptr": "*i64", "powers_ptr": "*i1"}
_TYPES |= {
    "seed_ptr": "*i64",
    "missing_ptr": "*i32",
    "numbers": "*fp32",
    "thresholds": "*fp32",
    "values": "*fp32",
    "numel": "i32",
}
_TYPES |= dict.fromkeys(("run", "count", "k0", "k1", "k2", "k3", "k4"), "i32")
_PLAIN: dict[str, Any] = {"OVERFLOW": 0, "T": tl.float32, "CODES": False, "REPLACES": False, "SIGNED": True}
_PLAIN |= {f"FLAG{k}": False for k in range(5)} | {
    "STEPS": 0,
    "SHORT": True,
    "HAS_SCALE": False,
    "HAS_ZERO_POINT": False,
}
_PLAIN |= {"SHARING": 1, "INDEX": tl.int32, "BLOCK": 1024}
_OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


def _variant(
    kind: int, rounding: int, types: str = "fp32", codes: str = "", refuses: bool = False, **constants: Any
) -> Any:
    chosen = {"KIND": kind, "ROUNDING": rounding, **_PLAIN, **constants, "CODES": bool(codes)}
    if rounding == 9:
        chosen["BLOCK"] = 256
    absent = [] if rounding == 9 else ["seed_ptr"]
    absent += [] if refuses else ["missing_ptr"]
    absent += [] if chosen["HAS_ZERO_POINT"] else ["zero_ptr"]
    absent += [] if chosen["HAS_SCALE"] else ["scale_ptr"]
    absent += [] if chosen["HAS_SCALE"] and chosen["SHARING"] != 1 and kind in (0, 1, 10) else ["powers_ptr"]
    absent += [] if kind in (8, 9) else ["thresholds", "values"]
    signature = _TYPES | {"x_ptr": f"*{types}", "y_ptr": f"*{codes or types}"}
    if types == "fp64":
        signature["scale_ptr"] = "*fp64"
    if chosen["T"] == tl.float64:
        signature |= {"numbers": "*fp64", "thresholds": "*fp64", "values": "*fp64"}
    return "quantize_fwd_kernel", signature, {**chosen, **dict.fromkeys(absent)}, _OPTIONS


_FLOAT = {"FLAG0": True, "FLAG1": True}
EXACT = True
TRITON = [
    _variant(0, 6, refuses=True),  # fixed<..,RND_CONV,SAT>
    _variant(0, 2, "fp64", OVERFLOW=6, T=tl.float64, FLAG0=True),  # fixed<..,RND,WRAP_SM,3> with coarse steps
    _variant(0, 9),  # stochastic
    _variant(0, 6, "bf16", HAS_SCALE=True, SHARING=2),  # one for each channel
    _variant(11, 6, "bf16", HAS_SCALE=True, HAS_ZERO_POINT=True, SHARING=2),  # uint8
    _variant(1, 6, "fp64", OVERFLOW=4, T=tl.float64, FLAG1=False),  # fixed<64,32,RND_CONV,WRAP_SM>
    _variant(2, 9, "fp16", OVERFLOW=1, **_FLOAT, FLAG3=False),  # e5m2<STOCHASTIC>
    _variant(2, 6, "fp16", codes="i8", **_FLOAT),  # codes of e4m3fn
    _variant(3, 6, "fp64", T=tl.float64, **_FLOAT),  # a float wider than double
    _variant(7, 6),  # posit<16,1>
    _variant(7, 9, "fp64", codes="i32", refuses=True, T=tl.float64),  # codes of posit<32,2>
    _variant(8, 9, STEPS=8),  # a table of 256
    _variant(10, 6, FLAG1=True),  # khot<..,NEAREST>
]
