"""mLSTM on NumPy arrays: a matrix memory with exponential gates, and a vector that normalises its output."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from .._backend import Backend, Backends, choose
from .._check import check_flag, empty
from .._sequences import Sequences, backwards, checked_sequences
from ._arrays import Array, aligned, check_out, computed, from_likes
from ._attention import check_attention_dtypes
from ._attention_shapes import AttentionSizes
from ._mlstm_shapes import check_mlstm_shapes, check_mlstm_state, checked_numbers, named_state, parts_of

State = tuple[Array, Array, Array]


class _Call(NamedTuple):
    """The checked arguments."""

    q: Array
    k: Array
    v: Array
    i: Array
    f: Array
    state: tuple[Array | None, ...]
    scale: float
    eps: float


def mlstm(
    q: Array,
    k: Array,
    v: Array,
    i: Array,
    f: Array,
    *,
    state: State | None = None,
    scale: float | None = None,
    eps: float = 1e-6,
    reverse: bool = False,
    reset: Array | None = None,
    lengths: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
    out: Array | None = None,
    backend: Backend | None = None,
) -> tuple[Array, State]:
    """C = F C + I k v^T, n = F n + I k, h = C^T q / (max(|n q|, e^-m) + eps): xLSTM's mLSTM.

    With lf = log sigmoid(f) and the running maximum m = max(lf + m', i), the factors F = e^(lf + m' - m) of the memory
    and I = e^(i - m) of its input are at most 1. The states are relative to m: in the equations without m they would be
    e^m times as large, with the same h except for eps.

    Parameters
    ----------
    q, k : ndarray (B, T, H, K), float32, float64, float16 or bfloat16
        Queries and keys, in any layout. 16-bit and 32-bit inputs are computed in float32.
    v : ndarray (B, T, N, V)
        Values; N is a multiple of H, and head n uses q and k of head n // (N / H).
    i, f : ndarray (B, T, N)
        The pre-activations of the input gate (exponential) and the forget gate (sigmoid).
    state : tuple of C (B, N, K, V), n (B, N, K) and m (B, N), float32 or float64, optional
        State before the first step; zeros by default.
    scale : float, optional
        A factor of q; 1 / sqrt(K) by default.
    eps : float
        Added to the divisor.
    reverse : bool
        From the last step to the first; tensors, and arrays with ``lengths`` or ``cu_seqlens``, are copied in reverse.
    reset : bool ndarray (B, T) or (T,), optional
        True where the previous state, including m, counts as zero.
    lengths : integers (B,), optional
        Valid steps of each row, 0 to T; later steps are not computed and their h is 0.
    cu_seqlens : integers (S + 1,), optional
        S sequences packed into one row (B = 1): sequence s is the steps cu_seqlens[s] to cu_seqlens[s + 1]. The states
        then have S rows.
    out : ndarray (B, T, N, V), optional
        Where h is written, with any strides.
    backend : {"cpu", "reference"}, optional
        "reference" runs the specification in plain NumPy.

    Returns
    -------
    h : ndarray (B, T, N, V)
        In the dtype of v.
    last : tuple of C, n and m
        State after the last valid step; passed as ``state``, it continues the sequence exactly.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.
    BackendError
        If the backend cannot run.

    See Also
    --------
    linear_attention : The memory without normaliser and exponential gates.
    fastiter.slstm : The cell of xLSTM whose states are vectors.
    fastiter.torch.ssm.mlstm : The same on tensors, with gradients.

    References
    ----------
    Beck et al. (2024), xLSTM: extended long short-term memory.

    Examples
    --------
    >>> import numpy as np, fastiter.ssm
    >>> q = k = np.ones((1, 4, 1, 1))
    >>> v = np.arange(4.0).reshape(1, 4, 1, 1)
    >>> gate = np.full((1, 4, 1), 30.0)  # keep everything, with equal weights for all steps: h is the mean of v so far
    >>> fastiter.ssm.mlstm(q, k, v, gate, gate, eps=0)[0].ravel().round(6).tolist()
    [0.0, 0.5, 1.0, 1.5]
    """
    function = "mlstm"
    run = choose(function, _BACKENDS, backend)
    parts = parts_of(function, state)
    named = {} if state is None else named_state(parts)
    q, k, v, i, f, *converted = from_likes(function, q=q, k=k, v=v, i=i, f=f, **named)
    inputs, named = {"q": q, "k": k, "v": v, "i": i, "f": f}, dict(zip(named, converted, strict=True))
    parts = tuple(converted) if named else parts
    check_attention_dtypes(function, {**inputs, **named}, tuple(named))
    sizes = check_mlstm_shapes(function, {name: x.shape for name, x in inputs.items()})
    numbers = checked_numbers(function, scale, eps, sizes.keys, q.dtype == np.float64)
    check_flag(function, "reverse", reverse)
    cut = checked_sequences(function, sizes.batch, sizes.time, reset, lengths, cu_seqlens, "q")
    if named:
        check_mlstm_state(function, {name: x.shape for name, x in named.items()}, cut.count(sizes.batch), sizes)
    if out is not None:
        check_out(function, out, "v", {**inputs, **named}, cut.reset)
    h = empty(v.shape, v.dtype) if out is None else out
    call = _Call(q, k, v, i, f, parts, *numbers)
    if reverse:
        return h, backwards(lambda x, cut, h: run(sizes, _Call._make([*x, *call[5:]]), cut, h), call[:5], cut, h)
    return h, run(sizes, call, cut, h)


def _cpu(sizes: AttentionSizes, call: _Call, cut: Sequences, out: Array) -> State:
    count, dtype = cut.count(sizes.batch), computed(call.q)
    shape = sizes.states(count)
    h, (last, last_n, last_m) = aligned(out), (empty(s, dtype) for s in (shape, shape[:3], shape[:2]))
    first, n, m = (None if x is None else np.ascontiguousarray(x) for x in call.state)
    inputs: tuple[Any, ...] = (aligned(call.q), aligned(call.k), aligned(call.v), None, None, first)
    gates = (aligned(call.i), aligned(call.f), call.eps, n, m, last_n, last_m, None, None)
    work = (count, sizes.time, cut.lengths, cut.cu_seqlens, cut.reset)
    numbers = (sizes.heads, sizes.heads // sizes.key_heads, sizes.keys, sizes.values)
    _core.ssm.attention_forward((work, *numbers, call.scale, 1), inputs, gates, h, last, None)
    if h is not out:
        out[...] = h
    return last, last_n, last_m


def _reference(sizes: AttentionSizes, call: _Call, cut: Sequences, out: Array) -> State:
    from . import reference, reference_attention

    dtype = computed(call.q)
    arrays = [x.astype(dtype) for x in call[:5]]
    C, n, m = call.state
    parts = None if C is None or n is None or m is None else (C, n, m)
    cuts = reference.Cut(*cut)
    out[...], last = reference_attention.mlstm(*arrays, state=parts, scale=call.scale, eps=call.eps, cut=cuts)
    return last


_BACKENDS: Backends[State] = {"cpu": _cpu, "reference": _reference}
