"""Representative variants of kernels/delta/triton_delta.py."""

from __future__ import annotations

from typing import Any

import triton.language as tl

_FLAGS = {"reset": "*u8", "lengths": "*i64", "starts": "*i64"}


def _all(dtype: str, sizes: dict[str, int], gated: bool, flags: str) -> list[tuple[Any, ...]]:
    """The three kernels, with saved tensors and all gradients."""
    x = f"*{dtype}"
    cut: dict[str, Any] = {name: kind if name in flags else None for name, kind in _FLAGS.items()}
    decay = x if gated else None
    whole, some = ("row", "time", "factor", "head"), ("row", "time", "head")
    steps = {"k": whole, "v": whole, "q": some, "d_o": some}

    def variant(kernel: str, memory: dict[str, Any], strided: str, numbers: str, tiles: str) -> tuple[Any, ...]:
        strides = [f"{name}_{axis}" for name in strided.split() for axis in steps[name]]
        signature = {name: kind for name, kind in memory.items() if kind}
        signature |= dict.fromkeys([*strides, "reset_row", *numbers.split()], "i64")
        absent = {name: None for name, kind in memory.items() if kind is None}
        constants = absent | {name: sizes[name] for name in tiles.split()}
        warps = 4
        if kernel == "delta_bwd_kernel":
            constants |= {"BK": 8, "BV": min(constants["BV"], 16)}
            warps = 2 if dtype == "fp64" else 4
        constants["STATE"] = tl.float64 if dtype == "fp64" else tl.float32
        return kernel, signature, constants, {"num_warps": warps, "enable_fp_fusion": True}

    inverse = {"k": x, "beta": x, "decay": decay, **cut, "inverse": x}
    forward = {"q": x, "k": x, "v": x, "beta": x, "decay": decay, **cut}
    forward |= dict.fromkeys(["inverse", "o", "last", "e", "states"], x)
    backward = {"q": x, "k": x, "beta": x, "decay": decay, "e": x, "states": x, "d_o": x, **cut}
    backward |= {"inverse": x, "dq": x, "dk": x, "dv": x, "dbeta": x, "ddecay": decay, "state": x, "dstate": x}
    tiles = "K V BK BV M STEPS PERIOD C"
    return [
        variant("delta_inverse_fwd_kernel", inverse, "k", "time heads chunks", "K BK M STEPS C"),
        variant("delta_fwd_kernel", forward, "q k v", "time heads", tiles),
        variant("delta_bwd_kernel", backward, "q k d_o", "rows time heads", tiles),
    ]


def _sizes(units: int, tile: int, BV: int, M: int) -> dict[str, int]:
    steps = tile // M
    sizes = {"K": units, "V": units, "BK": tile, "BV": BV, "M": M, "C": tile}
    return sizes | {"STEPS": steps, "PERIOD": 64 // (steps * M) * steps}


TRITON = [
    *_all("fp32", _sizes(64, 16, 32, 1), True, "reset"),
    *_all("fp32", _sizes(256, 16, 32, 2), False, "lengths"),
    *_all("fp64", _sizes(128, 8, 8, 3), True, "starts"),
]
