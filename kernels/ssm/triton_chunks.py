"""Chunks of steps for the kernels of linear attention: their positions, loads and stores, and decays.

The factors of the C steps of a chunk are (C, 1) if all rows of the state share a decay, else (C, BK). Products of
decays are computed as products, not as exponentials of sums, so that decays of any sign, zeros, and resets, which are
zeros, are exact.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common import triton_states
from ..common.triton_sequences import line_of, sequence
from ..common.triton_states import between, between_before


@triton.jit
def number(x, STATE: tl.constexpr):
    """A float argument in the type of the arithmetic, as (1,); the interpreter passes a Python float"""
    return tl.full((1,), x, STATE)


@triton.jit
def dot(a, b, PRECISION: tl.constexpr):
    """a b; with "bf16", operands are rounded to bfloat16 and sums are in float32"""
    if PRECISION == "bf16":
        return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16))
    elif a.dtype == tl.float64:  # tl.dot spills: with Triton 3.6.0, 64 bytes of attention_bwd_keys_kernel on sm_90
        return tl.sum(a[:, :, None] * b[None, :, :], 1)
    else:
        return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def products(x, y, p, q, PRECISION: tl.constexpr):
    """x y^T for lines x and y stored at p and q: if both are stored in 16 bits, TF32 is exact for them"""
    BITS: tl.constexpr = p.dtype.element_ty.primitive_bitwidth + q.dtype.element_ty.primitive_bitwidth
    return dot(x, tl.trans(y), "tf32" if BITS == 32 and PRECISION != "bf16" else PRECISION)


@triton.jit
def sequence_of(line, starts, owner, time, STEPS: tl.constexpr):
    """The sequence of a line of STEPS steps; `owner` contains it for the lines of packed sequences"""
    if starts is not None:
        return tl.load(owner + line)
    else:
        return line // tl.maximum((time + STEPS - 1) // STEPS, 1)


@triton.jit
def place(line, lengths, starts, owner, time, STEPS: tl.constexpr):
    """(row, first step of its sequence, number of steps of the sequence, the line's first step in it)"""
    s = sequence_of(line, starts, owner, time, STEPS)
    row, start, count = sequence(lengths, starts, s, time)
    return row, start, count, (line - line_of(starts, s, start, time, STEPS)) * STEPS


@triton.jit
def load_lines(p, stride, t, valid, first, K: tl.constexpr, BK: tl.constexpr, STATE: tl.constexpr):
    """Units first .. first + BK of a signal at steps t; 0 beyond the K-th unit and at invalid steps"""
    return triton_states.load_lines(p + t * stride, valid, first, K, BK).to(STATE)


@triton.jit
def store_lines(p, stride, t, valid, first, x, K: tl.constexpr, BK: tl.constexpr):
    """Write x (C, BK) where `load_lines` would read it."""
    unit = first + tl.arange(0, BK)
    at = p + t[:, None] * stride + unit[None, :]
    tl.store(at, x.to(p.dtype.element_ty), valid[:, None] & (unit < K)[None, :])


@triton.jit
def factors(
    decay,
    stride,
    reset,
    t,
    valid,
    first,
    K: tl.constexpr,
    BK: tl.constexpr,
    VECTOR: tl.constexpr,
    LOG: tl.constexpr,
    STATE: tl.constexpr,
):
    """The decay at steps t, (C, BK) or (C, 1): 0 at a reset, 1 at invalid steps"""
    g = tl.where(t[:, None] * 0 == 0, 1.0, 0.0).to(STATE)
    if decay is not None:
        if VECTOR:
            unit = first + tl.arange(0, BK)
            there = valid[:, None] & (unit < K)[None, :]
            x = tl.load(decay + t[:, None] * stride + unit[None, :], there, 0).to(STATE)
        else:
            there = valid[:, None]
            x = tl.load(decay + t[:, None] * stride, there, 0).to(STATE)
        g = tl.exp(x) if LOG else tl.where(there, x, 1.0)
    if reset is not None:
        g = tl.where(tl.load(reset + t, valid, 0)[:, None] != 0, 0.0, g)
    return g


@triton.jit
def factors_before(
    decay,
    stride,
    reset,
    t,
    valid,
    first,
    K: tl.constexpr,
    BK: tl.constexpr,
    VECTOR: tl.constexpr,
    LOG: tl.constexpr,
    STATE: tl.constexpr,
):
    """The decay at the steps t - 1, with 1 for the first, which is not in the chunk"""
    later = valid & (tl.arange(0, valid.shape[0]) > 0)
    return factors(decay, stride, reset, t - 1, later, first, K, BK, VECTOR, LOG, STATE)


@triton.jit
def factors_after(
    decay,
    stride,
    reset,
    t,
    at,
    count,
    first,
    K: tl.constexpr,
    BK: tl.constexpr,
    VECTOR: tl.constexpr,
    LOG: tl.constexpr,
    STATE: tl.constexpr,
):
    """The decay at the steps t + 1, with 1 for the last; the first of t is step `at` of a sequence of `count` steps"""
    i = tl.arange(0, t.shape[0])
    more = (i < t.shape[0] - 1) & (at + i + 1 < count)
    return factors(decay, stride, reset, t + 1, more, first, K, BK, VECTOR, LOG, STATE)


@triton.jit
def keeps(reset, t, valid, STATE: tl.constexpr):
    """(C, 1): 0 at a reset, else 1"""
    return factors(None, 0, reset, t, valid, 0, 1, 1, False, False, STATE)


@triton.jit
def since_start(
    decay,
    stride,
    reset,
    t,
    valid,
    first,
    K: tl.constexpr,
    BK: tl.constexpr,
    BEFORE: tl.constexpr,
    VECTOR: tl.constexpr,
    LOG: tl.constexpr,
    STATE: tl.constexpr,
):
    """The decay of the state before the chunk in what queries of steps t read, with BEFORE before their step"""
    if BEFORE:
        e = factors_before(decay, stride, reset, t, valid, first, K, BK, VECTOR, LOG, STATE)
        return running(e) * keeps(reset, t, valid, STATE)
    else:
        return running(factors(decay, stride, reset, t, valid, first, K, BK, VECTOR, LOG, STATE))


@triton.jit
def column(g, j, C: tl.constexpr):
    """Column j of `between` for factors (C, BK): (C, BK)"""
    i = tl.arange(0, C)[:, None]
    return tl.where(i >= j, tl.cumprod(tl.where(i > j, g, 1.0), 0), 0.0)


@triton.jit
def column_before(e, j, C: tl.constexpr):
    """Column j of `between_before` for factors (C, BK): (C, BK)"""
    i = tl.arange(0, C)[:, None]
    return tl.where(i > j, tl.cumprod(tl.where(i > j + 1, e, 1.0), 0), 0.0)


@triton.jit
def running(g):
    """g[0] ... g[i] at step i"""
    if g.shape[1] == 1:
        return tl.cumprod(tl.sum(g, 1), 0)[:, None]
    else:
        return tl.cumprod(g, 0)


@triton.jit
def products_after(after):
    """g[i+1] ... g[C-1] at step i; after[i] is g[i+1]"""
    if after.shape[1] == 1:
        return tl.cumprod(tl.sum(after, 1), 0, reverse=True)[:, None]
    else:
        return tl.cumprod(after, 0, reverse=True)


@triton.jit
def line_at(x, j, C: tl.constexpr):
    """Line j of x (C, N): (N,)"""
    return tl.sum(tl.where(tl.arange(0, C)[:, None] == j, x, 0.0), 0)


@triton.jit
def total_of(totals, chunk, first, K: tl.constexpr, BK: tl.constexpr):
    """Units first .. first + BK of the product of a chunk's decays: (BK,)"""
    unit = first + tl.arange(0, BK)
    return tl.load(totals + chunk * K + unit, unit < K, 0)


@triton.jit
def bonus_of(bonus, n, first, K: tl.constexpr, BK: tl.constexpr, STATE: tl.constexpr):
    """Units first .. first + BK of a head's bonus: (1, BK)"""
    unit = first + tl.arange(0, BK)
    return tl.load(bonus + n * K + unit, unit < K, 0).to(STATE)[None, :]


@triton.jit
def with_decays(
    P, own, decay, stride, reset, t, valid, scale, C: tl.constexpr, BEFORE: tl.constexpr, LOG: tl.constexpr,
    STATE: tl.constexpr,
):  # fmt: skip
    """The weights within a chunk from products P of queries and keys; with BEFORE, `own` is their diagonal"""
    i, factor = tl.arange(0, C), number(scale, STATE)
    if BEFORE:
        e = factors_before(decay, stride, reset, t, valid, 0, 1, 1, False, LOG, STATE)
        P *= between_before(e, C) * keeps(reset, t, valid, STATE)
        return tl.where(i[:, None] == i[None, :], own[:, None], P) * factor
    else:
        g = factors(decay, stride, reset, t, valid, 0, 1, 1, False, LOG, STATE)
        return P * (between(g, C) * factor)


@triton.jit
def apart_dot(a, b, PRECISION: tl.constexpr):
    """a b; to save registers, operands are loaded only when the previous product's are no longer needed"""
    tl.debug_barrier()
    return dot(a, b, PRECISION)


@triton.jit
def apart_products(x, y, p, q, PRECISION: tl.constexpr):
    """`products` with such a barrier"""
    tl.debug_barrier()
    return products(x, y, p, q, PRECISION)
