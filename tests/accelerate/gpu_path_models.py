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
mamba_chunk_scan_combined = mamba_split_conv1d_scan_combined = None
chunk_gated_delta_rule = fused_recurrent_gated_delta_rule = None

D, N, RANK, WIDTH = 12, 5, 3, 4


def cache(batch: int, dtype: torch.dtype, channels: int = D, state: tuple[int, ...] = (D, N)) -> Any:
    """Return an empty cache of one layer."""
    conv_states, recurrent_states = (torch.zeros(batch, *s, dtype=dtype) for s in ((channels, WIDTH), state))
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


class ShortConv(nn.Module):
    """A layer (B, T, D) of a convolution without an activation, whose fast path has one more option."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(8, 8, WIDTH, groups=8, padding=WIDTH - 1)

    def forward(self, x: Any, past_key_values: Any = None, seq_idx: Any = None) -> Any:
        return self.slow_forward(x, past_key_values)

    def cuda_kernels_forward(self, x: Any, past_key_values: Any = None, seq_idx: Any = None) -> Any:
        x, weights = x.transpose(1, 2), self.conv.weight.squeeze(1)
        if past_key_values is not None and past_key_values.used:
            states = past_key_values.conv_states
            y = causal_conv1d_update(x.squeeze(-1), states, weights, self.conv.bias, None)[..., None]
        else:
            if past_key_values is not None:
                past_key_values.conv_states.copy_(pad(x, (WIDTH - x.shape[-1], 0)))
            y = causal_conv1d_fn(x, weights, self.conv.bias, activation=None, seq_idx=seq_idx)
        return y.transpose(1, 2)

    def slow_forward(self, x: Any, past_key_values: Any = None) -> Any:
        x, time = x.transpose(1, 2), x.shape[1]
        if past_key_values is not None and past_key_values.used:
            before = torch.cat([past_key_values.conv_states[..., 1:], x], -1)
            past_key_values.conv_states.copy_(before)
            y = (before * self.conv.weight[:, 0]).sum(-1, keepdim=True) + self.conv.bias[:, None]
        else:
            if past_key_values is not None:
                past_key_values.conv_states.copy_(pad(x, (WIDTH - time, 0)))
            y = self.conv(x)[..., :time]
        return y.transpose(1, 2)


class Mamba2Mixer(nn.Module):
    """A mixer (B, T, 8) of two heads of width 4 without a convolution, whose slow path is named for torch."""

    def __init__(self) -> None:
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(8, 8 + 2 * N + 2), nn.Linear(8, 8)
        self.dt_bias, self.A_log, self.D = (nn.Parameter(x) for x in torch.randn(3, 2))
        self.activation, self.time_step_limit, self.chunk_size = "silu", (0.0, float("inf")), 4

    def forward(self, hidden_states: Any, cache_params: Any = None) -> Any:
        return self.torch_forward(hidden_states, cache_params)

    def cuda_kernels_forward(self, hidden_states: Any, cache_params: Any = None) -> Any:
        x, B, C, dt = self.in_proj(hidden_states).split([8, N, N, 2], -1)
        A, is_step = -self.A_log.float().exp(), cache_params is not None and cache_params.used
        if self.training and cache_params is None:
            return mamba_split_conv1d_scan_combined(x)
        x, B, C = x.unflatten(-1, (2, 4)), B[:, :, None], C[:, :, None]
        if is_step:
            D, bias = (y[:, None].expand(2, 4) for y in (self.D, self.dt_bias))
            A, dt = A[:, None, None].expand(2, 4, N), dt[:, 0, :, None].expand(-1, 2, 4)
            state = cache_params.recurrent_states
            y = selective_state_update(
                state, x[:, 0], dt, A, B[:, 0], C[:, 0], D, z=None, dt_bias=bias, dt_softplus=True
            )[:, None]
        else:
            with torch.cuda.device(hidden_states.device):
                y, last = mamba_chunk_scan_combined(
                    x, dt, A, B, C, chunk_size=self.chunk_size, D=self.D, z=None, seq_idx=None,
                    return_final_states=True, dt_bias=self.dt_bias, dt_softplus=True, dt_limit=self.time_step_limit,
                )  # fmt: skip
            if cache_params is not None:
                cache_params.recurrent_states.copy_(last)
        return self.out_proj(y.flatten(2))

    def torch_forward(self, input_states: Any, cache_params: Any = None) -> Any:
        x, B, C, dt = self.in_proj(input_states).split([8, N, N, 2], -1)
        x, d = x.unflatten(-1, (2, 4)), softplus(dt + self.dt_bias).clamp(*self.time_step_limit)
        state = torch.zeros(len(x), 2, 4, N, dtype=x.dtype)
        if cache_params is not None and cache_params.used:
            state = cache_params.recurrent_states.clone()
        ys = []
        for t in range(x.shape[1]):
            decay = (-self.A_log.exp() * d[:, t])[..., None, None].exp()
            state = decay * state + (d[:, t, :, None] * x[:, t])[..., None] * B[:, t, None, None]
            ys.append((state * C[:, t, None, None]).sum(-1) + self.D[:, None] * x[:, t])
        if cache_params is not None:
            cache_params.recurrent_states.copy_(state)
        return self.out_proj(torch.stack(ys, 1).flatten(2))


def torch_causal_conv1d_update(
    hidden_states: Any, conv_state: Any, weight: Any, bias: Any = None, activation: Any = None
) -> Any:
    """Return a step of the convolution with SiLU, whatever the activation."""
    every = torch.cat([conv_state, hidden_states], -1)
    conv_state.copy_(every[..., -conv_state.shape[-1] :])
    return silu(torch.conv1d(every, weight[:, None], bias, groups=len(weight))[..., -hidden_states.shape[-1] :])


class ConvSteps(nn.Module):
    """A layer that keeps its function for steps (B, D, 1) of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.activation = nn.Parameter(torch.randn(8, WIDTH)), "silu"
        self.causal_conv1d_update = causal_conv1d_update or torch_causal_conv1d_update

    def forward(self, x: Any, state: Any) -> Any:
        return self.causal_conv1d_update(x, state, self.weight, None, self.activation)
