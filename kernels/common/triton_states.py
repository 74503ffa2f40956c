"""Chunks of C steps of recurrences whose state is a matrix (K, V): loads, stores, and products of decays.

Registers hold BK rows and some columns of a state, or BK of the K units of each step of a chunk.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_lines(p, valid, first, K: tl.constexpr, BK: tl.constexpr):
    """Units first .. first + BK of the K units at each address in p; 0 beyond the K-th and where not valid"""
    i = first + tl.arange(0, BK)
    return tl.load(p[:, None] + i[None, :], valid[:, None] & (i < K)[None, :], 0)


@triton.jit
def state_at(p, first, c, V: tl.constexpr, K: tl.constexpr, BK: tl.constexpr):
    """(addresses, mask) of rows first .. first + BK and columns c of the state (K, V) at p"""
    i = first + tl.arange(0, BK)
    return p + i[:, None] * V + c[None, :], (i < K)[:, None] & (c < V)[None, :]


@triton.jit
def load_state(p, first, c, V: tl.constexpr, K: tl.constexpr, BK: tl.constexpr):
    """The numbers at these addresses, 0 outside of the state"""
    at, there = state_at(p, first, c, V, K, BK)
    return tl.load(at, there, 0)


@triton.jit
def store_state(p, S, first, c, V: tl.constexpr, K: tl.constexpr, BK: tl.constexpr):
    """Store S where `load_state` would read it."""
    at, there = state_at(p, first, c, V, K, BK)
    tl.store(at, S, there)


@triton.jit
def between(g, C: tl.constexpr):
    """g[j+1] ... g[i] for i >= j, else 0, of factors (C, 1)"""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    return tl.where(i >= j, tl.cumprod(tl.where(i > j, g, 1.0), 0), 0.0)


@triton.jit
def between_before(e, C: tl.constexpr):
    """g[j+1] ... g[i-1] for i > j, else 0; e[i] is g[i-1], (C, 1)"""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    return tl.where(i > j, tl.cumprod(tl.where(i > j + 1, e, 1.0), 0), 0.0)


@triton.jit
def last_of(x, C: tl.constexpr):
    """Element C - 1 of x (C,), or line C - 1 of x (C, N)"""
    i = tl.arange(0, C)
    if len(x.shape) == 2:
        i = i[:, None]
    return tl.sum(tl.where(i == C - 1, x, 0.0), 0)
