"""Plans of decoders in NumPy: the specification of :mod:`fastiter.decode.plan`, in float64 and one row at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass
class Row:
    """One sequence during a step: its buffers and states, and where it is in its text."""

    parameters: Mapping[str, Array]
    buffers: dict[str, Array]
    states: dict[str, Array]
    token: int
    position: int
    first: int

    def get(self, slot: Any) -> Array:
        """Return a view of the numbers of a slot, or of those of a vector."""
        if isinstance(slot, np.ndarray):
            return slot
        view: Array = self.buffers[slot.name][slot.start : slot.start + slot.size]
        return view

    def matrix(self, matrix: Any) -> Array:
        """Return a matrix (rows, columns) of a parameter."""
        return np.asarray(matrix.of(np.asarray(self.parameters[matrix.name])), np.float64)


def initial_states(plan: Any, rows: int) -> dict[str, Array]:
    """Return the states (rows, ...) before the first token: zeros, and no keys and values."""
    return {
        state.name: np.zeros((rows, state.shape[0], 0, state.shape[1]) if state.grows else (rows, *state.shape))
        for state in plan.states
    }


def step(
    plan: Any,
    parameters: Mapping[str, Array],
    states: Mapping[str, Array],
    tokens: npt.ArrayLike,
    positions: npt.ArrayLike,
    firsts: npt.ArrayLike | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Return the logits (rows, vocabulary) after one more token per row, and the new states.

    ``positions`` (rows,) are those of rotary embeddings; of the keys, those before ``firsts`` (rows,), by default 0,
    are not seen, as they are padding. Keys and values have shape (rows, heads, entries, width).
    """
    tokens, positions = np.asarray(tokens), np.asarray(positions)
    firsts = np.zeros(len(tokens), int) if firsts is None else np.asarray(firsts)
    done = []
    for r, (token, position, first) in enumerate(zip(tokens, positions, firsts, strict=True)):
        buffers = {name: np.zeros(size) for name, size in plan.buffers.items()}
        own = {name: np.array(state[r]) for name, state in states.items()}
        row = Row(parameters, buffers, own, int(token), int(position), int(first))
        for each in plan.steps:
            out = row.get(each.out)
            y = _OPERATIONS[type(each).__name__](row, each).reshape(-1)
            out[:] = out + y if getattr(each, "add", False) else y
        done.append(row)
    after = {name: np.stack([row.states[name] for row in done]) for name in states}
    return np.stack([row.buffers["logits"] for row in done]), after


def softplus(x: Array) -> Array:
    """Return log(1 + exp(x)), which is x above 20, as in torch."""
    return np.where(x > 20, x, np.log1p(np.exp(np.minimum(x, 20))))


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)), with no overflow."""
    small = np.exp(-np.abs(x))
    y: Array = np.where(x >= 0, 1, small) / (1 + small)
    return y


_ERF = np.vectorize(math.erf, otypes=[np.float64])
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": lambda x: x * sigmoid(x),
    "sigmoid": sigmoid,
    "gelu": lambda x: x / 2 * (1 + _ERF(x / np.sqrt(2))),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "softplus": softplus,
    "tanh": np.tanh,
    "exp": np.exp,
}


def act(name: str | None, x: Array) -> Array:
    """Return activation ``name`` of ``x``, or ``x`` for None."""
    return x if name is None else ACTIVATIONS[name](x)


def _embed(row: Row, s: Any) -> Any:
    return s.scale * row.matrix(s.table)[row.token]


def _linear(row: Row, s: Any) -> Any:
    y = row.matrix(s.matrix) @ row.get(s.x)
    y = y if s.bias is None else y + s.bias
    return s.scale * act(s.activation, y)


def _norm(row: Row, s: Any) -> Any:
    gate = None if s.gate is None else act(s.gate_activation, row.get(s.gate))
    x = row.get(s.x) * gate if gate is not None and s.gate_first else row.get(s.x)
    groups = x.reshape(-1, s.size)
    if s.kind == "layer":
        groups = groups - groups.mean(1, keepdims=True)
    groups = groups / np.sqrt((groups**2).mean(1, keepdims=True) + s.eps)
    for vector, combine in ((s.weight, np.multiply), (s.bias, np.add)):
        if vector is not None:
            groups = combine(groups, vector.reshape(-1, s.size))
    y = groups.reshape(-1)
    return y * gate if gate is not None and not s.gate_first else y


def _conv(row: Row, s: Any) -> Any:
    window = np.vstack([row.states[s.state.name], row.get(s.x)])
    row.states[s.state.name] = window[1:]
    y = (s.weight * window[-len(s.weight) :]).sum(0)
    return act(s.activation, y if s.bias is None else y + s.bias)


def _gate(row: Row, s: Any) -> Any:
    return act(s.activation, row.get(s.a)) * row.get(s.b)


def _activate(row: Row, s: Any) -> Any:
    x = row.get(s.x)
    if s.activation == "softcap":
        return s.cap * np.tanh(x / s.cap)
    return np.clip(x, -s.cap, s.cap) if s.activation == "clip" else act(s.activation, x)


def _decay(row: Row, s: Any) -> Any:
    return s.rate * softplus(row.get(s.x) + s.bias)


def _add(row: Row, s: Any) -> Any:
    return s.scale_a * row.get(s.a) + s.scale_b * row.get(s.b)


def _selective(row: Row, s: Any) -> Any:
    u, d = row.get(s.u), softplus(row.get(s.dt) + s.bias)
    state = np.exp(d[:, None] * s.A) * row.states[s.state.name] + np.outer(d * u, row.get(s.B))
    row.states[s.state.name] = state
    return state @ row.get(s.C) + s.skip * u


def _ssd(row: Row, s: Any) -> Any:
    x, d = row.get(s.x).reshape(s.heads, s.width), np.clip(softplus(row.get(s.dt) + s.bias), *s.limits)
    B, C = (
        np.repeat(row.get(each).reshape(s.groups, s.states), s.heads // s.groups, axis=0) for each in (s.B, s.C)
    )  # (H, N)
    state = np.exp(d * s.A)[:, None, None] * row.states[s.state.name] + (d[:, None] * x)[:, :, None] * B[:, None]
    row.states[s.state.name] = state
    return (state * C[:, None]).sum(2) + s.skip[:, None] * x


def _delta(row: Row, s: Any) -> Any:
    q, k = (row.get(each).reshape(s.key_heads, s.key_width) for each in (s.q, s.k))
    if s.eps is not None:
        q, k = (each / np.sqrt((each**2).sum(1, keepdims=True) + s.eps) for each in (q, k))
    heads = np.arange(s.value_heads) * s.key_heads // s.value_heads
    q, k, v = s.scale * q[heads], k[heads], row.get(s.v).reshape(s.value_heads, s.value_width)
    decay = np.exp(row.get(s.decay)).reshape(s.value_heads, -1, 1)  # -1: 1, or one for each key
    state = decay * row.states[s.state.name]
    error = row.get(s.beta)[:, None] * (v - np.einsum("hkv,hk->hv", state, k))
    state = state + k[:, :, None] * error[:, None]
    row.states[s.state.name] = state
    return np.einsum("hkv,hk->hv", state, q)


def _rope(row: Row, s: Any) -> Any:
    angle = (np.float32(row.position) * s.frequencies.astype(np.float32)).astype(np.float64)
    cos, sin = s.scaling * np.cos(angle), s.scaling * np.sin(angle)
    y = row.get(s.x).reshape(s.heads, s.width).copy()
    pairs = (slice(0, s.rotary, 2), slice(1, s.rotary, 2))
    half = (slice(0, s.rotary // 2), slice(s.rotary // 2, s.rotary))
    left, right = pairs if s.interleaved else half
    a, b = y[:, left].copy(), y[:, right].copy()
    y[:, left], y[:, right] = a * cos - b * sin, b * cos + a * sin
    return y


def _attention(row: Row, s: Any) -> Any:
    for slot, state in ((s.k, s.keys), (s.v, s.values)):
        new = row.get(slot).reshape(s.key_heads, 1, -1)
        row.states[state.name] = np.concatenate([row.states[state.name], new], axis=1)
    keys, values = row.states[s.keys.name], row.states[s.values.name]
    if s.latent:
        keys, values = np.concatenate([keys, values], axis=2), keys
    q = s.scale * row.get(s.q).reshape(s.key_heads, s.heads // s.key_heads, s.key_width)
    scores = q @ keys.swapaxes(1, 2)  # (key heads, queries of each, entries)
    if s.cap is not None:
        scores = s.cap * np.tanh(scores / s.cap)
    entries = np.arange(scores.shape[2])
    seen = (entries >= row.first) & (entries >= len(entries) - (s.window or len(entries)))
    scores = np.where(seen, scores, -np.inf)
    sinks = np.full(s.heads, -np.inf) if s.sinks is None else s.sinks
    sinks = sinks.reshape(s.key_heads, -1, 1)
    largest = np.maximum(scores.max(2, keepdims=True), sinks)
    weights = np.exp(scores - largest)
    weights = weights / (weights.sum(2, keepdims=True) + np.exp(sinks - largest))
    return weights @ values


def _route(row: Row, s: Any) -> Any:
    p = row.get(s.logits)
    if s.method == "softmax":
        p = np.exp(p - p.max()) / np.exp(p - p.max()).sum()
    elif s.method == "sigmoid":
        p = sigmoid(p)
    choice = (p if s.bias is None else p + s.bias).reshape(s.groups, -1)
    if s.groups > 1:
        of_groups = np.sort(choice, axis=1)[:, -2:].sum(1)
        others = np.argsort(-of_groups, kind="stable")[s.top_groups :]
        choice = choice.copy()
        choice[others] = -np.inf
    chosen = np.argsort(-choice.reshape(-1), kind="stable")[: s.top_k]
    weights = p[chosen]
    if s.method == "topk_softmax":
        weights = np.exp(weights - weights.max()) / np.exp(weights - weights.max()).sum()
    if s.normalize:
        weights = weights / (weights.sum() + s.eps)
    y = np.zeros(len(p))
    y[chosen] = s.scale * weights
    return y


def _experts(row: Row, s: Any) -> Any:
    x, routes = row.get(s.x), row.get(s.routes)
    y = np.zeros(s.out.size)
    for e in np.flatnonzero(routes):
        inner = row.matrix(s.up[e]) @ x
        inner = act(s.activation, inner) if s.gate is None else act(s.activation, row.matrix(s.gate[e]) @ x) * inner
        y += routes[e] * (row.matrix(s.down[e]) @ inner)
    return y


def _lru(row: Row, s: Any) -> Any:
    log_a = s.rate * sigmoid(row.get(s.recurrent_gate))
    state = sigmoid(row.get(s.input_gate)) * row.get(s.x)
    if row.position != 0:
        state = np.exp(log_a) * row.states[s.state.name] + np.sqrt(-np.expm1(2 * log_a)) * state
    row.states[s.state.name] = state
    return state


def _mlstm(row: Row, s: Any) -> Any:
    q, k, v = (row.get(each).reshape(s.heads, -1) for each in (s.q, s.k, s.v))
    old = row.states[s.maximum.name][:, 0]
    log_f, i = -softplus(-row.get(s.f)), row.get(s.i)
    new = np.maximum(log_f + old, i)
    forget, write = np.exp(log_f + old - new)[:, None], np.exp(i - new)[:, None]
    memory = forget[..., None] * row.states[s.memory.name] + write[..., None] * k[:, :, None] * v[:, None]
    normalizer = forget * row.states[s.normalizer.name] + write * k
    for state, value in ((s.memory, memory), (s.normalizer, normalizer), (s.maximum, new[:, None])):
        row.states[state.name] = value
    q = s.scale * q
    below = np.maximum(abs((q * normalizer).sum(1)), np.exp(-new)) + s.eps
    return np.einsum("hkv,hk->hv", memory, q) / below[:, None]


_OPERATIONS: dict[str, Callable[[Row, Any], Any]] = {
    "Embed": _embed,
    "Linear": _linear,
    "Norm": _norm,
    "Conv": _conv,
    "Gate": _gate,
    "Activate": _activate,
    "Decay": _decay,
    "Add": _add,
    "Selective": _selective,
    "SSD": _ssd,
    "Delta": _delta,
    "Rope": _rope,
    "Attention": _attention,
    "Route": _route,
    "Experts": _experts,
    "Lru": _lru,
    "MLstm": _mlstm,
}
