"""The plan of a decoder's step: a list of operations over buffers of numbers and states, as data.

A plan is independent of weights' formats and of the number of rows: buffers and shapes of states are per row (one
sequence of the batch). :mod:`fastiter.decode.reference` is the specification of each operation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Activation = Literal["silu", "sigmoid", "gelu", "gelu_tanh", "relu", "relu2", "softplus", "tanh", "exp"]


@dataclass(frozen=True)
class Slot:
    """A part of a buffer: ``size`` numbers from ``start``."""

    name: str
    start: int
    size: int

    def part(self, start: int, size: int) -> Slot:
        """Return ``size`` numbers from ``start`` within this slot."""
        if min(start, size - 1, self.size - start - size) < 0:
            raise ValueError(f"part: numbers {start} to {start + size} are outside of {self}")
        return Slot(self.name, self.start + start, size)

    def split(self, *sizes: int) -> list[Slot]:
        """Return consecutive parts that together are the slot."""
        if sum(sizes) != self.size:
            raise ValueError(f"split: sizes {sizes} must add up to {self.size}")
        return [self.part(sum(sizes[:i]), size) for i, size in enumerate(sizes)]


@dataclass(frozen=True)
class Matrix:
    """A matrix (rows, columns) in a model's parameter, such as the weight of a linear layer.

    The parameter, viewed as (-1, columns), holds it from row ``first``: one expert of many, or the gate of a gate and
    up projection. With ``block``, every ``block`` rows are followed by others, such that the next block begins
    ``stride`` rows after the last one's first row: the queries of heads that alternate with gates. If ``transposed``,
    the parameter, viewed as (-1, rows), holds the transpose, of ``columns`` rows, from row ``first``.
    """

    name: str
    rows: int
    columns: int
    first: int = 0
    transposed: bool = False
    block: int | None = None
    stride: int = 0

    def blocks(self, first: int, block: int, stride: int) -> Matrix:
        """Return every ``stride``-th ``block`` rows of this matrix, from row ``first``."""
        return Matrix(self.name, self.rows // stride * block, self.columns, self.first + first, False, block, stride)

    def of(self, parameter: Any) -> Any:
        """Return the matrix in its parameter, a NumPy array or a tensor; a view unless it has blocks."""
        if self.transposed:
            return parameter.reshape(-1, self.rows)[self.first : self.first + self.columns].T
        lines = parameter.reshape(-1, self.columns)
        return lines[self.places()]

    def places(self) -> slice | npt.NDArray[np.int64]:
        """Return which rows of its parameter, viewed as (-1, columns), it consists of, unless it is transposed."""
        if self.block is None:
            return slice(self.first, self.first + self.rows)
        r = np.arange(self.rows)
        return self.first + r // self.block * self.stride + r % self.block


@dataclass(frozen=True)
class State:
    """Numbers that a step reads and that the next step reads after it has changed them.

    ``shape`` is that of one row: of "conv" (W', C) with the last W' inputs of a convolution, the oldest first; of
    "recurrent" as its operation says; of "keys" and "values" (heads, width), to which each step adds one entry, in
    memory (heads, capacity, width). ``layer`` and ``index`` locate it in a model's cache: the ``index``-th state of
    this kind in this layer of the cache. ``attribute`` is where a model holds it that does so outside of its cache.
    """

    name: str
    kind: Literal["conv", "recurrent", "keys", "values"]
    shape: tuple[int, ...]
    layer: int
    index: int = 0
    attribute: str | None = None

    @property
    def grows(self) -> bool:
        """Whether each step adds an entry: keys and values."""
        return self.kind in ("keys", "values")


@dataclass(frozen=True, eq=False)
class Operation:
    """Base class of the steps of a plan; every operation writes the slot ``out``.

    ``out`` may be a whole input slot (x, a, b, gate) in elementwise operations, :class:`Norm` and :class:`Rope`, and
    overlaps no other input.
    """


@dataclass(frozen=True, eq=False)
class Embed(Operation):
    """out = scale * table[token]."""

    out: Slot
    table: Matrix
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Linear(Operation):
    """y = scale * activation(matrix @ x + bias); out = y, or out + y with ``add``."""

    x: Slot
    out: Slot
    matrix: Matrix
    bias: Vector | None = None
    activation: Activation | None = None
    scale: float = 1.0
    add: bool = False


@dataclass(frozen=True, eq=False)
class Norm(Operation):
    """Normalize groups of ``size`` numbers by their root mean square ("rms") or mean and variance ("layer").

    rms: y = x / sqrt(mean(x**2) + eps) * weight + bias; layer: with x - mean(x) for x. Weight and bias have ``size``
    numbers, the same for all groups, or those of the whole slot. With a gate: out = y * gate_activation(gate), or, if
    ``gate_first``, the norm of x * gate_activation(gate).
    """

    x: Slot
    out: Slot
    weight: Vector | None
    eps: float
    size: int
    kind: Literal["rms", "layer"] = "rms"
    bias: Vector | None = None
    gate: Slot | None = None
    gate_first: bool = False
    gate_activation: Activation = "silu"


@dataclass(frozen=True, eq=False)
class Conv(Operation):
    """One step of a causal depthwise convolution, weight (W, C), whose state (W', C) has W' >= W - 1.

    The window is the last W - 1 inputs and x; out = activation(sum over k of weight[k] * window[k] + bias). The state
    then holds the last W' inputs, x being the last.
    """

    x: Slot
    out: Slot
    state: State
    weight: Vector
    bias: Vector | None = None
    activation: Activation | None = None


@dataclass(frozen=True, eq=False)
class Gate(Operation):
    """out = activation(a) * b; b is a slot or a vector."""

    a: Slot
    b: Slot | Vector
    out: Slot
    activation: Activation | None = None


@dataclass(frozen=True, eq=False)
class Activate(Operation):
    """out = activation(x); "softcap": cap * tanh(x / cap); "clip": x limited to [-cap, cap]."""

    x: Slot
    out: Slot
    activation: Activation | Literal["softcap", "clip"]
    cap: float | None = None


@dataclass(frozen=True, eq=False)
class Decay(Operation):
    """out = rate * softplus(x + bias); rate and bias have x's size."""

    x: Slot
    out: Slot
    rate: Vector
    bias: Vector


@dataclass(frozen=True, eq=False)
class Add(Operation):
    """out = scale_a * a + scale_b * b."""

    a: Slot
    b: Slot
    out: Slot
    scale_a: float = 1.0
    scale_b: float = 1.0


@dataclass(frozen=True, eq=False)
class Selective(Operation):
    """One step of Mamba's state space: u, dt (D,), B, C (N,), A (D, N), skip, bias (D,), state (D, N).

    d = softplus(dt + bias); s = exp(d * A) * s + d * u * B; out = s @ C + skip * u.
    """

    u: Slot
    dt: Slot
    B: Slot
    C: Slot
    out: Slot
    state: State
    A: Vector
    skip: Vector
    bias: Vector


@dataclass(frozen=True, eq=False)
class SSD(Operation):
    """One step of Mamba-2's state space: x (H, P), dt (H,), B, C (G, N), A, skip, bias (H,), state (H, P, N).

    H heads of ``width`` P, G groups, N ``states``; head h uses group h // (H / G). d = softplus(dt + bias), limited to
    the interval ``limits``; s = exp(d * A) * s + d * outer(x, B); out = s @ C + skip * x.
    """

    x: Slot
    dt: Slot
    B: Slot
    C: Slot
    out: Slot
    state: State
    A: Vector
    skip: Vector
    bias: Vector
    heads: int
    width: int
    groups: int
    states: int
    limits: tuple[float, float] = (0.0, np.inf)


@dataclass(frozen=True, eq=False)
class Delta(Operation):
    """One step of the gated delta rule: q, k (key heads, K), v (value heads, V), state (value heads, K, V).

    With ``eps``, q and k are divided by sqrt(sum of squares + eps) per head; q is multiplied by ``scale``. Value head h
    uses key head h * key_heads // value_heads. S = exp(decay) * S; e = beta * (v - S.T @ k); S += outer(k, e);
    out = S.T @ q. ``beta`` has one number per value head, and so has ``decay``, or K with ``per_key``.
    """

    q: Slot
    k: Slot
    v: Slot
    decay: Slot
    beta: Slot
    out: Slot
    state: State
    key_heads: int
    value_heads: int
    key_width: int
    value_width: int
    scale: float
    eps: float | None = None
    per_key: bool = False


@dataclass(frozen=True, eq=False)
class Rope(Operation):
    """Rotary position embedding of the first ``rotary`` numbers of each head.

    The angle of pair i is the float32 product of frequencies[i] and the position, in every dtype; its cosine and sine,
    times ``scaling``, are exact to the dtype. Pair i is the numbers i and i + rotary / 2, or, if ``interleaved``,
    2 i and 2 i + 1: (a, b) becomes (a cos - b sin, b cos + a sin).
    """

    x: Slot
    out: Slot
    heads: int
    width: int
    rotary: int
    frequencies: npt.NDArray[np.float32]
    scaling: float = 1.0
    interleaved: bool = False


@dataclass(frozen=True, eq=False)
class Attention(Operation):
    """Softmax attention of one query, after k and v have been appended to the states.

    Query head h uses key head h // (heads / key_heads). Scores are scale * q @ k, then cap * tanh(score / cap) with
    ``cap``. With ``window`` only the last ``window`` keys (the new one included) are seen; ``sinks`` (heads,) are
    scores without a value that take part in the softmax. If ``latent``, a key is an entry of ``keys`` followed by one
    of ``values``, and its value is the entry of ``keys``; all heads share them.
    """

    q: Slot
    k: Slot
    v: Slot
    out: Slot
    keys: State
    values: State
    heads: int
    key_heads: int
    key_width: int
    value_width: int
    scale: float
    window: int | None = None
    cap: float | None = None
    sinks: Vector | None = None
    latent: bool = False


@dataclass(frozen=True, eq=False)
class Route(Operation):
    """Weights of the experts, zero for those that are not among the ``top_k``.

    p = softmax(logits), sigmoid(logits), or logits for "topk_softmax". The experts with the largest p + bias are chosen
    (of equal ones the first); with ``groups`` only within the ``top_groups`` groups of experts whose two largest
    p + bias have the largest sums. The weights are the chosen p ("topk_softmax": their softmax), divided by their sum +
    ``eps`` if ``normalize``, and multiplied by ``scale``.
    """

    logits: Slot
    out: Slot
    top_k: int
    method: Literal["softmax", "topk_softmax", "sigmoid"]
    normalize: bool = False
    eps: float = 0.0
    scale: float = 1.0
    bias: Vector | None = None
    groups: int = 1
    top_groups: int = 1


@dataclass(frozen=True, eq=False)
class Experts(Operation):
    """y = sum over the chosen e of routes[e] * down[e] @ (activation(gate[e] @ x) * (up[e] @ x)).

    Without ``gate``: activation(up[e] @ x). out = y, or out + y with ``add``. Experts with weight zero are not read.
    """

    x: Slot
    routes: Slot
    out: Slot
    gate: tuple[Matrix, ...] | None
    up: tuple[Matrix, ...]
    down: tuple[Matrix, ...]
    activation: Activation
    add: bool = False


@dataclass(frozen=True, eq=False)
class Lru(Operation):
    """One step of RecurrentGemma's linear recurrent unit; all slots, ``rate`` and the state have C numbers.

    log_a = rate * sigmoid(recurrent_gate); s = exp(log_a) * s + m * sigmoid(input_gate) * x with
    m = sqrt(1 - exp(2 * log_a)), but s = sigmoid(input_gate) * x at position 0; out = s.
    """

    x: Slot
    input_gate: Slot
    recurrent_gate: Slot
    out: Slot
    state: State
    rate: Vector


@dataclass(frozen=True, eq=False)
class MLstm(Operation):
    """One step of xLSTM's matrix memory: q, k (H, K), v (H, V), i, f (H,), states (H, K, V), (H, K) and (H, 1).

    l = log(sigmoid(f)); m' = max(l + m, i); F = exp(l + m - m'); I = exp(i - m'); C = F * C + I * outer(k, v);
    n = F * n + I * k; out = C.T @ (scale * q) / (max(abs(scale * q @ n), exp(-m')) + eps); m = m'.
    """

    q: Slot
    k: Slot
    v: Slot
    i: Slot
    f: Slot
    out: Slot
    memory: State
    normalizer: State
    maximum: State
    heads: int
    key_width: int
    value_width: int
    scale: float
    eps: float


@dataclass(frozen=True, eq=False)
class Plan:
    """Operations in order, the sizes of the buffers that they use, and the states.

    The last operation writes the whole buffer "logits". Buffers are all zero before the first step ever, and the
    numbers of a buffer beyond its size are never written. A :class:`Linear` may read a slot from the middle of a
    buffer, next to other numbers.
    """

    steps: tuple[Operation, ...]
    buffers: dict[str, int]
    states: tuple[State, ...]
    #: Whether steps compute a prompt as the model does, which may limit numbers of prompts only
    prompts: bool = True
