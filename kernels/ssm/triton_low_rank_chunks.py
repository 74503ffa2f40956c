"""The generalised delta rule on tensor cores, in chunks of C steps: w, the values that b writes, and the states.

In a chunk, w = X + Y S, where S is the state before it, X = T M v, Y = T A and T = (I - L)^-1: L and M (C, C) are the
weights with which a reads b w^T and k v^T, and A contains a times the decays since the start of the chunk. X and Y are
computed for all chunks at once. Then a program for each head and BV columns of its state processes chunk after chunk,
with the state in registers. The signals of the second kernel contain their decays to the ends of their chunks.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.triton_sequences import line_of, sequence
from ..common.triton_tiles import dot, dot_parts, joined, load_parts, store_parts
from .triton_chunks import load_lines, place, store_lines, total_of

_CUT = ["time", "heads"]


@triton.jit
def _written(keys, values, PRECISION: tl.constexpr):
    """keys^T values; in TF32 with the operands exchanged, which takes fewer registers"""
    if PRECISION == "bf16":
        return dot(tl.trans(keys), values, PRECISION)
    else:
        return tl.trans(dot(tl.trans(values), keys, PRECISION))


@triton.jit(do_not_specialize=_CUT)
def low_rank_products_fwd_kernel(
    a,
    v,
    system,
    weights,
    moved,
    w,
    lengths,
    starts,
    owner,
    a_row: tl.int64,
    a_time: tl.int64,
    a_head: tl.int64,
    v_row: tl.int64,
    v_time: tl.int64,
    v_head: tl.int64,
    w_row: tl.int64,
    w_time: tl.int64,
    w_head: tl.int64,
    time: tl.int64,
    heads: tl.int64,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    C: tl.constexpr,
    STATE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """X of a chunk in the memory of w, and Y in `moved` (line, head, C, K), from L in `system` and M in `weights`."""
    program = tl.program_id(0).to(tl.int64)
    line, n = program // heads, program % heads
    row, start, count, at = place(line, lengths, starts, owner, time, C)
    if at < count:
        i = tl.arange(0, C)
        t, valid, square = start + at + i, at + i < count, program * C * C + i[:, None] * C + i[None, :]
        # Loaded apart from the rest, these blocks have a layout in which sums over their rows are fast.
        B, inner = tl.arange(0, C // 16)[:, None, None], tl.arange(0, 16)
        diagonal = program * C * C + B * 16 * (C + 1) + inner[None, :, None] * C + inner[None, None, :]
        T = joined(-tl.load(system + diagonal), -tl.load(system + square), C, PRECISION)
        for first in range(0, K, BK):
            reads = load_lines(a + row * a_row + n * a_head, a_time, t, valid, first, K, BK, STATE)
            store_lines(moved + program * C * K, K, i, i >= 0, first, dot(T, reads, PRECISION), K, BK)
        T = dot(T, tl.load(weights + square), PRECISION)
        for first in range(0, V, BV):
            values = load_lines(v + row * v_row + n * v_head, v_time, t, valid, first, V, BV, STATE)
            store_lines(w + row * w_row + n * w_head, w_time, t, valid, first, dot(T, values, PRECISION), V, BV)


@triton.jit(do_not_specialize=["saved_line", "state_line", *_CUT])
def low_rank_states_fwd_kernel(
    k,
    v,
    b,
    totals,
    moved,
    w,
    state,
    states,
    saved,
    lengths,
    starts,
    k_row: tl.int64,
    k_time: tl.int64,
    k_head: tl.int64,
    v_row: tl.int64,
    v_time: tl.int64,
    v_head: tl.int64,
    b_row: tl.int64,
    b_time: tl.int64,
    b_head: tl.int64,
    w_row: tl.int64,
    w_time: tl.int64,
    w_head: tl.int64,
    saved_line: tl.int64,
    state_line: tl.int64,
    time: tl.int64,
    heads: tl.int64,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    C: tl.constexpr,
    STATE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """w of all steps, which is X on entry, the states before all chunks, and the last state.

    `state` contains the first state on entry, and `saved`, if there is any, receives what `states` does.
    """
    COLUMNS: tl.constexpr = (V + BV - 1) // BV
    program = tl.program_id(0).to(tl.int64)
    s, n, block = program // COLUMNS // heads, program // COLUMNS % heads, program % COLUMNS * BV
    row, start, count = sequence(lengths, starts, s, time)
    at_k, at_b = k + row * k_row + n * k_head, b + row * b_row + n * b_head
    at_v, at_w = v + row * v_row + n * v_head, w + row * w_row + n * w_head
    c, i, ends = block + tl.arange(0, BV), tl.arange(0, C), state + s * state_line + n * K * V
    S = load_parts(ends, c, K, V, BK)
    for at in range(0, count, C):
        line = line_of(starts, s, start, time, C) + at // C
        chunk = line * heads + n
        store_parts(states + chunk * K * V, S, c, K, V, BK)
        if saved is not None:
            store_parts(saved + line * saved_line + n * K * V, S, c, K, V, BK)
        t, valid = start + at + i, at + i < count
        written = load_lines(at_w, w_time, t, valid, block, V, BV, STATE)
        written += dot_parts(moved + (chunk * C + i) * K, i >= 0, S, K, BK, PRECISION)
        store_lines(at_w, w_time, t, valid, block, written, V, BV)
        values = load_lines(at_v, v_time, t, valid, block, V, BV, STATE)
        parts = ()
        for first in tl.static_range(0, K, BK):
            keys = load_lines(at_k, k_time, t, valid, first, K, BK, STATE)
            others = load_lines(at_b, b_time, t, valid, first, K, BK, STATE)
            new = total_of(totals, chunk, first, K, BK)[:, None] * S[first // BK]
            new += _written(keys, values, PRECISION)
            parts = parts + (new + _written(others, written, PRECISION),)
        S = parts
    store_parts(ends, S, c, K, V, BK)
