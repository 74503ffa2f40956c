"""Linear attention, its gated forms and RWKV-6 with the signatures of flash-linear-attention (fla)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....scan._torch.functional import linear_scan
from ..attention import linear_attention
from .fla_common import FlaState, attend, check_rest, check_signals

State = Tensor | None
NormalizedState = Tensor | tuple[Tensor | None, Tensor | None] | None


def chunk_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: NormalizedState = None,
    output_final_state: bool = False,
    normalize: bool = True,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, NormalizedState]:
    """S = S + k v^T, o = S^T q, divided by q . sum k + 1e-10 with `normalize`; see fla's function of this name."""
    check_rest("chunk_linear_attn", rest)
    state = FlaState("chunk_linear_attn", None, output_final_state, cu_seqlens)
    return _linear(q, k, v, scale, initial_state, normalize, state)


def fused_recurrent_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: NormalizedState = None,
    output_final_state: bool = False,
    reverse: bool = False,
    normalize: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, NormalizedState]:
    """S = S + k v^T, o = S^T q; see fla's function of this name."""
    function = "fused_recurrent_linear_attn"
    check_rest(function, rest)
    state = FlaState(function, None, output_final_state, cu_seqlens, reverse=reverse)
    return _linear(q, k, v, scale, initial_state, normalize, state)


def _linear(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None, initial: NormalizedState, normalize: bool, state: FlaState
) -> tuple[Tensor, NormalizedState]:
    check_signals(state.function, q, k, v)
    if isinstance(initial, tuple) and not normalize:
        raise TypeError(f"{state.function}: initial_state must be a tensor where normalize is False, got a tuple")
    matrix, vector = initial if isinstance(initial, tuple) else (initial, None)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if normalize:  # the sum of the keys is one more column of the state, whose values are 1
        v = torch.cat([v, v.new_ones(*v.shape[:3], 1)], -1)
    first = matrix
    if normalize and (matrix is not None or vector is not None):
        first = _joined(state.function, matrix, vector)
    q_in, k_in, v_in = (state.in_order(x) for x in (q, k, v))
    o, last = linear_attention(q_in, k_in, v_in, scale=scale, initial_state=first, cu_seqlens=state.cu_seqlens)
    o = state.in_order(o)
    wanted = state.last(last)
    if not normalize:
        return o.to(q.dtype), wanted
    o = o[..., :-1] / (o[..., -1:] + 1e-10)
    split = None if wanted is None else (wanted[..., :-1], wanted[..., -1][:, None])
    return o.to(q.dtype), split


def _joined(function: str, matrix: Tensor | None, vector: Tensor | None) -> Tensor:
    """Return a state (N, H, K, V) and a sum of keys (N, 1, H, K) as one (N, H, K, V + 1)."""
    if matrix is None:
        raise ValueError(f"{function}: initial_state must have both its parts where normalize is True, got one")
    column = matrix.new_zeros(*matrix.shape[:3], 1) if vector is None else vector.reshape(*matrix.shape[:3], 1)
    return torch.cat([matrix, column.to(matrix.dtype)], -1)


def chunk_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """S = e^g S + k v^T with g (B, T, H), or g_gamma (H,), the same at all steps; see fla's function of this name."""
    function = "chunk_simple_gla"
    state = FlaState(function, initial_state, output_final_state, cu_seqlens, state_v_first=state_v_first)
    return _simple_gla(function, q, k, v, (g, g_gamma), scale, rest, state)


def fused_recurrent_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    reverse: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """S = e^g S + k v^T with g (B, T, H), or g_gamma (H,), the same at all steps; see fla's function of this name."""
    function = "fused_recurrent_simple_gla"
    options = {"reverse": reverse, "state_v_first": state_v_first}
    state = FlaState(function, initial_state, output_final_state, cu_seqlens, **options)
    return _simple_gla(function, q, k, v, (g, g_gamma), scale, rest, state)


def _simple_gla(
    function: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: tuple[Tensor | None, Tensor | None],
    scale: float | None,
    rest: dict[str, Any],
    state: FlaState,
) -> tuple[Tensor, State]:
    check_rest(function, rest)
    g, fixed = gates
    if g is not None and fixed is not None:
        g, fixed = g + fixed.to(g.dtype), None
    return attend(q, k, v, fixed if g is None else g, state, scale=scale)


def chunk_retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """S = (1 - 2^(-5 - h)) S + k v^T in head h; see fla's function of this name."""
    heads = torch.arange(q.shape[2], dtype=torch.float32, device=q.device)
    gamma = torch.log1p(-torch.exp2(-5 - heads))
    return chunk_simple_gla(q, k, v, None, gamma, scale, initial_state, output_final_state, False, cu_seqlens, **rest)


def fused_recurrent_retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    reverse: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """S = (1 - 2^(-5 - h)) S + k v^T in head h; see fla's function of this name."""
    gamma = torch.log1p(-torch.exp2(-5 - torch.arange(q.shape[2], dtype=torch.float32, device=q.device)))
    order = (scale, initial_state, output_final_state, reverse, state_v_first, cu_seqlens)
    return fused_recurrent_simple_gla(q, k, v, None, gamma, *order, **rest)


def chunk_lightning_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layer_idx: int,
    num_layers: int,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """S = e^(-(8 / H) (1 - layer_idx / num_layers) h) S + k v^T in head h; see fla's function of this name."""
    gamma = _lightning(q, layer_idx, num_layers)
    return chunk_simple_gla(q, k, v, None, gamma, scale, initial_state, output_final_state, False, cu_seqlens, **rest)


def fused_recurrent_lightning_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layer_idx: int,
    num_layers: int,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """S = e^(-(8 / H) (1 - layer_idx / num_layers) h) S + k v^T in head h; see fla's function of this name."""
    order = (scale, initial_state, output_final_state, reverse, False, cu_seqlens)
    return fused_recurrent_simple_gla(q, k, v, None, _lightning(q, layer_idx, num_layers), *order, **rest)


def _lightning(q: Tensor, layer_idx: int, num_layers: int) -> Tensor:
    heads = q.shape[2]
    return -(8 / heads * (1 - layer_idx / num_layers)) * torch.arange(heads, dtype=torch.float32, device=q.device)


def chunk_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """S = diag(e^g) S + k v^T with g (B, T, H, K): GLA and HGRN-2; see fla's function of this name."""
    check_rest("chunk_gla", rest)
    state = FlaState("chunk_gla", initial_state, output_final_state, cu_seqlens, state_v_first=state_v_first)
    return attend(q, k, v, g, state, scale=scale)


def fused_recurrent_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gk: Tensor | None = None,
    gv: Tensor | None = None,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    reverse: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """S = diag(e^gk) S + k v^T with gk (B, T, H, K); gv must be None; see fla's function of this name."""
    function = "fused_recurrent_gla"
    check_rest(function, {"gv": gv, **rest})
    options = {"reverse": reverse, "state_v_first": state_v_first}
    state = FlaState(function, initial_state, output_final_state, cu_seqlens, **options)
    return attend(q, k, v, gk, state, scale=scale)


def chunk_rwkv6(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """o = (S + diag(u) k v^T)^T r, then S = diag(e^w) S + k v^T; see fla's function of this name."""
    check_rest("chunk_rwkv6", rest)
    state = FlaState("chunk_rwkv6", initial_state, output_final_state, cu_seqlens)
    return attend(r, k, v, w, state, scale=scale, bonus=u)


def fused_recurrent_rwkv6(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """o = (S + diag(u) k v^T)^T r, then S = diag(e^w) S + k v^T; see fla's function of this name."""
    check_rest("fused_recurrent_rwkv6", rest)
    state = FlaState("fused_recurrent_rwkv6", initial_state, output_final_state, cu_seqlens, reverse=reverse)
    return attend(r, k, v, w, state, scale=scale, bonus=u)


def fused_recurrent_hgrn(
    x: Tensor,
    g: Tensor,
    initial_state: State = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """h = e^g h + x over (B, T, D); see fla's function of this name."""
    check_rest("fused_recurrent_hgrn", rest)
    wide = torch.promote_types(x.dtype, torch.float32)
    first = None if initial_state is None else initial_state.to(wide)
    h, last = linear_scan(g.to(wide).exp(), x.to(wide), first, cu_seqlens=cu_seqlens)
    return h.to(x.dtype), last if output_final_state else None


chunk_hgrn = fused_recurrent_hgrn
fused_chunk_linear_attn = chunk_linear_attn
