"""Representative variants of kernels/ssm/triton_low_rank.py."""

from __future__ import annotations

from typing import Any

from tests.ssm.attention_variants import DOUBLE, FLOAT, STORED, THREE, tile_constants

_SQUARES = "inverse products"
_MEMORY = {
    "fwd": (f"k v decay a b {_SQUARES} w state states saved", "k v decay a b w", "saved_line state_line"),
    "bwd": (f"q decay a b d_o {_SQUARES} dw dstate dstates", "q decay a b d_o dw", "state_line"),
}


def _variant(kernel: str, typed: tuple[str, dict[str, Any]], absent: str, cut: str) -> tuple[Any, ...]:
    """A kernel for signals of a dtype; `cut` names the way in which rows are divided into sequences."""
    (dtype, constants), (memory, signals, lines) = typed, _MEMORY[kernel]
    state = "fp64" if dtype == "fp64" else "fp32"
    signature = {
        name: f"*{dtype if name in STORED else state}" for name in memory.split() if name not in absent.split()
    }
    flags = {"reset": "*u8", "lengths": "*i64", "starts": "*i64"}
    signature |= {name: kind for name, kind in flags.items() if name in cut}
    signature |= {f"{name}_{axis}": "i64" for name in signals.split() for axis in ("row", "time", "head")}
    signature |= dict.fromkeys([*lines.split(), "reset_row", "time", "heads"], "i64")
    if kernel == "bwd":
        signature["scale"] = "fp64"
    names = ["K", "V", "BK", "BV", "C", "VECTOR", "LOG", "STATE", "PRECISION"]
    tiled, options = tile_constants(f"low_rank_{kernel}", constants)
    chosen = {name: (constants | tiled)[name] for name in names + ["TILE"] * (kernel == "fwd")}
    chosen |= {name: None for name in (*memory.split(), *flags) if name not in signature}
    return f"low_rank_{kernel}_kernel", signature, chosen, options


def _inverse(typed: tuple[str, dict[str, Any]], transposed: bool) -> tuple[Any, ...]:
    state = f"*{'fp64' if typed[0] == 'fp64' else 'fp32'}"
    signature = dict.fromkeys(f"weights others {_SQUARES}".split(), f"{state}")
    tiled, options = tile_constants("low_rank_inverse_fwd", typed[1])
    chosen = {"C": tiled["C"], "TRANSPOSED": transposed, "PRECISION": typed[1]["PRECISION"]}
    return "low_rank_inverse_fwd_kernel", signature, chosen, options


#: Products of three TF32 numbers exist on NVIDIA only.
NVIDIA = [
    _inverse(FLOAT, False),
    _inverse(THREE, True),
    _inverse(DOUBLE, True),
    _variant("fwd", FLOAT, "saved", "reset"),
    _variant("fwd", THREE, "", "starts"),
    _variant("fwd", DOUBLE, "", "lengths"),
    _variant("bwd", FLOAT, "", "reset"),
    _variant("bwd", THREE, "", "starts"),
    _variant("bwd", DOUBLE, "d_o", "lengths"),
]
