"""Falcon-H1: each layer has a Mamba-2 mixer and attention side by side, with factors nearly everywhere."""

from __future__ import annotations

import numpy as np

from ...builder import Builder
from ...plan import Gate, Linear, Plan
from .mamba2 import ssd_mixer
from .parts import Frame, Heads, Hidden, linear, model_plan, rms_norm, rotary_of, self_attention
from .source import Part, Source


def falcon_h1(source: Source) -> Plan:
    """Return the plan of a Falcon-H1."""
    body = source.root().child("model", "FalconH1Model")
    rotary = rotary_of(body, "rotary_emb", "FalconH1RotaryEmbedding")

    def layer(b: Builder, part: Part, hidden: Hidden, index: int) -> None:
        rms_norm(b, part.child("input_layernorm", "FalconH1RMSNorm"), hidden.stream, hidden.x)
        attention = part.child("self_attn", "FalconH1Attention")
        _mixer(b, part.child("mamba", "FalconH1Mixer"), hidden, index, part.module.ssm_out_multiplier)
        heads = Heads(rotary, None, part.module.attention_in_multiplier, attention.module.key_multiplier)
        scale = part.module.attn_out_multiplier
        self_attention(b, attention, hidden.x, hidden.stream, index, heads, scale=scale)
        rms_norm(b, part.child("pre_ff_layernorm", "FalconH1RMSNorm"), hidden.stream, hidden.x)
        _mlp(b, part.child("feed_forward", "FalconH1MLP"), hidden)

    scales = {"embedding_scale": body.module.embedding_multiplier, "logits_scale": body.module.lm_head_multiplier}
    frame = Frame(("model", "FalconH1Model"), norm=("final_layernorm", "FalconH1RMSNorm"))
    return model_plan(source, frame, "FalconH1DecoderLayer", layer, **scales)


def _mixer(b: Builder, mixer: Part, hidden: Hidden, index: int, scale: float) -> None:
    norm = "FalconH1RMSNormGated" if mixer.module.mamba_rms_norm else None
    factors = np.array(mixer.module.mup_vector.detach().cpu().double().numpy()).reshape(-1)
    how = {"input_scale": mixer.module.ssm_in_multiplier, "factors": factors}
    ssd_mixer(b, mixer, hidden, index, norm, scale=scale, **how)


def _mlp(b: Builder, part: Part, hidden: Hidden) -> None:
    (gate, gate_bias), (up, up_bias) = part.linear("gate_proj"), part.linear("up_proj")
    inner = b.slot("inner", 2 * up.rows)
    a, c = inner.split(up.rows, up.rows)
    b.add(Linear(hidden.x, a, gate, gate_bias, scale=part.module.gate_multiplier), Linear(hidden.x, c, up, up_bias))
    b.add(Gate(a, c, a, part.activation("act_fn")))
    linear(b, part, "down_proj", a, hidden.stream, add=True, scale=part.module.down_multiplier)
