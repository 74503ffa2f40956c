"""The generalised delta rule on NumPy arrays: S = diag(decay) S' + b (S'^T a)^T + k v^T, o = scale S^T q."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from .._backend import Backend, Backends, choose
from .._check import check_flag, empty
from .._sequences import Sequences, backwards, checked_sequences
from ._arrays import Array, aligned, check_out, computed, from_likes
from ._attention import at_all_steps, check_attention_dtypes
from ._attention_shapes import (
    AttentionSizes,
    check_attention_shapes,
    check_attention_state,
    check_correction_shapes,
    checked_scale,
    chosen_decay,
)


class _Call(NamedTuple):
    """The checked arguments; the decay is expanded to all steps."""

    q: Array
    k: Array
    v: Array
    decay: Array | None
    a: Array
    b: Array
    state: Array | None
    form: int
    scale: float


def dplr_delta_rule(
    q: Array,
    k: Array,
    v: Array,
    a: Array,
    b: Array,
    log_decay: Array | None = None,
    *,
    decay: Array | None = None,
    scale: float = 1.0,
    state: Array | None = None,
    reverse: bool = False,
    reset: Array | None = None,
    lengths: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
    out: Array | None = None,
    backend: Backend | None = None,
) -> tuple[Array, Array]:
    """S[t] = (diag(decay[t]) + b[t] a[t]^T) S[t-1] + k[t] v[t]^T, o[t] = scale S[t]^T q[t].

    Linear attention whose transition is diagonal plus low rank (DPLR): the value stored under a is also added under b.
    This is RWKV-7's rule; with a = decay k and b = -beta k, and beta v as values, it is the delta rule with a decay for
    each key (KDA), and with a decay for each head the gated delta rule.

    Parameters
    ----------
    q, k : ndarray (B, T, H, K), float32, float64, float16 or bfloat16
        Queries and keys, in any layout. 16-bit and 32-bit inputs are computed in float32.
    v : ndarray (B, T, N, V)
        Values; N is a multiple of H, and head n uses q and k of head n // (N / H).
    a, b : ndarray (B, T, N, K)
        The factors of the correction; a reads the state before it decays.
    log_decay, decay : ndarray (B, T, N), (B, T, N, K) or (N,), optional
        As for :func:`linear_attention`.
    scale : float
        A factor of q.
    state : ndarray (B, N, K, V), float32 or float64, optional
        State before the first step; zero by default.
    reverse : bool
        From the last step to the first; tensors, and arrays with ``lengths`` or ``cu_seqlens``, are copied in reverse.
    reset : bool ndarray (B, T) or (T,), optional
        True where the previous state counts as zero.
    lengths : integers (B,), optional
        Valid steps of each row, 0 to T; later steps are not computed and their o is 0.
    cu_seqlens : integers (S + 1,), optional
        S sequences packed into one row (B = 1): sequence s is the steps cu_seqlens[s] to cu_seqlens[s + 1]. The states
        are then (S, N, K, V).
    out : ndarray (B, T, N, V), optional
        Where o is written, with any strides.
    backend : {"cpu", "reference"}, optional
        "reference" runs the specification in plain NumPy.

    Returns
    -------
    o : ndarray (B, T, N, V)
        In the dtype of v.
    last : ndarray (B, N, K, V), float32 or float64
        State after the last valid step; passed as ``state``, it continues the sequence exactly.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.
    BackendError
        If the backend cannot run.

    See Also
    --------
    linear_attention : The rule without the correction.
    fastiter.delta_scan : The delta rule with a beta for each step.
    fastiter.torch.ssm.dplr_delta_rule : The same on tensors, with gradients.

    References
    ----------
    Peng et al. (2025), RWKV-7; Kimi team (2025), Kimi linear.

    Examples
    --------
    >>> import numpy as np, fastiter.ssm
    >>> k = np.eye(2)[[0, 1, 0]].reshape(1, 3, 1, 2)  # the third step writes to the same place as the first
    >>> v = np.array([5.0, 6.0, 7.0]).reshape(1, 3, 1, 1)
    >>> fastiter.ssm.dplr_delta_rule(k, k, v, k, -k)[1].ravel().tolist()  # and replaces it
    [7.0, 6.0]
    """
    function = "dplr_delta_rule"
    run = choose(function, _BACKENDS, backend)
    q, k, v, a, b, log_decay, decay, state = from_likes(
        function, q=q, k=k, v=v, a=a, b=b, log_decay=log_decay, decay=decay, state=state
    )
    optional = {"log_decay": log_decay, "decay": decay, "state": state}
    inputs: dict[str, Any] = {"q": q, "k": k, "v": v, "a": a, "b": b}
    arrays = inputs | {name: x for name, x in optional.items() if x is not None}
    check_attention_dtypes(function, arrays, ("state",))
    decays, form = chosen_decay(function, {"log_decay": log_decay, "decay": decay})
    factor = checked_scale(function, scale, q.dtype == np.float64)
    shapes = {name: x.shape for name, x in arrays.items()}
    sizes = check_attention_shapes(function, shapes)
    check_correction_shapes(function, shapes, sizes)
    check_flag(function, "reverse", reverse)
    cut = checked_sequences(function, sizes.batch, sizes.time, reset, lengths, cu_seqlens, "q")
    if state is not None:
        count = cut.count(sizes.batch)
        check_attention_state(function, state.shape, count, sizes, cut.cu_seqlens is not None)
    if out is not None:
        check_out(function, out, "v", arrays, cut.reset)
    o = empty(v.shape, v.dtype) if out is None else out
    call = _Call(q, k, v, at_all_steps(sizes, decays), a, b, state, form, factor)
    if reverse:
        return o, backwards(lambda x, cut, o: run(sizes, _Call._make([*x, *call[6:]]), cut, o), call[:6], cut, o)
    return o, run(sizes, call, cut, o)


def _cpu(sizes: AttentionSizes, call: _Call, cut: Sequences, out: Array) -> Array:
    count = cut.count(sizes.batch)
    o, last = aligned(out), empty(sizes.states(count), computed(call.q))
    first = None if call.state is None else np.ascontiguousarray(call.state)
    work = (count, sizes.time, cut.lengths, cut.cu_seqlens, cut.reset)
    numbers = (sizes.heads, sizes.heads // sizes.key_heads, sizes.keys, sizes.values)
    inputs: tuple[Any, ...] = (*(aligned(x) for x in call[:6]), None, first)
    _core.ssm.low_rank_forward((work, *numbers, call.scale, call.form), inputs, o, last, None, None)
    if o is not out:
        out[...] = o
    return last


def _reference(sizes: AttentionSizes, call: _Call, cut: Sequences, out: Array) -> Array:
    from . import reference, reference_attention

    dtype = computed(call.q)
    q, k, v, a, b = (x.astype(dtype) for x in (*call[:3], call.a, call.b))
    decay, first = (None if x is None else x.astype(dtype) for x in (call.decay, call.state))
    factors = None if decay is None else reference_attention.FACTORS[call.form](decay)
    cuts = reference.Cut(*cut)
    out[...], last = reference_attention.linear_attention(
        q, k, v, factors, None, call.scale, state=first, cut=cuts, correction=(a, b)
    )
    return last


_BACKENDS: Backends[Array] = {"cpu": _cpu, "reference": _reference}
