"""Variants of the delta rule's kernels for tensor cores, for the gate that compiles them."""

from __future__ import annotations

from typing import Any

import torch

from fastiter.delta._torch.triton_chunks import NARROW, TILES, warps_of

_FLAGS = {"reset": "*u8", "lengths": "*i64", "starts": "*i64"}
_AXES = {"k": "row time factor head", "v": "row time factor head", "q": "row time head", "d_o": "row time head"}
#: Arguments of the kernels besides the sequences: memory, signals with strides, and the constants that they read
KERNELS = {
    "products_fwd": ("k v beta decay e moved", "k v", "K V BK BV M STEPS C PRECISION"),
    "states_fwd": ("k beta decay moved e last states saved", "k", "K V BK BV M STEPS PERIOD C PRECISION"),
    "outputs_fwd": ("q k beta decay e states o", "q k", "K V BK BV M STEPS C PRECISION"),
    "products_bwd": ("q k beta decay d_o dv moved", "q k d_o", "K V BK BV M STEPS C PRECISION"),
    "states_bwd": ("q k decay d_o moved dv dlast dstates", "q k d_o", "K V BK BV M STEPS C PRECISION"),
    "pairs_bwd": ("q k beta decay e d_o dv pairs sums", "q k d_o", "K V BK BV M STEPS C PRECISION"),
    "keys_bwd": (
        "q k beta decay e d_o dv states dstates pairs sums dq dk dbeta ddecay",
        "q k d_o",
        "K V BK BV M STEPS C PRECISION",
    ),
}
#: Memory in float32 whatever the dtype of the signals
_WIDE = ("last", "dlast", "sums")


def variant(
    kernel: str, dtype: str, size: int, M: int, gated: bool, flags: str, precision: str, capability: int = 0
) -> tuple[Any, ...]:
    """A kernel for states of size x size numbers with M factors a step."""
    memory, signals, names = KERNELS[kernel]
    present = {name: f"*{'fp32' if name in _WIDE else dtype}:16" for name in memory.split()}
    absent = {} if gated else {name: None for name in ("decay", "ddecay") if name in present}
    signature = {name: kind for name, kind in present.items() if name not in absent}
    signature |= {name: kind for name, kind in _FLAGS.items() if name in flags}
    signature |= {f"{name}_{axis}": "i64:16" for name in signals.split() for axis in _AXES[name].split()}
    signature |= dict.fromkeys(["reset_row", "time", "chunks", "periods", "first", "part", "state_heads"], "i64") | {
        "heads": "i64:16"
    }
    tile = (NARROW if precision == "bf16" else TILES)[kernel]
    sizes = {"K": size, "V": size, "BK": min(tile.rows, size), "BV": min(tile.columns, size)}
    sizes |= {"M": M, "STEPS": tile.factors // M, "C": tile.factors, "PERIOD": 64 // M}
    constants: dict[str, Any] = {name: sizes[name] for name in names.split() if name in sizes}
    constants["PRECISION"] = precision
    constants |= absent | {name: None for name in _FLAGS if name not in flags}
    warps = warps_of(kernel, torch.float32 if dtype == "fp32" else torch.bfloat16, capability)
    options = {"num_warps": warps, "num_stages": tile.stages, "enable_fp_fusion": True}
    return f"delta_chunk_{kernel}_kernel", signature, constants, options


def variants(kernels: str, capability: int = 0) -> list[tuple[Any, ...]]:
    """The kernels of a source: in float32 with three products of TF32 numbers, in bfloat16, and with TF32."""
    return [
        variant(kernel, *how, capability)
        for kernel in kernels.split()
        for how in (
            ("fp32", 128, 1, True, "reset", "tf32x3"),
            ("bf16", 128, 1, True, "", "bf16"),
            ("fp32", 64, 3, False, "starts", "tf32"),
        )
    ]
