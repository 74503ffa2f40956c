"""Linear attention in chunks of C steps, backward, from the states before all chunks.

Two kernels, each with independent programs: the gradients of the states after all chunks, from chunk to chunk, and dv
of a chunk. triton_attention_keys.py has the other gradients.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.triton_sequences import line_of, sequence
from ..common.triton_states import last_of, load_state, state_at, store_state
from .triton_chunks import apart_dot as dot
from .triton_chunks import apart_products as products
from .triton_chunks import (
    bonus_of,
    factors,
    factors_after,
    factors_before,
    keeps,
    load_lines,
    number,
    place,
    products_after,
    running,
    store_lines,
    with_decays,
)

_CUT = ["reset_row", "time", "heads", "per_key"]
_DECAY = ["decay_row", "decay_time", "decay_head"]
_Q = ["q_row", "q_time", "q_head"]
_K = ["k_row", "k_time", "k_head"]
_D_O = ["d_o_row", "d_o_time", "d_o_head"]


@triton.jit(do_not_specialize=[*_Q, *_DECAY, *_D_O, "from_line", "to_line", *_CUT])
def attention_bwd_states_kernel(
    q,
    decay,
    d_o,
    dlast,
    dstates,
    dfirst,
    reset,
    lengths,
    starts,
    owner,
    scale: tl.float64,
    q_row: tl.int64,
    q_time: tl.int64,
    q_head: tl.int64,
    decay_row: tl.int64,
    decay_time: tl.int64,
    decay_head: tl.int64,
    d_o_row: tl.int64,
    d_o_time: tl.int64,
    d_o_head: tl.int64,
    from_line: tl.int64,
    to_line: tl.int64,
    reset_row: tl.int64,
    time: tl.int64,
    heads: tl.int64,
    per_key: tl.int64,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    C: tl.constexpr,
    BEFORE: tl.constexpr,
    VECTOR: tl.constexpr,
    LOG: tl.constexpr,
    STATE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The gradients of the states after all chunks, without their chunks' own outputs, and of the first state."""
    COLUMNS: tl.constexpr = (V + BV - 1) // BV
    BLOCKS: tl.constexpr = (K + BK - 1) // BK * COLUMNS
    program = tl.program_id(0).to(tl.int64)
    s, n, block = program // BLOCKS // heads, program // BLOCKS % heads, program % BLOCKS
    first, c = (block // COLUMNS * BK).to(tl.int32), block % COLUMNS * BV + tl.arange(0, BV)
    row, start, count = sequence(lengths, starts, s, time)
    at_q = q + row * q_row + n // per_key * q_head
    at_g = None if decay is None else decay + row * decay_row + n * decay_head
    at_reset = None if reset is None else reset + row * reset_row
    dS = tl.zeros((BK, BV), STATE)
    if dlast is not None:
        dS = load_state(dlast + s * from_line + n * K * V, first, c, V, K, BK)
    i = tl.arange(0, C)
    chunks = (count + C - 1) // C
    for back in range(chunks):
        at = (chunks - 1 - back) * C
        to = dstates + ((line_of(starts, s, start, time, C) + at // C) * heads + n) * K * V
        store_state(to, dS, first, c, V, K, BK)
        t, valid = start + at + i, at + i < count
        g = factors(at_g, decay_time, at_reset, t, valid, first, K, BK, VECTOR, LOG, STATE)
        dS *= last_of(running(g), C)[:, None]
        if d_o is not None:
            queries = load_lines(at_q, q_time, t, valid, first, K, BK, STATE) * number(scale, STATE)
            if BEFORE:
                e = factors_before(at_g, decay_time, at_reset, t, valid, first, K, BK, VECTOR, LOG, STATE)
                queries *= running(e) * keeps(at_reset, t, valid, STATE)
            else:
                queries *= running(g)
            at_o = d_o + row * d_o_row + n * d_o_head
            outputs = load_lines(at_o, d_o_time, t, valid, block % COLUMNS * BV, V, BV, STATE)
            dS += dot(tl.trans(queries), outputs, PRECISION)
    if dfirst is not None:
        store_state(dfirst + s * to_line + n * K * V, dS, first, c, V, K, BK)


@triton.jit(do_not_specialize=[*_Q, *_K, *_DECAY, *_D_O, "dv_row", "dv_time", "dv_head", *_CUT])
def attention_bwd_values_kernel(
    q,
    k,
    decay,
    bonus,
    d_o,
    dstates,
    weights,
    dv,
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
    d_o_row: tl.int64,
    d_o_time: tl.int64,
    d_o_head: tl.int64,
    dv_row: tl.int64,
    dv_time: tl.int64,
    dv_head: tl.int64,
    reset_row: tl.int64,
    time: tl.int64,
    heads: tl.int64,
    per_key: tl.int64,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    C: tl.constexpr,
    BEFORE: tl.constexpr,
    VECTOR: tl.constexpr,
    LOG: tl.constexpr,
    STATE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dv of a chunk, BV columns of it."""
    COLUMNS: tl.constexpr = (V + BV - 1) // BV
    program = tl.program_id(0).to(tl.int64)
    chunk, column_block = program // COLUMNS, program % COLUMNS * BV
    line, n = chunk // heads, chunk % heads
    row, start, count, at = place(line, lengths, starts, owner, time, C)
    if at < count:
        at_q, at_k = q + row * q_row + n // per_key * q_head, k + row * k_row + n // per_key * k_head
        at_g = None if decay is None else decay + row * decay_row + n * decay_head
        at_reset = None if reset is None else reset + row * reset_row
        i, c = tl.arange(0, C), column_block + tl.arange(0, BV)
        t, valid = start + at + i, at + i < count
        written, own, P = tl.zeros((C, BV), STATE), tl.zeros((C,), STATE), tl.zeros((C, C), STATE)
        for first in range(0, K, BK):
            keys = load_lines(at_k, k_time, t, valid, first, K, BK, STATE)
            if not VECTOR and d_o is not None:
                queries = load_lines(at_q, q_time, t, valid, first, K, BK, STATE)
                P += products(queries, keys, q, k, PRECISION)
                if bonus is not None:
                    own += tl.sum(queries * keys * bonus_of(bonus, n, first, K, BK, STATE), 1)
            if dstates is not None:
                after = factors_after(at_g, decay_time, at_reset, t, at, count, first, K, BK, VECTOR, LOG, STATE)
                dS, there = state_at(dstates + chunk * K * V, first, c, V, K, BK)
                written += dot(keys * products_after(after), tl.load(dS, there, 0), PRECISION)
        if d_o is not None:
            if VECTOR:
                P = tl.load(weights + chunk * C * C + i[:, None] * C + i[None, :])
            else:
                P = with_decays(P, own, at_g, decay_time, at_reset, t, valid, scale, C, BEFORE, LOG, STATE)
            at_o = d_o + row * d_o_row + n * d_o_head
            outputs = load_lines(at_o, d_o_time, t, valid, column_block, V, BV, STATE)
            written += dot(tl.trans(P), outputs, PRECISION)
        store_lines(dv + row * dv_row + n * dv_head, dv_time, t, valid, column_block, written, V, BV)
