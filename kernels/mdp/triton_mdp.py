"""Bellman backups: w_s = max over the rows j of s of reward_j + discount * sum over entries e of weight_e v[target_e].

A program has STATES states of one model, and reads ENTRIES entries of one row of each state at a time. Sums are in
float64, as on the CPU, as a tree over ENTRIES partial sums. Ties go to the lowest row.
"""

from __future__ import annotations

import triton
import triton.language as tl

#: Numbers of states, programs, rows and entries, for which code is not specialised
_SIZES = ["states", "programs", "weight_model", "reward_model"]


@triton.jit(do_not_specialize=_SIZES)
def bellman_backup_kernel(
    row,  # (states + 1): the first row of each state; None: one row for each state
    entry,  # (rows + 1)
    target,  # (entries): next states
    weight,  # (entries), or (models, entries)
    reward,  # (rows), or (models, rows)
    v,  # (models, states)
    w,
    action,  # (models, states): the best row within its state, -1 if there is none; None: not needed
    low,  # (running models, programs): the minimum change w - v of a program, inf without rows
    high,  # the maximum change, -inf without rows
    model,  # (running models): the programs' models; None: all models
    discount,  # (1)
    states: tl.int64,
    programs: tl.int64,  # the number for each model
    weight_model: tl.int64,  # entries between the weights of two models, 0 if they are shared
    reward_model: tl.int64,
    STATES: tl.constexpr,
    ENTRIES: tl.constexpr,
):
    """One sweep over the states of the running models. Grid: running models x programs on axis 0, the longest one."""
    place = tl.program_id(0).to(tl.int64)
    m = place // programs
    if model is not None:
        m = tl.load(model + m)
    weight += m * weight_model
    reward += m * reward_model
    s = place % programs * STATES + tl.arange(0, STATES)
    is_state = s < states
    if row is None:
        first, rows, largest = s, is_state.to(tl.int64), 1
    else:
        first = tl.load(row + s, is_state, 0)
        rows = tl.load(row + s + 1, is_state, 0) - first
        largest = tl.max(rows)
    gamma = tl.load(discount)
    best = tl.full((STATES,), -float("inf"), tl.float64)
    chosen = tl.zeros((STATES,), tl.int64)
    i = tl.arange(0, ENTRIES)[None, :]
    for k in range(largest):
        has = k < rows
        begin = tl.load(entry + first + k, has, 0)
        length = (tl.load(entry + first + k + 1, has, 0) - begin)[:, None]
        total = tl.zeros((STATES, ENTRIES), tl.float64)
        for e in range(0, tl.max(length), ENTRIES):
            inside = e + i < length
            at = begin[:, None] + e + i
            to = tl.load(target + at, inside, 0)
            p = tl.load(weight + at, inside, 0).to(tl.float64)
            total += p * tl.load(v + m * states + to, inside, 0).to(tl.float64)
        q = tl.load(reward + first + k, has, 0).to(tl.float64) + gamma * tl.sum(total, 1)
        is_better = has & (q > best)
        best = tl.where(is_better, q, best)
        chosen = tl.where(is_better, k, chosen)
    acts = rows > 0
    now = tl.load(v + m * states + s, is_state, 0).to(tl.float64)
    new = tl.where(acts, best, 0).to(w.dtype.element_ty)
    change = new.to(tl.float64) - now
    tl.store(w + m * states + s, new, is_state)
    if action is not None:
        tl.store(action + m * states + s, tl.where(acts, chosen, -1), is_state)
    tl.store(low + place, tl.min(tl.where(acts, change, float("inf"))))
    tl.store(high + place, tl.max(tl.where(acts, change, -float("inf"))))
