"""Representative variants of kernels/scan/triton_block.py."""

from __future__ import annotations

from typing import Any

import triton.language as tl

_OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}
_NUMBERS = ("sequences", "time", "groups", "segment", "segments", "direction")


def _variant(direction: str, memory: dict[str, str | None], strided: str, **how: Any) -> tuple[Any, ...]:
    absent: dict[str, Any] = {name: None for name, kind in memory.items() if kind is None}
    strides = [f"{name}_{axis}" for name in strided.split() for axis in ("row", "time")]
    signature = {name: kind for name, kind in memory.items() if kind} | dict.fromkeys(
        [*strides, "reset_row", *_NUMBERS], "i64"
    )
    return f"block_scan_{direction}_kernel", signature, absent | how, _OPTIONS


def _both(dtype: str, K: int, KP: int, COMPLEX: bool, whole: bool, flags: str) -> list[tuple[Any, ...]]:
    """Forward and backward; ``whole``: one segment with all gradients, else the summaries and their sums."""
    item = int(dtype[2:]) // 8 * (2 if COMPLEX else 1)
    how: dict[str, Any] = {"K": K, "KP": KP, "COMPLEX": COMPLEX, "LANES": max(1, min(64, 8192 // (KP**2 * item)))}
    how["STATE"] = tl.float64 if dtype == "fp64" else tl.float32
    how["UNROLL"] = max(1, 8 // item)
    kinds = {"reset": "*u8", "lengths": "*i64", "starts": "*i64"}
    given = {name: kind if name in flags else None for name, kind in kinds.items()}
    a = f"*{dtype}"
    forward = dict.fromkeys(["A", "x", "h0", "carry", "h", "last"], a) | {"factor": None, "state": None}
    backward = dict.fromkeys(["A", "h", "h0", "dh", "dlast", "carry", "dx", "dA", "dA_sum", "dfirst"], a)
    backward |= {"dA" if not whole else "dA_sum": None, "factor": None, "state": None}
    variants = [
        _variant("fwd", forward | given, "A x h", **how),
        _variant("bwd", backward | given, "A h dh dx dA", **how),
    ]
    if not whole:
        summary = dict.fromkeys(forward) | {"A": a, "x": a, "factor": a, "state": a}
        variants.append(_variant("fwd", summary | given, "A x h", **how))
        summary = dict.fromkeys(backward) | {"A": a, "h": a, "dh": a, "factor": a, "state": a}
        variants.append(_variant("bwd", summary | given, "A h dh dx dA", **how))
    return variants


TRITON = [
    *_both("fp32", 2, 2, False, True, ""),
    *_both("fp32", 16, 16, False, False, "lengths"),
    *_both("fp64", 5, 8, False, True, "starts reset"),
    *_both("fp64", 16, 16, True, False, ""),
]
