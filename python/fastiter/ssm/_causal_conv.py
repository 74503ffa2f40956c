"""Causal convolutions of channels along time on NumPy arrays: out[t] = act(bias + sum_j weight[j] x[t - W + 1 + j])."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from .._backend import Backend, Backends, choose
from .._check import check_array, check_flag, check_room, empty, integers
from .._sequences import Sequences, backwards, check_bounds, checked_sequences
from ._arrays import STORED, Array, aligned, check_out, computed, from_likes
from ._conv_shapes import (
    Activation,
    ConvSizes,
    check_activation,
    check_conv_shapes,
    check_conv_state,
    check_label_range,
    check_seq_idx,
    check_state_len,
    check_update_shapes,
)
from ._functional import check_rows, like
from ._shapes import present_in

_COMPUTED = (np.dtype(np.float32), np.dtype(np.float64))


class _Call(NamedTuple):
    """The checked arguments of a convolution."""

    x: Array
    seq_idx: Array | None
    weight: Array
    bias: Array | None
    state: Array | None
    silu: bool
    keeps_last: bool


def causal_conv1d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    seq_idx: npt.ArrayLike | None = None,
    state: Array | None = None,
    return_last_state: bool = False,
    activation: Activation | None = None,
    reverse: bool = False,
    lengths: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
    out: Array | None = None,
    backend: Backend | None = None,
) -> Array | tuple[Array, Array]:
    """out[t] = act(bias + sum over j of weight[j] x[t - W + 1 + j]): each channel is convolved with its own W taps.

    Names and layout are those of ``causal_conv1d``'s ``causal_conv1d_fn``. Layouts with contiguous time or contiguous
    channels, such as a (B, D, T) view of (B, T, D), are both fast; no layout is copied.

    Parameters
    ----------
    x : ndarray (B, D, T), float32, float64, float16 or bfloat16 (of ml_dtypes)
        Inputs.
    weight : ndarray (D, W)
        Taps of each channel, the last one for the current step; any W >= 1. weight and bias may each have any of the
        dtypes if x is not float64, else float64.
    bias : ndarray (D,), optional
        Added to the sums.
    seq_idx : integers (B, T), optional
        The index of each step's sequence: inputs of other sequences count as 0, and out is 0 where it is negative.
        Cannot be combined with the arguments for states and sequences below.
    state : ndarray (B, D, W - 1), optional
        The W - 1 inputs before the first steps; zero by default; dtype of x.
    return_last_state : bool
        Also return the last W - 1 inputs of each sequence.
    activation : {None, "silu", "swish"}
        The function act: none, or x / (1 + e^-x), which has both names.
    reverse : bool
        From the last step to the first: the taps are those of later steps, and the states are in this order, too;
        tensors, and arrays with contiguous time, ``lengths`` or ``cu_seqlens``, are copied in reverse.
    lengths : integers (B,), optional
        Valid steps of each row, 0 to T; later steps are not computed and their output is 0.
    cu_seqlens : integers (S + 1,), optional
        S sequences packed into one row (B = 1): sequence s is the steps cu_seqlens[s] to cu_seqlens[s + 1]. The states
        are then (S, D, W - 1).
    out : ndarray (B, D, T), optional
        Where the output is written, with any strides.
    backend : {"cpu", "reference"}, optional
        "reference" runs the specification in plain NumPy.

    Returns
    -------
    out : ndarray (B, D, T)
        The outputs, in the dtype and memory order of x.
    last : ndarray (B, D, W - 1)
        Only with ``return_last_state``; passed as ``state``, it continues the sequences exactly.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.
    BackendError
        If the backend cannot run.

    See Also
    --------
    causal_conv1d_update : Convolves one step at a time, with a state.
    causal_conv1d_varlen_states : Returns the states after packed sequences.
    fastiter.torch.ssm.causal_conv1d : The same on tensors, with gradients.

    Examples
    --------
    >>> import numpy as np, fastiter.ssm
    >>> x = np.arange(1.0, 6)[None, None]
    >>> fastiter.ssm.causal_conv1d(x, np.array([[0.5, 0.5]])).tolist()  # means of two steps
    [[[0.5, 1.5, 2.5, 3.5, 4.5]]]
    """
    function = "causal_conv1d"
    run = choose(function, _BACKENDS, backend)
    silu = check_activation(function, activation)
    check_flag(function, "return_last_state", return_last_state)
    x, weight, bias, state = from_likes(function, x=x, weight=weight, bias=bias, state=state)
    present = present_in({"x": x, "weight": weight, "bias": bias, "state": state}, "bias", "state")
    _check_dtypes(function, present, "state")
    sizes = check_conv_shapes(function, {name: y.shape for name, y in present.items()})
    labels = None
    if seq_idx is not None:
        others = {"state": state, "lengths": lengths, "cu_seqlens": cu_seqlens}
        absent = {name: y is not None for name, y in others.items()}
        labels = _checked_labels(function, seq_idx, sizes, {**absent, "return_last_state": return_last_state})
    check_flag(function, "reverse", reverse)
    cut = checked_sequences(function, sizes.batch, sizes.time, None, lengths, cu_seqlens, "x")
    if state is not None:
        count, packed = cut.count(sizes.batch), cut.cu_seqlens is not None
        check_conv_state(function, state.shape, count, sizes, packed)
    if out is None:
        out = like(x)
    else:
        check_out(function, out, "x", present, None)
    call = _Call(x, labels, weight, bias, state, silu, return_last_state)
    last = _backwards(run, call, cut, out) if reverse else run(call, cut, out)
    return out if last is None else (out, last)


def _check_dtypes(function: str, arrays: Mapping[str, Any], exact: str) -> None:
    """Check dtypes: float64 combines only with float64, and the argument ``exact`` has the dtype of x."""
    dtype = getattr(arrays["x"], "dtype", None)
    if dtype in _COMPUTED and all(type(y) is np.ndarray and y.dtype == dtype for y in arrays.values()):
        return  # a fast path, as the checks below take longer than a step
    for name, y in arrays.items():
        check_array(function, name, y, STORED)
        head = arrays["x"].dtype
        if computed(y) != computed(arrays["x"]):
            expected = "float64" if head == np.float64 else "float32, float16 or bfloat16"
            raise TypeError(f"{function}: {name} must have dtype {expected} to go with {head} x, got {y.dtype}")
        if name == exact and y.dtype != head:
            raise TypeError(f"{function}: {name} must have dtype {head} like x, got {y.dtype}")


def _checked_labels(function: str, seq_idx: npt.ArrayLike, sizes: ConvSizes, others: Mapping[str, bool]) -> Array:
    labels = integers(function, "seq_idx", seq_idx)
    check_seq_idx(function, labels.shape, sizes, others)
    check_label_range(function, int(labels.min(initial=0)), int(labels.max(initial=0)))
    return labels.astype(np.int32)


def _filter(x: Array, weight: Array, bias: Array | None) -> tuple[Array, Array | None]:
    """Return the taps and the bias as contiguous arrays in the dtype of the arithmetic."""
    dtype = computed(x)
    return np.ascontiguousarray(weight, dtype), None if bias is None else np.ascontiguousarray(bias, dtype)


def _cpu(call: _Call, cut: Sequences, out: Array) -> Array | None:
    x = call.x
    (batch, channels, time), width = x.shape, call.weight.shape[1]
    count = cut.count(batch)
    last = empty((count, channels, width - 1), x.dtype) if call.keeps_last else None
    labels = None if call.seq_idx is None else np.ascontiguousarray(call.seq_idx)
    shape = ((count, time, cut.lengths, cut.cu_seqlens, None), channels, width, call.silu, labels)
    weight, bias = _filter(x, call.weight, call.bias)
    first = None if call.state is None or width == 1 else aligned(call.state)
    written = aligned(out)
    _core.ssm.conv_forward(shape, aligned(x), written, weight, bias, first, None if width == 1 else last)
    if written is not out:
        out[...] = written
    return last


def _reference(call: _Call, cut: Sequences, out: Array) -> Array | None:
    from . import reference, reference_conv

    dtype = computed(call.x)
    x, weight = call.x.astype(dtype), call.weight.astype(dtype)
    bias, first = (None if y is None else y.astype(dtype) for y in (call.bias, call.state))
    options: dict[str, Any] = {"state": first, "activation": call.silu, "cut": reference.Cut(*cut)}
    out[...], last = reference_conv.causal_conv1d(x, weight, bias, seq_idx=call.seq_idx, **options)
    return last.astype(call.x.dtype) if call.keeps_last else None


def _backwards(run: Callable[..., Array | None], call: _Call, cut: Sequences, out: Array) -> Array | None:
    """Convolve from the last step to the first."""

    def run_on(timed: Sequence[Any], cut: Sequences, out: Array) -> Array | None:
        x, labels = timed
        return run(call._replace(x=np.moveaxis(x, 1, -1), seq_idx=labels), cut, np.moveaxis(out, 1, -1))

    return backwards(run_on, [np.moveaxis(call.x, -1, 1), call.seq_idx], cut, np.moveaxis(out, -1, 1))


_BACKENDS: Backends[Array | None] = {"cpu": _cpu, "reference": _reference}


def causal_conv1d_update(
    x: Array,
    conv_state: Array,
    weight: Array,
    bias: Array | None = None,
    activation: Activation | None = None,
    cache_seqlens: npt.ArrayLike | None = None,
    conv_state_indices: npt.ArrayLike | None = None,
) -> Array:
    """out = act(bias + sum over j of weight[j] x[t - W + 1 + j]) for the next steps, with the last inputs in a state.

    The arguments are those of the function of the same name in ``causal_conv1d``.

    Parameters
    ----------
    x : ndarray (B, D) or (B, D, L), float32, float64, float16 or bfloat16
        The next step, or the next L steps.
    conv_state : ndarray (B, D, N), N >= W - 1
        The last N inputs, updated in place: the oldest ones are dropped, and x is appended.
    weight : ndarray (D, W)
        As in :func:`causal_conv1d`. conv_state, weight and bias may each have any of the dtypes if x is not float64,
        else float64.
    bias : ndarray (D,), optional
        Added to the sums.
    activation : {None, "silu", "swish"}
        As in :func:`causal_conv1d`.
    cache_seqlens : integers (B,), optional
        Number of steps so far. The state is then a ring buffer, and the next input is written at cache_seqlens % N.
    conv_state_indices : integers (B,), optional
        The row of ``conv_state`` for each row of x; a negative index marks padding, whose output is 0. Each row may
        occur only once.

    Returns
    -------
    out : ndarray like x
        The outputs of these steps.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.

    See Also
    --------
    causal_conv1d : Convolves whole sequences.
    selective_state_update : The step of the scan that follows the convolution in Mamba.
    fastiter.torch.ssm.causal_conv1d_update : The same on tensors.

    Examples
    --------
    >>> import numpy as np, fastiter.ssm
    >>> state, weight = np.zeros((1, 1, 1)), np.array([[0.5, 0.5]])
    >>> [fastiter.ssm.causal_conv1d_update(np.array([[x]]), state, weight).item() for x in (1.0, 2.0, 3.0)]
    [0.5, 1.5, 2.5]
    """
    function = "causal_conv1d_update"
    silu = check_activation(function, activation)
    if type(x) is not np.ndarray or type(weight) is not np.ndarray or type(bias) not in (np.ndarray, type(None)):
        x, weight, bias = from_likes(function, x=x, weight=weight, bias=bias)
    present = present_in({"x": x, "conv_state": conv_state, "weight": weight, "bias": bias}, "bias")
    _check_dtypes(function, present, "")
    shapes: dict[str, Any] = {name: y.shape for name, y in present.items()}
    positions = rows = None
    if cache_seqlens is not None:
        positions = integers(function, "cache_seqlens", cache_seqlens)
        shapes["cache_seqlens"] = positions.shape
    if conv_state_indices is not None:
        rows = integers(function, "conv_state_indices", conv_state_indices)
        shapes["conv_state_indices"] = rows.shape
    check_update_shapes(function, shapes)
    check_room(function, conv_state, conv_state.shape, "conv_state")
    if rows is not None:
        check_rows(function, rows, conv_state.shape[0], "conv_state_indices", "conv_state")
    out = np.empty(x.shape, x.dtype)
    if out.size:
        memory: Any = aligned(conv_state)
        _core.ssm.conv_update(aligned(x), memory, aligned(weight), aligned(bias), silu, positions, rows, out)
        if memory is not conv_state:
            conv_state[...] = memory
    return out


def causal_conv1d_varlen_states(x: Array, cu_seqlens: npt.ArrayLike, state_len: int) -> Array:
    """state = the last ``state_len`` inputs of each packed sequence, preceded by zeros if the sequence is shorter.

    Parameters
    ----------
    x : ndarray (T, D), float32, float64, float16 or bfloat16
        The inputs of S sequences: sequence s is the steps cu_seqlens[s] to cu_seqlens[s + 1].
    cu_seqlens : integers (S + 1,)
        The bounds of the sequences, nondecreasing from 0 to T.
    state_len : int
        Number of inputs to keep for each sequence.

    Returns
    -------
    states : ndarray (S, D, state_len), dtype of x
        The state of each sequence.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.

    See Also
    --------
    causal_conv1d_update : Continues from these states.
    fastiter.torch.ssm.causal_conv1d_varlen_states : The same on tensors.

    Examples
    --------
    >>> import numpy as np, fastiter.ssm
    >>> fastiter.ssm.causal_conv1d_varlen_states(np.arange(1.0, 6)[:, None], [0, 1, 5], 2).tolist()
    [[[0.0, 1.0]], [[4.0, 5.0]]]
    """
    function = "causal_conv1d_varlen_states"
    (x,) = from_likes(function, x=x)
    check_array(function, "x", x, STORED)
    if x.ndim != 2:
        raise ValueError(f"{function}: x must have shape (T, D), got {x.shape}")
    check_state_len(function, state_len)
    bounds = integers(function, "cu_seqlens", cu_seqlens)
    first, last = (int(bounds[0]), int(bounds[-1])) if bounds.ndim == 1 and bounds.size else (0, 0)
    falls = bounds.ndim == 1 and bool((bounds[1:] < bounds[:-1]).any())
    check_bounds(function, bounds.shape, first, last, falls, len(x))
    steps = bounds[1:, None] + np.arange(-state_len, 0)
    inside = steps >= bounds[:-1, None]
    states = np.zeros((*steps.shape, x.shape[1]), x.dtype)
    states[inside] = x[steps[inside]]
    return np.ascontiguousarray(states.transpose(0, 2, 1))
