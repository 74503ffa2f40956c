"""Causal convolutions of channels along time: the specification, the equations in plain NumPy loops.

Shapes: x (B, D, T), weight (D, W), bias (D,), the inputs before the first steps (B, D, W - 1). The arguments are
trusted: `fastiter.ssm` checks them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .reference import Array, Cut, sigmoid


def silu(x: Array) -> Array:
    """x / (1 + e^-x)."""
    y: Array = x * sigmoid(x)
    return y


def silu_slope(x: Array) -> Array:
    """The derivative of silu."""
    s = sigmoid(x)
    y: Array = s * (1 + x * (1 - s))
    return y


def _windows(x: Array, first: Array) -> Array:
    """The inputs of each step, (D, T, W): x[t - W + 1], ..., x[t], for one sequence after ``first``."""
    whole, time = np.concatenate([first, x], 1), x.shape[1]
    width = first.shape[1] + 1
    return np.stack([whole[:, j : j + time] for j in range(width)], -1)


def _belongs(seq_idx: Array | None, row: int, steps: range, width: int) -> Array:
    """Return whether each tap of each step counts, (T, W)."""
    counts = np.ones((len(steps), width), bool)
    if seq_idx is None:
        return counts
    for t in steps:
        for j in range(width):
            source = t - width + 1 + j
            counts[t, j] = source < 0 or seq_idx[row, source] == seq_idx[row, t]
    return counts


def causal_conv1d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    seq_idx: Array | None = None,
    state: Array | None = None,
    activation: bool = False,
    cut: Cut | None = None,
) -> tuple[Array, Array]:
    """(out, last): out[t] = act(bias + sum over j of weight[j] x[t - W + 1 + j]); last: the last W - 1 inputs.

    With ``seq_idx`` (B, T) only inputs of the step's own sequence count, and out is 0 where it is negative.
    """
    (batch, channels, time), width = x.shape, weight.shape[1]
    cut = Cut() if cut is None else cut
    shape = (cut.count(batch), channels, width - 1)
    first = np.zeros(shape, x.dtype) if state is None else state
    out, last = np.zeros_like(x), np.zeros_like(first)
    for s, row, steps in cut.sequences(batch, time):
        inputs = x[row, :, steps.start : steps.stop]
        windows = np.where(_belongs(seq_idx, row, steps, width), _windows(inputs, first[s]), 0)
        pre = (windows * weight[:, None]).sum(-1) + (0 if bias is None else bias[:, None])
        out[row, :, steps.start : steps.stop] = silu(pre) if activation else pre
        last[s] = np.concatenate([first[s], inputs], 1)[:, len(steps) :]
    return (out if seq_idx is None else np.where(seq_idx[:, None] < 0, 0, out)), last


class ConvGradients(NamedTuple):
    """The gradients of a causal convolution, in the order of its arguments and with their shapes."""

    x: Array
    weight: Array
    bias: Array
    state: Array


def backward(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    seq_idx: Array | None = None,
    state: Array | None = None,
    activation: bool = False,
    cut: Cut | None = None,
    dout: Array | None = None,
    dlast: Array | None = None,
) -> ConvGradients:
    """The gradient of <dout, out> + <dlast, last>; a cotangent of None is zero."""
    (batch, channels, time), width = x.shape, weight.shape[1]
    cut = Cut() if cut is None else cut
    pre, last = causal_conv1d(x, weight, bias, seq_idx=seq_idx, state=state, cut=cut)
    first = np.zeros_like(last) if state is None else state
    dpre = np.zeros_like(x) if dout is None else dout * (silu_slope(pre) if activation else 1)
    dpre = dpre if seq_idx is None else np.where(seq_idx[:, None] < 0, 0, dpre)
    dx, dweight, dbias, dfirst = (
        np.zeros_like(x),
        np.zeros_like(weight),
        np.zeros(channels, x.dtype),
        np.zeros_like(last),
    )
    for s, row, steps in cut.sequences(batch, time):
        here = slice(steps.start, steps.stop)
        belongs, d = _belongs(seq_idx, row, steps, width), dpre[row, :, here]
        windows = np.where(belongs, _windows(x[row, :, here], first[s]), 0)
        dweight += (d[..., None] * windows).sum(1)
        dbias += d.sum(1)
        whole = np.zeros((channels, width - 1 + len(steps)), x.dtype)  # the initial states, then the steps
        if dlast is not None:
            whole[:, len(steps) :] = dlast[s]
        for j in range(width):
            whole[:, j : j + len(steps)] += weight[:, j, None] * d * belongs[:, j]
        dfirst[s], dx[row, :, here] = whole[:, : width - 1], whole[:, width - 1 :]
    return ConvGradients(dx, dweight, dbias, dfirst)


def causal_conv1d_update(
    x: Array,
    conv_state: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    activation: bool = False,
    cache_seqlens: Array | None = None,
) -> tuple[Array, Array]:
    """(out, new state): L steps x (B, D, L) after the inputs stored in the state (B, D, N).

    These are the last N inputs in order, or, with ``cache_seqlens`` (B,), a ring buffer in which the next input is
    written at cache_seqlens % N.
    """
    (batch, _, steps), width = x.shape, weight.shape[1]
    out, new, length = np.zeros_like(x), conv_state.copy(), conv_state.shape[2]
    for b in range(batch):
        places = np.arange(-length, steps) + (0 if cache_seqlens is None else cache_seqlens[b])
        ordered = conv_state[b][:, places[:length] % length] if length else conv_state[b]
        whole = np.concatenate([ordered, x[b]], 1)
        out[b] = causal_conv1d(
            x[b : b + 1],
            weight,
            bias,
            state=whole[None, :, length - (width - 1) : length],
            activation=activation,
        )[0][0]
        if cache_seqlens is None:
            new[b] = whole[:, steps:]
        elif length:
            for t in range(steps):
                new[b][:, places[length + t] % length] = x[b, :, t]
    return out, new


def causal_conv1d_varlen_states(x: Array, cu_seqlens: Array, state_len: int) -> Array:
    """The last ``state_len`` inputs of each packed sequence of x (T, D), (S, D, state_len), preceded by zeros."""
    states = np.zeros((len(cu_seqlens) - 1, x.shape[1], state_len), x.dtype)
    for s in range(len(cu_seqlens) - 1):
        last = x[max(cu_seqlens[s], cu_seqlens[s + 1] - state_len) : cu_seqlens[s + 1]]
        states[s, :, state_len - len(last) :] = last.T
    return states
