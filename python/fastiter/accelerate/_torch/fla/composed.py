"""Recurrences of fla that reduce to others with transformed arguments: delta rules, normalised keys, and slots."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....ssm._torch.compat import fla_attention, fla_low_rank
from ....ssm._torch.compat.fla_common import check_off, check_rest
from ....ssm._torch.ops import computed
from .parts import l2_norm

Result = tuple[Tensor, Tensor | None]


def chunk_comba(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    p: Tensor,
    g: Tensor,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> Result:
    """S = e^g S + k (beta (v - S^T p))^T, o = S^T q, where S^T p reads the state before the decay."""
    check_rest("chunk_comba", rest)
    if use_qk_l2norm_in_kernel:
        q, k, p = (l2_norm(x) for x in (q, k, p))
    if beta is not None and beta.dim() != 3:
        raise ValueError(f"chunk_comba: beta must have shape (B, T, heads) on a CPU, got {tuple(beta.shape)}")
    groups = v.shape[2] // k.shape[2]
    if groups > 1:
        q, k, p = (x.repeat_interleave(groups, 2) for x in (q, k, p))
    written = k if beta is None else k * beta[..., None].to(k.dtype)
    options: dict[str, Any] = {"scale": scale, "initial_state": initial_state, "cu_seqlens": cu_seqlens}
    decay = g[..., None].expand(*g.shape, k.shape[-1])
    inputs = (q, written, v, -p, written, decay)
    return fla_low_rank.chunk_dplr_delta_rule(*inputs, output_final_state=output_final_state, **options)


def fused_recurrent_comba(q: Tensor, k: Tensor, p: Tensor, v: Tensor, g: Tensor, *rest: Any, **options: Any) -> Result:
    """Call chunk_comba, whose arguments have another order."""
    return chunk_comba(q, k, v, p, g, *rest, **options)


def chunk_gdn2(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    b: Tensor,
    w: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> Result:
    """R = diag(e^g) S, S = R + k (w v - R^T (b k))^T, o = S^T q."""
    check_off("chunk_gdn2", **{name: rest.pop(name, False) for name in ("use_gate_in_kernel", "state_v_first")})
    check_rest("chunk_gdn2", rest)
    if use_qk_l2norm_in_kernel:
        q, k = l2_norm(q), l2_norm(k)
    read = -(b * k * g.exp()).to(k.dtype)  # before the decay
    options: dict[str, Any] = {"scale": scale, "initial_state": initial_state, "cu_seqlens": cu_seqlens}
    return fla_low_rank.chunk_dplr_delta_rule(
        q, k, (w * v).to(v.dtype), read, k, g, output_final_state=output_final_state, **options
    )


def fused_recurrent_gdn2(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    b: Tensor,
    w: Tensor,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    *rest: Any,
    **options: Any,
) -> Result:
    """Call chunk_gdn2; A_log and dt_bias would be read only with gates in the kernel."""
    return chunk_gdn2(q, k, v, g, b, w, *rest, **options)


def _gates(x: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return e^(x - z), the logarithms of the decays, and the last z, where e^z is the cumulative sum of e^x.

    z starts from `first` (N, 1, H, K); if that is None, the first decay is 1.
    """
    if not x.shape[1]:
        return x, x, x.new_full((len(x), 1, *x.shape[2:]), -torch.inf) if first is None else first
    if first is None:
        z = x.logcumsumexp(1)
        before = torch.cat([z[:, :1], z[:, :-1]], 1)
    else:
        both = torch.cat([first, x], 1).logcumsumexp(1)
        z = both[:, 1:]
        before = torch.where(both[:, :-1].isinf(), z, both[:, :-1])
    return (x - z).exp(), before - z, z[:, -1:]


def _packed_gates(x: Tensor, first: Tensor | None, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same for packed sequences, if cu_seqlens is given."""
    if cu_seqlens is None:
        return _gates(x, first)
    parts = x.split(cu_seqlens.diff().tolist(), 1)
    starts = [None] * len(parts) if first is None else first.split(1)
    keys, decays, last = zip(*(_gates(part, start) for part, start in zip(parts, starts, strict=True)), strict=True)
    return torch.cat(keys, 1), torch.cat(decays, 1), torch.cat(last)


def chunk_lightnet(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: tuple[Tensor | None, Tensor | None] | None = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor | None, Tensor]]:
    """Return linear attention with keys e^k divided by their cumulative sums, its state, and the sums' logarithms."""
    state, sums = (None, None) if initial_state is None else initial_state
    x = k.to(computed(k.dtype))
    first = None if sums is None else sums.to(x.dtype)
    keys, decay, last = _packed_gates(x, first, cu_seqlens)
    options: dict[str, Any] = {"scale": scale, "initial_state": state, "state_v_first": state_v_first}
    options |= {"output_final_state": output_final_state, "cu_seqlens": cu_seqlens}
    o, after = fla_attention.chunk_gla(q, keys.to(k.dtype), v, decay.to(k.dtype), **options)
    return o, (after, last)


def chunk_gsa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    s: Tensor,
    g: Tensor | None = None,
    scale: float | None = None,
    initial_state: tuple[Tensor | None, Tensor | None] | None = None,
    output_final_state: bool = False,
    *,
    cu_seqlens: Tensor | None = None,
    checkpoint_level: int = 2,
    reverse: bool = False,
    **rest: Any,
) -> tuple[Tensor, list[Tensor | None]]:
    """Return attention to slots, which accumulate keys and values with weights s and decays e^g, and their states.

    For a head's keys, its slots act as value heads of width 1 with their own decays; for its values, they act as keys.
    """
    check_off("fused_recurrent_gsa", reverse=reverse)
    check_rest("chunk_gsa", rest)
    if g is None:
        weights, decay, _ = _packed_gates(s.to(computed(s.dtype)), None, cu_seqlens)
        s, g = weights.to(k.dtype), decay.to(k.dtype)
    first, second = (None, None) if initial_state is None else initial_state
    groups, slots = q.shape[2] // k.shape[2], s.shape[-1]
    if groups > 1:
        k, v, s, g = (x.repeat_interleave(groups, 2) for x in (k, v, s, g))
        first, second = (None if x is None else x.repeat_interleave(groups, 1) for x in (first, second))
    options: dict[str, Any] = {"output_final_state": output_final_state, "cu_seqlens": cu_seqlens}
    own = None if first is None else first.transpose(2, 3).flatten(1, 2)[..., None]
    scores, keys = fla_attention.chunk_simple_gla(
        q, k, s.flatten(2)[..., None], g.flatten(2), scale=scale, initial_state=own, **options
    )
    weights = scores.squeeze(-1).unflatten(2, (-1, slots)).to(computed(q.dtype)).softmax(-1).to(q.dtype)
    o, values = fla_attention.chunk_gla(weights, s, v, g, scale=1.0, initial_state=second, **options)
    if keys is None or values is None:
        return o, [None, None]
    keys = keys.squeeze(-1).unflatten(1, (-1, slots)).transpose(2, 3)
    return o, [x[:, ::groups].contiguous() for x in (keys, values)]
