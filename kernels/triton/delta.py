"""The delta rule in chunks, in the WY form of docs/delta.md, whose letters these are.

A program has one head of one sequence and BV columns of its state, and takes one chunk of at most C factors after the
other. A reset is a decay of 0. `at` is the first step of a chunk, STEPS are those of a chunk, M the factors of a step;
factor f of a chunk is factor f % M of its step f // M. Memory of q, k, v has any strides (row, time, factor, head).

The K lines of keys, queries and states come as tuples of blocks of BK: a product then needs few registers at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _dot(a, b):
    """a b, whose operands are loaded when those of the product before are no longer needed: registers are scarce"""
    tl.debug_barrier()
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _load_lines(p, valid, K: tl.constexpr, BK: tl.constexpr):
    """K numbers from each address in p: blocks (C, BK)"""
    blocks = ()
    for first in tl.static_range(0, K, BK):
        i = first + tl.arange(0, BK)
        blocks = blocks + (tl.load(p[:, None] + i[None, :], valid[:, None] & (i < K)[None, :], 0),)
    return blocks


@triton.jit
def _load_state(p, c, V: tl.constexpr, K: tl.constexpr, BK: tl.constexpr):
    """Columns c of a state (K, V): blocks (BK, BV)"""
    blocks = ()
    for first in tl.static_range(0, K, BK):
        i = first + tl.arange(0, BK)
        blocks = blocks + (tl.load(p + i[:, None] * V + c[None, :], (i < K)[:, None] & (c < V)[None, :], 0),)
    return blocks


@triton.jit
def _store_state(p, S, c, V: tl.constexpr, K: tl.constexpr, BK: tl.constexpr):
    for b in tl.static_range((K + BK - 1) // BK):
        i = b * BK + tl.arange(0, BK)
        tl.store(p + i[:, None] * V + c[None, :], S[b], (i < K)[:, None] & (c < V)[None, :])


@triton.jit
def _inner(x, y, BLOCKS: tl.constexpr):
    """x y^T (C, C)"""
    z = _dot(x[0], tl.trans(y[0]))
    for b in tl.static_range(1, BLOCKS):
        z += _dot(x[b], tl.trans(y[b]))
    return z


@triton.jit
def _read(x, S, BLOCKS: tl.constexpr):
    """x S (C, BV)"""
    z = _dot(x[0], S[0])
    for b in tl.static_range(1, BLOCKS):
        z += _dot(x[b], S[b])
    return z


@triton.jit
def _write(S, by, x, w, BLOCKS: tl.constexpr):
    """by S + x^T w"""
    new = ()
    for b in tl.static_range(BLOCKS):
        new = new + (by * S[b] + _dot(tl.trans(x[b]), w),)
    return new


@triton.jit
def _zero_state(BLOCKS: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, STATE: tl.constexpr):
    S = ()
    for _ in tl.static_range(BLOCKS):
        S = S + (tl.zeros((BK, BV), STATE),)
    return S


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
    BK: tl.constexpr,
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
        f = tl.arange(0, C)
        t, m, valid = start + at + f // M, f % M, (f < STEPS * M) & (at + f // M < count)
        keys = _load_lines(k + row * k_row + n * k_head + t * k_time + m * k_factor, valid, K, BK)
        b = tl.load(beta + ((row * time + t) * M + m) * heads + n, valid, 0)
        D = _products(_decays(decay, reset, row, reset_row, t, n, heads, time, valid & (m == 0)).to(STATE), C)
        later = f[:, None] > f[None, :]
        system = tl.where(later, D * _inner(keys, keys, (K + BK - 1) // BK) * b[None, :], 0)
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
    BK: tl.constexpr,
    BV: tl.constexpr,
    M: tl.constexpr,
    STEPS: tl.constexpr,
    PERIOD: tl.constexpr,
    C: tl.constexpr,
    STATE: tl.constexpr,
):
    """o and the last states; where they are given, e of every factor and the states once in PERIOD steps."""
    COLUMNS: tl.constexpr = (V + BV - 1) // BV
    BLOCKS: tl.constexpr = (K + BK - 1) // BK
    program = tl.program_id(0).to(tl.int64)
    s, n, c = program // COLUMNS // heads, program // COLUMNS % heads, program % COLUMNS * BV + tl.arange(0, BV)
    row, start, count = _sequence(lengths, starts, s, time)
    f = tl.arange(0, C)
    S = _zero_state(BLOCKS, BK, BV, STATE)
    if h0 is not None:
        S = _load_state(h0 + (s * heads + n) * K * V, c, V, K, BK)
    for at in tl.range(0, count, STEPS, disable_licm=True):
        if states is not None:
            if at % PERIOD == 0:
                line = _line(starts, s, start, time, PERIOD) + at // PERIOD
                _store_state(states + (line * heads + n) * K * V, S, c, V, K, BK)
        t, m, valid = start + at + f // M, f % M, (f < STEPS * M) & (at + f // M < count)
        reads = valid & (m == M - 1)
        keys = _load_lines(k + row * k_row + n * k_head + t * k_time + m * k_factor, valid, K, BK)
        queries = _load_lines(q + row * q_row + n * q_head + t * q_time, reads, K, BK)
        at_v = (v + row * v_row + n * v_head + t * v_time + m * v_factor)[:, None] + c[None, :]
        values = tl.load(at_v, valid[:, None] & (c < V)[None, :], 0)
        b = tl.load(beta + ((row * time + t) * M + m) * heads + n, valid, 0)
        g = _decays(decay, reset, row, reset_row, t, n, heads, time, valid & (m == 0)).to(STATE)
        D, d = _products(g, C), tl.cumprod(g, 0)
        line = (_line(starts, s, start, time, STEPS) + at // STEPS) * heads + n
        solved = tl.load(inverse + line * C * C + f[:, None] * C + f[None, :])
        lacks = _dot(solved, values - d[:, None] * _read(keys, S, BLOCKS))
        w = b[:, None] * lacks
        reading = D * _inner(queries, keys, BLOCKS)
        outputs = d[:, None] * _read(queries, S, BLOCKS) + _dot(reading, w)
        tl.store(
            o + ((row * time + t) * heads + n)[:, None] * V + c[None, :], outputs, reads[:, None] & (c < V)[None, :]
        )
        if e is not None:
            at_e = e + (((row * time + t) * M + m) * heads + n)[:, None] * V + c[None, :]
            tl.store(at_e, lacks, valid[:, None] & (c < V)[None, :])
        to_end = tl.sum(tl.where(f[:, None] == C - 1, D, 0), 0)
        S = _write(S, tl.sum(tl.where(f == C - 1, d, 0), 0), keys, to_end[:, None] * w, BLOCKS)
    _store_state(last + (s * heads + n) * K * V, S, c, V, K, BK)


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
    BK: tl.constexpr,
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
    COLUMNS: tl.constexpr = (V + BV - 1) // BV
    BLOCKS: tl.constexpr = (K + BK - 1) // BK
    program = tl.program_id(0).to(tl.int64)
    s, n, block = program // COLUMNS // heads, program // COLUMNS % heads, program % COLUMNS
    row, start, count = _sequence(lengths, starts, s, time)
    f, c = tl.arange(0, C), block * BV + tl.arange(0, BV)
    dS = _zero_state(BLOCKS, BK, BV, STATE)
    if dlast is not None:
        dS = _load_state(dlast + (s * heads + n) * K * V, c, V, K, BK)
    chunks = (count + STEPS - 1) // STEPS
    for back in tl.range(chunks, disable_licm=True):
        at = (chunks - 1 - back) * STEPS
        line = _line(starts, s, start, time, PERIOD) + at // PERIOD
        S = _load_state(states + (line * heads + n) * K * V, c, V, K, BK)
        for before in tl.range(at // PERIOD * PERIOD, at, STEPS, disable_licm=True):
            t, m, valid = start + before + f // M, f % M, f < STEPS * M
            keys = _load_lines(k + row * k_row + n * k_head + t * k_time + m * k_factor, valid, K, BK)
            factor = ((row * time + t) * M + m) * heads + n
            b = tl.load(beta + factor, valid, 0)
            w = b[:, None] * tl.load(e + factor[:, None] * V + c[None, :], valid[:, None] & (c < V)[None, :], 0)
            g = _decays(decay, reset, row, reset_row, t, n, heads, time, valid & (m == 0)).to(STATE)
            to_end = tl.sum(tl.where(f[:, None] == C - 1, _products(g, C), 0), 0)
            S = _write(S, tl.sum(tl.where(f == C - 1, tl.cumprod(g, 0), 0), 0), keys, to_end[:, None] * w, BLOCKS)
        t, m, valid = start + at + f // M, f % M, (f < STEPS * M) & (at + f // M < count)
        reads = valid & (m == M - 1)
        keys = _load_lines(k + row * k_row + n * k_head + t * k_time + m * k_factor, valid, K, BK)
        queries = _load_lines(q + row * q_row + n * q_head + t * q_time, reads, K, BK)
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
        kk, qk = _inner(keys, keys, BLOCKS), _inner(queries, keys, BLOCKS)
        A = tl.where(later, D * kk, 0)
        line = (_line(starts, s, start, time, STEPS) + at // STEPS) * heads + n
        solved = tl.load(inverse + line * C * C + f[:, None] * C + f[None, :])
        # dw + A^T (b dw) = ends: with the inverse of I + A diag(b), dw is ends - A^T (inverse^T (b ends)).
        ends_k = _read(keys, dS, BLOCKS)
        ends = to_end[:, None] * ends_k + _dot(tl.trans(D * qk), do)
        dw = ends - _dot(tl.trans(A), _dot(tl.trans(solved), b[:, None] * ends))
        u = b[:, None] * dw
        tl.store(dv + factor[:, None] * V + c[None, :], u, in_values)
        tl.store(dbeta + block * rows * time * M * heads + factor, tl.sum(dw * lacks, 1), valid)
        read_w, less_w = _dot(do, tl.trans(w)), -_dot(u, tl.trans(w))
        reading, writing = D * read_w, tl.where(later, D * less_w, 0)
        step = (row * time + t) * heads + n
        of_start, overlap = tl.zeros((C,), STATE), tl.zeros((), STATE)
        for p in tl.static_range(BLOCKS):
            i = p * BK + tl.arange(0, BK)
            read_S, less_S = _dot(do, tl.trans(S[p])), -_dot(u, tl.trans(S[p]))
            to = dq + (block * rows * time * heads + step)[:, None] * K + i[None, :]
            tl.store(to, d[:, None] * read_S + _dot(reading, keys[p]), reads[:, None] & (i < K)[None, :])
            d_keys = _dot(to_end[:, None] * w, tl.trans(dS[p])) + d[:, None] * less_S
            d_keys += _dot(tl.trans(reading), queries[p]) + _dot(writing + tl.trans(writing), keys[p])
            to = dk + (block * rows * time * M * heads + factor)[:, None] * K + i[None, :]
            tl.store(to, d_keys, valid[:, None] & (i < K)[None, :])
            if ddecay is not None:
                of_start += tl.sum(queries[p] * read_S, 1) + tl.sum(keys[p] * less_S, 1)
                overlap += tl.sum(S[p] * dS[p])
        if ddecay is not None:
            # dg_j: over c >= j and i < j the sum of D(c, j) (what c reads of i) D(j-1, i); start is an i, end a c.
            f1 = f - 1
            follows = (f > 0) & (f1 % M == 0) & (f1 < STEPS * M) & (at + f1 // M < count)
            earlier = _decays(decay, reset, row, reset_row, start + at + f1 // M, n, heads, time, follows).to(STATE)
            until = tl.cumprod(earlier, 0)
            between = tl.cumprod(tl.where(f[:, None] > f[None, :] + 1, earlier[:, None], 1.0), 0)
            between = tl.where(later, between, 0)
            of_end = tl.sum(w * ends_k, 1)
            dg = tl.sum(_dot(tl.trans(D), qk * read_w + kk * less_w) * between, 1)
            dg += until * (tl.sum(D * of_start[:, None], 0) + to_end * overlap)
            dg += to_end * tl.sum(between * of_end[None, :], 1)
            begins = valid & (m == 0)
            if reset is not None:
                dg = tl.where(tl.load(reset + row * reset_row + t, begins, 0) != 0, 0, dg)
            tl.store(ddecay + block * rows * time * heads + step, dg, begins)
        dS = _write(dS, all_of_it, queries, d[:, None] * do, BLOCKS)
        dS = _write(dS, 1.0, keys, -d[:, None] * u, BLOCKS)
    if dh0 is not None:
        _store_state(dh0 + (s * heads + n) * K * V, dS, c, V, K, BK)
