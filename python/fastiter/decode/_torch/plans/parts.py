"""The parts that many models share: the frame of a model, norms, convolutions, attention, gated layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...builder import Builder
from ...plan import Activate, Activation, Attention, Conv, Embed, Gate, Linear, Norm, Plan, Rope, Slot, State
from .source import Part, Source

#: The layers of the usual gated layer
MLP = ("gate_proj", "up_proj", "down_proj")


class Hidden(NamedTuple):
    """The slots that all layers share: the residual stream, and the normalized input of a layer's block.

    ``both`` is the residual stream, followed by the token's embedding in models that keep it.
    """

    stream: Slot
    x: Slot
    both: Slot


def linear(b: Builder, part: Part, name: str, x: Slot, out: Slot, **how: Any) -> None:
    """Append a linear layer."""
    matrix, bias = part.linear(name)
    b.add(Linear(x, out, matrix, bias, **how))


def rms_norm(b: Builder, part: Part, x: Slot, out: Slot, *, offset: float = 0.0, **how: Any) -> None:
    """Append a root mean square norm of a module whose weight, plus ``offset``, has the size of a group."""
    weight = part.vector("weight") + offset
    b.add(Norm(x, out, weight, epsilon(part), **{"size": weight.size, **how}))


def epsilon(part: Part) -> float:
    """Return the number that a norm adds to the mean square."""
    return float(part.module.variance_epsilon if part.has("variance_epsilon") else part.module.eps)


def conv(b: Builder, part: Part, x: Slot, out: Slot, state: State, activation: Activation | None) -> None:
    """Append a depthwise convolution."""
    weight = part.vector("weight")
    part.require("the number of channels per group", weight.shape[1], 1)
    b.add(Conv(x, out, state, np.ascontiguousarray(weight[:, 0].T), part.optional("bias"), activation))


def conv_state(b: Builder, part: Part, layer: int) -> State:
    """Return the state of a depthwise convolution, as long as its kernel."""
    channels, _, length = part.module.weight.shape
    return b.state("conv", (length, channels), layer)


class Frame(NamedTuple):
    """How a model names what is around its layers."""

    body: tuple[str, str] = ("model", "Model")
    embedding: str = "embed_tokens"
    norm: tuple[str, ...] = ("norm", "RMSNorm")
    offset: float = 0.0
    keeps_embedding: bool = False
    layers: str = "layers"


def model_plan(
    source: Source,
    frame: Frame,
    layer_class: str | tuple[str, ...],
    layer: Callable[[Builder, Part, Hidden, int], None],
    *,
    embedding_scale: float = 1.0,
    logits_scale: float = 1.0,
    cap: float | None = None,
) -> Plan:
    """Return the plan of a model: embeddings, layers, a norm and the head, whose outputs may have a soft cap."""
    b, root = Builder(), source.root()
    classes = (layer_class,) if isinstance(layer_class, str) else layer_class
    body = root.child(*frame.body)
    table = body.child(frame.embedding, "Embedding")
    root.require("max_norm", table.module.max_norm, None)
    matrix = table.matrix()
    size = matrix.columns
    both = b.slot("stream", 2 * size if frame.keeps_embedding else size)
    hidden = Hidden(both.part(0, size), b.slot("x", size), both)
    b.add(*(Embed(both.part(start, size), matrix, embedding_scale) for start in range(0, both.size, size)))
    layers = body.children(frame.layers, *classes)
    body.require("the number of layers", len(layers), body.module.config.num_hidden_layers)
    for index, each in enumerate(layers):
        layer(b, each, hidden, index)
    rms_norm(b, body.child(*frame.norm), hidden.stream, hidden.x, offset=frame.offset)
    head, bias = root.linear("lm_head")
    logits = b.slot("logits", head.rows)
    b.add(Linear(hidden.x, logits, head, bias, scale=logits_scale))
    if cap is not None:
        b.add(Activate(logits, logits, "softcap", cap))
    return b.plan()


class Rotary(NamedTuple):
    """The frequencies of rotary embeddings, and the factor of their cosines and sines."""

    frequencies: np.ndarray[Any, np.dtype[np.float32]]
    scaling: float

    def add(self, b: Builder, x: Slot, heads: int, **how: Any) -> None:
        """Append the rotation in place of heads."""
        rotary = 2 * self.frequencies.size
        b.add(Rope(x, x, heads, x.size // heads, rotary, self.frequencies, self.scaling, **how))


#: Types of rotary embeddings whose frequencies do not depend on the length of the text
_CONSTANT = ("default", "linear", "llama3", "yarn", "proportional")


def rotary_of(part: Part, name: str, of: str) -> Rotary:
    """Return the rotary embedding that a module computes."""
    rotary = part.child(name, of)
    rotary.require("rope_type", rotary.module.rope_type, *_CONSTANT)
    frequencies = rotary.module.inv_freq.detach().cpu().float().numpy().copy()
    return Rotary(frequencies, float(rotary.module.attention_scaling))


def attention(b: Builder, layer: int, qkv: tuple[Slot, Slot, Slot], width: int, scale: float, **how: Any) -> Slot:
    """Append softmax attention over all keys so far, and return its output."""
    q, k, v = qkv
    heads, key_heads = q.size // width, k.size // width
    values = v.size // key_heads
    keys, entries = (b.state(kind, (key_heads, size), layer) for kind, size in (("keys", width), ("values", values)))
    out = b.slot("attention", heads * values)
    b.add(Attention(q, k, v, out, keys, entries, heads, key_heads, width, values, scale, **how))
    return out


def gated(
    b: Builder, part: Part, names: tuple[str, str, str], activation: Activation | None, x: Slot, out: Slot, **how: Any
) -> None:
    """Append down(activation(gate(x)) * up(x)) of the layers with these names, added to ``out``."""
    (gate, gate_bias), (up, up_bias), (down, bias) = map(part.linear, names)
    inner = b.slot(f"inner.{up.rows}", 2 * up.rows)
    a, c = inner.split(up.rows, up.rows)
    b.add(Linear(x, a, gate, gate_bias), Linear(x, c, up, up_bias), Gate(a, c, a, activation))
    b.add(Linear(a, out, down, bias, **{"add": True, **how}))


class Heads(NamedTuple):
    """How attention makes queries and keys: their rotation, norms (two names and a class), factors; and its window."""

    rotary: Rotary | None = None
    norms: tuple[str, str, str] | None = None
    input_scale: float = 1.0
    key_scale: float = 1.0
    window: int | None = None


def self_attention(
    b: Builder, part: Part, x: Slot, out: Slot, index: int, heads: Heads, name: str = "o_proj", **how: Any
) -> None:
    """Append attention with q_proj, k_proj and v_proj, whose output is added to ``out`` by the layer ``name``."""
    width = part.module.head_dim
    q, k, v = slots = [b.slot(f"attention.{each}", getattr(part.module, f"{each}_proj").out_features) for each in "qkv"]
    for each, slot, factor in zip("qkv", slots, (1.0, heads.key_scale, 1.0), strict=True):
        scaled_linear(b, part, f"{each}_proj", x, slot, heads.input_scale, factor)
    for i, rotated in enumerate((q, k)):
        if heads.norms is not None:
            rms_norm(b, part.child(heads.norms[i], heads.norms[2]), rotated, rotated)
        if heads.rotary is not None:
            heads.rotary.add(b, rotated, rotated.size // width)
    y = attention(b, index, (q, k, v), width, part.module.scaling, window=heads.window)
    linear(b, part, name, y, out, **{"add": True, **how})


def scaled_linear(b: Builder, part: Part, name: str, x: Slot, out: Slot, before: float, after: float = 1.0) -> None:
    """Append a linear layer of ``before * x``, whose output is multiplied by ``after``."""
    matrix, bias = part.linear(name)
    b.add(Linear(x, out, matrix, bias if bias is None or before == 1 else bias / before, scale=before * after))
