"""Linear attention in chunks of C steps: S = g S + k v^T, o = scale S^T q, forward.

Three kernels, each with independent programs: the states before all chunks, where a program computes a tile (BK, BV) of
the state from chunk to chunk; the weights (C, C) of a chunk's values in its outputs, if each row of the state has its
own decay; and the outputs of a chunk. A line is a chunk of a sequence. With BEFORE, o is read before the step, and
`bonus` is the weight of the step's own k v^T. docs/gpu.md has the formulas.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.triton_sequences import line_of, sequence
from ..common.triton_states import between, between_before, last_of, load_state, store_state
from .triton_chunks import (
    bonus_of,
    column,
    column_before,
    dot,
    factors,
    factors_after,
    factors_before,
    keeps,
    line_at,
    load_lines,
    number,
    place,
    products,
    products_after,
    running,
    sequence_of,
    since_start,
    store_lines,
    total_of,
    with_decays,
)

_CUT = ["reset_row", "time", "heads", "per_key"]


@triton.jit(do_not_specialize=_CUT)
def attention_states_kernel(
    k,
    v,
    decay,
    totals,
    source,
    states,
    saved,
    last,
    reset,
    lengths,
    starts,
    owner,
    k_row: tl.int64,
    k_time: tl.int64,
    k_head: tl.int64,
    v_row: tl.int64,
    v_time: tl.int64,
    v_head: tl.int64,
    decay_row: tl.int64,
    decay_time: tl.int64,
    decay_head: tl.int64,
    from_line: tl.int64,
    saved_line: tl.int64,
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
    TILE: tl.constexpr,
    SPLIT: tl.constexpr,
    VECTOR: tl.constexpr,
    LOG: tl.constexpr,
    STATE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The states before all chunks in `states`, before every TILE-th step in `saved`, and after the last one in `last`.

    With `totals`, the products of the decays of the chunks, the keys contain the decays from their steps to the ends of
    their chunks. A program computes a sequence from its state in `source`, or, with SPLIT, a tile of TILE steps.
    """
    COLUMNS: tl.constexpr = (V + BV - 1) // BV
    BLOCKS: tl.constexpr = (K + BK - 1) // BK * COLUMNS
    program = tl.program_id(0).to(tl.int64)
    line, n, block = program // BLOCKS // heads, program // BLOCKS % heads, program % BLOCKS
    first, c = (block // COLUMNS * BK).to(tl.int32), block % COLUMNS * BV + tl.arange(0, BV)
    if SPLIT:
        s = sequence_of(line, starts, owner, time, TILE)
        row, start, count, begin = place(line, lengths, starts, owner, time, TILE)
        end = tl.minimum(begin + TILE, count)
    else:
        s = line
        row, start, count = sequence(lengths, starts, s, time)
        begin, end = s * 0, count
    at_k, at_v = k + row * k_row + n // per_key * k_head, v + row * v_row + n * v_head
    at_g = None if decay is None else decay + row * decay_row + n * decay_head
    at_reset = None if reset is None else reset + row * reset_row
    S = tl.zeros((BK, BV), STATE)
    if source is not None:
        S = load_state(source + line * from_line + n * K * V, first, c, V, K, BK).to(STATE)
    i = tl.arange(0, C)
    for at in range(begin, end, C):
        chunk = (line_of(starts, s, start, time, C) + at // C) * heads + n
        store_state(states + chunk * K * V, S, first, c, V, K, BK)
        if saved is not None:
            if at % TILE == 0:
                to = saved + (line_of(starts, s, start, time, TILE) + at // TILE) * saved_line + n * K * V
                store_state(to, S, first, c, V, K, BK)
        t, valid = start + at + i, at + i < count
        keys = load_lines(at_k, k_time, t, valid, first, K, BK, STATE)
        if totals is not None:
            total = total_of(totals, chunk, first, K, BK)
        else:
            g = factors(at_g, decay_time, at_reset, t, valid, first, K, BK, VECTOR, LOG, STATE)
            after = factors_after(at_g, decay_time, at_reset, t, at, count, first, K, BK, VECTOR, LOG, STATE)
            total = last_of(running(g), C)
            keys *= products_after(after)
        values = load_lines(at_v, v_time, t, valid, block % COLUMNS * BV, V, BV, STATE)
        S = total[:, None] * S + dot(tl.trans(keys), values, PRECISION)
    if last is not None:
        store_state(last + line * to_line + n * K * V, S, first, c, V, K, BK)


@triton.jit(do_not_specialize=_CUT)
def attention_weights_kernel(
    q,
    k,
    decay,
    bonus,
    weights,
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
    reset_row: tl.int64,
    time: tl.int64,
    heads: tl.int64,
    per_key: tl.int64,
    K: tl.constexpr,
    BK: tl.constexpr,
    C: tl.constexpr,
    BEFORE: tl.constexpr,
    VECTOR: tl.constexpr,
    LOG: tl.constexpr,
    STATE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The weight of the values of step j in the output of step i of a chunk, (line, head, i, j)."""
    program = tl.program_id(0).to(tl.int64)
    line, n = program // heads, program % heads
    row, start, count, at = place(line, lengths, starts, owner, time, C)
    at_q, at_k = q + row * q_row + n // per_key * q_head, k + row * k_row + n // per_key * k_head
    at_g = None if decay is None else decay + row * decay_row + n * decay_head
    at_reset = None if reset is None else reset + row * reset_row
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    steps = tl.arange(0, C)
    t, valid = start + at + steps, at + steps < count
    P = tl.zeros((C, C), STATE)
    for first in range(0, K, BK):
        queries = load_lines(at_q, q_time, t, valid, first, K, BK, STATE)
        keys = load_lines(at_k, k_time, t, valid, first, K, BK, STATE)
        if bonus is not None:
            own = tl.sum(queries * keys * bonus_of(bonus, n, first, K, BK, STATE), 1)
            P += tl.where(i == j, own[:, None], 0.0)
        if VECTOR:
            if BEFORE:
                g = factors_before(at_g, decay_time, at_reset, t, valid, first, K, BK, True, LOG, STATE)
                queries *= keeps(at_reset, t, valid, STATE)
            else:
                g = factors(at_g, decay_time, at_reset, t, valid, first, K, BK, True, LOG, STATE)
            for step in range(C):
                factor = column_before(g, step, C) if BEFORE else column(g, step, C)
                P += tl.where(j == step, tl.sum(queries * factor * line_at(keys, step, C)[None, :], 1)[:, None], 0.0)
        else:
            P += products(queries, keys, q, k, PRECISION)
    if not VECTOR:
        if BEFORE:
            g = factors_before(at_g, decay_time, at_reset, t, valid, 0, K, BK, False, LOG, STATE)
            P *= between_before(g, C) * keeps(at_reset, t, valid, STATE)
        else:
            P *= between(factors(at_g, decay_time, at_reset, t, valid, 0, K, BK, False, LOG, STATE), C)
    tl.store(weights + program * C * C + i * C + j, P * number(scale, STATE))


@triton.jit(do_not_specialize=_CUT)
def attention_fwd_kernel(
    q,
    k,
    v,
    decay,
    bonus,
    w,
    states,
    weights,
    w_weights,
    o,
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
    v_row: tl.int64,
    v_time: tl.int64,
    v_head: tl.int64,
    w_row: tl.int64,
    w_time: tl.int64,
    w_head: tl.int64,
    decay_row: tl.int64,
    decay_time: tl.int64,
    decay_head: tl.int64,
    o_row: tl.int64,
    o_time: tl.int64,
    o_head: tl.int64,
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
    """The outputs of a chunk, BV columns of them, from the state before it.

    With VECTOR but without decays, the queries contain the decays since the start of their chunk, and the values may
    be those of two kinds of keys, v and w.
    """
    COLUMNS: tl.constexpr = (V + BV - 1) // BV
    program = tl.program_id(0).to(tl.int64)
    chunk, column_block = program // COLUMNS, program % COLUMNS * BV
    line, n = chunk // heads, chunk % heads
    row, start, count, at = place(line, lengths, starts, owner, time, C)
    if at < count:
        at_q, at_k = q + row * q_row + n // per_key * q_head, k + row * k_row + n // per_key * k_head
        at_v = v + row * v_row + n * v_head
        at_g = None if decay is None else decay + row * decay_row + n * decay_head
        at_reset = None if reset is None else reset + row * reset_row
        i, c = tl.arange(0, C), column_block + tl.arange(0, BV)
        t, valid = start + at + i, at + i < count
        read, own, P = tl.zeros((C, BV), STATE), tl.zeros((C,), STATE), tl.zeros((C, C), STATE)
        for first in range(0, K, BK):
            queries = load_lines(at_q, q_time, t, valid, first, K, BK, STATE)
            if not VECTOR:
                keys = load_lines(at_k, k_time, t, valid, first, K, BK, STATE)
                P += products(queries, keys, q, k, PRECISION)
                if bonus is not None:
                    own += tl.sum(queries * keys * bonus_of(bonus, n, first, K, BK, STATE), 1)
            if states is not None:
                if VECTOR and (decay is not None):
                    queries *= since_start(at_g, decay_time, at_reset, t, valid, first, K, BK, BEFORE, True, LOG, STATE)
                read += dot(queries, load_state(states + chunk * K * V, first, c, V, K, BK), PRECISION)
        read *= number(scale, STATE)
        if (states is not None) and (not VECTOR):
            read *= since_start(at_g, decay_time, at_reset, t, valid, 0, K, BK, BEFORE, False, LOG, STATE)
        if VECTOR:
            P = tl.load(weights + chunk * C * C + i[:, None] * C + i[None, :])
        else:
            P = with_decays(P, own, at_g, decay_time, at_reset, t, valid, scale, C, BEFORE, LOG, STATE)
        values = load_lines(at_v, v_time, t, valid, column_block, V, BV, STATE)
        read += dot(P, values, PRECISION)
        if w is not None:
            values = load_lines(w + row * w_row + n * w_head, w_time, t, valid, column_block, V, BV, STATE)
            read += dot(tl.load(w_weights + chunk * C * C + i[:, None] * C + i[None, :]), values, PRECISION)
        store_lines(o + row * o_row + n * o_head, o_time, t, valid, column_block, read, V, BV)
