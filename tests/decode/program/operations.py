"""A plan for each kind of operation: its inputs are parts of an embedding, and its output the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastiter.decode import plan as p
from fastiter.decode.builder import Builder

TOKENS = 11


class Case:
    """Builds a plan around one operation; numbers are exact in float32."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.builder = Builder()
        self.inputs: list[p.Slot] = []
        self.parameters: dict[str, Any] = {}

    def numbers(self, *shape: int) -> Any:
        return self.rng.standard_normal(shape).astype(np.float32).astype(np.float64)

    def positive(self, *shape: int) -> Any:
        return abs(self.numbers(*shape)) + 0.125

    def input(self, size: int) -> p.Slot:
        """Return a part of the embedding, which is in the middle of a buffer at an odd place."""
        start = self.inputs[-1].start + self.inputs[-1].size if self.inputs else 3
        self.inputs.append(p.Slot("in", start + 1, size))
        return self.inputs[-1]

    def output(self, size: int) -> p.Slot:
        self.builder.slot("out", size + 7)
        return p.Slot("out", 5, size)

    def matrix(self, rows: int, columns: int) -> p.Matrix:
        matrix = p.Matrix(f"matrix.{len(self.parameters)}", rows, columns)
        self.parameters[matrix.name] = self.numbers(rows, columns)
        return matrix

    def state(self, kind: str, *shape: int) -> p.State:
        return self.builder.state(kind, shape, 0, len(self.builder.states))

    def plan(self, *steps: p.Operation) -> p.Plan:
        """Return the plan, and copy the output of the last step to the logits."""
        size = self.inputs[-1].start + self.inputs[-1].size
        self.builder.slot("in", size + 2)
        self.parameters["embedding"] = self.numbers(TOKENS, size)
        embed = p.Embed(p.Slot("in", 0, size), p.Matrix("embedding", TOKENS, size))
        out = steps[-1].out  # type: ignore[attr-defined]
        self.builder.add(embed, *steps, p.Gate(out, np.ones(out.size), self.builder.slot("logits", out.size)))
        return self.builder.plan()


def embed(c: Case) -> p.Plan:
    c.input(37)
    return c.plan(p.Embed(c.output(21), c.matrix(TOKENS, 21), scale=0.5))


def linear(c: Case, inputs: int = 37, outputs: int = 43, bias: bool = True, **options: Any) -> p.Plan:
    x, out = c.input(inputs), c.output(outputs)
    return c.plan(p.Linear(x, out, c.matrix(outputs, inputs), c.numbers(outputs) if bias else None, **options))


def added(c: Case) -> p.Plan:
    x, y, out = c.input(29), c.input(150), c.output(150)
    first = p.Gate(y, np.ones(150), out)
    return c.plan(first, p.Linear(x, out, c.matrix(150, 29), scale=0.25, add=True))


def parts(c: Case) -> p.Plan:
    """A product of which later steps read parts that the threads divide separately."""
    x, y = c.input(64), c.builder.slot("parts", 96)
    a, b, z = y.split(48, 32, 16)
    steps = (p.Activate(a, a, "silu"), p.Gate(b, c.numbers(32), b), p.Activate(z, z, "tanh"))
    return c.plan(p.Linear(x, y, c.matrix(96, 64)), *steps, p.Linear(y, c.output(40), c.matrix(40, 96)))


def norm(
    c: Case, size: int, groups: int = 1, weights: int = 0, bias: bool = False, gate: bool = False, **options: Any
) -> p.Plan:
    n = size * groups
    x, out = c.input(n), c.output(n)
    weight = c.numbers(weights) if weights else None
    vector = c.numbers(n) if bias else None
    return c.plan(p.Norm(x, out, weight, 1e-5, size, bias=vector, gate=c.input(n) if gate else None, **options))


def norm_in_place(c: Case) -> p.Plan:
    out, gate = c.output(48), c.input(48)
    first = p.Gate(c.input(48), np.ones(48), out)
    return c.plan(
        first,
        p.Norm(out, out, c.numbers(16), 1e-6, 16, gate=gate),
        p.Norm(gate, gate, None, 1e-6, 48, gate=out),
        p.Add(out, gate, out),
    )


def conv(c: Case, width: int, saved: int, channels: int = 35, in_place: bool = False, **options: Any) -> p.Plan:
    x = c.input(channels)
    state = c.state("conv", saved, channels)
    return c.plan(p.Conv(x, x if in_place else c.output(channels), state, c.numbers(width, channels), **options))


def conv_bias(c: Case) -> p.Plan:
    x = c.input(50)
    return c.plan(p.Conv(x, c.output(50), c.state("conv", 3, 50), c.numbers(4, 50), c.numbers(50), "silu"))


def gate(c: Case, activation: Any) -> p.Plan:
    return c.plan(p.Gate(c.input(45), c.input(45), c.output(45), activation))


def gate_in_place(c: Case) -> p.Plan:
    a, b = c.input(45), c.input(45)
    return c.plan(p.Gate(a, b, b, "silu"), p.Gate(b, c.numbers(45), b))


def activate(c: Case, activation: Any, cap: float | None = None) -> p.Plan:
    return c.plan(p.Activate(c.input(61), c.output(61), activation, cap))


def decay(c: Case) -> p.Plan:
    return c.plan(p.Decay(c.input(19), c.output(19), -c.positive(19), c.numbers(19)))


def add(c: Case) -> p.Plan:
    a, b = c.input(33), c.input(33)
    return c.plan(p.Add(a, b, c.output(33), 0.5, -2.0), p.Add(c.output(33), b, c.output(33)))


def selective(c: Case, channels: int = 37, states: int = 16) -> p.Plan:
    slots = [c.input(n) for n in (channels, channels, states, states)]
    vectors = -c.positive(channels, states), c.numbers(channels), c.numbers(channels)
    return c.plan(p.Selective(*slots, c.output(channels), c.state("recurrent", channels, states), *vectors))


def ssd(c: Case, heads: int = 6, width: int = 9, groups: int = 2, states: int = 16, **options: Any) -> p.Plan:
    slots = [c.input(n) for n in (heads * width, heads, groups * states, groups * states)]
    vectors = -c.positive(heads), c.numbers(heads), c.numbers(heads)
    state = c.state("recurrent", heads, width, states)
    return c.plan(p.SSD(*slots, c.output(heads * width), state, *vectors, heads, width, groups, states, **options))


def delta(
    c: Case, keys: int = 2, values: int = 4, K: int = 11, V: int = 21, per_key: bool = False, **options: Any
) -> p.Plan:
    q, k, v = c.input(keys * K), c.input(keys * K), c.input(values * V)
    g, beta = c.input(values * (K if per_key else 1)), c.input(values)
    steps = (p.Decay(g, g, -c.positive(g.size), c.numbers(g.size)), p.Activate(beta, beta, "sigmoid"))
    state = c.state("recurrent", values, K, V)
    sizes = (keys, values, K, V)
    return c.plan(*steps, p.Delta(q, k, v, g, beta, c.output(values * V), state, *sizes, per_key=per_key, **options))


def rope(c: Case, heads: int = 3, width: int = 12, rotary: int = 8, in_place: bool = False, **options: Any) -> p.Plan:
    x = c.input(heads * width)
    frequencies = (1e4 ** -(np.arange(rotary // 2) / (rotary // 2))).astype(np.float32)
    return c.plan(p.Rope(x, x if in_place else c.output(x.size), heads, width, rotary, frequencies, **options))


def attention(
    c: Case, heads: int = 6, keys: int = 2, K: int = 10, V: int = 7, sinks: bool = False, **options: Any
) -> p.Plan:
    q, k, v = c.input(heads * K), c.input(keys * K), c.input(keys * V)
    states = c.state("keys", keys, K), c.state("values", keys, V)
    vector = c.numbers(heads) if sinks else None
    return c.plan(
        p.Attention(q, k, v, c.output(heads * V), *states, heads, keys, K, V, K**-0.5, sinks=vector, **options)
    )


def latent(c: Case, heads: int = 5, rank: int = 19, rest: int = 6) -> p.Plan:
    q, k, v = c.input(heads * (rank + rest)), c.input(rank), c.input(rest)
    states, sizes = (c.state("keys", 1, rank), c.state("values", 1, rest)), (heads, 1, rank + rest, rank)
    return c.plan(p.Attention(q, k, v, c.output(heads * rank), *states, *sizes, scale=0.2, latent=True))


def route(
    c: Case, experts: int = 12, top_k: int = 3, method: Any = "softmax", bias: bool = False, **options: Any
) -> p.Plan:
    vector = c.numbers(experts) if bias else None
    return c.plan(p.Route(c.input(experts), c.output(experts), top_k, method, bias=vector, **options))


def experts(c: Case, count: int = 5, inner: int = 150, gated: bool = True, add: bool = False) -> p.Plan:
    x, routes, out = c.input(35), c.builder.slot("routes", count), c.output(140)
    steps = (p.Gate(c.input(140), np.ones(140), out), p.Route(c.input(count), routes, 2, "softmax", normalize=True))
    gates, ups = (tuple(c.matrix(inner, 35) for _ in range(count)) for _ in range(2))
    downs = tuple(c.matrix(140, inner) for _ in range(count))
    mixture = p.Experts(x, routes, out, gates if gated else None, ups, downs, "silu" if gated else "relu2", add)
    return c.plan(*steps, mixture)


def lru(c: Case) -> p.Plan:
    x, i, r = (c.input(27) for _ in range(3))
    return c.plan(p.Lru(x, i, r, c.output(27), c.state("recurrent", 27), -c.positive(27)))


def mlstm(c: Case, heads: int = 3, K: int = 9, V: int = 18) -> p.Plan:
    slots = [c.input(n) for n in (heads * K, heads * K, heads * V, heads, heads)]
    states = c.state("recurrent", heads, K, V), c.state("recurrent", heads, K), c.state("recurrent", heads, 1)
    return c.plan(p.MLstm(*slots, c.output(heads * V), *states, heads, K, V, K**-0.5, 1e-6))


ACTIVATIONS = ("silu", "sigmoid", "gelu", "gelu_tanh", "relu", "relu2", "softplus", "tanh", "exp")

CASES: dict[str, Callable[[Case], p.Plan]] = {
    "embed": embed,
    "linear": linear,
    "linear wide": lambda c: linear(c, 130, 300, bias=False),
    "linear activation": lambda c: linear(c, activation="gelu", scale=-0.5),
    "linear added": added,
    "linear parts": parts,
    "rms": lambda c: norm(c, 35, weights=35),
    "rms no weight": lambda c: norm(c, 300),
    "rms groups": lambda c: norm(c, 17, 3, weights=17),
    "rms groups, own weights": lambda c: norm(c, 16, 3, weights=48, bias=True),
    "rms gate": lambda c: norm(c, 270, weights=270, gate=True),
    "rms gate first": lambda c: norm(c, 37, 2, weights=37, gate=True, gate_first=True, gate_activation="sigmoid"),
    "layer": lambda c: norm(c, 35, weights=35, bias=True, kind="layer"),
    "layer groups": lambda c: norm(c, 33, 2, weights=66, kind="layer", gate=True),
    "norm in place": norm_in_place,
    "conv": lambda c: conv(c, 4, 4, activation="silu"),
    "conv short state": lambda c: conv(c, 4, 3),
    "conv long state": lambda c: conv(c, 3, 5, in_place=True),
    "conv width 1": lambda c: conv(c, 1, 1),
    "conv width 2": lambda c: conv(c, 2, 1),
    "conv bias": conv_bias,
    "gate": lambda c: gate(c, "silu"),
    "gate none": lambda c: gate(c, None),
    "gate in place": gate_in_place,
    **{f"activate {name}": (lambda c, name=name: activate(c, name)) for name in ACTIVATIONS},  # type: ignore[misc]
    "activate softcap": lambda c: activate(c, "softcap", 1.5),
    "activate clip": lambda c: activate(c, "clip", 0.75),
    "decay": decay,
    "add": add,
    "selective": selective,
    "selective 5 states": lambda c: selective(c, 18, 5),
    "selective 40 states": lambda c: selective(c, 9, 40),
    "ssd": ssd,
    "ssd limits": lambda c: ssd(c, 4, 16, 1, 64, limits=(0.5, 1.0)),
    "ssd 7 states": lambda c: ssd(c, 5, 20, 5, 7),
    "delta": lambda c: delta(c, scale=0.3, eps=1e-6),
    "delta per key": lambda c: delta(c, per_key=True, scale=1.0),
    "delta wide": lambda c: delta(c, 3, 3, 16, 130, scale=0.25, eps=1e-6),
    "delta one key head": lambda c: delta(c, 1, 5, 33, 64, scale=0.25, eps=1e-6),
    "rope": rope,
    "rope interleaved": lambda c: rope(c, interleaved=True, scaling=0.75),
    "rope in place": lambda c: rope(c, in_place=True, rotary=12),
    "attention": attention,
    "attention window": lambda c: attention(c, window=3),
    "attention cap": lambda c: attention(c, 5, 5, 16, 32, cap=0.5),
    "attention sinks": lambda c: attention(c, 9, 1, 33, 17, sinks=True, window=5),
    "attention latent": latent,
    "route": lambda c: route(c, scale=2.5),
    "route normalized": lambda c: route(c, method="topk_softmax", normalize=True, eps=1e-3),
    "route sigmoid": lambda c: route(c, method="sigmoid", normalize=True, bias=True),
    "route groups": lambda c: route(c, 20, 4, "sigmoid", bias=True, groups=5, top_groups=2, scale=3.0),
    "route groups of one": lambda c: route(c, 6, 2, "softmax", groups=6, top_groups=3),
    "experts": experts,
    "experts added": lambda c: experts(c, 4, 20, add=True),
    "experts no gate": lambda c: experts(c, gated=False),
    "lru": lru,
    "mlstm": mlstm,
    "mlstm wide": lambda c: mlstm(c, 2, 20, 100),
}


def make(name: str) -> tuple[p.Plan, dict[str, Any]]:
    """Return the plan of a case, and the parameters."""
    case = Case()
    plan = CASES[name](case)
    return plan, case.parameters
