"""The weights of values within chunks of C = 2^LEVELS steps, and queries and keys that contain decays, on tensor cores.

With a decay for each row of the state, the product of the decays between two steps of a chunk differs from row to row,
so that the weights are not one product of matrices. They are one for each level: at level h = 1, 2, 4, ... C / 2, the
chunk consists of blocks of 2 h steps, and the later half of a block reads what its earlier half has written. With b the
first step of the later half, D(i, j) = (g[b] ... g[i]) (g[j+1] ... g[b-1]): the first factor belongs to the query, the
second to the key. Both are products of decays, so that decays of any sign, zeros and resets are exact, and decays of at
most 1 cannot overflow.

In the generalised delta rule, queries read what two kinds of keys have written, k and b.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.triton_states import last_of
from .triton_chunks import (
    bonus_of,
    dot,
    factors,
    factors_after,
    keeps,
    load_lines,
    number,
    place,
    products,
    products_after,
    running,
    since_start,
    store_lines,
    with_decays,
)

_CUT = ["reset_row", "time", "heads", "per_key"]


@triton.jit
def _sibling(x, level, C: tl.constexpr):
    """For each step, the last line of the other half of its block at a level, of x (C, BK)"""
    line = (tl.arange(0, C) ^ (1 << level)) | ((1 << level) - 1)
    return tl.gather(x, line[:, None] + tl.zeros_like(x).to(tl.int32), 0)


@triton.jit
def _pairs(level, C: tl.constexpr):
    """Whether step i reads at a level what step j writes: (C, C)"""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    return (i > j) & ((i ^ j) >> level == 1)


@triton.jit(do_not_specialize=_CUT)
def attention_levels_fwd_kernel(
    q,
    k,
    b,
    decay,
    bonus,
    weights,
    b_weights,
    reads,
    writes,
    b_writes,
    totals,
    reset,
    lengths,
    starts,
    owner,
    scale: tl.float64,
    q_row: tl.int64,
    q_time: tl.int64,
    q_head: tl.int64,
    k_row: tl.int64,
    k_time: tl.int64,
    k_head: tl.int64,
    b_row: tl.int64,
    b_time: tl.int64,
    b_head: tl.int64,
    decay_row: tl.int64,
    decay_time: tl.int64,
    decay_head: tl.int64,
    reads_row: tl.int64,
    reads_time: tl.int64,
    reads_head: tl.int64,
    writes_row: tl.int64,
    writes_time: tl.int64,
    writes_head: tl.int64,
    b_writes_row: tl.int64,
    b_writes_time: tl.int64,
    b_writes_head: tl.int64,
    reset_row: tl.int64,
    time: tl.int64,
    heads: tl.int64,
    per_key: tl.int64,
    K: tl.constexpr,
    BK: tl.constexpr,
    C: tl.constexpr,
    BEFORE: tl.constexpr,
    VECTOR: tl.constexpr,
    LEVELS: tl.constexpr,
    LOG: tl.constexpr,
    STATE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The weights of the values of step j in the output of step i of a chunk, and the products of the chunk's decays.

    The queries are stored times the decays since its start, and the keys times those to its end.
    """
    program = tl.program_id(0).to(tl.int64)
    line, n = program // heads, program % heads
    row, start, count, at = place(line, lengths, starts, owner, time, C)
    if at < count:
        at_q, at_k = q + row * q_row + n // per_key * q_head, k + row * k_row + n // per_key * k_head
        at_g = None if decay is None else decay + row * decay_row + n * decay_head
        at_reset = None if reset is None else reset + row * reset_row
        steps = tl.arange(0, C)
        i, j = steps[:, None], steps[None, :]
        t, valid = start + at + steps, at + steps < count
        P, R, own = tl.zeros((C, C), STATE), tl.zeros((C, C), STATE), tl.zeros((C,), STATE)
        for first in range(0, K, BK):
            queries = load_lines(at_q, q_time, t, valid, first, K, BK, STATE)
            keys = load_lines(at_k, k_time, t, valid, first, K, BK, STATE)
            others = keys
            if b is not None:
                others = load_lines(b + row * b_row + n * b_head, b_time, t, valid, first, K, BK, STATE)
            if bonus is not None:
                own += tl.sum(queries * keys * bonus_of(bonus, n, first, K, BK, STATE), 1)
            g = factors(at_g, decay_time, at_reset, t, valid, first, K, BK, VECTOR, LOG, STATE)
            if VECTOR:
                if (bonus is None) and (not BEFORE):
                    P += tl.where(i == j, products(queries, keys, q, k, PRECISION), 0.0)
                    if b is not None:
                        R += tl.where(i == j, products(queries, others, q, b, PRECISION), 0.0)
                # From the start of the block to this step, to the step before, and from the next step to its end
                through, after = g, tl.full((C, BK), 1.0, STATE)
                until = after * keeps(at_reset, t, valid, STATE)
                for level in range(LEVELS):
                    queries_since = queries * (until if BEFORE else through)
                    P += tl.where(_pairs(level, C), dot(queries_since, tl.trans(keys * after), PRECISION), 0.0)
                    if b is not None:
                        R += tl.where(_pairs(level, C), dot(queries_since, tl.trans(others * after), PRECISION), 0.0)
                    other, later = _sibling(through, level, C), (i >> level) & 1 != 0
                    through = tl.where(later, through * other, through)
                    after = tl.where(later, after, after * other)
                    if BEFORE:
                        until = tl.where(later, until * other, until)
                since, total = until if BEFORE else through, last_of(through, C)
            else:
                P += products(queries, keys, q, k, PRECISION)
                if b is not None:
                    R += products(queries, others, q, b, PRECISION)
                since = since_start(at_g, decay_time, at_reset, t, valid, 0, K, BK, BEFORE, False, LOG, STATE)
                more = factors_after(at_g, decay_time, at_reset, t, at, count, 0, K, BK, False, LOG, STATE)
                after, total = products_after(more), last_of(running(g), C) + tl.zeros((BK,), STATE)
            to = reads + row * reads_row + n * reads_head
            store_lines(to, reads_time, t, valid, first, queries * since, K, BK)
            if writes is not None:
                to = writes + row * writes_row + n * writes_head
                store_lines(to, writes_time, t, valid, first, keys * after, K, BK)
                unit = first + tl.arange(0, BK)
                tl.store(totals + program * K + unit, total, unit < K)
            if b_writes is not None:
                to = b_writes + row * b_writes_row + n * b_writes_head
                store_lines(to, b_writes_time, t, valid, first, others * after, K, BK)
        to = program * C * C + i * C + j
        if VECTOR:
            if bonus is not None:
                P += tl.where(i == j, own[:, None], 0.0)
            P *= number(scale, STATE)
            R *= number(scale, STATE)
        else:
            P = with_decays(P, own, at_g, decay_time, at_reset, t, valid, scale, C, BEFORE, LOG, STATE)
            if b is not None:
                R = with_decays(R, own * 0, at_g, decay_time, at_reset, t, valid, scale, C, BEFORE, LOG, STATE)
        tl.store(weights + to, P.to(weights.dtype.element_ty))
        if b is not None:
            tl.store(b_weights + to, R.to(b_weights.dtype.element_ty))
