"""h[t] = A[t] h[t-1] + x[t]: the specification of the family `scan`, forward and backward.

Linear scan: a and x (B, T, D), products element by element. Block scan: A (B, T, N, K, K), x (B, T, N, K), a matrix for
each group. a and A may be broadcast over B and T. The arguments are trusted: `fastiter.scan` checks them.

In every function here, `state` is the state before the first step, zeros by default. With `reverse` time runs from the
last step to the first. Where `reset` (B, T) or (T,) is true, the state before this step is dropped. `lengths` (B,) is
the number of valid steps of each row: h of the others is 0, and the last state is that of the last valid step.
`cu_seqlens` (S + 1,) splits the steps of the only row into S sequences, each with its own state and last state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Times = list[tuple[int, int, list[int]]]


def linear_scan(a: Array, x: Array, state: Array | None = None, **options: Any) -> tuple[Array, Array]:
    """h[t] = a[t] * h[t-1] + x[t]; returns h and the last state (B, D). For bfloat16 the state is float32."""
    return _forward(lambda a_t, h: a_t * h, np.broadcast_to(a, x.shape), x, state, **options)


def block_scan(A: Array, x: Array, state: Array | None = None, **options: Any) -> tuple[Array, Array]:
    """h[t] = A[t] h[t-1] + x[t]; returns h and the last state (B, N, K)."""
    return _forward(_times, np.broadcast_to(A, (*x.shape, x.shape[-1])), x, state, **options)


def _times(A: Array, h: Array) -> Array:
    """sum over j of A[n, i, j] h[n, j], in the order of j."""
    y = A[:, :, 0] * h[:, :1]
    for j in range(1, h.shape[-1]):
        y = y + A[:, :, j] * h[:, j : j + 1]
    return y


def _sequences(
    B: int, T: int, reverse: bool = False, lengths: Any = None, cu_seqlens: Any = None
) -> Iterator[tuple[int, int, list[int]]]:
    """Yield (sequence, its row, its steps in the order of the scan)."""
    if cu_seqlens is not None:
        bounds = [(0, int(start), int(stop)) for start, stop in pairwise(cu_seqlens)]
    else:
        bounds = [(b, 0, T if lengths is None else int(lengths[b])) for b in range(B)]
    for s, (row, start, stop) in enumerate(bounds):
        steps = list(range(start, stop))
        yield s, row, steps[::-1] if reverse else steps


def _resets(reset: Array | None, B: int, T: int) -> Array:
    return np.zeros((B, T), bool) if reset is None else np.broadcast_to(reset, (B, T))


def _carried(x: Array) -> np.dtype[Any]:
    """float32 for bfloat16, else the dtype of x."""
    return np.result_type(x.dtype, np.float32)


def _forward(
    product: Callable[[Array, Array], Array],
    a: Array,
    x: Array,
    state: Array | None,
    *,
    reset: Array | None = None,
    **cut: Any,
) -> tuple[Array, Array]:
    B, T = x.shape[:2]
    sequences, resets, carried = list(_sequences(B, T, **cut)), _resets(reset, B, T), _carried(x)
    h, last = np.zeros(x.shape, x.dtype), np.zeros((len(sequences), *x.shape[2:]), carried)
    if state is not None:
        last[...] = state
    for s, row, steps in sequences:
        for t in steps:
            x_t = x[row, t].astype(carried)
            last[s] = x_t if resets[row, t] else product(a[row, t].astype(carried), last[s]) + x_t
            h[row, t] = last[s]
    return h, last


# ---- backward: l[t] = dh[t] + A[t+1]^H l[t+1] -----------------------------------------------------------------------


def linear_scan_backward(
    a: Array, h: Array, state: Array | None, dh: Array | None, dlast: Array | None, **options: Any
) -> tuple[Array, Array, Array]:
    """(da, dx, dstate): the gradient of <dh, h> + <dlast, last>: conj(h[t-1]) l[t], l, conj(a) l."""
    wide = np.broadcast_to(a, h.shape)
    da, dx, dstate = _backward(
        lambda a_t, l: np.conj(a_t) * l, lambda l, before: np.conj(before) * l, wide, h, state, dh, dlast, **options
    )
    return _summed(da, a.shape), dx, dstate


def block_scan_backward(
    A: Array, h: Array, state: Array | None, dh: Array | None, dlast: Array | None, **options: Any
) -> tuple[Array, Array, Array]:
    """(dA, dx, dstate): the gradient of <dh, h> + <dlast, last>. dx = l, dA[t] = l[t] h[t-1]^H, dstate = A^H l."""
    wide = np.broadcast_to(A, (*h.shape, h.shape[-1]))
    dA, dx, dstate = _backward(
        lambda A_t, l: _times(np.conj(A_t).swapaxes(-1, -2), l),
        lambda l, before: l[:, :, None] * np.conj(before)[:, None, :],
        wide,
        h,
        state,
        dh,
        dlast,
        **options,
    )
    return _summed(dA, A.shape), dx, dstate


def _backward(
    adjoint: Callable[[Array, Array], Array],
    outer: Callable[[Array, Array], Array],
    a: Array,
    h: Array,
    state: Array | None,
    dh: Array | None,
    dlast: Array | None,
    *,
    reset: Array | None = None,
    **cut: Any,
) -> tuple[Array, Array, Array]:
    B, T = h.shape[:2]
    sequences, resets, carried = list(_sequences(B, T, **cut)), _resets(reset, B, T), _carried(h)
    da, dx = np.zeros(a.shape, carried), np.zeros(h.shape, h.dtype)
    carry = np.zeros((len(sequences), *h.shape[2:]), carried)
    if dlast is not None:
        carry[...] = dlast
    for s, row, steps in sequences:
        for k in reversed(range(len(steps))):
            t = steps[k]
            l = carry[s] if dh is None else dh[row, t].astype(carried) + carry[s]
            dx[row, t] = l
            carry[s] = 0
            if not resets[row, t]:
                first = np.zeros_like(l) if state is None else state[s]
                da[row, t] = outer(l, h[row, steps[k - 1]].astype(carried) if k else first)
                carry[s] = adjoint(a[row, t].astype(carried), l)
    return da, dx, carry


def _summed(x: Array, shape: tuple[int, ...]) -> Array:
    """Sum over broadcast axes. Without any, return x itself: a sum of one number would turn -0 into 0."""
    if x.shape == shape:
        return x
    x = x.sum(axis=tuple(range(x.ndim - len(shape))))
    broadcast = tuple(i for i, size in enumerate(shape) if size == 1 and x.shape[i] != 1)
    summed: Array = x.sum(axis=broadcast, keepdims=True)
    return summed
