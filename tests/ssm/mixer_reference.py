"""Whole mixers step by step, from their equations, on tensors, for gradients by autograd."""

from __future__ import annotations

import math
from typing import Any

import torch


def sigmoid_gate(z: Any) -> Any:
    return z * torch.sigmoid(z)


def convolution(x: Any, weight: Any, bias: Any, labels: Any = None) -> Any:
    """SiLU of the convolution of x (B, T, D) with weight (D, W); only steps with the same label interact."""
    total = torch.zeros_like(x) if bias is None else bias.expand_as(x)
    width, time = weight.shape[-1], x.shape[1]
    for t in range(time):
        for j in range(width):
            s = t - width + 1 + j
            if s < 0:
                continue
            meet = torch.ones(x.shape[0]) if labels is None else (labels[:, s] == labels[:, t])
            term = torch.zeros_like(x)
            term[:, t] = weight[:, j] * x[:, s] * meet.to(x.dtype)[:, None]
            total = total + term
    return sigmoid_gate(total)


def norm(x: Any, weight: Any, z: Any, bias: Any, eps: float, groups: int, before: bool, centered: bool = False) -> Any:
    if z is not None and not before:
        x = x * sigmoid_gate(z)
    width, parts = x.shape[-1] // groups, []
    for group in range(groups):
        part = x[..., group * width : (group + 1) * width]
        part = part - part.sum(-1, keepdim=True) / width if centered else part
        parts.append(part / torch.sqrt((part * part).sum(-1, keepdim=True) / width + eps))
    y = torch.cat(parts, -1) * weight
    y = y if bias is None else y + bias
    return y * sigmoid_gate(z) if z is not None and before else y


def selective(x: Any, d: Any, A: Any, B: Any, C: Any) -> Any:
    """sum over states of C h with h = exp(d A) h + d B x; x, d (B, T, D), B and C (B, T, N).

    With a complex A, B and C are (B, T, 2 N), parts next to each other, and the sum is twice its real part.
    """
    if A.is_complex():
        B, C = (torch.view_as_complex(y.unflatten(-1, (-1, 2)).contiguous()) for y in (B, C))
    h, found = A.new_zeros(x.shape[0], *A.shape), []
    for t in range(x.shape[1]):
        h = torch.exp(d[:, t, :, None] * A) * h + (d[:, t] * x[:, t])[..., None] * B[:, t, None]
        y = (h * C[:, t, None]).sum(-1)
        found.append(2 * y.real if y.is_complex() else y)
    return torch.stack(found, 1)


def mamba_inner(
    xz: Any,
    conv1d_weight: Any,
    conv1d_bias: Any,
    x_proj_weight: Any,
    delta_proj_weight: Any,
    out_proj_weight: Any,
    out_proj_bias: Any,
    A: Any,
    **more: Any,
) -> Any:
    channels, states = A.shape[0], A.shape[1] * (2 if A.is_complex() else 1)
    rank, eps = delta_proj_weight.shape[1], more.get("b_c_dt_rms_eps", 1e-6)
    x = convolution(xz[:, :channels].transpose(1, 2), conv1d_weight[:, 0], conv1d_bias)
    parts, weights = x @ x_proj_weight.T, {}
    for name, part in (("B", parts[..., rank : rank + states]), ("C", parts[..., -states:])):
        weights[name] = part + more[f"{name}_proj_bias"]
        scale = more.get(f"{name.lower()}_rms_weight")
        if scale is not None:
            weights[name] = norm(weights[name], scale, None, None, eps, 1, True)
    delta = parts[..., :rank] @ delta_proj_weight.T
    if more.get("dt_rms_weight") is not None:
        delta = norm(delta, more["dt_rms_weight"], None, None, eps, 1, True)
    d = torch.log1p(torch.exp(delta + more["delta_bias"]))
    y = selective(x, d, A, weights["B"], weights["C"]) + more["D"] * x
    return (y * sigmoid_gate(xz[:, channels:].transpose(1, 2))) @ out_proj_weight.T + out_proj_bias


def scan(x: Any, d: Any, A: Any, B: Any, C: Any, first: Any, labels: Any) -> tuple[Any, Any]:
    """y and the last state of S = exp(d A) S + d x B^T; x (B, T, H, P), d (B, T, H), B and C (B, T, H, N)."""
    S, found, before = first, [], torch.zeros_like(labels[:, 0])
    for t in range(x.shape[1]):
        kept = (labels[:, t] == before).to(x.dtype)[:, None] * torch.exp(d[:, t] * A)
        before = labels[:, t]
        S = kept[..., None, None] * S + (d[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None]
        found.append((S * C[:, t, :, None]).sum(-1))
    return torch.stack(found, 1), S


def mamba2_inner(
    zxbcdt: Any,
    conv1d_weight: Any,
    conv1d_bias: Any,
    dt_bias: Any,
    A: Any,
    D: Any,
    *,
    headdim: int,
    ngroups: int,
    seq_idx: Any,
    state: Any,
    norm_before_gate: bool = True,
    rmsnorm_weight: Any = None,
    outproj_weight: Any = None,
    outproj_bias: Any = None,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    rmsnorm_eps: float = 1e-6,
) -> tuple[Any, Any]:
    heads = len(A)
    channels = heads * headdim
    states = (len(conv1d_weight) - channels) // 2 // ngroups
    mlp = (zxbcdt.shape[-1] - channels - len(conv1d_weight) - heads) // 2
    widths = [mlp, mlp, channels, len(conv1d_weight), heads]
    a, b, z, mixed, dt = zxbcdt.split(widths, -1)
    mixed = convolution(mixed, conv1d_weight, conv1d_bias, seq_idx)
    x, B, C = mixed.split([channels, ngroups * states, ngroups * states], -1)
    B, C = (y.unflatten(-1, (ngroups, states)).repeat_interleave(heads // ngroups, 2) for y in (B, C))
    x = x.unflatten(-1, (heads, headdim))
    d = torch.log1p(torch.exp(dt + dt_bias)).clamp(*dt_limit)
    y, last = scan(x, d, A, B, C, state, seq_idx)
    y = (y + (D if D.dim() == 2 else D[:, None]) * x).flatten(-2)
    if rmsnorm_weight is None:
        y = y * sigmoid_gate(z)
    else:
        y = norm(y, rmsnorm_weight, z, None, rmsnorm_eps, ngroups, norm_before_gate)
    y = torch.cat([sigmoid_gate(a) * b, y], -1)
    if outproj_weight is not None:
        y = y @ outproj_weight.T + outproj_bias
    return y, last
