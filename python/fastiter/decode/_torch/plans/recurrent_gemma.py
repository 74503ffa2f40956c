"""RecurrentGemma: linear recurrent units with gates of blocks, and attention over a window."""

from __future__ import annotations

import numpy as np

from ...builder import Builder
from ...plan import Gate, Linear, Lru, Matrix, Plan, Slot
from .parts import MLP, Frame, Heads, Hidden, conv, gated, linear, model_plan, rms_norm, rotary_of, self_attention
from .source import Part, Source

_NORM = "RecurrentGemmaRMSNorm"


def recurrent_gemma(source: Source) -> Plan:
    """Return the plan of a RecurrentGemma, which keeps the states of its recurrent layers in its modules."""

    def layer(b: Builder, part: Part, hidden: Hidden, index: int) -> None:
        rms_norm(b, part.child("temporal_pre_norm", _NORM), hidden.stream, hidden.x, offset=1.0)
        block = part.child("temporal_block", "RecurrentGemmaRecurrentBlock", "RecurrentGemmaAttention")
        if block.has("rg_lru"):
            _recurrent(b, block, hidden, index)
        else:
            rotary = rotary_of(block, "rotary_emb", "RecurrentGemmaRotaryEmbedding")
            heads = Heads(rotary, window=block.module.sliding_window)
            self_attention(b, block, hidden.x, hidden.stream, index, heads)
        rms_norm(b, part.child("channel_pre_norm", _NORM), hidden.stream, hidden.x, offset=1.0)
        mlp = part.child("mlp_block", "RecurrentGemmaMlp")
        gated(b, mlp, MLP, mlp.activation("act_fn"), hidden.x, hidden.stream)

    body = source.root().child("model", "RecurrentGemmaModel").module
    frame = Frame(("model", "RecurrentGemmaModel"), norm=("final_norm", _NORM), offset=1.0)
    how = {"embedding_scale": float(body.normalizer), "cap": float(body.config.logits_soft_cap)}
    return model_plan(source, frame, "RecurrentGemmaDecoderLayer", layer, **how)


def _recurrent(b: Builder, part: Part, hidden: Hidden, index: int) -> None:
    size, width = part.module.lru_width, part.module.conv1d_width
    part.require("lru_width", size, part.module.hidden_size)  # transformers' states have hidden_size numbers
    gate, x, u = (b.slot(f"lru.{name}", size) for name in ("gate", "x", "u"))
    linear(b, part, "linear_y", hidden.x, gate, activation=part.activation("act_fn"))
    linear(b, part, "linear_x", hidden.x, x)
    state = b.state("conv", (width - 1, size), index, attribute=part.path("conv1d_state"))
    conv(b, part.child("conv_1d", "Conv1d"), x, u, state, None)
    lru = part.child("rg_lru", "RecurrentGemmaRglru")
    write, forget = (_block_gate(b, lru, name, u) for name in ("input_gate", "recurrent_gate"))
    memory = b.state("recurrent", (size,), index, attribute=lru.path("recurrent_states"))
    rate = -8 * np.logaddexp(0, lru.vector("recurrent_param"))
    b.add(Lru(u, write, forget, x, memory, rate), Gate(gate, x, x))
    linear(b, part, "linear_out", x, hidden.stream, add=True)


def _block_gate(b: Builder, lru: Part, name: str, u: Slot) -> Slot:
    """Append a product with a block of a diagonal for each head, and return its output."""
    of, bias = lru.matrix(f"{name}_weight"), lru.vector(f"{name}_bias").reshape(-1)
    out, size = b.slot(f"lru.{name}", u.size), of.columns
    for start in range(0, u.size, size):
        own = Matrix(of.name, size, size, start, transposed=True)
        b.add(Linear(u.part(start, size), out.part(start, size), own, bias[start : start + size]))
    return out
