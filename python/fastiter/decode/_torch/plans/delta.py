"""Layers with the gated delta rule, and the models OlmoHybrid and KimiLinear."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...builder import Builder
from ...plan import Add, Attention, Decay, Delta, Linear, Matrix, Norm, Plan, Slot
from .experts import biased_route, stacked_experts
from .parts import (
    MLP,
    Frame,
    Heads,
    Hidden,
    conv,
    conv_state,
    epsilon,
    gated,
    linear,
    model_plan,
    rms_norm,
    rotary_of,
    self_attention,
)
from .source import Part, Source, activation_named


class Network(NamedTuple):
    """The slots of a layer: of q, k and v, of the output's gate, of beta and of the decay; and its heads."""

    mixed: Slot
    gate: Slot
    beta: Slot
    decay: Slot
    key_heads: int
    value_heads: int
    key_width: int
    value_width: int


def network(b: Builder, heads: tuple[int, int, int, int], *, per_key: bool = False) -> Network:
    """Return the slots of a layer with these numbers of key and value heads, and widths of keys and values."""
    key_heads, value_heads, key_width, value_width = heads
    keys, values = key_heads * key_width, value_heads * value_width
    slots = b.slot("mixed", 2 * keys + values), b.slot("z", values), b.slot("beta", value_heads)
    return Network(*slots, b.slot("decay", value_heads * (key_width if per_key else 1)), *heads)


def delta_rule(b: Builder, part: Part, of: Network, norm: tuple[str, str], index: int) -> None:
    """Append the convolution, the delta rule and the gated norm, whose result is in the gate's slot."""
    keys, values = of.key_heads * of.key_width, of.value_heads * of.value_width
    kernel = part.child("conv1d", "Conv1d")
    convolved, y = b.slot("convolved", of.mixed.size), b.slot("y", values)
    conv(b, kernel, of.mixed, convolved, conv_state(b, kernel, index), activation_named(part, part.module.activation))
    memory = b.state("recurrent", (of.value_heads, of.key_width, of.value_width), index)
    per_key = of.decay.size > of.value_heads
    q, k, v = convolved.split(keys, keys, values)
    heads = of.key_heads, of.value_heads, of.key_width, of.value_width
    scale = of.key_width**-0.5
    b.add(Delta(q, k, v, of.decay, of.beta, y, memory, *heads, scale=scale, eps=1e-6, per_key=per_key))
    gate = part.child(*norm)
    weight, activation = gate.vector("weight"), activation_named(gate, gate.module.activation)
    b.add(Norm(y, of.gate, weight, epsilon(gate), weight.size, gate=of.gate, gate_activation=activation))


def decay(b: Builder, part: Part, of: Network) -> None:
    """Append the decay, -exp(A_log) softplus(x + dt_bias), in place."""
    bias = part.vector("dt_bias").reshape(-1)
    rate = np.repeat(-np.exp(part.vector("A_log")).reshape(-1), bias.size // of.value_heads)
    b.add(Decay(of.decay, of.decay, rate, bias))


def _projections(b: Builder, part: Part, x: Slot, of: Network) -> None:
    keys, values = of.key_heads * of.key_width, of.value_heads * of.value_width
    for name, slot in zip("qkv", of.mixed.split(keys, keys, values), strict=True):
        linear(b, part, f"{name}_proj", x, slot)


def olmo_hybrid(source: Source) -> Plan:
    """Return the plan of an OlmoHybrid, whose attention and its gated layers have norms behind them."""
    body = source.root().child("model", "OlmoHybridModel")
    rotary = rotary_of(body, "rotary_emb", "OlmoHybridRotaryEmbedding") if body.has("rotary_emb") else None
    heads = Heads(rotary, ("q_norm", "k_norm", "OlmoHybridRMSNorm"))

    def layer(b: Builder, part: Part, hidden: Hidden, index: int) -> None:
        mlp = part.child("mlp", "OlmoHybridMLP")
        if part.has("linear_attn"):
            rms_norm(b, part.child("input_layernorm", "OlmoHybridRMSNorm"), hidden.stream, hidden.x)
            _olmo_network(b, part.child("linear_attn", "OlmoHybridGatedDeltaNet"), hidden, index)
            rms_norm(b, part.child("post_attention_layernorm", "OlmoHybridRMSNorm"), hidden.stream, hidden.x)
            gated(b, mlp, MLP, mlp.activation("act_fn"), hidden.x, hidden.stream)
            return
        attention = part.child("self_attn", "OlmoHybridAttention")
        self_attention(b, attention, hidden.stream, hidden.x, index, heads, add=False)
        rms_norm(b, part.child("post_attention_layernorm", "OlmoHybridRMSNorm"), hidden.x, hidden.x)
        b.add(Add(hidden.stream, hidden.x, hidden.stream))
        gated(b, mlp, MLP, mlp.activation("act_fn"), hidden.stream, hidden.x, add=False)
        rms_norm(b, part.child("post_feedforward_layernorm", "OlmoHybridRMSNorm"), hidden.x, hidden.x)
        b.add(Add(hidden.stream, hidden.x, hidden.stream))

    frame = Frame(("model", "OlmoHybridModel"), norm=("norm", "OlmoHybridRMSNorm"))
    classes = "OlmoHybridAttentionDecoderLayer", "OlmoHybridLinearAttentionDecoderLayer"
    return model_plan(source, frame, classes, layer)


def _olmo_network(b: Builder, part: Part, hidden: Hidden, index: int) -> None:
    module = part.module
    of = network(b, (module.num_k_heads, module.num_v_heads, module.head_k_dim, module.head_v_dim))
    _projections(b, part, hidden.x, of)
    scale = 2.0 if module.allow_neg_eigval else 1.0
    linear(b, part, "b_proj", hidden.x, of.beta, activation="sigmoid", scale=scale)
    linear(b, part, "a_proj", hidden.x, of.decay)
    linear(b, part, "g_proj", hidden.x, of.gate)
    decay(b, part, of)
    delta_rule(b, part, of, ("o_norm", "OlmoHybridRMSNormGated"), index)
    linear(b, part, "o_proj", of.gate, hidden.stream, add=True)


def kimi_linear(source: Source) -> Plan:
    """Return the plan of a KimiLinear, whose delta rule has a decay per key and whose attention has latent keys."""

    def layer(b: Builder, part: Part, hidden: Hidden, index: int) -> None:
        rms_norm(b, part.child("input_layernorm", "KimiLinearRMSNorm"), hidden.stream, hidden.x)
        attention = part.child("self_attn", "KimiLinearAttention", "KimiLinearDeltaAttention")
        if attention.has("forget_gate"):
            _kimi_network(b, attention, hidden, index)
        else:
            _latent_attention(b, attention, hidden, index)
        rms_norm(b, part.child("post_attention_layernorm", "KimiLinearRMSNorm"), hidden.stream, hidden.x)
        mlp = part.child("mlp", "KimiLinearMLP", "KimiLinearMoE")
        if mlp.has("experts"):
            routes = biased_route(b, mlp.child("gate", "KimiLinearTopkRouter"), hidden.x)
            stacked_experts(b, mlp.child("experts", "KimiLinearExperts"), hidden.x, routes, hidden.stream)
            mlp = mlp.child("shared_experts", "KimiLinearMLP")
        gated(b, mlp, MLP, mlp.activation("act_fn"), hidden.x, hidden.stream)

    frame = Frame(("model", "KimiLinearModel"), norm=("norm", "KimiLinearRMSNorm"))
    return model_plan(source, frame, "KimiLinearDecoderLayer", layer)


def _kimi_network(b: Builder, part: Part, hidden: Hidden, index: int) -> None:
    heads, width = part.module.num_heads, part.module.head_dim
    of, low = network(b, (heads, heads, width, width), per_key=True), b.slot("low", width)
    _projections(b, part, hidden.x, of)
    linear(b, part, "b_proj", hidden.x, of.beta, activation="sigmoid")
    forget = part.child("forget_gate", "KimiLinearForgetGate")
    linear(b, forget, "f_a_proj", hidden.x, low)
    linear(b, forget, "f_b_proj", low, of.decay)
    decay(b, forget, of)
    linear(b, part, "g_a_proj", hidden.x, low)
    linear(b, part, "g_b_proj", low, of.gate)
    delta_rule(b, part, of, ("o_norm", "KimiLinearRMSNormGated"), index)
    linear(b, part, "o_proj", of.gate, hidden.stream, add=True)


def _latent_attention(b: Builder, part: Part, hidden: Hidden, index: int) -> None:
    """Append attention whose cache has one latent vector and the rest of a key for all heads.

    A head's scores are those of its queries, multiplied by the transpose of its part of kv_b_proj, with the latents.
    """
    of = part.module
    heads, nope, rest, rank, width = (
        of.num_heads,
        of.qk_nope_head_dim,
        of.qk_rope_head_dim,
        of.kv_lora_rank,
        of.v_head_dim,
    )
    q = b.slot("attention.q", heads * (nope + rest))
    _queries(b, part, hidden.x, q)
    low = b.slot("attention.latent", rank + rest)
    linear(b, part, "kv_a_proj_with_mqa", hidden.x, low)
    latent, last = low.split(rank, rest)
    rms_norm(b, part.child("kv_a_layernorm", "KimiLinearRMSNorm"), latent, latent)
    matrix, _ = part.linear("kv_b_proj")
    queries, y = b.slot("attention.queries", heads * (rank + rest)), b.slot("attention.y", heads * rank)
    out = b.slot("attention.out", heads * width)
    for h in range(heads):
        a, z = q.part(h * (nope + rest), nope + rest).split(nope, rest)
        c, d = queries.part(h * (rank + rest), rank + rest).split(rank, rest)
        b.add(
            Linear(a, c, Matrix(matrix.name, rank, nope, h * (nope + width), transposed=True)),
            Add(z, z, d, scale_b=0.0),
        )
    keys, entries = b.state("keys", (1, rank), index), b.state("values", (1, rest), index)
    sizes = heads, 1, rank + rest, rank
    b.add(Attention(queries, latent, last, y, keys, entries, *sizes, scale=of.scaling, latent=True))
    for h in range(heads):
        own = Matrix(matrix.name, width, rank, h * (nope + width) + nope)
        b.add(Linear(y.part(h * rank, rank), out.part(h * width, width), own))
    linear(b, part, "o_proj", out, hidden.stream, add=True)


def _queries(b: Builder, part: Part, x: Slot, out: Slot) -> None:
    if part.has("q_proj"):
        linear(b, part, "q_proj", x, out)
        return
    low = b.slot("attention.low", part.module.q_a_proj.out_features)
    linear(b, part, "q_a_proj", x, low)
    rms_norm(b, part.child("q_a_layernorm", "KimiLinearRMSNorm"), low, low)
    linear(b, part, "q_b_proj", low, out)
