"""Small models of transformers in float64, with random weights in every place where a plan could forget one."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCABULARY = 37
_COMMON = {"vocab_size": VOCABULARY, "hidden_size": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
_COMMON["experts_implementation"] = "eager"  # the others have no float64
_MAMBA = {"num_hidden_layers": 2, "state_size": 5, "conv_kernel": 3, "time_step_rank": 3}
_ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24, "head_dim": 6}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 5,
    "linear_value_head_dim": 7,
    "linear_conv_kernel_dim": 3,
}
_QWEN = {
    **_ATTENTION,
    **_LINEAR,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    "num_hidden_layers": 3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 2 / 3},
}
_SSD = {"mamba_n_heads": 8, "mamba_d_head": 5, "mamba_d_state": 3, "mamba_chunk_size": 8, "mamba_d_conv": 3}
_ROTARY = {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}}
_GRANITE = {
    **_ATTENTION,
    **_SSD,
    "num_hidden_layers": 3,
    "layer_types": ["mamba", "attention", "mamba"],
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "shared_intermediate_size": 11,
    "mamba_n_groups": 2,
    "embedding_multiplier": 1.3,
    "logits_scaling": 0.7,
    "residual_multiplier": 0.6,
    "attention_multiplier": 0.9,
}
_FALCON = {
    **_ATTENTION,
    **_SSD,
    **_ROTARY,
    "num_hidden_layers": 2,
    "mamba_d_ssm": 40,
    "mamba_n_groups": 2,
    "embedding_multiplier": 1.3,
    "lm_head_multiplier": 0.7,
    "mlp_multipliers": [0.8, 1.2],
    "ssm_multipliers": [0.9, 1.1, 1.2, 0.8, 0.7],
    "ssm_in_multiplier": 0.8,
    "ssm_out_multiplier": 1.2,
    "attention_in_multiplier": 1.1,
    "attention_out_multiplier": 0.9,
    "key_multiplier": 0.6,
}
_EXPERTS = {
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 9,
    "shared_expert_intermediate_size": 11,
    "decoder_sparse_step": 1,
}
_NEMOTRON = {
    **_ATTENTION,
    "ssm_state_size": 3,
    "mamba_num_heads": 8,
    "mamba_head_dim": 5,
    "n_groups": 2,
    "conv_kernel": 3,
    "chunk_size": 8,
    "n_routed_experts": 6,
    "moe_intermediate_size": 9,
    "moe_shared_expert_intermediate_size": 11,
    "routed_scaling_factor": 1.7,
    "n_group": 3,
    "topk_group": 2,
}
_ZAMBA = {
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "num_hidden_layers": 5,
    "layers_block_type": ["mamba", "hybrid", "hybrid", "mamba", "hybrid"],
    "n_mamba_heads": 8,
    "mamba_d_state": 3,
    "mamba_d_conv": 3,
    "mamba_ngroups": 2,
    "chunk_size": 8,
    "adapter_rank": 3,
}
_OLMO = {**_ATTENTION, **_LINEAR, "num_hidden_layers": 3, "layer_types": _QWEN["layer_types"]}
_KIMI = {
    **_ATTENTION,
    "num_hidden_layers": 3,
    "layer_types": _QWEN["layer_types"],
    "mlp_layer_types": ["dense", "dense", "dense"],
    "linear_num_heads": 3,
    "linear_head_dim": 5,
    "linear_conv_kernel_dim": 3,
    "num_key_value_heads": 4,
    "kv_lora_rank": 7,
    "q_lora_rank": None,
    "qk_rope_head_dim": 3,
    "qk_nope_head_dim": 5,
    "v_head_dim": 4,
    "num_local_experts": 2,
    "num_experts_per_tok": 2,
}
_XLSTM = {
    "num_hidden_layers": 2,
    "hidden_size": 64,  # a cache has heads of 64 numbers together, or a multiple
    "num_heads": 2,
    "qk_dim_factor": 1.0,
    "ffn_round_up_to_multiple_of": 3,
    "chunk_size": 16,
    "output_logit_soft_cap": 3.0,
    "gate_soft_cap": 2.0,
}

#: Options of small models: the class without "ForCausalLM", a name of the variant, and the options of its config
OPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("Mamba", ""): _MAMBA,
    ("Mamba", "biases"): {**_MAMBA, "use_bias": True, "use_conv_bias": False, "tie_word_embeddings": False},
    ("FalconMamba", ""): {**_MAMBA, "mixer_rms_eps": 1e-3},
    ("Qwen3_5", ""): _QWEN,
    ("Qwen3_5Moe", ""): {**_QWEN, **_EXPERTS},
    ("Qwen3Next", ""): {**_QWEN, **_EXPERTS, "norm_topk_prob": False, "mlp_only_layers": [1]},
    ("NemotronH", "limits"): {**_NEMOTRON, "layers_block_type": ["mamba", "attention", "moe", "mlp"]},
    ("NemotronH", "limits, latent"): {
        **_NEMOTRON,
        "layers_block_type": ["mamba", "moe", "attention"],
        "moe_latent_size": 9,
        "norm_topk_prob": False,
    },
    ("Jamba", ""): {
        **_ATTENTION,
        "num_hidden_layers": 4,
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "mamba_d_state": 5,
        "mamba_d_conv": 3,
        "mamba_dt_rank": 3,
        "num_experts": 5,
        "num_experts_per_tok": 2,
    },
    ("Bamba", ""): {
        **_ATTENTION,
        **_SSD,
        **_ROTARY,
        "num_hidden_layers": 2,
        "mamba_n_groups": 2,
        "attn_layer_indices": [1],
        "mlp_bias": True,
    },
    ("Zamba2", "limits"): _ZAMBA,
    ("Zamba2", "limits, adapters"): {
        **_ZAMBA,
        **_ROTARY,
        "num_mem_blocks": 2,
        "use_shared_attention_adapter": True,
        "use_mem_rope": True,
        "add_bias_linear": True,
    },
    ("OlmoHybrid", ""): {**_OLMO, "linear_allow_neg_eigval": False, "rope_parameters": None},
    ("OlmoHybrid", "positions"): {**_OLMO, **_ROTARY, "linear_allow_neg_eigval": True},
    ("KimiLinear", ""): _KIMI,
    ("KimiLinear", "experts"): {
        **_KIMI,
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "q_lora_rank": 7,
        "attention_bias": True,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 9,
        "n_shared_experts": 2,
        "n_group": 3,
        "topk_group": 2,
        "routed_scaling_factor": 1.7,
    },
    ("RecurrentGemma", ""): {
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "attention_window_size": 7,
        "conv1d_width": 3,
        "logits_soft_cap": 3.0,
        "attention_bias": True,
    },
    ("xLSTM", ""): _XLSTM,
    ("xLSTM", "biases"): {**_XLSTM, "use_bias": True},
    ("Mamba2", ""): {
        "num_hidden_layers": 2,
        "num_heads": 8,
        "head_dim": 5,
        "state_size": 3,
        "n_groups": 2,
        "chunk_size": 8,
        "conv_kernel": 3,
    },
    ("Mamba2", "limits"): {
        "num_hidden_layers": 2,
        "num_heads": 8,
        "head_dim": 5,
        "state_size": 3,
        "n_groups": 1,
        "use_bias": True,
        "use_conv_bias": False,
        "chunk_size": 8,
        "time_step_limit": (0.01, 0.5),
    },
    ("Lfm2", ""): {
        **_ATTENTION,
        **_ROTARY,
        "num_hidden_layers": 3,
        "layer_types": ["conv", "full_attention", "conv"],
        "block_auto_adjust_ff_dim": False,
    },
    ("GraniteMoeHybrid", ""): _GRANITE,
    ("GraniteMoeHybrid", "experts"): {
        **_GRANITE,
        **_ROTARY,
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
        "position_embedding_type": "rope",
    },
    ("FalconH1", ""): {**_FALCON, "mamba_rms_norm": True, "mamba_norm_before_gate": False},
    ("FalconH1", "biases"): {
        **_FALCON,
        "attention_bias": True,
        "mamba_proj_bias": True,
        "mlp_bias": True,
        "projectors_bias": True,
        "mamba_rms_norm": False,
        "tie_word_embeddings": True,
    },
    ("FalconH1", "norm before gate"): {**_FALCON, "mamba_rms_norm": True, "mamba_norm_before_gate": True},
    ("Qwen3_5", "biases"): {**_QWEN, "attention_bias": True, "tie_word_embeddings": True},
}
#: One variant of each architecture, and those with experts
MAIN = [each for each in OPTIONS if each == next(x for x in OPTIONS if x[0] == each[0]) or "experts" in each[1]]


def make(name: str, variant: str = "", **options: Any) -> Any:
    """Return a model in eval mode, with the same random weights in each call."""
    torch.manual_seed(0)
    of_text = "TextConfig" if name.startswith("Qwen3_5") else "Config"
    config = getattr(transformers, name + of_text)(**copy.deepcopy({**_COMMON, **OPTIONS[name, variant], **options}))
    if name == "xLSTM":  # its config refuses float64 where it is set as an option
        vars(config).update(inference_state_dtype="float64", autocast_kernel_dtype="float64")
    model = getattr(transformers, name + "ForCausalLM")(config).eval().double().requires_grad_(False)
    for key, x in [*model.named_parameters(), *model.named_buffers()]:
        if not x.is_floating_point() or key.endswith("inv_freq"):
            continue
        if x.ndim > 1 and "A_log" not in key:
            fan_in = x[0].numel() if "conv" in key else x.shape[-1]
            x.copy_(torch.randn_like(x) * (1.5 / fan_in**0.5 if "embed" not in key else 1))
        else:
            x.add_(0.4 * torch.randn_like(x))
    return model


def tokens(rows: int, time: int) -> Any:
    return torch.randint(2, VOCABULARY, (rows, time), generator=torch.Generator().manual_seed(rows + 10 * time))


class _Float64:
    """The module torch for models, with float64 in the place of float32."""

    def __getattr__(self, name: str) -> Any:
        return torch.float64 if name in ("float", "float32") else getattr(torch, name)


@contextlib.contextmanager
def exact(model: Any) -> Iterator[None]:
    """Let the parts of a model that it computes in float32 be computed in float64.

    Only the angles of rotary embeddings are rounded to float32, as the specification says.
    """
    kept = {name: getattr(torch.Tensor, name) for name in ("float", "cos", "sin")}
    scans = {type(each)._rnn_scan for each in model.modules() if hasattr(each, "_rnn_scan")}  # of RecurrentGemma
    modules = {sys.modules[type(each).__module__] for each in model.modules()}
    modules = {each for each in modules if each.__name__.startswith("transformers.models.")}
    torch.Tensor.float = torch.Tensor.double
    torch.Tensor.cos = lambda x: kept["cos"](kept["float"](x).double())
    torch.Tensor.sin = lambda x: kept["sin"](kept["float"](x).double())
    for module in modules:
        module.torch = _Float64()
    for scan in scans:
        scan.__defaults__ = (torch.float64,)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(torch.Tensor, name, method)
        for module in modules:
            module.torch = torch
        for scan in scans:
            scan.__defaults__ = (torch.float32,)
