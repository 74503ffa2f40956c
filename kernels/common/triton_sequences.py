"""The division of rows into sequences: whole rows, the first `lengths` steps of rows, or parts of one packed row."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sequence(lengths, starts, s, time):
    """(row, first step, number of steps) of sequence s"""
    if starts is not None:
        start = tl.load(starts + s)
        return s * 0, start, tl.load(starts + s + 1) - start
    elif lengths is not None:
        return s, s * 0, tl.load(lengths + s)
    else:
        return s, s * 0, s * 0 + time


@triton.jit
def sequences_of_lanes(lengths, starts, s, time, active):
    """The same for the sequences s of lanes, with no steps in lanes that are not active"""
    zero = tl.zeros_like(s)
    if starts is not None:
        start = tl.load(starts + s, active, 0)
        return zero, start, tl.load(starts + s + 1, active, 0) - start
    elif lengths is not None:
        return s, zero, tl.load(lengths + s, active, 0)
    else:
        return s, zero, tl.where(active, zero + time, 0)


@triton.jit
def line_of(starts, s, start, time, steps):
    """The first line of sequence s in an array with one line for every ``steps`` steps"""
    return start // steps + s if starts is not None else s * ((time + steps - 1) // steps)


@triton.jit
def fill_zero(p, time_stride, begin, end, COMPLEX: tl.constexpr):
    """Set steps begin <= t < end of each lane, whose step 0 is at p, to zero."""
    zero = tl.zeros_like(begin).to(p.dtype.element_ty)
    for k in range(tl.max(end - begin)):
        t = begin + k
        tl.store(p + t * time_stride, zero, t < end)
        if COMPLEX:
            tl.store(p + t * time_stride + 1, zero, t < end)
