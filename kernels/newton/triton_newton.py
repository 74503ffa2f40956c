"""The cells with diagonal recurrent weights, step by step (equations: docs/newton/theory.md).

A lane is one unit of one row. It loads its next UNROLL steps before it computes, as they do not depend on its states.
Sums for the gradients of the weights have the order of the steps, separately for each row. Strides count elements; all
offsets have 64 bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.triton_functions import log_sigmoid, sigmoid
from ..common.triton_sequences import fill_zero, sequences_of_lanes

#: Arguments for which code is not specialised: they vary between calls, and loads are never wide, as a unit has one
#: #: thread.
_FORWARD = ["wx_row", "wx_time", "wx_gate", "h_row", "h_time", "rows", "time", "width", "direction"]
_GRADIENTS = ["dh_row", "dh_time", "dwx_row", "dwx_time", "dwx_gate"]


@triton.jit
def _tanh(x):
    t = tl.exp(-2 * tl.abs(x))
    y = (1 - t) / (1 + t)
    return tl.where(x < 0, -y, y)


@triton.jit
def _lstm_parts(x, a, p, s):
    f = sigmoid(a[0] * s[0] + x[0] + p[0] * s[1])
    q = _tanh(a[2] * s[0] + x[2])
    c = f * s[1] + (1 - f) * q
    o = sigmoid(a[1] * s[0] + x[1] + p[1] * c)
    return f, o, q, c, _tanh(c)


@triton.jit
def _slstm_parts(x, a, s):
    """Pre-activations of i, f, z, o; ell; m; i, f, z, o; f n' + i"""
    ai, af, az, ao = x[0] + a[0] * s[0], x[1] + a[1] * s[0], x[2] + a[2] * s[0], x[3] + a[3] * s[0]
    ell = log_sigmoid(af) + s[3]
    m = tl.where((s[2] == 0) | (ell < ai), ai, ell)
    i, f = tl.exp(tl.where(ai > m, 0, ai - m)), tl.exp(tl.where(ell > m, 0, ell - m))
    return ai, af, ell, m, i, f, _tanh(az), sigmoid(ao), f * s[2] + i


@triton.jit
def _step(x, a, p, s, CELL: tl.constexpr):
    if CELL == "paragru":
        z, r = sigmoid(a[0] * s[0] + x[0]), sigmoid(a[1] * s[0] + x[1])
        q = _tanh(a[2] * s[0] * r + x[2])
        return (z * q + (1 - z) * s[0],)
    elif CELL == "paralstm":
        _, o, _, c, tanh_c = _lstm_parts(x, a, p, s)
        return o * tanh_c, c
    else:
        _, _, _, m, i, f, z, o, sum_n = _slstm_parts(x, a, s)
        c, n = f * s[1] + i * z, tl.where(sum_n < 1, 1, sum_n)
        return o * c / n, c, n, m


@triton.jit
def _gradient(x, a, p, s, ds, CELL: tl.constexpr):
    """(gradients of x, the factors of h in the gradients of a, gradients of p, gradients of the states before)"""
    if CELL == "paragru":
        h, dh = s[0], ds[0]
        z, r = sigmoid(a[0] * h + x[0]), sigmoid(a[1] * h + x[1])
        q = _tanh(a[2] * h * r + x[2])
        dz, dq = dh * (q - h) * z * (1 - z), dh * z * (1 - q * q)
        dr = dq * a[2] * h * r * (1 - r)
        return (dz, dr, dq), (dz, dr, dq * r), (), (dh * (1 - z) + dz * a[0] + dr * a[1] + dq * a[2] * r,)
    elif CELL == "paralstm":
        f, o, q, c, tanh_c = _lstm_parts(x, a, p, s)
        d_o = ds[0] * tanh_c * o * (1 - o)
        dc = ds[1] + ds[0] * o * (1 - tanh_c * tanh_c) + d_o * p[1]
        df, dq = dc * (s[1] - q) * f * (1 - f), dc * (1 - f) * (1 - q * q)
        before = df * a[0] + d_o * a[1] + dq * a[2], dc * f + df * p[0]
        return (df, d_o, dq), (df, d_o, dq), (df * s[1], d_o * c), before
    else:
        ai, af, ell, m, i, f, z, o, sum_n = _slstm_parts(x, a, s)
        c, n = f * s[1] + i * z, tl.where(sum_n < 1, 1, sum_n)
        dc, dn = ds[1] + ds[0] * o / n, tl.where(sum_n < 1, 0, ds[2] - ds[0] * (o * c / n) / n)
        du, dv = (dc * z + dn) * i, tl.where(ell <= m, (dc * s[1] + dn * s[2]) * f, 0)
        dm = ds[3] - du - dv
        to_ai = tl.where((s[2] == 0) | (ai > ell), dm, tl.where(ai == ell, dm / 2, 0))
        d_ell = dv + (dm - to_ai)
        dx = du + to_ai, d_ell * sigmoid(-af), dc * i * (1 - z * z), ds[0] * (c / n) * o * (1 - o)
        dh = dx[0] * a[0] + dx[1] * a[1] + dx[2] * a[2] + dx[3] * a[3]
        return dx, dx, (), (dh, dc * f, dn * f, d_ell)


@triton.jit
def _load_parts(p, step, mask, COUNT: tl.constexpr):
    """COUNT elements for each lane, with stride ``step``"""
    parts = ()
    for i in tl.static_range(COUNT):
        parts = parts + (tl.load(p + i * step, mask, 0),)
    return parts


@triton.jit
def _where(condition, x, y, COUNT: tl.constexpr):
    parts = ()
    for i in tl.static_range(COUNT):
        parts = parts + (tl.where(condition, x[i], y[i]),)
    return parts


@triton.jit
def _plus_where(condition, x, y, by, COUNT: tl.constexpr):
    """x + by y where the condition holds"""
    parts = ()
    for i in tl.static_range(COUNT):
        parts = parts + (x[i] + tl.where(condition, by * y[i], 0),)
    return parts


@triton.jit
def _zeros(COUNT: tl.constexpr, LANES: tl.constexpr, STATE: tl.constexpr):
    parts = ()
    for _ in tl.static_range(COUNT):
        parts = parts + (tl.zeros((LANES,), STATE),)
    return parts


@triton.jit(do_not_specialize=_FORWARD)
def para_fwd_kernel(
    wx,
    a,
    p,
    first,
    h,
    c,
    n,
    m,
    last,
    lengths,
    wx_row: tl.int64,
    wx_time: tl.int64,
    wx_gate: tl.int64,
    h_row: tl.int64,
    h_time: tl.int64,
    rows: tl.int64,
    time: tl.int64,
    width: tl.int64,
    direction: tl.int64,
    CELL: tl.constexpr,
    GATES: tl.constexpr,
    STATES: tl.constexpr,
    STATE: tl.constexpr,
    UNROLL: tl.constexpr,
    LANES: tl.constexpr,
):
    """h and the last states (S, B, D); c, n and m of all steps if given, with the strides of h."""
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    row, d = lane // width, lane % width
    active = row < rows
    count = sequences_of_lanes(lengths, None, row, time, active)[2]
    weights = _load_parts(a + d, width, active, GATES)
    peepholes = ()
    if p is not None:
        peepholes = _load_parts(p + d, width, active, 2)
    now = _zeros(STATES, LANES, STATE)
    if first is not None:
        now = _load_parts(first + row * width + d, rows * width, active, STATES)
    t = tl.where(direction > 0, 0, count - 1)
    at_x, to = wx + row * wx_row + t * wx_time + d, row * h_row + t * h_time + d
    for k in range(0, tl.max(count), UNROLL):
        inputs = ()
        for u in tl.static_range(UNROLL):
            inputs = inputs + (_load_parts(at_x + (k + u) * direction * wx_time, wx_gate, k + u < count, GATES),)
        for u in tl.static_range(UNROLL):
            here, there = k + u < count, to + (k + u) * direction * h_time
            now = _where(here, _step(inputs[u], weights, peepholes, now, CELL), now, STATES)
            tl.store(h + there, now[0], here)
            if c is not None:
                tl.store(c + there, now[1], here)
            if n is not None:
                tl.store(n + there, now[2], here)
                tl.store(m + there, now[3], here)
    for i in tl.static_range(STATES):
        tl.store(last + (i * rows + row) * width + d, now[i], active)
    if lengths is not None:
        end = tl.where(active, tl.zeros_like(row) + time, count)
        fill_zero(h + row * h_row + d, h_time, count, end, False)


@triton.jit(do_not_specialize=[*_FORWARD, *_GRADIENTS])
def para_bwd_kernel(
    wx,
    a,
    p,
    first,
    h,
    c,
    n,
    m,
    dh,
    dlast,
    dwx,
    dfirst,
    da,
    dp,
    lengths,
    wx_row: tl.int64,
    wx_time: tl.int64,
    wx_gate: tl.int64,
    h_row: tl.int64,
    h_time: tl.int64,
    dh_row: tl.int64,
    dh_time: tl.int64,
    dwx_row: tl.int64,
    dwx_time: tl.int64,
    dwx_gate: tl.int64,
    rows: tl.int64,
    time: tl.int64,
    width: tl.int64,
    direction: tl.int64,
    CELL: tl.constexpr,
    GATES: tl.constexpr,
    STATES: tl.constexpr,
    STATE: tl.constexpr,
    UNROLL: tl.constexpr,
    LANES: tl.constexpr,
):
    """The gradients, from the last step to the first; da (B, G, D) and dp (B, 2, D) for each row."""
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    row, d = lane // width, lane % width
    active = row < rows
    count = sequences_of_lanes(lengths, None, row, time, active)[2]
    weights = _load_parts(a + d, width, active, GATES)
    peepholes = ()
    if p is not None:
        peepholes = _load_parts(p + d, width, active, 2)
    zero = tl.zeros((LANES,), STATE)
    start, carry = _zeros(STATES, LANES, STATE), _zeros(STATES, LANES, STATE)
    if first is not None:
        start = _load_parts(first + row * width + d, rows * width, active, STATES)
    if dlast is not None:
        carry = _load_parts(dlast + row * width + d, rows * width, active, STATES)
    sums, peephole_sums = _zeros(GATES, LANES, STATE), _zeros(2, LANES, STATE)
    t = tl.where(direction > 0, count - 1, 0)
    for k in range(0, tl.max(count), UNROLL):
        inputs, befores, gradients = (), (), ()
        for u in tl.static_range(UNROLL):
            here, at = k + u < count, t - (k + u) * direction
            inputs = inputs + (_load_parts(wx + row * wx_row + at * wx_time + d, wx_gate, here, GATES),)
            there, has_before = row * h_row + (at - direction) * h_time + d, k + u + 1 < count
            before = (tl.load(h + there, has_before, 0),)
            if c is not None:
                before = before + (tl.load(c + there, has_before, 0),)
            if n is not None:
                before = before + (tl.load(n + there, has_before, 0), tl.load(m + there, has_before, 0))
            befores = befores + (_where(has_before, before, start, STATES),)
            if dh is not None:
                gradients = gradients + (tl.load(dh + row * dh_row + at * dh_time + d, here, 0),)
            else:
                gradients = gradients + (zero,)
        for u in tl.static_range(UNROLL):
            here, at = k + u < count, t - (k + u) * direction
            after = (carry[0] + gradients[u],) + carry[1:]
            dx, to_a, to_p, new = _gradient(inputs[u], weights, peepholes, befores[u], after, CELL)
            for i in tl.static_range(GATES):
                tl.store(dwx + row * dwx_row + at * dwx_time + i * dwx_gate + d, dx[i], here)
            carry = _where(here, new, carry, STATES)
            sums = _plus_where(here, sums, to_a, befores[u][0], GATES)
            if p is not None:
                peephole_sums = _plus_where(here, peephole_sums, to_p, 1.0, 2)
    for i in tl.static_range(STATES):
        tl.store(dfirst + (i * rows + row) * width + d, carry[i], active)
    if da is not None:
        for i in tl.static_range(GATES):
            tl.store(da + (row * GATES + i) * width + d, sums[i], active)
    if dp is not None:
        for i in tl.static_range(2):
            tl.store(dp + (row * 2 + i) * width + d, peephole_sums[i], active)
    if lengths is not None:
        end = tl.where(active, tl.zeros_like(row) + time, count)
        for i in tl.static_range(GATES):
            fill_zero(dwx + row * dwx_row + i * dwx_gate + d, dwx_time, count, end, False)
