"""Representative variants of kernels/ssm/triton_mlstm.py."""

from __future__ import annotations

from typing import Any

import triton.language as tl

_MEMORY = {
    "fwd": "i f first decay enter m last",
    "bwd": "i f m first d_enter d_decay d_divisor dm di df",
}


def _variant(kernel: str, dtype: str, cut: str) -> tuple[Any, ...]:
    """A kernel for gates of a dtype; `cut` names the way in which rows are divided into sequences."""
    state = "fp64" if dtype == "fp64" else "fp32"
    signature = {name: f"*{dtype if name in ('i', 'f') else state}" for name in _MEMORY[kernel].split()}
    flags = {"reset": "*u8", "lengths": "*i64", "starts": "*i64"}
    signature |= {name: kind for name, kind in flags.items() if name in cut}
    signature |= {f"{name}_{axis}": "i64" for name in ("i", "f") for axis in ("row", "time", "head")}
    signature |= dict.fromkeys(("reset_row", "sequences", "time", "heads"), "i64")
    if kernel == "bwd":
        signature["eps"] = "fp64"
    constants: dict[str, Any] = {name: None for name in flags if name not in cut}
    constants |= {"STATE": tl.float64 if dtype == "fp64" else tl.float32, "UNROLL": 8, "LANES": 32}
    return f"mlstm_gates_{kernel}_kernel", signature, constants, {"num_warps": 1, "enable_fp_fusion": True}


TRITON = [
    _variant(kernel, dtype, cut)
    for kernel in _MEMORY
    for dtype, cut in (("bf16", "reset starts"), ("fp32", "lengths"), ("fp64", ""))
]
