"""The delta rule in chunks, in the WY form and the notation of docs/delta/theory.md.

A program computes one head of one sequence and BV columns of its state, one chunk of at most C factors after the other.
A reset is a decay of 0. `at` is the first step of a chunk, STEPS its number of steps, M the number of factors per step;
factor f of a chunk is factor f % M of its step f // M. q, k, v have any strides (row, time, factor, head).

The state is in memory, cached, and is read BK rows at a time: registers hold only the chunk, and the code is the same
for every K. Barriers separate writes and reads of different threads.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.triton_sequences import line_of, sequence
from ..common.triton_states import between, between_before, last_of, load_lines, load_state, store_state

#: Numbers of steps and sequences, for which code is not specialised. Strides are not listed, as loads are wide if they
#: #: are multiples of 16.
_SIZES = ["reset_row", "time"]


@triton.jit
def _dot(a, b):
    """a b; to save registers, operands are loaded only when the previous product's are no longer needed"""
    tl.debug_barrier()
    if a.shape[1] < 16:  # tl.dot needs at least 16 terms; float64 has 8, so the products are summed
        return tl.sum(a[:, :, None] * b[None, :, :], 1)
    else:
        return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _add_to_state(p, by, at_k, valid, w, c, V: tl.constexpr, K: tl.constexpr, BK: tl.constexpr):
    """S = by S + k^T w, with keys at at_k"""
    tl.debug_barrier()
    for first in range(0, K, BK):
        keys = load_lines(at_k, valid, first, K, BK)
        new = by * load_state(p, first, c, V, K, BK) + _dot(tl.trans(keys), w)
        store_state(p, new, first, c, V, K, BK)
    tl.debug_barrier()


@triton.jit
def _copy_state(source, to, c, V: tl.constexpr, K: tl.constexpr, BK: tl.constexpr):
    tl.debug_barrier()
    for first in range(0, K, BK):
        store_state(to, load_state(source, first, c, V, K, BK), first, c, V, K, BK)
    tl.debug_barrier()


@triton.jit
def decays(decay, reset, row, reset_row, t, n, heads, time, begins):
    """g of factors at steps t: 1 for a factor that does not begin a step, 0 at a reset"""
    g = tl.where(begins, 1.0, 1.0)
    if decay is not None:
        g = tl.load(decay + (row * time + t) * heads + n, begins, 1)
    if reset is not None:
        g = tl.where(tl.load(reset + row * reset_row + t, begins, 0) != 0, 0, g)
    return g


@triton.jit(do_not_specialize=[*_SIZES, "chunks"])
def delta_inverse_fwd_kernel(
    k,
    beta,
    decay,
    reset,
    lengths,
    starts,
    inverse,
    k_row: tl.int64,
    k_time: tl.int64,
    k_factor: tl.int64,
    k_head: tl.int64,
    reset_row: tl.int64,
    time: tl.int64,
    heads: tl.int64,
    chunks: tl.int64,
    K: tl.constexpr,
    BK: tl.constexpr,
    M: tl.constexpr,
    STEPS: tl.constexpr,
    C: tl.constexpr,
    STATE: tl.constexpr,
):
    """(I + A diag(b))^-1 of every chunk (line, head, C, C), row by row by forward substitution."""
    program = tl.program_id(0).to(tl.int64)
    s, n, at = program // chunks // heads, program // chunks % heads, program % chunks * STEPS
    row, start, count = sequence(lengths, starts, s, time)
    if at < count:
        f = tl.arange(0, C)
        t, m, valid = start + at + f // M, f % M, (f < STEPS * M) & (at + f // M < count)
        at_k = k + row * k_row + n * k_head + t * k_time + m * k_factor
        kk = tl.zeros((C, C), STATE)
        for first in range(0, K, BK):
            keys = load_lines(at_k, valid, first, K, BK)
            kk += _dot(keys, tl.trans(keys))
        b = tl.load(beta + ((row * time + t) * M + m) * heads + n, valid, 0)
        g = decays(decay, reset, row, reset_row, t, n, heads, time, valid & (m == 0)).to(STATE)
        D = between(g[:, None], C)
        later = f[:, None] > f[None, :]
        system = tl.where(later, D * kk * b[None, :], 0)
        solved = tl.where(f[:, None] == f[None, :], 1.0, 0.0).to(STATE)
        for j in range(1, C):
            line = tl.sum(tl.where(f[:, None] == j, system, 0), 0)
            below = tl.sum(line[:, None] * solved, 0)
            solved = tl.where(f[:, None] == j, solved - below[None, :], solved)
        to = (line_of(starts, s, start, time, STEPS) + at // STEPS) * heads + n
        tl.store(inverse + to * C * C + f[:, None] * C + f[None, :], solved)


@triton.jit(do_not_specialize=_SIZES)
def delta_fwd_kernel(
    q,
    k,
    v,
    beta,
    decay,
    reset,
    lengths,
    starts,
    inverse,
    o,
    last,
    e,
    states,
    q_row: tl.int64,
    q_time: tl.int64,
    q_head: tl.int64,
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
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    M: tl.constexpr,
    STEPS: tl.constexpr,
    PERIOD: tl.constexpr,
    C: tl.constexpr,
    STATE: tl.constexpr,
):
    """o, the last states (on entry the first ones), e of all factors, and the states every PERIOD steps."""
    COLUMNS: tl.constexpr = (V + BV - 1) // BV
    program = tl.program_id(0).to(tl.int64)
    s, n, c = program // COLUMNS // heads, program // COLUMNS % heads, program % COLUMNS * BV + tl.arange(0, BV)
    row, start, count = sequence(lengths, starts, s, time)
    f, S = tl.arange(0, C), last + (s * heads + n) * K * V
    for at in range(0, count, STEPS):
        if (states is not None) and at % PERIOD == 0:
            line = line_of(starts, s, start, time, PERIOD) + at // PERIOD
            _copy_state(S, states + (line * heads + n) * K * V, c, V, K, BK)
        t, m, valid = start + at + f // M, f % M, (f < STEPS * M) & (at + f // M < count)
        reads, in_values = valid & (m == M - 1), valid[:, None] & (c < V)[None, :]
        at_k, at_q = k + row * k_row + n * k_head + t * k_time + m * k_factor, q + row * q_row + n * q_head + t * q_time
        qk = tl.zeros((C, C), STATE)
        S_k, S_q = tl.zeros((C, BV), STATE), tl.zeros((C, BV), STATE)
        for first in range(0, K, BK):
            keys, queries = load_lines(at_k, valid, first, K, BK), load_lines(at_q, reads, first, K, BK)
            lines = load_state(S, first, c, V, K, BK)
            qk += _dot(queries, tl.trans(keys))
            S_k += _dot(keys, lines)
            S_q += _dot(queries, lines)
        at_v = (v + row * v_row + n * v_head + t * v_time + m * v_factor)[:, None] + c[None, :]
        factor, step = ((row * time + t) * M + m) * heads + n, (row * time + t) * heads + n
        b = tl.load(beta + factor, valid, 0)
        g = decays(decay, reset, row, reset_row, t, n, heads, time, valid & (m == 0)).to(STATE)
        D, d = between(g[:, None], C), tl.cumprod(g, 0)
        line = (line_of(starts, s, start, time, STEPS) + at // STEPS) * heads + n
        solved = tl.load(inverse + line * C * C + f[:, None] * C + f[None, :])
        lacks = _dot(solved, tl.load(at_v, in_values, 0) - d[:, None] * S_k)
        w = b[:, None] * lacks
        to = o + step[:, None] * V + c[None, :]
        tl.store(to, d[:, None] * S_q + _dot(D * qk, w), reads[:, None] & (c < V)[None, :])
        if e is not None:
            tl.store(e + factor[:, None] * V + c[None, :], lacks, in_values)
        to_end = last_of(D, C)
        _add_to_state(S, last_of(d, C), at_k, valid, to_end[:, None] * w, c, V, K, BK)


@triton.jit(do_not_specialize=[*_SIZES, "rows"])
def delta_bwd_kernel(
    q,
    k,
    beta,
    decay,
    e,
    states,
    d_o,
    reset,
    lengths,
    starts,
    inverse,
    dq,
    dk,
    dv,
    dbeta,
    ddecay,
    state,
    dstate,
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
    rows: tl.int64,
    time: tl.int64,
    heads: tl.int64,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    M: tl.constexpr,
    STEPS: tl.constexpr,
    PERIOD: tl.constexpr,
    C: tl.constexpr,
    STATE: tl.constexpr,
):
    """All gradients, from the last chunk to the first. A sum over V has a copy for each block of BV columns.

    dstate contains the gradient of the last states on entry, and that of the first states on return. The state before a
    chunk is recomputed (in `state`) from the one before its period, as the w of the chunks in between are known.
    """
    COLUMNS: tl.constexpr = (V + BV - 1) // BV
    TERMS: tl.constexpr = BK if STATE == tl.float64 else 16  # terms of sums over K: at least the minimum of tl.dot
    program = tl.program_id(0).to(tl.int64)
    s, n, block = program // COLUMNS // heads, program // COLUMNS % heads, program % COLUMNS
    row, start, count = sequence(lengths, starts, s, time)
    f, c = tl.arange(0, C), block * BV + tl.arange(0, BV)
    S, dS = state + (s * heads + n) * K * V, dstate + (s * heads + n) * K * V
    chunks = (count + STEPS - 1) // STEPS
    for back in range(chunks):
        at = (chunks - 1 - back) * STEPS
        line = line_of(starts, s, start, time, PERIOD) + at // PERIOD
        _copy_state(states + (line * heads + n) * K * V, S, c, V, K, BK)
        for before in range(at // PERIOD * PERIOD, at, STEPS):
            t, m, valid = start + before + f // M, f % M, f < STEPS * M
            at_k, factor = (
                k + row * k_row + n * k_head + t * k_time + m * k_factor,
                ((row * time + start + before) * M + f) * heads + n,
            )
            b = tl.load(beta + factor, valid, 0)
            w = b[:, None] * tl.load(e + factor[:, None] * V + c[None, :], valid[:, None] & (c < V)[None, :], 0)
            g = decays(decay, reset, row, reset_row, t, n, heads, time, valid & (m == 0)).to(STATE)
            to_end = last_of(between(g[:, None], C), C)
            by = last_of(tl.cumprod(g, 0), C)
            _add_to_state(S, by, at_k, valid, to_end[:, None] * w, c, V, K, BK)
        t, m, valid = start + at + f // M, f % M, (f < STEPS * M) & (at + f // M < count)
        reads, in_values = valid & (m == M - 1), valid[:, None] & (c < V)[None, :]
        at_k, at_q = k + row * k_row + n * k_head + t * k_time + m * k_factor, q + row * q_row + n * q_head + t * q_time
        factor, step = ((row * time + start + at) * M + f) * heads + n, (row * time + t) * heads + n
        kk, qk, dS_k = tl.zeros((C, C), STATE), tl.zeros((C, C), STATE), tl.zeros((C, BV), STATE)
        for first in range(0, K, TERMS):
            keys, queries = load_lines(at_k, valid, first, K, TERMS), load_lines(at_q, reads, first, K, TERMS)
            kk += _dot(keys, tl.trans(keys))
            qk += _dot(queries, tl.trans(keys))
            dS_k += _dot(keys, load_state(dS, first, c, V, K, TERMS))
        b, lacks = tl.load(beta + factor, valid, 0), tl.load(e + factor[:, None] * V + c[None, :], in_values, 0)
        do = tl.zeros((C, BV), STATE)
        if d_o is not None:
            at_do = (d_o + row * d_o_row + n * d_o_head + t * d_o_time)[:, None] + c[None, :]
            do = tl.load(at_do, reads[:, None] & (c < V)[None, :], 0)
        g = decays(decay, reset, row, reset_row, t, n, heads, time, valid & (m == 0)).to(STATE)
        D, d, w = between(g[:, None], C), tl.cumprod(g, 0), b[:, None] * lacks
        to_end, by = last_of(D, C), last_of(d, C)
        later = f[:, None] > f[None, :]
        line = (line_of(starts, s, start, time, STEPS) + at // STEPS) * heads + n
        solved = tl.load(inverse + line * C * C + f[:, None] * C + f[None, :])
        # dw + A^T (b dw) = ends: with the inverse of I + A diag(b), dw is ends - A^T (inverse^T (b ends)).
        ends = to_end[:, None] * dS_k + _dot(tl.trans(D * qk), do)
        dw = ends - _dot(tl.trans(tl.where(later, D * kk, 0)), _dot(tl.trans(solved), b[:, None] * ends))
        u = b[:, None] * dw
        tl.store(dv + factor[:, None] * V + c[None, :], u, in_values)
        tl.store(dbeta + block * rows * time * M * heads + factor, tl.sum(dw * lacks, 1), valid)
        read_w, less_w = _dot(do, tl.trans(w)), -_dot(u, tl.trans(w))
        reading, writing = D * read_w, tl.where(later, D * less_w, 0)
        both_ways = writing + tl.trans(writing)
        of_start, overlap = tl.zeros((C,), STATE), tl.zeros((C,), STATE)
        for first in range(0, K, BK):
            S_do, i = _dot(do, tl.trans(load_state(S, first, c, V, K, BK))), first + tl.arange(0, BK)
            d_queries = d[:, None] * S_do + _dot(reading, load_lines(at_k, valid, first, K, BK))
            to = dq + (block * rows * time * heads + step)[:, None] * K + i[None, :]
            tl.store(to, d_queries, reads[:, None] & (i < K)[None, :])
            if ddecay is not None:
                of_start += tl.sum(load_lines(at_q, reads, first, K, BK) * S_do, 1)
        for first in range(0, K, BK):
            lines, dlines = load_state(S, first, c, V, K, BK), load_state(dS, first, c, V, K, BK)
            keys, i = load_lines(at_k, valid, first, K, BK), first + tl.arange(0, BK)
            S_du = -_dot(u, tl.trans(lines))
            if ddecay is not None:
                of_start += tl.sum(keys * S_du, 1)
                overlap += tl.sum(tl.sum(lines * dlines, 1), 0)
            d_keys = _dot(to_end[:, None] * w, tl.trans(dlines)) + d[:, None] * S_du + _dot(both_ways, keys)
            d_keys += _dot(tl.trans(reading), load_lines(at_q, reads, first, K, BK))
            to = dk + (block * rows * time * M * heads + factor)[:, None] * K + i[None, :]
            tl.store(to, d_keys, valid[:, None] & (i < K)[None, :])
        _add_to_state(dS, by, at_q, reads, d[:, None] * do, c, V, K, BK)
        _add_to_state(dS, 1.0, at_k, valid, -d[:, None] * u, c, V, K, BK)
        if ddecay is not None:
            # dg_j is the sum over c >= j and i < j of D(c, j) (what c reads of i) D(j-1, i); start is an i, end a c.
            f1 = f - 1
            follows = (f > 0) & (f1 % M == 0) & (f1 < STEPS * M) & (at + f1 // M < count)
            earlier = decays(decay, reset, row, reset_row, start + at + f1 // M, n, heads, time, follows).to(STATE)
            until = between_before(earlier[:, None], C)
            of_end = tl.sum(w * dS_k, 1)
            dg = tl.sum(_dot(tl.trans(D), qk * read_w + kk * less_w) * until, 1)
            dg += tl.cumprod(earlier, 0) * (tl.sum(D * of_start[:, None], 0) + to_end * overlap)
            dg += to_end * tl.sum(until * of_end[None, :], 1)
            begins = valid & (m == 0)
            if reset is not None:
                dg = tl.where(tl.load(reset + row * reset_row + t, begins, 0) != 0, 0, dg)
            tl.store(ddecay + block * rows * time * heads + step, dg, begins)
