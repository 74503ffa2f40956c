"""The delta rule on NumPy arrays: S[t] = decay[t] (I - beta k k^T) S[t-1] + beta k v^T, o[t] = S[t]^T q[t]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _core
from .._array_like import as_arrays
from .._backend import Backend, Backends, Cuda, choose, is_cuda
from .._check import check_arrays, check_flag, check_out, empty, unit_stride
from .._sequences import Sequences, as_part, backwards, checked_sequences
from ._plan import Plan, Sizes, check_method, check_shapes, check_state, plan

Array: TypeAlias = npt.NDArray[Any]


def delta_scan(
    q: Array,
    k: Array,
    v: Array,
    beta: Array,
    state: Array | None = None,
    *,
    decay: Array | None = None,
    method: Literal["auto", "sequential", "chunk"] = "auto",
    chunk: int = 64,
    reverse: bool = False,
    reset: Array | None = None,
    lengths: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
    out: Array | None = None,
    backend: Backend | None = None,
) -> tuple[Array, Array]:
    """S[t] = decay[t] (I - beta k k^T) S[t-1] + beta k v^T, o[t] = S[t]^T q[t].

    The state S is the associative memory of a head: each step replaces the value stored under the key k by a mixture of
    that value and v (DeltaNet); with `decay` it forgets as well (gated DeltaNet); with M keys per step its transition
    is a product of M factors (DeltaProduct). With ||k|| = 1 the factors have the eigenvalues 1 and 1 - beta: beta from
    0 to 2 keeps states bounded, and beta above 1 makes an eigenvalue negative. Neither condition is imposed.

    Parameters
    ----------
    q : ndarray (B, T, N, K), float32 or float64
        Queries of N heads. Any strides; no copy of q, k and v is made if their last axes are contiguous. On a GPU q, k,
        v, beta and decay may also be bfloat16 or float16; the state is then float32, with K up to 128 and M up to 64.
    k : ndarray (B, T, N, K), or (B, T, M, N, K) with M factors per step
        Keys. The factors of a step are applied in order, and o is read after the last.
    v : ndarray (B, T, N, V), or (B, T, M, N, V)
        Values.
    beta : ndarray (B, T, N), or (B, T, M, N)
        Strengths.
    state : ndarray (B, N, K, V), optional
        State before the first step, or a tuple that contains it; zero by default.
    decay : ndarray (B, T, N), optional
        Applied once per step, before the first factor; 1 by default.
    method : {"auto", "sequential", "chunk"}
        "sequential" computes the steps one by one; "chunk" computes several at a time as matrix products and a
        triangular system (the WY form). They agree up to rounding. "auto" is "sequential", which is faster on a CPU.
    chunk : int
        The number of factors per chunk for method "chunk", 1 to 256.
    reverse : bool
        From the last step to the first; tensors, and arrays with ``lengths`` or ``cu_seqlens``, are copied in reverse.
        The factors of a step keep their order.
    reset : bool ndarray (B, T) or (T,), optional
        True where a new sequence begins: the state before this step, including an initial ``state``, counts as zero.
    lengths : integers (B,), optional
        Valid steps of each row, 0 to T; later steps are not computed and their o is 0.
    cu_seqlens : integers (S + 1,), optional
        S sequences packed into one row (B = 1): sequence s is the steps cu_seqlens[s] to cu_seqlens[s + 1]. state and
        last are then (S, N, K, V).
    out : ndarray (B, T, N, V), optional
        Where o is written.
    backend : {"cpu", "reference"}, optional
        "reference" runs the specification in plain NumPy.

    Returns
    -------
    o : ndarray (B, T, N, V)
        The outputs of all steps.
    last : ndarray (B, N, K, V)
        State after the last valid step; passed as ``state``, it continues the sequence exactly with method
        "sequential", and up to rounding with method "chunk".

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.
    BackendError
        If the backend cannot run.

    See Also
    --------
    fastiter.torch.delta_scan : The same on tensors, with gradients.

    References
    ----------
    Schlag et al. (2021) and Yang et al. (2024), DeltaNet; Yang et al. (2025), Gated Delta Networks; Siems et al.
    (2025), DeltaProduct; Grazzi et al. (2025), beta up to 2.

    Examples
    --------
    >>> import numpy as np, fastiter
    >>> rng = np.random.default_rng(0)
    >>> k, v = rng.standard_normal((1, 3, 1, 4)), rng.standard_normal((1, 3, 1, 2))
    >>> k /= np.linalg.norm(k, axis=-1, keepdims=True)
    >>> o, last = fastiter.delta_scan(k, k, v, np.ones((1, 3, 1)))  # with beta = 1, the value written is read back
    >>> bool(np.allclose(o, v)), last.shape
    (True, (1, 1, 4, 2))
    """
    function = "delta_scan"
    run = choose(function, _BACKENDS, backend, q)
    if is_cuda(run):
        cut = {"reverse": reverse, "reset": reset, "lengths": lengths, "cu_seqlens": cu_seqlens}
        result: tuple[Array, Array] = run(q, k, v, beta, state, decay=decay, method=method, chunk=chunk, **cut, out=out)
        return result
    check_flag(function, "reverse", reverse)
    state = as_part(state)
    every = ("q", "k", "v", "beta", "state", "decay"), (q, k, v, beta, state, decay)
    q, k, v, beta, state, decay = as_arrays(function, *every)
    names, arrays = ["q", "k", "v", "beta"], [q, k, v, beta]
    if state is not None:
        names.append("state")
        arrays.append(state)
    if decay is not None:
        names.append("decay")
        arrays.append(decay)
    check_arrays(function, names, arrays)
    sizes = check_shapes(function, q.shape, k.shape, v.shape, beta.shape, None if decay is None else decay.shape)
    check_method(function, method, chunk)
    chosen = plan(method, chunk, sizes.factors)
    rows = checked_sequences(function, sizes.batch, sizes.time, reset, lengths, cu_seqlens, "q")
    if state is not None:
        check_state(function, state.shape, sizes, rows.count(sizes.batch), cu_seqlens is not None)
    if out is not None:
        check_out(function, out, (*q.shape[:3], sizes.values), names, arrays)
    o = empty((*q.shape[:3], sizes.values), q.dtype) if out is None else out
    if not reverse:
        return o, run(sizes, chosen, q, k, v, beta, state, decay, rows, o)

    def run_on(timed: Sequence[Any], rows: Sequences, o: Array) -> Array:
        *inputs, decay = timed
        last: Array = run(sizes, chosen, *inputs, state, decay, rows, o)
        return last

    return o, backwards(run_on, (q, k, v, beta, decay), rows, o)


def _shape(sizes: Sizes, chosen: Plan, rows: Sequences) -> tuple[Any, ...]:
    """Return the kernels' description of the work."""
    starts, lengths = None, rows.lengths
    if rows.cu_seqlens is not None:
        starts, lengths = rows.cu_seqlens, np.diff(rows.cu_seqlens)
    return (rows.count(sizes.batch), *sizes[1:], starts, lengths, rows.reset, chosen.forward, chosen.period)


def _cpu(
    sizes: Sizes,
    chosen: Plan,
    q: Array,
    k: Array,
    v: Array,
    beta: Array,
    state: Array | None,
    decay: Array | None,
    rows: Sequences,
    out: Array,
) -> Array:
    o = unit_stride(out)
    last = empty((rows.count(sizes.batch), sizes.heads, sizes.keys, sizes.values), q.dtype)
    arrays = (unit_stride(q), unit_stride(k), unit_stride(v), np.ascontiguousarray(beta))
    decay, state = (None if x is None else np.ascontiguousarray(x) for x in (decay, state))
    _core.delta.forward(_shape(sizes, chosen, rows), *arrays, decay, state, o, last, None, None)
    if o is not out:
        out[...] = o
    return last


def _reference(
    sizes: Sizes,
    chosen: Plan,
    q: Array,
    k: Array,
    v: Array,
    beta: Array,
    state: Array | None,
    decay: Array | None,
    rows: Sequences,
    out: Array,
) -> Array:
    from . import reference

    out[...], last = reference.delta_scan(q, k, v, beta, state, decay=decay, **rows._asdict())
    return last


_BACKENDS: Backends[Any] = {
    "cpu": _cpu,
    "cuda": Cuda("fastiter.torch", "delta_scan"),
    "reference": _reference,
}
