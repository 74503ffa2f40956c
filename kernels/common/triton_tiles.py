"""Matrices in registers: products, inverses of triangular matrices, and columns of states (K, V), BK rows at a time."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_states import load_lines, load_state, store_state


@triton.jit
def dot(a, b, PRECISION: tl.constexpr):
    """a b, in float32"""
    if PRECISION == "bf16":
        return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16))
    else:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision=PRECISION)


@triton.jit
def solved(system, C: tl.constexpr, PRECISION: tl.constexpr):
    """(I + system)^-1 of a strictly lower triangular system (C, C), in blocks of 16 that are joined to larger ones"""
    B: tl.constexpr = C // 16
    row, column = tl.arange(0, B)[:, None, None, None], tl.arange(0, B)[None, None, :, None]
    unsolved = tl.sum(tl.where(row == column, tl.reshape(system, (B, 16, B, 16)), 0.0), 2)
    return joined(unsolved, system, C, PRECISION)


@triton.jit
def joined(unsolved, system, C: tl.constexpr, PRECISION: tl.constexpr):
    """(I + system)^-1, where `unsolved` (C / 16, 16, 16) contains the blocks on the diagonal"""
    B: tl.constexpr = C // 16
    row, column = tl.arange(0, B)[:, None, None, None], tl.arange(0, B)[None, None, :, None]
    i, j = tl.arange(0, 16)[None, :, None], tl.arange(0, 16)[None, None, :]
    blocks = tl.where(i == j, 1.0, unsolved * 0.0)
    for r in range(1, 16):
        line = tl.sum(tl.where(i == r, unsolved, 0.0), 1)
        below = tl.sum(line[:, :, None] * blocks, 1)
        blocks = tl.where(i == r, blocks - below[:, None, :], blocks)
    T = tl.reshape(tl.where(row == column, blocks[:, :, None, :], 0.0), (C, C))
    f = tl.arange(0, C)
    for level in tl.static_range(4, 6):
        if C > 1 << level:
            # Two blocks P and R on the diagonal are inverted already: the block X below P and before R becomes -R X P.
            pairs = (f[:, None] > f[None, :]) & ((f[:, None] ^ f[None, :]) >> level == 1)
            T -= dot(dot(T, tl.where(pairs, system, 0.0), PRECISION), T, PRECISION)
    return T


@triton.jit
def load_parts(p, c, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr):
    """Columns c of a state, BK rows at a time"""
    parts = ()
    for first in tl.static_range(0, K, BK):
        parts = parts + (load_state(p, first, c, V, K, BK),)
    return parts


@triton.jit
def store_parts(p, S, c, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr):
    """Store columns c of a state, the counterpart of load_parts"""
    for first in tl.static_range(0, K, BK):
        store_state(p, S[first // BK], first, c, V, K, BK)


@triton.jit
def dot_parts(p, valid, S, K: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr):
    """Rows of K elements at p times a state"""
    product = dot(load_lines(p, valid, 0, K, BK), S[0], PRECISION)
    for first in tl.static_range(BK, K, BK):
        if PRECISION != "bf16":
            tl.debug_barrier()  # to save registers, operands are loaded when the previous ones are no longer needed
        product += dot(load_lines(p, valid, first, K, BK), S[first // BK], PRECISION)
    return product
