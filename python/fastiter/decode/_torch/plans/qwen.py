"""Qwen3.5 and Qwen3-Next: most layers are gated delta networks, the others attention with gated outputs."""

from __future__ import annotations

import numpy as np

from ...builder import Builder
from ...plan import Experts, Gate, Linear, Plan, Slot
from .delta import Network, decay, delta_rule, network
from .experts import route, stacked_experts
from .parts import (
    MLP,
    Frame,
    Hidden,
    Rotary,
    attention,
    gated,
    linear,
    model_plan,
    rms_norm,
    rotary_of,
)
from .source import Part, Source


def qwen35(source: Source) -> Plan:
    """Return the plan of a dense Qwen3.5 for text."""
    return _plan(source, "Qwen3_5", "Qwen3_5TextModel", "Qwen3_5TextRotaryEmbedding")


def qwen35_moe(source: Source) -> Plan:
    """Return the plan of a Qwen3.5 with experts, for text."""
    return _plan(source, "Qwen3_5Moe", "Qwen3_5MoeTextModel", "Qwen3_5MoeTextRotaryEmbedding")


def qwen3_next(source: Source) -> Plan:
    """Return the plan of a Qwen3-Next."""
    return _plan(source, "Qwen3Next", "Qwen3NextModel", "Qwen3NextRotaryEmbedding")


def _plan(source: Source, family: str, body: str, rotary_class: str) -> Plan:
    frame = Frame(("model", body), norm=("norm", f"{family}RMSNorm"), offset=1.0)
    rotary = rotary_of(source.root().child("model", body), "rotary_emb", rotary_class)
    mix = _interleaved if family == "Qwen3Next" else _separate

    def layer(b: Builder, part: Part, hidden: Hidden, index: int) -> None:
        rms_norm(b, part.child("input_layernorm", f"{family}RMSNorm"), hidden.stream, hidden.x, offset=1.0)
        if part.has("linear_attn"):
            mixer = part.child("linear_attn", f"{family}GatedDeltaNet")
            of = mixer.module
            slots = network(b, (of.num_k_heads, of.num_v_heads, of.head_k_dim, of.head_v_dim))
            mix(b, mixer, hidden.x, slots)
            decay(b, mixer, slots)
            delta_rule(b, mixer, slots, ("norm", f"{family}RMSNormGated"), index)
            linear(b, mixer, "out_proj", slots.gate, hidden.stream, add=True)
        else:
            _attention(b, part.child("self_attn", f"{family}Attention"), hidden, index, rotary, f"{family}RMSNorm")
        rms_norm(b, part.child("post_attention_layernorm", f"{family}RMSNorm"), hidden.stream, hidden.x, offset=1.0)
        if hasattr(part.module.mlp, "experts"):
            _experts(b, part.child("mlp", f"{family}SparseMoeBlock"), hidden, family)
        else:
            mlp = part.child("mlp", f"{family}MLP")
            gated(b, mlp, MLP, mlp.activation("act_fn"), hidden.x, hidden.stream)

    return model_plan(source, frame, f"{family}DecoderLayer", layer)


def _separate(b: Builder, part: Part, x: Slot, of: Network) -> None:
    for name, out in (("in_proj_qkv", of.mixed), ("in_proj_z", of.gate), ("in_proj_a", of.decay)):
        linear(b, part, name, x, out)
    linear(b, part, "in_proj_b", x, of.beta, activation="sigmoid")


def _interleaved(b: Builder, part: Part, x: Slot, of: Network) -> None:
    """Append projections whose rows are those of one key head after the other."""
    (all_four, bias), (both, both_bias) = part.linear("in_proj_qkvz"), part.linear("in_proj_ba")
    part.require("the bias of in_proj_qkvz and in_proj_ba", (bias, both_bias), (None, None))
    per_key = of.value_heads // of.key_heads
    sizes = [of.key_width, of.key_width, per_key * of.value_width, per_key * of.value_width]
    outs = [*of.mixed.split(*(of.key_heads * size for size in sizes[:3])), of.gate]
    for i, (size, out) in enumerate(zip(sizes, outs, strict=True)):
        b.add(Linear(x, out, all_four.blocks(sum(sizes[:i]), size, sum(sizes))))
    b.add(Linear(x, of.beta, both.blocks(0, per_key, 2 * per_key), activation="sigmoid"))
    b.add(Linear(x, of.decay, both.blocks(per_key, per_key, 2 * per_key)))


def _attention(b: Builder, part: Part, hidden: Hidden, index: int, rotary: Rotary, norm: str) -> None:
    """Append attention whose q_proj has a head's queries and then its gate, head after head."""
    width = part.module.head_dim
    matrix, bias = part.linear("q_proj")
    q, gate = (b.slot(f"attention.{name}", matrix.rows // 2) for name in ("q", "gate"))
    for i, out in enumerate((q, gate)):
        own = None if bias is None else np.ascontiguousarray(bias.reshape(-1, 2, width)[:, i]).reshape(-1)
        b.add(Linear(hidden.x, out, matrix.blocks(i * width, width, 2 * width), own))
    k, v = (b.slot(f"attention.{name}", part.module.k_proj.out_features) for name in "kv")
    linear(b, part, "k_proj", hidden.x, k)
    linear(b, part, "v_proj", hidden.x, v)
    for name, x in (("q_norm", q), ("k_norm", k)):
        rms_norm(b, part.child(name, norm), x, x, offset=1.0)
        rotary.add(b, x, x.size // width)
    y = attention(b, index, (q, k, v), width, part.module.scaling)
    b.add(Gate(gate, y, y, "sigmoid"))
    linear(b, part, "o_proj", y, hidden.stream, add=True)


def _experts(b: Builder, part: Part, hidden: Hidden, family: str) -> None:
    """Append experts, and one for all tokens whose weight is a sigmoid."""
    router = part.child("gate", f"{family}TopKRouter")
    routes = route(b, router, hidden.x, "softmax", normalize=getattr(router.module, "norm_topk_prob", True))
    stacked_experts(b, part.child("experts", f"{family}Experts"), hidden.x, routes, hidden.stream)
    weight = b.slot("shared.weight", 1)
    linear(b, part, "shared_expert_gate", hidden.x, weight, activation="sigmoid")
    shared = part.child("shared_expert", f"{family}MLP")
    (gate, up, down), biases = zip(*map(shared.linear, MLP), strict=True)
    shared.require("the bias of its layers", biases, (None, None, None))
    activation = shared.activation("act_fn")
    b.add(Experts(hidden.x, weight, hidden.stream, (gate,), (up,), (down,), activation, add=True))
