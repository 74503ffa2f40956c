"""Checks and planning for the delta rule, for arrays and tensors alike."""

from __future__ import annotations

from typing import NamedTuple

from .._check import check_choice, type_name

Shape = tuple[int, ...]
METHODS = ("auto", "sequential", "chunk")
#: The maximum number of factors per chunk, which is the size of its triangular matrices
LONGEST_CHUNK = 256
#: Factors per chunk of the backward pass unless method is "chunk", and factors between two saved states
_BACKWARD, _SAVED = 16, 64


class Sizes(NamedTuple):
    """B, T, M factors per step, N heads, and states of K rows and V columns."""

    batch: int
    time: int
    factors: int
    heads: int
    keys: int
    values: int


def check_shapes(function: str, q: Shape, k: Shape, v: Shape, beta: Shape, decay: Shape | None) -> Sizes:
    """Return the sizes if the shapes of all arguments but the state are consistent."""
    if len(q) != 4:
        raise ValueError(f"{function}: q must have shape (B, T, N, K), got {tuple(q)}")
    batch, time, heads, keys = q
    if heads < 1 or keys < 1:
        raise ValueError(f"{function}: q must have at least one head and one unit, got shape {tuple(q)}")
    factors = k[2] if len(k) == 5 else 1
    leading = (batch, time, factors, heads) if len(k) == 5 else (batch, time, heads)
    if k != (*leading, keys) or factors < 1:
        raise ValueError(
            f"{function}: k must have shape (B, T, N, K) = {tuple(q)} like q or (B, T, M, N, K), got {tuple(k)}"
        )
    if v[:-1] != leading or v[-1] < 1:
        expected = ", ".join(map(str, leading))
        raise ValueError(
            f"{function}: v must have shape ({_letters(k)}, V) = ({expected}, V) to go with k, got {tuple(v)}"
        )
    if beta != leading:
        raise ValueError(
            f"{function}: beta must have shape ({_letters(k)}) = {leading} to go with k, got {tuple(beta)}"
        )
    if decay is not None and decay != (batch, time, heads):
        raise ValueError(
            f"{function}: decay must have shape (B, T, N) = {(batch, time, heads)} to go with q, got {tuple(decay)}"
        )
    return Sizes(batch, time, factors, heads, keys, v[-1])


def _letters(k: Shape) -> str:
    """Return the names of the leading axes of k, v and beta in messages."""
    return "B, T, M, N" if len(k) == 5 else "B, T, N"


def check_state(function: str, state: Shape, sizes: Sizes, rows: int, packed: bool) -> None:
    """Check the shape of the initial state, which has one matrix for each of the ``rows`` sequences."""
    if state != (rows, sizes.heads, sizes.keys, sizes.values):
        expected = (rows, sizes.heads, sizes.keys, sizes.values)
        letter = "S" if packed else "B"
        raise ValueError(f"{function}: state must have shape ({letter}, N, K, V) = {expected}, got {tuple(state)}")


class Plan(NamedTuple):
    """Steps per chunk, forward (0: one by one) and backward, and steps between two saved states."""

    forward: int
    backward: int
    period: int

    def saved_states(self, sizes: Sizes, rows: int, packed: bool) -> int:
        """Return the number of saved states per head; each sequence has its own, including the initial one."""
        return sizes.time // self.period + rows if packed else rows * -(-sizes.time // self.period)


def check_method(function: str, method: object, chunk: object) -> None:
    """Check the options that choose a plan."""
    check_choice(function, "method", method, METHODS)
    if not isinstance(chunk, int) or isinstance(chunk, bool):
        raise TypeError(f"{function}: chunk must be an int, got {type_name(chunk)}")
    if not 1 <= chunk <= LONGEST_CHUNK:
        raise ValueError(f"{function}: chunk must be from 1 to {LONGEST_CHUNK}, got {chunk}")


def plan(method: str, chunk: int, factors: int) -> Plan:
    """Return the plan for ``method`` and ``chunk`` with ``factors`` factors per step."""
    # "auto" is the step form, which is always faster on a CPU (numbers in docs/delta/theory.md).
    together = max(1, (chunk if method == "chunk" else _BACKWARD) // factors)
    return Plan(together if method == "chunk" else 0, together, together * max(1, _SAVED // (together * factors)))
