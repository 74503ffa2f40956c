"""LFM2: short convolutions between two gates, and attention with norms of queries and keys."""

from __future__ import annotations

from ...builder import Builder
from ...plan import Gate, Plan
from .parts import (
    Frame,
    Heads,
    Hidden,
    conv,
    conv_state,
    gated,
    linear,
    model_plan,
    rms_norm,
    rotary_of,
    self_attention,
)
from .source import Part, Source


def lfm2(source: Source) -> Plan:
    """Return the plan of an LFM2."""
    body = source.root().child("model", "Lfm2Model")
    rotary = rotary_of(body, "rotary_emb", "Lfm2RotaryEmbedding")
    heads = Heads(rotary, ("q_layernorm", "k_layernorm", "Lfm2RMSNorm"))

    def layer(b: Builder, part: Part, hidden: Hidden, index: int) -> None:
        rms_norm(b, part.child("operator_norm", "Lfm2RMSNorm"), hidden.stream, hidden.x)
        if part.has("self_attn"):
            attention = part.child("self_attn", "Lfm2Attention")
            self_attention(b, attention, hidden.x, hidden.stream, index, heads, "out_proj")
        else:
            _conv(b, part.child("conv", "Lfm2ShortConv"), hidden, index)
        rms_norm(b, part.child("ffn_norm", "Lfm2RMSNorm"), hidden.stream, hidden.x)
        mlp = part.child("feed_forward", "Lfm2MLP")
        gated(b, mlp, ("w1", "w3", "w2"), "silu", hidden.x, hidden.stream)

    frame = Frame(("model", "Lfm2Model"), norm=("embedding_norm", "Lfm2RMSNorm"))
    return model_plan(source, frame, "Lfm2DecoderLayer", layer)


def _conv(b: Builder, part: Part, hidden: Hidden, index: int) -> None:
    size = hidden.x.size
    projected, convolved = b.slot("BCx", 3 * size), b.slot("convolved", size)
    B, C, x = projected.split(size, size, size)
    linear(b, part, "in_proj", hidden.x, projected)
    kernel = part.child("conv", "Conv1d")
    b.add(Gate(B, x, x))
    conv(b, kernel, x, convolved, conv_state(b, kernel, index), None)
    b.add(Gate(C, convolved, convolved))
    linear(b, part, "out_proj", convolved, hidden.stream, add=True)
