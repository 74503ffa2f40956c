"""Jamba and Bamba: mixers or attention, each followed by a gated layer or experts."""

from __future__ import annotations

from collections.abc import Callable

from ...builder import Builder
from ...plan import Plan
from .experts import route, stacked_experts
from .mamba import selective_mixer
from .mamba2 import ssd_mixer
from .parts import MLP, Frame, Heads, Hidden, gated, model_plan, rms_norm, rotary_of, self_attention
from .source import Part, Source

Layer = Callable[[Builder, Part, Hidden, int], None]


def jamba(source: Source) -> Plan:
    """Return the plan of a Jamba, whose mixers are those of Mamba and whose attention knows no positions."""

    def mixer(b: Builder, part: Part, hidden: Hidden, index: int) -> None:
        selective_mixer(b, part.child("mamba", "JambaMambaMixer"), hidden, index)

    return _plan(source, "Jamba", ("JambaAttentionDecoderLayer", "JambaMambaDecoderLayer"), mixer, Heads())


def bamba(source: Source) -> Plan:
    """Return the plan of a Bamba, whose mixers are those of Mamba-2."""
    rotary = rotary_of(source.root().child("model", "BambaModel"), "rotary_emb", "BambaRotaryEmbedding")

    def mixer(b: Builder, part: Part, hidden: Hidden, index: int) -> None:
        ssd_mixer(b, part.child("mamba", "BambaMixer"), hidden, index, "BambaRMSNormGated")

    return _plan(source, "Bamba", ("BambaDecoderLayer",), mixer, Heads(rotary))


def _plan(
    source: Source,
    family: str,
    classes: tuple[str, ...],
    mixer: Layer,
    heads: Heads,
) -> Plan:
    def layer(b: Builder, part: Part, hidden: Hidden, index: int) -> None:
        rms_norm(b, part.child("input_layernorm", f"{family}RMSNorm"), hidden.stream, hidden.x)
        if part.has("mamba"):
            mixer(b, part, hidden, index)
        else:
            attention = part.child("self_attn", f"{family}Attention")
            self_attention(b, attention, hidden.x, hidden.stream, index, heads)
        rms_norm(b, part.child("pre_ff_layernorm", f"{family}RMSNorm"), hidden.stream, hidden.x)
        mlp = part.child("feed_forward", f"{family}MLP", f"{family}SparseMoeBlock")
        if mlp.has("experts"):
            routes = route(b, mlp.child("router", f"{family}TopKRouter"), hidden.x, "softmax")
            stacked_experts(b, mlp.child("experts", f"{family}Experts"), hidden.x, routes, hidden.stream)
        else:
            gated(b, mlp, MLP, mlp.activation("act_fn"), hidden.x, hidden.stream)

    frame = Frame(("model", f"{family}Model"), norm=("final_layernorm", f"{family}RMSNorm"))
    return model_plan(source, frame, classes, layer)
