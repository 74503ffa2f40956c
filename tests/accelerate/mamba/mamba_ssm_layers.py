"""Layers with the names, signatures and calls of those of mamba_ssm 2.3, which can only be built with a GPU.

A test loads this file as the package mamba_ssm. As there, functions of mamba_ssm and causal_conv1d run only on GPUs.
"""

from __future__ import annotations

import math
from collections import namedtuple
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear, pad, silu, softplus

from tests.accelerate.mamba.mamba_ssm_functions import (
    causal_conv1d_fn,
    causal_conv1d_update,
    causal_conv1d_varlen_states,
    layer_norm_fn,
    mamba_chunk_scan_combined,
    mamba_inner_fn,
    mamba_split_conv1d_scan_combined,
    rms_norm_fn,
    rmsnorm_fn,
    selective_scan_fn,
    selective_state_update,
)

_NO_LIMITS = (0.0, math.inf)


# ---- Norms ----------------------------------------------------------------------------------------------------------


class RMSNorm(nn.Module):
    def __init__(self, hidden_size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps, self.drop = eps, None
        self.weight = nn.Parameter(torch.rand(hidden_size))
        self.register_parameter("bias", None)

    def forward(self, x: Any, residual: Any = None, prenorm: bool = False, residual_in_fp32: bool = False) -> Any:
        how = {"eps": self.eps, "prenorm": prenorm, "residual_in_fp32": residual_in_fp32}
        return rms_norm_fn(x, self.weight, self.bias, residual=residual, **how)


class RMSNormGated(nn.Module):
    """The class RMSNorm of layernorm_gated."""

    def __init__(
        self, hidden_size: int, eps: float = 1e-5, group_size: Any = None, norm_before_gate: bool = True
    ) -> None:
        super().__init__()
        self.eps, self.group_size, self.norm_before_gate = eps, group_size, norm_before_gate
        self.weight = nn.Parameter(torch.rand(hidden_size))
        self.register_parameter("bias", None)

    def forward(self, x: Any, z: Any = None) -> Any:
        how = {"eps": self.eps, "group_size": self.group_size, "norm_before_gate": self.norm_before_gate}
        return rmsnorm_fn(x, self.weight, self.bias, z=z, **how)


# ---- Mixers ---------------------------------------------------------------------------------------------------------


class _Cached(nn.Module):
    """The states of a mixer, by its index in the model."""

    layer_idx: Any

    def _get_states_from_cache(self, inference_params: Any, batch_size: int) -> Any:
        states = inference_params.key_value_memory_dict
        if self.layer_idx not in states:
            states[self.layer_idx] = self.allocate_inference_cache(batch_size, 0)
        return states[self.layer_idx]


class Mamba(_Cached):
    def __init__(self, d_model: int, d_state: int = 16, d_conv: int = 4, layer_idx: Any = None) -> None:
        super().__init__()
        self.d_state, self.d_conv, self.d_inner, self.dt_rank = d_state, d_conv, 2 * d_model, 3
        self.use_fast_path, self.layer_idx, self.activation = True, layer_idx, "silu"
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv1d = nn.Conv1d(self.d_inner, self.d_inner, d_conv, groups=self.d_inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(self.d_inner, 1))
        self.D = nn.Parameter(torch.randn(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)

    def forward(self, hidden_states: Any, inference_params: Any = None) -> Any:
        batch, seqlen, _ = hidden_states.shape
        conv_state, ssm_state = None, None
        if inference_params is not None:
            conv_state, ssm_state = self._get_states_from_cache(inference_params, batch)
            if inference_params.seqlen_offset > 0:
                return self.step(hidden_states, conv_state, ssm_state)[0]
        xz = (self.in_proj.weight @ hidden_states.flatten(0, 1).T).unflatten(1, (batch, seqlen)).transpose(0, 1)
        A = -torch.exp(self.A_log.float())
        weight = self.conv1d.weight
        if self.use_fast_path and causal_conv1d_fn is not None and inference_params is None:
            projections = self.x_proj.weight, self.dt_proj.weight, self.out_proj.weight, self.out_proj.bias
            biases = {"delta_bias": self.dt_proj.bias.float(), "delta_softplus": True}
            return mamba_inner_fn(
                xz, weight, self.conv1d.bias, *projections, A, None, None, self.D.float(), **biases
            )  # fmt: skip
        x, z = xz.chunk(2, dim=1)
        if conv_state is not None:
            conv_state.copy_(pad(x, (self.d_conv - x.shape[-1], 0)))
        if causal_conv1d_fn is None:
            x = silu(self.conv1d(x)[..., :seqlen])
        else:
            x = causal_conv1d_fn(x=x, weight=weight[:, 0], bias=self.conv1d.bias, activation=self.activation)
        dt, B, C = self.x_proj(x.transpose(1, 2)).split([self.dt_rank, self.d_state, self.d_state], -1)
        dt, B, C = (y.transpose(1, 2) for y in (dt @ self.dt_proj.weight.T, B, C))
        how = {"z": z, "delta_bias": self.dt_proj.bias.float(), "delta_softplus": True}
        y = selective_scan_fn(x, dt, A, B, C, self.D.float(), **how, return_last_state=ssm_state is not None)
        if ssm_state is not None:
            y, last_state = y
            ssm_state.copy_(last_state)
        return self.out_proj(y.transpose(1, 2))

    def step(self, hidden_states: Any, conv_state: Any, ssm_state: Any) -> Any:
        x, z = self.in_proj(hidden_states.squeeze(1)).chunk(2, dim=-1)
        weight = self.conv1d.weight[:, 0]
        if causal_conv1d_update is None:
            conv_state.copy_(torch.roll(conv_state, shifts=-1, dims=-1))
            conv_state[:, :, -1] = x
            x = silu((conv_state * weight).sum(-1) + self.conv1d.bias)
        else:
            x = causal_conv1d_update(x, conv_state, weight, self.conv1d.bias, self.activation)
        dt, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        dt, A = linear(dt, self.dt_proj.weight), -torch.exp(self.A_log.float())
        how = {"z": z, "dt_bias": self.dt_proj.bias, "dt_softplus": True}
        y = selective_state_update(ssm_state, x, dt, A, B, C, self.D, **how)
        return self.out_proj(y).unsqueeze(1), conv_state, ssm_state

    def allocate_inference_cache(self, batch_size: int, max_seqlen: int, dtype: Any = None) -> Any:
        make = self.out_proj.weight.new_zeros
        return make(batch_size, self.d_inner, self.d_conv), make(batch_size, self.d_inner, self.d_state)


class Mamba2(_Cached):
    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        headdim: int = 64,
        d_ssm: Any = None,
        ngroups: int = 1,
        D_has_hdim: bool = False,
        rmsnorm: bool = True,
        dt_limit: Any = _NO_LIMITS,
        chunk_size: int = 256,
        use_mem_eff_path: bool = True,
        layer_idx: Any = None,
    ) -> None:
        super().__init__()
        inner = 2 * d_model
        self.d_state, self.d_conv, self.headdim, self.ngroups = d_state, d_conv, headdim, ngroups
        self.d_ssm = inner if d_ssm is None else d_ssm
        self.nheads, self.D_has_hdim, self.rmsnorm = self.d_ssm // headdim, D_has_hdim, rmsnorm
        self.dt_limit, self.chunk_size, self.use_mem_eff_path = dt_limit, chunk_size, use_mem_eff_path
        self.layer_idx, self.activation = layer_idx, "silu"
        self.conv_dim = self.d_ssm + 2 * ngroups * d_state
        self.in_proj = nn.Linear(d_model, 2 * inner + 2 * ngroups * d_state + self.nheads, bias=False)
        self.conv1d = nn.Conv1d(self.conv_dim, self.conv_dim, d_conv, groups=self.conv_dim, padding=d_conv - 1)
        self.dt_bias = nn.Parameter(torch.randn(self.nheads))
        self.A_log = nn.Parameter(torch.rand(self.nheads))
        self.D = nn.Parameter(torch.randn(self.d_ssm if D_has_hdim else self.nheads))
        if rmsnorm:
            self.norm = RMSNormGated(self.d_ssm, group_size=self.d_ssm // ngroups, norm_before_gate=False)
        self.out_proj = nn.Linear(inner, d_model, bias=True)

    def _split(self, zxbcdt: Any) -> Any:
        rest = zxbcdt.shape[-1] - self.d_ssm - self.conv_dim - self.nheads
        return zxbcdt.split([rest // 2, rest // 2, self.d_ssm, self.conv_dim, self.nheads], dim=-1)

    def _heads(self, xBC: Any) -> Any:
        states = self.ngroups * self.d_state
        x, B, C = xBC.split([self.d_ssm, states, states], dim=-1)
        return x.unflatten(-1, (-1, self.headdim)), *(y.unflatten(-1, (self.ngroups, -1)) for y in (B, C))

    def forward(
        self, u: Any, seqlen: Any = None, seq_idx: Any = None, cu_seqlens: Any = None, inference_params: Any = None
    ) -> Any:
        conv_state, ssm_state = None, None
        if inference_params is not None:
            batch = u.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
            conv_state, ssm_state = self._get_states_from_cache(inference_params, batch)
            if inference_params.seqlen_offset > 0:
                return self.step(u, conv_state, ssm_state)[0]
        zxbcdt, A = self.in_proj(u), -torch.exp(self.A_log.float())
        limits = {} if self.dt_limit == _NO_LIMITS else {"dt_limit": self.dt_limit}
        D = self.D.unflatten(0, (-1, self.headdim)) if self.D_has_hdim else self.D
        weight, bias = self.conv1d.weight[:, 0], self.conv1d.bias
        if self.use_mem_eff_path and inference_params is None:
            return mamba_split_conv1d_scan_combined(
                zxbcdt, weight, bias, self.dt_bias, A, D=D, chunk_size=self.chunk_size, seq_idx=seq_idx,
                activation=self.activation, rmsnorm_weight=self.norm.weight if self.rmsnorm else None,
                rmsnorm_eps=self.norm.eps if self.rmsnorm else 1e-6, outproj_weight=self.out_proj.weight,
                outproj_bias=self.out_proj.bias, headdim=None if self.D_has_hdim else self.headdim,
                ngroups=self.ngroups, norm_before_gate=False, **limits,
            )  # fmt: skip
        z0, x0, z, xBC, dt = self._split(zxbcdt)
        if conv_state is not None and cu_seqlens is not None:
            assert causal_conv1d_varlen_states is not None
            conv_state.copy_(causal_conv1d_varlen_states(xBC.squeeze(0), cu_seqlens, state_len=conv_state.shape[-1]))
        elif conv_state is not None:
            conv_state.copy_(pad(xBC.transpose(1, 2), (self.d_conv - xBC.shape[1], 0)))
        if causal_conv1d_fn is None:
            assert seq_idx is None, "varlen conv1d requires the causal_conv1d package"
            xBC = silu(self.conv1d(xBC.transpose(1, 2)).transpose(1, 2)[:, : -(self.d_conv - 1)])
        else:
            how = {"bias": bias, "activation": self.activation, "seq_idx": seq_idx}
            xBC = causal_conv1d_fn(xBC.transpose(1, 2), weight, **how).transpose(1, 2)
        x, B, C = self._heads(xBC)
        y = mamba_chunk_scan_combined(
            x, dt, A, B, C, chunk_size=self.chunk_size, D=D,
            z=None if self.rmsnorm else z.unflatten(-1, (-1, self.headdim)), dt_bias=self.dt_bias, dt_softplus=True,
            seq_idx=seq_idx, cu_seqlens=cu_seqlens, **limits, return_final_states=ssm_state is not None,
            return_varlen_states=cu_seqlens is not None and inference_params is not None,
        )  # fmt: skip
        if ssm_state is not None:
            y, *states = y
            ssm_state.copy_(states[-1])
        return self._output(y.flatten(-2), z0, x0, z)

    def _output(self, y: Any, z0: Any, x0: Any, z: Any) -> Any:
        y = self.norm(y, z) if self.rmsnorm else y
        return self.out_proj(torch.cat([silu(z0) * x0, y], dim=-1) if z0.shape[-1] else y)

    def step(self, hidden_states: Any, conv_state: Any, ssm_state: Any) -> Any:
        z0, x0, z, xBC, dt = self._split(self.in_proj(hidden_states.squeeze(1)))
        weight = self.conv1d.weight[:, 0]
        if causal_conv1d_update is None:
            conv_state.copy_(torch.roll(conv_state, shifts=-1, dims=-1))
            conv_state[:, :, -1] = xBC
            xBC = silu((conv_state * weight).sum(-1) + self.conv1d.bias)
        else:
            xBC = causal_conv1d_update(xBC, conv_state, weight, self.conv1d.bias, self.activation)
        x, B, C = self._heads(xBC)
        A = -torch.exp(self.A_log.float())[:, None, None].repeat(1, self.headdim, self.d_state)
        dt, dt_bias, D = (y[..., None].repeat_interleave(self.headdim, -1) for y in (dt, self.dt_bias, self.D))
        gate = None if self.rmsnorm else z.unflatten(-1, (-1, self.headdim))
        y = selective_state_update(ssm_state, x, dt, A, B, C, D, z=gate, dt_bias=dt_bias, dt_softplus=True)
        return self._output(y.flatten(-2), z0, x0, z).unsqueeze(1), conv_state, ssm_state

    def allocate_inference_cache(self, batch_size: int, max_seqlen: int, dtype: Any = None) -> Any:
        make = self.in_proj.weight.new_zeros
        conv_state = make(batch_size, self.d_conv, self.conv_dim).transpose(1, 2)
        return conv_state, make(batch_size, self.nheads, self.headdim, self.d_state)


class Mamba2Simple(nn.Module):
    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        headdim: int = 128,
        learnable_init_states: bool = False,
        chunk_size: int = 256,
        use_mem_eff_path: bool = True,
    ) -> None:
        super().__init__()
        inner, d_conv = 2 * d_model, 4
        self.d_state, self.headdim, self.nheads, self.d_inner = d_state, headdim, inner // headdim, inner
        self.learnable_init_states, self.chunk_size = learnable_init_states, chunk_size
        self.use_mem_eff_path, self.activation = use_mem_eff_path, "swish"
        channels = inner + 2 * d_state
        self.in_proj = nn.Linear(d_model, inner + channels + self.nheads, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, d_conv, groups=channels, padding=d_conv - 1)
        if learnable_init_states:
            self.init_states = nn.Parameter(torch.randn(self.nheads, headdim, d_state))
        self.dt_bias, self.D = (nn.Parameter(torch.randn(self.nheads)) for _ in range(2))
        self.A_log = nn.Parameter(torch.rand(self.nheads))
        self.norm = RMSNormGated(inner, norm_before_gate=False)
        self.out_proj = nn.Linear(inner, d_model, bias=True)

    def forward(self, u: Any, seq_idx: Any = None) -> Any:
        zxbcdt, A = self.in_proj(u), -torch.exp(self.A_log)
        states = self.init_states.expand(len(u), -1, -1, -1) if self.learnable_init_states else None
        how = {"chunk_size": self.chunk_size, "D": self.D, "seq_idx": seq_idx, "initial_states": states}
        weight, bias = self.conv1d.weight[:, 0], self.conv1d.bias
        if self.use_mem_eff_path:
            return mamba_split_conv1d_scan_combined(
                zxbcdt, weight, bias, self.dt_bias, A, activation=self.activation, rmsnorm_weight=self.norm.weight,
                rmsnorm_eps=self.norm.eps, outproj_weight=self.out_proj.weight, outproj_bias=self.out_proj.bias,
                headdim=self.headdim, ngroups=1, norm_before_gate=False, **how,
            )  # fmt: skip
        z, xBC, dt = zxbcdt.split([self.d_inner, self.d_inner + 2 * self.d_state, self.nheads], dim=-1)
        dt = softplus(dt + self.dt_bias)
        xBC = causal_conv1d_fn(x=xBC.transpose(1, 2), weight=weight, bias=bias, activation=self.activation)
        x, B, C = xBC.transpose(1, 2).split([self.d_inner, self.d_state, self.d_state], dim=-1)
        x = x.unflatten(-1, (-1, self.headdim))
        y = mamba_chunk_scan_combined(x, dt, A, B[:, :, None], C[:, :, None], z=None, **how)
        return self.out_proj(self.norm(y.flatten(-2), z))


# ---- A model --------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A norm of the sum of the previous mixer's output and the residual, and a mixer."""

    def __init__(self, dim: int, mixer: Any, norm: Any, fused_add_norm: bool) -> None:
        super().__init__()
        self.fused_add_norm, self.residual_in_fp32 = fused_add_norm, False
        self.norm, self.mixer = norm, mixer

    def forward(self, hidden_states: Any, residual: Any = None, inference_params: Any = None) -> Any:
        if not self.fused_add_norm:
            residual = hidden_states if residual is None else hidden_states + residual
            hidden_states = self.norm(residual.to(dtype=self.norm.weight.dtype))
        else:
            how = {"eps": self.norm.eps, "is_rms_norm": isinstance(self.norm, RMSNorm)}
            how |= {"residual_in_fp32": self.residual_in_fp32}
            hidden_states, residual = layer_norm_fn(
                hidden_states, self.norm.weight, self.norm.bias, residual=residual, prenorm=True, **how
            )  # fmt: skip
        return self.mixer(hidden_states, inference_params=inference_params), residual


class MixerModel(nn.Module):
    def __init__(self, dim: int, mixers: list[nn.Module], vocabulary: int, rms_norm: bool, fused: bool) -> None:
        super().__init__()
        make = RMSNorm if rms_norm else nn.LayerNorm
        self.embedding, self.fused_add_norm = nn.Embedding(vocabulary, dim), fused
        self.layers = nn.ModuleList([Block(dim, mixer, make(dim), fused) for mixer in mixers])
        self.norm_f = make(dim)

    def forward(self, input_ids: Any, inference_params: Any = None) -> Any:
        hidden_states, residual = self.embedding(input_ids), None
        for layer in self.layers:
            hidden_states, residual = layer(hidden_states, residual, inference_params=inference_params)
        if not self.fused_add_norm:
            return self.norm_f(hidden_states + residual)
        how = {"eps": self.norm_f.eps, "is_rms_norm": isinstance(self.norm_f, RMSNorm), "prenorm": False}
        return layer_norm_fn(hidden_states, self.norm_f.weight, self.norm_f.bias, residual=residual, **how)


@dataclass
class InferenceParams:
    """The number of steps so far, and the states."""

    seqlen_offset: int = 0
    key_value_memory_dict: dict[int, Any] = field(default_factory=dict)


@torch.inference_mode()
def decode(input_ids: Any, model: Any, max_length: int, cg: bool = False, enable_timing: bool = False) -> Any:
    inference_params = InferenceParams()

    def get_logits(input_ids: Any) -> Any:
        return model(input_ids, inference_params=inference_params, num_last_tokens=1).logits[:, 0]

    start, end = torch.cuda.Event(enable_timing=enable_timing), torch.cuda.Event(enable_timing=enable_timing)
    if enable_timing:
        start.record()
    sequences = [input_ids]
    while inference_params.seqlen_offset < max_length - 1:
        tokens = get_logits(sequences[-1]).argmax(-1, keepdim=True)
        inference_params.seqlen_offset += sequences[-1].shape[1]
        sequences.append(tokens)
    if enable_timing:
        end.record()
        torch.cuda.synchronize()
        print(f"decoding time: {(start.elapsed_time(end)):.0f}ms")
    return torch.cat(sequences, dim=1)


class GenerationMixin:
    """Greedy generation, which creates CUDA events."""

    def generate(self, input_ids: Any, max_length: int, **kwargs: Any) -> Any:
        return decode(input_ids, self, max_length, **kwargs)


class MambaLMHeadModel(nn.Module, GenerationMixin):
    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.lm_head = nn.Linear(backbone.embedding.embedding_dim, backbone.embedding.num_embeddings, bias=False)

    def forward(self, input_ids: Any, inference_params: Any = None, num_last_tokens: int = 0) -> Any:
        hidden_states = self.backbone(input_ids, inference_params=inference_params)
        output = namedtuple("CausalLMOutput", ["logits"])
        return output(logits=self.lm_head(hidden_states[:, -num_last_tokens:]))
