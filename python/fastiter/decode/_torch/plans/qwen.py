"""Qwen3.5 and Qwen3-Next: most layers are gated delta networks, the others attention with gated outputs."""

from __future__ import annotations

import numpy as np

from ...builder import Builder
from ...plan import Decay, Delta, Experts, Gate, Linear, Norm, Plan, Slot
from .experts import route, stacked_experts
from .parts import (
    MLP,
    Frame,
    Hidden,
    Rotary,
    attention,
    conv,
    conv_state,
    epsilon,
    gated,
    linear,
    model_plan,
    rms_norm,
    rotary_of,
)
from .source import Part, Source, activation_named


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
            slots = _slots(b, mixer)
            mix(b, mixer, hidden.x, slots)
            delta_network(b, mixer, slots, f"{family}RMSNormGated", index)
            linear(b, mixer, "out_proj", slots[1], hidden.stream, add=True)
        else:
            _attention(b, part.child("self_attn", f"{family}Attention"), hidden, index, rotary, f"{family}RMSNorm")
        rms_norm(b, part.child("post_attention_layernorm", f"{family}RMSNorm"), hidden.stream, hidden.x, offset=1.0)
        if hasattr(part.module.mlp, "experts"):
            _experts(b, part.child("mlp", f"{family}SparseMoeBlock"), hidden, family)
        else:
            mlp = part.child("mlp", f"{family}MLP")
            gated(b, mlp, MLP, mlp.activation("act_fn"), hidden.x, hidden.stream)

    return model_plan(source, frame, f"{family}DecoderLayer", layer)


Slots = tuple[Slot, Slot, Slot, Slot]


def _slots(b: Builder, part: Part) -> Slots:
    """Return the slots of q, k and v, of z, of beta, and of the decay."""
    module = part.module
    mixed = b.slot("mixed", 2 * module.key_dim + module.value_dim)
    return mixed, b.slot("z", module.value_dim), b.slot("beta", module.num_v_heads), b.slot("decay", module.num_v_heads)


def _separate(b: Builder, part: Part, x: Slot, slots: Slots) -> None:
    mixed, z, beta, decay = slots
    for name, out in (("in_proj_qkv", mixed), ("in_proj_z", z), ("in_proj_a", decay)):
        linear(b, part, name, x, out)
    linear(b, part, "in_proj_b", x, beta, activation="sigmoid")


def _interleaved(b: Builder, part: Part, x: Slot, slots: Slots) -> None:
    """Append projections whose rows are those of one key head after the other."""
    mixed, z, beta, decay = slots
    module = part.module
    (all_four, bias), (both, both_bias) = part.linear("in_proj_qkvz"), part.linear("in_proj_ba")
    part.require("the bias of in_proj_qkvz and in_proj_ba", (bias, both_bias), (None, None))
    per_key = module.num_v_heads // module.num_k_heads
    sizes = [module.head_k_dim, module.head_k_dim, per_key * module.head_v_dim, per_key * module.head_v_dim]
    outs = [*mixed.split(module.key_dim, module.key_dim, module.value_dim), z]
    for i, (size, out) in enumerate(zip(sizes, outs, strict=True)):
        b.add(Linear(x, out, all_four.blocks(sum(sizes[:i]), size, sum(sizes))))
    b.add(Linear(x, beta, both.blocks(0, per_key, 2 * per_key), activation="sigmoid"))
    b.add(Linear(x, decay, both.blocks(per_key, per_key, 2 * per_key)))


def delta_network(b: Builder, part: Part, slots: Slots, norm: str, index: int) -> None:
    """Append the convolution, the gated delta rule and the gated norm, whose result is in the slot of z."""
    mixed, z, beta, decay = slots
    module, keys = part.module, part.module.key_dim
    kernel = part.child("conv1d", "Conv1d")
    convolved, y = b.slot("convolved", mixed.size), b.slot("y", z.size)
    conv(b, kernel, mixed, convolved, conv_state(b, kernel, index), activation_named(part, module.activation))
    q, k, v = convolved.split(keys, keys, z.size)
    shape = module.num_v_heads, module.head_k_dim, module.head_v_dim
    b.add(Decay(decay, decay, -np.exp(part.vector("A_log")), part.vector("dt_bias")))
    memory = b.state("recurrent", shape, index)
    heads = module.num_k_heads, *shape
    b.add(Delta(q, k, v, decay, beta, y, memory, *heads, scale=module.head_k_dim**-0.5, eps=1e-6))
    gate = part.child("norm", norm)
    weight = gate.vector("weight")
    b.add(Norm(y, z, weight, epsilon(gate), weight.size, gate=z))


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
