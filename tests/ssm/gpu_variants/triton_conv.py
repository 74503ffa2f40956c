"""Representative variants of kernels/ssm/triton_conv.py."""

from __future__ import annotations

from typing import Any

import triton.language as tl

_CUT = {"labels": "*i64", "bounds": "*i64", "lengths": "*i64"}
_STRIDES = {"time": {"time": 1}, "channels": {"channel": 1}}  # the contiguous axis


def _variant(
    kernel: str, memory: dict[str, Any], strided: str, numbers: str, order: str, **how: Any
) -> tuple[Any, ...]:
    strides = {
        f"{name}_{axis}": _STRIDES[order].get(axis) for name in strided.split() for axis in ("row", "channel", "time")
    }
    types = {name: kind for name, kind in memory.items() if kind}
    types |= dict.fromkeys([*(name for name, one in strides.items() if not one), *numbers.split()], "i64")
    constants = {name: None for name, kind in memory.items() if not kind}
    constants |= {name: one for name, one in strides.items() if one} | how
    return f"causal_conv_{kernel}_kernel", types, constants, {"num_warps": 4, "enable_fp_fusion": True}


def _all(storage: str, cut: str, order: str, taps: int, first: bool) -> list[tuple[Any, ...]]:
    """The kernels of a convolution, with SiLU and all gradients."""
    x, state = f"*{storage}", "*fp64" if storage == "fp64" else "*fp32"
    how: dict[str, Any] = {"W": taps, "SILU": True, "STATE": tl.float64 if storage == "fp64" else tl.float32}
    where = {name: kind if name in cut else None for name, kind in _CUT.items()}
    inputs = {"x": x, "weight": state, "bias": state, "first": x if first else None, **where}
    tile = {"BD": 4, "BT": 256} if order == "time" else {"BD": 64, "BT": 16}
    half = {"BD": 2, "BT": 256} if order == "time" else {"BD": 32, "BT": 8}
    gradient = {**inputs, "dout": x, "dlast": x if first else None}
    sizes = "channels time blocks"
    variants = [
        _variant("fwd", {**inputs, "out": x}, "x out", f"{sizes} segments", order, **how, **tile),
        _variant(
            "bwd",
            {**gradient, "dx": x, "sums": state},
            "x dout dx",
            f"{sizes} segments",
            order,
            **how,
            **half,
            TILES=8 if taps <= 8 else 1,
        ),
    ]
    if first:
        small = {"BD": 64, "BW": 1 << (taps - 2).bit_length()}
        memory = {"x": x, "first": x, "bounds": where["bounds"], "lengths": where["lengths"], "last": x}
        variants += [
            _variant("last", memory, "x", sizes, order, W=taps, **small),
            _variant("bwd_first", {**gradient, "dfirst": x}, "x dout", sizes, order, **how, **small),
        ]
    return variants


def _update(storage: str, flags: str) -> tuple[Any, ...]:
    x = f"*{storage}"
    memory = {"x": x, "state": x, "weight": x, "bias": x, "positions": None, "rows": None, "out": x}
    memory |= {name: "*i64" for name in ("positions", "rows") if name in flags}
    numbers = "weight_channel weight_time bias_channel channels steps stored places blocks"
    how = {"W": 4, "SILU": True, "BD": 64, "BN": 4, "STATE": tl.float64 if storage == "fp64" else tl.float32}
    return _variant("update", memory, "x state", numbers, "time", **how)


TRITON = [
    *_all("bf16", "", "time", 4, False),
    *_all("fp32", "lengths", "channels", 4, True),
    *_all("fp16", "labels bounds", "channels", 4, True),
    *_all("fp64", "labels", "time", 12, False),
    _update("bf16", ""),
    _update("fp32", "positions rows"),
]
