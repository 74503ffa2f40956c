"""Representative variants of kernels/relax/triton_jacobi.py."""

from __future__ import annotations

from typing import Any


def _jacobi(kind: str, is_constant: bool, has_mask: bool, is_3d: bool) -> tuple[str, Any, Any, Any]:
    numbers = dict.fromkeys(("x", "b", "y", "coefficients", "inverse"), f"*{kind}")
    sizes = {"fixed": "*i1", "omega": "*fp64", **dict.fromkeys(("n0", "n1", "n2"), "i32")}
    how = {"IS_CONSTANT": is_constant, "HAS_MASK": has_mask, "IS_3D": is_3d, "TILE": 256}
    return "jacobi_fwd_kernel", numbers | sizes, how, {"num_warps": 4, "enable_fp_fusion": True}


TRITON = [
    _jacobi(kind, *how)
    for kind in ("fp32", "fp64")
    for how in ((True, False, False), (True, True, True), (False, False, False), (False, False, True))
]
