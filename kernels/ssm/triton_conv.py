"""Causal convolutions out[t] = act(bias + sum_j weight[j] x[t - W + 1 + j]) of channels along time.

A program has a tile of BD channels and BT steps of a row, and reads x at the shift of each tap: all reads but the first
hit the cache. Up to 8 taps are unrolled, and equal reads of x for several taps are merged. `first` (S, D, W - 1)
contains the inputs before each sequence. Steps are divided into sequences in one of four ways: each row is a sequence;
`lengths` (B,) are the numbers of steps of the rows; `bounds` (S + 1,) and `labels` (T,), the sequence of each step,
divide a single row; or `labels` (B, T) alone are compared at every tap, with no output where they are negative.

Strides count elements. Code is not specialised for sizes and row strides, and for strides of channels and steps only if
they are 1. Offsets have 64 bits, steps 32. The kernels pass tuples: `where` is (labels, bounds, row, its steps, T),
`source` is (x at the row, strides of its channels and steps, weight, bias, first, D).
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.triton_functions import sigmoid
from ..common.triton_sequences import sequence

_SIZES = ["x_row", "out_row", "dout_row", "dx_row", "channels", "time", "blocks", "segments"]
_STRIDES = ["x_channel", "x_time", "out_channel", "out_time", "dout_channel", "dout_time", "dx_channel", "dx_time"]
_STATE_SIZES = ["state_row", "steps", "stored", "places", "x_row", "channels", "blocks"]
_STATE_STRIDES = ["state_channel", "state_time", "weight_channel", "weight_time", "bias_channel"]


@triton.jit
def _silu(x):
    """x s(x) and its derivative"""
    s = sigmoid(x)
    return x * s, s * (1 + x * (1 - s))


@triton.jit
def _steps(lengths, row, time):
    """Number of steps of a row"""
    return (tl.load(lengths + row) if lengths is not None else time).to(tl.int32)


@triton.jit
def _sequence_of(where, t):
    """(sequence, its first step) of steps t"""
    labels, bounds, row, _, time = where
    if bounds is not None:
        s = tl.load(labels + t, (t >= 0) & (t < time), 0)
        return s, tl.load(bounds + s).to(tl.int32)
    else:
        return row, time * 0


@triton.jit
def _has_output(where, t):
    labels, bounds, row, count, time = where
    here = (t >= 0) & (t < count)
    if (labels is not None) and (bounds is None):
        here = here & (tl.load(labels + row * time + t, here, -1) >= 0)
    return here


@triton.jit
def _sees(where, t, p):
    """Whether steps p <= t belong to the same sequence as t, if both are in the row"""
    labels, bounds, row, _, time = where
    if bounds is not None:
        return p >= _sequence_of(where, t)[1]
    elif labels is not None:
        labels += row * time
        own = tl.load(labels + t, (t >= 0) & (t < time), -1)
        return (own == tl.load(labels + p, (p >= 0) & (p < time), -1)) & (own >= 0)
    else:
        return p >= 0


@triton.jit
def _input(where, source, d, t, shift, back, W: tl.constexpr, STATE: tl.constexpr):
    """x at steps t + shift - back as read by steps t + shift: 0, or from `first`, if it is outside of their sequence"""
    x, x_channel, x_time, _, _, first, channels = source
    p = t + (shift - back)
    y = tl.load(x + d * x_channel + p * x_time, (p >= 0) & (p < where[3]) & (d < channels), 0).to(STATE)
    y = tl.where(_sees(where, t + shift, p), y, 0)
    if first is not None:
        s, begin = _sequence_of(where, t + shift)
        before = (p < begin) & (p - begin > -W) & (d < channels)
        at = first + (s * channels + d + 1) * (W - 1) + (p - begin)
        y = tl.where(p < begin, tl.load(at, before, 0).to(STATE), y)
    return y


@triton.jit
def _tap(source, d, j, W: tl.constexpr):
    return tl.load(source[3] + d * W + j, d < source[6], 0)


@triton.jit
def _sums(where, source, d, t, shift, W: tl.constexpr, STATE: tl.constexpr):
    """bias + sum_j weight[j] x[t + shift - W + 1 + j]"""
    y = tl.zeros_like(d + t).to(STATE)
    if source[4] is not None:
        y += tl.load(source[4] + d, d < source[6], 0)
    if W <= 8:
        for j in tl.static_range(W):
            y += _tap(source, d, j, W) * _input(where, source, d, t, shift, W - 1 - j, W, STATE)
    else:
        for j in range(W):
            y += _tap(source, d, j, W) * _input(where, source, d, t, shift, W - 1 - j, W, STATE)
    return y


@triton.jit
def _tile(blocks, segments, BD: tl.constexpr):
    """(row, channels, segment of time) of this program"""
    program = tl.program_id(0).to(tl.int64)
    d = program // segments % blocks * BD + tl.arange(0, BD)[:, None]
    return program // segments // blocks, d, program % segments


@triton.jit(do_not_specialize=_SIZES, do_not_specialize_on_alignment=_STRIDES)
def causal_conv_fwd_kernel(
    x, weight, bias, first, labels, bounds, lengths, out,
    x_row: tl.int64, x_channel: tl.int64, x_time: tl.int64,
    out_row: tl.int64, out_channel: tl.int64, out_time: tl.int64,
    channels: tl.int64, time: tl.int64, blocks: tl.int64, segments: tl.int64,
    W: tl.constexpr, SILU: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """out"""
    row, d, segment = _tile(blocks, segments, BD)
    t = (segment * BT).to(tl.int32) + tl.arange(0, BT)[None, :]
    where = (labels, bounds, row, _steps(lengths, row, time), time.to(tl.int32))
    source = (x + row * x_row, x_channel, x_time, weight, bias, first, channels)
    y = _sums(where, source, d, t, 0, W, STATE)
    if SILU:
        y = _silu(y)[0]
    y = tl.where(_has_output(where, t), y, 0)
    to = out + row * out_row + d * out_channel + t * out_time
    tl.store(to, y.to(out.dtype.element_ty), (d < channels) & (t < time))


@triton.jit(do_not_specialize=_SIZES, do_not_specialize_on_alignment=_STRIDES)
def causal_conv_last_kernel(
    x, first, bounds, lengths, last,
    x_row: tl.int64, x_channel: tl.int64, x_time: tl.int64, channels: tl.int64, time: tl.int64, blocks: tl.int64,
    W: tl.constexpr, BD: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """last (S, D, W - 1): the last inputs of each sequence"""
    s, d, _ = _tile(blocks, 1, BD)
    row, begin, count = sequence(lengths, bounds, s, time)
    i = tl.arange(0, BW)[None, :]
    inside, p = (d < channels) & (i < W - 1), count - (W - 1) + i
    y = tl.load(x + row * x_row + d * x_channel + (begin + p) * x_time, inside & (p >= 0), 0)
    if first is not None:
        before = first + (s * channels + d) * (W - 1) + count + i
        y = tl.where(p < 0, tl.load(before, inside & (p < 0), 0), y)
    tl.store(last + (s * channels + d) * (W - 1) + i, y, inside)


@triton.jit
def _dsums(where, source, dout, d, t, shift, W: tl.constexpr, SILU: tl.constexpr, STATE: tl.constexpr):
    """The gradient of the sums at steps t + shift; dout: (gradient of out at the row, strides of channels and steps)"""
    here = _has_output(where, t + shift) & (d < source[6])
    g = tl.load(dout[0] + d * dout[1] + (t + shift) * dout[2], here, 0).to(STATE)
    return tl.where(here, g * _silu(_sums(where, source, d, t, shift, W, STATE))[1], 0) if SILU else g


@triton.jit
def _dinput(where, source, dout, d, t, shift, W: tl.constexpr, SILU: tl.constexpr, STATE: tl.constexpr):
    """Return the part of the gradient of x at steps t that comes from the outputs at steps t + shift."""
    g = tl.where(_sees(where, t + shift, t), _dsums(where, source, dout, d, t, shift, W, SILU, STATE), 0)
    return _tap(source, d, W - 1 - shift, W) * g


@triton.jit
def _dlast(where, dlast, d, t, channels, W: tl.constexpr, STATE: tl.constexpr):
    """Return the part of the gradient of x at steps t that comes from the final states."""
    _, bounds, _, count, time = where
    s, _ = _sequence_of(where, t)
    left = (tl.load(bounds + s + 1) if bounds is not None else count) - t
    at = dlast + (s * channels + d + 1) * (W - 1) - left
    return tl.load(at, (left > 0) & (left < W) & (d < channels) & (t < time), 0).to(STATE)


@triton.jit(do_not_specialize=_SIZES, do_not_specialize_on_alignment=_STRIDES)
def causal_conv_bwd_kernel(
    x, weight, bias, first, labels, bounds, lengths, dout, dlast, dx, sums,
    x_row: tl.int64, x_channel: tl.int64, x_time: tl.int64,
    dout_row: tl.int64, dout_channel: tl.int64, dout_time: tl.int64,
    dx_row: tl.int64, dx_channel: tl.int64, dx_time: tl.int64,
    channels: tl.int64, time: tl.int64, blocks: tl.int64, segments: tl.int64,
    W: tl.constexpr, SILU: tl.constexpr, TILES: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """dx, and the sums dweight, then dbias, (B, segments, W + 1, D), over segments of TILES tiles

    TILES is 1 for more than 8 taps.
    """
    row, d, segment = _tile(blocks, segments, BD)
    where = (labels, bounds, row, _steps(lengths, row, time), time.to(tl.int32))
    source = (x + row * x_row, x_channel, x_time, weight, bias, first, channels)
    from_out = (dout + row * dout_row, dout_channel, dout_time)
    totals = ()
    if sums is not None:
        sums += (row * segments + segment) * (W + 1) * channels + d
        if W <= 8:
            for _ in tl.static_range(W + 1):
                totals = totals + (tl.zeros((BD, BT), STATE),)
    begin = segment * TILES * BT
    for tile in range(tl.minimum(TILES, (time - begin + BT - 1) // BT)):
        t = (begin + tile * BT).to(tl.int32) + tl.arange(0, BT)[None, :]
        g = _dsums(where, source, from_out, d, t, 0, W, SILU, STATE)
        if (sums is not None) and (W <= 8):
            longer = ()
            for j in tl.static_range(W):
                longer = longer + (totals[j] + g * _input(where, source, d, t, 0, W - 1 - j, W, STATE),)
            totals = longer + (totals[W] + g,)
        elif sums is not None:
            for j in range(W):
                products = g * _input(where, source, d, t, 0, W - 1 - j, W, STATE)
                tl.store(sums + j * channels, tl.sum(products, 1, keep_dims=True), d < channels)
            tl.store(sums + W * channels, tl.sum(g, 1, keep_dims=True), d < channels)
        if dx is not None:
            y = g * _tap(source, d, W - 1, W)
            if dlast is not None:
                y += _dlast(where, dlast, d, t, channels, W, STATE)
            if W <= 8:
                for shift in tl.static_range(1, W):
                    y += _dinput(where, source, from_out, d, t, shift, W, SILU, STATE)
            else:
                for shift in range(1, W):
                    y += _dinput(where, source, from_out, d, t, shift, W, SILU, STATE)
            to = dx + row * dx_row + d * dx_channel + t * dx_time
            tl.store(to, y.to(dx.dtype.element_ty), (d < channels) & (t < time))
    if (sums is not None) and (W <= 8):
        for j in tl.static_range(W + 1):
            tl.store(sums + j * channels, tl.sum(totals[j], 1, keep_dims=True), d < channels)


@triton.jit(do_not_specialize=_SIZES, do_not_specialize_on_alignment=_STRIDES)
def causal_conv_bwd_first_kernel(
    x, weight, bias, first, labels, bounds, lengths, dout, dlast, dfirst,
    x_row: tl.int64, x_channel: tl.int64, x_time: tl.int64,
    dout_row: tl.int64, dout_channel: tl.int64, dout_time: tl.int64,
    channels: tl.int64, time: tl.int64, blocks: tl.int64,
    W: tl.constexpr, SILU: tl.constexpr, BD: tl.constexpr, BW: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """dfirst (S, D, W - 1): input i is multiplied by tap i - t at step t of its sequence"""
    s, d, _ = _tile(blocks, 1, BD)
    row, begin, count = sequence(lengths, bounds, s, time)
    where = (labels, bounds, row, _steps(lengths, row, time), time.to(tl.int32))
    source = (x + row * x_row, x_channel, x_time, weight, bias, first, channels)
    from_out = (dout + row * dout_row, dout_channel, dout_time)
    i = tl.arange(0, BW)[None, :]
    inside = (d < channels) & (i < W - 1)
    y = tl.zeros((BD, BW), STATE)
    for step in range(tl.minimum(count, W - 1)):
        t = begin + step + tl.zeros((1, 1), tl.int64)
        taps = tl.load(weight + d * W + i - step, inside & (i >= step), 0)
        y += taps * _dsums(where, source, from_out, d, t, 0, W, SILU, STATE)
    if dlast is not None:
        y += tl.load(dlast + (s * channels + d) * (W - 1) + i - count, inside & (i >= count), 0).to(STATE)
    tl.store(dfirst + (s * channels + d) * (W - 1) + i, y.to(dfirst.dtype.element_ty), inside)


@triton.jit
def _ring_place(positions, row, p, stored):
    """The position in a state of the input at p < 0 relative to the next steps"""
    if positions is not None:
        size = tl.maximum(stored, 1)
        return ((tl.load(positions + row) + p) % size + size) % size
    else:
        return stored + p


@triton.jit
def _step_input(x, state, d, p, steps, stored, STATE: tl.constexpr):
    """The input at p, from the state if p < 0, else from x; both are (data at the row, its strides, its channels).

    The tuple of the state continues with (positions, row).
    """
    at = state[0] + d * state[1] + _ring_place(state[4], state[5], p, stored) * state[2]
    before = tl.load(at, (d < state[3]) & (p < 0) & (p >= -stored), 0).to(STATE)
    y = tl.load(x[0] + d * x[1] + p * x[2], (d < x[3]) & (p >= 0) & (p < steps), 0).to(STATE)
    return tl.where(p < 0, before, y)


@triton.jit(do_not_specialize=_STATE_SIZES, do_not_specialize_on_alignment=["x_channel", "x_time", *_STATE_STRIDES])
def causal_conv_update_kernel(
    x, state, weight, bias, positions, rows, out,
    x_row: tl.int64, x_channel: tl.int64, x_time: tl.int64,
    state_row: tl.int64, state_channel: tl.int64, state_time: tl.int64,
    weight_channel: tl.int64, weight_time: tl.int64, bias_channel: tl.int64,
    channels: tl.int64, steps: tl.int64, stored: tl.int64, places: tl.int64, blocks: tl.int64,
    W: tl.constexpr, SILU: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """out (B, D, L) after the inputs in state (places, D, N = stored), to which those of the steps are then appended

    positions (B,): the state is a ring buffer, with the next input at this position modulo N. rows (B,): the index of
    each row's state; out is 0 if it does not exist.
    """
    row, d, _ = _tile(blocks, 1, BD)
    own = tl.load(rows + row) if rows is not None else row
    exists = (own >= 0) & (own < places)
    known = tl.where(exists, channels, 0)
    from_x = (x + row * x_row, x_channel, x_time, known)
    from_state = (state + own * state_row, state_channel, state_time, known, positions, row)
    for step in range(steps):
        y = tl.zeros((BD, 1), STATE)
        if bias is not None:
            y += tl.load(bias + d * bias_channel, d < known, 0).to(STATE)
        for j in range(W):
            tap = tl.load(weight + d * weight_channel + j * weight_time, d < known, 0).to(STATE)
            p = step - (W - 1) + j + tl.zeros((1, 1), tl.int64)
            y += tap * _step_input(from_x, from_state, d, p, steps, stored, STATE)
        if SILU:
            y = _silu(y)[0]
        tl.store(out + (row * channels + d) * steps + step, y.to(out.dtype.element_ty), d < channels)
    i = tl.arange(0, BN)[None, :]
    p, changes = i - stored + steps, (d < known) & (i < stored)
    if positions is not None:  # the last step whose position in the ring buffer is i
        p = steps - 1 - _ring_place(positions, row, steps - 1 - i, stored)
        changes = changes & (p >= 0)
    y = _step_input(from_x, from_state, d, p, steps, stored, STATE)
    tl.debug_barrier()  # all reads of the state come before its changes
    tl.store(state + own * state_row + d * state_channel + i * state_time, y.to(state.dtype.element_ty), changes)
