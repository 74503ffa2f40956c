"""Linear attention in chunks of C = 2^LEVELS steps with a decay for each row of the state, on tensor cores.

The product of the decays between two steps of a chunk differs from row to row, so that the weights within a chunk are
not one product of matrices. They are one for each level: at level h = 1, 2, 4, ... C / 2, the chunk consists of blocks
of 2 h steps, and the later half of a block reads what its earlier half has written. With b the first step of the later
half, D(i, j) = (g[b] ... g[i]) (g[j+1] ... g[b-1]): the first factor belongs to the query, the second to the key. Both
are products of decays, so that decays of any sign, zeros and resets are exact, and decays of at most 1 cannot overflow.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.triton_states import last_of
from .triton_chunks import (
    bonus_of,
    dot,
    factors,
    keeps,
    load_lines,
    number,
    place,
    products,
    store_lines,
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
    decay,
    bonus,
    weights,
    reads,
    writes,
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
    decay_row: tl.int64,
    decay_time: tl.int64,
    decay_head: tl.int64,
    reads_row: tl.int64,
    reads_time: tl.int64,
    reads_head: tl.int64,
    writes_row: tl.int64,
    writes_time: tl.int64,
    writes_head: tl.int64,
    reset_row: tl.int64,
    time: tl.int64,
    heads: tl.int64,
    per_key: tl.int64,
    K: tl.constexpr,
    BK: tl.constexpr,
    C: tl.constexpr,
    BEFORE: tl.constexpr,
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
        at_g, at_reset = decay + row * decay_row + n * decay_head, None if reset is None else reset + row * reset_row
        steps = tl.arange(0, C)
        i, j = steps[:, None], steps[None, :]
        t, valid = start + at + steps, at + steps < count
        P = tl.zeros((C, C), STATE)
        for first in range(0, K, BK):
            queries = load_lines(at_q, q_time, t, valid, first, K, BK, STATE)
            keys = load_lines(at_k, k_time, t, valid, first, K, BK, STATE)
            if bonus is not None:
                own = tl.sum(queries * keys * bonus_of(bonus, n, first, K, BK, STATE), 1)
                P += tl.where(i == j, own[:, None], 0.0)
            elif not BEFORE:
                P += tl.where(i == j, products(queries, keys, q, k, PRECISION), 0.0)
            g = factors(at_g, decay_time, at_reset, t, valid, first, K, BK, True, LOG, STATE)
            # From the start of the block to this step, from there to the step before, and from the next step to its end
            through, after = g, tl.full((C, BK), 1.0, STATE)
            until = after * keeps(at_reset, t, valid, STATE)
            for level in range(LEVELS):
                since = until if BEFORE else through
                pairs = dot(queries * since, tl.trans(keys * after), PRECISION)
                P += tl.where(_pairs(level, C), pairs, 0.0)
                other, later = _sibling(through, level, C), (i >> level) & 1 != 0
                through = tl.where(later, through * other, through)
                after = tl.where(later, after, after * other)
                if BEFORE:
                    until = tl.where(later, until * other, until)
            to = reads + row * reads_row + n * reads_head
            store_lines(to, reads_time, t, valid, first, queries * (until if BEFORE else through), K, BK)
            store_lines(writes + row * writes_row + n * writes_head, writes_time, t, valid, first, keys * after, K, BK)
            unit = first + tl.arange(0, BK)
            tl.store(totals + program * K + unit, last_of(through, C), unit < K)
        P *= number(scale, STATE)
        tl.store(weights + program * C * C + i * C + j, P.to(weights.dtype.element_ty))
