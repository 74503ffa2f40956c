"""Recurrent networks along time on NumPy arrays: h[t] = cell(wx[t] + r h[t-1] + b, state[t-1])."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _core
from .._backend import Backend, Backends, Cuda, choose, is_cuda
from .._check import check_flag, check_out, empty_steps, integers, unit_stride
from .._sequences import as_parts, check_packing, checked_sequences
from ._cells import CELLS, DTYPES, FLOAT32, Cell, check_shapes, check_state, checked_arrays, checked_bound, elman_cell
from ._docs import documented_cell
from ._results import Array, RnnResult, RnnStates, States, typed

Result: TypeAlias = RnnResult | RnnStates


class _Requested(NamedTuple):
    """The options of a function, unchecked."""

    reverse: bool
    lengths: npt.ArrayLike | None
    return_all_states: bool
    cu_seqlens: npt.ArrayLike | None
    reset: Array | None
    clip_state: float | None
    out: Array | None


class _Options(NamedTuple):
    """The checked options: rows is B, or S if ``cu_seqlens`` divides one row into S sequences."""

    rows: int
    reverse: bool
    lengths: Array | None = None
    cu_seqlens: Array | None = None
    reset: Array | None = None
    clip_state: float | None = None


@typed
@documented_cell("i, f, g, o", "(h, c)")
def lstm(
    wx: Array,
    r: Array,
    b: Array | None = None,
    state: Sequence[Array] | None = None,
    *,
    reverse: bool = False,
    lengths: npt.ArrayLike | None = None,
    return_all_states: bool = False,
    cu_seqlens: npt.ArrayLike | None = None,
    reset: Array | None = None,
    clip_state: float | None = None,
    out: Array | None = None,
    backend: Backend | None = None,
) -> Result:
    """c[t] = f c[t-1] + i g, h[t] = o tanh(c[t]) with the gates a = wx[t] + r h[t-1] + b.

    i, f, o = sigmoid(a_i, a_f, a_o) and g = tanh(a_g).

    %(sections)s

    See Also
    --------
    gru, slstm, elman : The other cells.
    fastiter.torch.lstm : The same on tensors, with gradients.

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
    requested = _Requested(reverse, lengths, return_all_states, cu_seqlens, reset, clip_state, out)
    return _run("lstm", wx, r, b, state, requested, backend)


@typed
@documented_cell("r, z, n")
def gru(
    wx: Array,
    r: Array,
    b: Array | None = None,
    state: Array | Sequence[Array] | None = None,
    *,
    reverse: bool = False,
    lengths: npt.ArrayLike | None = None,
    return_all_states: bool = False,
    cu_seqlens: npt.ArrayLike | None = None,
    reset: Array | None = None,
    clip_state: float | None = None,
    out: Array | None = None,
    backend: Backend | None = None,
) -> Result:
    """h[t] = (1 - z) n + z h[t-1], n = tanh(wx_n + r_gate (R_n h[t-1] + b_n)).

    r_gate, z = sigmoid(wx + r h[t-1] + b); gates in the order r, z, n.

    %(sections)s

    See Also
    --------
    lstm, elman : The other cells.
    fastiter.torch.gru : The same on tensors, with gradients.

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
    requested = _Requested(reverse, lengths, return_all_states, cu_seqlens, reset, clip_state, out)
    return _run("gru", wx, r, b, state, requested, backend)


@typed
@documented_cell("", activation=True)
def elman(
    wx: Array,
    r: Array,
    b: Array | None = None,
    state: Array | Sequence[Array] | None = None,
    *,
    activation: Literal["tanh", "relu"] = "tanh",
    reverse: bool = False,
    lengths: npt.ArrayLike | None = None,
    return_all_states: bool = False,
    cu_seqlens: npt.ArrayLike | None = None,
    reset: Array | None = None,
    clip_state: float | None = None,
    out: Array | None = None,
    backend: Backend | None = None,
) -> Result:
    """h[t] = tanh(wx[t] + r h[t-1] + b), or max(., 0) with ``activation="relu"``.

    The recurrent network of ``torch.nn.RNN``, without gates.

    %(sections)s

    See Also
    --------
    gru, lstm : The other cells.
    fastiter.torch.elman : The same on tensors, with gradients.

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
    requested = _Requested(reverse, lengths, return_all_states, cu_seqlens, reset, clip_state, out)
    return _run(elman_cell(activation), wx, r, b, state, requested, backend)


@typed
@documented_cell("i, f, z, o", "(h, c, n, m)", torchs=False)
def slstm(
    wx: Array,
    r: Array,
    b: Array | None = None,
    state: Sequence[Array] | None = None,
    *,
    reverse: bool = False,
    lengths: npt.ArrayLike | None = None,
    return_all_states: bool = False,
    cu_seqlens: npt.ArrayLike | None = None,
    reset: Array | None = None,
    clip_state: float | None = None,
    out: Array | None = None,
    backend: Backend | None = None,
) -> Result:
    """c[t] = f c[t-1] + i z, n[t] = max(f n[t-1] + i, 1), h[t] = o c[t] / n[t] with exponential gates i and f.

    With a = wx[t] + r h[t-1] + b in the order i, f, z, o and l = log sigmoid(a_f) + m[t-1]: m[t] = a_i where n[t-1] = 0
    (unit by unit), else max(a_i, l); i = exp(a_i - m[t]), f = exp(min(l - m[t], 0)), z = tanh(a_z), o = sigmoid(a_o).

    %(sections)s

    See Also
    --------
    lstm : The cell without exponential gates.
    paraslstm : The same cell with diagonal weights.
    fastiter.torch.slstm : The same on tensors, with gradients.

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
    requested = _Requested(reverse, lengths, return_all_states, cu_seqlens, reset, clip_state, out)
    return _run("slstm", wx, r, b, state, requested, backend)


def _run(
    cell_name: str,
    wx: Array,
    r: Array,
    b: Array | None,
    state: Any,
    requested: _Requested,
    backend: str | None,
) -> Result:
    cell, all_states, out = CELLS[cell_name], requested.return_all_states, requested.out
    function = cell.function
    run = choose(function, _BACKENDS[function], backend, wx)
    if is_cuda(run):
        result: Result = run(wx, r, b, state, **requested._asdict(), **_activation(cell))
        return result
    check_flag(function, "reverse", requested.reverse)
    check_flag(function, "return_all_states", all_states)
    names, arrays = ["wx", "r"], [wx, r]
    if b is not None:
        names.append("b")
        arrays.append(b)
    if state is not None:
        state = as_parts(cell.states, state)
        check_state(function, cell, state)
        names += cell.state_names
        arrays += state
    read = checked_arrays(function, cell, names, arrays)
    if read is not arrays:
        arrays = read
        wx, r, *rest = read
        b = None if b is None else rest.pop(0)
        state = None if state is None else tuple(rest)
    options = _checked(cell, wx, r, b, state, requested)
    if out is not None:
        reset = () if options.reset is None else (options.reset,)
        arguments = (*names, *("reset" for _ in reset)), (*arrays, *reset)
        check_out(function, out, (*wx.shape[:2], *wx.shape[3:]), *arguments, DTYPES)
    h, last, states = run(cell, wx, r, b, state, options, all_states, out)
    return RnnStates(h, last, states) if all_states else RnnResult(h, last)


def _checked(
    cell: Cell, wx: Array, r: Array, b: Array | None, state: Sequence[Array] | None, requested: _Requested
) -> _Options:
    """Check the shapes and the options."""
    function, bounds = cell.function, None
    reverse, lengths, _, cu_seqlens, reset, clip_state, _ = requested
    if cu_seqlens is not None:
        bounds = integers(function, "cu_seqlens", cu_seqlens)
        if wx.ndim == 5:
            check_packing(function, wx.shape[0], lengths, "wx")
    sequences = None if bounds is None else max(bounds.size - 1, 0)
    shapes = None if state is None else [part.shape for part in state]
    b_shape = None if b is None else b.shape
    batch, time, _, _ = check_shapes(function, cell, wx.shape, r.shape, b_shape, shapes, sequences)
    if bounds is None and lengths is None and reset is None and clip_state is None:
        return _Options(batch, reverse)
    cut = checked_sequences(function, batch, time, reset, lengths, bounds, "wx")
    clip_state = checked_bound(function, "clip_state", clip_state)
    return _Options(cut.count(batch), reverse, cut.lengths, cut.cu_seqlens, cut.reset, clip_state)


def _shape(cell: Cell, wx: Array, options: _Options) -> tuple[Any, ...]:
    """Return the kernels' description of the work."""
    batch, time, _, heads, width = wx.shape
    bounds, lengths, packed, starts = options.cu_seqlens, options.lengths, 0, None
    if bounds is not None:
        lengths, starts, packed = np.diff(bounds), bounds, time
        time = int(lengths.max(initial=0))
    rows = (cell.code, options.rows, time, heads, width, options.reverse, lengths, None, packed)
    if bounds is None and options.reset is None and options.clip_state is None:
        return rows
    reset = (
        None if options.reset is None else np.ascontiguousarray(np.broadcast_to(options.reset, (batch, wx.shape[1])))
    )
    clip_state = math.inf if options.clip_state is None else options.clip_state
    return (*rows, starts, reset, clip_state, math.inf)


def _cpu(
    cell: Cell,
    wx: Array,
    r: Array,
    b: Array | None,
    state: Sequence[Array] | None,
    options: _Options,
    all_states: bool,
    out: Array | None,
) -> tuple[Array, States, States]:
    heads, width = wx.shape[3:]
    wx, r = unit_stride(wx), np.ascontiguousarray(r)
    carried = FLOAT32 if wx.itemsize == 2 else wx.dtype  # the dtype of the sums, and of the states other than h
    b = None if b is None else np.ascontiguousarray(b, carried)
    first = () if state is None else tuple([np.ascontiguousarray(part) for part in state])
    dtypes = (wx.dtype, *(carried,) * (len(cell.states) - 1))
    last = tuple(map(np.empty, ((options.rows, heads, width),) * len(dtypes), dtypes))
    h = unit_stride(out) if out is not None else empty_steps(wx, (heads, width))
    states = (h, *[empty_steps(wx, (heads, width), carried) for _ in cell.states[1:]]) if all_states else (h,)
    _core.rnn.forward(_shape(cell, wx, options), wx, r, b, first, last, states, None, 0, ())
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
    options: _Options,
    all_states: bool,
    out: Array | None,
) -> tuple[Array, States, States]:
    from . import reference

    arguments = options._asdict()
    del arguments["rows"]
    run = getattr(reference, cell.function)
    h, last, states = run(wx, r, b, state, **arguments, **_activation(cell))
    if out is not None:
        out[...] = h
        h, states = out, (out, *states[1:])
    return h, last, states


def _activation(cell: Cell) -> dict[str, str]:
    """Return the option of :func:`elman` that selects this cell."""
    activation = cell.name.partition("_")[2]
    return {"activation": activation} if activation else {}


_BACKENDS: dict[str, Backends[Any]] = {
    cell.function: {"cpu": _cpu, "cuda": Cuda("fastiter.torch", cell.function), "reference": _reference}
    for cell in CELLS.values()
}
