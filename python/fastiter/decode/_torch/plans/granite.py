"""Granite 4 H: layers of Mamba-2 and of attention, each followed by experts, a shared gated layer, or both."""

from __future__ import annotations

from ...builder import Builder
from ...plan import Gate, Linear, Plan
from .experts import route, stacked_experts
from .mamba2 import ssd_mixer
from .parts import Frame, Heads, Hidden, linear, model_plan, rms_norm, rotary_of, self_attention
from .source import Part, Source


def granite_moe_hybrid(source: Source) -> Plan:
    """Return the plan of a GraniteMoeHybrid."""
    family = "GraniteMoeHybrid"
    root = source.root()
    body = root.child("model", f"{family}Model")
    rotary = rotary_of(body, "rotary_emb", f"{family}RotaryEmbedding") if body.has("rotary_emb") else None

    def layer(b: Builder, part: Part, hidden: Hidden, index: int) -> None:
        scale = part.module.residual_multiplier
        rms_norm(b, part.child("input_layernorm", f"{family}RMSNorm"), hidden.stream, hidden.x)
        if part.has("mamba"):
            mixer = part.child("mamba", f"{family}MambaLayer")
            ssd_mixer(b, mixer, hidden, index, f"{family}RMSNormGated", scale=scale)
        else:
            part_of = part.child("self_attn", f"{family}Attention")
            self_attention(b, part_of, hidden.x, hidden.stream, index, Heads(rotary), scale=scale)
        rms_norm(b, part.child("post_attention_layernorm", f"{family}RMSNorm"), hidden.stream, hidden.x)
        if part.has("block_sparse_moe"):
            _experts(b, part.child("block_sparse_moe", f"{family}MoE"), hidden, scale)
        _shared(b, part.child("shared_mlp", f"{family}MLP"), hidden, scale)

    scales = {
        "embedding_scale": body.module.embedding_multiplier,
        "logits_scale": 1 / root.module.config.logits_scaling,
    }
    frame = Frame(("model", f"{family}Model"), norm=("norm", f"{family}RMSNorm"))
    return model_plan(source, frame, f"{family}DecoderLayer", layer, **scales)


def _shared(b: Builder, part: Part, hidden: Hidden, scale: float) -> None:
    matrix, bias = part.linear("input_linear")
    both = b.slot("shared", matrix.rows)
    gate, up = both.split(matrix.rows // 2, matrix.rows // 2)
    b.add(Linear(hidden.x, both, matrix, bias), Gate(gate, up, gate, part.activation("activation")))
    linear(b, part, "output_linear", gate, hidden.stream, add=True, scale=scale)


def _experts(b: Builder, part: Part, hidden: Hidden, scale: float) -> None:
    router = part.child("router", "GraniteMoeHybridTopKRouter")
    routes = route(b, router, hidden.x, "topk_softmax", scale=scale)
    stacked_experts(b, part.child("experts", "GraniteMoeHybridExperts"), hidden.x, routes, hidden.stream)
