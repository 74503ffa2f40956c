"""Whole layers with a gated delta rule: one product for queries, keys, values and gates, without copies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .functions import Function, delta_rule
from .layers import Call, convolved, is_plain, masked, product, product_with, read_call


def delta_mixer(theirs: Function, of_cache: str) -> Function:
    """Return a replacement for forward of the layers of Qwen3-Next and Qwen3.5; the original runs unsupported calls."""

    def forward(self: Any, *args: Any, **options: Any) -> Tensor:
        call = read_call(self, of_cache, args, options)
        if call is None:
            out: Tensor = theirs(self, *args, **options)
            return out
        return _output(self, call)

    return forward


def _output(self: Any, call: Call) -> Tensor:
    x, cache = masked(call.x, call.mask), call.cache
    signals, z, b, a = _grouped(self, x) if hasattr(self, "in_proj_qkvz") else _apart(self, x)
    q, k, v = convolved(self, signals, call).split([self.key_dim, self.key_dim, self.value_dim], -1)
    q, k = (y.unflatten(-1, (-1, self.head_k_dim)) for y in (q, k))
    v = v.unflatten(-1, (-1, self.head_v_dim))
    g = -self.A_log.float().exp() * softplus(a.float() + self.dt_bias)
    o, last = delta_rule(q, k, v, g, b.sigmoid(), call.states.recurrent, use_norm=True)
    if cache is not None:
        cache.update_recurrent_state(last, self.layer_idx)
    return product(self.out_proj, self.norm(o, z).flatten(2))


def _apart(self: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Return, for Qwen3.5, q, k and v concatenated (B, T, D), the gate z (B, T, H, V), and b and a (B, T, H)."""
    z = product(self.in_proj_z, x).unflatten(-1, (-1, self.head_v_dim))
    return product(self.in_proj_qkv, x), z, self.in_proj_b(x), self.in_proj_a(x)


def _grouped(self: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Return the same for Qwen3-Next, whose projection has q, k, v and z of each key head next to each other.

    If there are fewer rows of weights than of outputs, the weights are sorted instead of the outputs.
    """
    layer, groups = self.in_proj_qkvz, self.num_k_heads
    widths = (self.head_k_dim, self.head_k_dim, *2 * [self.value_dim // groups])
    if is_plain(layer) and layer.bias is None and x.shape[0] * x.shape[1] > layer.in_features:
        parts = layer.weight.unflatten(0, (groups, -1)).split(widths, 1)
        weight = torch.cat([part.flatten(0, 1) for part in parts])
        signals, z = product_with(weight, x).split([2 * self.key_dim + self.value_dim, self.value_dim], -1)
    else:
        *parts, z = product(layer, x).unflatten(-1, (groups, -1)).split(widths, 3)
        signals, z = torch.cat([part.flatten(2) for part in parts], -1), z.flatten(2)
    shared = self.num_v_heads // groups
    b, a = product(self.in_proj_ba, x).unflatten(-1, (groups, 2 * shared)).split(shared, 3)
    return signals, z.unflatten(-1, (-1, self.head_v_dim)), b.flatten(2), a.flatten(2)
