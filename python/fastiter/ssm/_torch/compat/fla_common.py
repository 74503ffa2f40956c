"""Helpers shared by the functions with the signatures of flash-linear-attention (fla)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...._check import type_name
from ...._sequences import check_packing
from ...._torch.ops import checked_bounds
from ..._attention_shapes import checked_scale
from ..attention import linear_attention
from ..ops import computed
from .common import TOGETHER, check_part

#: Options of fla's kernels that do not affect results
IGNORED = {
    *("cu_seqlens_cpu", "chunk_indices", "chunk_size", "safe_gate", "disable_recompute", "use_graph", "max_num_seqs"),
    "lower_bound",  # with safe_gate, a known lower bound of the decays
}
Parts = Mapping[str, tuple[Any, str]]
_NONE: Parts = {}
#: Options that are accepted only with this value
_FIXED = {"cp_context": None, "head_first": False, "return_intermediate_states": False, "gv": None}


def check_rest(function: str, options: Mapping[str, Any]) -> None:
    """Refuse unknown options and unsupported values."""
    for name, value in options.items():
        if name in _FIXED:
            if value is not _FIXED[name]:
                expected = f"{_FIXED[name]}, as there is no kernel for more"
                raise ValueError(f"{function}: {name} must be {expected}, got {value!r}")
        elif name not in IGNORED:
            raise TypeError(f"{function}: options must be those of fla, got an unexpected keyword argument {name!r}")


def check_off(function: str, **options: Any) -> None:
    """Refuse options that only fla's GPU kernels have, unless they are False or None."""
    for name, value in options.items():
        if value is not None and value is not False:
            expected, got = ("False", value) if isinstance(value, bool) else ("None", type_name(value))
            raise ValueError(f"{function}: {name} must be {expected} on a CPU, got {got}")


def check_signals(function: str, q: Any, k: Any, v: Any, factors: int, query: str) -> dict[str, tuple[int, ...]]:
    """Check that q, k and v are (B, T, heads, width) and consistent; k and v have ``factors`` entries per step.

    ``query`` is the name of q in fla. Return the shapes of other arguments by the letters of their axes: B, T, N heads
    of values, widths K and V, and F entries of v.
    """
    for name, x in ((query, q), ("k", k), ("v", v)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{function}: {name} must be a torch.Tensor, got {type(x).__qualname__}")
        if x.dim() != 4:
            raise ValueError(f"{function}: {name} must have shape (B, T, heads, width), got {tuple(x.shape)}")
    batch, time, heads, keys = q.shape
    entries = time * factors
    if k.shape != (batch, entries, heads, keys):
        expected = (batch, entries, heads, keys)
        raise ValueError(f"{function}: k must have shape {expected} to go with {query}, got {tuple(k.shape)}")
    rows, steps, values_heads, values = v.shape
    if rows != batch or steps != entries or heads < 1 or values_heads % heads:
        wanted = f"{(batch, entries)} and a multiple of {heads} heads"
        raise ValueError(f"{function}: v must have (B, T, heads) = {wanted} to go with k, got {tuple(v.shape)}")
    return {
        "BTN": (batch, time, values_heads),
        "BTNK": (batch, time, values_heads, keys),
        "BFN": (batch, entries, values_heads),
        "N": (values_heads,),
        "NK": (values_heads, keys),
        "NKV": (values_heads, keys, values),
        "NVK": (values_heads, values, keys),
    }


def checked(
    state: FlaState, q: Any, k: Any, v: Any, scale: Any, required: Parts, optional: Parts = _NONE, factors: int = 1
) -> float:
    """Return the scale, by default 1 / sqrt(K), if all arguments are consistent.

    The last arguments are gates and similar tensors by their names in fla, each with the letters of its axes, as in
    :func:`check_signals`.
    """
    function, query = state.function, state.query
    shapes = check_signals(function, q, k, v, factors, query)
    if q.dtype not in TOGETHER or not {k.dtype, v.dtype} <= TOGETHER[q.dtype]:
        for name, x in ((query, q), ("k", k), ("v", v)):
            check_part(function, name, x, x.shape, q, query)
    state.check(q, shapes)
    for name, (x, letters) in required.items():
        check_part(function, name, x, shapes[letters], q, query)
    for name, (x, letters) in optional.items():
        if x is not None:
            check_part(function, name, x, shapes[letters], q, query)
    return q.shape[-1] ** -0.5 if scale is None else checked_scale(function, scale, q.dtype == torch.float64)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    state: FlaState,
    *,
    scale: float,
    bonus: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Compute (o, final state or None) of linear attention with fla's conventions, for checked arguments."""
    o, last = linear_attention(q, k, v, log_decay, bonus=bonus, scale=scale, **state.options())
    return o.to(q.dtype), state.last(last)


class FlaState:
    """The options for initial and final states."""

    def __init__(
        self,
        function: str,
        initial_state: Tensor | None,
        output_final_state: bool,
        cu_seqlens: Tensor | None = None,
        *,
        reverse: bool = False,
        state_v_first: bool = False,
        query: str = "q",
    ) -> None:
        if reverse and cu_seqlens is not None:
            raise ValueError(f"{function}: reverse must be False if cu_seqlens is given, got True")
        self.function, self.query = function, query
        self.cu_seqlens: Any = cu_seqlens
        self._initial, self._output = initial_state, output_final_state
        self._reverse, self._v_first = reverse, state_v_first

    def check(self, q: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Check cu_seqlens and the shape and dtype of the initial state; shapes as in :func:`check_signals`."""
        sequences = self.check_cut(q, self.query)
        if self._initial is not None:
            shape = (sequences, *shapes["NVK" if self._v_first else "NKV"])
            check_part(self.function, "initial_state", self._initial, shape, q, self.query)

    def check_cut(self, q: Tensor, name: str) -> int:
        """Check cu_seqlens for a signal (B, T, ...), and return the number of sequences."""
        if self.cu_seqlens is None:
            return q.shape[0]
        check_packing(self.function, q.shape[0], None, name)
        self.cu_seqlens = checked_bounds(self.function, self.cu_seqlens, q.shape[1], q.device)
        return int(self.cu_seqlens.shape[0]) - 1

    def options(self) -> dict[str, Any]:
        """Return the options of fastiter's functions, with the initial state as (N, HV, K, V)."""
        return {"state": self.first(), "cu_seqlens": self.cu_seqlens, "reverse": self._reverse}

    def first(self) -> Tensor | None:
        """Return the initial state as (N, HV, K, V)."""
        return self._transposed(self._initial)

    def last(self, state: Tensor) -> Tensor | None:
        """Return the final state in fla's form, None if it is not requested."""
        return self._transposed(state) if self._output else None

    def _transposed(self, state: Tensor | None) -> Tensor | None:
        return state if state is None or not self._v_first else state.transpose(-1, -2)


def l2norm(x: Tensor) -> Tensor:
    """Return x / sqrt(sum x^2 + 1e-6) over the last axis, in the dtype of the arithmetic."""
    wide = x.to(computed(x.dtype)).contiguous()  # sums over a strided axis would depend on the number of rows
    return wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + 1e-6)
