"""Zamba2: Mamba-2 layers, some of which also have the output of a shared transformer block, with adapters, as input."""

from __future__ import annotations

from ...builder import Builder
from ...plan import Add, Gate, Linear, Plan, Slot
from .mamba2 import ssd_mixer
from .parts import Frame, Hidden, Rotary, attention, linear, model_plan, rms_norm, rotary_of
from .source import Part, Source


def zamba2(source: Source) -> Plan:
    """Return the plan of a Zamba2."""
    body = source.root().child("model", "Zamba2Model")
    rotary = rotary_of(body, "rotary_emb", "Zamba2RotaryEmbedding") if body.has("rotary_emb") else None
    order = {layer: i for i, layer in enumerate(body.module.config.hybrid_layer_ids)}

    def layer(b: Builder, part: Part, hidden: Hidden, index: int) -> None:
        x = hidden.stream
        if index in order:
            shared = part.child("shared_transformer", "Zamba2AttentionDecoderLayer")
            added = _shared(b, shared, hidden, rotary, (index, order[index]))
            linear(b, part, "linear", added, hidden.x)
            b.add(Add(hidden.stream, hidden.x, hidden.x))
            part, x = part.child("mamba_decoder", "Zamba2MambaDecoderLayer"), hidden.x
        rms_norm(b, part.child("input_layernorm", "Zamba2RMSNorm"), x, hidden.x)
        ssd_mixer(b, part.child("mamba", "Zamba2MambaMixer"), hidden, index, "Zamba2RMSNormGated")

    frame = Frame(("model", "Zamba2Model"), norm=("final_layernorm", "Zamba2RMSNorm"), keeps_embedding=True)
    return model_plan(source, frame, ("Zamba2MambaDecoderLayer", "Zamba2HybridLayer"), layer)


def _shared(b: Builder, part: Part, hidden: Hidden, rotary: Rotary | None, where: tuple[int, int]) -> Slot:
    """Append the shared block, and return its output; ``where`` is the layer, and its number among such layers."""
    index, use = where
    attn = part.child("self_attn", "Zamba2Attention")
    both = b.slot("normalized", hidden.both.size)
    rms_norm(b, part.child("input_layernorm", "Zamba2RMSNorm"), hidden.both, both)
    slots = [b.slot(f"attention.{each}", getattr(attn.module, f"{each}_proj").out_features) for each in "qkv"]
    for each, slot in zip("qkv", slots, strict=True):
        linear(b, attn, f"{each}_proj", both, slot)
        if attn.has(f"linear_{each}_adapter_list"):
            _adapter(b, attn, f"linear_{each}_adapter_list", both, slot, use)
    q, k, v = slots
    if rotary is not None:
        rotary.add(b, q, q.size // attn.module.head_dim)
        rotary.add(b, k, k.size // attn.module.head_dim)
    y = attention(b, index, (q, k, v), attn.module.head_dim, attn.module.scaling)
    out = b.slot("transformer", hidden.x.size)
    linear(b, attn, "o_proj", y, out)
    rms_norm(b, part.child("pre_ff_layernorm", "Zamba2RMSNorm"), out, out)
    mlp = part.child("feed_forward", "Zamba2MLP")
    inner = b.slot("inner", mlp.module.gate_up_proj.out_features)
    gate, up = inner.split(inner.size // 2, inner.size // 2)
    linear(b, mlp, "gate_up_proj", out, inner)
    _adapter(b, mlp, "gate_up_proj_adapter_list", out, inner, use)
    b.add(Gate(gate, up, gate, mlp.activation("act_fn")))
    linear(b, mlp, "down_proj", gate, out)
    return out


def _adapter(b: Builder, part: Part, name: str, x: Slot, out: Slot, use: int) -> None:
    """Append the adapter of a layer, the ``use``-th of a list, of which other layers use the others."""
    for i, each in enumerate(part.children(name, "Sequential", "Identity")):
        if type(each.module).__name__ == "Identity":
            continue
        first, second = each.child("0", "Linear"), each.child("1", "Linear")
        if i == use:
            low = b.slot("adapter", first.module.out_features)
            b.add(Linear(x, low, first.matrix()), Linear(low, out, second.matrix(), add=True))
