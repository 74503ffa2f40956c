"""Recurrent networks along time on NumPy arrays: h[t] = cell(wx[t] + r h[t-1] + b, state[t-1])."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from . import _core
from ._backend import choose
from ._check import check_arrays, check_out, empty_steps, integers, unit_stride
from ._cupy import takes_cupy
from ._rnn import CELLS, Cell, check_flag, check_lengths, check_shapes, check_state, elman_cell

Array: TypeAlias = npt.NDArray[Any]
States: TypeAlias = tuple[Array, ...]
Result: TypeAlias = "tuple[Array, States] | tuple[Array, States, States]"

_FORWARD = {np.dtype(np.float32): _core.rnn_fwd_f32, np.dtype(np.float64): _core.rnn_fwd_f64}


@takes_cupy
def lstm(
    wx: Array,
    r: Array,
    b: Array | None = None,
    state: Sequence[Array] | None = None,
    *,
    reverse: bool = False,
    lengths: npt.ArrayLike | None = None,
    return_all_states: bool = False,
    out: Array | None = None,
    backend: str | None = None,
) -> Result:
    """c[t] = f c[t-1] + i g, h[t] = o tanh(c[t]) with the gates a = wx[t] + r h[t-1] + b.

    i, f, o = sigmoid(a_i, a_f, a_o) and g = tanh(a_g).

    Parameters
    ----------
    wx : ndarray (B, T, 4, N, D), float32 or float64
        Pre-activations, the input projection with its bias, of the gates i, f, g, o. Any strides; a time-major view is
        taken without a copy as long as the units lie next to each other.
    r : ndarray (4, N, D, D)
        Recurrent weights of N heads, [gate, head, unit out, unit in]; ``torch.nn.LSTM``'s ``weight_hh`` viewed as
        (4, 1, H, H).
    b : ndarray (4, N, D), optional
        Recurrent bias; zero by default.
    state : tuple (h, c) of ndarray (B, N, D), optional
        State before the first step; zero by default.
    reverse : bool
        Run from the last step to the first.
    lengths : integers (B,), optional
        Valid steps of each row, 0 to T; later steps are not computed and their h is 0.
    return_all_states : bool
        Also return the states of all steps.
    out : ndarray (B, T, N, D), optional
        Where h is written.
    backend : {"cpu", "reference"}, optional
        "reference" runs the specification in plain NumPy.

    Returns
    -------
    h : ndarray (B, T, N, D)
    state : tuple (h, c) of ndarray (B, N, D)
        State after the last valid step; given back as ``state`` it continues the sequence exactly.
    states : tuple of ndarray (B, T, N, D)
        With ``return_all_states``: h and c at every step.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.
    BackendError
        If the backend cannot run.

    References
    ----------
    Hochreiter and Schmidhuber (1997), with the forget gate of Gers et al. (2000), as in ``torch.nn.LSTM``.

    Examples
    --------
    >>> import numpy as np, fastiter
    >>> rng = np.random.default_rng(0)
    >>> wx, r = rng.standard_normal((2, 5, 4, 1, 3)), rng.standard_normal((4, 1, 3, 3))
    >>> h, (last_h, c) = fastiter.lstm(wx, r)
    >>> h.shape, bool((h[:, -1] == last_h).all())
    ((2, 5, 1, 3), True)
    """
    return _run("lstm", "lstm", wx, r, b, state, reverse, lengths, return_all_states, out, backend)


@takes_cupy
def gru(
    wx: Array,
    r: Array,
    b: Array | None = None,
    state: Sequence[Array] | None = None,
    *,
    reverse: bool = False,
    lengths: npt.ArrayLike | None = None,
    return_all_states: bool = False,
    out: Array | None = None,
    backend: str | None = None,
) -> Result:
    """h[t] = (1 - z) n + z h[t-1], n = tanh(wx_n + r_gate (R_n h[t-1] + b_n)).

    r_gate, z = sigmoid(wx + r h[t-1] + b); gates in the order r, z, n. Shapes and arguments as for :func:`lstm`, with
    three gates and the state (h,).

    References
    ----------
    Cho et al. (2014) in the variant of cuDNN and ``torch.nn.GRU``, which applies r after the product.

    Examples
    --------
    >>> import numpy as np, fastiter
    >>> rng = np.random.default_rng(0)
    >>> wx, r = rng.standard_normal((2, 5, 3, 1, 3)), rng.standard_normal((3, 1, 3, 3))
    >>> h, (last,) = fastiter.gru(wx, r, lengths=[5, 2])
    >>> bool((h[1, 1] == last[1]).all()), float(abs(h[1, 2:]).sum())
    (True, 0.0)
    """
    return _run("gru", "gru", wx, r, b, state, reverse, lengths, return_all_states, out, backend)


@takes_cupy
def elman(
    wx: Array,
    r: Array,
    b: Array | None = None,
    state: Sequence[Array] | None = None,
    *,
    activation: Literal["tanh", "relu"] = "tanh",
    reverse: bool = False,
    lengths: npt.ArrayLike | None = None,
    return_all_states: bool = False,
    out: Array | None = None,
    backend: str | None = None,
) -> Result:
    """h[t] = tanh(wx[t] + r h[t-1] + b), or max(., 0) with ``activation="relu"``.

    Shapes and arguments as for :func:`lstm`, with one gate and the state (h,).

    References
    ----------
    Elman (1990), as in ``torch.nn.RNN``.

    Examples
    --------
    >>> import numpy as np, fastiter
    >>> h, _ = fastiter.elman(np.ones((1, 3, 1, 1, 1)), np.ones((1, 1, 1, 1)), activation="relu")
    >>> h.ravel().tolist()
    [1.0, 2.0, 3.0]
    """
    return _run("elman", elman_cell(activation), wx, r, b, state, reverse, lengths, return_all_states, out, backend)


@takes_cupy
def slstm(
    wx: Array,
    r: Array,
    b: Array | None = None,
    state: Sequence[Array] | None = None,
    *,
    reverse: bool = False,
    lengths: npt.ArrayLike | None = None,
    return_all_states: bool = False,
    out: Array | None = None,
    backend: str | None = None,
) -> Result:
    """c[t] = f c[t-1] + i z, n[t] = max(f n[t-1] + i, 1), h[t] = o c[t] / n[t] with exponential gates i and f.

    With a = wx[t] + r h[t-1] + b in the order i, f, z, o and l = log sigmoid(a_f) + m[t-1]: m[t] = a_i where n[t-1] = 0
    (unit by unit), else max(a_i, l); i = exp(a_i - m[t]), f = exp(min(l - m[t], 0)), z = tanh(a_z), o = sigmoid(a_o).
    Shapes and arguments as for :func:`lstm`, with the state (h, c, n, m).

    References
    ----------
    Beck et al., xLSTM (2024), equations 8 to 17.

    Examples
    --------
    >>> import numpy as np, fastiter
    >>> rng = np.random.default_rng(0)
    >>> wx, r = rng.standard_normal((2, 5, 4, 1, 3)), rng.standard_normal((4, 1, 3, 3))
    >>> h, (last, c, n, m) = fastiter.slstm(wx, r)
    >>> bool((n >= 1).all())
    True
    """
    return _run("slstm", "slstm", wx, r, b, state, reverse, lengths, return_all_states, out, backend)


def _run(
    function: str,
    cell_name: str,
    wx: Array,
    r: Array,
    b: Array | None,
    state: Sequence[Array] | None,
    reverse: bool,
    lengths: npt.ArrayLike | None,
    return_all_states: bool,
    out: Array | None,
    backend: str | None,
) -> Result:
    cell = CELLS[cell_name]
    run = _BACKENDS[choose(function, _BACKENDS, backend)]
    check_flag(function, "reverse", reverse)
    check_flag(function, "return_all_states", return_all_states)
    names, arrays = ["wx", "r"], [wx, r]
    if b is not None:
        names.append("b")
        arrays.append(b)
    if state is not None:
        check_state(function, cell, state)
        names += cell.state_names
        arrays += state
    check_arrays(function, names, arrays)
    shapes = None if state is None else [part.shape for part in state]
    batch, time, heads, width = check_shapes(function, cell, wx.shape, r.shape, None if b is None else b.shape, shapes)
    if lengths is not None:
        lengths = _checked_lengths(function, lengths, batch, time)
    if out is not None:
        check_out(function, out, (batch, time, heads, width), names, arrays)
    h, last, states = run(cell, wx, r, b, state, reverse, lengths, return_all_states, out)
    return (h, last, states) if return_all_states else (h, last)


def _checked_lengths(function: str, lengths: npt.ArrayLike, batch: int, time: int) -> Array:
    whole = integers(function, "lengths", lengths)
    check_lengths(function, whole.shape, int(whole.min(initial=0)), int(whole.max(initial=0)), batch, time)
    return whole


def _cpu(
    cell: Cell,
    wx: Array,
    r: Array,
    b: Array | None,
    state: Sequence[Array] | None,
    reverse: bool,
    lengths: Array | None,
    all_states: bool,
    out: Array | None,
) -> tuple[Array, States, States]:
    batch, time, _, heads, width = wx.shape
    wx, r = unit_stride(wx), np.ascontiguousarray(r)
    b = None if b is None else np.ascontiguousarray(b)
    first = () if state is None else tuple([np.ascontiguousarray(part) for part in state])
    last = tuple([np.empty((batch, heads, width), wx.dtype) for _ in cell.states])
    h = unit_stride(out) if out is not None else empty_steps(wx, (heads, width))
    states = (h, *[empty_steps(wx, (heads, width)) for _ in cell.states[1:]]) if all_states else (h,)
    _FORWARD[wx.dtype](
        (cell.code, batch, time, heads, width, reverse, 0 if lengths is None else lengths, 0, 0),
        wx,
        r,
        0 if b is None else b,
        first,
        last,
        states,
        (),
    )
    if out is not None and h is not out:
        out[...] = h
        states = (out, *states[1:])
    return states[0], last, states


def _reference(
    cell: Cell,
    wx: Array,
    r: Array,
    b: Array | None,
    state: Sequence[Array] | None,
    reverse: bool,
    lengths: Array | None,
    all_states: bool,
    out: Array | None,
) -> tuple[Array, States, States]:
    from .reference import rnn as reference

    name, _, activation = cell.name.partition("_")
    options = {"activation": activation} if activation else {}
    h, last, states = getattr(reference, name)(wx, r, b, state, reverse=reverse, lengths=lengths, **options)
    if out is not None:
        out[...] = h
        h, states = out, (out, *states[1:])
    return h, last, states


_BACKENDS = {"cpu": _cpu, "reference": _reference}
