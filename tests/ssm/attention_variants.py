"""Variants of the GPU kernels of linear attention: their arguments and constants, for the gate that compiles them."""

from __future__ import annotations

from typing import Any

import triton.language as tl

from fastiter.ssm._torch._gpu.triton_chunks import tile_of

#: Arguments of the kernels besides the sequences: memory, signals with strides, and the constants that they read
KERNELS = {
    "states": (
        "k v decay totals source states saved last",
        "k v decay",
        "K V BK BV C TILE SPLIT VECTOR LOG STATE PRECISION",
    ),
    "weights": ("q k decay bonus weights", "q k decay", "K BK C BEFORE VECTOR LOG STATE PRECISION"),
    "levels_fwd": (
        "q k b decay bonus weights b_weights reads writes b_writes totals",
        "q k b decay reads writes b_writes",
        "K BK C BEFORE VECTOR LEVELS LOG STATE PRECISION",
    ),
    "fwd": (
        "q k v w decay bonus states weights w_weights o",
        "q k v w decay o",
        "K V BK BV C BEFORE VECTOR LOG STATE PRECISION",
    ),
    "bwd_states": (
        "q decay d_o dlast dstates dfirst",
        "q decay d_o",
        "K V BK BV C BEFORE VECTOR LOG STATE PRECISION",
    ),
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
#: Arguments in the dtype of the signals, and those in the dtype to which products round; the others have the dtype of
#: the arithmetic.
STORED = ("q", "k", "v", "a", "b", "decay", "o", "d_o", "dv")
BETWEEN = ("states", "weights", "w_weights", "reads", "writes", "b_writes")
#: The arguments of a second kind of keys and values, which the generalised delta rule has
SECOND = {"levels_fwd": "b b_weights b_writes", "fwd": "w w_weights"}
#: Strides between the lines of states
LINES = {
    "states": ("from_line", "saved_line", "to_line"),
    "bwd_states": ("from_line", "to_line"),
    "bwd_keys": ("ddecay_block",),
}


def variant(
    kernel: str,
    typed: tuple[str, dict[str, Any]],
    absent: str,
    cut: str,
    wide: bool = False,
    two: bool = False,
    **how: Any,
) -> tuple[Any, ...]:
    """A kernel for signals of a dtype; `cut` names the way in which rows are divided into sequences.

    With `wide`, v, o and their gradients are float32 even if q is not, as in ssd and mLSTM. With `two`, there are two
    kinds of keys.
    """
    (dtype, constants), (memory, signals, names) = typed, KERNELS[kernel]
    constants = constants | how
    absent = absent if two else f"{absent} {SECOND.get(kernel, '')}"
    state = "fp64" if dtype == "fp64" else "fp32"
    types = dict.fromkeys(STORED, dtype)
    if constants["PRECISION"] == "bf16":
        types |= dict.fromkeys(BETWEEN if constants["BEFORE"] else (*BETWEEN, "b_weights"), "bf16")
    if wide:
        types |= dict.fromkeys(("v", "decay", "o", "d_o", "dv"), "fp32")
    aligned = "" if kernel.startswith("bwd") else ":16"
    signature = {name: f"*{types.get(name, state)}{aligned}" for name in memory.split() if name not in absent.split()}
    flags = {"reset": "*u8", "lengths": "*i64", "starts": "*i64", "owner": "*i64"}
    signature |= {name: kind for name, kind in flags.items() if name in cut.split()}
    signature |= {f"{name}_{axis}": f"i64{aligned}" for name in signals.split() for axis in ("row", "time", "head")}
    signature |= dict.fromkeys(LINES.get(kernel, ()), f"i64{aligned}")
    signature |= dict.fromkeys(["reset_row", "time", "heads", "per_key"], "i64")
    if kernel != "states":
        signature["scale"] = "fp64"
    tiled, options = tile_constants("two_levels_fwd" if two and kernel == "levels_fwd" else kernel, constants)
    chosen = {name: (constants | tiled)[name] for name in names.split()}
    chosen |= {name: None for name in (*memory.split(), *flags) if name not in signature}
    return f"attention_{kernel}_kernel", signature, chosen, options


def tile_constants(kernel: str, constants: dict[str, Any]) -> tuple[dict[str, int], dict[str, Any]]:
    """The constants and the options that the launcher chooses for a kernel."""
    double, sizes = constants["STATE"] is tl.float64, (constants["K"], constants["V"])
    tile = tile_of(kernel, constants["PRECISION"], double, constants["VECTOR"], sizes)
    chosen = {"C": tile.steps, "LEVELS": tile.steps.bit_length() - 1, "BK": tile.rows, "BV": tile.columns}
    stages = {"num_stages": tile.stages} if tile.stages else {}
    return chosen, {"num_warps": tile.warps, **stages, "enable_fp_fusion": True}


def constants(dtype: str, K: int, V: int, vector: bool, before: bool = False, precision: str = "") -> dict[str, Any]:
    """The constants that the launcher chooses for all kernels of a call."""
    found = {"K": K, "V": V, "TILE": 64, "SPLIT": False, "VECTOR": vector, "LOG": True, "BEFORE": before}
    found["PRECISION"] = precision or {"bf16": "bf16", "fp16": "tf32"}.get(dtype, "ieee")
    return found | {"STATE": tl.float64 if dtype == "fp64" else tl.float32}


#: float32 and one decay for all rows; bfloat16, a decay for each row and a bonus; float64
FLOAT, BF16, DOUBLE = (
    ("fp32", constants("fp32", 128, 128, False)),
    ("bf16", constants("bf16", 64, 64, True, before=True)),
    ("fp64", constants("fp64", 64, 64, False)),
)
#: One decay for all rows in bfloat16, and in float16; a decay for each row; with three products of TF32 numbers
SHARED, HALF, OWN, THREE = (
    ("bf16", constants("bf16", 128, 128, False)),
    ("fp16", constants("fp16", 128, 128, False, before=True)),
    ("bf16", constants("bf16", 128, 128, True)),
    ("bf16", constants("bf16", 64, 64, True, before=True, precision="tf32x3")),
)
