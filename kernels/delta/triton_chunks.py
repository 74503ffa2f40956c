"""The delta rule on tensor cores, in chunks of at most C (32 or 64) factors, in the notation of docs/delta/theory.md.

Everything independent of the state is computed for all chunks at once: the inverse T of I + A diag(b), which stays in
registers, X = T V and Y = T diag(d) K. Then a program for each head and BV columns of its state processes chunk after
chunk, with the state in registers: E = X - Y S and S = d S + K^T diag(to_end b) E, where to_end contains the decays
from each factor to the end of its chunk. It writes the states before all chunks; outputs and gradients follow for all
chunks at once. The gradient does the same with U = diag(b) dE = R + Z dS, which is also dV: R = P dO,
P = T^T diag(b) (D Q K^T)^T, and Z = T^T diag(b to_end) K.

PRECISION is the precision of the products: "bf16", or as for tl.dot. A line is a chunk of a sequence. Scratch memory
has `part` heads, beginning with head `first`: `moved` (line, head, C, K) contains Y or Z. `states`
(line, head, K, V), the states before all chunks, has `state_heads` heads: it is scratch memory or begins with that head
of the saved states. With products in bfloat16, states in memory are bfloat16.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.triton_sequences import line_of, sequence
from ..common.triton_states import between, last_of, load_lines, state_at
from ..common.triton_tiles import dot, dot_parts, load_parts, solved, store_parts
from .triton_delta import decays

_SIZES = ["reset_row", "time", "chunks", "periods", "first", "part", "state_heads"]


@triton.jit
def place(first, part, inner):
    """(sequence, head, its index in the part, index among the ``inner`` programs of a head) of this program"""
    program = tl.program_id(0).to(tl.int64)
    own = program // inner % part
    return program // inner // part, first + own, own, program % inner


@triton.jit
def factors(start, at, count, M: tl.constexpr, STEPS: tl.constexpr, C: tl.constexpr):
    """(step, index within the step, whether it exists) of the factors of a chunk"""
    f = tl.arange(0, C)
    return start + at + f // M, f % M, (f < STEPS * M) & (at + f // M < count)


@triton.jit
def decays_of(decay, reset, row, reset_row, n, heads, time, t, m, valid):
    """g of the factors of a chunk, in float32"""
    begins = valid & (m == 0)
    return tl.where(begins, decays(decay, reset, row, reset_row, t, n, heads, time, begins).to(tl.float32), 1.0)


@triton.jit
def after(
    decay,
    reset,
    row,
    reset_row,
    n,
    heads,
    time,
    start,
    at,
    count,
    M: tl.constexpr,
    STEPS: tl.constexpr,
    C: tl.constexpr,
):
    """D(n, f): the product of the decays after each factor of a chunk"""
    f = tl.arange(0, C) + 1
    after = (f < STEPS * M) & (at + f // M < count)
    g = decays_of(decay, reset, row, reset_row, n, heads, time, start + at + f // M, f % M, after)
    return tl.cumprod(g, 0, reverse=True)


@triton.jit
def products_of(g, decay, reset, C: tl.constexpr):
    """D of a chunk"""
    if (decay is None) and (reset is None):
        return tl.where(tl.arange(0, C)[:, None] >= tl.arange(0, C)[None, :], 1.0, 0.0)
    else:
        return between(g[:, None], C)


@triton.jit
def inverse_of(at_k, valid, b, D, K: tl.constexpr, BK: tl.constexpr, C: tl.constexpr, PRECISION: tl.constexpr):
    """T of a chunk with keys at at_k and strengths b"""
    f, kk = tl.arange(0, C), tl.zeros((C, C), tl.float32)
    for first in range(0, K, BK):
        keys = load_lines(at_k, valid, first, K, BK)
        kk += dot(keys, tl.trans(keys), PRECISION)
    return solved(tl.where(f[:, None] > f[None, :], D * kk * b[None, :], 0.0), C, PRECISION)


@triton.jit
def add_parts(by, S, p, valid, w, K: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr):
    """by S + k^T w, with the keys as rows of K elements at p"""
    parts = ()
    for first in tl.static_range(0, K, BK):
        if PRECISION != "bf16":
            tl.debug_barrier()
        keys = tl.trans(load_lines(p, valid, first, K, BK))
        parts = parts + (by * S[first // BK] + dot(keys, w, PRECISION),)
    return parts


@triton.jit(do_not_specialize=_SIZES)
def delta_chunk_products_fwd_kernel(
    k,
    v,
    beta,
    decay,
    reset,
    lengths,
    starts,
    e,
    moved,
    k_row: tl.int64,
    k_time: tl.int64,
    k_factor: tl.int64,
    k_head: tl.int64,
    v_row: tl.int64,
    v_time: tl.int64,
    v_factor: tl.int64,
    v_head: tl.int64,
    reset_row: tl.int64,
    time: tl.int64,
    heads: tl.int64,
    chunks: tl.int64,
    first: tl.int64,
    part: tl.int64,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    M: tl.constexpr,
    STEPS: tl.constexpr,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """X = T V of every chunk, stored in the memory of e, and Y."""
    s, n, own, chunk = place(first, part, chunks)
    at = chunk * STEPS
    row, start, count = sequence(lengths, starts, s, time)
    if at < count:
        t, m, valid = factors(start, at, count, M, STEPS, C)
        f = tl.arange(0, C)
        line = (line_of(starts, s, start, time, STEPS) + chunk) * part + own
        factor = ((row * time + t) * M + m) * heads + n
        at_k = k + row * k_row + n * k_head + t * k_time + m * k_factor
        b = tl.load(beta + factor, valid, 0).to(tl.float32)
        g = decays_of(decay, reset, row, reset_row, n, heads, time, t, m, valid)
        T, d = inverse_of(at_k, valid, b, products_of(g, decay, reset, C), K, BK, C, PRECISION), tl.cumprod(g, 0)
        for first_row in range(0, K, BK):
            keys, i = load_lines(at_k, valid, first_row, K, BK), first_row + tl.arange(0, BK)
            to = moved + (line * C + f)[:, None] * K + i[None, :]
            tl.store(to, dot(T, d[:, None] * keys.to(tl.float32), PRECISION), (i < K)[None, :])
        at_v, at_e = v + row * v_row + n * v_head + t * v_time + m * v_factor, e + factor * V
        for column in range(0, V, BV):
            values, c = load_lines(at_v, valid, column, V, BV), column + tl.arange(0, BV)
            in_values = valid[:, None] & (c < V)[None, :]
            tl.store(at_e[:, None] + c[None, :], dot(T, values, PRECISION), in_values)


@triton.jit(do_not_specialize=_SIZES)
def delta_chunk_states_fwd_kernel(
    k,
    beta,
    decay,
    reset,
    lengths,
    starts,
    moved,
    e,
    last,
    states,
    saved,
    k_row: tl.int64,
    k_time: tl.int64,
    k_factor: tl.int64,
    k_head: tl.int64,
    reset_row: tl.int64,
    time: tl.int64,
    heads: tl.int64,
    periods: tl.int64,
    first: tl.int64,
    part: tl.int64,
    state_heads: tl.int64,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    M: tl.constexpr,
    STEPS: tl.constexpr,
    PERIOD: tl.constexpr,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """E of all factors, the states before all chunks, and the last states; `last` contains the first ones on entry.

    A state is saved every PERIOD steps. Without Y (`moved`), e is E already, and each period of a sequence begins with
    a saved state.
    """
    COLUMNS: tl.constexpr = (V + BV - 1) // BV
    s, n, own, inner = place(first, part, COLUMNS * periods)
    row, start, count = sequence(lengths, starts, s, time)
    c, f, begin = inner % COLUMNS * BV + tl.arange(0, BV), tl.arange(0, C), inner // COLUMNS * PERIOD
    at_saved = None if saved is None else saved + (line_of(starts, s, start, time, PERIOD) * heads + n) * K * V
    if moved is None:
        count = tl.minimum(count, begin + PERIOD)
        begun = tl.where(begin < count, begin // PERIOD, 0)
        S = load_parts(at_saved + begun * heads * K * V, c, K, V, BK)
    else:
        S = load_parts(last + (s * heads + n) * K * V, c, K, V, BK)
    for at in range(begin, count, STEPS):
        line = line_of(starts, s, start, time, STEPS) + at // STEPS
        store_parts(states + (line * state_heads + own) * K * V, S, c, K, V, BK)
        if (moved is not None) and (saved is not None):
            if at % PERIOD == 0:
                store_parts(at_saved + at // PERIOD * heads * K * V, S, c, K, V, BK)
        t, m, valid = factors(start, at, count, M, STEPS, C)
        factor = ((row * time + t) * M + m) * heads + n
        at_e, in_values = e + factor[:, None] * V + c[None, :], valid[:, None] & (c < V)[None, :]
        lacks = tl.load(at_e, in_values, 0).to(tl.float32)
        if moved is not None:
            lacks -= dot_parts(moved + ((line * part + own) * C + f) * K, f >= 0, S, K, BK, PRECISION)
            tl.store(at_e, lacks, in_values)
        b = tl.load(beta + factor, valid, 0).to(tl.float32)
        b *= after(decay, reset, row, reset_row, n, heads, time, start, at, count, M, STEPS, C)
        g = decays_of(decay, reset, row, reset_row, n, heads, time, t, m, valid)
        by = last_of(tl.cumprod(g, 0), C)
        at_k = k + row * k_row + n * k_head + t * k_time + m * k_factor
        S = add_parts(by, S, at_k, valid, b[:, None] * lacks, K, BK, PRECISION)
    if moved is not None:
        store_parts(last + (s * heads + n) * K * V, S, c, K, V, BK)


@triton.jit(do_not_specialize=_SIZES)
def delta_chunk_outputs_fwd_kernel(
    q,
    k,
    beta,
    decay,
    reset,
    lengths,
    starts,
    e,
    states,
    o,
    q_row: tl.int64,
    q_time: tl.int64,
    q_head: tl.int64,
    k_row: tl.int64,
    k_time: tl.int64,
    k_factor: tl.int64,
    k_head: tl.int64,
    reset_row: tl.int64,
    time: tl.int64,
    heads: tl.int64,
    chunks: tl.int64,
    first: tl.int64,
    part: tl.int64,
    state_heads: tl.int64,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    M: tl.constexpr,
    STEPS: tl.constexpr,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """o of every chunk from the state before it."""
    COLUMNS: tl.constexpr = (V + BV - 1) // BV
    s, n, own, inner = place(first, part, chunks * COLUMNS)
    chunk, c = inner // COLUMNS, inner % COLUMNS * BV + tl.arange(0, BV)
    at = chunk * STEPS
    row, start, count = sequence(lengths, starts, s, time)
    if at < count:
        t, m, valid = factors(start, at, count, M, STEPS, C)
        line, reads = line_of(starts, s, start, time, STEPS) + chunk, valid & (m == M - 1)
        at_k = k + row * k_row + n * k_head + t * k_time + m * k_factor
        at_q = q + row * q_row + n * q_head + t * q_time
        qk, S_q = tl.zeros((C, C), tl.float32), tl.zeros((C, BV), tl.float32)
        for i in range(0, K, BK):
            keys, queries = load_lines(at_k, valid, i, K, BK), load_lines(at_q, reads, i, K, BK)
            S, there = state_at(states + (line * state_heads + own) * K * V, i, c, V, K, BK)
            qk += dot(queries, tl.trans(keys), PRECISION)
            S_q += dot(queries, tl.load(S, there, 0), PRECISION)
        factor, in_values = ((row * time + t) * M + m) * heads + n, valid[:, None] & (c < V)[None, :]
        b = tl.load(beta + factor, valid, 0).to(tl.float32)
        w = b[:, None] * tl.load(e + factor[:, None] * V + c[None, :], in_values, 0).to(tl.float32)
        g = decays_of(decay, reset, row, reset_row, n, heads, time, t, m, valid)
        outputs = tl.cumprod(g, 0)[:, None] * S_q + dot(products_of(g, decay, reset, C) * qk, w, PRECISION)
        tl.debug_barrier()  # o may be the memory of e
        to = o + ((row * time + t) * heads + n)[:, None] * V + c[None, :]
        tl.store(to, outputs, reads[:, None] & (c < V)[None, :])
