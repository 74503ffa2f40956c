"""Small models of transformers with random weights, built without files or network."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCABULARY = 50
_COMMON = {"vocab_size": VOCABULARY, "hidden_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
_ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_MAMBA = {"num_hidden_layers": 2, "state_size": 8}
_HYBRID = {"layer_types": ["linear_attention", "linear_attention", "full_attention"], "num_hidden_layers": 3}
_DENSE = {"num_experts": 0, "mlp_only_layers": [0, 1, 2], "head_dim": 8}
_MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 16}
_GRIFFIN = {"lru_width": 32, "attention_window_size": 16, "head_dim": 8, "num_hidden_layers": 3}

#: Names of classes of transformers, without "Config" and "ForCausalLM", and the options of their configs
OPTIONS: dict[str, dict[str, Any]] = {
    "Mamba": _MAMBA,
    "FalconMamba": _MAMBA,
    "Jamba": {
        **_ATTENTION,
        "num_hidden_layers": 2,
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "num_experts": 1,
        "num_experts_per_tok": 1,
    },
    "Zamba": {
        **_ATTENTION,
        "num_hidden_layers": 3,
        "layers_block_type": ["mamba", "hybrid", "hybrid"],
        "attention_head_dim": 16,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "n_mamba_heads": 2,
    },
    "RecurrentGemma": {**_ATTENTION, **_GRIFFIN},
    "Qwen3Next": {**_ATTENTION, **_LINEAR, **_HYBRID, **_DENSE},
    "Qwen3_5": {**_ATTENTION, **_LINEAR, **_HYBRID, "head_dim": 8},
    "OlmoHybrid": {**_ATTENTION, **_LINEAR, **_HYBRID},
    "Mamba2": {
        "num_hidden_layers": 2,
        "num_heads": 4,
        "head_dim": 16,
        "state_size": 8,
        "n_groups": 2,
        "chunk_size": 16,
        "time_step_limit": (0.01, 0.5),
    },
    "Bamba": {**_ATTENTION, **_MAMBA2, "num_hidden_layers": 2, "attn_layer_indices": [1]},
    "FalconH1": {**_ATTENTION, **_MAMBA2, "num_hidden_layers": 2, "mamba_d_ssm": 64},
    "GraniteMoeHybrid": {
        **_ATTENTION,
        **_MAMBA2,
        "num_hidden_layers": 2,
        "layer_types": ["mamba", "attention"],
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "shared_intermediate_size": 16,
    },
    "NemotronH": {
        **_ATTENTION,
        "layers_block_type": ["mamba", "attention", "mamba", "mlp"],
        "head_dim": 8,
        "ssm_state_size": 8,
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "n_groups": 2,
        "chunk_size": 16,
    },
    "Zamba2": {
        **_ATTENTION,
        "num_hidden_layers": 3,
        "layers_block_type": ["mamba", "hybrid", "mamba"],
        "n_mamba_heads": 4,
        "mamba_d_state": 8,
        "chunk_size": 16,
    },
    "KimiLinear": {
        **_ATTENTION,
        "num_hidden_layers": 3,
        "layer_types": ["linear_attention", "linear_attention", "full_attention"],
        "mlp_layer_types": ["dense", "dense", "dense"],
        "linear_num_heads": 2,
        "linear_head_dim": 8,
        "num_key_value_heads": 4,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
        "num_local_experts": 2,
        "num_experts_per_tok": 2,
    },
    "MiniMax": {
        **_ATTENTION,
        "num_hidden_layers": 3,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "head_dim": 8,
        "block_size": 16,
        "num_local_experts": 2,
        "num_experts_per_tok": 2,
        "experts_implementation": "eager",
    },
    "xLSTM": {"hidden_size": 64, "num_hidden_layers": 2, "num_heads": 2, "qk_dim_factor": 1.0, "chunk_size": 16},
    "Rwkv": {"num_hidden_layers": 2, "attention_hidden_size": 32, "context_length": 64},
    "Lfm2": {**_ATTENTION, "num_hidden_layers": 3, "layer_types": ["conv", "conv", "full_attention"]},
}


def make(name: str, **options: Any) -> Any:
    """Return a model in eval mode, with the same weights in each call."""
    torch.manual_seed(0)
    of_text = "TextConfig" if name == "Qwen3_5" else "Config"
    config = getattr(transformers, name + of_text)(**{**_COMMON, **OPTIONS[name], **options})
    return getattr(transformers, name + "ForCausalLM")(config).eval()


def tokens(batch: int, time: int) -> Any:
    return torch.randint(2, VOCABULARY, (batch, time), generator=torch.Generator().manual_seed(time))


def task(model: Any) -> tuple[Any, dict[str, Any]]:
    """Return tokens and options for which a model of transformers has gradients.

    xLSTM has them only for whole chunks, and in float64 only in one of its modes, which is set here.
    """
    if model.config.model_type == "rwkv":  # its cache changes in place
        return tokens(2, 33), {"use_cache": False}
    if model.config.model_type != "xlstm":
        return tokens(2, 33), {}
    model.config.mode = "train"
    return tokens(2, 32), {"use_cache": False}
