"""Gradients of selective scans, in the chunks of triton_selective.py from the last to the first (docs/ssm/theory.md).

With l the gradient of h, a thread composes its steps to a map from l after them to l before them, a scan over the
threads from the last gives each thread the gradient after its steps, and it computes its steps one by one, backwards.
The states are recomputed from those before each chunk. `carry` (S, D, N) contains the gradients of the states between
chunks, and finally those of the first states. dA, and dB and dC of fixed B and C, are sums over each sequence,
(S, D, N); varying dB and dC are sums over a program's channels, (blocks, B, G, N, T), which the caller adds up.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.triton_functions import sigmoid
from ..common.triton_sequences import line_of, sequence
from .triton_selective import (
    LOG2E,
    _before,
    _chunk,
    _columns,
    _compose,
    _decays,
    _joined,
    _read,
    _resets,
    _states,
    _step_sizes,
    _unit,
    _weights,
    _write,
)

_SIZES = [f"{name}_row" for name in ("u", "delta", "z", "dout", "du", "ddelta", "dz", "reset")]
_SIZES += ["channels", "time", "groups", "blocks", "rows", "N"]
_STRIDES = [
    f"{name}_{axis}" for name in ("u", "delta", "z", "dout", "du", "ddelta", "dz") for axis in ("channel", "time")
]


@triton.jit
def _state_gradients(decays, c, dy, after, L: tl.constexpr, STEPS: tl.constexpr):
    """(gradients of the states after each thread's steps, those before them), through later steps"""
    p, s = decays[STEPS - 1], decays[STEPS - 1] * (c[STEPS - 1] * dy[STEPS - 1])
    for k in tl.static_range(STEPS - 2, -1, -1):
        p, s = decays[k] * p, decays[k] * (c[k] * dy[k] + s)
    p, s = tl.associative_scan((p, s), 1, _compose, reverse=True)
    begins = p * after + s
    return _before(begins, after, -1, L), begins


@triton.jit
def _store_sums(
    x,
    sums,
    at,
    line,
    n,
    N,
    time,
    place,
    CHANNELS: tl.constexpr,
    LANES: tl.constexpr,
    STEPS: tl.constexpr,
    FIXED: tl.constexpr,
):
    """Add sums over the steps of these columns at `at`, or store sums over channels"""
    if FIXED:
        y = sums[0]
        for k in tl.static_range(1, STEPS):
            y += sums[k]
        y = tl.sum(y, 1, keep_dims=True)
        tl.store(x + at, tl.load(x + at, place[5], 0) + y, place[5])
    else:
        _, _, t, _, j, _, low, high = place
        y = tl.sum(_joined(sums, CHANNELS, LANES, STEPS), 0, keep_dims=True)
        tl.store(x + (line + n) * time + t + j, y, (j >= low) & (j < high))


@triton.jit
def _from_out(dout, strides, z, z_strides, place, ALIGNED: tl.constexpr, STATE: tl.constexpr):
    """(gradient of y + D u, gradient of out, z, s(z)) in a chunk"""
    g = _read(dout, strides, place, ALIGNED, STATE)
    if z is not None:
        gate = _read(z, z_strides, place, ALIGNED, STATE)
        s = sigmoid(gate)
        return g * gate * s, g, gate, s
    else:
        return g, g, g, g


@triton.jit(do_not_specialize=_SIZES, do_not_specialize_on_alignment=_STRIDES)
def selective_bwd_kernel(
    u, delta, A, B, C, D, z, bias, states, dout, du, ddelta, dz, carry, dA, dB, dC, dD, dbias, reset, lengths, starts,
    u_row: tl.int64, u_channel: tl.int32, u_time: tl.int32,
    delta_row: tl.int64, delta_channel: tl.int32, delta_time: tl.int32,
    z_row: tl.int64, z_channel: tl.int32, z_time: tl.int32,
    dout_row: tl.int64, dout_channel: tl.int32, dout_time: tl.int32,
    du_row: tl.int64, du_channel: tl.int32, du_time: tl.int32,
    ddelta_row: tl.int64, ddelta_channel: tl.int32, ddelta_time: tl.int32,
    dz_row: tl.int64, dz_channel: tl.int32, dz_time: tl.int32,
    reset_row: tl.int64, channels: tl.int64, time: tl.int64, groups: tl.int64, blocks: tl.int64, rows: tl.int64,
    N: tl.int64,
    SOFTPLUS: tl.constexpr, FIXED_B: tl.constexpr, FIXED_C: tl.constexpr, ALIGNED: tl.constexpr,
    CHANNELS: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """All gradients; on entry carry contains those of the last states, and dA and those of fixed B and C are 0"""
    s, g, channel, exists = _unit(channels, groups, blocks, CHANNELS)
    row, start, count = sequence(lengths, starts, s, time)
    end = start + count
    d, begin = channel + tl.arange(0, CHANNELS)[:, None], start // 8 * 8
    line = (row * groups + g) * N
    partial = ((tl.program_id(0) % blocks * rows + row) * groups + g) * N
    shape = (line, (time + STEPS - 1) // STEPS, N)
    own, inner = (s * channels + channel) * N, tl.arange(0, CHANNELS)[:, None] * N.to(tl.int32)
    states += (line_of(starts, s, begin, time, STEPS * LANES) * channels + channel) * N
    carry += own
    A += channel * N
    if dA is not None:
        dA += own
    if FIXED_B and (dB is not None):
        dB += own
    if FIXED_C and (dC is not None):
        dC += own
    q = tl.arange(0, LANES)[None, :]
    total_D, total_bias = tl.zeros((CHANNELS, 1), STATE), tl.zeros((CHANNELS, 1), STATE)
    chunks = (end - begin + STEPS * LANES - 1) // (STEPS * LANES)
    for earlier in tl.range(chunks, disable_licm=True):
        chunk = chunks - 1 - earlier
        place = _chunk(row, channel, begin, chunk, start, end, exists, CHANNELS, LANES, STEPS)
        delta_strides = (delta_row, delta_channel, delta_time)
        x = _read(u, (u_row, u_channel, u_time), place, ALIGNED, STATE)
        step = _step_sizes(delta, bias, delta_strides, d, place, SOFTPLUS, ALIGNED, STATE)[0]
        sizes, products = _columns(step, CHANNELS, LANES, STEPS), _columns(step * x, CHANNELS, LANES, STEPS)
        tl.debug_barrier()  # keeps later loads from taking registers already here
        of_dout, of_z = (dout_row, dout_channel, dout_time), (z_row, z_channel, z_time)
        dy = _columns(_from_out(dout, of_dout, z, of_z, place, ALIGNED, STATE)[0], CHANNELS, LANES, STEPS)
        drops = ()
        if reset is not None:
            drops = _resets(reset, row, reset_row, q, place, STEPS)
        zero = tl.zeros((CHANNELS, LANES), STATE)
        y = ()
        for _k in tl.static_range(STEPS):
            y = y + (zero,)
        dx, dstep = y, y
        for n in tl.range(N.to(tl.int32), disable_licm=True):
            at = inner + n
            a = tl.load(A + at, exists, 0)
            after = tl.load(carry + at, exists, 0)
            first = tl.load(states + chunk * channels * N + at, exists, 0)
            b = _weights(B, d, n, q, shape, place, FIXED_B, STEPS, STATE)
            c = _weights(C, d, n, q, shape, place, FIXED_C, STEPS, STATE)
            decays = _decays(sizes, a * LOG2E, drops, reset, STEPS)
            inputs = ()
            for k in tl.static_range(STEPS):
                inputs = inputs + (products[k] * b[k],)
            h = _states(decays, inputs, first, LANES, STEPS)[0]
            befores, of_c, longer = (), (), ()
            for k in tl.static_range(STEPS):
                befores = befores + (h,)
                h = decays[k] * h + inputs[k]
                of_c = of_c + (dy[k] * h,)
                longer = longer + (y[k] + c[k] * h if z is not None else y[k],)
            y = longer
            if dC is not None:
                _store_sums(dC, of_c, at, partial, n, N, time, place, CHANNELS, LANES, STEPS, FIXED_C)
            l, begins = _state_gradients(decays, c, dy, after, LANES, STEPS)
            tl.store(carry + (at + tl.zeros_like(q)), begins, exists & (q == 0))
            of_b, longer_x, longer_step = (), (), ()
            of_a = zero
            for k in tl.static_range(STEPS - 1, -1, -1):
                l = c[k] * dy[k] + l
                of_b = (l * products[k],) + of_b
                longer_x = (dx[k] + l * b[k],) + longer_x
                l = decays[k] * l
                w = l * befores[k]
                of_a += w * sizes[k]
                longer_step = (dstep[k] + w * a,) + longer_step
            dx, dstep = longer_x, longer_step
            if dA is not None:
                of_a = tl.sum(of_a, 1, keep_dims=True)
                tl.store(dA + at, tl.load(dA + at, exists, 0) + of_a, exists)
            if dB is not None:
                _store_sums(dB, of_b, at, partial, n, N, time, place, CHANNELS, LANES, STEPS, FIXED_B)
        x = _read(u, (u_row, u_channel, u_time), place, ALIGNED, STATE)
        step, slope = _step_sizes(delta, bias, delta_strides, d, place, SOFTPLUS, ALIGNED, STATE)
        from_x = _joined(dx, CHANNELS, LANES, STEPS)
        from_step = (x * from_x + _joined(dstep, CHANNELS, LANES, STEPS)) * slope
        total_bias += tl.sum(from_step, 1, keep_dims=True)
        if ddelta is not None:
            _write(ddelta, from_step, (ddelta_row, ddelta_channel, ddelta_time), place, starts, ALIGNED)
        from_x *= step
        tl.debug_barrier()
        from_y, from_result, gate, sigma = _from_out(dout, of_dout, z, of_z, place, ALIGNED, STATE)
        skip = tl.load(D + d, exists, 0) if D is not None else tl.zeros((CHANNELS, 1), STATE)
        total_D += tl.sum(from_y * x, 1, keep_dims=True)
        if du is not None:
            _write(du, from_x + skip * from_y, (du_row, du_channel, du_time), place, starts, ALIGNED)
        if dz is not None:
            result = (_joined(y, CHANNELS, LANES, STEPS) + skip * x) * from_result
            result *= sigma * (1 + gate * (1 - sigma))
            _write(dz, result, (dz_row, dz_channel, dz_time), place, starts, ALIGNED)
        tl.debug_barrier()  # between writes and reads of the gradients of states
    if dD is not None:
        tl.store(dD + s * channels + d, total_D, exists)
    if dbias is not None:
        tl.store(dbias + s * channels + d, total_bias, exists)
