"""Variants of kernels/quant/triton_matmul.py for the compile gate: roundings, overflows, binary points."""

from __future__ import annotations

from typing import Any

_SIZES = dict.fromkeys(("M", "N", "K", "every"), "i32")
_FLOAT_TYPES = {"x_ptr": "*fp32", "w_ptr": "*fp32", "numbers": "*fp64"} | _SIZES
_FLOAT_TYPES |= {"mantissa": "i32", "min_exponent": "i32", "narrow": "*i1"}
_FIXED_TYPES = {"numbers": "*fp64", "places": "i32", "width": "i32", "saturated": "i32"} | _SIZES
_TILE: dict[str, Any] = {"ROWS": 16, "COLUMNS": 64}
_OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


def _float(rounding: int, y: str = "fp32", **constants: Any) -> Any:
    plain = {"SATURATES": False, "MINUS": True, "INFINITY_DIFFERS": False, "BARE": False, "OWN": False}
    plain |= {"WHOLE": False, "GROUPED": False, "NARROW": False, **_TILE}
    chosen = {"ROUNDING": rounding, **plain, **constants} | ({"narrow": None} if y == "fp64" else {})
    return "quant_matmul_float_fwd_kernel", _FLOAT_TYPES | {"y_ptr": f"*{y}"}, chosen, _OPTIONS


def _fixed(codes: str, rounding: int, overflow: int = 0, y: str = "fp32", **constants: Any) -> Any:
    plain = {"POINT": 0, "SIGNED": True, "SYMMETRIC": False, "GROUPED": False, **_TILE}
    chosen = {"ROUNDING": rounding, "OVERFLOW": overflow, **plain, **constants}
    types = _FIXED_TYPES | {"x_ptr": f"*{codes}", "w_ptr": f"*{codes}", "y_ptr": f"*{y}"}
    return "quant_matmul_fixed_fwd_kernel", types, chosen, _OPTIONS


EXACT = True
TRITON = [
    _float(6, OWN=True),  # bf16
    _float(6, OWN=True, NARROW=True),
    _float(6, OWN=True, WHOLE=True, GROUPED=True, NARROW=True),  # fp32, every 8
    _float(6, GROUPED=True, SATURATES=True),  # e4m3fn, every 8
    _float(6, GROUPED=True, SATURATES=True, NARROW=True),
    _float(7, "fp64", GROUPED=True, INFINITY_DIFFERS=True),  # float<9,20,ieee,RU>
    _float(6, SATURATES=True, MINUS=False, BARE=True),  # float<5,0,fnuz>
    _fixed("i32", 2),  # fixed<16,8,RND,SAT>
    _fixed("i32", 0, 2, GROUPED=True),  # fixed<16,8>, every 8
    _fixed("i32", 6, 6, POINT=1),  # fixed<16,4,RND_CONV,WRAP_SM,2> of coarser products
    _fixed("i64", 6, y="fp64"),  # fixed<40,20,RND_CONV,SAT>
    _fixed("i64", 5, 3, GROUPED=True, SIGNED=False),  # ufixed<24,12,RND_INF,WRAP,3> of wide products
    _fixed("i64", 1, 0, "fp64", POINT=2, SYMMETRIC=True),  # fixed<62,2,TRN_ZERO,SAT_SYM> of coarse products
]
