"""Recurrences with diagonal weights on tensors, step by step or by Newton's method, differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..._check import check_flag
from ..._docs import documented_like
from ..._torch.autograd import applied, differentiable_once
from ..._torch.ops import CPU_AND_CUDA, FLOATS, check_tensors, own_copy, transformed
from ..._torch.out import check_out, is_written_by_kernels, named, written
from ..._torch.overrides import dispatched, overridden
from ..._torch.sequences import Sequences, checked_sequences
from .. import _functional as arrays
from .._cells import CELLS, WINDOW, NewtonInfo, Options, ParaCell, check_shapes, newton_options, state_parts
from .._results import Method
from . import cuda
from . import gpu as gpu  # the ops of CUDA tensors
from .ops import ParaBackward, ParaForward, para_bwd, para_fwd
from .ops import forward as para_forward
from .results import ParaResult, ParaResultInfo, States, typed

Result: TypeAlias = ParaResult | ParaResultInfo


@typed
@documented_like(arrays.paragru)
def paragru(
    wx: Tensor,
    a: Tensor,
    state: Tensor | tuple[Tensor] | None = None,
    *,
    method: Method = "auto",
    reverse: bool = False,
    lengths: Tensor | Sequence[int] | None = None,
    cu_seqlens: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    window: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int | None = None,
    return_info: bool = False,
    out: Tensor | None = None,
) -> Result:
    """h[t] = z q + (1 - z) h[t-1]: :func:`fastiter.paragru` on tensors.

    Differentiable in wx, a and state, with gradients from h and from the final state; whatever the method of the
    forward pass, the backward pass is one fused linear recurrence in reverse. Differentiating twice raises an error,
    and ``out`` is refused if an argument requires a gradient.

    %(sections)s

    See Also
    --------
    gru : The cell with full recurrent weights.
    fastiter.paragru : The same on arrays, with references.
    fastiter.torch.nn.ParaGRU : A layer with this recurrence.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> x, w, a = torch.randn(2, 100, 5), torch.randn(24, 5, requires_grad=True), torch.rand(3, 8, requires_grad=True)
    >>> wx = torch.nn.functional.linear(x, w).view(2, 100, 3, 8)
    >>> h, (last,) = fastiter.torch.paragru(wx, a)
    >>> last.sum().backward()
    >>> a.grad.shape, w.grad.shape
    (torch.Size([3, 8]), torch.Size([24, 5]))
    """
    solver = (method, window, rtol, atol, max_steps)
    return _run("paragru", wx, a, None, state, solver, reverse, (reset, lengths, cu_seqlens), return_info, out)


@typed
@documented_like(arrays.paralstm)
def paralstm(
    wx: Tensor,
    a: Tensor,
    p: Tensor,
    state: Sequence[Tensor] | None = None,
    *,
    method: Method = "auto",
    reverse: bool = False,
    lengths: Tensor | Sequence[int] | None = None,
    cu_seqlens: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    window: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int | None = None,
    return_info: bool = False,
    out: Tensor | None = None,
) -> Result:
    """c[t] = f c[t-1] + (1 - f) q, h[t] = o tanh(c[t]): :func:`fastiter.paralstm` on tensors.

    Differentiable like :func:`paragru`, in wx, a, p and the state.

    %(sections)s

    See Also
    --------
    paragru, paraslstm : The other cells.
    fastiter.paralstm : The same on arrays, with references.
    fastiter.torch.nn.ParaLSTM : A layer with this recurrence.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> wx, a, p = torch.randn(2, 5, 3, 8), torch.rand(3, 8), torch.rand(2, 8, requires_grad=True)
    >>> h, (last, c) = fastiter.torch.paralstm(wx, a, p)
    >>> torch.autograd.grad(c.sum(), p)[0].shape
    torch.Size([2, 8])
    """
    solver = (method, window, rtol, atol, max_steps)
    return _run("paralstm", wx, a, p, state, solver, reverse, (reset, lengths, cu_seqlens), return_info, out)


@typed
@documented_like(arrays.paraslstm)
def paraslstm(
    wx: Tensor,
    a: Tensor,
    state: Sequence[Tensor] | None = None,
    *,
    method: Method = "auto",
    reverse: bool = False,
    lengths: Tensor | Sequence[int] | None = None,
    cu_seqlens: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    window: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int | None = None,
    return_info: bool = False,
    out: Tensor | None = None,
) -> Result:
    """h[t] = o c[t] / n[t]: :func:`fastiter.paraslstm` on tensors, differentiable like :func:`paragru`.

    The gradients include the path through the stabiliser m, so they are also correct for losses on c, n and m.

    %(sections)s

    See Also
    --------
    slstm : The cell with full recurrent weights.
    fastiter.paraslstm : The same on arrays, with references.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> h, (last, c, n, m) = fastiter.torch.paraslstm(torch.randn(2, 5, 4, 8), torch.rand(4, 8))
    >>> bool((n >= 1).all())
    True
    """
    solver = (method, window, rtol, atol, max_steps)
    return _run("paraslstm", wx, a, None, state, solver, reverse, (reset, lengths, cu_seqlens), return_info, out)


_PUBLIC: dict[str, Any] = {"paragru": paragru, "paralstm": paralstm, "paraslstm": paraslstm}


def _run(
    function: str,
    wx: Tensor,
    a: Tensor,
    p: Tensor | None,
    state: Any,
    solver: tuple[str, Any, Any, Any, Any],
    reverse: bool,
    requested: tuple[Any, Any, Any],
    return_info: bool,
    out: Tensor | None,
) -> Result:
    if overridden(wx, a, p, *requested, state, out, parts=state):
        inputs = (wx, a, state) if p is None else (wx, a, p, state)
        options = dict(zip(("method", "window", "rtol", "atol", "max_steps"), solver, strict=True))
        rest = {"reverse": reverse, "return_info": return_info, "out": out}
        options |= dict(zip(("reset", "lengths", "cu_seqlens"), requested, strict=True))
        return dispatched(_PUBLIC[function], *inputs, **options, **rest)
    cell = CELLS[function]
    check_flag(function, "reverse", reverse)
    check_flag(function, "return_info", return_info)
    first = () if state is None else state_parts(function, cell, state)
    tensors = (wx, a, p, *first) if cell.peepholes else (wx, a, *first)
    check_tensors(function, cell.names, tensors, devices=CPU_AND_CUDA)
    shapes = [part.shape for part in first]
    p_shape = None if p is None else p.shape
    batch, time, width = check_shapes(function, cell, wx.shape, a.shape, p_shape, [])
    default_window = cuda.WINDOW if wx.is_cuda else WINDOW
    newton = newton_options(function, *solver, eps=torch.finfo(wx.dtype).eps, default_window=default_window)
    if wx.is_cuda:
        cuda.check_method(function, bool(newton))
        cuda.check_cut(function, requested[0], requested[2])
    cut = checked_sequences(function, wx, *requested, "wx")
    rows = None if cut.cu_seqlens is None else cut.count(batch)
    check_shapes(function, cell, wx.shape, a.shape, p_shape, shapes, rows)
    if out is not None:
        pairs = named(("reset", *cell.names[: len(tensors)]), (cut.reset, *tensors))
        pairs = [*pairs[cut.reset is not None :], *pairs[: cut.reset is not None]]
        check_out(function, out, (batch, time, width), pairs, FLOATS)
    h, last, info = _apply(cell, wx, a, p, first, reverse, cut, newton, out)
    return ParaResultInfo(h, last, info) if return_info else ParaResult(h, last)


def _apply(
    cell: ParaCell,
    wx: Tensor,
    a: Tensor,
    p: Tensor | None,
    first: States,
    reverse: bool,
    cut: Sequences,
    newton: Options,
    out: Tensor | None,
) -> tuple[Tensor, States, NewtonInfo]:
    """Return h (in ``out`` if that is given), the final states, and a NewtonInfo."""
    window, max_steps, rtol, atol = newton or (0, 0, 0.0, 0.0)
    # Under forward-mode differentiation the autograd function is called, which raises the error.
    needs_grad = torch.is_grad_enabled() and _any_requires_grad(wx, a, p, first)
    if needs_grad or transformed() or forward_ad._current_level >= 0:
        outputs = applied(_Recurrence, cell.name, reverse, *cut, (window, max_steps, rtol, atol), wx, a, p, *first)
    else:
        call = ParaForward(
            cell.name,
            wx,
            a,
            p,
            first,
            reverse,
            cut.lengths,
            window,
            max_steps,
            rtol,
            atol,
            False,
            cut.reset,
            cut.cu_seqlens,
        )
        direct = out is not None and is_written_by_kernels(out, wx, a, p, first, *cut)
        outputs = para_forward(call, out) if direct else para_fwd(call)
    h, last = outputs[:2]
    if out is not None:
        h = written(out) if h is out else out.copy_(h)
    info = NewtonInfo("newton", *outputs[2].unbind(0)) if newton else NewtonInfo("sequential", None, None)
    return h, _parts(last), info


def _parts(last: Tensor) -> States:
    """Split the final states (S, B, D) into parts not marked as views, so that users may change each in place."""
    if transformed():  # torch.func has no rule for unsafe_split
        return tuple(last.unbind(0))
    return tuple(last.flatten(0, 1).unsafe_split_with_sizes([last.shape[1]] * last.shape[0]))


def _any_requires_grad(wx: Tensor, a: Tensor, p: Tensor | None, first: States) -> bool:
    if wx.requires_grad or a.requires_grad or (p is not None and p.requires_grad):
        return True
    return any(x.requires_grad for x in first)


class _Recurrence(torch.autograd.Function):
    """Map (wx, a, p, *state) to (h, final states (S, B, D), counts of Newton's method, all states but h, copy of h).

    The copy of h is for the backward pass, as users may write to h.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        cell: str,
        reverse: bool,
        reset: Tensor | None,
        lengths: Tensor | None,
        cu_seqlens: Tensor | None,
        newton: tuple[int, int, float, float],
        wx: Tensor,
        a: Tensor,
        p: Tensor | None,
        *first: Tensor,
    ) -> tuple[Tensor, ...]:
        outputs = para_fwd(ParaForward(cell, wx, a, p, first, reverse, lengths, *newton, True, reset, cu_seqlens))
        return (*outputs, own_copy(outputs[0]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        cell, reverse, reset, lengths, cu_seqlens, newton, wx, a, p, *first = inputs
        _, _, *rest = output
        *others, h = rest[1:] if newton[0] else rest
        ctx.save_for_backward(wx, a, p, reset, lengths, cu_seqlens, h, *others, *first)
        ctx.cell, ctx.reverse, ctx.newton = CELLS[cell], reverse, newton[0] > 0
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*rest)

    @staticmethod
    @differentiable_once(lambda ctx: ctx.cell.name)
    def backward(ctx: Any, dh: Tensor | None, dlast: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        wx, a, p, reset, lengths, cu_seqlens, *others = ctx.saved_tensors
        count = len(ctx.cell.states)
        states, first = others[:count], others[count:]
        if dh is None and dlast is None:
            return (None,) * (9 + len(first))
        need_weights = any(ctx.needs_input_grad[7:9])
        inputs = (wx, a, p, first, states, dh, dlast)
        call = ParaBackward(ctx.cell.name, *inputs, ctx.reverse, lengths, need_weights, ctx.newton, reset, cu_seqlens)
        dwx, dfirst, *weights = para_bwd(call)
        da, dp = (*weights, None, None)[:2]
        return (*[None] * 6, dwx, da, dp, *(dfirst.unbind(0) if first else ()))
