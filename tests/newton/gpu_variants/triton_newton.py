"""Variants of newton: Triton's for each cell (in float64 for the one with the most states), most of CUDA's."""

from __future__ import annotations

from typing import Any

import triton.language as tl


def _both(cell: str, gates: int, states: int, dtype: str, lengths: bool) -> list[tuple[Any, ...]]:
    x = f"*{dtype}"
    common: dict[str, Any] = {"wx": x, "a": x, "p": x if cell == "paralstm" else None, "first": x, "h": x}
    common |= {"c": x if states > 1 else None, "n": x if states > 2 else None, "m": x if states > 2 else None}
    cut = {"lengths": "*i64" if lengths else None}
    backward = {"dh": x, "dlast": x, "dwx": x, "dfirst": x, "da": x, "dp": common["p"]}
    item, variants = int(dtype[2:]) // 8, []
    for name, memory, strided, ahead in (
        ("fwd", common | {"last": x} | cut, "wx h", 16),
        ("bwd", common | backward | cut, "wx h dh dwx", 8),
    ):
        strides = [f"{y}_{axis}" for y in strided.split() for axis in ("row", "time", *(["gate"] if "wx" in y else []))]
        signature = {y: kind for y, kind in memory.items() if kind}
        signature |= dict.fromkeys([*strides, "rows", "time", "width", "direction"], "i64")
        constants: dict[str, Any] = {y: None for y, kind in memory.items() if kind is None}
        constants |= {"CELL": cell, "GATES": gates, "STATES": states, "UNROLL": ahead // item, "LANES": 64}
        constants["STATE"] = tl.float64 if dtype == "fp64" else tl.float32
        launch = {"num_warps": 2, **({"maxnreg": 168} if dtype == "fp64" else {}), "enable_fp_fusion": True}
        variants.append((f"para_{name}_kernel", signature, constants, launch))
    return variants


TRITON = [
    *_both("paragru", 3, 1, "fp32", False),
    *_both("paralstm", 3, 2, "fp32", True),
    *_both("paraslstm", 4, 4, "fp32", False),
    *_both("paraslstm", 4, 4, "fp64", True),
]
