"""Linear scans h[t] = a[t] h[t-1] + x[t]: a lane is one element of one sequence in one segment of time.

A lane computes its steps one after the other, UNROLL at a time, and prefetches the next ones before it computes: loads
are always in flight, so that few lanes, in one pass over memory, saturate the bandwidth of a GPU. Blocks of steps that
all lanes of a program have need no masks; the remaining steps run REST at a time, with masks and fewer loads in flight.
Products and sums are rounded as on the CPU if the launch disables their fusion. If there are several segments, their
initial states `carry` come from a scan over the results of the summary kernels.

The blocks move the pointers p_*, by nothing after the last block, which is loaded twice, as it would need masks
otherwise. As the compiler cannot predict these moves, it adds a stride per step to one pointer of each array, instead
of keeping a pointer for every step in registers.

Strides count real elements, of which a complex number has two. All offsets have 64 bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.triton_sequences import fill_zero
from .triton_lanes import ahead, back_steps, block, load, place, scan_steps, store, sum_back_steps, sum_steps, where

#: Arguments for which code is not specialised: they vary between calls, and loads are never wide, as a lane has one
#: thread.
_SIZES = ["reset_row", "sequences", "time", "width", "segment", "segments", "direction"]
_FORWARD = ["a_row", "a_time", "x_row", "x_time", "h_row", "h_time", *_SIZES]
_GRADIENTS = ["dh_row", "dh_time", "dx_row", "dx_time", "da_row", "da_time"]


@triton.jit(do_not_specialize=_FORWARD)
def linear_scan_fwd_kernel(
    a,
    x,
    h0,
    carry,
    h,
    last,
    reset,
    lengths,
    starts,
    a_row: tl.int64,
    a_time: tl.int64,
    x_row: tl.int64,
    x_time: tl.int64,
    h_row: tl.int64,
    h_time: tl.int64,
    reset_row: tl.int64,
    sequences: tl.int64,
    time: tl.int64,
    width: tl.int64,
    segment: tl.int64,
    segments: tl.int64,
    direction: tl.int64,
    STATE: tl.constexpr,
    COMPLEX: tl.constexpr,
    UNROLL: tl.constexpr,
    REST: tl.constexpr,
    LANES: tl.constexpr,
):
    """h and the last states; direction is 1 or -1; carry (S, segments, D) are the states after every segment."""
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    g, s, d, active, row, start, count, begin, mine = place(
        lengths, starts, sequences, width, time, segment, segments, LANES
    )
    t = start + tl.where(direction > 0, begin, count - 1 - begin)
    at_a, at_x = a + row * a_row + t * a_time + d * PARTS, x + row * x_row + t * x_time + d * PARTS
    at_reset = None if reset is None else reset + row * reset_row + t
    at_h = h + row * h_row + t * h_time + d * PARTS
    a_step, x_step, h_step = direction * a_time, direction * x_time, direction * h_time
    zero = tl.zeros((LANES,), STATE)
    state = (zero, zero)
    if h0 is not None:
        state = load(h0 + (s * width + d) * PARTS, g == 0, STATE, COMPLEX)
    if carry is not None:
        previous = load(carry + ((s * segments + g - 1) * width + d) * PARTS, g > 0, STATE, COMPLEX)
        state = where(g > 0, previous, state)
    blocks = tl.min(mine) // UNROLL
    p_a, p_x, p_h = at_a, at_x, at_h
    p_reset = at_reset
    if blocks > 0:
        now = ahead(p_a, p_x, p_reset, 0, None, a_step, x_step, direction, STATE, COMPLEX, UNROLL)
        for k in range(1, blocks + 1):
            steps = tl.where(k < blocks, UNROLL, 0)
            p_a += steps * a_step
            p_x += steps * x_step
            if reset is not None:
                p_reset += steps * direction
            then = ahead(p_a, p_x, p_reset, 0, None, a_step, x_step, direction, STATE, COMPLEX, UNROLL)
            state = scan_steps(state, now, p_h, reset, 0, None, active, h_step, COMPLEX, UNROLL)
            p_h += steps * h_step
            now = then
    done, mine = blocks * UNROLL, tl.where(active, mine, 0)
    now = ahead(at_a, at_x, at_reset, done, mine - done, a_step, x_step, direction, STATE, COMPLEX, REST)
    for k in range(done, tl.max(mine), REST):
        left = mine - k
        then = ahead(at_a, at_x, at_reset, k + REST, left - REST, a_step, x_step, direction, STATE, COMPLEX, REST)
        state = scan_steps(state, now, at_h, reset, k, left, active, h_step, COMPLEX, REST)
        now = then
    ends = active & (g == tl.maximum(count - 1, 0) // segment)
    store(last + (s * width + d) * PARTS, state, ends, COMPLEX)
    if lengths is not None:
        end = tl.where(active, tl.minimum(begin + segment, time), begin)
        fill_zero(h + row * h_row + d * PARTS, h_time, tl.maximum(begin, count), end, COMPLEX)


@triton.jit(do_not_specialize=["a_row", "a_time", "x_row", "x_time", *_SIZES])
def linear_scan_fwd_summary_kernel(
    a,
    x,
    factor,
    state,
    reset,
    lengths,
    starts,
    a_row: tl.int64,
    a_time: tl.int64,
    x_row: tl.int64,
    x_time: tl.int64,
    reset_row: tl.int64,
    sequences: tl.int64,
    time: tl.int64,
    width: tl.int64,
    segment: tl.int64,
    segments: tl.int64,
    direction: tl.int64,
    STATE: tl.constexpr,
    COMPLEX: tl.constexpr,
    UNROLL: tl.constexpr,
    REST: tl.constexpr,
    LANES: tl.constexpr,
):
    """The summary of each segment, h_end = factor h_begin + state, with both (S, segments, D)."""
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    g, s, d, active, row, start, count, begin, mine = place(
        lengths, starts, sequences, width, time, segment, segments, LANES
    )
    t = start + tl.where(direction > 0, begin, count - 1 - begin)
    at_a, at_x = a + row * a_row + t * a_time + d * PARTS, x + row * x_row + t * x_time + d * PARTS
    at_reset = None if reset is None else reset + row * reset_row + t
    a_step, x_step = direction * a_time, direction * x_time
    zero = tl.zeros((LANES,), STATE)
    product, end = (zero + 1, zero), (zero, zero)
    blocks = tl.min(mine) // UNROLL
    p_a, p_x = at_a, at_x
    p_reset = at_reset
    for k in range(1, blocks + 1):
        given = ahead(p_a, p_x, p_reset, 0, None, a_step, x_step, direction, STATE, COMPLEX, UNROLL)
        product, end = sum_steps(product, end, given, reset, None, COMPLEX, UNROLL)
        steps = tl.where(k < blocks, UNROLL, 0)
        p_a += steps * a_step
        p_x += steps * x_step
        if reset is not None:
            p_reset += steps * direction
    done, mine = blocks * UNROLL, tl.where(active, mine, 0)
    for k in range(done, tl.max(mine), REST):
        left = mine - k
        given = ahead(at_a, at_x, at_reset, k, left, a_step, x_step, direction, STATE, COMPLEX, REST)
        product, end = sum_steps(product, end, given, reset, left, COMPLEX, REST)
    at = ((s * segments + g) * width + d) * PARTS
    store(factor + at, product, active, COMPLEX)
    store(state + at, end, active, COMPLEX)


@triton.jit(do_not_specialize=["a_row", "a_time", "h_row", "h_time", *_GRADIENTS, *_SIZES])
def linear_scan_bwd_kernel(
    a,
    h,
    h0,
    dh,
    dlast,
    carry,
    dx,
    da,
    da_sum,
    dfirst,
    reset,
    lengths,
    starts,
    a_row: tl.int64,
    a_time: tl.int64,
    h_row: tl.int64,
    h_time: tl.int64,
    dh_row: tl.int64,
    dh_time: tl.int64,
    dx_row: tl.int64,
    dx_time: tl.int64,
    da_row: tl.int64,
    da_time: tl.int64,
    reset_row: tl.int64,
    sequences: tl.int64,
    time: tl.int64,
    width: tl.int64,
    segment: tl.int64,
    segments: tl.int64,
    direction: tl.int64,
    STATE: tl.constexpr,
    COMPLEX: tl.constexpr,
    UNROLL: tl.constexpr,
    REST: tl.constexpr,
    LANES: tl.constexpr,
):
    """l = dh + c is dx, conj(h[t-1]) l is da, and c = conj(a) l is passed to the step before.

    carry (S, segments, D): c before every segment. da_sum (S, segments, D): the sums of da over each segment's steps.
    """
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    g, s, d, active, row, start, count, begin, mine = place(
        lengths, starts, sequences, width, time, segment, segments, LANES
    )
    # The last step of a segment in the direction of the scan is the first here.
    t = start + tl.where(direction > 0, begin + mine - 1, count - begin - mine)
    at_a, at_h = a + row * a_row + t * a_time + d * PARTS, h + row * h_row + (t - direction) * h_time + d * PARTS
    at_dh = None if dh is None else dh + row * dh_row + t * dh_time + d * PARTS
    at_dx = None if dx is None else dx + row * dx_row + t * dx_time + d * PARTS
    at_da = None if da is None else da + row * da_row + t * da_time + d * PARTS
    at_reset = None if reset is None else reset + row * reset_row + t
    step = -direction
    a_step, h_step, dh_step = step * a_time, step * h_time, step * dh_time
    dx_step, da_step = step * dx_time, step * da_time
    zero = tl.zeros((LANES,), STATE)
    none = (zero, zero)
    c, first, total = none, none, none
    if dlast is not None:
        c = load(dlast + (s * width + d) * PARTS, active & (g == segments - 1), STATE, COMPLEX)
    if carry is not None:
        later = active & (g < segments - 1)
        c = where(later, load(carry + ((s * segments + g + 1) * width + d) * PARTS, later, STATE, COMPLEX), c)
    if h0 is not None:
        first = load(h0 + (s * width + d) * PARTS, active & (g == 0), STATE, COMPLEX)
    if (da is None) and (da_sum is None):
        at_h = None
    inside = tl.where(begin > 0, mine, mine - 1)  # the first step has no previous state in h
    blocks = tl.maximum(tl.min(inside), 0) // UNROLL
    p_a = at_a
    p_dh = at_dh
    p_reset = at_reset
    p_h = at_h
    p_dx = at_dx
    p_da = at_da
    if blocks > 0:
        now = ahead(p_a, p_dh, p_reset, 0, None, a_step, dh_step, step, STATE, COMPLEX, UNROLL)
        states = block(p_h, 0, h_step, None, STATE, COMPLEX, UNROLL)
        for k in range(1, blocks + 1):
            steps = tl.where(k < blocks, UNROLL, 0)
            p_a += steps * a_step
            if dh is not None:
                p_dh += steps * dh_step
            if reset is not None:
                p_reset += steps * step
            if at_h is not None:
                p_h += steps * h_step
            then = ahead(p_a, p_dh, p_reset, 0, None, a_step, dh_step, step, STATE, COMPLEX, UNROLL)
            states_then = block(p_h, 0, h_step, None, STATE, COMPLEX, UNROLL)
            given = (now, states, first, None, None)
            c, total = back_steps(c, total, given, dh, reset, p_dx, p_da, 0, active, dx_step, da_step, COMPLEX, UNROLL)
            if dx is not None:
                p_dx += steps * dx_step
            if da is not None:
                p_da += steps * da_step
            now, states = then, states_then
    done, mine, inside = blocks * UNROLL, tl.where(active, mine, 0), tl.where(active, inside, 0)
    now = ahead(at_a, at_dh, at_reset, done, mine - done, a_step, dh_step, step, STATE, COMPLEX, REST)
    states = block(at_h, done, h_step, inside - done, STATE, COMPLEX, REST)
    for k in range(done, tl.max(mine), REST):
        left = mine - k
        then = ahead(at_a, at_dh, at_reset, k + REST, left - REST, a_step, dh_step, step, STATE, COMPLEX, REST)
        states_then = block(at_h, k + REST, h_step, inside - k - REST, STATE, COMPLEX, REST)
        given = (now, states, first, left, inside - k)
        c, total = back_steps(c, total, given, dh, reset, at_dx, at_da, k, active, dx_step, da_step, COMPLEX, REST)
        now, states = then, states_then
    store(dfirst + (s * width + d) * PARTS, c, active & (g == 0), COMPLEX)
    if da_sum is not None:
        store(da_sum + ((s * segments + g) * width + d) * PARTS, total, active, COMPLEX)
    if lengths is not None:
        end = tl.where(active, tl.minimum(begin + segment, time), begin)
        if dx is not None:
            fill_zero(dx + row * dx_row + d * PARTS, dx_time, tl.maximum(begin, count), end, COMPLEX)
        if da is not None:
            fill_zero(da + row * da_row + d * PARTS, da_time, tl.maximum(begin, count), end, COMPLEX)


@triton.jit(do_not_specialize=["a_row", "a_time", "dh_row", "dh_time", *_SIZES])
def linear_scan_bwd_summary_kernel(
    a,
    dh,
    factor,
    state,
    reset,
    lengths,
    starts,
    a_row: tl.int64,
    a_time: tl.int64,
    dh_row: tl.int64,
    dh_time: tl.int64,
    reset_row: tl.int64,
    sequences: tl.int64,
    time: tl.int64,
    width: tl.int64,
    segment: tl.int64,
    segments: tl.int64,
    direction: tl.int64,
    STATE: tl.constexpr,
    COMPLEX: tl.constexpr,
    UNROLL: tl.constexpr,
    REST: tl.constexpr,
    LANES: tl.constexpr,
):
    """The backward summary of each segment, c_begin = factor c_end + state, with both (S, segments, D)."""
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    g, s, d, active, row, start, count, begin, mine = place(
        lengths, starts, sequences, width, time, segment, segments, LANES
    )
    t = start + tl.where(direction > 0, begin + mine - 1, count - begin - mine)
    at_a = a + row * a_row + t * a_time + d * PARTS
    at_dh = None if dh is None else dh + row * dh_row + t * dh_time + d * PARTS
    at_reset = None if reset is None else reset + row * reset_row + t
    step = -direction
    a_step, dh_step = step * a_time, step * dh_time
    zero = tl.zeros((LANES,), STATE)
    product, c = (zero + 1, zero), (zero, zero)
    blocks = tl.min(mine) // UNROLL
    p_a = at_a
    p_dh = at_dh
    p_reset = at_reset
    for k in range(1, blocks + 1):
        given = ahead(p_a, p_dh, p_reset, 0, None, a_step, dh_step, step, STATE, COMPLEX, UNROLL)
        product, c = sum_back_steps(product, c, given, dh, reset, None, COMPLEX, UNROLL)
        steps = tl.where(k < blocks, UNROLL, 0)
        p_a += steps * a_step
        if dh is not None:
            p_dh += steps * dh_step
        if reset is not None:
            p_reset += steps * step
    done, mine = blocks * UNROLL, tl.where(active, mine, 0)
    for k in range(done, tl.max(mine), REST):
        left = mine - k
        given = ahead(at_a, at_dh, at_reset, k, left, a_step, dh_step, step, STATE, COMPLEX, REST)
        product, c = sum_back_steps(product, c, given, dh, reset, left, COMPLEX, REST)
    at = ((s * segments + g) * width + d) * PARTS
    store(factor + at, product, active, COMPLEX)
    store(state + at, c, active, COMPLEX)
