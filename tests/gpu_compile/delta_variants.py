"""Representative variants of kernels/triton/delta.py."""

from __future__ import annotations

from typing import Any

import triton.language as tl

_FLAGS = {"reset": "*u8", "lengths": "*i64", "starts": "*i64"}


def _all(dtype: str, sizes: dict[str, int], gated: bool, flags: str) -> list[tuple[Any, ...]]:
    """The three kernels, saving, with all gradients."""
    x = f"*{dtype}"
    cut: dict[str, Any] = {name: kind if name in flags else None for name, kind in _FLAGS.items()}
    decay = x if gated else None
    steps = {name: ["row", "time", "factor", "head"] for name in ("k", "v")} | dict.fromkeys(
        ("q", "d_o"), ["row", "time", "head"]
    )

    def variant(kernel: str, memory: dict[str, Any], strided: str, numbers: str, tiles: str) -> tuple[Any, ...]:
        strides = [f"{name}_{axis}" for name in strided.split() for axis in steps[name]]
        signature = {name: kind for name, kind in memory.items() if kind}
        signature |= dict.fromkeys([*strides, "reset_row", *numbers.split()], "i64")
        absent = {name: None for name, kind in memory.items() if kind is None}
        constants = absent | {name: sizes[name] for name in tiles.split()}
        constants["STATE"] = tl.float64 if dtype == "fp64" else tl.float32
        return kernel, signature, constants, {"num_warps": 4, "enable_fp_fusion": True}

    inverse = {"k": x, "beta": x, "decay": decay, **cut, "inverse": x}
    forward = {"q": x, "k": x, "v": x, "beta": x, "decay": decay, "h0": x, **cut}
    forward |= dict.fromkeys(["inverse", "o", "last", "e", "states"], x)
    backward = {"q": x, "k": x, "beta": x, "decay": decay, "e": x, "states": x, "d_o": x, "dlast": x, **cut}
    backward |= {"inverse": x, "dq": x, "dk": x, "dv": x, "dbeta": x, "ddecay": decay, "dh0": x}
    tiles = "K V BK BV M STEPS PERIOD C"
    return [
        variant("delta_inverse_fwd_kernel", inverse, "k", "time heads chunks", "K BK M STEPS C"),
        variant("delta_fwd_kernel", forward, "q k v", "time heads", tiles),
        variant("delta_bwd_kernel", backward, "q k d_o", "rows time heads", tiles),
    ]


TRITON = [
    *_all("fp32", dict(K=64, V=64, BK=32, BV=64, M=1, STEPS=16, PERIOD=64, C=16), True, "reset"),
    *_all("fp32", dict(K=128, V=128, BK=32, BV=32, M=1, STEPS=16, PERIOD=64, C=16), False, ""),
    *_all("fp32", dict(K=256, V=256, BK=32, BV=16, M=2, STEPS=8, PERIOD=32, C=16), True, "lengths"),
    *_all("fp64", dict(K=64, V=64, BK=32, BV=32, M=3, STEPS=5, PERIOD=20, C=16), True, "starts"),
]
