"""Recurrences with diagonal weights on NumPy arrays, step by step or all steps at once by Newton's method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _core
from .._array_like import as_arrays
from .._backend import Backend, Backends, Cuda, choose, is_cuda
from .._check import check_arrays, check_flag, check_out, empty_steps, integers, unit_stride
from .._sequences import checked_sequences
from ._cells import CELLS, NewtonInfo, Options, ParaCell, check_shapes, newton_options, state_parts
from ._docs import documented_cell
from ._results import Array, Method, ParaResult, ParaResultInfo, States, typed
from ._segments import Segments, segments

Result: TypeAlias = ParaResult | ParaResultInfo

_EPS = {np.dtype(np.float32): float(np.finfo(np.float32).eps), np.dtype(np.float64): float(np.finfo(np.float64).eps)}


class _Solver(NamedTuple):
    """The options of the solver, unchecked."""

    method: Method
    window: int | None
    rtol: float | None
    atol: float | None
    max_steps: int | None


class _Cut(NamedTuple):
    """The direction, and the division of steps into sequences, unchecked or checked."""

    reverse: bool
    reset: Array | None
    lengths: Any
    cu_seqlens: Any


@typed
@documented_cell("z, r, q")
def paragru(
    wx: Array,
    a: Array,
    state: Array | tuple[Array] | None = None,
    *,
    method: Method = "auto",
    reverse: bool = False,
    lengths: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
    reset: Array | None = None,
    window: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int | None = None,
    return_info: bool = False,
    out: Array | None = None,
    backend: Backend | None = None,
) -> Result:
    """h[t] = z q + (1 - z) h[t-1], q = tanh(wx_q + a_q h[t-1] r), with z, r = sigmoid(wx + a h[t-1]).

    The recurrent weights a are diagonal: each unit depends only on its own past.

    %(sections)s

    See Also
    --------
    gru : The cell with full recurrent weights.
    linear_scan : A recurrence that is linear in the state.
    fastiter.torch.paragru : The same on tensors, with gradients.

    References
    ----------
    Danieli et al., ParaRNN (2025): the cell, with z on the candidate, and Newton's method with a parallel reduction.
    Lim et al., DEER (2024): the method for any cell.

    Examples
    --------
    >>> import numpy as np, fastiter
    >>> rng = np.random.default_rng(0)
    >>> wx, a = rng.standard_normal((2, 100, 3, 8)), rng.standard_normal((3, 8))
    >>> h, (last,) = fastiter.paragru(wx, a)
    >>> again, _, info = fastiter.paragru(wx, a, method="newton", return_info=True)
    >>> bool(np.allclose(again, h, rtol=0, atol=1e-12)), info.fallbacks.tolist()
    (True, [0, 0])
    """
    solver, cut = _Solver(method, window, rtol, atol, max_steps), _Cut(reverse, reset, lengths, cu_seqlens)
    return _run("paragru", wx, a, None, state, solver, cut, return_info, out, backend)


@typed
@documented_cell("f, o, q", "(h, c)", peepholes=True)
def paralstm(
    wx: Array,
    a: Array,
    p: Array,
    state: Sequence[Array] | None = None,
    *,
    method: Method = "auto",
    reverse: bool = False,
    lengths: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
    reset: Array | None = None,
    window: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int | None = None,
    return_info: bool = False,
    out: Array | None = None,
    backend: Backend | None = None,
) -> Result:
    """c[t] = f c[t-1] + (1 - f) q, h[t] = o tanh(c[t]): an LSTM with diagonal weights and peepholes.

    f = sigmoid(wx_f + a_f h[t-1] + p_f c[t-1]), q = tanh(wx_q + a_q h[t-1]), o = sigmoid(wx_o + a_o h[t-1] + p_o c[t]).

    %(sections)s

    See Also
    --------
    lstm : The cell with full recurrent weights.
    paragru, paraslstm : The other cells.
    fastiter.torch.paralstm : The same on tensors, with gradients.

    References
    ----------
    Danieli et al., ParaRNN (2025).

    Examples
    --------
    >>> import numpy as np, fastiter
    >>> rng = np.random.default_rng(0)
    >>> wx, a, p = (rng.standard_normal(shape) for shape in ((2, 5, 3, 8), (3, 8), (2, 8)))
    >>> h, state = fastiter.paralstm(wx, a, p)
    >>> first, middle = fastiter.paralstm(wx[:, :2], a, p)
    >>> rest, (last, c) = fastiter.paralstm(wx[:, 2:], a, p, middle)
    >>> bool((c == state[1]).all())
    True
    """
    solver, cut = _Solver(method, window, rtol, atol, max_steps), _Cut(reverse, reset, lengths, cu_seqlens)
    return _run("paralstm", wx, a, p, state, solver, cut, return_info, out, backend)


@typed
@documented_cell("i, f, z, o", "(h, c, n, m)")
def paraslstm(
    wx: Array,
    a: Array,
    state: Sequence[Array] | None = None,
    *,
    method: Method = "auto",
    reverse: bool = False,
    lengths: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
    reset: Array | None = None,
    window: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int | None = None,
    return_info: bool = False,
    out: Array | None = None,
    backend: Backend | None = None,
) -> Result:
    """c[t] = f c[t-1] + i z, n[t] = max(f n[t-1] + i, 1), h[t] = o c[t] / n[t]: an sLSTM with diagonal weights.

    The equations are those of :func:`slstm` with the gates wx + a h[t-1] in the order i, f, z, o.

    %(sections)s

    See Also
    --------
    slstm : The cell with full recurrent weights.
    paragru, paralstm : The other cells.
    fastiter.torch.paraslstm : The same on tensors, with gradients.

    References
    ----------
    Beck et al., xLSTM (2024), equations 8 to 17.

    Examples
    --------
    >>> import numpy as np, fastiter
    >>> rng = np.random.default_rng(0)
    >>> wx, a = rng.standard_normal((2, 5, 4, 3)), rng.standard_normal((4, 3))
    >>> h, (last, c, n, m) = fastiter.paraslstm(wx, a)
    >>> bool((n >= 1).all())
    True
    """
    solver, cut = _Solver(method, window, rtol, atol, max_steps), _Cut(reverse, reset, lengths, cu_seqlens)
    return _run("paraslstm", wx, a, None, state, solver, cut, return_info, out, backend)


def _run(
    function: str,
    wx: Array,
    a: Array,
    p: Array | None,
    state: Any,
    solver: _Solver,
    cut: _Cut,
    return_info: bool,
    out: Array | None,
    backend: str | None,
) -> Result:
    cell = CELLS[function]
    run = choose(function, _BACKENDS[function], backend, wx)
    if is_cuda(run):
        options = {**solver._asdict(), **cut._asdict(), "return_info": return_info, "out": out}
        result: Result = run(wx, a, *((p,) if cell.peepholes else ()), state, **options)
        return result
    check_flag(function, "reverse", cut.reverse)
    check_flag(function, "return_info", return_info)
    first = () if state is None else state_parts(function, cell, state)
    arrays = (wx, a, p, *first) if cell.peepholes else (wx, a, *first)
    names = cell.names[: len(arrays)]
    arrays = tuple(as_arrays(function, names, arrays))
    wx, a, p, first = (*arrays[:3], arrays[3:]) if cell.peepholes else (*arrays[:2], None, arrays[2:])
    check_arrays(function, names, arrays)
    shapes = [part.shape for part in first]
    rows = None if cut.cu_seqlens is None else max(integers(function, "cu_seqlens", cut.cu_seqlens).size - 1, 0)
    p_shape = None if p is None else p.shape
    batch, time, width = check_shapes(function, cell, wx.shape, a.shape, p_shape, shapes, rows)
    newton = newton_options(function, *solver, eps=_EPS[wx.dtype])
    cut = _Cut(cut.reverse, *checked_sequences(function, batch, time, *cut[1:], "wx"))
    if out is not None:
        reset = {} if cut.reset is None else {"reset": cut.reset}
        check_out(function, out, (batch, time, width), (*names, *reset), (*arrays, *reset.values()))
    h, last, counts = run(cell, wx, a, p, first, newton, cut, out)
    if not return_info:
        return ParaResult(h, last)
    info = NewtonInfo("newton", counts[0], counts[1]) if newton else NewtonInfo("sequential", None, None)
    return ParaResultInfo(h, last, info)


def _cpu(
    cell: ParaCell,
    wx: Array,
    a: Array,
    p: Array | None,
    first: States,
    newton: Options,
    cut: _Cut,
    out: Array | None,
) -> tuple[Array, States, Any]:
    batch, time, _, width = wx.shape
    wx, result = unit_stride(wx), segments(batch, time, *cut)
    rows = batch if result is None else len(result.lines)
    last = tuple([np.empty((rows, width), wx.dtype) for _ in cell.states])
    h = unit_stride(out) if out is not None else empty_steps(wx, (width,))
    counts = np.zeros((2, rows), np.int64) if newton else None
    shape: tuple[Any, ...] = (cell.code, batch, time, width, cut.reverse, cut.lengths, None, None)
    weights = (np.ascontiguousarray(a), None if p is None else np.ascontiguousarray(p))
    initial = tuple([np.ascontiguousarray(part) for part in first])
    if result is not None:
        shape = (cell.code, rows, result.longest, width, cut.reverse, result.lengths, result.lines, result.starts)
        initial = tuple([_spread(part, result) for part in initial])
    _core.newton.forward(shape, wx, *weights, initial, last, (h,), newton, counts)
    if result is not None:
        last = tuple([part[result.lasts] for part in last])
        for row, length in enumerate([] if cut.lengths is None else cut.lengths):
            h[row, length:] = 0
        counts = None if counts is None else result.counts(counts)
    if out is not None and h is not out:
        out[...] = h
        h = out
    return h, last, counts


def _spread(state: Array, result: Segments) -> Array:
    """Return the state before each segment: its sequence's state before the first segment, zero before the others."""
    every = np.zeros((len(result.lines), state.shape[1]), state.dtype)
    every[result.firsts] = state
    return every


def _reference(
    cell: ParaCell,
    wx: Array,
    a: Array,
    p: Array | None,
    first: States,
    newton: Options,
    cut: _Cut,
    out: Array | None,
) -> tuple[Array, States, Any]:
    from . import reference

    p, state = np.empty((0, wx.shape[3]), wx.dtype) if p is None else p, first or None
    counts: Any = None
    if newton:
        h, last, _, counts = reference.newton(cell.name, wx, a, p, state, newton, **cut._asdict())
    else:
        h, last, _ = reference.sequential(cell.name, wx, a, p, state, **cut._asdict())
    if out is not None:
        out[...] = h
        h = out
    return h, last, counts


_BACKENDS: dict[str, Backends[Any]] = {
    "paragru": {"cpu": _cpu, "cuda": Cuda("fastiter.torch", "paragru"), "reference": _reference},
    "paralstm": {"cpu": _cpu, "cuda": Cuda("fastiter.torch", "paralstm"), "reference": _reference},
    "paraslstm": {"cpu": _cpu, "cuda": Cuda("fastiter.torch", "paraslstm"), "reference": _reference},
}
