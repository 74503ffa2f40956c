"""Representative variants of kernels/ssm/triton_selective.py."""

from __future__ import annotations

from typing import Any

import triton.language as tl

_CUT = {"reset": "*u8", "lengths": "*i64", "starts": "*i64"}
_SIZES = ["reset_row", "channels", "time", "groups", "blocks", "N"]


def variant(
    kernel: str, memory: dict[str, str | None], signals: str, numbers: list[str], order: str, **constants: Any
) -> tuple[Any, ...]:
    """A kernel for ``signals`` whose steps or channels, by ``order``, are contiguous."""
    one = {f"{name}_{'time' if order == 'time' else 'channel'}": 1 for name in signals.split()}
    strides = {f"{name}_{axis}": "i64" if axis == "row" else "i32" for name in signals.split() for axis in AXES}
    types: dict[str, str] = {name: kind for name, kind in memory.items() if kind}
    types |= {name: kind for name, kind in strides.items() if name not in one} | dict.fromkeys(numbers, "i64")
    absent = {name: None for name, kind in memory.items() if kind is None}
    options = {"num_warps": min(8, constants["CHANNELS"]), "enable_fp_fusion": True}
    return f"selective_{kernel}_kernel", types, {**absent, **one, **constants}, options


AXES = ("row", "channel", "time")


def memory_of(storage: str, cut: str, without: str, fixed: bool, aligned: bool) -> tuple[dict[str, str | None], ...]:
    """The arguments in memory: signals, B and C, others, and the cut; those in ALIGNED are aligned to 16 bytes."""
    state = "*fp64" if storage == "fp64" else "*fp32"
    signal = f"*{storage}:16" if aligned else f"*{storage}"
    signals = {name: None if name in without else signal for name in ("u", "delta", "z", "out", "dout", "du")}
    signals |= {name: None if name[1:] in without else signal for name in ("ddelta", "dz")}
    weights = dict.fromkeys("BC", state if fixed else f"*{storage}")
    others = {name: None if name in without else state for name in ("A", "D", "bias", "last", "states", "carry")}
    sums = {name: None if name[1:] in without else state for name in ("dA", "dB", "dC", "dD", "dbias")}
    return signals, weights, others | sums, {name: kind if name in cut else None for name, kind in _CUT.items()}


def constants_of(storage: str, fixed: bool, aligned: bool, channels: int) -> dict[str, Any]:
    state = tl.float64 if storage == "fp64" else tl.float32
    how = {"SOFTPLUS": True, "FIXED_B": fixed, "FIXED_C": fixed, "ALIGNED": aligned, "LANES": 32, "STATE": state}
    return how | {"CHANNELS": channels}


def _forward(storage: str, cut: str, order: str, without: str, fixed: bool, aligned: bool) -> tuple[Any, ...]:
    signals, weights, others, where = memory_of(storage, cut, without, fixed, aligned)
    every = {**signals, **weights, **others, **where}
    names = ["u", "delta", "A", "B", "C", "D", "z", "bias", "out", "last", "states", "reset", "lengths", "starts"]
    constants = constants_of(storage, fixed, aligned, 8) | {"STEPS": 8, "SAVED": 128}
    return variant("fwd", {name: every[name] for name in names}, "u delta z out", _SIZES, order, **constants)


TRITON = [
    _forward("bf16", "", "time", "", False, True),
    _forward("fp32", "reset lengths", "channels", "", False, False),
    _forward("fp16", "starts", "time", "", False, False),
    _forward("fp64", "", "time", "D z bias states", True, True),
]
