"""Models of transformers as files of llama.cpp, by the package gguf."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float32]
#: Formats by the names of fastiter's with as many bits
TYPES = {"f32": "F32", "bf16": "BF16", "int8": "Q8_0", "int4": "Q4_0", "mxfp4": "MXFP4"}
#: Names of tensors, from those of transformers, within a layer
_MAMBA = {
    "norm.weight": "attn_norm.weight",
    "mixer.in_proj.weight": "ssm_in.weight",
    "mixer.conv1d.weight": "ssm_conv1d.weight",
    "mixer.conv1d.bias": "ssm_conv1d.bias",
    "mixer.x_proj.weight": "ssm_x.weight",
    "mixer.dt_proj.weight": "ssm_dt.weight",
    "mixer.dt_proj.bias": "ssm_dt.bias",
    "mixer.dt_bias": "ssm_dt.bias",
    "mixer.A_log": "ssm_a",
    "mixer.D": "ssm_d",
    "mixer.norm.weight": "ssm_norm.weight",
    "mixer.out_proj.weight": "ssm_out.weight",
}
_QWEN = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "linear_attn.in_proj_qkv.weight": "attn_qkv.weight",
    "linear_attn.in_proj_z.weight": "attn_gate.weight",
    "linear_attn.in_proj_b.weight": "ssm_beta.weight",
    "linear_attn.in_proj_a.weight": "ssm_alpha.weight",
    "linear_attn.conv1d.weight": "ssm_conv1d.weight",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "linear_attn.A_log": "ssm_a",
    "linear_attn.norm.weight": "ssm_norm.weight",
    "linear_attn.out_proj.weight": "ssm_out.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
_TOP = {
    "embeddings.weight": "token_embd.weight",
    "embed_tokens.weight": "token_embd.weight",
    "norm_f.weight": "output_norm.weight",
    "norm.weight": "output_norm.weight",
}


def write(model: Any, path: Path, fmt: str) -> dict[str, Tensor]:
    """Write a model's file, and return its weights with the numbers of the file."""
    import gguf
    from gguf.quants import dequantize, quantize

    kind = type(model).__name__.removesuffix("ForCausalLM")
    writer = gguf.GGUFWriter(path, {"Mamba": "mamba", "Mamba2": "mamba2", "Qwen3_5": "qwen35"}[kind])
    {"Mamba": _mamba, "Mamba2": _mamba2, "Qwen3_5": _qwen}[kind](writer, model.config)
    writer.add_vocab_size(model.config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    wanted, rounded = gguf.GGMLQuantizationType[TYPES[fmt]], {}
    for key, name, x in _tensors(model, _QWEN if kind == "Qwen3_5" else _MAMBA):
        found = _numbers(key, name, x, model.config)
        if x.dim() != 2 or "A_log" in key or wanted == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, found)
            continue
        dtype = wanted if found.shape[-1] % 32 == 0 else gguf.GGMLQuantizationType.BF16
        codes = quantize(found, dtype)
        writer.add_tensor(name, codes, raw_dtype=dtype)
        back = torch.from_numpy(dequantize(codes, dtype).reshape(found.shape))
        rounded[key] = back if (order := _order(key, model.config)) is None else _ordered(back, key, order.argsort())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tied = {k: rounded[other] for k, other in _tied(model) if other in rounded}
    return {**model.state_dict(), **rounded, **tied}


def _tensors(model: Any, names: dict[str, str]) -> Iterator[tuple[str, str, Tensor]]:
    """Yield the names of each tensor, in transformers and in llama.cpp, and its numbers."""
    for key, x in model.named_parameters():  # tied ones once
        place, _, rest = key.partition("layers.")[2].partition(".")
        if "layers." not in key:
            yield key, "output.weight" if key == "lm_head.weight" else _TOP[key.partition(".")[2]], x
        else:
            yield key, f"blk.{place}.{names[rest]}", x


def _tied(model: Any) -> Iterator[tuple[str, str]]:
    first = {id(x): key for key, x in model.named_parameters()}
    for key, x in model.named_parameters(remove_duplicate=False):
        if first[id(x)] != key:
            yield key, first[id(x)]


def _numbers(key: str, name: str, x: Tensor, config: Any) -> Array:
    """Return what llama.cpp expects in the place of a tensor."""
    order = _order(key, config)
    x = x.detach() if order is None else _ordered(x.detach(), key, order)
    if name.endswith("ssm_a"):
        x = -x.exp()
    if name.endswith("ssm_conv1d.weight"):
        x = x[:, 0]
    if hasattr(config, "n_groups") and name.endswith(("ssm_a", "ssm_d")):
        x = x[:, None]
    if hasattr(config, "n_groups") and name.endswith("ssm_norm.weight"):
        x = x.view(config.n_groups, -1)
    if hasattr(config, "linear_key_head_dim") and name.endswith("norm.weight") and "linear_attn" not in key:
        x = 1 + x
    return np.ascontiguousarray(x.numpy())


def _order(key: str, config: Any) -> Tensor | None:
    """Return the order of llama.cpp's numbers, None for the same.

    Value heads that share a key head are neighbours in transformers' models, and are not in those of llama.cpp.
    """
    part = key.rpartition("linear_attn.")[2]
    if part == key or part == "norm.weight" or config.linear_num_value_heads == config.linear_num_key_heads:
        return None
    keys, values = config.linear_num_key_heads, config.linear_num_value_heads
    heads = torch.arange(values).view(keys, values // keys).T.flatten()
    if part in ("dt_bias", "A_log", "in_proj_a.weight", "in_proj_b.weight"):
        return heads
    wide = (heads[:, None] * config.linear_value_head_dim + torch.arange(config.linear_value_head_dim)).flatten()
    before = 2 * keys * config.linear_key_head_dim if part.startswith(("in_proj_qkv", "conv1d")) else 0
    return torch.cat([torch.arange(before), before + wide])


def _ordered(x: Tensor, key: str, order: Tensor) -> Tensor:
    return x[:, order] if "out_proj" in key else x[order]


def _mamba(writer: Any, config: Any) -> None:
    writer.add_context_length(4096)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_layer_norm_rms_eps(config.layer_norm_epsilon)
    writer.add_ssm_conv_kernel(config.conv_kernel)
    writer.add_ssm_state_size(config.state_size)
    if not hasattr(config, "n_groups"):
        writer.add_ssm_inner_size(config.intermediate_size)
        writer.add_ssm_time_step_rank(config.time_step_rank)


def _mamba2(writer: Any, config: Any) -> None:
    _mamba(writer, config)
    writer.add_ssm_inner_size(config.num_heads * config.head_dim)
    writer.add_ssm_time_step_rank(config.num_heads)
    writer.add_ssm_group_count(config.n_groups)


def _qwen(writer: Any, config: Any) -> None:
    writer.add_context_length(4096)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(int(config.head_dim * config.rope_parameters["partial_rotary_factor"]))
    writer.add_rope_dimension_sections([11, 11, 10, 0])
    writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
    writer.add_ssm_inner_size(config.linear_num_value_heads * config.linear_value_head_dim)
    writer.add_ssm_state_size(config.linear_key_head_dim)
    writer.add_ssm_time_step_rank(config.linear_num_value_heads)
    writer.add_ssm_group_count(config.linear_num_key_heads)
    writer.add_uint32("qwen35.full_attention_interval", 4)
