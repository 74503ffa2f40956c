"""Lanes of linear scans: their places, and blocks of UNROLL steps that are loaded before they are computed.

A number is a pair of its real and imaginary part; a real number has only the real part. Strides count real elements, of
which a complex number has two, and every offset has 64 bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.triton_sequences import sequences_of_lanes


@triton.jit
def load(p, mask, STATE: tl.constexpr, COMPLEX: tl.constexpr):
    """The number at p, 0 where the mask is false; without a mask (None) all exist."""
    if mask is None:
        real = tl.load(p).to(STATE)
        imaginary = tl.load(p + 1).to(STATE) if COMPLEX else real
    else:
        real = tl.load(p, mask, 0).to(STATE)
        imaginary = tl.load(p + 1, mask, 0).to(STATE) if COMPLEX else real
    return real, imaginary


@triton.jit
def store(p, z, mask, COMPLEX: tl.constexpr):
    """Store the number z at p where the mask is true."""
    tl.store(p, z[0].to(p.dtype.element_ty), mask)
    if COMPLEX:
        tl.store(p + 1, z[1].to(p.dtype.element_ty), mask)


@triton.jit
def times(a, b, COMPLEX: tl.constexpr):
    """The product"""
    if COMPLEX:
        return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]
    else:
        return a[0] * b[0], b[1]


@triton.jit
def conjugate_times(a, b, COMPLEX: tl.constexpr):
    """The product with the conjugate of a"""
    return times((a[0], -a[1]), b, COMPLEX)


@triton.jit
def plus(a, b):
    """The sum"""
    return a[0] + b[0], a[1] + b[1]


@triton.jit
def where(condition, a, b):
    """a where the condition is true, else b"""
    return tl.where(condition, a[0], b[0]), tl.where(condition, a[1], b[1])


@triton.jit
def place(lengths, starts, sequences, width, time, segment, segments, LANES: tl.constexpr):
    """(segment, sequence, element) of each lane, whether it exists, row, first step and steps of its sequence,
    and the segment's first step in the sequence and its number of steps

    A lane that does not exist has the place of the last one, so that it may load what that one loads.
    """
    own = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    lane = tl.minimum(own, segments * sequences * width - 1)
    g, s, d = lane // (width * sequences), lane // width % sequences, lane % width
    row, start, count = sequences_of_lanes(lengths, starts, s, time, lane >= 0)
    begin = g * segment
    mine = tl.minimum(tl.maximum(count - begin, 0), segment)
    return g, s, d, lane == own, row, start, count, begin, mine


@triton.jit
def block(p, k, step, left, STATE: tl.constexpr, COMPLEX: tl.constexpr, UNROLL: tl.constexpr):
    """UNROLL numbers from step k on, `step` elements apart; the first `left` exist (None: all). Without p: none"""
    numbers = ()
    if p is not None:
        p += k * step
        for u in tl.static_range(UNROLL):
            numbers = numbers + (load(p, None if left is None else u < left, STATE, COMPLEX),)
            p += step
    return numbers


@triton.jit
def flags(p, k, step, left, UNROLL: tl.constexpr):
    """The same for booleans"""
    found = ()
    if p is not None:
        p += k * step
        for u in tl.static_range(UNROLL):
            flag = tl.load(p) if left is None else tl.load(p, u < left, 0)
            found = found + (flag != 0,)
            p += step
    return found


@triton.jit
def ahead(a, x, reset, k, left, a_step, x_step, step, STATE: tl.constexpr, COMPLEX: tl.constexpr, UNROLL: tl.constexpr):
    """UNROLL steps from step k on of a and of x (or None), and whether the previous state is dropped there"""
    factors = block(a, k, a_step, left, STATE, COMPLEX, UNROLL)
    inputs = block(x, k, x_step, left, STATE, COMPLEX, UNROLL)
    return factors, inputs, flags(reset, k, step, left, UNROLL)


@triton.jit
def scan_steps(state, given, h, reset, k, left, active, step, COMPLEX: tl.constexpr, UNROLL: tl.constexpr):
    """The state after the given steps from step k on, of which the first `left` exist (None: all); stores all at h."""
    factors, inputs, drops = given
    h += k * step
    for u in tl.static_range(UNROLL):
        new = plus(times(factors[u], state, COMPLEX), inputs[u])
        if reset is not None:
            new = where(drops[u], inputs[u], new)
        state = new if left is None else where(u < left, new, state)
        store(h, state, active if left is None else u < left, COMPLEX)
        h += step
    return state


@triton.jit
def sum_steps(product, end, given, reset, left, COMPLEX: tl.constexpr, UNROLL: tl.constexpr):
    """The product of the factors, and the state from zero, after the given steps"""
    factors, inputs, drops = given
    zero = tl.zeros_like(product[0])
    for u in tl.static_range(UNROLL):
        new, longer = plus(times(factors[u], end, COMPLEX), inputs[u]), times(factors[u], product, COMPLEX)
        if reset is not None:
            new, longer = where(drops[u], inputs[u], new), where(drops[u], (zero, zero), longer)
        end = new if left is None else where(u < left, new, end)
        product = longer if left is None else where(u < left, longer, product)
    return product, end


@triton.jit
def back_steps(
    c, total, given, dh, reset, dx, da, k, active, dx_step, da_step, COMPLEX: tl.constexpr, UNROLL: tl.constexpr
):
    """c and the sum of da after the given steps of the gradient from step k on; stores the gradients at dx and da.

    given: factors, gradients and resets of each step; the previous states, or none if da is not needed; the state
    before the first step; the numbers of steps that exist, and that have their previous state in h (None: all).
    """
    loaded, states, first, left, inside = given
    factors, gradients, drops = loaded
    zero = tl.zeros_like(c[0])
    none = (zero, zero)
    together = none
    dx = None if dx is None else dx + k * dx_step
    da = None if da is None else da + k * da_step
    for u in tl.static_range(UNROLL):
        here = active if left is None else u < left
        l = c if dh is None else plus(c, gradients[u])
        if dx is not None:
            store(dx, l, here, COMPLEX)
            dx += dx_step
        new = conjugate_times(factors[u], l, COMPLEX)
        if reset is not None:
            new = where(drops[u], none, new)
        c = new if left is None else where(here, new, c)
        if len(states) > 0:
            state = states[u] if left is None else where(u < inside, states[u], first)
            product = conjugate_times(state, l, COMPLEX)
            if reset is not None:
                product = where(drops[u], none, product)
            if da is not None:
                store(da, product, here, COMPLEX)
                da += da_step
            else:
                together = plus(together, product if left is None else where(here, product, none))
    return c, plus(total, together)


@triton.jit
def sum_back_steps(product, c, given, dh, reset, left, COMPLEX: tl.constexpr, UNROLL: tl.constexpr):
    """The product of the conjugate factors, and c from zero, after the given steps of the gradient"""
    factors, gradients, drops = given
    zero = tl.zeros_like(product[0])
    none = (zero, zero)
    for u in tl.static_range(UNROLL):
        l = c if dh is None else plus(c, gradients[u])
        new, longer = conjugate_times(factors[u], l, COMPLEX), conjugate_times(factors[u], product, COMPLEX)
        if reset is not None:
            new, longer = where(drops[u], none, new), where(drops[u], none, longer)
        c = new if left is None else where(u < left, new, c)
        product = longer if left is None else where(u < left, longer, product)
    return product, c
