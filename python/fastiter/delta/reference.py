"""S_t = g_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T, o_t = S_t^T q_t: specification of the family `delta`.

Shapes: q (B, T, N, K), k (B, T, N, K), v (B, T, N, V), beta and decay (B, T, N), the state S (B, N, K, V),
o (B, T, N, V). With M factors per step k is (B, T, M, N, K), v (B, T, M, N, V), beta (B, T, M, N): the decay is applied
before the first factor, and o is read after the last. The arguments are trusted: `fastiter.delta` checks them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def _factors(q: Array, k: Array, v: Array, beta: Array) -> tuple[Array, Array, Array]:
    """k, v and beta with an axis for the factors, of size 1 if it was absent."""
    return (k, v, beta) if k.ndim > q.ndim else (k[:, :, None], v[:, :, None], beta[:, :, None])


def _rows(
    q: Array, lengths: npt.ArrayLike | None, cu_seqlens: npt.ArrayLike | None, reverse: bool
) -> Iterator[tuple[int, int, range]]:
    """(state, row of the arrays, steps in the order of computation) of every sequence."""
    B, T = q.shape[:2]
    order = slice(None, None, -1 if reverse else 1)
    if cu_seqlens is not None:
        bounds = np.asarray(cu_seqlens)
        yield from ((s, 0, range(bounds[s], bounds[s + 1])[order]) for s in range(len(bounds) - 1))
        return
    length = np.full(B, T) if lengths is None else np.asarray(lengths)
    yield from ((b, b, range(length[b])[order]) for b in range(B))


def _first(q: Array, v: Array, state: Array | None, cu_seqlens: npt.ArrayLike | None) -> Array:
    """A writable copy of the initial states, or zeros."""
    if state is not None:
        return np.array(state)
    B, _, N, K = q.shape
    return np.zeros((B if cu_seqlens is None else len(np.asarray(cu_seqlens)) - 1, N, K, v.shape[-1]), q.dtype)


def _restarts(reset: Array | None, line: int, t: int) -> bool:
    if reset is None:
        return False
    return bool(reset[t] if reset.ndim == 1 else reset[line, t])


def _product(S: Array, k: Array) -> Array:
    """S^T k for every head."""
    y: Array = np.einsum("nkv,nk->nv", S, k)
    return y


def _outer(k: Array, v: Array) -> Array:
    return k[:, :, None] * v[:, None, :]


def delta_scan(
    q: Array,
    k: Array,
    v: Array,
    beta: Array,
    state: Array | None = None,
    *,
    decay: Array | None = None,
    reverse: bool = False,
    reset: Array | None = None,
    lengths: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
) -> tuple[Array, Array]:
    """(o, last): each factor replaces the state's value for k by a mixture of it and v.

    With `reverse` time runs backwards. The previous state counts as zero where `reset` is true. Steps from lengths[b]
    on have o = 0, and the final state is the last one computed. With cu_seqlens, sequence s consists of the steps
    cu_seqlens[s] to cu_seqlens[s + 1] of the only row, and has a state of its own.
    """
    k, v, beta = _factors(q, k, v, beta)
    o, last = np.zeros((*q.shape[:3], v.shape[-1]), q.dtype), _first(q, v, state, cu_seqlens)
    for row, line, steps in _rows(q, lengths, cu_seqlens, reverse):
        S = last[row]
        for t in steps:
            if _restarts(reset, line, t):
                S = np.zeros_like(S)
            elif decay is not None:
                S = decay[line, t][:, None, None] * S
            for m in range(k.shape[2]):
                km, bm = k[line, t, m], beta[line, t, m][:, None]
                S = S + _outer(km, bm * (v[line, t, m] - _product(S, km)))
            o[line, t] = _product(S, q[line, t])
        last[row] = S
    return o, last


def backward(
    q: Array,
    k: Array,
    v: Array,
    beta: Array,
    state: Array | None = None,
    do: Array | None = None,
    dlast: Array | None = None,
    *,
    decay: Array | None = None,
    reverse: bool = False,
    reset: Array | None = None,
    lengths: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """(dq, dk, dv, dbeta, ddecay, dstate): the gradient of <do, o> + <dlast, last>; a cotangent of None is zero.

    The gradients of decay and state are returned even if these are None, for a decay of 1 and an initial state of 0.
    """
    shapes = k.shape, v.shape, beta.shape
    k, v, beta = _factors(q, k, v, beta)
    dq, dk, dv, dbeta = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v), np.zeros_like(beta)
    ddecay = np.zeros(q.shape[:3], q.dtype)
    dstate = _first(q, v, dlast, cu_seqlens)
    first = _first(q, v, state, cu_seqlens)
    for row, line, steps in _rows(q, lengths, cu_seqlens, reverse):
        tape, S = [], first[row]
        for t in steps:
            before, states = S, []
            if _restarts(reset, line, t):
                S = np.zeros_like(S)
            elif decay is not None:
                S = decay[line, t][:, None, None] * S
            for m in range(k.shape[2]):
                states.append(S)
                km, bm = k[line, t, m], beta[line, t, m][:, None]
                S = S + _outer(km, bm * (v[line, t, m] - _product(S, km)))
            tape.append((t, before, states, S))
        dS = dstate[row]
        for t, before, states, S in reversed(tape):
            if do is not None:
                dq[line, t] = np.einsum("nkv,nv->nk", S, do[line, t])
                dS = dS + _outer(q[line, t], do[line, t])
            dS = _factor_gradients(
                states, dS, k[line, t], v[line, t], beta[line, t], dk[line, t], dv[line, t], dbeta[line, t]
            )
            if _restarts(reset, line, t):
                dS = np.zeros_like(dS)
                continue
            ddecay[line, t] = (before * dS).sum((1, 2))
            if decay is not None:
                dS = decay[line, t][:, None, None] * dS
        dstate[row] = dS
    return dq, dk.reshape(shapes[0]), dv.reshape(shapes[1]), dbeta.reshape(shapes[2]), ddecay, dstate


def _factor_gradients(
    states: Sequence[Array], dS: Array, k: Array, v: Array, beta: Array, dk: Array, dv: Array, dbeta: Array
) -> Array:
    """Differentiate S' = S + k w^T, w = beta e, e = v - S^T k, from the last factor to the first; return dS."""
    for m in reversed(range(len(states))):
        S, km, bm = states[m], k[m], beta[m][:, None]
        e = v[m] - _product(S, km)
        dw = _product(dS, km)
        de = bm * dw
        dbeta[m] = (dw * e).sum(1)
        dv[m] = de
        dk[m] = np.einsum("nkv,nv->nk", dS, bm * e) - np.einsum("nkv,nv->nk", S, de)
        dS = dS - _outer(km, de)
    return dS
