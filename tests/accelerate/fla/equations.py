"""Layers of flash-linear-attention by their equations, step by step in torch, for gradients by autograd.

Each function takes a layer, of which it reads the weights and calls plain linear layers, and its input (B, T, D).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import linear, logsigmoid, pad, silu, softplus

from tests.ssm.mixer_reference import mamba2_inner, mamba_inner


def heads(x: Any, count: int) -> Any:
    return x.unflatten(-1, (count, -1))


def convolved(layer: Any, x: Any, activation: bool = True) -> Any:
    weight, width = layer.weight[:, 0], layer.kernel_size[0]
    before = pad(x, (0, 0, width - 1, 0))
    y = sum(before[:, j : j + x.shape[1]] * weight[:, j] for j in range(width))
    return silu(y) if activation else y


def unit(x: Any) -> Any:
    return x * torch.rsqrt(x.square().sum(-1, True) + 1e-6)


def rms(x: Any, norm: Any) -> Any:
    return x * torch.rsqrt(x.square().mean(-1, True) + norm.eps) * norm.weight


def states(k: Any, v: Any, decay: Any = None, correct: Any = None) -> list[Any]:
    """Return the states (B, H, K, V) before the first step and after each of S = decay S + k correct(S, v)^T.

    The decay is (B, T, H, 1) or (B, T, H, K); `correct` returns the value that is written at step t for a state and a
    value.
    """
    found = [k.new_zeros(k.shape[0], *k.shape[2:], v.shape[-1])]
    for t in range(k.shape[1]):
        state = found[-1] if decay is None else decay[:, t, ..., None] * found[-1]
        value = v[:, t] if correct is None else correct(t, state, v[:, t])
        found.append(state + k[:, t, ..., None] * value[..., None, :])
    return found


def read(found: list[Any], q: Any) -> Any:
    """Return S^T q at each step."""
    return torch.stack([torch.einsum("bhkv,bhk->bhv", S, q[:, t]) for t, S in enumerate(found[1:])], 1)


def attention(q: Any, k: Any, v: Any, decay: Any = None) -> Any:
    return read(states(k, v, decay), q * q.shape[-1] ** -0.5)


def delta_rule(q: Any, k: Any, v: Any, beta: Any, decay: Any = None) -> Any:
    def correct(t: int, state: Any, value: Any) -> Any:
        return beta[:, t, :, None] * (value - torch.einsum("bhkv,bhk->bhv", state, k[:, t]))

    return read(states(k, v, decay, correct), q * q.shape[-1] ** -0.5)


def projected(layer: Any, x: Any, names: str = "qkv", activation: bool = True) -> list[Any]:
    """Return projections by their letters, after their convolutions if there are any."""
    found = []
    for name in names:
        y = getattr(layer, f"{name}_proj")(x)
        conv = getattr(layer, f"{name}_conv1d", None)
        found.append(y if conv is None else convolved(conv, y, activation))
    return found


# ---- Attention ------------------------------------------------------------------------------------------------------


def linear_attention(layer: Any, x: Any) -> Any:
    q, k, v = (heads(y, layer.num_heads) for y in projected(layer, x))
    o = attention(layer.feature_map_q(q), layer.feature_map_k(k), v)
    return layer.o_proj(rms(o, layer.norm).flatten(2))


def gated_linear_attention(layer: Any, x: Any) -> Any:
    q, k, v = (heads(y, layer.num_heads) for y in projected(layer, x))
    decay = heads(torch.exp(logsigmoid(layer.gk_proj(x)) / layer.gate_logit_normalizer), layer.num_heads)
    o = attention(q, k, v, decay)
    gate = silu(layer.g_proj(x))
    norm = layer.g_norm_swish_gate if layer.fuse_norm_and_gate else layer.g_norm
    return layer.o_proj(rms(o, norm).flatten(2) * gate)


def retention(layer: Any, x: Any) -> Any:
    q, k, v = (heads(y, layer.num_heads) for y in projected(layer, x))
    width, time = q.shape[-1], x.shape[1]
    angles = torch.arange(time, dtype=x.dtype)[:, None] * 10000.0 ** (-torch.arange(0, width, 2).to(x.dtype) / width)
    turns = torch.polar(torch.ones_like(angles), angles)[:, None]
    q, k = (torch.complex(*y.chunk(2, -1)) * turns for y in (q, k))
    q, k = (torch.cat([y.real, y.imag], -1) for y in (q, k))
    decay = 1 - 2.0 ** (-5 - torch.arange(layer.num_heads).to(x.dtype))
    o = attention(q, k, v, decay[:, None].expand(*q.shape[:3], 1))
    return layer.o_proj(rms(o, layer.g_norm_swish_gate).flatten(2) * silu(layer.g_proj(x)))


def hgrn2(layer: Any, x: Any) -> Any:
    q, f, i = projected(layer, x, "qfi", activation=False)
    f = heads(torch.sigmoid(f), layer.num_heads)
    o = attention(heads(silu(q), layer.num_heads), 1 - f, heads(i, layer.num_heads), f).flatten(2)
    o = o * torch.rsqrt(o.square().mean(-1, True) + 1e-5) * layer.g_norm.weight
    return layer.o_proj(o)


def gated_slots(layer: Any, x: Any) -> Any:
    """Attention to slots, to which keys and values are written with the same weights."""
    q, k, v = (heads(y, layer.num_heads) for y in projected(layer, x))
    q, k = silu(q), silu(k)
    decay = heads(torch.exp(logsigmoid(layer.f_proj(x)) / layer.gate_logit_normalizer), layer.num_heads)
    keys, values = (states(1 - decay, y, decay)[1:] for y in (k, silu(v)))
    outputs = []
    for t, (K, V) in enumerate(zip(keys, values, strict=True)):
        share = (torch.einsum("bhmk,bhk->bhm", K, q[:, t]) * layer.scale).softmax(-1)
        outputs.append(torch.einsum("bhmv,bhm->bhv", V, share))
    o = silu(torch.stack(outputs, 1).flatten(2))
    return layer.o_proj(o * torch.rsqrt(o.square().mean(-1, True) + 1e-5) * layer.g_norm.weight)


def light_net(layer: Any, x: Any) -> Any:
    """The softmax of keys over past steps, channel by channel."""
    q, k, v = (heads(y, layer.num_heads) for y in projected(layer, x, activation=False))
    weights, outputs = torch.exp(k), []
    for t in range(1, x.shape[1] + 1):
        share = weights[:, :t] / weights[:, :t].sum(1, True)
        state = torch.einsum("bshk,bshv->bhkv", share, v[:, :t])
        outputs.append(torch.einsum("bhkv,bhk->bhv", state, silu(q[:, t - 1])) * q.shape[-1] ** -0.5)
    o = torch.stack(outputs, 1).flatten(2)
    o = o * torch.rsqrt(o.square().mean(-1, True) + 1e-6) * layer.g_norm.weight
    return layer.o_proj(o * silu(layer.g_proj(x)))


def hgrn(layer: Any, x: Any) -> Any:
    i, f = projected(layer, x, "if", activation=False)
    f = torch.sigmoid(f)
    i, h, found = silu(i) * (1 - f), 0, []
    for t in range(x.shape[1]):
        h = f[:, t] * h + i[:, t]
        found.append(h)
    return layer.o_proj(rms(torch.stack(found, 1), layer.g_norm) * silu(layer.g_proj(x)))


def weighted(layer: Any, x: Any, eps: float, weights: Any) -> Any:
    """Attention whose weights are positive products of queries and keys."""
    q, k, v = (heads(y, layer.num_heads).transpose(1, 2) for y in projected(layer, x))
    if hasattr(layer.feature_map, "gamma"):
        q, k = (y - y.mean(-1, True) for y in (q, k))
        q, k = (y * torch.rsqrt(y.square().mean(-1, True) + 1e-5) for y in (q, k))
        q, k = (y * layer.feature_map.gamma + layer.feature_map.beta for y in (q, k))
    w = weights(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).tril()
    return layer.o_proj((w @ v / (w.sum(-1, True) + eps)).transpose(1, 2).flatten(2))


def based(layer: Any, x: Any) -> Any:
    return weighted(layer, x, 1e-6, lambda s: 1 + s + s * s / 2)


def rebased(layer: Any, x: Any) -> Any:
    return weighted(layer, x, layer.eps, lambda s: s * s)


# ---- Delta rules ----------------------------------------------------------------------------------------------------


def gated_delta_net(layer: Any, x: Any) -> Any:
    q, k, v = projected(layer, x)
    groups = layer.num_v_heads // layer.num_heads
    q, k = (unit(heads(y, layer.num_heads)).repeat_interleave(groups, 2) for y in (q, k))
    decay = torch.exp(-layer.A_log.exp() * softplus(layer.a_proj(x) + layer.dt_bias))
    o = delta_rule(q, k, heads(v, layer.num_v_heads), layer.b_proj(x).sigmoid(), decay[..., None])
    return layer.o_proj(rms(o, layer.o_norm).flatten(2) * silu(layer.g_proj(x)))


def delta_net(layer: Any, x: Any) -> Any:
    q, k, v = (heads(y, layer.num_heads) for y in projected(layer, x))
    o = delta_rule(unit(q), unit(k), v, layer.b_proj(x).sigmoid())
    return layer.o_proj(rms(o, layer.o_norm).flatten(2) * silu(layer.g_proj(x)))


def gated_delta_product(layer: Any, x: Any) -> Any:
    """Several corrections per step: each is a step of a delta rule; the first decays the state and the last is read."""
    q, k, v = projected(layer, x)
    n, shape = layer.num_householder, (layer.num_householder, layer.num_heads, -1)
    k, v = (y.unflatten(-1, shape).flatten(1, 2) for y in (k, v))
    beta = (2 if layer.allow_neg_eigval else 1) * layer.b_proj(x).sigmoid().unflatten(-1, (n, -1)).flatten(1, 2)
    decay = torch.exp(-layer.A_log.exp() * softplus(layer.a_proj(x) + layer.dt_bias))
    decay = torch.cat([decay[:, :, None], torch.ones_like(decay)[:, :, None].expand(-1, -1, n - 1, -1)], 2)
    q = unit(heads(q, layer.num_heads)).repeat_interleave(n, 1)
    o = delta_rule(q, unit(k), v, beta, decay.flatten(1, 2)[..., None])[:, n - 1 :: n]
    return layer.o_proj(rms(o, layer.o_norm).flatten(2) * silu(layer.g_proj(x)))


def kimi_delta_attention(layer: Any, x: Any) -> Any:
    q, k, v = (heads(y, layer.num_heads) for y in projected(layer, x))
    g = heads(softplus(layer.f_proj(x) + layer.dt_bias), layer.num_heads)
    decay = torch.exp(-layer.A_log.exp()[:, None] * g)
    o = delta_rule(unit(q), unit(k), v, layer.b_proj(x).sigmoid(), decay)
    return layer.o_proj(rms(o, layer.o_norm).flatten(2) * layer.g_proj(x).sigmoid())


def comba(layer: Any, x: Any) -> Any:
    """Auxiliary keys read the state before it decays, and correct the queries."""
    q, k, v = (heads(y, layer.num_heads) for y in projected(layer, x))
    p = k * layer.decay.sigmoid()[:, None]
    q, k, p = unit(q - layer.D[:, None] * p), unit(k), unit(p)
    beta = layer.b_proj(x).sigmoid()
    decay = torch.exp(-layer.A_log.exp() * softplus(layer.a_proj(x) + layer.dt_bias))
    S, outputs = x.new_zeros(len(x), *k.shape[2:], v.shape[-1]), []
    for t in range(x.shape[1]):
        value = beta[:, t, :, None] * (v[:, t] - torch.einsum("bhkv,bhk->bhv", S, p[:, t]))
        S = decay[:, t, :, None, None] * S + k[:, t, ..., None] * value[..., None, :]
        outputs.append(torch.einsum("bhkv,bhk->bhv", S, q[:, t]) * q.shape[-1] ** -0.5)
    o = rms(torch.stack(outputs, 1), layer.o_norm).flatten(2)
    return layer.o_proj(o * layer.g_proj(x).sigmoid())


def gated_delta_net_2(layer: Any, x: Any) -> Any:
    """Gates for each channel of the keys, for erasing, and of the values, for writing."""
    q, k, v = projected(layer, x)
    q, k = (unit(heads(y, layer.num_heads)) for y in (q, k))
    g = heads(softplus(layer.f_proj(x) + layer.dt_bias), layer.num_heads)
    decay = torch.exp(-layer.A_log.exp()[:, None] * g)
    erased = heads(layer.b_proj(x).sigmoid(), layer.num_heads) * (2 if layer.allow_neg_eigval else 1)
    groups = layer.num_v_heads // layer.num_heads
    q, k, decay, erased = (y.repeat_interleave(groups, 2) for y in (q, k, decay, erased))
    written = heads(layer.w_proj(x).sigmoid() * v, layer.num_v_heads)

    def correct(t: int, state: Any, value: Any) -> Any:
        return value - torch.einsum("bhkv,bhk->bhv", state, erased[:, t] * k[:, t])

    o = read(states(k, written, decay, correct), q * q.shape[-1] ** -0.5)
    return layer.o_proj(rms(o, layer.o_norm).flatten(2) * layer.g_proj(x).sigmoid())


# ---- RWKV -----------------------------------------------------------------------------------------------------------


def group_norm(o: Any, norm: Any) -> Any:
    """Return o (B, T, H, V) with the norm of each head, side by side."""
    o = o - o.mean(-1, True)
    o = o * torch.rsqrt(o.square().mean(-1, True) + norm.eps)
    return o.flatten(2) * norm.weight + norm.bias


def rwkv6(layer: Any, x: Any) -> Any:
    delta, rank = pad(x, (0, 0, 1, 0))[:, :-1] - x, layer.proj_low_rank_dim
    first = layer.x_proj[0]
    low = torch.tanh(linear(x + delta * first.mu, first.linear.weight)).unflatten(-1, (5, rank))
    up = layer.x_proj[2].weight.view(x.shape[-1], 5, rank)
    mixtures = torch.einsum("btnr,hnr->btnh", low, up) + layer.x_bias
    r, w, k, v, g = (
        getattr(layer, f"{name}_proj").linear(x + delta * mixtures[:, :, n]) for n, name in enumerate("rwkvg")
    )
    r, w, k, v = (heads(y, layer.num_heads) for y in (r, w, k, v))
    found = states(k, v, torch.exp(-torch.exp(w)))
    bonus = (r * layer.bonus * k).sum(-1, True) * v
    o = read([found[0], *found[:-1]], r) + bonus  # the bonus uses the state before each step
    return layer.o_proj(group_norm(o, layer.g_norm) * silu(g))


def rwkv7(layer: Any, x: Any, v_first: Any) -> Any:
    delta = pad(x, (0, 0, 1, 0))[:, :-1] - x
    xr, xw, xk, xv, xa, xg = (x + delta * getattr(layer, f"x_{name}") for name in "rwkvag")
    decay = torch.exp(-(torch.exp(torch.tensor(-0.5).to(x))) * layer.w_lora(xw).sigmoid())
    r, k, v, a = layer.r_proj(xr), layer.k_proj(xk), layer.v_proj(xv), layer.a_lora(xa).sigmoid()
    v = v + (v_first - v) * layer.v_lora(xv).sigmoid()
    kk = heads(k * layer.k_k, layer.num_heads)
    kk = kk / kk.norm(dim=-1, keepdim=True)
    k = k * (1 + (a - 1) * layer.k_a)
    r, decay, k, v, a = (heads(y, layer.num_heads) for y in (r, decay, k, v, a))
    state, outputs = x.new_zeros(x.shape[0], *k.shape[2:], v.shape[-1]), []
    for t in range(x.shape[1]):
        removed = torch.einsum("bhkv,bhk->bhv", state, kk[:, t])
        state = decay[:, t, ..., None] * state - (kk * a)[:, t, ..., None] * removed[..., None, :]
        state = state + k[:, t, ..., None] * v[:, t, ..., None, :]
        outputs.append(torch.einsum("bhkv,bhk->bhv", state, r[:, t]))
    o = group_norm(torch.stack(outputs, 1), layer.g_norm)
    bonus = (r * k * layer.r_k).sum(-1, True) * v
    return layer.o_proj((o + bonus.flatten(2)) * layer.g_lora(xg))


# ---- Mamba ----------------------------------------------------------------------------------------------------------


def mamba(layer: Any, x: Any) -> Any:
    weights = layer.conv1d.weight, layer.conv1d.bias, layer.x_proj.weight, layer.dt_proj.weight, layer.out_proj.weight
    biases = {"B_proj_bias": 0, "C_proj_bias": 0, "D": layer.D, "delta_bias": layer.dt_proj.bias}
    return mamba_inner(layer.in_proj(x).transpose(1, 2), *weights, 0, -layer.A_log.exp(), **biases)


def mamba2(layer: Any, x: Any) -> Any:
    shape = len(x), layer.num_heads, layer.head_dim, layer.ssm_state_size
    how = {"headdim": layer.head_dim, "ngroups": layer.n_groups, "seq_idx": torch.zeros(x.shape[:2])}
    how |= {"state": x.new_zeros(shape), "norm_before_gate": False, "dt_limit": layer.dt_limit}
    how |= {"rmsnorm_weight": layer.norm.weight, "rmsnorm_eps": layer.norm.eps, "outproj_bias": 0}
    weights = layer.conv1d.weight[:, 0], layer.conv1d.bias, layer.dt_bias, -layer.A_log.exp(), layer.D
    return mamba2_inner(layer.in_proj(x), *weights, **how, outproj_weight=layer.out_proj.weight)[0]
