"""The gradient of triton_chunks.py."""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.triton_sequences import line_of, sequence
from ..common.triton_states import last_of, load_lines, load_state
from .triton_chunks import (
    add_parts,
    after,
    decays_of,
    dot,
    dot_parts,
    factors,
    load_parts,
    place,
    products_at,
    store_parts,
)

_SIZES = ["reset_row", "time", "chunks", "first", "part"]


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
    inverse,
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
        at_T = inverse + line * 3 * C * C + f[None, :] * C + f[:, None]
        to_end = after(decay, reset, row, reset_row, n, heads, time, start, at, count, M, STEPS, C)
        at_k = k + row * k_row + n * k_head + t * k_time + m * k_factor
        at_q = q + row * q_row + n * q_head + t * q_time
        kq = tl.zeros((C, C), tl.float32)
        for first_row in range(0, K, BK):
            keys, queries = load_lines(at_k, valid, first_row, K, BK), load_lines(at_q, reads, first_row, K, BK)
            i = first_row + tl.arange(0, BK)
            to = moved + (line * C + f)[:, None] * K + i[None, :]
            moves = dot(tl.load(at_T) * b[None, :], to_end[:, None] * keys.to(tl.float32), PRECISION)
            tl.store(to, moves, (i < K)[None, :])
            tl.debug_barrier()  # to save registers, T is loaded again
            kq += dot(keys, tl.trans(queries), PRECISION)
        D = products_at(inverse + (line * 3 + 1) * C * C, decay, reset, C)
        P = dot(tl.load(at_T) * b[None, :], tl.trans(D) * kq, PRECISION)
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


@triton.jit(do_not_specialize=_SIZES)
def delta_chunk_pairs_bwd_kernel(
    e,
    d_o,
    dv,
    reset,
    lengths,
    starts,
    inverse,
    d_o_row: tl.int64,
    d_o_time: tl.int64,
    d_o_head: tl.int64,
    time: tl.int64,
    heads: tl.int64,
    chunks: tl.int64,
    first: tl.int64,
    part: tl.int64,
    V: tl.constexpr,
    BV: tl.constexpr,
    M: tl.constexpr,
    STEPS: tl.constexpr,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """do e^T of every chunk, stored in the memory of T, and -dv e^T."""
    s, n, own, chunk = place(first, part, chunks)
    at = chunk * STEPS
    row, start, count = sequence(lengths, starts, s, time)
    if at < count:
        t, m, valid = factors(start, at, count, M, STEPS, C)
        f, reads, factor = tl.arange(0, C), valid & (m == M - 1), ((row * time + t) * M + m) * heads + n
        line = (line_of(starts, s, start, time, STEPS) + chunk) * part + own
        at_e, at_dv = e + factor * V, dv + factor * V
        read, less = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
        for column in range(0, V, BV):
            lacks = tl.trans(load_lines(at_e, valid, column, V, BV))
            less -= dot(load_lines(at_dv, valid, column, V, BV), lacks, PRECISION)
            if d_o is not None:
                at_do = d_o + row * d_o_row + n * d_o_head + t * d_o_time
                read += dot(load_lines(at_do, reads, column, V, BV), lacks, PRECISION)
        to = inverse + line * 3 * C * C + f[:, None] * C + f[None, :]
        tl.store(to, read)
        tl.store(to + 2 * C * C, less)


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
    inverse,
    dq,
    dk,
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
    BLOCKS: tl.constexpr,
    BV: tl.constexpr,
    M: tl.constexpr,
    STEPS: tl.constexpr,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dq and dk of every chunk and BK keys from S before it, dS after it, E and dv.

    sums (line, head, block of keys, 3, C), for dbeta and ddecay: q . S do - k . S dv of each factor, k . dS e, <S, dS>.
    """
    s, n, own, inner = place(first, part, chunks * BLOCKS)
    chunk, block = inner // BLOCKS, inner % BLOCKS
    at, first_row = chunk * STEPS, block * BK
    row, start, count = sequence(lengths, starts, s, time)
    if at < count:
        t, m, valid = factors(start, at, count, M, STEPS, C)
        f, reads, factor = tl.arange(0, C), valid & (m == M - 1), ((row * time + t) * M + m) * heads + n
        line = (line_of(starts, s, start, time, STEPS) + chunk) * part + own
        at_k = k + row * k_row + n * k_head + t * k_time + m * k_factor
        at_q = q + row * q_row + n * q_head + t * q_time
        at_do = None if d_o is None else d_o + row * d_o_row + n * d_o_head + t * d_o_time
        at_e, at_dv = e + factor * V, dv + factor * V
        b = tl.load(beta + factor, valid, 0).to(tl.float32)
        g = decays_of(decay, reset, row, reset_row, n, heads, time, t, m, valid)
        at_pairs, d = inverse + line * 3 * C * C, tl.cumprod(g, 0)
        square, later = f[:, None] * C + f[None, :], f[:, None] > f[None, :]
        to_end = after(decay, reset, row, reset_row, n, heads, time, start, at, count, M, STEPS, C)
        overlap, i = tl.zeros((BK,), tl.float32), first_row + tl.arange(0, BK)
        S_do, S_du, dS_e = tl.zeros((C, BK), tl.float32), tl.zeros((C, BK), tl.float32), tl.zeros((C, BK), tl.float32)
        for column in range(0, V, BV):
            c = column + tl.arange(0, BV)
            S = load_state(states + line * K * V, first_row, c, V, K, BK)
            S_du -= dot(load_lines(at_dv, valid, column, V, BV), tl.trans(S), PRECISION)
            if d_o is not None:
                S_do += dot(load_lines(at_do, reads, column, V, BV), tl.trans(S), PRECISION)
            dS = load_state(dstates + line * K * V, first_row, c, V, K, BK)
            dS_e += dot(load_lines(at_e, valid, column, V, BV), tl.trans(dS), PRECISION)
            overlap += tl.sum(S.to(tl.float32) * dS.to(tl.float32), 1)
        keys, queries = load_lines(at_k, valid, first_row, K, BK), load_lines(at_q, reads, first_row, K, BK)
        of = sums + (line * BLOCKS + block) * 3 * C + f
        tl.store(of, tl.sum(queries.to(tl.float32) * S_do + keys.to(tl.float32) * S_du, 1))
        tl.store(of + C, tl.sum(keys.to(tl.float32) * dS_e, 1))
        tl.store(of + 2 * C, tl.sum(overlap, 0) + tl.zeros((C,), tl.float32))
        dqueries, dkeys = d[:, None] * S_do, (b * to_end)[:, None] * dS_e + d[:, None] * S_du
        tl.debug_barrier()  # to save registers, the pairs are loaded when the operands before are no longer needed
        reading = tl.load(at_pairs + square) * products_at(at_pairs + C * C, decay, reset, C) * b[None, :]
        dqueries += dot(reading, keys, PRECISION)
        to = dq + ((row * time + t) * heads + n)[:, None] * K + i[None, :]
        tl.store(to, dqueries, reads[:, None] & (i < K)[None, :])
        tl.debug_barrier()
        dkeys += dot(tl.trans(reading), queries, PRECISION)
        tl.debug_barrier()
        D = products_at(at_pairs + C * C, decay, reset, C) * b[None, :]
        writing = tl.where(later, D * tl.load(at_pairs + 2 * C * C + square), 0)
        dkeys += dot(writing + tl.trans(writing), keys, PRECISION)
        tl.store(dk + factor[:, None] * K + i[None, :], dkeys, valid[:, None] & (i < K)[None, :])


@triton.jit(do_not_specialize=_SIZES)
def delta_chunk_strengths_bwd_kernel(
    q,
    k,
    beta,
    decay,
    reset,
    lengths,
    starts,
    inverse,
    sums,
    dbeta,
    ddecay,
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
    K: tl.constexpr,
    BK: tl.constexpr,
    BLOCKS: tl.constexpr,
    M: tl.constexpr,
    STEPS: tl.constexpr,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dbeta and ddecay of every chunk."""
    s, n, own, chunk = place(first, part, chunks)
    at = chunk * STEPS
    row, start, count = sequence(lengths, starts, s, time)
    if at < count:
        t, m, valid = factors(start, at, count, M, STEPS, C)
        f, reads, factor = tl.arange(0, C), valid & (m == M - 1), ((row * time + t) * M + m) * heads + n
        line = (line_of(starts, s, start, time, STEPS) + chunk) * part + own
        at_k = k + row * k_row + n * k_head + t * k_time + m * k_factor
        at_q = q + row * q_row + n * q_head + t * q_time
        qk, kk = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
        for i in range(0, K, BK):
            keys, queries = load_lines(at_k, valid, i, K, BK), load_lines(at_q, reads, i, K, BK)
            qk += dot(queries, tl.trans(keys), PRECISION)
            kk += dot(keys, tl.trans(keys), PRECISION)
        later = f[:, None] > f[None, :]
        at_pairs = inverse + line * 3 * C * C + f[:, None] * C + f[None, :]
        terms = qk * tl.load(at_pairs) + tl.where(later, kk * tl.load(at_pairs + 2 * C * C), 0)
        at_D = inverse + (line * 3 + 1) * C * C
        D = products_at(at_D, decay, reset, C)
        to_end = after(decay, reset, row, reset_row, n, heads, time, start, at, count, M, STEPS, C)
        of_start, of_end, overlap = tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32)
        for block in range(BLOCKS):
            of = sums + (line * BLOCKS + block) * 3 * C + f
            of_start += tl.load(of)
            of_end += tl.load(of + C)
            overlap += tl.load(of + 2 * C)
        tl.store(dbeta + factor, to_end * of_end + tl.sum(D * terms, 0), valid)
        if ddecay is not None:
            # dg_j is the sum over c >= j and i < j of D(c, j) (what c reads of i) D(j-1, i); start is an i, end a c.
            b, f1 = tl.load(beta + factor, valid, 0).to(tl.float32), f - 1
            follows, t1 = (f > 0) & (f1 < STEPS * M) & (at + f1 // M < count), start + at + f1 // M
            earlier = decays_of(decay, reset, row, reset_row, n, heads, time, t1, f1 % M, follows)
            until = tl.load(at_D + f1[:, None] * C + f[None, :], later, 0)
            dg = tl.sum(dot(tl.trans(D), terms * b[None, :], PRECISION) * until, 1)
            dg += tl.cumprod(earlier, 0) * (tl.sum(D * of_start[:, None], 0) + to_end * overlap)
            dg += to_end * tl.sum(until * (b * of_end)[None, :], 1)
            begins = valid & (m == 0)
            if reset is not None:
                dg = tl.where(tl.load(reset + row * reset_row + t, begins, 0) != 0, 0, dg)
            tl.store(ddecay + (row * time + t) * heads + n, dg, begins)
