"""Block scans h[t] = A[t] h[t-1] + x[t]: a lane is one group of K elements of one sequence in one segment of time.

A lane computes its steps one after the other, with A and the state in registers; UNROLL steps are loaded before they
are used. A sum over the columns of A is a tree. If there are several segments, their initial states (`carry`) come from
summaries: the same recurrence from each unit vector without x, and from 0 with x, by K + 1 lanes for each lane.

KP is K rounded up to a power of two. Strides count real elements, of which a complex number has two.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.triton_sequences import sequences_of_lanes
from .triton_lanes import conjugate_times, load, plus, store, times, where

#: Numbers of steps and sequences, for which code is not specialised. Strides are not listed, as loads are wide if they
#: #: are multiples of 16.
_SIZES = ["reset_row", "sequences", "time", "segment", "segments"]


@triton.jit
def _sum(z, axis: tl.constexpr):
    return tl.sum(z[0], axis), tl.sum(z[1], axis)


@triton.jit
def _along(z, axis: tl.constexpr):
    return tl.expand_dims(z[0], axis), tl.expand_dims(z[1], axis)


@triton.jit
def _fill_zero_blocks(p, time_stride, begin, end, mask, MATRICES: tl.constexpr, COMPLEX: tl.constexpr):
    """Set steps begin <= t < end of each lane to zero; p are the addresses of its units, or matrix, at step 0."""
    zero = tl.zeros((1, 1, 1) if MATRICES else (1, 1), tl.float32)
    for k in range(tl.max(end - begin)):
        t = (begin + k)[:, None]
        here = t < end[:, None]
        if MATRICES:
            t, here = t[:, :, None], here[:, :, None]
        store(p + t * time_stride, (zero, zero), here & mask, COMPLEX)


@triton.jit(do_not_specialize=_SIZES)
def block_scan_fwd_kernel(
    A,
    x,
    h0,
    carry,
    h,
    last,
    factor,
    state,
    reset,
    lengths,
    starts,
    A_row: tl.int64,
    A_time: tl.int64,
    x_row: tl.int64,
    x_time: tl.int64,
    h_row: tl.int64,
    h_time: tl.int64,
    reset_row: tl.int64,
    sequences: tl.int64,
    time: tl.int64,
    groups: tl.int64,
    segment: tl.int64,
    segments: tl.int64,
    direction: tl.int64,
    K: tl.constexpr,
    KP: tl.constexpr,
    STATE: tl.constexpr,
    COMPLEX: tl.constexpr,
    UNROLL: tl.constexpr,
    LANES: tl.constexpr,
):
    """h and the last states; or, if h is None, the summary of each segment: h_end = factor h_begin + state."""
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    COLUMNS: tl.constexpr = K + 1 if h is None else 1
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    column, lane = lane % COLUMNS, lane // COLUMNS
    g, s, n = lane // (groups * sequences), lane // groups % sequences, lane % groups
    active = g < segments
    row, start, count = sequences_of_lanes(lengths, starts, s, time, active)
    begin = g * segment
    mine = tl.minimum(tl.maximum(count - begin, 0), segment)
    t = start + tl.where(direction > 0, begin, count - 1 - begin)
    i = tl.arange(0, KP)
    matrix, units = (i[:, None] * K + i[None, :])[None, :, :] * PARTS, i[None, :] * PARTS
    in_matrix, in_units = ((i[:, None] < K) & (i[None, :] < K))[None, :, :], (i < K)[None, :]
    at_A = (A + row * A_row + t * A_time + n * K * K * PARTS)[:, None, None] + matrix
    at_x = (x + row * x_row + t * x_time + n * K * PARTS)[:, None] + units
    zero = tl.zeros((LANES, KP), STATE)
    now = (zero, zero)
    if h is None:
        now = (tl.where(i[None, :] == column[:, None], zero + 1, zero), zero)
        takes_x = (column == K)[:, None] & in_units
    else:
        takes_x = (column == 0)[:, None] & in_units
        at_h = (h + row * h_row + t * h_time + n * K * PARTS)[:, None] + units
    if h0 is not None:
        at = (h0 + (s * groups + n) * K * PARTS)[:, None] + units
        now = load(at, (active & (g == 0))[:, None] & in_units, STATE, COMPLEX)
    if carry is not None:
        at = (carry + ((s * segments + g - 1) * groups + n) * K * PARTS)[:, None] + units
        now = where((g > 0)[:, None], load(at, (active & (g > 0))[:, None] & in_units, STATE, COMPLEX), now)
    for k in range(0, tl.max(mine), UNROLL):
        factors, inputs, drops = (), (), ()
        for u in tl.static_range(UNROLL):
            here, ahead = (k + u < mine)[:, None], (k + u) * direction
            factors = factors + (load(at_A + ahead * A_time, here[:, :, None] & in_matrix, STATE, COMPLEX),)
            inputs = inputs + (load(at_x + ahead * x_time, here & takes_x, STATE, COMPLEX),)
            if reset is not None:
                drops = drops + (tl.load(reset + row * reset_row + t + ahead, k + u < mine, 0) != 0,)
        for u in tl.static_range(UNROLL):
            here = (k + u < mine)[:, None]
            new = plus(_sum(times(factors[u], _along(now, 1), COMPLEX), 2), inputs[u])
            if reset is not None:
                new = where(drops[u][:, None], inputs[u], new)
            now = where(here, new, now)
            if h is not None:
                store(at_h + (k + u) * direction * h_time, now, here & in_units, COMPLEX)
    if h is None:
        at = ((s * segments + g) * groups + n)[:, None] * K
        whole = (active[:, None]) & in_units
        store(factor + ((at + i[None, :]) * K + column[:, None]) * PARTS, now, whole & (column < K)[:, None], COMPLEX)
        store(state + (at + i[None, :]) * PARTS, now, whole & (column == K)[:, None], COMPLEX)
    else:
        ends = active & (g == tl.maximum(count - 1, 0) // segment)
        store((last + (s * groups + n) * K * PARTS)[:, None] + units, now, ends[:, None] & in_units, COMPLEX)
        if lengths is not None:
            end = tl.where(active, tl.minimum(begin + segment, time), begin)
            at = (h + row * h_row + n * K * PARTS)[:, None] + units
            _fill_zero_blocks(at, h_time, tl.maximum(begin, count), end, in_units, False, COMPLEX)


@triton.jit(do_not_specialize=_SIZES)
def block_scan_bwd_kernel(
    A,
    h,
    h0,
    dh,
    dlast,
    carry,
    dx,
    dA,
    dA_sum,
    dfirst,
    factor,
    state,
    reset,
    lengths,
    starts,
    A_row: tl.int64,
    A_time: tl.int64,
    h_row: tl.int64,
    h_time: tl.int64,
    dh_row: tl.int64,
    dh_time: tl.int64,
    dx_row: tl.int64,
    dx_time: tl.int64,
    dA_row: tl.int64,
    dA_time: tl.int64,
    reset_row: tl.int64,
    sequences: tl.int64,
    time: tl.int64,
    groups: tl.int64,
    segment: tl.int64,
    segments: tl.int64,
    direction: tl.int64,
    K: tl.constexpr,
    KP: tl.constexpr,
    STATE: tl.constexpr,
    COMPLEX: tl.constexpr,
    UNROLL: tl.constexpr,
    LANES: tl.constexpr,
):
    """l = dh + c is dx, l h[t-1]^H is dA, and c = A^H l is passed to the step before, backwards through a segment.

    Or, if dfirst is None, the summary of each segment: c_begin = factor c_end + state. carry (S, segments, N, K): c
    before every segment. dA_sum (S, segments, N, K, K): the sums of dA over the steps of each segment.
    """
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    COLUMNS: tl.constexpr = K + 1 if dfirst is None else 1
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    column, lane = lane % COLUMNS, lane // COLUMNS
    g, s, n = lane // (groups * sequences), lane // groups % sequences, lane % groups
    active = g < segments
    row, start, count = sequences_of_lanes(lengths, starts, s, time, active)
    begin = g * segment
    mine = tl.minimum(tl.maximum(count - begin, 0), segment)
    # The last step of a segment in the direction of the scan is the first here.
    t = start + tl.where(direction > 0, begin + mine - 1, count - begin - mine)
    i = tl.arange(0, KP)
    matrix, units = (i[:, None] * K + i[None, :])[None, :, :] * PARTS, i[None, :] * PARTS
    in_matrix, in_units = ((i[:, None] < K) & (i[None, :] < K))[None, :, :], (i < K)[None, :]
    at_A = (A + row * A_row + t * A_time + n * K * K * PARTS)[:, None, None] + matrix
    at_h = (h + row * h_row + (t - direction) * h_time + n * K * PARTS)[:, None] + units
    zero = tl.zeros((LANES, KP), STATE)
    none = (zero, zero)
    c, first = none, none
    total = (tl.zeros((LANES, KP, KP), STATE), tl.zeros((LANES, KP, KP), STATE))
    empty = total
    takes_dh = in_units & active[:, None]
    if dfirst is None:
        c = (tl.where(i[None, :] == column[:, None], zero + 1, zero), zero)
        takes_dh = (column == K)[:, None] & in_units
    if dlast is not None:
        at = (dlast + (s * groups + n) * K * PARTS)[:, None] + units
        c = load(at, (active & (g == segments - 1))[:, None] & in_units, STATE, COMPLEX)
    if carry is not None:
        at, later = (carry + ((s * segments + g + 1) * groups + n) * K * PARTS)[:, None] + units, g < segments - 1
        c = where(later[:, None], load(at, (active & later)[:, None] & in_units, STATE, COMPLEX), c)
    if h0 is not None:
        at = (h0 + (s * groups + n) * K * PARTS)[:, None] + units
        first = load(at, (active & (g == 0))[:, None] & in_units, STATE, COMPLEX)
    for k in range(0, tl.max(mine), UNROLL):
        factors, states, gradients, drops = (), (), (), ()
        for u in tl.static_range(UNROLL):
            here, back = (k + u < mine)[:, None], (k + u) * direction
            factors = factors + (load(at_A - back * A_time, here[:, :, None] & in_matrix, STATE, COMPLEX),)
            if (dA is not None) or (dA_sum is not None):
                has_before = (begin + mine - k - u > 1)[:, None]
                states = states + (load(at_h - back * h_time, here & has_before & in_units, STATE, COMPLEX),)
            if dh is not None:
                at_dh = (dh + row * dh_row + (t - back) * dh_time + n * K * PARTS)[:, None] + units
                gradients = gradients + (load(at_dh, here & takes_dh, STATE, COMPLEX),)
            if reset is not None:
                drops = drops + (tl.load(reset + row * reset_row + t - back, k + u < mine, 0) != 0,)
        together = empty
        for u in tl.static_range(UNROLL):
            here, back = (k + u < mine)[:, None], (k + u) * direction
            l = c
            if dh is not None:
                l = plus(c, gradients[u])
            if dx is not None:
                at_dx = (dx + row * dx_row + (t - back) * dx_time + n * K * PARTS)[:, None] + units
                store(at_dx, l, here & in_units, COMPLEX)
            new = _sum(conjugate_times(factors[u], _along(l, 2), COMPLEX), 1)
            if reset is not None:
                new = where(drops[u][:, None], none, new)
            c = where(here, new, c)
            if (dA is not None) or (dA_sum is not None):
                before = where((begin + mine - k - u > 1)[:, None], states[u], first)
                product = conjugate_times(_along(before, 1), _along(l, 2), COMPLEX)
                if reset is not None:
                    product = where(drops[u][:, None, None], empty, product)
                if dA is not None:
                    at_dA = (dA + row * dA_row + (t - back) * dA_time + n * K * K * PARTS)[:, None, None] + matrix
                    store(at_dA, product, here[:, :, None] & in_matrix, COMPLEX)
                else:
                    together = plus(together, where(here[:, :, None], product, empty))
        total = plus(total, together)
    whole = active[:, None] & in_units
    if dfirst is None:
        at = ((s * segments + g) * groups + n)[:, None] * K
        store(factor + ((at + i[None, :]) * K + column[:, None]) * PARTS, c, whole & (column < K)[:, None], COMPLEX)
        store(state + (at + i[None, :]) * PARTS, c, whole & (column == K)[:, None], COMPLEX)
    else:
        at = (dfirst + (s * groups + n) * K * PARTS)[:, None] + units
        store(at, c, whole & (g == 0)[:, None], COMPLEX)
        if dA_sum is not None:
            at = (dA_sum + ((s * segments + g) * groups + n) * K * K * PARTS)[:, None, None] + matrix
            store(at, total, active[:, None, None] & in_matrix, COMPLEX)
        if lengths is not None:
            end = tl.where(active, tl.minimum(begin + segment, time), begin)
            begin = tl.maximum(begin, count)
            if dx is not None:
                at = (dx + row * dx_row + n * K * PARTS)[:, None] + units
                _fill_zero_blocks(at, dx_time, begin, end, in_units, False, COMPLEX)
            if dA is not None:
                at = (dA + row * dA_row + n * K * K * PARTS)[:, None, None] + matrix
                _fill_zero_blocks(at, dA_time, begin, end, in_matrix, True, COMPLEX)
