"""Selective scans h[t] = exp(d[t] A) h[t-1] + d[t] B[t] u[t], y[t] = C[t] h[t] + D u[t], out = y z s(z).

A program has CHANNELS channels of a group in one sequence, and processes its steps in chunks: LANES threads along time,
each with STEPS consecutive steps in registers, 4 or 8. For one state n after the other, a thread composes its steps to
one affine map of the state, (product of the decays, added term), a scan over the threads gives each thread the state
before its steps, and it computes its steps one by one. Products of decays may vanish; nothing is divided by them. Sums
over states are sums in registers, and sums over channels need one exchange between threads for each chunk and n.

The states between chunks are in memory, in `last` (S, D, N), and the saved ones in `states`. Chunks begin at multiples
of 8 steps; steps outside of the sequence have d = 0. B and C are fixed (D, N), or (B, G, N, STEPS, T / STEPS), with
axis t % STEPS before t // STEPS, so that reads of adjacent threads are coalesced. With ALIGNED, T and the strides of
rows and channels are multiples of 8 and steps are contiguous: 8 steps are read at once. Strides count elements; offsets
have 64 bits, within a chunk 32. Code is not specialised for sizes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.triton_functions import sigmoid
from ..common.triton_sequences import line_of, sequence

_SIZES = [f"{name}_row" for name in ("u", "delta", "z", "out", "reset")]
_SIZES += ["channels", "time", "groups", "blocks", "N"]
_STRIDES = [f"{name}_{axis}" for name in ("u", "delta", "z", "out") for axis in ("channel", "time")]
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _compose(p, s, q, r):
    """The map h -> p h + s followed by h -> q h + r"""
    return p * q, q * s + r


@triton.jit
def _columns(x, R: tl.constexpr, L: tl.constexpr, STEPS: tl.constexpr):
    """Column k of each STEPS of x (R, STEPS L), for k from 0 to STEPS - 1, which are 4 or 8"""
    if STEPS == 4:
        even, odd = tl.split(tl.reshape(x, (R, 2 * L, 2)))
        x0, x2 = tl.split(tl.reshape(even, (R, L, 2)))
        x1, x3 = tl.split(tl.reshape(odd, (R, L, 2)))
        return x0, x1, x2, x3
    else:
        even, odd = tl.split(tl.reshape(x, (R, 4 * L, 2)))
        x0, x2, x4, x6 = _columns(even, R, L, 4)
        x1, x3, x5, x7 = _columns(odd, R, L, 4)
        return x0, x1, x2, x3, x4, x5, x6, x7


@triton.jit
def _joined(x, R: tl.constexpr, L: tl.constexpr, STEPS: tl.constexpr):
    """The tile (R, STEPS L) composed of columns (R, L)"""
    if STEPS == 4:
        even, odd = tl.reshape(tl.join(x[0], x[2]), (R, 2 * L)), tl.reshape(tl.join(x[1], x[3]), (R, 2 * L))
        return tl.reshape(tl.join(even, odd), (R, 4 * L))
    else:
        even = _joined((x[0], x[2], x[4], x[6]), R, L, 4)
        odd = _joined((x[1], x[3], x[5], x[7]), R, L, 4)
        return tl.reshape(tl.join(even, odd), (R, 8 * L))


@triton.jit
def _softplus(x):
    """log(1 + e^x), and x itself above 20"""
    e = tl.exp(-tl.abs(x))
    if x.dtype == tl.float64:  # log(1 + e) is e log(w) / (w - 1) for w = 1 + e rounded
        w = 1 + e
        y = tl.where(w == 1, e, tl.log(w) * (e / tl.where(w == 1, 1, w - 1)))
    else:  # minimax on 0 <= e <= 1 of log(1 + e) / e, relative error 7e-8
        p = 0.00523268792 * e - 0.0295052134
        p = p * e + 0.0782259105
        p = p * e - 0.136632423
        p = p * e + 0.191060051
        p = p * e - 0.248429818
        p = p * e + 0.333190968
        p = p * e - 0.499994931
        y = (p * e + 0.99999997) * e
    return tl.where(x > 20, x, tl.maximum(x, 0) + y)


@triton.jit
def _unit(channels, groups, blocks, CHANNELS: tl.constexpr):
    """(sequence, group, first channel, mask of the channels that exist) of this program"""
    program = tl.program_id(0).to(tl.int64)
    g, inner = program // blocks % groups, program % blocks * CHANNELS
    exists = inner + tl.arange(0, CHANNELS)[:, None] < channels // groups
    return program // blocks // groups, g, g * (channels // groups) + inner, exists


@triton.jit
def _chunk(
    row, channel, begin, chunk, start, end, exists, CHANNELS: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr
):
    """A chunk's position: row, first channel and step; offsets of channels and steps from there, and which exist"""
    t = begin + chunk * (STEPS * LANES)
    i, j = tl.arange(0, CHANNELS)[:, None], tl.arange(0, STEPS * LANES)[None, :]
    return row, channel, t, i, j, exists, (start - t).to(tl.int32), (end - t).to(tl.int32)


@triton.jit
def _pointers(x, strides, place, ALIGNED: tl.constexpr):
    """Addresses of a chunk; strides of the axes (row, channel, time)"""
    row, channel, t, i, j, _, _, _ = place
    first, line = row * strides[0] + channel * strides[1] + t * strides[2], i * strides[1]
    if ALIGNED:
        first, line = tl.multiple_of(first, 8), tl.multiple_of(line, [8, 8])
    return x + first + (line + j * strides[2])


@triton.jit
def _read(x, strides, place, ALIGNED: tl.constexpr, STATE: tl.constexpr):
    """A chunk of x, 0 outside of the sequence; ALIGNED reads all 8 steps if the first one is before the end"""
    _, _, _, _, j, exists, low, high = place
    here = (j >= low) & (j < high)
    known = exists & (j // 8 * 8 < high) if ALIGNED else exists & here
    y = tl.load(_pointers(x, strides, place, ALIGNED), known, 0).to(STATE)
    return tl.where(here, y, 0) if ALIGNED else y


@triton.jit
def _write(x, y, strides, place, starts, ALIGNED: tl.constexpr):
    """Write a chunk of the sequence; ALIGNED pads the last 8 steps with zeros, if they belong to no other sequence"""
    _, _, _, _, j, exists, low, high = place
    here = (j >= low) & (j < high)
    if ALIGNED and (starts is None):
        y, here = tl.where(here, y, 0), j // 8 * 8 < high
    tl.store(_pointers(x, strides, place, ALIGNED), y.to(x.dtype.element_ty), exists & here)


@triton.jit
def _weights(x, d, n, q, shape, place, FIXED: tl.constexpr, STEPS: tl.constexpr, STATE: tl.constexpr):
    """B or C of state n at each of STEPS steps from STEPS q on, (1, LANES), or (CHANNELS, 1) if it is fixed

    shape: the line of n = 0, elements per line, N.
    """
    line, size, N = shape
    _, _, t, _, _, exists, low, high = place
    values = ()
    if FIXED:
        y = tl.load(x + d * N + n, exists, 0).to(STATE)
    for k in tl.static_range(STEPS):
        if not FIXED:
            here = (STEPS * q + k >= low) & (STEPS * q + k < high)
            y = tl.load(x + ((line + n) * STEPS + k) * size + t // STEPS + q, here, 0).to(STATE)
        values = values + (y,)
    return values


@triton.jit
def _before(ends, first, step, L: tl.constexpr):
    """The states before each thread's steps, with `first` for the first thread (step 1) or the last (step -1)"""
    lane = tl.arange(0, L)[None, :] + tl.zeros_like(ends).to(tl.int32)
    neighbour = tl.minimum(tl.maximum(lane - step, 0), L - 1)
    return tl.where(lane == neighbour, first, tl.gather(ends, neighbour, 1))


@triton.jit
def _step_sizes(delta, bias, strides, d, place, SOFTPLUS: tl.constexpr, ALIGNED: tl.constexpr, STATE: tl.constexpr):
    """d and its derivative in a chunk, 0 outside of the sequence"""
    _, _, _, _, j, exists, low, high = place
    raw = _read(delta, strides, place, ALIGNED, STATE)
    if bias is not None:
        raw += tl.load(bias + d, exists, 0)
    size, slope = raw, tl.zeros_like(raw) + 1
    if SOFTPLUS:
        size, slope = _softplus(raw), tl.where(raw > 20, 1, sigmoid(raw))
    here = (j >= low) & (j < high)
    return tl.where(here, size, 0), tl.where(here, slope, 0)


@triton.jit
def _decays(sizes, a, drops, reset, STEPS: tl.constexpr):
    """exp(d A) of the steps, 0 at resets; a is A log2 e"""
    values = ()
    for k in tl.static_range(STEPS):
        decay = tl.exp2(sizes[k] * a)
        if reset is not None:
            decay = tl.where(drops[k] != 0, 0, decay)
        values = values + (decay,)
    return values


@triton.jit
def _resets(reset, row, reset_row, q, place, STEPS: tl.constexpr):
    """Resets at each of STEPS steps, (1, LANES)"""
    _, _, t, _, _, _, low, high = place
    values = ()
    for k in tl.static_range(STEPS):
        here = (STEPS * q + k >= low) & (STEPS * q + k < high)
        values = values + (tl.load(reset + row * reset_row + t + STEPS * q + k, here, 0),)
    return values


@triton.jit
def _states(decays, inputs, first, L: tl.constexpr, STEPS: tl.constexpr):
    """(the states before each thread's steps, those after them)"""
    p, s = decays[0], inputs[0]
    for k in tl.static_range(1, STEPS):
        p, s = _compose(p, s, decays[k], inputs[k])
    p, s = tl.associative_scan((p, s), 1, _compose)
    ends = p * first + s
    return _before(ends, first, 1, L), ends


@triton.jit(do_not_specialize=_SIZES, do_not_specialize_on_alignment=_STRIDES)
def selective_fwd_kernel(
    u, delta, A, B, C, D, z, bias, out, last, states, reset, lengths, starts,
    u_row: tl.int64, u_channel: tl.int32, u_time: tl.int32,
    delta_row: tl.int64, delta_channel: tl.int32, delta_time: tl.int32,
    z_row: tl.int64, z_channel: tl.int32, z_time: tl.int32,
    out_row: tl.int64, out_channel: tl.int32, out_time: tl.int32,
    reset_row: tl.int64, channels: tl.int64, time: tl.int64, groups: tl.int64, blocks: tl.int64, N: tl.int64,
    SOFTPLUS: tl.constexpr, FIXED_B: tl.constexpr, FIXED_C: tl.constexpr, ALIGNED: tl.constexpr,
    CHANNELS: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr, SAVED: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """out, the last states, and the states before every SAVED steps; `last` contains the first states on entry"""
    s, g, channel, exists = _unit(channels, groups, blocks, CHANNELS)
    row, start, count = sequence(lengths, starts, s, time)
    end = start + count
    d, begin, shape = (
        channel + tl.arange(0, CHANNELS)[:, None],
        start // 8 * 8,
        ((row * groups + g) * N, (time + STEPS - 1) // STEPS, N),
    )
    at_state = last + (s * channels + d) * N
    if states is not None:
        states += (line_of(starts, s, begin, time, SAVED) * channels + d) * N
    q = tl.arange(0, LANES)[None, :]
    for chunk in tl.range((end - begin + STEPS * LANES - 1) // (STEPS * LANES), disable_licm=True):
        place = _chunk(row, channel, begin, chunk, start, end, exists, CHANNELS, LANES, STEPS)
        x = _read(u, (u_row, u_channel, u_time), place, ALIGNED, STATE)
        steps = _step_sizes(delta, bias, (delta_row, delta_channel, delta_time), d, place, SOFTPLUS, ALIGNED, STATE)[0]
        sizes, products = _columns(steps, CHANNELS, LANES, STEPS), _columns(steps * x, CHANNELS, LANES, STEPS)
        drops = ()
        if reset is not None:
            drops = _resets(reset, row, reset_row, q, place, STEPS)
        skip = x * tl.load(D + d, exists, 0) if D is not None else tl.zeros_like(x)
        y = _columns(skip, CHANNELS, LANES, STEPS)
        for n in range(N):
            a = tl.load(A + d * N + n, exists, 0) * LOG2E
            first = tl.load(at_state + n, exists, 0)
            b = _weights(B, d, n, q, shape, place, FIXED_B, STEPS, STATE)
            c = _weights(C, d, n, q, shape, place, FIXED_C, STEPS, STATE)
            decays = _decays(sizes, a, drops, reset, STEPS)
            inputs = ()
            for k in tl.static_range(STEPS):
                inputs = inputs + (products[k] * b[k],)
            h, ends = _states(decays, inputs, first, LANES, STEPS)
            if states is not None:  # before the first of every SAVED steps
                to = states + ((chunk * LANES + q) * STEPS // SAVED) * channels * N + n
                tl.store(to, h, exists & (q % (SAVED // STEPS) == 0) & (STEPS * q < place[7]))
            tl.store(at_state + n + tl.zeros_like(ends).to(tl.int32), ends, exists & (q == LANES - 1))
            longer = ()
            for k in tl.static_range(STEPS):
                h = decays[k] * h + inputs[k]
                longer = longer + (y[k] + c[k] * h,)
            y = longer
        result = _joined(y, CHANNELS, LANES, STEPS)
        if z is not None:
            gate = _read(z, (z_row, z_channel, z_time), place, ALIGNED, STATE)
            result *= gate * sigmoid(gate)
        _write(out, result, (out_row, out_channel, out_time), place, starts, ALIGNED)
        tl.debug_barrier()  # between writes and reads of states
