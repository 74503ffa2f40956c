"""Recurrent networks along time on tensors: h[t] = cell(wx[t] + r h[t-1] + b, state[t-1]), differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .._rnn import CELLS, Cell, check_flag, check_shapes, check_state, elman_cell
from ._op import check_tensors, checked_lengths, differentiable_once
from ._rnn_op import fits, rnn_bwd, rnn_fwd

States: TypeAlias = tuple[Tensor, ...]
Result: TypeAlias = "tuple[Tensor, States] | tuple[Tensor, States, States]"


def lstm(
    wx: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    state: Sequence[Tensor] | None = None,
    *,
    reverse: bool = False,
    lengths: Tensor | Sequence[int] | None = None,
    return_all_states: bool = False,
) -> Result:
    """c[t] = f c[t-1] + i g, h[t] = o tanh(c[t]): :func:`fastiter.lstm` on tensors.

    Differentiable in wx, r, b and the state, with gradients from h, from the final states and from all states when they
    are returned. Differentiating twice is refused with an error. Shapes, order of the gates and errors are those of
    :func:`fastiter.lstm`.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> layer = torch.nn.LSTM(3, 5)
    >>> x = torch.randn(7, 2, 3)  # time-major
    >>> wx = torch.nn.functional.linear(x, layer.weight_ih_l0, layer.bias_ih_l0).view(7, 2, 4, 1, 5)
    >>> r, b = layer.weight_hh_l0.view(4, 1, 5, 5), layer.bias_hh_l0.view(4, 1, 5)
    >>> h, (last, c) = fastiter.torch.lstm(wx.transpose(0, 1), r, b)
    >>> torch.allclose(h.squeeze(2).transpose(0, 1), layer(x)[0], atol=1e-6)
    True
    """
    return _run("lstm", "lstm", wx, r, b, state, reverse, lengths, return_all_states)


def gru(
    wx: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    state: Sequence[Tensor] | None = None,
    *,
    reverse: bool = False,
    lengths: Tensor | Sequence[int] | None = None,
    return_all_states: bool = False,
) -> Result:
    """h[t] = (1 - z) n + z h[t-1]: :func:`fastiter.gru` on tensors, differentiable as :func:`lstm` is."""
    return _run("gru", "gru", wx, r, b, state, reverse, lengths, return_all_states)


def elman(
    wx: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    state: Sequence[Tensor] | None = None,
    *,
    activation: Literal["tanh", "relu"] = "tanh",
    reverse: bool = False,
    lengths: Tensor | Sequence[int] | None = None,
    return_all_states: bool = False,
) -> Result:
    """h[t] = tanh(wx[t] + r h[t-1] + b) or max(., 0): :func:`fastiter.elman` on tensors, differentiable as the LSTM."""
    return _run("elman", elman_cell(activation), wx, r, b, state, reverse, lengths, return_all_states)


def slstm(
    wx: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    state: Sequence[Tensor] | None = None,
    *,
    reverse: bool = False,
    lengths: Tensor | Sequence[int] | None = None,
    return_all_states: bool = False,
) -> Result:
    """h[t] = o c[t] / n[t]: :func:`fastiter.slstm` on tensors, differentiable as :func:`lstm` is.

    The gradients go through the stabiliser m too, so they are right also for losses on c, n and m.
    """
    return _run("slstm", "slstm", wx, r, b, state, reverse, lengths, return_all_states)


def packed(
    cell: str,
    wx: Tensor,
    batch_sizes: Tensor,
    r: Tensor,
    b: Tensor | None,
    state: Sequence[Tensor] | None,
    *,
    reverse: bool = False,
) -> tuple[Tensor, States]:
    """Run a cell on the data of a PackedSequence: only its valid steps are computed.

    ``wx`` (M, G, N, D) and ``batch_sizes`` (T,) are laid out as PackedSequence does; h comes back as (M, N, D), the
    final states as (B, N, D) with the rows in packed order. ``cell`` is "lstm", "gru", "elman_tanh", "elman_relu" or
    "slstm".
    """
    spec = CELLS[cell]
    batch, total = _checked_batch_sizes(cell, batch_sizes)
    _check_tensors(cell, spec, wx, r, b, state)
    if wx.dim() != 4 or wx.shape[0] != total:
        raise ValueError(f"{cell}: packed wx must have shape (M, G, N, D) with M = {total}, got {tuple(wx.shape)}")
    _check_shapes(cell, spec, (batch, 1, *wx.shape[1:]), r, b, state)
    h, last, _ = _apply(spec, wx, r, b, state, reverse, None, batch_sizes, False)
    return h, last


def _checked_batch_sizes(function: str, batch_sizes: Tensor) -> tuple[int, int]:
    """Return B and M of a packed batch; its kernels trust that rows only ever end."""
    if not isinstance(batch_sizes, Tensor) or batch_sizes.dtype != torch.int64 or not batch_sizes.is_cpu:
        raise TypeError(f"{function}: batch_sizes must be an int64 tensor on the CPU, got {_kind(batch_sizes)}")
    if batch_sizes.dim() != 1 or not batch_sizes.is_contiguous():
        raise ValueError(f"{function}: batch_sizes must be contiguous with shape (T,), got {tuple(batch_sizes.shape)}")
    if len(batch_sizes) == 0:
        return 0, 0
    if int(batch_sizes[-1]) < 1 or bool((batch_sizes[1:] > batch_sizes[:-1]).any()):
        raise ValueError(f"{function}: batch_sizes must not increase nor fall below 1, got {batch_sizes.tolist()}")
    return int(batch_sizes[0]), int(batch_sizes.sum())


def _kind(x: object) -> str:
    return f"{x.dtype} on {x.device}" if isinstance(x, Tensor) else type(x).__qualname__


def _check_tensors(
    function: str, cell: Cell, wx: Tensor, r: Tensor, b: Tensor | None, state: Sequence[Tensor] | None
) -> None:
    if state is not None:
        check_state(function, cell, state)
    bias = () if b is None else (b,)
    names = ("wx", "r", "b", *cell.state_names) if bias else ("wx", "r", *cell.state_names)
    check_tensors(function, names, (wx, r, *bias, *(state or ())))


def _check_shapes(
    function: str, cell: Cell, wx: tuple[int, ...], r: Tensor, b: Tensor | None, state: Sequence[Tensor] | None
) -> tuple[int, int, int, int]:
    shapes = None if state is None else [part.shape for part in state]
    return check_shapes(function, cell, wx, r.shape, None if b is None else b.shape, shapes)


def _run(
    function: str,
    cell_name: str,
    wx: Tensor,
    r: Tensor,
    b: Tensor | None,
    state: Sequence[Tensor] | None,
    reverse: bool,
    lengths: Tensor | Sequence[int] | None,
    return_all_states: bool,
) -> Result:
    cell = CELLS[cell_name]
    check_flag(function, "reverse", reverse)
    check_flag(function, "return_all_states", return_all_states)
    whole = None
    if lengths is not None or not fits(cell, wx, r, b, state):
        _check_tensors(function, cell, wx, r, b, state)
        batch, time, _, _ = _check_shapes(function, cell, wx.shape, r, b, state)
        whole = None if lengths is None else checked_lengths(function, lengths, batch, time)
    h, last, states = _apply(cell, wx, r, b, state, reverse, whole, None, return_all_states)
    return (h, last, states) if return_all_states else (h, last)


def _apply(
    cell: Cell,
    wx: Tensor,
    r: Tensor,
    b: Tensor | None,
    state: Sequence[Tensor] | None,
    reverse: bool,
    lengths: Tensor | None,
    batch_sizes: Tensor | None,
    all_states: bool,
) -> tuple[Tensor, States, States]:
    """Return h, the final states, and all states (h alone where they are not wanted)."""
    first = () if state is None else tuple(state)
    # In forward mode the autograd function is called for its refusal.
    if (torch.is_grad_enabled() and _any_requires_grad(wx, r, b, first)) or forward_ad._current_level >= 0:
        outputs = _Recurrence.apply(cell, reverse, lengths, batch_sizes, all_states, wx, r, b, *first)
    else:
        outputs = rnn_fwd(cell, wx, r, b, first, reverse, lengths, batch_sizes, all_states, False)
    h, count = outputs[0], len(cell.states)
    return h, tuple(outputs[1 : 1 + count]), (h, *outputs[1 + count :]) if all_states else (h,)


def _any_requires_grad(wx: Tensor, r: Tensor, b: Tensor | None, first: States) -> bool:
    if wx.requires_grad or r.requires_grad or (b is not None and b.requires_grad):
        return True
    return any(x.requires_grad for x in first)


class _Recurrence(torch.autograd.Function):
    """wx, r, b, *state -> h, *final states, *all states but h"""

    @staticmethod
    def forward(
        ctx: Any,
        cell: Cell,
        reverse: bool,
        lengths: Tensor | None,
        batch_sizes: Tensor | None,
        all_states: bool,
        wx: Tensor,
        r: Tensor,
        b: Tensor | None,
        *first: Tensor,
    ) -> tuple[Tensor, ...]:
        outputs = rnn_fwd(cell, wx, r, b, first, reverse, lengths, batch_sizes, all_states, True)
        count = len(cell.states)
        h, kept = outputs[0], outputs[1 + count :]
        ctx.save_for_backward(r, lengths, batch_sizes, h, *kept, *first)
        ctx.cell, ctx.reverse, ctx.kept = cell, reverse, len(kept)
        ctx.set_materialize_grads(False)
        return tuple(outputs[: 2 * count if all_states else 1 + count])

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dh: Tensor | None, *dothers: Tensor | None) -> tuple[Tensor | None, ...]:
        r, lengths, batch_sizes, h, *others = ctx.saved_tensors
        kept, first, count = others[: ctx.kept], others[ctx.kept :], len(ctx.cell.states)
        dlast, drest = dothers[:count], dothers[count:]
        needs = ctx.needs_input_grad[5:]
        if dh is None and all(x is None for x in dothers):
            return (None,) * (5 + len(needs))
        need_r, need_b, need_first = needs[1], needs[2], any(needs[3:])
        dwx, *gradients = rnn_bwd(
            ctx.cell,
            r,
            first,
            [h, *kept[: count - 1]],
            kept[count - 1 :],
            [dh, *drest],
            dlast,
            ctx.reverse,
            lengths,
            batch_sizes,
            need_r,
            need_b,
            need_first,
        )
        dr = gradients.pop(0) if need_r else None
        db = gradients.pop(0) if need_b else None
        return (None, None, None, None, None, dwx, dr, db, *(gradients if need_first else [None] * len(first)))
