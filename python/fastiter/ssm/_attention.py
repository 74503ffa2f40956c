"""Linear attention on NumPy arrays: S[t] = decay[t] S[t-1] + k v^T, o[t] = scale S[t]^T q[t]."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from .._backend import Backend, Backends, choose
from .._check import check_array, check_flag, empty
from .._sequences import Sequences, backwards, checked_sequences
from ._arrays import STORED, Array, aligned, check_out, computed, from_likes
from ._attention_shapes import (
    AttentionSizes,
    check_attention_shapes,
    check_attention_state,
    checked_scale,
    chosen_decay,
)


class _Call(NamedTuple):
    """The checked arguments; the decay has all steps."""

    q: Array
    k: Array
    v: Array
    decay: Array | None
    bonus: Array | None
    state: Array | None
    form: int
    scale: float


def linear_attention(
    q: Array,
    k: Array,
    v: Array,
    log_decay: Array | None = None,
    *,
    decay: Array | None = None,
    bonus: Array | None = None,
    scale: float = 1.0,
    state: Array | None = None,
    reverse: bool = False,
    reset: Array | None = None,
    lengths: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
    out: Array | None = None,
    backend: Backend | None = None,
) -> tuple[Array, Array]:
    """S[t] = decay[t] S[t-1] + k[t] v[t]^T, o[t] = scale S[t]^T q[t]: attention whose memory is a matrix for each head.

    Without a decay this is linear attention; with a fixed decay for each head it is retention or lightning attention;
    with one that depends on the step, Mamba-2 or simple GLA; and with one for each of the K rows of the state, GLA or
    HGRN-2. With ``bonus`` the output is read before the step, o[t] = scale (S[t-1] + diag(bonus) k v^T)^T q, which is
    RWKV-6. Sums have the order of a loop over the steps, whatever the number of threads.

    Parameters
    ----------
    q, k : ndarray (B, T, H, K), float32, float64, float16 or bfloat16
        Queries and keys, in any layout. 16-bit and 32-bit inputs are computed in float32.
    v : ndarray (B, T, N, V)
        Values; N is a multiple of H, and head n uses q and k of head n // (N / H).
    log_decay : ndarray (B, T, N), (B, T, N, K) or (N,), optional
        The state is multiplied by its exponential at each step: one value for each head, or one for each row of the
        head's state. Minus infinity forgets everything.
    decay : ndarray, optional
        The factor itself instead of its logarithm: any number, including 0 and negative numbers.
    bonus : ndarray (N, K), float32, or float64 if q is, optional
        The weight of the current step; the output is then read before the step.
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
    ssd : The same with Mamba-2's names and layout.
    dplr_delta_rule : Linear attention with a correction of the state at each step.
    fastiter.torch.ssm.linear_attention : The same on tensors, with gradients.

    References
    ----------
    Katharopoulos et al. (2020), linear attention; Sun et al. (2023), retention; Yang et al. (2024), gated linear
    attention; Dao and Gu (2024), Mamba-2; Peng et al. (2024), RWKV-6.

    Examples
    --------
    >>> import numpy as np, fastiter.ssm
    >>> q = k = v = np.ones((1, 4, 1, 1))
    >>> o, last = fastiter.ssm.linear_attention(q, k, v, decay=np.array([0.5]))  # the memory halves with each step
    >>> o.ravel().tolist(), last.item()
    ([1.0, 1.5, 1.75, 1.875], 1.875)
    """
    function = "linear_attention"
    run = choose(function, BACKENDS, backend)
    q, k, v, log_decay, decay, bonus, state = from_likes(
        function, q=q, k=k, v=v, log_decay=log_decay, decay=decay, bonus=bonus, state=state
    )
    inputs = {"q": q, "k": k, "v": v, "log_decay": log_decay, "decay": decay, "bonus": bonus}
    every = {**inputs, "state": state}
    arrays: dict[str, Any] = {name: x for name, x in every.items() if x is not None or name in ("q", "k", "v")}
    check_attention_dtypes(function, arrays, ("bonus", "state"))
    decays, form = chosen_decay(function, {"log_decay": log_decay, "decay": decay})
    factor = checked_scale(function, scale, q.dtype == np.float64)
    sizes = check_attention_shapes(function, {name: x.shape for name, x in arrays.items()})
    check_flag(function, "reverse", reverse)
    cut = checked_sequences(function, sizes.batch, sizes.time, reset, lengths, cu_seqlens, "q")
    if state is not None:
        count = cut.count(sizes.batch)
        check_attention_state(function, state.shape, count, sizes, cut.cu_seqlens is not None)
    if out is not None:
        check_out(function, out, "v", arrays, cut.reset)
    o = empty(v.shape, v.dtype) if out is None else out
    call = _Call(q, k, v, at_all_steps(sizes, decays), bonus, state, form, factor)
    if reverse:
        return o, backwards(lambda x, cut, o: run(sizes, _Call._make([*x, *call[4:]]), cut, o), call[:4], cut, o)
    return o, run(sizes, call, cut, o)


def check_attention_dtypes(function: str, arrays: Mapping[str, Any], exact: Collection[str]) -> None:
    """Check dtypes: float64 combines only with float64; arrays named in ``exact`` have the dtype of the arithmetic."""
    first = next(iter(arrays))
    for name, x in arrays.items():
        check_array(function, name, x, STORED)
        dtype = computed(arrays[first])
        is_exact = name in exact
        if (is_exact and x.dtype != dtype) or (x.dtype == np.float64) != (dtype == np.float64):
            expected = str(dtype) if is_exact or dtype == np.float64 else "float32, float16 or bfloat16"
            head = f"{arrays[first].dtype} {first}"
            raise TypeError(f"{function}: {name} must have dtype {expected} to go with {head}, got {x.dtype}")


def at_all_steps(sizes: AttentionSizes, decay: Array | None) -> Array | None:
    """Return the decay with an axis of steps."""
    if decay is not None and decay.ndim == 1:
        return np.broadcast_to(decay, (sizes.batch, sizes.time, sizes.heads))
    return decay


def _cpu(sizes: AttentionSizes, call: _Call, cut: Sequences, out: Array) -> Array:
    count = cut.count(sizes.batch)
    last = empty(sizes.states(count), computed(call.q))
    bonus, first = (None if x is None else np.ascontiguousarray(x) for x in (call.bonus, call.state))
    inputs = (*(aligned(x) for x in call[:4]), bonus, first)
    work = (count, sizes.time, cut.lengths, cut.cu_seqlens, cut.reset)
    numbers = (sizes.heads, sizes.heads // sizes.key_heads, sizes.keys, sizes.values)
    o = aligned(out)
    _core.ssm.attention_forward((work, *numbers, call.scale, call.form), inputs, None, o, last, None)
    if o is not out:
        out[...] = o
    return last


def _reference(sizes: AttentionSizes, call: _Call, cut: Sequences, out: Array) -> Array:
    from . import reference
    from . import reference_attention as specification

    dtype = computed(call.q)
    q, k, v = (x.astype(dtype) for x in call[:3])
    decay, bonus, first = (None if x is None else x.astype(dtype) for x in (call.decay, call.bonus, call.state))
    factors = None if decay is None else specification.FACTORS[call.form](decay)
    cuts = reference.Cut(*cut)
    out[...], last = specification.linear_attention(q, k, v, factors, bonus, call.scale, state=first, cut=cuts)
    return last


BACKENDS: Backends[Array] = {"cpu": _cpu, "reference": _reference}
