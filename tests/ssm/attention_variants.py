"""Variants of the GPU kernels of linear attention: their arguments and constants, for the gate that compiles them."""

from __future__ import annotations

from typing import Any

import triton.language as tl

#: Arguments of the kernels besides the sequences: memory, signals with strides, and the constants that they read
KERNELS = {
    "states": ("k v decay source states saved last", "k v decay", "K V BK BV C TILE SPLIT VECTOR LOG STATE PRECISION"),
    "weights": ("q k decay bonus weights", "q k decay", "K BK C BEFORE VECTOR LOG STATE PRECISION"),
    "fwd": ("q k v decay bonus states weights o", "q k v decay o", "K V BK BV C BEFORE VECTOR LOG STATE PRECISION"),
    "bwd_states": ("q decay d_o dlast dstates dfirst", "q decay d_o", "K V BK BV C BEFORE VECTOR LOG STATE PRECISION"),
    "bwd_values": (
        "q k decay bonus d_o dstates weights dv",
        "q k decay d_o dv",
        "K V BK BV C BEFORE VECTOR LOG STATE PRECISION",
    ),
    "bwd_keys": (
        "q k v decay bonus d_o states dstates dq dk ddecay dbonus",
        "q k v decay d_o dq dk ddecay",
        "K V BK BV C BEFORE VECTOR LOG STATE PRECISION",
    ),
}
#: Arguments in the dtype of the signals; the others have the dtype of the arithmetic.
STORED = ("q", "k", "v", "decay", "o", "d_o", "dv")
#: Strides between the lines of states
LINES = {
    "states": ("from_line", "saved_line", "to_line"),
    "bwd_states": ("from_line", "to_line"),
    "bwd_keys": ("ddecay_block",),
}


def variant(
    kernel: str, typed: tuple[str, dict[str, Any]], absent: str, cut: str, wide: bool = False, **how: Any
) -> tuple[Any, ...]:
    """A kernel for signals of a dtype; `cut` names the way in which rows are divided into sequences.

    With `wide`, v, o and their gradients are float32 even if q is not, as in ssd and mLSTM.
    """
    (dtype, constants), (memory, signals, names) = typed, KERNELS[kernel]
    constants = constants | how
    state = "fp64" if dtype == "fp64" else "fp32"
    signature = {
        name: f"*{dtype if name in STORED else state}" for name in memory.split() if name not in absent.split()
    }
    if wide:
        signature |= {name: "*fp32" for name in ("v", "decay", "o", "d_o", "dv") if name in signature}
    flags = {"reset": "*u8", "lengths": "*i64", "starts": "*i64", "owner": "*i64"}
    signature |= {name: kind for name, kind in flags.items() if name in cut.split()}
    signature |= {f"{name}_{axis}": "i64" for name in signals.split() for axis in ("row", "time", "head")}
    signature |= dict.fromkeys([*LINES.get(kernel, ()), "reset_row", "time", "heads", "per_key"], "i64")
    if kernel != "states":
        signature["scale"] = "fp64"
    if kernel == "bwd_keys":
        constants = constants | keys_tile(constants["VECTOR"])
    chosen = {name: constants[name] for name in names.split()}
    chosen |= {name: None for name in (*memory.split(), *flags) if name not in signature}
    return f"attention_{kernel}_kernel", signature, chosen, {"num_warps": constants["WARPS"], "enable_fp_fusion": True}


def keys_tile(vector: bool) -> dict[str, int]:
    """The tile of the kernel that keeps the most numbers in registers."""
    return {"BK": 16, "BV": 16, "WARPS": 4 if vector else 8}


def constants(dtype: str, K: int, V: int, vector: bool, before: bool = False) -> dict[str, Any]:
    """The constants that the launcher chooses."""
    double = dtype == "fp64"
    BK, BV = {"fp64": (16, 16), "fp32": (16, 32)}.get(dtype, (32, 32))
    C = 16 if double or vector else 32
    found = {"K": K, "V": V, "BK": BK, "BV": BV, "C": C, "TILE": 64, "SPLIT": False, "VECTOR": vector, "LOG": True}
    found |= {"BEFORE": before, "WARPS": 8 if double else 4, "PRECISION": "tf32x3" if dtype == "bf16" else "ieee"}
    return found | {"STATE": tl.float64 if double else tl.float32}


#: float32 and one decay for all rows; bfloat16, a decay for each row and a bonus; float64
FLOAT, BF16, DOUBLE = (
    ("fp32", constants("fp32", 128, 128, False)),
    ("bf16", constants("bf16", 64, 64, True, before=True)),
    ("fp64", constants("fp64", 64, 64, False)),
)
