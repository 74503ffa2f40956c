"""The models whose recurrences the rules replace, and their table in the documentation, docs/accelerate/models.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from . import rules


class Row(NamedTuple):
    """A row of the table: models, with their package, the names of their functions, and what computes these.

    `by` is taken from the rules of the functions unless it is given, as for those of fla and mamba_ssm.
    """

    models: str
    functions: str
    by: str = ""


_MAMBA2 = "Mamba2, Bamba, FalconH1, GraniteMoeHybrid, NemotronH, Zamba2"
_DELTA = "Qwen3-Next, Qwen3.5, Qwen3.5-MoE, Qwen4Exp, LaraMini, OlmoHybrid"
_CONVOLUTIONS = "Lfm2, Lfm2Moe, Lfm3, Inkling, Inkling2, Inkling2Loop"
_LAYERS_OF_FLA = (
    "GatedDeltaNet, DeltaNet, GatedDeltaProduct, KimiDeltaAttention, GatedLinearAttention, SimpleGatedLinearAttention, "
    "HGRN2Attention, LinearAttention, MultiScaleRetention, RWKV6Attention, RWKV7Attention, HGRNAttention, "
    "BasedLinearAttention, ReBasedLinearAttention, Comba, GatedDeltaNet2, LightNetAttention, GatedSlotAttention"
)
_MAMBAS = "selective_scan_fn, mamba_inner_fn, selective_state_update"
_MAMBA2S = "mamba_chunk_scan_combined, mamba_split_conv1d_scan_combined"
_IN_TORCH = "torch operations"

ROWS = [
    Row("Mamba, FalconMamba, Jamba, Zamba (transformers)", "mamba_selective_scan"),
    Row("", "mamba_selective_state_update"),
    Row(f"{_MAMBA2} (transformers)", "mamba2_chunk_scan"),
    Row("", "mamba2_selective_state_update"),
    Row(f"{_DELTA} (transformers)", "torch_chunk_gated_delta_rule, torch_recurrent_gated_delta_rule"),
    Row(
        "KimiLinear, BailingHybrid, Glm5Next (transformers)",
        "chunk_kimi_delta_attention, recurrent_kimi_delta_attention",
    ),
    Row(f"all of these, and {_CONVOLUTIONS} (transformers)", "causal_conv1d_fn, causal_conv1d_update"),
    Row("MiniMax (transformers)", "MiniMaxLightningAttention.forward"),
    Row("xLSTM (transformers, mlstm_kernels)", "xLSTMBackend.forward, mLSTMBackend.forward"),
    Row("RecurrentGemma (transformers)", "_rnn_scan"),
    Row("", "RecurrentGemmaRglru.forward"),
    Row("RWKV-4 (transformers)", "rwkv_linear_attention"),
    Row("mLSTM blocks of xlstm", "parallel_stabilized_simple, recurrent_step_stabilized_simple"),
    Row(
        f"layers of flash-linear-attention: {_LAYERS_OF_FLA}",
        "chunk_..., fused_recurrent_..., parallel_...",
        "compat.fla",
    ),
    Row("Mamba, Mamba2 (flash-linear-attention)", "slow_forward, torch_forward", "ssm.selective_scan, ssm.ssd"),
    Row("these layers' convolutions", "ShortConvolution.forward, causal_conv1d", "ssm.causal_conv1d"),
    Row(
        "these layers' norms, activations, rotary embeddings and token shifts, among others",
        "rms_norm_gated, swish, rotary_embedding, token_shift",
        _IN_TORCH,
    ),
    Row("losses of flash-linear-attention's models", "FusedCrossEntropyLoss, FusedLinearCrossEntropyLoss", _IN_TORCH),
    Row(
        "Mamba, Mamba2, Mamba2Simple (mamba_ssm), and other modules that call these functions",
        f"{_MAMBAS}, {_MAMBA2S}",
        "compat.mamba_ssm",
    ),
    Row("", "causal_conv1d_fn, causal_conv1d_update, causal_conv1d_varlen_states", "compat.causal_conv1d"),
    Row(
        "Block, MixerModel, RMSNorm and others (mamba_ssm)",
        "layer_norm_fn, rms_norm_fn, rmsnorm_fn, layernorm_fn",
        "compat.mamba_ssm",
    ),
    Row("mambapy", "MambaBlock.selective_scan, MambaBlock.selective_scan_seq"),
    Row("torch.nn", "LSTM, GRU, RNN", "nn.LSTM, nn.GRU, nn.RNN"),
    Row("recurrent policies of sb3-contrib (RecurrentPPO)", "RecurrentActorCriticPolicy._process_sequence"),
    Row("recurrent modules of torchrl", "torchrl.LSTMModule.forward, torchrl.GRUModule.forward"),
    Row("sLSTM cells of xlstm and tirex", "forward", "slstm, lstm"),
]


def computed_by(row: Row) -> list[str]:
    """Return the names of the replacements of a row's functions, below ``fastiter.torch``, without repetition."""
    if row.by:
        return row.by.split(", ")
    return list(dict.fromkeys(str(_rule_of(name).by or _IN_TORCH) for name in row.functions.split(", ")))


def _rule_of(name: str) -> rules.Rule:
    """Return the rule for a function, or for a method, whose class precedes its name if the rule depends on it."""
    of, _, method = name.rpartition(".")
    if of in rules.CLASSES:
        return rules.CLASSES[of][method]
    return rules.METHODS[method] if method in rules.METHODS else rules.GLOBALS[name]


def table() -> str:
    """Return the table as Markdown."""
    return "\n".join(["| models | their function | computed by |", "|---|---|---|", *_lines()])


def _lines() -> Iterator[str]:
    for row in ROWS:
        functions = ", ".join(f"`{name}`" for name in row.functions.split(", "))
        by = ", ".join(_shown(name) for name in computed_by(row))
        yield f"| {row.models} | {functions} | {by} |".replace("|  |", "| |")


def _shown(name: str) -> str:
    return name if name in (rules.KERNEL, _IN_TORCH) else f"`fastiter.torch.{name}`"
