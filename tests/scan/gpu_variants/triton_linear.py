"""Representative variants of kernels/scan/triton_linear.py."""

from __future__ import annotations

from typing import Any

import triton.language as tl

#: With Triton 3.6 the variant in bfloat16 with lengths spills 14 numbers on sm_90 and sm_100.
OLDER_SPILL = {"linear_scan_fwd_kernel": 56}
_FLAGS = {"reset": "*u8", "lengths": "*i64", "starts": "*i64"}
_OPTIONS = {"num_warps": 2, "enable_fp_fusion": False}
_NUMBERS = ("sequences", "time", "width", "segment", "segments", "direction")


def _variant(
    kernel: str,
    storage: str,
    memory: dict[str, str | None],
    strided: tuple[str, ...],
    flags: tuple[str, ...],
    **how: Any,
) -> tuple[str, dict[str, str], dict[str, Any], dict[str, Any]]:
    given = {name: kind or storage for name, kind in memory.items() if kind != "none"}
    absent = {name: None for name, kind in memory.items() if kind == "none"}
    absent |= {name: None for name in _FLAGS if name not in flags}
    strides = [f"{name}_{axis}" for name in strided for axis in ("row", "time")]
    signature = (
        given | {name: _FLAGS[name] for name in flags} | dict.fromkeys([*strides, "reset_row", *_NUMBERS], "i64")
    )
    return f"linear_scan_{kernel}_kernel", signature, absent | how, _OPTIONS


def _all(
    storage: str, state: str, flags: tuple[str, ...], whole: bool, UNROLL: int, REST: int, **how: Any
) -> list[Any]:
    """The four kernels; ``whole``: one segment with all gradients."""
    ahead, back = {"UNROLL": UNROLL, "REST": REST}, {"UNROLL": UNROLL // 2, "REST": REST // 2}
    how = {"STATE": {"*fp32": tl.float32, "*fp64": tl.float64}[state], "LANES": 64, **how}
    rest = "none" if whole else state
    forward = {"a": None, "x": None, "h0": state, "carry": rest, "h": None, "last": state}
    backward = {"a": None, "h": None, "h0": state, "dh": None, "dlast": state, "carry": rest, "dx": None}
    backward |= {"da": None if whole else "none", "da_sum": "none" if whole else state, "dfirst": state}
    variants = [
        _variant("fwd", storage, forward, ("a", "x", "h"), flags, **how, **ahead),
        _variant("bwd", storage, backward, ("a", "h", "dh", "dx", "da"), flags, **how, **back),
    ]
    if not whole:
        summary = {"factor": state, "state": state}
        variants += [
            _variant("fwd_summary", storage, {"a": None, "x": None, **summary}, ("a", "x"), flags, **how, **ahead),
            _variant("bwd_summary", storage, {"a": None, "dh": None, **summary}, ("a", "dh"), flags, **how, **back),
        ]
    return variants


TRITON = [
    *_all("*fp32", "*fp32", (), True, 32, 16, COMPLEX=False),
    *_all("*bf16", "*fp32", ("lengths",), False, 32, 16, COMPLEX=False),
    *_all("*fp32", "*fp32", ("reset", "starts"), False, 16, 16, COMPLEX=False),
    *_all("*fp64", "*fp64", ("reset",), True, 16, 8, COMPLEX=False),
    *_all("*fp64", "*fp64", ("reset", "starts"), False, 8, 4, COMPLEX=True),
]
