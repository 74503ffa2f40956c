"""Representative variants of kernels/triton/rnn.py."""

from __future__ import annotations

from typing import Any

_STATES = "hcnm"
_COUNT = {0: 1, 2: 2, 3: 1, 4: 4}
_SIZES = ("batch", "time", "heads", "width", "line_row", "line_time", "reverse")
Variant = tuple[str, dict[str, str], dict[str, Any], dict[str, Any]]


def _variant(cell: int, D: int, kind: str, warps: int, backward: bool) -> Variant:
    """A cell with a bias, an initial state and a loss on h and the final states."""
    given, absent = _STATES[: _COUNT[cell]], _STATES[_COUNT[cell] :]
    groups = ("{}0", "{}_all", "d{}0", "d{}_last") if backward else ("{}0", "{}_last", "{}_all")
    names = [form.format(state) for form in groups for state in given]
    names += ["r", "dwx", "dh_all"] if backward else ["wx", "r", "b"]
    missing = [form.format(state) for form in groups for state in absent] + ["lengths", "offsets"]
    missing += [f"d{state}_all" for state in _STATES[1:]] if backward else []
    (names if cell >= 2 else missing).append("saved")
    if backward:
        (names if cell == 3 else missing).append("dq")
    constants = dict.fromkeys(missing) | {"CELL": cell, "ROWS": 16, "D": D, "HELD": True}
    options = {"num_warps": warps, "num_stages": 1, "enable_fp_fusion": True}
    kernel = "rnn_bwd_kernel" if backward else "rnn_fwd_kernel"
    return kernel, dict.fromkeys(names, kind) | dict.fromkeys(_SIZES, "i32"), constants, options


TRITON = [
    _variant(2, 32, "*bf16", 4, False),
    _variant(2, 32, "*bf16", 4, True),
    _variant(3, 32, "*bf16", 4, False),
    _variant(4, 32, "*fp32", 8, False),
    _variant(4, 16, "*fp32", 4, True),
    _variant(0, 16, "*fp16", 4, True),
]
