"""xLSTM: matrix memories with exponential gates; its modules are those of transformers, or of the package xlstm."""

from __future__ import annotations

from ...builder import Builder
from ...plan import Activate, MLstm, Norm, Plan
from .parts import Frame, Hidden, gated, linear, model_plan, rms_norm
from .source import Part, Source

_NORMS = ("xLSTMRMSNorm", "RMSNorm")


def xlstm(source: Source) -> Plan:
    """Return the plan of an xLSTM."""
    config = source.root().module.config
    source.root().require("mode", config.mode, "inference")
    source.root().require("weight_mode", config.weight_mode, "single")

    def layer(b: Builder, part: Part, hidden: Hidden, index: int) -> None:
        for_mlstm, for_ffn = part.child("norm_mlstm", *_NORMS), part.child("norm_ffn", *_NORMS)
        rms_norm(b, for_mlstm, hidden.stream, hidden.x, bias=for_mlstm.optional("bias"))
        _mlstm(b, part.child("mlstm_layer", "xLSTMLayer", "mLSTMLayer"), hidden, index, config.eps)
        rms_norm(b, for_ffn, hidden.stream, hidden.x, bias=for_ffn.optional("bias"))
        ffn = part.child("ffn", "xLSTMFeedForward", "FeedForward")
        names = "proj_up_gate", "proj_up", "proj_down"
        gated(b, ffn, names, ffn.activation("act_fn"), hidden.x, hidden.stream)

    frame = Frame(("backbone", "xLSTMModel"), "embeddings", ("out_norm", *_NORMS), layers="blocks")
    return model_plan(source, frame, "xLSTMBlock", layer, cap=config.output_logit_soft_cap)


def _mlstm(b: Builder, part: Part, hidden: Hidden, index: int, eps: float) -> None:
    heads, keys, values = part.module.config.num_heads, part.module.qk_dim, part.module.v_dim
    mixed, gates, y = b.slot("qkvo", 2 * keys + 2 * values), b.slot("gates", 2 * heads), b.slot("y", values)
    q, k, v, o = mixed.split(keys, keys, values, values)
    i, f = gates.split(heads, heads)
    slots = {"q": q, "k": k, "v": v, "ogate_preact": o, "igate_preact": i, "fgate_preact": f}
    for name, out in slots.items():
        linear(b, part, name, hidden.x, out)
    if part.module.config.gate_soft_cap is not None:
        b.add(Activate(gates, gates, "softcap", part.module.config.gate_soft_cap))
    part.child("mlstm_backend", "xLSTMBackend", "mLSTMBackend")
    part.child("ogate_act_fn", "Sigmoid")
    width, size = keys // heads, values // heads
    memory = b.state("recurrent", (heads, width, size), index, 0)
    normalizer, maximum = b.state("recurrent", (heads, width), index, 1), b.state("recurrent", (heads, 1), index, 2)
    b.add(MLstm(q, k, v, i, f, y, memory, normalizer, maximum, heads, width, size, width**-0.5, eps))
    norm = part.child("multihead_norm", "xLSTMMultiHeadLayerNorm", "MultiHeadLayerNorm")
    weight, bias = norm.vector("weight"), norm.optional("bias")
    b.add(Norm(y, y, weight, norm.module.eps, size, "layer", bias, gate=o, gate_activation="sigmoid"))
    linear(b, part, "out_proj", y, hidden.stream, add=True)
