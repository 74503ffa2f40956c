"""Selective scans on NumPy arrays: h = exp(d A) h + d B u, y = C h + D u, with d = softplus(delta + delta_bias)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from .._backend import Backend, Backends, choose
from .._check import check_apart, check_array, check_flag, check_room, empty, integers
from .._sequences import Sequences, backwards, checked_sequences
from ._arrays import STORED, Array, aligned, check_out, computed, from_likes
from ._shapes import Sizes, check_shapes, check_state, check_step_shapes, may_be_complex, present_in


class _Call(NamedTuple):
    """The checked arguments, those with an axis of steps first; B and C have groups or are fixed."""

    u: Array
    delta: Array
    z: Array | None
    B: Array
    C: Array
    A: Array
    D: Array | None
    delta_bias: Array | None
    state: Array | None
    softplus: bool


def selective_scan(
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    z: Array | None = None,
    delta_bias: Array | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    state: Array | None = None,
    reverse: bool = False,
    reset: Array | None = None,
    lengths: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
    out: Array | None = None,
    backend: Backend | None = None,
) -> Array | tuple[Array, Array]:
    """h[t] = exp(d[t] A) h[t-1] + d[t] B[t] u[t], out[t] = (C[t] h[t] + D u[t]) z s(z): the recurrence of Mamba.

    Each of D channels has N states, which decay at the rates A, receive u with the weights B and are read with the
    weights C; the step size d = delta + delta_bias, or its softplus, is also an input. s is the logistic sigmoid.
    Positional arguments are those of ``mamba_ssm``'s ``selective_scan_fn``.

    Parameters
    ----------
    u : ndarray (B, D, T), float32, float64, float16 or bfloat16 (of ml_dtypes)
        Inputs. Contiguous time or contiguous channels are fastest; no layout is copied.
    delta : ndarray (B, D, T)
        Step sizes. delta, z, B and C may each have any of the dtypes if u is not float64, else float64.
    A : ndarray (D, N), float32 or complex64, or float64 or complex128 if u is float64
        Rates; those with negative real parts decay. A complex A makes the state complex, and C h in the output is
        replaced by twice its real part, the sum over pairs of conjugate states.
    B, C : ndarray (B, N, T), or (B, G, N, T) with G groups of channels, or (D, N), the same for all steps
        Weights of inputs and outputs. Fixed ones have the dtype of A. Channel d belongs to group d // (D / G). With a
        complex A, (B, N, 2T) or (B, G, N, 2T): real and imaginary parts alternate.
    D : ndarray (D,), optional
        Weights of u in the output; dtype of A.
    z : ndarray (B, D, T), optional
        The gate of the output.
    delta_bias : ndarray (D,), optional
        Added to delta; dtype of A.
    delta_softplus : bool
        Apply log(1 + e^x) to delta + delta_bias.
    return_last_state : bool
        Also return the last state.
    state : ndarray (B, D, N), optional
        State before the first step; zero by default; dtype of A.
    reverse : bool
        From the last step to the first; tensors, and arrays with contiguous time, ``lengths`` or ``cu_seqlens``, are
        copied in reverse.
    reset : bool ndarray (B, T) or (T,), optional
        True where the previous state counts as zero.
    lengths : integers (B,), optional
        Valid steps of each row, 0 to T; later steps are not computed and their output is 0.
    cu_seqlens : integers (S + 1,), optional
        S sequences packed into one row (B = 1): sequence s is the steps cu_seqlens[s] to cu_seqlens[s + 1]. The states
        are then (S, D, N).
    out : ndarray (B, D, T), optional
        Where the output is written, with any strides.
    backend : {"cpu", "reference"}, optional
        "reference" runs the specification in plain NumPy.

    Returns
    -------
    out : ndarray (B, D, T)
        The outputs, in the dtype and memory order of u.
    last_state : ndarray (B, D, N)
        Only with ``return_last_state``; in the dtype of A. Passed as ``state``, it continues the sequence
        exactly.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.
    BackendError
        If the backend cannot run.

    See Also
    --------
    selective_state_update : Computes one step at a time.
    ssd : Mamba-2's recurrence, with one rate for each head.
    fastiter.linear_scan : The recurrence alone, for given factors.
    fastiter.torch.ssm.selective_scan : The same on tensors, with gradients.

    References
    ----------
    Gu and Dao (2023), Mamba: linear-time sequence modeling with selective state spaces.

    Examples
    --------
    >>> import numpy as np, fastiter.ssm
    >>> u = np.ones((1, 1, 4), np.float32)
    >>> A, B = -np.ones((1, 1), np.float32), np.ones((1, 1, 4), np.float32)
    >>> out = fastiter.ssm.selective_scan(u, np.float32(np.log(2)) * u, A, B, B)  # the state halves with each step
    >>> (out / out[0, 0, 0]).round(3).tolist()
    [[[1.0, 1.5, 1.75, 1.875]]]
    """
    function = "selective_scan"
    run = choose(function, _BACKENDS, backend)
    u, delta, A, B, C, D, z, delta_bias, state = from_likes(
        function, u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias, state=state
    )
    inputs = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}
    check_flag(function, "delta_softplus", delta_softplus)
    check_flag(function, "return_last_state", return_last_state)
    check_flag(function, "reverse", reverse)
    arrays = present_in({**inputs, "state": state}, "state")
    is_complex = _check_dtypes(function, arrays)
    sizes = check_shapes(function, arrays, is_complex)
    cut = checked_sequences(function, sizes.batch, sizes.time, reset, lengths, cu_seqlens, "u")
    if state is not None:
        check_state(function, state.shape, cut.count(sizes.batch), sizes, cut.cu_seqlens is not None)
    if out is None:
        out = like(u)
    else:
        check_out(function, out, "u", arrays, cut.reset)
    call = _Call(u, delta, z, _grouped(B), _grouped(C), A, D, delta_bias, state, delta_softplus)
    last = _backwards(run, sizes, call, cut, out) if reverse else run(sizes, call, cut, out)
    return (out, last) if return_last_state else out


def _check_dtypes(function: str, arrays: Mapping[str, Any], first: str = "u") -> bool:
    """Check dtypes: signals have any, or float64 if the first one does; weights have the dtype of the arithmetic.

    Return whether the states are complex, as in a scan with complex A.
    """
    is_complex = first == "u" and isinstance(arrays["A"], np.ndarray) and arrays["A"].dtype.kind == "c"
    for name, x in arrays.items():
        holds_states = is_complex and may_be_complex(name, getattr(x, "ndim", 0))
        check_array(function, name, x, (*STORED, "complex64", "complex128") if holds_states else STORED)
        head = arrays[first].dtype
        dtype = computed(arrays[first])
        is_signal = name in ("u", "x", "delta", "dt", "z") or (name in "BC" and x.ndim > 2)
        is_signal = is_signal or (first == "x" and name in ("B", "C", "state"))
        expected = str(dtype)
        if holds_states:
            dtype = np.result_type(dtype, np.complex64)
            expected = f"{expected} or {dtype}" if name == "A" else f"{dtype} like A"
        elif is_signal and dtype != np.float64:
            expected = "float32, float16 or bfloat16"
        if (is_signal and (x.dtype == np.float64) != (dtype == np.float64)) or (not is_signal and x.dtype != dtype):
            raise TypeError(f"{function}: {name} must have dtype {expected} to go with {head} {first}, got {x.dtype}")
    return is_complex


def _grouped(x: Array) -> Array:
    """Return B or C with an axis of groups."""
    return x[:, None] if x.ndim == 3 else x


def like(u: Array) -> Array:
    """Return an uninitialised array with the shape and dtype of u, with contiguous channels if u has them."""
    batch, channels, time = u.shape
    if abs(u.strides[1]) < abs(u.strides[2]):
        return empty((batch, time, channels), u.dtype).transpose(0, 2, 1)
    return empty(u.shape, u.dtype)


def _cpu(sizes: Sizes, call: _Call, cut: Sequences, out: Array) -> Array:
    count = cut.count(sizes.batch)
    last = empty((count, sizes.channels, sizes.states), call.A.dtype)
    sequences = (count, sizes.time, cut.lengths, cut.cu_seqlens, cut.reset)
    shape = (sequences, sizes.channels, sizes.groups, sizes.states, call.softplus, call.A.dtype.kind == "c")
    A, D, delta_bias, first = (None if x is None else np.ascontiguousarray(x) for x in call[5:9])
    B, C = (np.ascontiguousarray(x) if x.ndim == 2 else aligned(x) for x in (call.B, call.C))
    written: Any = aligned(out)
    signals = (aligned(call.u), aligned(call.delta), aligned(call.z), written)
    _core.ssm.selective_forward(shape, *signals, A, B, C, D, delta_bias, first, last, None)
    if written is not out:
        out[...] = written
    return last


def _reference(sizes: Sizes, call: _Call, cut: Sequences, out: Array) -> Array:
    from . import reference

    dtype = computed(call.u)
    wide: list[Any] = [x if x is None or x.dtype.kind == "c" else x.astype(dtype) for x in call[:9]]
    u, delta, z, B, C, A, D, delta_bias, state = wide
    if call.A.dtype.kind == "c":
        B, C = (x if x.ndim == 2 else reference.paired(x) for x in (B, C))
    inputs = (u, delta, A, B, C, D, z, delta_bias, call.softplus)
    out[...], last = reference.selective_scan(*inputs, state=state, cut=reference.Cut(*cut))
    return last


def _backwards(run: Callable[..., Array], sizes: Sizes, call: _Call, cut: Sequences, out: Array) -> Array:
    """Compute a scan from the last step to the first."""
    varying = [place for place, x in enumerate(call[:5]) if x is not None and x.ndim > 2]

    def run_on(timed: Sequence[Array], cut: Sequences, out: Array) -> Array:
        every = list(call)
        for place, x in zip(varying, timed, strict=True):
            x = np.moveaxis(x, 1, -2)
            every[place] = x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])
        return run(sizes, _Call._make(every), cut, np.moveaxis(out, 1, -1))

    timed: list[Array] = []
    signals: list[Any] = [call[place] for place in varying]
    for x in signals:
        numbers = x.shape[-1] // max(sizes.time, 1)  # real and imaginary parts are pairs along the last axis
        timed.append(np.moveaxis(x.reshape(*x.shape[:-1], sizes.time, numbers), -2, 1))
    return backwards(run_on, timed, cut, np.moveaxis(out, -1, 1))


_BACKENDS: Backends[Array] = {"cpu": _cpu, "reference": _reference}


def selective_state_update(
    state: Array,
    x: Array,
    dt: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    z: Array | None = None,
    dt_bias: Array | None = None,
    dt_softplus: bool = False,
    state_batch_indices: npt.ArrayLike | None = None,
) -> Array:
    """state = exp(d A) state + d B x, out = (C state + D x) z s(z): one step of :func:`selective_scan`, in place.

    The arguments are those of ``mamba_ssm``'s function of the same name. Mamba-2 has H heads of P channels; if A and dt
    are expanded from one number per head (with strides of 0), the factors are computed once per head.

    Parameters
    ----------
    state : ndarray (B, D, N) or (B, H, P, N), float32, float64, float16 or bfloat16
        The states, updated in place; they must not share memory with the other arguments.
    x, dt : ndarray (B, D) or (B, H, P)
        Input and step sizes.
    A : ndarray (D, N) or (H, P, N), float32, or float64 if x is
        Rates.
    B, C : ndarray (B, N), or (B, G, N) with G groups of heads
        Weights of input and output.
    D : ndarray (D,) or (H, P), optional
        Weight of x in the output; dtype of A.
    z : ndarray (B, D) or (B, H, P), optional
        The output's gate.
    dt_bias : ndarray (D,) or (H, P), optional
        Added to dt; dtype of A.
    dt_softplus : bool
        Apply log(1 + e^x) to dt + dt_bias.
    state_batch_indices : integers (B,), optional
        The row of ``state`` for each row of x; a negative index marks padding, whose output is 0. Each row may occur
        only once.

    Returns
    -------
    out : ndarray like x
        The output of the step.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.

    See Also
    --------
    selective_scan : Computes whole sequences.
    causal_conv1d_update : The step of the convolution that precedes the scan in Mamba.
    fastiter.torch.ssm.selective_state_update : The same on tensors.

    Examples
    --------
    >>> import numpy as np, fastiter.ssm
    >>> state, one = np.zeros((1, 1, 1)), np.ones((1, 1))
    >>> [fastiter.ssm.selective_state_update(state, one, np.log(2) * one, -one, one, one).item() for _ in range(2)]
    [0.6931471805599453, 1.0397207708399179]
    """
    function = "selective_state_update"
    check_flag(function, "dt_softplus", dt_softplus)
    x, dt, A, B, C, D, z, dt_bias = from_likes(function, x=x, dt=dt, A=A, B=B, C=C, D=D, z=z, dt_bias=dt_bias)
    arguments = {"x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D, "z": z, "dt_bias": dt_bias, "state": state}
    arrays = present_in(arguments)
    _check_dtypes(function, arrays, "x")
    shapes: dict[str, Any] = {name: y.shape for name, y in arrays.items()}
    rows = None
    if state_batch_indices is not None:
        rows = integers(function, "state_batch_indices", state_batch_indices)
        shapes["state_batch_indices"] = rows.shape
    sizes = check_step_shapes(function, shapes)
    check_room(function, state, state.shape, "state")
    read = {name: y for name, y in arrays.items() if name != "state"}
    check_apart(function, state, tuple(read), tuple(read.values()), "state")
    if rows is not None:
        check_rows(function, rows, state.shape[0])
    B, C = (y[:, None] if y.ndim == 2 else y for y in (B, C))
    out = np.empty(x.shape, x.dtype)
    if 0 in out.shape:
        return out
    assert sizes.batch == x.shape[0]
    memory = state if state.strides[-1] == state.itemsize and aligned(state) is state else np.ascontiguousarray(state)
    rates = A if A.strides[-1] in (0, A.itemsize) and aligned(A) is A else np.ascontiguousarray(A)
    inputs = (x, dt, rates, B, C, D, z, dt_bias)
    _core.ssm.state_update(tuple([aligned(y) for y in inputs]), memory, rows, dt_softplus, out)
    if memory is not state:
        state[...] = memory
    return out


def check_rows(function: str, rows: Array, count: int, name: str = "state_batch_indices", state: str = "state") -> None:
    """Check that the indices ``name`` are rows of the state, each at most once, or negative."""
    used = rows[rows >= 0]
    if used.size and int(used.max()) >= count:
        raise ValueError(
            f"{function}: {name} must be below the number of rows of {state}, {count}, got {int(used.max())}"
        )
    if len(np.unique(used)) != len(used):
        raise ValueError(f"{function}: {name} must have each row of {state} at most once, got one twice")
