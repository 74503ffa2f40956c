"""Representative variants of kernels/cuda/relax.cu and kernels/triton/relax.py."""

from __future__ import annotations

from typing import Any

_NUMBERS = [("float", "float"), ("float", "double"), ("double", "double"), ("Complex", "Complex")]


def _rows_and_blocks() -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for matrix, vector in _NUMBERS:
        for columns, rows in ((1, 1), (4, 1), *(((4, 2),) if matrix == "double" else ())):
            resident = 4 if columns == rows == 1 and matrix != "Complex" else 2
            found.append({"MATRIX": matrix, "COLUMNS": columns, "BLOCK_ROWS": rows, "RESIDENT": resident})
            found[-1]["VECTOR"] = vector
        if matrix in ("double", "Complex"):
            found.append({"MATRIX": matrix, "COLUMNS": 1, "BLOCK_ROWS": 1, "RESIDENT": 4 if matrix == "double" else 2})
            found[-1] |= {"VECTOR": vector, "SYSTEMS": 1}
    return found


def _jacobi(kind: str, is_constant: bool, has_mask: bool, is_3d: bool) -> tuple[str, Any, Any, Any]:
    numbers = dict.fromkeys(("x", "b", "y", "coefficients", "inverse"), f"*{kind}")
    sizes = {"given": "*i1", "omega": "*fp64", **dict.fromkeys(("n0", "n1", "n2"), "i32")}
    how = {"IS_CONSTANT": is_constant, "HAS_MASK": has_mask, "IS_3D": is_3d, "TILE": 256}
    return "jacobi_fwd_kernel", numbers | sizes, how, {"num_warps": 4, "enable_fp_fusion": True}


CUDA = _rows_and_blocks()
TRITON = [
    _jacobi(kind, *how)
    for kind in ("fp32", "fp64")
    for how in ((True, False, False), (True, True, True), (False, False, False), (False, False, True))
]
