"""mLSTM's gates: with lf = log sigmoid(f) and m = max(lf + m', i), the decay e^(lf - (m - m')) and factor e^(i - m).

A lane is a head of a sequence and computes its steps one after the other; it loads UNROLL steps before it computes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.triton_functions import log_sigmoid
from ..common.triton_sequences import sequences_of_lanes
from .triton_chunks import number

_STRIDES = ["i_row", "i_time", "i_head", "f_row", "f_time", "f_head"]
_SIZES = ["reset_row", "sequences", "time", "heads"]


@triton.jit
def _lanes(lengths, starts, sequences, time, heads, LANES: tl.constexpr):
    """(sequence, head, whether it exists, row, first step, number of steps)"""
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    s, n, active = lane // heads, lane % heads, lane < sequences * heads
    row, start, count = sequences_of_lanes(lengths, starts, s, time, active)
    return s, n, active, row, start, count


@triton.jit
def _ahead(i, f, reset, t, here, i_time, f_time, STATE: tl.constexpr):
    """(i, f, whether the state is dropped) at steps t"""
    before = tl.load(i + t * i_time, here, 0).to(STATE), tl.load(f + t * f_time, here, 0).to(STATE)
    drops = t < 0
    if reset is not None:
        drops = tl.load(reset + t, here, 0) != 0
    return before[0], before[1], drops


@triton.jit(do_not_specialize=[*_STRIDES, *_SIZES])
def mlstm_gates_fwd_kernel(
    i,
    f,
    first,
    decay,
    enter,
    m,
    last,
    reset,
    lengths,
    starts,
    i_row: tl.int64,
    i_time: tl.int64,
    i_head: tl.int64,
    f_row: tl.int64,
    f_time: tl.int64,
    f_head: tl.int64,
    reset_row: tl.int64,
    sequences: tl.int64,
    time: tl.int64,
    heads: tl.int64,
    STATE: tl.constexpr,
    UNROLL: tl.constexpr,
    LANES: tl.constexpr,
):
    """The decays, factors and m of all steps, contiguous (B, T, N), and the last m."""
    s, n, active, row, start, count = _lanes(lengths, starts, sequences, time, heads, LANES)
    at_i, at_f = i + row * i_row + start * i_time + n * i_head, f + row * f_row + start * f_time + n * f_head
    at_reset = None if reset is None else reset + row * reset_row + start
    to = (row * time + start) * heads + n
    state = tl.zeros((LANES,), STATE)
    if first is not None:
        state = tl.load(first + s * heads + n, active, 0)
    for k in range(0, tl.max(count), UNROLL):
        read = ()
        for u in tl.static_range(UNROLL):
            read = read + (_ahead(at_i, at_f, at_reset, count * 0 + k + u, k + u < count, i_time, f_time, STATE),)
        for u in tl.static_range(UNROLL):
            here, at = k + u < count, to + (k + u) * heads
            log_forget, former = log_sigmoid(read[u][1]), tl.where(read[u][2], 0.0, state)
            decayed = log_forget + former
            new = tl.where((decayed > read[u][0]) | (decayed != decayed), decayed, read[u][0])
            # Includes the rounding error of the sum, which would otherwise accumulate over the steps
            tl.store(decay + at, tl.exp(log_forget - (new - former)), here)
            tl.store(enter + at, tl.exp(read[u][0] - new), here)
            tl.store(m + at, new, here)
            state = tl.where(here, new, state)
    tl.store(last + s * heads + n, state, active)


@triton.jit(do_not_specialize=[*_STRIDES, *_SIZES])
def mlstm_gates_bwd_kernel(
    i,
    f,
    m,
    first,
    d_enter,
    d_decay,
    d_divisor,
    dm,
    di,
    df,
    reset,
    lengths,
    starts,
    eps: tl.float64,
    i_row: tl.int64,
    i_time: tl.int64,
    i_head: tl.int64,
    f_row: tl.int64,
    f_time: tl.int64,
    f_head: tl.int64,
    reset_row: tl.int64,
    sequences: tl.int64,
    time: tl.int64,
    heads: tl.int64,
    STATE: tl.constexpr,
    UNROLL: tl.constexpr,
    LANES: tl.constexpr,
):
    """di and df from the gradients of i and lf at a fixed m and of the divisor of h, all contiguous (B, T, N).

    dm is the gradient of the last m on entry, and that of the first m on return. h depends on m only through eps.
    """
    s, n, active, row, start, count = _lanes(lengths, starts, sequences, time, heads, LANES)
    at_i, at_f = i + row * i_row + start * i_time + n * i_head, f + row * f_row + start * f_time + n * f_head
    at_reset = None if reset is None else reset + row * reset_row + start
    to, factor = (row * time + start) * heads + n, number(eps, STATE)
    gradient, state = tl.load(dm + s * heads + n, active, 0), tl.zeros((LANES,), STATE)
    if first is not None:
        state = tl.load(first + s * heads + n, active, 0)
    for k in range(0, tl.max(count), UNROLL):
        read = ()
        for u in tl.static_range(UNROLL):
            t = count - 1 - (k + u)
            here, at = t >= 0, to + t * heads
            both = tl.load(d_enter + at, here, 0), tl.load(d_decay + at, here, 0)
            others = tl.load(d_divisor + at, here, 0), tl.load(m + at - heads, t > 0, 0)
            read = read + (_ahead(at_i, at_f, at_reset, t, here, i_time, f_time, STATE) + both + others,)
        for u in tl.static_range(UNROLL):
            t = count - 1 - (k + u)
            here, at, forget = t >= 0, to + t * heads, read[u][1]
            sum_of = log_sigmoid(forget) + tl.where(read[u][2], 0.0, tl.where(t > 0, read[u][6], state))
            decayed = (sum_of > read[u][0]) | (sum_of != sum_of)
            gradient += tl.where(here, read[u][5] * factor, 0.0)
            d_i, d_lf = read[u][3] + tl.where(decayed, 0.0, gradient), read[u][4] + tl.where(decayed, gradient, 0.0)
            slope = 1.0 / (1.0 + tl.exp(forget))  # derivative of log sigmoid(f)
            tl.store(di + at, d_i.to(di.dtype.element_ty), here)
            tl.store(df + at, (d_lf * slope).to(df.dtype.element_ty), here)
            gradient = tl.where(here & (read[u][2] | (decayed == 0)), 0.0, gradient)
    tl.store(dm + s * heads + n, gradient, active)
