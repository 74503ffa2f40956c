"""Linear attention along time: the specification, the equations in plain NumPy loops.

Shapes: q, k (B, T, H, K), v (B, T, N, V), decay (B, T, N) or (B, T, N, K), bonus (N, K), the state (B, N, K, V). Head n
reads q and k of head n // (N / H). The arguments are trusted: `fastiter.ssm` checks them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .reference import Array, Cut

#: The factor of the state from a decay in each of its forms, in the order of DECAY_FORMS
FACTORS: tuple[Callable[[Array], Array], ...] = (lambda factor: factor, np.exp)


class Step(NamedTuple):
    """The arguments at one step of a row, expanded to all value heads; the decay is a factor of the state."""

    q: Array
    k: Array
    v: Array
    decay: Array


def _step(q: Array, k: Array, v: Array, decay: Array | None, row: int, t: int) -> Step:
    shared = v.shape[2] // q.shape[2]
    factor = np.ones((v.shape[2], 1, 1)) if decay is None else decay[row, t]
    factor = factor if decay is None else factor[:, None, None] if factor.ndim == 1 else factor[:, :, None]
    return Step(np.repeat(q[row, t], shared, 0), np.repeat(k[row, t], shared, 0), v[row, t], factor)


def linear_attention(
    q: Array,
    k: Array,
    v: Array,
    decay: Array | None = None,
    bonus: Array | None = None,
    scale: float = 1.0,
    *,
    state: Array | None = None,
    cut: Cut | None = None,
    correction: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """(o, last): S = decay S + k v^T, o = scale S^T q, or with a bonus o = scale (S' + diag(bonus) k v^T)^T q.

    With a correction, a and b (B, T, N, K), the step also adds b (S'^T a)^T.
    """
    (batch, time, heads, values), keys = v.shape, q.shape[3]
    cut = Cut() if cut is None else cut
    shape = (cut.count(batch), heads, keys, values)
    first = np.zeros(shape, v.dtype) if state is None else state
    o, last = np.zeros(v.shape, v.dtype), first.astype(v.dtype)
    for s, row, ts in cut.sequences(batch, time):
        S = last[s]
        for t in ts:
            if cut.restarts(row, t):
                S = np.zeros_like(S)
            x = _step(q, k, v, decay, row, t)
            written = x.k[:, :, None] * x.v[:, None]
            if correction is not None:
                a, b = (y[row, t] for y in correction)
                written = written + b[:, :, None] * (S * a[:, :, None]).sum(1)[:, None]
            read = S + bonus[:, :, None] * written if bonus is not None else x.decay * S + written
            S = x.decay * S + written
            o[row, t] = scale * (read * x.q[:, :, None]).sum(1)
        last[s] = S
    return o, last


State = tuple[Array, Array, Array]


def mlstm(
    q: Array,
    k: Array,
    v: Array,
    i: Array,
    f: Array,
    *,
    state: State | None = None,
    scale: float = 1.0,
    eps: float = 1e-6,
    cut: Cut | None = None,
) -> tuple[Array, State]:
    """(h, (C, n, m)): C = F C + I k v^T, n = F n + I k, h = scale C^T q / (max(|scale n q|, e^-m) + eps).

    m = max(log sigmoid(f) + m', i), F = e^(log sigmoid(f) + m' - m), I = e^(i - m).
    """
    (batch, time, heads, values), keys = v.shape, q.shape[3]
    cut = Cut() if cut is None else cut
    count = cut.count(batch)
    shapes = ((count, heads, keys, values), (count, heads, keys), (count, heads))
    initial = (np.zeros(s, v.dtype) for s in shapes) if state is None else state
    last = tuple([x.astype(v.dtype) for x in initial])
    h = np.zeros(v.shape, v.dtype)
    for s, row, ts in cut.sequences(batch, time):
        C, n, m = (x[s] for x in last)
        for t in ts:
            if cut.restarts(row, t):
                C, n, m = np.zeros_like(C), np.zeros_like(n), np.zeros_like(m)
            x = _step(q, k, v, None, row, t)
            log_forget = -np.logaddexp(0, -f[row, t])
            before, m = m, np.maximum(log_forget + m, i[row, t])
            forget, enter = np.exp(log_forget - (m - before)), np.exp(i[row, t] - m)
            C = forget[:, None, None] * C + enter[:, None, None] * x.k[:, :, None] * x.v[:, None]
            n = forget[:, None] * n + enter[:, None] * x.k
            divisor = np.maximum(np.abs(scale * (n * x.q).sum(1)), np.exp(-m)) + eps
            h[row, t] = scale * (C * x.q[:, :, None]).sum(1) / divisor[:, None]
        for part, value in zip(last, (C, n, m), strict=True):
            part[s] = value
    return h, (last[0], last[1], last[2])
