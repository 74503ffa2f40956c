"""Linear attention in chunks of C steps, backward: dq, dk and the gradients of decay and bonus.

A program has BK rows of the state at one chunk and loops over all columns, so that no sum needs atomic additions. With
P the gradient of the state after step j, the gradient of the decay is the row sums of S[j-1] * P; both are expanded as
sums over the steps of the chunk, without division by a decay.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.triton_states import between, between_before, load_state
from .triton_chunks import apart_dot as dot
from .triton_chunks import apart_products as products
from .triton_chunks import (
    bonus_of,
    column,
    column_before,
    factors,
    factors_after,
    factors_before,
    keeps,
    line_at,
    load_lines,
    number,
    place,
    products_after,
    running,
    store_lines,
)

_INPUTS = [f"{name}_{axis}" for name in ("q", "k", "v", "decay", "d_o") for axis in ("row", "time", "head")]
_GRADIENTS = [f"{name}_{axis}" for name in ("dq", "dk", "ddecay") for axis in ("row", "time", "head")]
_OTHERS = ["ddecay_block", "reset_row", "time", "heads", "per_key"]


@triton.jit
def _between_columns(
    at_v,
    at_o,
    v_time,
    d_o_time,
    S,
    dS,
    t,
    valid,
    first,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    C: tl.constexpr,
    STATE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Sums over all columns: do v^T (C, C), do S^T and v dS^T (C, BK), the rows of S * dS (BK,)"""
    M, read, write = tl.zeros((C, C), STATE), tl.zeros((C, BK), STATE), tl.zeros((C, BK), STATE)
    overlap = tl.zeros((BK,), STATE)
    for begin in range(0, V, BV):
        c = begin + tl.arange(0, BV)
        values = load_lines(at_v, v_time, t, valid, begin, V, BV, STATE)
        if at_o is not None:
            outputs = load_lines(at_o, d_o_time, t, valid, begin, V, BV, STATE)
            M += products(outputs, values, at_o, at_v, PRECISION)
        if S is not None:
            state = load_state(S, first, c, V, K, BK)
            if at_o is not None:
                read += dot(outputs, tl.trans(state), PRECISION)
        if dS is not None:
            dstate = load_state(dS, first, c, V, K, BK)
            write += dot(values, tl.trans(dstate), PRECISION)
            if S is not None:
                overlap += tl.sum(state * dstate, 1)
    return M, read, write, overlap


@triton.jit
def _of_shared_decay(
    queries,
    keys,
    M,
    read,
    write,
    overlap,
    g,
    e,
    after,
    continues,
    C: tl.constexpr,
    BEFORE: tl.constexpr,
    NEEDS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(dq, dk, dg (C,)) of factors (C, 1)"""
    if BEFORE:
        R, from_start = between_before(e, C) * continues, running(e) * continues
    else:
        R, from_start = between(g, C), running(g)
    W = M * R
    dq = from_start * read + dot(W, keys, PRECISION)
    dk = products_after(after) * write + dot(tl.trans(W), queries, PRECISION)
    dg = tl.zeros((C,), queries.dtype)
    if NEEDS:
        earlier, before = between_before(e, C), running(e)
        X = dot(queries, tl.trans(keys), PRECISION) * M
        reads = tl.sum(queries * read, 1)
        sums = dot(X, tl.trans(earlier), PRECISION) + reads[:, None] * tl.sum(before, 1)[None, :]
        dg = tl.sum(R * sums, 0)
        to_end = tl.sum(earlier * tl.sum(keys * write, 1)[None, :], 1)
        dg += tl.sum(products_after(after), 1) * (tl.sum(before, 1) * tl.sum(overlap, 0) + to_end)
    return dq, dk, dg


@triton.jit
def _of_own_decays(
    queries,
    keys,
    M,
    read,
    write,
    overlap,
    g,
    e,
    after,
    continues,
    steps,
    C: tl.constexpr,
    BEFORE: tl.constexpr,
    NEEDS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(dq, dk, dg (C, BK)) of factors (C, BK), one step j after the other"""
    i = tl.arange(0, C)
    ends = products_after(after)
    dq, dk = (running(e) * continues if BEFORE else running(g)) * read, ends * write
    dg = tl.zeros_like(queries)
    # The decay from step i to step j - 1, and from the start of the chunk to step j - 1
    earlier, before = tl.zeros_like(queries), tl.full((queries.shape[1],), 1.0, queries.dtype)
    for j in range(steps):
        decays = column_before(e, j, C) * continues if BEFORE else column(g, j, C)
        weight = tl.sum(tl.where(i[None, :] == j, M, 0.0), 1)[:, None]
        dq += decays * weight * line_at(keys, j, C)[None, :]
        reads = decays * queries
        dk = tl.where(i[:, None] == j, dk + tl.sum(reads * weight, 0)[None, :], dk)
        if NEEDS:
            sums = dot(M, earlier * keys, PRECISION) + before[None, :] * read
            rest = before * overlap + tl.sum(earlier * keys * write, 0)
            of_step = tl.sum(reads * sums, 0) + line_at(ends, j, C) * rest
            dg = tl.where(i[:, None] == j, of_step[None, :], dg)
            decay = line_at(g, j, C)
            earlier = tl.where(i[:, None] == j, 1.0, earlier * decay[None, :])
            before *= decay
    return dq, dk, dg


@triton.jit(do_not_specialize=[*_INPUTS, *_GRADIENTS, *_OTHERS])
def attention_bwd_keys_kernel(
    q,
    k,
    v,
    decay,
    bonus,
    d_o,
    states,
    dstates,
    dq,
    dk,
    ddecay,
    dbonus,
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
    decay_row: tl.int64,
    decay_time: tl.int64,
    decay_head: tl.int64,
    d_o_row: tl.int64,
    d_o_time: tl.int64,
    d_o_head: tl.int64,
    dq_row: tl.int64,
    dq_time: tl.int64,
    dq_head: tl.int64,
    dk_row: tl.int64,
    dk_time: tl.int64,
    dk_head: tl.int64,
    ddecay_row: tl.int64,
    ddecay_time: tl.int64,
    ddecay_head: tl.int64,
    ddecay_block: tl.int64,
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
    """dq, dk, and the gradients of decay and bonus of a chunk, for BK rows of the state.

    The gradient of a decay that all rows share is a sum over the rows, of which each block of rows writes its part.
    """
    BLOCKS: tl.constexpr = (K + BK - 1) // BK
    NEEDS: tl.constexpr = ddecay is not None
    program = tl.program_id(0).to(tl.int64)
    chunk, block = program // BLOCKS, program % BLOCKS
    line, n, first = chunk // heads, chunk % heads, (block * BK).to(tl.int32)
    row, start, count, at = place(line, lengths, starts, owner, time, C)
    i, unit = tl.arange(0, C), first + tl.arange(0, BK)
    t, valid = start + at + i, at + i < count
    if at < count:
        at_q, at_k = q + row * q_row + n // per_key * q_head, k + row * k_row + n // per_key * k_head
        at_g = None if decay is None else decay + row * decay_row + n * decay_head
        at_reset = None if reset is None else reset + row * reset_row
        at_o = None if d_o is None else d_o + row * d_o_row + n * d_o_head
        S = None if states is None else states + chunk * K * V
        dS = None if dstates is None else dstates + chunk * K * V
        at_v, factor = v + row * v_row + n * v_head, number(scale, STATE)
        M, read, write, overlap = _between_columns(
            at_v, at_o, v_time, d_o_time, S, dS, t, valid, first, K, V, BK, BV, C, STATE, PRECISION
        )
        queries = load_lines(at_q, q_time, t, valid, first, K, BK, STATE) * factor
        keys = load_lines(at_k, k_time, t, valid, first, K, BK, STATE)
        g = factors(at_g, decay_time, at_reset, t, valid, first, K, BK, VECTOR, LOG, STATE)
        e = factors_before(at_g, decay_time, at_reset, t, valid, first, K, BK, VECTOR, LOG, STATE)
        after = factors_after(at_g, decay_time, at_reset, t, at, count, first, K, BK, VECTOR, LOG, STATE)
        continues = keeps(at_reset, t, valid, STATE)
        if VECTOR:
            steps = tl.minimum(count - at, C).to(tl.int32)
            queries_d, keys_d, dg = _of_own_decays(
                queries, keys, M, read, write, overlap, g, e, after, continues, steps, C, BEFORE, NEEDS, PRECISION
            )
        else:
            queries_d, keys_d, dg = _of_shared_decay(
                queries, keys, M, read, write, overlap, g, e, after, continues, C, BEFORE, NEEDS, PRECISION
            )
        if bonus is not None:
            own = tl.sum(tl.where(i[:, None] == i[None, :], M, 0.0), 1)[:, None]
            weight = bonus_of(bonus, n, first, K, BK, STATE)
            queries_d += own * weight * keys
            keys_d += own * weight * queries
            if dbonus is not None:
                tl.store(dbonus + chunk * K + unit, tl.sum(own * queries * keys, 0), unit < K)
        store_lines(dq + row * dq_row + n * dq_head, dq_time, t, valid, first, queries_d * factor, K, BK)
        store_lines(dk + row * dk_row + n * dk_head, dk_time, t, valid, first, keys_d, K, BK)
        if NEEDS:
            to = ddecay + row * ddecay_row + n * ddecay_head
            if VECTOR:
                dg = dg * continues * (g if LOG else 1.0)
                store_lines(to, ddecay_time, t, valid, first, dg, K, BK)
            else:
                dg = dg * tl.sum(continues, 1)
                if LOG:
                    dg *= tl.sum(g, 1)
                to += block * ddecay_block + t * ddecay_time
                tl.store(to, dg.to(ddecay.dtype.element_ty), valid)
    elif dbonus is not None:
        tl.store(dbonus + chunk * K + unit, tl.zeros((BK,), STATE), unit < K)
