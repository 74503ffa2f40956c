"""Representative variants of kernels/ssm/triton_low_rank_chunks.py."""

from __future__ import annotations

from typing import Any

from tests.ssm.attention_variants import HALF, OWN, constants, tile_constants

#: Memory, signals with strides, and strides between the lines of states
_ARGUMENTS = {
    "products": ("a v system weights moved w", "a v w", "lengths starts owner", ""),
    "states": ("k v b totals moved w state states saved", "k v b w", "lengths starts", "saved_line state_line"),
}
#: Arguments in the dtype to which products round; v has that of the signals, and the others that of the arithmetic.
_BETWEEN = ("a", "k", "b", "weights", "moved", "states")


def _variant(kernel: str, typed: tuple[str, dict[str, Any]], absent: str, cut: str) -> tuple[Any, ...]:
    """A kernel for signals of a dtype; `cut` names the way in which rows are divided into sequences."""
    (dtype, made), (memory, signals, flags, lines) = typed, _ARGUMENTS[kernel]
    types = {"v": dtype} | (dict.fromkeys(_BETWEEN, "bf16") if dtype == "bf16" else {})
    signature = {name: f"*{types.get(name, 'fp32')}:16" for name in memory.split() if name not in absent.split()}
    signature |= {name: "*i64" for name in flags.split() if name in cut.split()}
    signature |= {f"{name}_{axis}": "i64:16" for name in signals.split() for axis in ("row", "time", "head")}
    signature |= dict.fromkeys([*lines.split(), "time", "heads"], "i64")
    tiled, options = tile_constants(f"low_rank_{kernel}_fwd", made)
    chosen = {name: (made | tiled)[name] for name in ("K", "V", "BK", "BV", "C", "STATE", "PRECISION")}
    chosen |= {name: None for name in f"{memory} {flags}".split() if name not in signature}
    return f"low_rank_{kernel}_fwd_kernel", signature, chosen, options


_NARROW = ("bf16", constants("bf16", 64, 64, True))
#: TF32 exists on NVIDIA only.
NVIDIA = [
    _variant("products", OWN, "", ""),
    _variant("products", HALF, "", "lengths"),
    _variant("products", _NARROW, "", "starts owner"),
    _variant("states", OWN, "saved", ""),
    _variant("states", OWN, "", "starts"),
    _variant("states", HALF, "", "lengths"),
    _variant("states", _NARROW, "", "lengths starts"),
]
COUNTED = True
