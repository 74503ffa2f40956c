"""The gradient of triton_chunks.py."""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.triton_sequences import line_of, sequence
from ..common.triton_states import between_before, last_of, load_lines, load_state
from ..common.triton_tiles import dot, dot_parts, load_parts, store_parts
from .triton_chunks import (
    add_parts,
    after,
    decays_of,
    factors,
    inverse_of,
    place,
    products_of,
)

_SIZES = ["reset_row", "time", "chunks", "first", "part", "state_heads"]


@triton.jit(do_not_specialize=_SIZES)
def delta_chunk_products_bwd_kernel(
    q,
    k,
    beta,
    decay,
    d_o,
    reset,
    lengths,
    starts,
    dv,
    moved,
    q_row: tl.int64,
    q_time: tl.int64,
    q_head: tl.int64,
    k_row: tl.int64,
    k_time: tl.int64,
    k_factor: tl.int64,
    k_head: tl.int64,
    d_o_row: tl.int64,
    d_o_time: tl.int64,
    d_o_head: tl.int64,
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
    """R of every chunk, stored in the memory of dv, and Z."""
    s, n, own, chunk = place(first, part, chunks)
    at = chunk * STEPS
    row, start, count = sequence(lengths, starts, s, time)
    if at < count:
        t, m, valid = factors(start, at, count, M, STEPS, C)
        f, reads, factor = tl.arange(0, C), valid & (m == M - 1), ((row * time + t) * M + m) * heads + n
        line = (line_of(starts, s, start, time, STEPS) + chunk) * part + own
        b = tl.load(beta + factor, valid, 0).to(tl.float32)
        at_k = k + row * k_row + n * k_head + t * k_time + m * k_factor
        at_q = q + row * q_row + n * q_head + t * q_time
        D = products_of(decays_of(decay, reset, row, reset_row, n, heads, time, t, m, valid), decay, reset, C)
        T = inverse_of(at_k, valid, b, D, K, BK, C, PRECISION)
        to_end = after(decay, reset, row, reset_row, n, heads, time, start, at, count, M, STEPS, C)
        qk = tl.zeros((C, C), tl.float32)
        for first_row in range(0, K, BK):
            keys, queries = load_lines(at_k, valid, first_row, K, BK), load_lines(at_q, reads, first_row, K, BK)
            i = first_row + tl.arange(0, BK)
            to = moved + (line * C + f)[:, None] * K + i[None, :]
            tl.store(to, dot(tl.trans(T), (b * to_end)[:, None] * keys.to(tl.float32), PRECISION), (i < K)[None, :])
            qk += dot(queries, tl.trans(keys), PRECISION)
        P = tl.trans(dot(D * qk * b[None, :], T, PRECISION))
        for column in range(0, V, BV):
            c = column + tl.arange(0, BV)
            written = tl.zeros((C, BV), tl.float32)
            if d_o is not None:
                at_do = d_o + row * d_o_row + n * d_o_head + t * d_o_time
                written = dot(P, load_lines(at_do, reads, column, V, BV), PRECISION)
            tl.store(dv + factor[:, None] * V + c[None, :], written, valid[:, None] & (c < V)[None, :])


@triton.jit(do_not_specialize=_SIZES)
def delta_chunk_states_bwd_kernel(
    q,
    k,
    decay,
    d_o,
    reset,
    lengths,
    starts,
    moved,
    dv,
    dlast,
    dstates,
    q_row: tl.int64,
    q_time: tl.int64,
    q_head: tl.int64,
    k_row: tl.int64,
    k_time: tl.int64,
    k_factor: tl.int64,
    k_head: tl.int64,
    d_o_row: tl.int64,
    d_o_time: tl.int64,
    d_o_head: tl.int64,
    reset_row: tl.int64,
    time: tl.int64,
    heads: tl.int64,
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
    """dv of all factors, dS after all chunks, and the gradient of the first states (on entry, of the last ones)."""
    COLUMNS: tl.constexpr = (V + BV - 1) // BV
    s, n, own, block = place(first, part, COLUMNS)
    row, start, count = sequence(lengths, starts, s, time)
    c, f = block * BV + tl.arange(0, BV), tl.arange(0, C)
    ends = dlast + (s * heads + n) * K * V
    dS = load_parts(ends, c, K, V, BK)
    chunks = (count + STEPS - 1) // STEPS
    for back in range(chunks):
        chunk = chunks - 1 - back
        line, at = (line_of(starts, s, start, time, STEPS) + chunk) * part + own, chunk * STEPS
        store_parts(dstates + line * K * V, dS, c, K, V, BK)
        t, m, valid = factors(start, at, count, M, STEPS, C)
        reads, factor = valid & (m == M - 1), ((row * time + t) * M + m) * heads + n
        at_dv, in_values = dv + factor[:, None] * V + c[None, :], valid[:, None] & (c < V)[None, :]
        u = tl.load(at_dv, in_values, 0).to(tl.float32)
        u += dot_parts(moved + (line * C + f) * K, f >= 0, dS, K, BK, PRECISION)
        tl.store(at_dv, u, in_values)
        d = tl.cumprod(decays_of(decay, reset, row, reset_row, n, heads, time, t, m, valid), 0)
        by = last_of(d, C)
        at_k = k + row * k_row + n * k_head + t * k_time + m * k_factor
        dS = add_parts(by, dS, at_k, valid, -d[:, None] * u, K, BK, PRECISION)
        if d_o is not None:
            at_q = q + row * q_row + n * q_head + t * q_time
            at_do = (d_o + row * d_o_row + n * d_o_head + t * d_o_time)[:, None] + c[None, :]
            do = tl.load(at_do, reads[:, None] & (c < V)[None, :], 0).to(tl.float32)
            dS = add_parts(1.0, dS, at_q, reads, d[:, None] * do, K, BK, PRECISION)
    store_parts(ends, dS, c, K, V, BK)


@triton.jit
def decays_before(
    decay, reset, row, reset_row, n, heads, time, start, at, count, M: tl.constexpr, STEPS: tl.constexpr,
    C: tl.constexpr,
):  # fmt: skip
    """g of the factor before each factor of a chunk, and 1 before the first"""
    f = tl.arange(0, C) - 1
    follows = (f >= 0) & (f < STEPS * M) & (at + f // M < count)
    return decays_of(decay, reset, row, reset_row, n, heads, time, start + at + f // M, f % M, follows)


@triton.jit(do_not_specialize=_SIZES)
def delta_chunk_pairs_bwd_kernel(
    q,
    k,
    beta,
    decay,
    e,
    d_o,
    dv,
    reset,
    lengths,
    starts,
    pairs,
    sums,
    q_row: tl.int64,
    q_time: tl.int64,
    q_head: tl.int64,
    k_row: tl.int64,
    k_time: tl.int64,
    k_factor: tl.int64,
    k_head: tl.int64,
    d_o_row: tl.int64,
    d_o_time: tl.int64,
    d_o_head: tl.int64,
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
    """The parts of dq, dk, dbeta and ddecay that come from what the factors of a chunk read of each other.

    `pairs` (line, head, 2, C, C) receives do e^T and -dv e^T, below the diagonal, times D diag(b), of which products
    with queries and keys are parts of dq and dk; `sums` (line, head, 2, C) receives parts of dbeta and ddecay.
    """
    s, n, own, chunk = place(first, part, chunks)
    at = chunk * STEPS
    row, start, count = sequence(lengths, starts, s, time)
    if at < count:
        t, m, valid = factors(start, at, count, M, STEPS, C)
        f, reads, factor = tl.arange(0, C), valid & (m == M - 1), ((row * time + t) * M + m) * heads + n
        line = (line_of(starts, s, start, time, STEPS) + chunk) * part + own
        at_k = k + row * k_row + n * k_head + t * k_time + m * k_factor
        at_q, at_e, at_dv = q + row * q_row + n * q_head + t * q_time, e + factor * V, dv + factor * V
        b = tl.load(beta + factor, valid, 0).to(tl.float32)
        read, less = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
        for column in range(0, V, BV):
            lacks = tl.trans(load_lines(at_e, valid, column, V, BV))
            less -= dot(load_lines(at_dv, valid, column, V, BV), lacks, PRECISION)
            if d_o is not None:
                at_do = d_o + row * d_o_row + n * d_o_head + t * d_o_time
                read += dot(load_lines(at_do, reads, column, V, BV), lacks, PRECISION)
        D = products_of(decays_of(decay, reset, row, reset_row, n, heads, time, t, m, valid), decay, reset, C)
        less = tl.where(f[:, None] > f[None, :], less, 0)
        to = pairs + line * 2 * C * C + f[:, None] * C + f[None, :]
        tl.store(to, D * read * b[None, :])
        tl.store(to + C * C, D * less * b[None, :])
        qk, kk = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
        for i in range(0, K, BK):
            keys, queries = load_lines(at_k, valid, i, K, BK), load_lines(at_q, reads, i, K, BK)
            qk += dot(queries, tl.trans(keys), PRECISION)
            kk += dot(keys, tl.trans(keys), PRECISION)
        terms, of = qk * read + kk * less, sums + line * 2 * C + f
        tl.store(of, tl.sum(D * terms, 0))
        if decay is not None:
            # dg_j is the sum over c >= j and i < j of D(c, j) (what c reads of i) D(j-1, i).
            g = decays_before(decay, reset, row, reset_row, n, heads, time, start, at, count, M, STEPS, C)
            reaching = dot(tl.trans(D), terms * b[None, :], PRECISION)
            tl.store(of + C, tl.sum(reaching * between_before(g[:, None], C), 1))


@triton.jit
def states_times(
    at_S, at_dS, at_e, at_do, at_dv, valid, reads, first, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, C: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """do S^T, -dv S^T, e dS^T (C, BK) and <S, dS>, of rows first .. first + BK of the states"""
    S_do, S_du, dS_e = tl.zeros((C, BK), tl.float32), tl.zeros((C, BK), tl.float32), tl.zeros((C, BK), tl.float32)
    overlap = tl.zeros((BK,), tl.float32)
    for column in range(0, V, BV):
        c = column + tl.arange(0, BV)
        S, dS = load_state(at_S, first, c, V, K, BK), load_state(at_dS, first, c, V, K, BK)
        S_du -= dot(load_lines(at_dv, valid, column, V, BV), tl.trans(S), PRECISION)
        if at_do is not None:
            S_do += dot(load_lines(at_do, reads, column, V, BV), tl.trans(S), PRECISION)
        dS_e += dot(load_lines(at_e, valid, column, V, BV), tl.trans(dS), PRECISION)
        overlap += tl.sum(S.to(tl.float32) * dS.to(tl.float32), 1)
    return S_do, S_du, dS_e, tl.sum(overlap, 0)


@triton.jit(do_not_specialize=_SIZES)
def delta_chunk_keys_bwd_kernel(
    q,
    k,
    beta,
    decay,
    e,
    d_o,
    dv,
    states,
    dstates,
    reset,
    lengths,
    starts,
    pairs,
    sums,
    dq,
    dk,
    dbeta,
    ddecay,
    q_row: tl.int64,
    q_time: tl.int64,
    q_head: tl.int64,
    k_row: tl.int64,
    k_time: tl.int64,
    k_factor: tl.int64,
    k_head: tl.int64,
    d_o_row: tl.int64,
    d_o_time: tl.int64,
    d_o_head: tl.int64,
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
    """dq, dk, dbeta and ddecay of every chunk, from S before it, dS after it, E, dv, `pairs` and `sums`."""
    s, n, own, chunk = place(first, part, chunks)
    at = chunk * STEPS
    row, start, count = sequence(lengths, starts, s, time)
    if at < count:
        t, m, valid = factors(start, at, count, M, STEPS, C)
        f, reads, factor = tl.arange(0, C), valid & (m == M - 1), ((row * time + t) * M + m) * heads + n
        at_line = line_of(starts, s, start, time, STEPS) + chunk
        line = at_line * part + own
        at_k = k + row * k_row + n * k_head + t * k_time + m * k_factor
        at_q = q + row * q_row + n * q_head + t * q_time
        at_do = None if d_o is None else d_o + row * d_o_row + n * d_o_head + t * d_o_time
        at_e, at_dv = e + factor * V, dv + factor * V
        at_S, at_dS = states + (at_line * state_heads + own) * K * V, dstates + line * K * V
        square, of = pairs + line * 2 * C * C + f[:, None] * C + f[None, :], sums + line * 2 * C + f
        b = tl.load(beta + factor, valid, 0).to(tl.float32)
        g = decays_of(decay, reset, row, reset_row, n, heads, time, t, m, valid)
        d, to_end = tl.cumprod(g, 0), after(decay, reset, row, reset_row, n, heads, time, start, at, count, M, STEPS, C)
        # of_start: q . S do - k . S dv of each factor; of_end: k . dS e
        of_start, of_end, overlap = tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32), tl.zeros((1,), tl.float32)
        for first_row in range(0, K, BK):
            S_do, S_du, dS_e, rows = states_times(
                at_S, at_dS, at_e, at_do, at_dv, valid, reads, first_row, K, V, BK, BV, C, PRECISION
            )
            keys, queries = load_lines(at_k, valid, first_row, K, BK), load_lines(at_q, reads, first_row, K, BK)
            of_start += tl.sum(queries.to(tl.float32) * S_do + keys.to(tl.float32) * S_du, 1)
            of_end += tl.sum(keys.to(tl.float32) * dS_e, 1)
            overlap += rows
            i = first_row + tl.arange(0, BK)
            dqueries, dkeys = d[:, None] * S_do, (b * to_end)[:, None] * dS_e + d[:, None] * S_du
            tl.debug_barrier()  # to save registers, the pairs are loaded when the operands before are no longer needed
            reading = tl.load(square)
            dqueries += dot(reading, keys, PRECISION)
            to = dq + ((row * time + t) * heads + n)[:, None] * K + i[None, :]
            tl.store(to, dqueries, reads[:, None] & (i < K)[None, :])
            tl.debug_barrier()
            dkeys += dot(tl.trans(reading), queries, PRECISION)
            tl.debug_barrier()
            writing = tl.load(square + C * C).to(tl.float32)
            dkeys += dot(writing + tl.trans(writing), keys, PRECISION)
            tl.store(dk + factor[:, None] * K + i[None, :], dkeys, valid[:, None] & (i < K)[None, :])
        tl.store(dbeta + factor, tl.load(of) + to_end * of_end, valid)
        if ddecay is not None:
            # The rest of the sum in the kernel before: the start is an i, the end a c.
            g = decays_before(decay, reset, row, reset_row, n, heads, time, start, at, count, M, STEPS, C)
            D = products_of(decays_of(decay, reset, row, reset_row, n, heads, time, t, m, valid), decay, reset, C)
            dg = tl.load(of + C) + tl.cumprod(g, 0) * (tl.sum(D * of_start[:, None], 0) + to_end * overlap)
            dg += to_end * tl.sum(between_before(g[:, None], C) * (b * of_end)[None, :], 1)
            begins = valid & (m == 0)
            if reset is not None:
                dg = tl.where(tl.load(reset + row * reset_row + t, begins, 0) != 0, 0, dg)
            tl.store(ddecay + (row * time + t) * heads + n, dg, begins)
