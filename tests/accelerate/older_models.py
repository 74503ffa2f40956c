"""Layers with the shape of transformers' before 5.15: two paths of a Mamba mixer, functions as attributes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad, silu, softplus
from transformers.models.qwen3_next.modeling_qwen3_next import (
    torch_chunk_gated_delta_rule,
    torch_recurrent_gated_delta_rule,
)

#: Bound to functions of GPU packages where these are installed
causal_conv1d_fn = causal_conv1d_update = selective_scan_fn = selective_state_update = mamba_inner_fn = None
chunk_gated_delta_rule = fused_recurrent_gated_delta_rule = None

D, N, RANK, WIDTH = 12, 5, 3, 4


def cache(batch: int, dtype: torch.dtype) -> Any:
    """Return an empty cache of one layer."""
    conv_states, recurrent_states = torch.zeros(batch, D, WIDTH, dtype=dtype), torch.zeros(batch, D, N, dtype=dtype)
    return SimpleNamespace(conv_states=conv_states, recurrent_states=recurrent_states, used=False)


class MambaMixer(nn.Module):
    """A mixer (B, T, 8) whose forward takes the slow path on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(8, 2 * D, bias=False), nn.Linear(D, 8, bias=False)
        self.conv1d = nn.Conv1d(D, D, WIDTH, groups=D, padding=WIDTH - 1)
        self.x_proj, self.dt_proj = nn.Linear(D, RANK + 2 * N, bias=False), nn.Linear(RANK, D)
        self.A_log = nn.Parameter(torch.arange(1.0, N + 1).log().expand(D, N).clone())
        self.D = nn.Parameter(torch.randn(D))
        self.activation = "silu"

    def forward(self, hidden_states: Any, cache_params: Any = None, attention_mask: Any = None) -> Any:
        if selective_scan_fn is not None and "cuda" in self.x_proj.weight.device.type:
            return self.cuda_kernels_forward(hidden_states, cache_params, attention_mask)
        return self.slow_forward(hidden_states, cache_params, attention_mask)

    def cuda_kernels_forward(self, hidden_states: Any, cache_params: Any = None, attention_mask: Any = None) -> Any:
        projected = self.in_proj(hidden_states).transpose(1, 2)
        if self.training and cache_params is None:
            return mamba_inner_fn(projected, self.conv1d.weight)
        x, gate = projected.chunk(2, 1)
        if attention_mask is not None:
            x = x * attention_mask[:, None]
        weights, is_step = self.conv1d.weight.squeeze(1), cache_params is not None and cache_params.used
        if is_step:
            conv_states = cache_params.conv_states
            x = causal_conv1d_update(x.squeeze(-1), conv_states, weights, self.conv1d.bias, self.activation)[..., None]
        else:
            if cache_params is not None:
                cache_params.conv_states.copy_(pad(x, (WIDTH - x.shape[-1], 0)))
            x = causal_conv1d_fn(x, weights, self.conv1d.bias, activation=self.activation)
        dt, B, C = self.x_proj(x.transpose(1, 2)).split([RANK, N, N], -1)
        dt, A = self.dt_proj.weight @ dt.transpose(1, 2), -self.A_log.float().exp()
        bias = self.dt_proj.bias.float()
        if is_step:
            steps = x[..., 0], dt[..., 0], A, B[:, 0], C[:, 0], self.D, gate[..., 0], bias
            y = selective_state_update(cache_params.recurrent_states, *steps, dt_softplus=True)[..., None]
        else:
            projections, how = (B.transpose(1, 2), C.transpose(1, 2)), {"delta_softplus": True}
            y, last = selective_scan_fn(
                x, dt, A, *projections, self.D.float(), gate, bias, return_last_state=True, **how
            )  # fmt: skip
            if cache_params is not None:
                cache_params.recurrent_states.copy_(last)
        return self.out_proj(y.transpose(1, 2))

    def slow_forward(self, input_states: Any, cache_params: Any = None, attention_mask: Any = None) -> Any:
        x, gate = self.in_proj(input_states).transpose(1, 2).chunk(2, 1)
        time = x.shape[-1]
        if attention_mask is not None:
            x = x * attention_mask[:, None]
        state = torch.zeros(len(x), D, N, dtype=x.dtype)
        if cache_params is not None and cache_params.used:
            state = cache_params.recurrent_states.clone()
            before = torch.cat([cache_params.conv_states[..., 1:], x], -1)
            cache_params.conv_states.copy_(before)
            x = silu((before * self.conv1d.weight[:, 0]).sum(-1, keepdim=True) + self.conv1d.bias[:, None])
        else:
            if cache_params is not None:
                cache_params.conv_states.copy_(pad(x, (WIDTH - time, 0)))
            x = silu(self.conv1d(x)[..., :time])
        dt, B, C = self.x_proj(x.transpose(1, 2)).split([RANK, N, N], -1)
        dt, A = softplus(self.dt_proj(dt)).transpose(1, 2), -self.A_log.exp()
        ys = []
        for t in range(time):
            state = (A * dt[..., t, None]).exp() * state + dt[..., t, None] * B[:, t, None] * x[..., t, None]
            ys.append((state * C[:, t, None]).sum(-1))
        if cache_params is not None:
            cache_params.recurrent_states.copy_(state)
        return self.out_proj(((torch.stack(ys, -1) + self.D[:, None] * x) * silu(gate)).transpose(1, 2))


class GatedDeltaNet(nn.Module):
    """A layer (B, T, 8) that keeps its functions as attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.projection, self.gates = nn.Linear(8, 3 * 8, bias=False), nn.Linear(8, 2 * 2)
        self.chunk_gated_delta_rule = chunk_gated_delta_rule or torch_chunk_gated_delta_rule
        self.recurrent_gated_delta_rule = fused_recurrent_gated_delta_rule or torch_recurrent_gated_delta_rule

    def forward(self, hidden_states: Any, state: Any = None) -> Any:
        q, k, v = (x.unflatten(-1, (2, 4)) for x in self.projection(hidden_states).chunk(3, -1))
        g, beta = self.gates(hidden_states).chunk(2, -1)
        rule = self.recurrent_gated_delta_rule if q.shape[1] == 1 else self.chunk_gated_delta_rule
        how = {"initial_state": state, "output_final_state": True, "use_qk_l2norm_in_kernel": True}
        return rule(q, k, v, g=-softplus(g), beta=beta.sigmoid(), **how)
