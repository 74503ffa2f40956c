"""The common part of the functions with the signatures of flash-linear-attention (fla)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..attention import linear_attention
from ..ops import computed

#: Options that say how fla's kernels run, and change no result
IGNORED = {
    *("cu_seqlens_cpu", "chunk_indices", "chunk_size", "safe_gate", "disable_recompute", "use_graph", "max_num_seqs"),
    "lower_bound",  # with safe_gate, what the decays are known to be above
}
#: Options that are taken with this value only
_FIXED = {"cp_context": None, "head_first": False, "return_intermediate_states": False, "gv": None}


def check_rest(function: str, options: Mapping[str, Any]) -> None:
    """Refuse options that are unknown, and values that are not supported."""
    for name, value in options.items():
        if name in _FIXED:
            if value is not _FIXED[name]:
                expected = f"{_FIXED[name]}, as there is no kernel for more"
                raise ValueError(f"{function}: {name} must be {expected}, got {value!r}")
        elif name not in IGNORED:
            raise TypeError(f"{function}: options must be those of fla, got an unexpected keyword argument {name!r}")


def check_signals(function: str, q: Any, k: Any, v: Any, factors: int = 1) -> None:
    """Check that q, k and v are (B, T, heads, width) and go together; k and v have ``factors`` entries a step."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{function}: {name} must be a torch.Tensor, got {type(x).__qualname__}")
        if x.dim() != 4:
            raise ValueError(f"{function}: {name} must have shape (B, T, heads, width), got {tuple(x.shape)}")
    batch, time, heads, width = q.shape
    expected = (batch, time * factors, heads, width)
    if tuple(k.shape) != expected:
        raise ValueError(f"{function}: k must have shape {expected} to go with q, got {tuple(k.shape)}")
    if tuple(v.shape[:2]) != expected[:2] or heads < 1 or v.shape[2] % heads:
        wanted = f"{expected[:2]} and a multiple of {heads} heads"
        raise ValueError(f"{function}: v must have (B, T, heads) = {wanted} to go with k, got {tuple(v.shape)}")


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    state: FlaState,
    *,
    scale: float | None = None,
    bonus: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return (o, final state or None) of linear attention with fla's conventions."""
    check_signals(state.function, q, k, v)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    q, k, v, log_decay = (state.in_order(x) for x in (q, k, v, log_decay))
    options: dict[str, Any] = {"initial_state": state.first(), "cu_seqlens": state.cu_seqlens}
    o, last = linear_attention(q, k, v, log_decay, bonus=bonus, scale=scale, **options)
    return state.in_order(o).to(q.dtype), state.last(last)


class FlaState:
    """The options that say where states come from and go to."""

    def __init__(
        self,
        function: str,
        initial_state: Tensor | None,
        output_final_state: bool,
        cu_seqlens: Tensor | None = None,
        *,
        reverse: bool = False,
        state_v_first: bool = False,
    ) -> None:
        if reverse and cu_seqlens is not None:
            raise ValueError(f"{function}: reverse must be False where cu_seqlens is given, got True")
        self.function, self.cu_seqlens = function, cu_seqlens
        self._initial, self._output = initial_state, output_final_state
        self._reverse, self._v_first = reverse, state_v_first

    def in_order(self, x: Any) -> Any:
        """Return a signal (B, T, ...) in the order of the recurrence, or back."""
        return x.flip(1) if self._reverse and x is not None and x.dim() > 1 else x

    def first(self) -> Tensor | None:
        """Return the initial state as (N, HV, K, V)."""
        return self._transposed(self._initial)

    def last(self, state: Tensor) -> Tensor | None:
        """Return the final state as fla does, None if it is not wanted."""
        return self._transposed(state) if self._output else None

    def _transposed(self, state: Tensor | None) -> Tensor | None:
        return state if state is None or not self._v_first else state.transpose(-1, -2)


def l2norm(x: Tensor) -> Tensor:
    """Return x / sqrt(sum x^2 + 1e-6) over the last axis, in the dtype of the arithmetic."""
    wide = x.to(computed(x.dtype))
    return wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + 1e-6)
