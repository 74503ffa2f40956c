"""Linear attention, its gated forms and RWKV-6 with the signatures of flash-linear-attention (fla)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ....scan._torch.functional import linear_scan
from ..attention import linear_attention
from ..ops import computed
from .common import check_part
from .fla_common import FlaState, attend, check_rest, checked

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
    if isinstance(initial, tuple) and not normalize:
        raise TypeError(f"{state.function}: initial_state must be a tensor where normalize is False, got a tuple")
    factor = checked(state, q, k, v, scale, {})
    matrix, vector = initial if isinstance(initial, tuple) else (initial, None)
    if matrix is None and vector is not None:
        raise ValueError(f"{state.function}: initial_state must have both its parts where normalize is True, got one")
    first = matrix
    if matrix is not None:
        sequences = q.shape[0] if state.cu_seqlens is None else state.cu_seqlens.shape[0] - 1
        shape = (sequences, v.shape[2], q.shape[3], v.shape[3])
        check_part(state.function, "initial_state", matrix, shape, q)
        first = _joined(state.function, matrix, vector) if normalize else matrix
    if normalize:  # the sum of the keys is one more column of the state, whose values are 1
        v = torch.cat([v, v.new_ones(*v.shape[:3], 1)], -1)
    q_in, k_in, v_in = (state.in_order(x) for x in (q, k, v))
    o, last = linear_attention(q_in, k_in, v_in, scale=factor, initial_state=first, cu_seqlens=state.cu_seqlens)
    o = state.in_order(o)
    wanted = state.last(last)
    if not normalize:
        return o.to(q.dtype), wanted
    o = o[..., :-1] / (o[..., -1:] + 1e-10)
    split = None if wanted is None else (wanted[..., :-1], wanted[..., -1][:, None])
    return o.to(q.dtype), split


def _joined(function: str, matrix: Tensor, vector: Tensor | None) -> Tensor:
    """Return a state (N, H, K, V) and a sum of keys (N, 1, H, K) as one (N, H, K, V + 1)."""
    shape = matrix.shape[:3]
    if vector is None:
        return torch.cat([matrix, matrix.new_zeros(*shape, 1)], -1)
    expected = (shape[0], 1, *shape[1:])
    if not isinstance(vector, Tensor) or vector.shape != expected:
        got = tuple(vector.shape) if isinstance(vector, Tensor) else type(vector).__qualname__
        raise ValueError(f"{function}: initial_state must have a second part of shape {expected}, got {got}")
    return torch.cat([matrix, vector.reshape(*shape, 1).to(matrix.dtype)], -1)


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
    options: dict[str, Any] = {"reverse": reverse, "state_v_first": state_v_first}
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
    factor = checked(state, q, k, v, scale, {}, {"g": (g, "BTN"), "g_gamma": (fixed, "N")})
    if g is not None and fixed is not None:
        g, fixed = g + fixed.to(g.dtype), None
    return attend(q, k, v, fixed if g is None else g, state, scale=factor)


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
    state = FlaState("chunk_retention", initial_state, output_final_state, cu_seqlens)
    return _fixed(q, k, v, _retention, scale, rest, state)


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
    options: dict[str, Any] = {"reverse": reverse, "state_v_first": state_v_first}
    state = FlaState("fused_recurrent_retention", initial_state, output_final_state, cu_seqlens, **options)
    return _fixed(q, k, v, _retention, scale, rest, state)


def _retention(heads: Tensor) -> Tensor:
    return torch.log1p(-torch.exp2(-5 - heads))


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
    state = FlaState("chunk_lightning_attn", initial_state, output_final_state, cu_seqlens)
    return _fixed(q, k, v, _lightning(state.function, layer_idx, num_layers), scale, rest, state)


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
    state = FlaState("fused_recurrent_lightning_attn", initial_state, output_final_state, cu_seqlens, reverse=reverse)
    return _fixed(q, k, v, _lightning(state.function, layer_idx, num_layers), scale, rest, state)


def _lightning(function: str, layer_idx: int, num_layers: int) -> Callable[[Tensor], Tensor]:
    if not num_layers:
        raise ValueError(f"{function}: num_layers must not be 0, got {num_layers!r}")

    def decay(heads: Tensor) -> Tensor:
        return -(8 / heads.numel() * (1 - layer_idx / num_layers)) * heads

    return decay


def _fixed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Callable[[Tensor], Tensor],
    scale: float | None,
    rest: dict[str, Any],
    state: FlaState,
) -> tuple[Tensor, State]:
    """Return (o, final state or None) with a logarithm of the decay of each head, a function of its number."""
    check_rest(state.function, rest)
    factor = checked(state, q, k, v, scale, {})
    heads = torch.arange(v.shape[2], dtype=torch.float32, device=q.device)
    return attend(q, k, v, decay(heads).to(computed(q.dtype)), state, scale=factor)


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
    factor = checked(state, q, k, v, scale, {"g": (g, "BTNK")})
    return attend(q, k, v, g, state, scale=factor)


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
    options: dict[str, Any] = {"reverse": reverse, "state_v_first": state_v_first}
    state = FlaState(function, initial_state, output_final_state, cu_seqlens, **options)
    factor = checked(state, q, k, v, scale, {}, {"gk": (gk, "BTNK")})
    return attend(q, k, v, gk, state, scale=factor)


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
    state = FlaState("chunk_rwkv6", initial_state, output_final_state, cu_seqlens, query="r")
    return _rwkv6(r, k, v, w, u, scale, state)


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
    options: dict[str, Any] = {"reverse": reverse, "query": "r"}
    state = FlaState("fused_recurrent_rwkv6", initial_state, output_final_state, cu_seqlens, **options)
    return _rwkv6(r, k, v, w, u, scale, state)


def _rwkv6(
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, scale: float | None, state: FlaState
) -> tuple[Tensor, State]:
    factor = checked(state, r, k, v, scale, {"w": (w, "BTNK"), "u": (u, "NK")})
    return attend(r, k, v, w, state, scale=factor, bonus=u)


def fused_recurrent_hgrn(
    x: Tensor,
    g: Tensor,
    initial_state: State = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """h = e^g h + x over (B, T, D); see fla's function of this name."""
    function = "fused_recurrent_hgrn"
    check_rest(function, rest)
    state = FlaState(function, initial_state, output_final_state, cu_seqlens)
    if not isinstance(x, Tensor) or x.dim() != 3:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__qualname__
        raise ValueError(f"{function}: x must have shape (B, T, D), got {got}")
    sequences = state.check_cut(x, "x")
    check_part(function, "x", x, tuple(x.shape), x, "x")
    check_part(function, "g", g, tuple(x.shape), x, "x")
    if initial_state is not None:
        check_part(function, "initial_state", initial_state, (sequences, x.shape[2]), x, "x")
    wide = torch.promote_types(x.dtype, torch.float32)
    first = None if initial_state is None else initial_state.to(wide)
    h, last = linear_scan(g.to(wide).exp(), x.to(wide), first, cu_seqlens=state.cu_seqlens)
    return h.to(x.dtype), last if output_final_state else None


chunk_hgrn = fused_recurrent_hgrn
fused_chunk_linear_attn = chunk_linear_attn
