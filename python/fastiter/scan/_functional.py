"""Linear recurrences along time on NumPy arrays: h[t] = A[t] h[t-1] + x[t], A diagonal or made of small blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _core
from .._array_like import as_arrays
from .._backend import Backend, Backends, Cuda, choose, is_cuda
from .._check import check_array, check_arrays, check_flag, check_out, empty, unit_stride
from .._sequences import Sequences, Shape, as_part, checked_sequences
from ._shapes import check_block_shapes, check_first, check_linear_shapes

Array: TypeAlias = npt.NDArray[Any]


def linear_scan(
    a: Array,
    x: Array,
    state: Array | None = None,
    *,
    reverse: bool = False,
    reset: Array | None = None,
    lengths: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
    out: Array | None = None,
    backend: Backend | None = None,
) -> tuple[Array, Array]:
    """h[t] = a[t] * h[t-1] + x[t], element by element.

    Product and sum are rounded separately, as in a NumPy loop: real results equal the loop's bit for bit on every
    machine. No products of factors are formed, so nothing overflows that does not overflow in the loop.

    Parameters
    ----------
    a : ndarray, broadcastable to (B, T, D)
        The factors, of the dtype of x: (B, T, D), (T, D), (D,), (B, 1, D), ...
    x : ndarray (B, T, D), float32, float64, complex64, complex128 or bfloat16 (of ml_dtypes)
        Any strides. bfloat16 is the storage type of a, x and h; the state is float32 from the first step to the last.
    state : ndarray (B, D), optional
        State before the first step, or a tuple that contains it; zero by default. float32 where x is bfloat16.
    reverse : bool
        Run from the last step to the first: h[t] = a[t] * h[t+1] + x[t].
    reset : ndarray of bool (B, T) or (T,), optional
        True where a new sequence begins: the state before this step, or the initial one, is dropped, and h[t] = x[t].
    lengths : integers (B,), optional
        Valid steps of each row, 0 to T; later steps are not read and their h is 0.
    cu_seqlens : integers (S + 1,), optional
        S sequences packed into one row (B = 1): sequence s is the steps cu_seqlens[s] to cu_seqlens[s + 1], with
        0 = ... <= ... = T. state and the last state are then (S, D).
    out : ndarray (B, T, D), optional
        Where h is written.
    backend : {"cpu", "reference"}, optional
        "reference" runs the specification in plain NumPy.

    Returns
    -------
    h : ndarray (B, T, D)
        The states of all steps.
    last : ndarray (B, D)
        State after the last valid step; passed as ``state``, it continues the sequence exactly.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.
    BackendError
        If the backend cannot run.

    See Also
    --------
    block_scan : The recurrence with matrices as factors.
    fastiter.torch.linear_scan : The same on tensors, with gradients.

    References
    ----------
    The recurrence of S5, LRU, Mamba and minGRU; Blelloch, "Prefix sums and their applications" (1990), computes it in
    parallel over time. docs/scan/theory.md explains why this implementation is a loop.

    Examples
    --------
    >>> import numpy as np, fastiter
    >>> x = np.ones((1, 5, 1))
    >>> h, last = fastiter.linear_scan(np.array([0.5]), x)
    >>> h.ravel().tolist(), last.tolist()
    ([1.0, 1.5, 1.75, 1.875, 1.9375], [[1.9375]])
    """
    return _run(_LINEAR, a, x, state, reverse, reset, lengths, cu_seqlens, out, backend)


def block_scan(
    A: Array,
    x: Array,
    state: Array | None = None,
    *,
    reverse: bool = False,
    reset: Array | None = None,
    lengths: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
    out: Array | None = None,
    backend: Backend | None = None,
) -> tuple[Array, Array]:
    """h[t] = A[t] h[t-1] + x[t] with a K x K matrix for each of N groups.

    Each sum runs over the columns of A in order, then adds x, and every operation is rounded: real results equal those
    of the NumPy loop in this order bit for bit.

    Parameters
    ----------
    A : ndarray (B, T, N, K, K), or broadcastable to it over B and T
        Matrices in the dtype of x, with K from 1 to 16.
    x : ndarray (B, T, N, K), float32, float64, complex64 or complex128
        Any strides.
    state : ndarray (B, N, K), optional
        State before the first step, or a tuple that contains it; zero by default.
    reverse : bool
        Run from the last step to the first: h[t] = A[t] h[t+1] + x[t].
    reset : ndarray of bool (B, T) or (T,), optional
        True where a new sequence begins: the state before this step, or the initial one, is dropped, and h[t] = x[t].
    lengths : integers (B,), optional
        Valid steps of each row, 0 to T; later steps are not read and their h is 0.
    cu_seqlens : integers (S + 1,), optional
        S sequences packed into one row (B = 1): sequence s is the steps cu_seqlens[s] to cu_seqlens[s + 1], with
        0 = ... <= ... = T. state and the last state are then (S, N, K).
    out : ndarray (B, T, N, K), optional
        Where h is written.
    backend : {"cpu", "reference"}, optional
        "reference" runs the specification in plain NumPy.

    Returns
    -------
    h : ndarray (B, T, N, K)
        The states of all steps.
    last : ndarray (B, N, K)
        State after the last valid step; passed as ``state``, it continues the sequence exactly.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.
    BackendError
        If the backend cannot run.

    See Also
    --------
    linear_scan : The recurrence with a scalar factor for each element.
    fastiter.torch.block_scan : The same on tensors, with gradients.

    References
    ----------
    The recurrence of ParaRNN (Danieli et al., 2025), whose LSTM has 2 x 2 blocks.

    Examples
    --------
    A quarter of a turn at each step:

    >>> import numpy as np, fastiter
    >>> A = np.array([[[0.0, -1.0], [1.0, 0.0]]])
    >>> h, last = fastiter.block_scan(A, np.zeros((1, 3, 1, 2)), np.array([[[1.0, 0.0]]]))
    >>> h[0, :, 0].tolist()
    [[0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]
    """
    return _run(_BLOCK, A, x, state, reverse, reset, lengths, cu_seqlens, out, backend)


class _Scan(NamedTuple):
    """One of the two scans: its name, its factors' name, its dtypes, the check of shapes and the kernel."""

    name: str
    factors: str
    dtypes: tuple[str, ...]
    check_shapes: Callable[[str, Shape, Shape], None]
    forward: Callable[..., None]


_LINEAR = _Scan(
    "linear_scan",
    "a",
    ("float32", "float64", "complex64", "complex128", "bfloat16"),
    check_linear_shapes,
    _core.scan.linear_forward,
)


_BLOCK = _Scan(
    "block_scan",
    "A",
    ("float32", "float64", "complex64", "complex128"),
    check_block_shapes,
    _core.scan.block_forward,
)


def _run(
    scan: _Scan,
    a: Array,
    x: Array,
    state: Array | None,
    reverse: bool,
    reset: Array | None,
    lengths: npt.ArrayLike | None,
    cu_seqlens: npt.ArrayLike | None,
    out: Array | None,
    backend: str | None,
) -> tuple[Array, Array]:
    function = scan.name
    run = choose(function, _BACKENDS[function], backend, a)
    if is_cuda(run):
        options = {"reverse": reverse, "reset": reset, "lengths": lengths, "cu_seqlens": cu_seqlens, "out": out}
        return run(a, x, state, **options)
    state = as_part(state)
    check_flag(function, "reverse", reverse)
    if type(x) is not np.ndarray or type(a) is not np.ndarray or not (state is None or type(state) is np.ndarray):
        x, a, state = as_arrays(function, ("x", scan.factors, "state"), (x, a, state))
    check_arrays(function, ("x", scan.factors), (x, a), scan.dtypes)
    scan.check_shapes(function, a.shape, x.shape)
    sequences = checked_sequences(function, x.shape[0], x.shape[1], reset, lengths, cu_seqlens)
    if state is not None:
        _check_h0(function, state, x, sequences, scan.dtypes)
    if out is not None:
        inputs = {"x": x, scan.factors: a, "state": state, "reset": sequences.reset}
        arrays = {name: y for name, y in inputs.items() if y is not None}
        check_out(function, out, x.shape, tuple(arrays), tuple(arrays.values()), scan.dtypes)
    return run(scan, a, x, state, reverse, sequences, out)


def _check_h0(function: str, state: Array, x: Array, sequences: Sequences, dtypes: tuple[str, ...]) -> None:
    check_array(function, "state", state, dtypes)
    dtype = _carried(x)
    if state.dtype != dtype:
        raise TypeError(f"{function}: state must have dtype {dtype} to go with {x.dtype} x, got {state.dtype}")
    check_first(function, state.shape, sequences.count(x.shape[0]), x.shape[2:], sequences.cu_seqlens is not None)


def _carried(x: Array) -> np.dtype[Any]:
    """Return the dtype of the state: float32 for bfloat16."""
    return np.dtype(np.float32) if x.dtype.itemsize == 2 else x.dtype


def _cpu(
    scan: _Scan,
    a: Array,
    x: Array,
    state: Array | None,
    reverse: bool,
    sequences: Sequences,
    out: Array | None,
) -> tuple[Array, Array]:
    (batch, time), inner = x.shape[:2], x.shape[2:]
    count, (reset, lengths, bounds) = sequences.count(batch), sequences
    first = None if state is None else np.ascontiguousarray(state)
    flags = None if reset is None else np.ascontiguousarray(reset)
    result = empty(x.shape, x.dtype) if out is None else out
    h = _flat(result)
    last = np.empty((count, *inner), _carried(x))
    shape = (count, time, h.shape[2], reverse, lengths, bounds, flags)
    scan.forward(shape, *(() if scan is _LINEAR else (inner[-1],)), _flat_factors(a, x), _flat(x), first, h, last)
    if out is not None and not np.may_share_memory(h, out):  # a copy, as the strides of out allow no such view
        out[...] = h.reshape(x.shape)
    return result, last


def _flat(x: Array) -> Array:
    """Return x as (B, T, elements per step), contiguous along the last axis."""
    return unit_stride(x if x.ndim == 3 else x.reshape((*x.shape[:2], math.prod(x.shape[2:]))))


def _flat_factors(a: Array, x: Array) -> Array:
    """Return a or A flattened in the same way, with size 1 where it broadcasts over B or T."""
    inner = x.shape[2:] if x.ndim == 3 else (*x.shape[2:], x.shape[-1])
    if a.ndim < 2 + len(inner):
        a = a.reshape((1,) * (2 + len(inner) - a.ndim) + a.shape)
    if a.shape[2:] != inner:
        a = np.broadcast_to(a, (*a.shape[:2], *inner))
    return _flat(a)


def _reference(
    scan: _Scan,
    a: Array,
    x: Array,
    state: Array | None,
    reverse: bool,
    sequences: Sequences,
    out: Array | None,
) -> tuple[Array, Array]:
    from . import reference

    h, last = getattr(reference, scan.name)(a, x, state, reverse=reverse, **sequences._asdict())
    if out is not None:
        out[...] = h
        h = out
    return h, last


_BACKENDS: dict[str, Backends[tuple[Array, Array]]] = {
    "linear_scan": {"cpu": _cpu, "cuda": Cuda("fastiter.torch", "linear_scan"), "reference": _reference},
    "block_scan": {"cpu": _cpu, "cuda": Cuda("fastiter.torch", "block_scan"), "reference": _reference},
}
