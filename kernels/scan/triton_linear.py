"""Linear scans h[t] = a[t] h[t-1] + x[t]: a lane is one element of one sequence in one segment of time.

A lane computes its steps one after the other, UNROLL at a time, and prefetches the next ones before it computes: loads
are always in flight, so that few lanes, in one pass over memory, saturate the bandwidth of a GPU. Products and sums are
rounded as on the CPU if the launch disables their fusion. If there are several segments, their initial states `carry`
come from a scan over the results of the summary kernels.

Strides count real elements, of which a complex number has two. All offsets have 64 bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.triton_sequences import fill_zero, sequences_of_lanes

#: Arguments for which code is not specialised: they vary between calls, and loads are never wide, as a lane has one
#: #: thread.
_SIZES = ["reset_row", "sequences", "time", "width", "segment", "segments", "direction"]
_FORWARD = ["a_row", "a_time", "x_row", "x_time", "h_row", "h_time", *_SIZES]
_GRADIENTS = ["dh_row", "dh_time", "dx_row", "dx_time", "da_row", "da_time"]


@triton.jit
def _load(p, mask, STATE: tl.constexpr, COMPLEX: tl.constexpr):
    """Real and imaginary part; a real number has only the real part."""
    real = tl.load(p, mask, 0).to(STATE)
    imaginary = tl.load(p + 1, mask, 0).to(STATE) if COMPLEX else real
    return real, imaginary


@triton.jit
def _store(p, z, mask, COMPLEX: tl.constexpr):
    tl.store(p, z[0].to(p.dtype.element_ty), mask)
    if COMPLEX:
        tl.store(p + 1, z[1].to(p.dtype.element_ty), mask)


@triton.jit
def _times(a, b, COMPLEX: tl.constexpr):
    if COMPLEX:
        return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]
    else:
        return a[0] * b[0], b[1]


@triton.jit
def _conjugate_times(a, b, COMPLEX: tl.constexpr):
    return _times((a[0], -a[1]), b, COMPLEX)


@triton.jit
def _plus(a, b):
    return a[0] + b[0], a[1] + b[1]


@triton.jit
def _where(condition, a, b):
    return tl.where(condition, a[0], b[0]), tl.where(condition, a[1], b[1])


@triton.jit
def _lane(sequences, width, LANES: tl.constexpr):
    """(segment, sequence, element) of the lanes of this program"""
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    return lane // (width * sequences), lane // width % sequences, lane % width


@triton.jit
def _place(lengths, starts, sequences, width, time, segment, segments, LANES: tl.constexpr):
    """(segment, sequence, element) of each lane, whether it exists, row, first step and steps of its sequence,
    and the segment's first step in the sequence and its number of steps"""
    g, s, d = _lane(sequences, width, LANES)
    active = g < segments
    row, start, count = sequences_of_lanes(lengths, starts, s, time, active)
    begin = g * segment
    return g, s, d, active, row, start, count, begin, tl.minimum(tl.maximum(count - begin, 0), segment)


@triton.jit
def _ahead(
    a, x, reset, k, mine, direction, a_time, x_time, STATE: tl.constexpr, COMPLEX: tl.constexpr, UNROLL: tl.constexpr
):
    """The next UNROLL steps after k of a and of x (or None), and whether the previous state is dropped there"""
    factors, inputs, drops = (), (), ()
    for u in tl.static_range(UNROLL):
        here, ahead = k + u < mine, (k + u) * direction
        factors = factors + (_load(a + ahead * a_time, here, STATE, COMPLEX),)
        if x is not None:
            inputs = inputs + (_load(x + ahead * x_time, here, STATE, COMPLEX),)
        if reset is not None:
            drops = drops + (tl.load(reset + ahead, here, 0) != 0,)
    return factors, inputs, drops


@triton.jit
def _behind(h, k, mine, direction, h_time, STATE: tl.constexpr, COMPLEX: tl.constexpr, UNROLL: tl.constexpr):
    """The states before the next UNROLL steps after k of the gradient; none without h"""
    states = ()
    if h is not None:
        for u in tl.static_range(UNROLL):
            states = states + (_load(h - (k + u) * direction * h_time, k + u < mine, STATE, COMPLEX),)
    return states


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
    LANES: tl.constexpr,
):
    """h and the last states; direction is 1 or -1; carry (S, segments, D) are the states after every segment."""
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    g, s, d, active, row, start, count, begin, mine = _place(
        lengths, starts, sequences, width, time, segment, segments, LANES
    )
    t = start + tl.where(direction > 0, begin, count - 1 - begin)
    at_a, at_x = a + row * a_row + t * a_time + d * PARTS, x + row * x_row + t * x_time + d * PARTS
    at_reset = None if reset is None else reset + row * reset_row + t
    at_h = h + row * h_row + t * h_time + d * PARTS
    zero = tl.zeros((LANES,), STATE)
    state = (zero, zero)
    if h0 is not None:
        state = _load(h0 + (s * width + d) * PARTS, active & (g == 0), STATE, COMPLEX)
    if carry is not None:
        before = _load(carry + ((s * segments + g - 1) * width + d) * PARTS, active & (g > 0), STATE, COMPLEX)
        state = _where(g > 0, before, state)
    now = _ahead(at_a, at_x, at_reset, 0, mine, direction, a_time, x_time, STATE, COMPLEX, UNROLL)
    for k in range(0, tl.max(mine), UNROLL):
        then = _ahead(at_a, at_x, at_reset, k + UNROLL, mine, direction, a_time, x_time, STATE, COMPLEX, UNROLL)
        factors, inputs, drops = now
        for u in tl.static_range(UNROLL):
            here = k + u < mine
            new = _plus(_times(factors[u], state, COMPLEX), inputs[u])
            if reset is not None:
                new = _where(drops[u], inputs[u], new)
            state = _where(here, new, state)
            _store(at_h + (k + u) * direction * h_time, state, here, COMPLEX)
        now = then
    ends = active & (g == tl.maximum(count - 1, 0) // segment)
    _store(last + (s * width + d) * PARTS, state, ends, COMPLEX)
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
    LANES: tl.constexpr,
):
    """The summary of each segment, h_end = factor h_begin + state, with both (S, segments, D)."""
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    g, s, d, active, row, start, count, begin, mine = _place(
        lengths, starts, sequences, width, time, segment, segments, LANES
    )
    t = start + tl.where(direction > 0, begin, count - 1 - begin)
    at_a, at_x = a + row * a_row + t * a_time + d * PARTS, x + row * x_row + t * x_time + d * PARTS
    at_reset = None if reset is None else reset + row * reset_row + t
    zero = tl.zeros((LANES,), STATE)
    none = (zero, zero)
    product, end = (zero + 1, zero), (zero, zero)
    for k in range(0, tl.max(mine), UNROLL):
        factors, inputs, drops = _ahead(
            at_a, at_x, at_reset, k, mine, direction, a_time, x_time, STATE, COMPLEX, UNROLL
        )
        for u in tl.static_range(UNROLL):
            here = k + u < mine
            new, longer = _plus(_times(factors[u], end, COMPLEX), inputs[u]), _times(factors[u], product, COMPLEX)
            if reset is not None:
                new, longer = _where(drops[u], inputs[u], new), _where(drops[u], none, longer)
            end, product = _where(here, new, end), _where(here, longer, product)
    at = ((s * segments + g) * width + d) * PARTS
    _store(factor + at, product, active, COMPLEX)
    _store(state + at, end, active, COMPLEX)


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
    LANES: tl.constexpr,
):
    """l = dh + c is dx, conj(h[t-1]) l is da, and c = conj(a) l is passed to the step before.

    carry (S, segments, D): c before every segment. da_sum (S, segments, D): the sums of da over each segment's steps.
    """
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    g, s, d, active, row, start, count, begin, mine = _place(
        lengths, starts, sequences, width, time, segment, segments, LANES
    )
    # The last step of a segment in the direction of the scan is the first here.
    t = start + tl.where(direction > 0, begin + mine - 1, count - begin - mine)
    at_a, at_h = a + row * a_row + t * a_time + d * PARTS, h + row * h_row + (t - direction) * h_time + d * PARTS
    at_dh = None if dh is None else dh + row * dh_row + t * dh_time + d * PARTS
    at_reset = None if reset is None else reset + row * reset_row + t
    zero = tl.zeros((LANES,), STATE)
    none = (zero, zero)
    c, first, total = none, none, none
    if dlast is not None:
        c = _load(dlast + (s * width + d) * PARTS, active & (g == segments - 1), STATE, COMPLEX)
    if carry is not None:
        later = active & (g < segments - 1)
        c = _where(later, _load(carry + ((s * segments + g + 1) * width + d) * PARTS, later, STATE, COMPLEX), c)
    if h0 is not None:
        first = _load(h0 + (s * width + d) * PARTS, active & (g == 0), STATE, COMPLEX)
    if (da is None) and (da_sum is None):
        at_h = None
    before = tl.where(begin > 0, mine, mine - 1)  # the first step has no previous state in h
    now = _ahead(at_a, at_dh, at_reset, 0, mine, -direction, a_time, dh_time, STATE, COMPLEX, UNROLL)
    states = _behind(at_h, 0, before, direction, h_time, STATE, COMPLEX, UNROLL)
    for k in range(0, tl.max(mine), UNROLL):
        then = _ahead(at_a, at_dh, at_reset, k + UNROLL, mine, -direction, a_time, dh_time, STATE, COMPLEX, UNROLL)
        states_then = _behind(at_h, k + UNROLL, before, direction, h_time, STATE, COMPLEX, UNROLL)
        factors, gradients, drops = now
        together = none
        for u in tl.static_range(UNROLL):
            here, back = k + u < mine, (k + u) * direction
            l = c
            if dh is not None:
                l = _plus(c, gradients[u])
            if dx is not None:
                _store(dx + row * dx_row + (t - back) * dx_time + d * PARTS, l, here, COMPLEX)
            new = _conjugate_times(factors[u], l, COMPLEX)
            if reset is not None:
                new = _where(drops[u], none, new)
            c = _where(here, new, c)
            if (da is not None) or (da_sum is not None):
                product = _conjugate_times(_where(begin + mine - k - u > 1, states[u], first), l, COMPLEX)
                if reset is not None:
                    product = _where(drops[u], none, product)
                if da is not None:
                    _store(da + row * da_row + (t - back) * da_time + d * PARTS, product, here, COMPLEX)
                else:
                    together = _plus(together, _where(here, product, none))
        total = _plus(total, together)
        now, states = then, states_then
    _store(dfirst + (s * width + d) * PARTS, c, active & (g == 0), COMPLEX)
    if da_sum is not None:
        _store(da_sum + ((s * segments + g) * width + d) * PARTS, total, active, COMPLEX)
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
    LANES: tl.constexpr,
):
    """The backward summary of each segment, c_begin = factor c_end + state, with both (S, segments, D)."""
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    g, s, d, active, row, start, count, begin, mine = _place(
        lengths, starts, sequences, width, time, segment, segments, LANES
    )
    t = start + tl.where(direction > 0, begin + mine - 1, count - begin - mine)
    at_a = a + row * a_row + t * a_time + d * PARTS
    at_dh = None if dh is None else dh + row * dh_row + t * dh_time + d * PARTS
    at_reset = None if reset is None else reset + row * reset_row + t
    zero = tl.zeros((LANES,), STATE)
    none = (zero, zero)
    product, c = (zero + 1, zero), (zero, zero)
    for k in range(0, tl.max(mine), UNROLL):
        factors, gradients, drops = _ahead(
            at_a, at_dh, at_reset, k, mine, -direction, a_time, dh_time, STATE, COMPLEX, UNROLL
        )
        for u in tl.static_range(UNROLL):
            here = k + u < mine
            l = c
            if dh is not None:
                l = _plus(c, gradients[u])
            new, longer = _conjugate_times(factors[u], l, COMPLEX), _conjugate_times(factors[u], product, COMPLEX)
            if reset is not None:
                new, longer = _where(drops[u], none, new), _where(drops[u], none, longer)
            c, product = _where(here, new, c), _where(here, longer, product)
    at = ((s * segments + g) * width + d) * PARTS
    _store(factor + at, product, active, COMPLEX)
    _store(state + at, c, active, COMPLEX)
