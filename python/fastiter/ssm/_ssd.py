"""Mamba-2's scan on NumPy arrays: S = exp(d A) S + d x B^T, y = S C + D x, out = y z s(z)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .._backend import Backend, choose
from .._check import check_flag
from .._sequences import checked_sequences
from ._arrays import Array, check_out, computed, from_likes
from ._attention import BACKENDS, check_attention_dtypes, linear_attention
from ._ssd_shapes import check_ssd_shapes, check_ssd_state, checked_limits


def ssd(
    x: Array,
    dt: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    z: Array | None = None,
    dt_bias: Array | None = None,
    dt_softplus: bool = False,
    *,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    state: Array | None = None,
    reverse: bool = False,
    reset: Array | None = None,
    lengths: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
    out: Array | None = None,
    backend: Backend | None = None,
) -> tuple[Array, Array]:
    """S[t] = exp(d A) S[t-1] + d x B^T, out[t] = (S[t] C + D x) z s(z): Mamba-2's recurrence.

    The step size d is dt + dt_bias, or its softplus with ``dt_softplus``, clamped to ``dt_limit``. This is
    :func:`linear_attention` with C as queries, B as keys, d x as values, and exp(d A) as the decay of a head.

    Parameters
    ----------
    x : ndarray (B, T, H, P), float32, float64, float16 or bfloat16
        Inputs of H heads of P channels. 16-bit and 32-bit inputs are computed in float32.
    dt : ndarray (B, T, H)
        Step sizes.
    A : ndarray (H,), float32, or float64 if x is
        Rates, usually negative.
    B, C : ndarray (B, T, G, N)
        Weights of input and output for N states, shared by the H / G heads of each of G groups.
    D : ndarray (H,) or (H, P), optional
        Weight of x in the output; dtype of A.
    z : ndarray (B, T, H, P), optional
        The gate of the output.
    dt_bias : ndarray (H,), optional
        Added to dt; dtype of A.
    dt_softplus : bool
        Apply log(1 + e^x) to dt + dt_bias.
    dt_limit : pair of float
        Bounds of d.
    state : ndarray (B, H, P, N), optional
        State before the first step; zero by default; dtype of A.
    reverse : bool
        From the last step to the first; tensors, and arrays with ``lengths`` or ``cu_seqlens``, are copied in reverse.
    reset : bool ndarray (B, T) or (T,), optional
        True where the previous state counts as zero.
    lengths : integers (B,), optional
        Valid steps of each row, 0 to T; later steps are not computed and their out is 0.
    cu_seqlens : integers (S + 1,), optional
        S sequences packed into one row (B = 1): sequence s is the steps cu_seqlens[s] to cu_seqlens[s + 1]. The states
        are then (S, H, P, N).
    out : ndarray (B, T, H, P), optional
        Where the output is written, with any strides.
    backend : {"cpu", "reference"}, optional
        "reference" runs the specification in plain NumPy.

    Returns
    -------
    out : ndarray (B, T, H, P)
        In the dtype of x.
    last : ndarray (B, H, P, N), float32 or float64
        State after the last valid step.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.
    BackendError
        If the backend cannot run.

    See Also
    --------
    linear_attention : The recurrence with the names of queries, keys and values.
    selective_scan : Mamba's recurrence, with a rate for each channel and state.
    fastiter.torch.ssm.ssd : The same on tensors, with gradients.

    References
    ----------
    Dao and Gu (2024), Transformers are SSMs: structured state-space duality.

    Examples
    --------
    >>> import numpy as np, fastiter.ssm
    >>> x, one = np.ones((1, 4, 1, 1)), np.ones((1, 4, 1, 1))
    >>> out, last = fastiter.ssm.ssd(x, np.log(2) * np.ones((1, 4, 1)), -np.ones(1), one, one)
    >>> (out / out[0, 0]).ravel().tolist(), last.shape  # the state halves with each step
    ([1.0, 1.5, 1.75, 1.875], (1, 1, 1, 1))
    """
    function = "ssd"
    choose(function, BACKENDS, backend)
    check_flag(function, "dt_softplus", dt_softplus)
    x, dt, A, B, C, D, z, dt_bias, state = from_likes(
        function, x=x, dt=dt, A=A, B=B, C=C, D=D, z=z, dt_bias=dt_bias, state=state
    )
    every = {"x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D, "z": z, "dt_bias": dt_bias}
    optional = ("D", "z", "dt_bias", "state")
    inputs = {**every, "state": state}
    arrays: dict[str, Any] = {name: y for name, y in inputs.items() if y is not None or name not in optional}
    check_attention_dtypes(function, arrays, ("A", "D", "dt_bias", "state"))
    shapes = {name: y.shape for name, y in arrays.items()}
    size = check_ssd_shapes(function, shapes)
    limits = checked_limits(function, dt_limit)
    check_flag(function, "reverse", reverse)
    cut = checked_sequences(function, *size, reset, lengths, cu_seqlens, "x")
    if state is not None:
        check_ssd_state(function, state.shape, cut.count(size[0]), shapes)
    if out is not None:
        check_out(function, out, "x", arrays, cut.reset)
    own: dict[str, Any] = {"state": None if state is None else state.swapaxes(2, 3), "backend": backend}
    own["out"] = out if out is not None and out.dtype == computed(x) else None  # else the sums are rounded at the end
    cuts: dict[str, Any] = {"reverse": reverse, "reset": reset, "lengths": lengths, "cu_seqlens": cu_seqlens}
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # no warnings, like the kernels
        wide, steps, gate = (_valid(y, cut.lengths) for y in (x, dt, z))
        assert wide is not None  # for the type checker, as is steps
        assert steps is not None
        d = _step_sizes(steps, dt_bias, dt_softplus, limits)
        y, last = linear_attention(C, B, wide * d[..., None], d * A, **own, **cuts)
        if D is not None:
            y += (D if D.ndim == 2 else D[:, None]) * wide
        if gate is not None:
            y *= _silu(gate)
        if out is None:
            out = y.astype(x.dtype, copy=False)
        elif y is not out:
            out[...] = y
        return out, last.swapaxes(2, 3)


def _valid(x: Array | None, lengths: Array | None) -> Array | None:
    """Return a signal in the dtype of the arithmetic, with zeros beyond the valid steps of each row."""
    if x is None:
        return None
    wide = x.astype(computed(x))
    if lengths is not None:
        wide[np.arange(x.shape[1]) >= lengths[:, None]] = 0
    return wide


def _silu(z: Array) -> Array:
    """z / (1 + e^-z) without overflow."""
    e = np.exp(-np.abs(z))
    y: Array = z * np.where(z >= 0, 1, e) / (1 + e)
    return y


def _step_sizes(dt: Array, bias: Array | None, use_softplus: bool, limits: tuple[float, float]) -> Array:
    d: Array = dt if bias is None else dt + bias
    if use_softplus:
        d = np.logaddexp(d, d.dtype.type(0))
    y: Array = np.clip(d, *(d.dtype.type(limit) for limit in limits))
    return y
