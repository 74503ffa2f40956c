"""The delta rule in chunks, in the WY form of docs/delta.md, whose letters these are.

A program has one head of one sequence and BV columns of its state, and takes one chunk of at most C factors after the
other. A reset is a decay of 0. `at` is the first step of a chunk, STEPS are those of a chunk, M the factors of a step;
factor f of a chunk is factor f % M of its step f // M. Memory of q, k, v has any strides (row, time, factor, head).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _dot(a, b):
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _sequence(lengths, starts, s, time):
    """(row, first step, number of steps, first of the lines with one entry for so many steps)"""
    if starts is not None:
        start = tl.load(starts + s)
        return s * 0, start, tl.load(starts + s + 1) - start
    elif lengths is not None:
        return s, s * 0, tl.load(lengths + s)
    else:
        return s, s * 0, s * 0 + time


@triton.jit
def _line(starts, s, start, time, steps):
    """Where a sequence's entries begin of those that are made once for ``steps`` steps"""
    return start // steps + s if starts is not None else s * ((time + steps - 1) // steps)


@triton.jit
def _decays(decay, reset, row, reset_row, t, n, heads, time, begins):
    """g of factors at steps t: 1 where none begins a step, 0 at a reset"""
    g = tl.where(begins, 1.0, 1.0)
    if decay is not None:
        g = tl.load(decay + (row * time + t) * heads + n, begins, 1)
    if reset is not None:
        g = tl.where(tl.load(reset + row * reset_row + t, begins, 0) != 0, 0, g)
    return g


@triton.jit
def _products(g, C: tl.constexpr):
    """D(j, i) = g_{i+1} ... g_j for i <= j, else 0"""
    j, i = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    return tl.where(j >= i, tl.cumprod(tl.where(j > i, g[:, None], 1.0), 0), 0)


@triton.jit
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
    KP: tl.constexpr,
    M: tl.constexpr,
    STEPS: tl.constexpr,
    C: tl.constexpr,
    STATE: tl.constexpr,
):
    """(I + A diag(b))^-1 of every chunk (line, head, C, C), a line after the other by forward substitution."""
    program = tl.program_id(0).to(tl.int64)
    s, n, at = program // chunks // heads, program // chunks % heads, program % chunks * STEPS
    row, start, count = _sequence(lengths, starts, s, time)
    if at < count:
        f, i = tl.arange(0, C), tl.arange(0, KP)
        t, m, valid = start + at + f // M, f % M, (f < STEPS * M) & (at + f // M < count)
        at_k = (k + row * k_row + n * k_head + t * k_time + m * k_factor)[:, None] + i[None, :]
        keys = tl.load(at_k, valid[:, None] & (i < K)[None, :], 0)
        b = tl.load(beta + ((row * time + t) * M + m) * heads + n, valid, 0)
        D = _products(_decays(decay, reset, row, reset_row, t, n, heads, time, valid & (m == 0)).to(STATE), C)
        later = f[:, None] > f[None, :]
        system = tl.where(later, D * _dot(keys, tl.trans(keys)) * b[None, :], 0)
        solved = tl.where(f[:, None] == f[None, :], 1.0, 0.0).to(STATE)
        for j in range(1, C):
            line = tl.sum(tl.where(f[:, None] == j, system, 0), 0)
            below = tl.sum(line[:, None] * solved, 0)
            solved = tl.where(f[:, None] == j, solved - below[None, :], solved)
        to = (_line(starts, s, start, time, STEPS) + at // STEPS) * heads + n
        tl.store(inverse + to * C * C + f[:, None] * C + f[None, :], solved)


@triton.jit
def delta_fwd_kernel(
    q,
    k,
    v,
    beta,
    decay,
    h0,
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
    KP: tl.constexpr,
    BV: tl.constexpr,
    M: tl.constexpr,
    STEPS: tl.constexpr,
    PERIOD: tl.constexpr,
    C: tl.constexpr,
    STATE: tl.constexpr,
):
    """o and the last states; where they are given, e of every factor and the states once in PERIOD steps."""
    BLOCKS: tl.constexpr = (V + BV - 1) // BV
    program = tl.program_id(0).to(tl.int64)
    s, n, c = program // BLOCKS // heads, program // BLOCKS % heads, program % BLOCKS * BV + tl.arange(0, BV)
    row, start, count = _sequence(lengths, starts, s, time)
    f, i = tl.arange(0, C), tl.arange(0, KP)
    in_state = (i < K)[:, None] & (c < V)[None, :]
    place = i[:, None] * V + c[None, :]
    S = tl.zeros((KP, BV), STATE)
    if h0 is not None:
        S = tl.load(h0 + (s * heads + n) * K * V + place, in_state, 0)
    for at in range(0, count, STEPS):
        if states is not None:
            if at % PERIOD == 0:
                line = _line(starts, s, start, time, PERIOD) + at // PERIOD
                tl.store(states + (line * heads + n) * K * V + place, S, in_state)
        t, m, valid = start + at + f // M, f % M, (f < STEPS * M) & (at + f // M < count)
        reads = valid & (m == M - 1)
        at_k = (k + row * k_row + n * k_head + t * k_time + m * k_factor)[:, None] + i[None, :]
        at_q = (q + row * q_row + n * q_head + t * q_time)[:, None] + i[None, :]
        at_v = (v + row * v_row + n * v_head + t * v_time + m * v_factor)[:, None] + c[None, :]
        keys = tl.load(at_k, valid[:, None] & (i < K)[None, :], 0)
        queries = tl.load(at_q, reads[:, None] & (i < K)[None, :], 0)
        values = tl.load(at_v, valid[:, None] & (c < V)[None, :], 0)
        b = tl.load(beta + ((row * time + t) * M + m) * heads + n, valid, 0)
        g = _decays(decay, reset, row, reset_row, t, n, heads, time, valid & (m == 0)).to(STATE)
        D, d = _products(g, C), tl.cumprod(g, 0)
        line = (_line(starts, s, start, time, STEPS) + at // STEPS) * heads + n
        solved = tl.load(inverse + line * C * C + f[:, None] * C + f[None, :])
        lacks = _dot(solved, values - d[:, None] * _dot(keys, S))
        w = b[:, None] * lacks
        reading = D * _dot(queries, tl.trans(keys))
        outputs = d[:, None] * _dot(queries, S) + _dot(reading, w)
        tl.store(
            o + ((row * time + t) * heads + n)[:, None] * V + c[None, :], outputs, reads[:, None] & (c < V)[None, :]
        )
        if e is not None:
            at_e = e + (((row * time + t) * M + m) * heads + n)[:, None] * V + c[None, :]
            tl.store(at_e, lacks, valid[:, None] & (c < V)[None, :])
        to_end = tl.sum(tl.where(f[:, None] == C - 1, D, 0), 0)
        S = tl.sum(tl.where(f == C - 1, d, 0), 0) * S + _dot(tl.trans(to_end[:, None] * keys), w)
    tl.store(last + (s * heads + n) * K * V + place, S, in_state)


@triton.jit
def delta_bwd_kernel(
    q,
    k,
    beta,
    decay,
    e,
    states,
    d_o,
    dlast,
    reset,
    lengths,
    starts,
    inverse,
    dq,
    dk,
    dv,
    dbeta,
    ddecay,
    dh0,
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
    KP: tl.constexpr,
    BV: tl.constexpr,
    M: tl.constexpr,
    STEPS: tl.constexpr,
    PERIOD: tl.constexpr,
    C: tl.constexpr,
    STATE: tl.constexpr,
):
    """All gradients, from the last chunk to the first. What is a sum over V has a copy for each block of BV columns.

    The state before a chunk is computed again from the one before its period: the w of the chunks between are known.
    """
    BLOCKS: tl.constexpr = (V + BV - 1) // BV
    program = tl.program_id(0).to(tl.int64)
    s, n, block = program // BLOCKS // heads, program // BLOCKS % heads, program % BLOCKS
    row, start, count = _sequence(lengths, starts, s, time)
    f, i, c = tl.arange(0, C), tl.arange(0, KP), block * BV + tl.arange(0, BV)
    in_state = (i < K)[:, None] & (c < V)[None, :]
    place = i[:, None] * V + c[None, :]
    dS = tl.zeros((KP, BV), STATE)
    if dlast is not None:
        dS = tl.load(dlast + (s * heads + n) * K * V + place, in_state, 0)
    chunks = (count + STEPS - 1) // STEPS
    for back in range(chunks):
        at = (chunks - 1 - back) * STEPS
        line = _line(starts, s, start, time, PERIOD) + at // PERIOD
        S = tl.load(states + (line * heads + n) * K * V + place, in_state, 0)
        for before in range(at // PERIOD * PERIOD, at, STEPS):
            t, m, valid = start + before + f // M, f % M, f < STEPS * M
            at_k = (k + row * k_row + n * k_head + t * k_time + m * k_factor)[:, None] + i[None, :]
            keys = tl.load(at_k, valid[:, None] & (i < K)[None, :], 0)
            factor = ((row * time + t) * M + m) * heads + n
            b = tl.load(beta + factor, valid, 0)
            w = b[:, None] * tl.load(e + factor[:, None] * V + c[None, :], valid[:, None] & (c < V)[None, :], 0)
            g = _decays(decay, reset, row, reset_row, t, n, heads, time, valid & (m == 0)).to(STATE)
            to_end = tl.sum(tl.where(f[:, None] == C - 1, _products(g, C), 0), 0)
            S = tl.sum(tl.where(f == C - 1, tl.cumprod(g, 0), 0), 0) * S + _dot(tl.trans(to_end[:, None] * keys), w)
        t, m, valid = start + at + f // M, f % M, (f < STEPS * M) & (at + f // M < count)
        reads = valid & (m == M - 1)
        at_k = (k + row * k_row + n * k_head + t * k_time + m * k_factor)[:, None] + i[None, :]
        at_q = (q + row * q_row + n * q_head + t * q_time)[:, None] + i[None, :]
        keys = tl.load(at_k, valid[:, None] & (i < K)[None, :], 0)
        queries = tl.load(at_q, reads[:, None] & (i < K)[None, :], 0)
        factor = ((row * time + t) * M + m) * heads + n
        in_values = valid[:, None] & (c < V)[None, :]
        b = tl.load(beta + factor, valid, 0)
        lacks = tl.load(e + factor[:, None] * V + c[None, :], in_values, 0)
        do = tl.zeros((C, BV), STATE)
        if d_o is not None:
            at_do = (d_o + row * d_o_row + n * d_o_head + t * d_o_time)[:, None] + c[None, :]
            do = tl.load(at_do, reads[:, None] & (c < V)[None, :], 0)
        g = _decays(decay, reset, row, reset_row, t, n, heads, time, valid & (m == 0)).to(STATE)
        D, d, w = _products(g, C), tl.cumprod(g, 0), b[:, None] * lacks
        to_end, all_of_it = tl.sum(tl.where(f[:, None] == C - 1, D, 0), 0), tl.sum(tl.where(f == C - 1, d, 0), 0)
        later = f[:, None] > f[None, :]
        kk, qk = _dot(keys, tl.trans(keys)), _dot(queries, tl.trans(keys))
        A = tl.where(later, D * kk, 0)
        line = (_line(starts, s, start, time, STEPS) + at // STEPS) * heads + n
        solved = tl.load(inverse + line * C * C + f[:, None] * C + f[None, :])
        # dw + A^T (b dw) = ends: with the inverse of I + A diag(b), dw is ends - A^T (inverse^T (b ends)).
        ends_k = _dot(keys, dS)
        ends = to_end[:, None] * ends_k + _dot(tl.trans(D * qk), do)
        dw = ends - _dot(tl.trans(A), _dot(tl.trans(solved), b[:, None] * ends))
        u = b[:, None] * dw
        tl.store(dv + factor[:, None] * V + c[None, :], u, in_values)
        tl.store(dbeta + block * rows * time * M * heads + factor, tl.sum(dw * lacks, 1), valid)
        read_w, less_w = _dot(do, tl.trans(w)), -_dot(u, tl.trans(w))
        read_S, less_S = _dot(do, tl.trans(S)), -_dot(u, tl.trans(S))
        reading, writing = D * read_w, tl.where(later, D * less_w, 0)
        step = (row * time + t) * heads + n
        to = dq + (block * rows * time * heads + step)[:, None] * K + i[None, :]
        tl.store(to, d[:, None] * read_S + _dot(reading, keys), reads[:, None] & (i < K)[None, :])
        d_keys = to_end[:, None] * _dot(w, tl.trans(dS)) + _dot(tl.trans(reading), queries) + d[:, None] * less_S
        d_keys += _dot(tl.trans(writing), keys) + _dot(writing, keys)
        to = dk + (block * rows * time * M * heads + factor)[:, None] * K + i[None, :]
        tl.store(to, d_keys, valid[:, None] & (i < K)[None, :])
        if ddecay is not None:
            # dg_j: over c >= j and i < j the sum of D(c, j) (what c reads of i) D(j-1, i); start is an i, end a c.
            p = f - 1
            follows = (f > 0) & (p % M == 0) & (p < STEPS * M) & (at + p // M < count)
            earlier = _decays(decay, reset, row, reset_row, start + at + p // M, n, heads, time, follows).to(STATE)
            until = tl.cumprod(earlier, 0)
            between = tl.cumprod(tl.where(f[:, None] > f[None, :] + 1, earlier[:, None], 1.0), 0)
            between = tl.where(later, between, 0)
            of_start = tl.sum(queries * read_S, 1) + tl.sum(keys * less_S, 1)
            of_end = tl.sum(w * ends_k, 1)
            dg = tl.sum(_dot(tl.trans(D), qk * read_w + kk * less_w) * between, 1)
            dg += until * (tl.sum(D * of_start[:, None], 0) + to_end * tl.sum(S * dS))
            dg += to_end * tl.sum(between * of_end[None, :], 1)
            begins = valid & (m == 0)
            if reset is not None:
                dg = tl.where(tl.load(reset + row * reset_row + t, begins, 0) != 0, 0, dg)
            tl.store(ddecay + block * rows * time * heads + step, dg, begins)
        dS = all_of_it * dS + _dot(tl.trans(d[:, None] * queries), do) - _dot(tl.trans(d[:, None] * keys), u)
    if dh0 is not None:
        tl.store(dh0 + (s * heads + n) * K * V + place, dS, in_state)
