"""Representative variants of kernels/rnn/triton_recurrence.py."""

from __future__ import annotations

from typing import Any

_STATES = "hcnm"
_COUNT = {0: 1, 2: 2, 3: 1, 4: 4}
_SIZES = ("batch", "time", "heads", "width", "line_row", "line_time", "reverse")
_OPTIONS = {"lengths": "*i64", "starts": "*i64", "offsets": "*i64", "reset": "*u8", "clip_state": "fp32"}
Variant = tuple[str, dict[str, str], dict[str, Any], dict[str, Any]]


def _variant(cell: int, D: int, kind: str, warps: int, backward: bool, held: bool, asked: str = "") -> Variant:
    """A cell with a bias, an initial state and a loss on h and the final states."""
    given, absent = _STATES[: _COUNT[cell]], _STATES[_COUNT[cell] :]
    groups = ("{}0", "{}_all", "d{}0", "d{}_last") if backward else ("{}0", "{}_last", "{}_all")
    names = [form.format(state) for form in groups for state in given]
    missing = [form.format(state) for form in groups for state in absent]
    missing += [f"d{state}_all" for state in _STATES[1:]] if backward else []
    (names if cell >= 2 else missing).append("saved")
    stored = ["r", "dwx", "dh_all", "h0", "h_all"] if backward else ["wx", "r", "b", "h0", "h_last", "h_all"]
    if backward:
        (stored if cell == 3 else missing).append("dq")
    options = dict(_OPTIONS, clip_grad="fp32") if backward else _OPTIONS
    (missing if held else stored).append("room")
    missing += [name for name in options if name not in asked.split()]
    types = dict.fromkeys(names, "*fp32") | dict.fromkeys(stored, kind) | dict.fromkeys(_SIZES, "i32")
    if D > 32:  # memory and widths that allow wide loads
        types = {name: f"{kind}:16" if "*" in kind or name == "width" else kind for name, kind in types.items()}
    constants = dict.fromkeys(missing) | {"CELL": cell, "ROWS": 16, "D": D, "HELD": held, "TERMS": 16}
    launch = {"num_warps": warps, "num_stages": 1, "enable_fp_fusion": True}
    if warps == 16:
        launch["maxnreg"] = 128
    return "rnn_bwd_kernel" if backward else "rnn_fwd_kernel", types | options, constants, launch


_ALL = "starts reset clip_state clip_grad"
TRITON = [
    _variant(2, 32, "*bf16", 8, False, True),
    _variant(2, 32, "*bf16", 8, True, True),
    _variant(3, 32, "*bf16", 8, False, True),
    _variant(4, 32, "*fp32", 8, False, True),
    _variant(4, 16, "*fp32", 4, True, True),
    _variant(0, 16, "*fp16", 4, True, True),
    _variant(3, 32, "*bf16", 8, True, True, _ALL),
]
NVIDIA = [
    _variant(2, 64, "*bf16", 8, False, True, _ALL),
    _variant(4, 64, "*bf16", 8, True, True),
    _variant(2, 64, "*fp32", 16, True, True),
    _variant(4, 128, "*bf16", 16, False, False),
    _variant(2, 128, "*fp32", 16, False, False),
    _variant(3, 128, "*fp32", 16, False, False, _ALL),
    _variant(3, 128, "*fp32", 16, True, False),
    _variant(4, 128, "*fp32", 16, True, False, _ALL),
    _variant(0, 128, "*fp32", 16, True, False),
    _variant(2, 128, "*bf16", 16, True, False, _ALL),
    _variant(4, 128, "*fp16", 16, True, False),
]
