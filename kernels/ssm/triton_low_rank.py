"""The generalised delta rule in chunks: S = g S' + b w^T + k v^T with w = S'^T a, o = scale S^T q.

Once w is known, this is linear attention that writes and reads twice per step. In a chunk w = (I - L)^-1 (M v + A S),
where S is the state before the chunk, A is a times the decays since the start of the chunk, and L and M (C, C) are the
weights with which a reads b w^T and k v^T. A program has one head of one sequence and BV columns of its state, which is
in memory and read BK rows at a time. The thread that reads a number of it need not be the one that writes it, so that
barriers separate reads and writes: those after the loops, and within the second loop those of `apart_dot`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.triton_sequences import line_of, sequence
from ..common.triton_states import last_of, load_state, store_state
from .triton_chunks import apart_dot as dot
from .triton_chunks import (
    factors,
    factors_after,
    factors_before,
    keeps,
    load_lines,
    number,
    products_after,
    running,
    store_lines,
)

_CUT = ["reset_row", "time", "heads"]
_FORWARD = [f"{x}_{axis}" for x in ("k", "v", "decay", "a", "b", "w") for axis in ("row", "time", "head")]
_BACKWARD = [f"{x}_{axis}" for x in ("q", "decay", "a", "b", "d_o", "dw") for axis in ("row", "time", "head")]


@triton.jit
def low_rank_inverse_fwd_kernel(
    weights, others, inverse, products, C: tl.constexpr, TRANSPOSED: tl.constexpr, PRECISION: tl.constexpr
):
    """(I - L)^-1 for the weights L of a line and head, row by row, and its product with others, (C, C).

    With TRANSPOSED, both are transposed.
    """
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    at = tl.program_id(0).to(tl.int64) * C * C + i * C + j
    system = tl.load(weights + at)
    solved = tl.where(i == j, 1.0, system * 0.0)
    for row in range(1, C):
        line = tl.sum(tl.where(i == row, system, 0.0), 0)
        solved = tl.where(i == row, solved + tl.sum(line[:, None] * solved, 0)[None, :], solved)
    other = tl.load(others + at)
    if TRANSPOSED:
        solved, other = tl.trans(solved), tl.trans(other)
    tl.store(inverse + at, solved)
    tl.store(products + at, dot(solved, other, PRECISION))


@triton.jit(do_not_specialize=[*_FORWARD, "saved_line", "state_line", *_CUT])
def low_rank_fwd_kernel(
    k,
    v,
    decay,
    a,
    b,
    inverse,
    products,
    w,
    state,
    states,
    saved,
    reset,
    lengths,
    starts,
    k_row: tl.int64,
    k_time: tl.int64,
    k_head: tl.int64,
    v_row: tl.int64,
    v_time: tl.int64,
    v_head: tl.int64,
    decay_row: tl.int64,
    decay_time: tl.int64,
    decay_head: tl.int64,
    a_row: tl.int64,
    a_time: tl.int64,
    a_head: tl.int64,
    b_row: tl.int64,
    b_time: tl.int64,
    b_head: tl.int64,
    w_row: tl.int64,
    w_time: tl.int64,
    w_head: tl.int64,
    saved_line: tl.int64,
    state_line: tl.int64,
    reset_row: tl.int64,
    time: tl.int64,
    heads: tl.int64,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    C: tl.constexpr,
    TILE: tl.constexpr,
    VECTOR: tl.constexpr,
    LOG: tl.constexpr,
    STATE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """w of all steps, the states before all chunks and before every TILE-th step; `state` is the first one on entry."""
    COLUMNS: tl.constexpr = (V + BV - 1) // BV
    program = tl.program_id(0).to(tl.int64)
    s, n, block = program // COLUMNS // heads, program // COLUMNS % heads, program % COLUMNS * BV
    row, start, count = sequence(lengths, starts, s, time)
    at_k, at_v, at_w = k + row * k_row + n * k_head, v + row * v_row + n * v_head, w + row * w_row + n * w_head
    at_a, at_b = a + row * a_row + n * a_head, b + row * b_row + n * b_head
    at_g = None if decay is None else decay + row * decay_row + n * decay_head
    at_reset = None if reset is None else reset + row * reset_row
    S, c, i = state + s * state_line + n * K * V, block + tl.arange(0, BV), tl.arange(0, C)
    for at in range(0, count, C):
        chunk = (line_of(starts, s, start, time, C) + at // C) * heads + n
        square = chunk * C * C + i[:, None] * C + i[None, :]
        t, valid = start + at + i, at + i < count
        read = tl.zeros((C, BV), STATE)
        for first in range(0, K, BK):
            e = factors_before(at_g, decay_time, at_reset, t, valid, first, K, BK, VECTOR, LOG, STATE)
            keys = load_lines(at_a, a_time, t, valid, first, K, BK, STATE) * running(e)
            before = load_state(S, first, c, V, K, BK)
            read += dot(keys * keeps(at_reset, t, valid, STATE), before, PRECISION)
        values = load_lines(at_v, v_time, t, valid, block, V, BV, STATE)
        moved = dot(tl.load(inverse + square), read, PRECISION) + dot(tl.load(products + square), values, PRECISION)
        store_lines(at_w, w_time, t, valid, block, moved, V, BV)
        tl.debug_barrier()
        for first in range(0, K, BK):
            before = load_state(S, first, c, V, K, BK)
            store_state(states + chunk * K * V, before, first, c, V, K, BK)
            if saved is not None:
                if at % TILE == 0:
                    tile = line_of(starts, s, start, time, TILE) + at // TILE
                    store_state(saved + tile * saved_line + n * K * V, before, first, c, V, K, BK)
            g = factors(at_g, decay_time, at_reset, t, valid, first, K, BK, VECTOR, LOG, STATE)
            after = factors_after(at_g, decay_time, at_reset, t, at, count, first, K, BK, VECTOR, LOG, STATE)
            ends = products_after(after)
            keys = load_lines(at_k, k_time, t, valid, first, K, BK, STATE) * ends
            new = last_of(running(g), C)[:, None] * before + dot(tl.trans(keys), values, PRECISION)
            keys = load_lines(at_b, b_time, t, valid, first, K, BK, STATE) * ends
            # After the product's barrier all threads have loaded `before`.
            store_state(S, new + dot(tl.trans(keys), moved, PRECISION), first, c, V, K, BK)
        tl.debug_barrier()


@triton.jit(do_not_specialize=[*_BACKWARD, "state_line", *_CUT])
def low_rank_bwd_kernel(
    q,
    decay,
    a,
    b,
    d_o,
    inverse,
    products,
    dw,
    dstate,
    dstates,
    reset,
    lengths,
    starts,
    scale: tl.float64,
    q_row: tl.int64,
    q_time: tl.int64,
    q_head: tl.int64,
    decay_row: tl.int64,
    decay_time: tl.int64,
    decay_head: tl.int64,
    a_row: tl.int64,
    a_time: tl.int64,
    a_head: tl.int64,
    b_row: tl.int64,
    b_time: tl.int64,
    b_head: tl.int64,
    d_o_row: tl.int64,
    d_o_time: tl.int64,
    d_o_head: tl.int64,
    dw_row: tl.int64,
    dw_time: tl.int64,
    dw_head: tl.int64,
    state_line: tl.int64,
    reset_row: tl.int64,
    time: tl.int64,
    heads: tl.int64,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    C: tl.constexpr,
    VECTOR: tl.constexpr,
    LOG: tl.constexpr,
    STATE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dw of all steps and the gradients of the states after all chunks, without their chunks' own reads.

    dstate contains the gradient of the last state on entry, and that of the first state on return. `inverse` is
    transposed, and `products` are the transposed weights of b w^T in o times it.
    """
    COLUMNS: tl.constexpr = (V + BV - 1) // BV
    program = tl.program_id(0).to(tl.int64)
    s, n, block = program // COLUMNS // heads, program // COLUMNS % heads, program % COLUMNS * BV
    row, start, count = sequence(lengths, starts, s, time)
    at_q, at_w = q + row * q_row + n * q_head, dw + row * dw_row + n * dw_head
    at_a, at_b = a + row * a_row + n * a_head, b + row * b_row + n * b_head
    at_g = None if decay is None else decay + row * decay_row + n * decay_head
    at_reset = None if reset is None else reset + row * reset_row
    dS, c, i = dstate + s * state_line + n * K * V, block + tl.arange(0, BV), tl.arange(0, C)
    chunks = (count + C - 1) // C
    for back in range(chunks):
        at = (chunks - 1 - back) * C
        chunk = (line_of(starts, s, start, time, C) + at // C) * heads + n
        square = chunk * C * C + i[:, None] * C + i[None, :]
        t, valid = start + at + i, at + i < count
        read = tl.zeros((C, BV), STATE)
        for first in range(0, K, BK):
            after = factors_after(at_g, decay_time, at_reset, t, at, count, first, K, BK, VECTOR, LOG, STATE)
            keys = load_lines(at_b, b_time, t, valid, first, K, BK, STATE) * products_after(after)
            read += dot(keys, load_state(dS, first, c, V, K, BK), PRECISION)
        moved = dot(tl.load(inverse + square), read, PRECISION)
        if d_o is not None:
            at_o = d_o + row * d_o_row + n * d_o_head
            outputs = load_lines(at_o, d_o_time, t, valid, block, V, BV, STATE)
            moved += dot(tl.load(products + square), outputs, PRECISION)
        store_lines(at_w, dw_time, t, valid, block, moved, V, BV)
        tl.debug_barrier()
        for first in range(0, K, BK):
            after = load_state(dS, first, c, V, K, BK)
            store_state(dstates + chunk * K * V, after, first, c, V, K, BK)
            g = running(factors(at_g, decay_time, at_reset, t, valid, first, K, BK, VECTOR, LOG, STATE))
            new = last_of(g, C)[:, None] * after
            e = factors_before(at_g, decay_time, at_reset, t, valid, first, K, BK, VECTOR, LOG, STATE)
            reads = load_lines(at_a, a_time, t, valid, first, K, BK, STATE) * running(e)
            new += dot(tl.trans(reads * keeps(at_reset, t, valid, STATE)), moved, PRECISION)
            if d_o is not None:
                reads = load_lines(at_q, q_time, t, valid, first, K, BK, STATE) * g * number(scale, STATE)
                new += dot(tl.trans(reads), outputs, PRECISION)
            # After a product's barrier all threads have loaded `after`.
            store_state(dS, new, first, c, V, K, BK)
        tl.debug_barrier()
