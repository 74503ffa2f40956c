"""Variants of kernels/quant/triton_codes.py for the compile gate."""

from __future__ import annotations

from typing import Any

import triton.language as tl

_NUMBERS = ("numel", "run", "count", "n", "per_line", "size", "bits", "entries", "k0", "k1", "k2")
_OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


def _decode(mode: int, codes: str, y: str, scales: int = 0, scale: bool = False, **constants: Any) -> Any:
    signature = dict.fromkeys(_NUMBERS, "i32") | {"special": "i64", "codes_ptr": f"*{codes}", "y_ptr": f"*{y}"}
    signature |= {"table_ptr": f"*{y}", "factor_ptr": "*fp64", "shared_ptr": "*i8" if scales == 1 else "*fp32"}
    signature |= {"shared_table_ptr": f"*{y}", "scale_ptr": f"*{y}", "zero_ptr": "*i64"}
    chosen = {"MODE": mode, "SIGNED": mode in (1, 2), "FLAG0": mode == 3, "SPECIALS": 0, "SCALES": scales}
    chosen |= {"DOUBLES": False, "HAS_SCALE": scale, "HAS_ZERO_POINT": scale, "SHARING": 0, "INDEX": tl.int32}
    chosen |= {"BLOCK": 1024, **constants}
    absent = ([] if mode == 0 else ["table_ptr"]) + ([] if mode == 1 else ["factor_ptr"])
    absent += ([] if scales else ["shared_ptr"]) + ([] if scales == 1 else ["shared_table_ptr"])
    absent += [] if scale else ["scale_ptr", "zero_ptr"]
    return "decode_fwd_kernel", signature, {**chosen, **dict.fromkeys(absent)}, _OPTIONS


def _packing(bits: int, codes: str) -> list[Any]:
    signature = {"codes_ptr": f"*{codes}", "packed_ptr": "*u8", "numel": "i32", "n": "i32", "bytes_of_line": "i32"}
    constants = {"BITS": bits, "BLOCK": 1024}
    return [
        ("pack_fwd_kernel", signature, constants, {"num_warps": 4}),
        ("unpack_fwd_kernel", signature, {**constants, "SIGNED": True}, {"num_warps": 4}),
    ]


EXACT = True
TRITON = [
    _decode(0, "i8", "fp32", scales=1),  # mxfp8
    _decode(0, "i8", "fp32", scales=2),  # nf4
    _decode(1, "i64", "fp32", FLAG0=True),  # fixed<60,30>
    _decode(2, "i8", "fp32", scale=True),  # int8
    _decode(3, "i32", "fp32", SPECIALS=1),  # fp32
    _decode(4, "i32", "fp64"),  # posit<32,2>
    *_packing(6, "i8"),
    *_packing(33, "i64"),
]
