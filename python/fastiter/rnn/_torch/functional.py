"""Recurrent cells over time on tensors: h[t] = cell(wx[t] + r h[t-1] + b, state[t-1]), differentiable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from torch import Tensor

from ..._docs import documented_like
from .. import _functional as arrays
from .._cells import elman_cell
from .results import typed
from .run import Integers, Requested, Result, run

F = TypeVar("F", bound=Callable[..., Any])

_MORE = """
    checkpoint : int, optional
        Save only the states of every ``checkpoint``-th step for the backward pass, which recomputes the gates bit for
        bit, instead of the states and gates of all steps. Not together with cu_seqlens.
    clip_grad : float, optional
        The gradient that a step passes to the previous h is clamped to [-clip_grad, clip_grad], elementwise; 0 cuts it.
"""


def _like(function: Callable[..., Any]) -> Callable[[F], F]:
    return documented_like(function, "reset", _MORE)


@typed
@_like(arrays.lstm)
def lstm(
    wx: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    state: Sequence[Tensor] | None = None,
    *,
    reverse: bool = False,
    lengths: Integers | None = None,
    return_all_states: bool = False,
    cu_seqlens: Integers | None = None,
    reset: Tensor | None = None,
    checkpoint: int | None = None,
    clip_grad: float | None = None,
    clip_state: float | None = None,
    out: Tensor | None = None,
) -> Result:
    """c[t] = f c[t-1] + i g, h[t] = o tanh(c[t]): :func:`fastiter.lstm` on tensors.

    Differentiable in wx, r, b and the state, with gradients from h, from the final states and from all states if they
    are returned. Second derivatives (``create_graph=True``) recompute the steps one by one in torch's operations, which
    is slower. ``out`` is refused if an argument requires a gradient.

    Tensors may be DTensors sharded by heads or by rows: each rank computes its own.

    %(sections)s

    See Also
    --------
    gru, slstm, elman : The other cells.
    fastiter.lstm : The same on arrays, with references.
    fastiter.torch.nn.LSTM : The layer of torch.nn with this recurrence.

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
    options = (reverse, lengths, return_all_states, cu_seqlens, reset, clip_state, clip_grad, checkpoint, out)
    return run(lstm, "lstm", wx, r, b, state, Requested(*options))


@typed
@_like(arrays.gru)
def gru(
    wx: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    state: Tensor | Sequence[Tensor] | None = None,
    *,
    reverse: bool = False,
    lengths: Integers | None = None,
    return_all_states: bool = False,
    cu_seqlens: Integers | None = None,
    reset: Tensor | None = None,
    checkpoint: int | None = None,
    clip_grad: float | None = None,
    clip_state: float | None = None,
    out: Tensor | None = None,
) -> Result:
    """h[t] = (1 - z) n + z h[t-1]: :func:`fastiter.gru` on tensors, differentiable like :func:`lstm`.

    %(sections)s

    See Also
    --------
    lstm, elman : The other cells.
    fastiter.gru : The same on arrays, with references.
    fastiter.torch.nn.GRU : The layer of torch.nn with this recurrence.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> wx, r = torch.randn(2, 7, 3, 1, 5), torch.randn(3, 1, 5, 5, requires_grad=True)
    >>> h, (last,) = fastiter.torch.gru(wx, r)
    >>> torch.autograd.grad(last.sum(), r)[0].shape
    torch.Size([3, 1, 5, 5])
    """
    options = (reverse, lengths, return_all_states, cu_seqlens, reset, clip_state, clip_grad, checkpoint, out)
    return run(gru, "gru", wx, r, b, state, Requested(*options))


@typed
@_like(arrays.elman)
def elman(
    wx: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    state: Tensor | Sequence[Tensor] | None = None,
    *,
    activation: Literal["tanh", "relu"] = "tanh",
    reverse: bool = False,
    lengths: Integers | None = None,
    return_all_states: bool = False,
    cu_seqlens: Integers | None = None,
    reset: Tensor | None = None,
    checkpoint: int | None = None,
    clip_grad: float | None = None,
    clip_state: float | None = None,
    out: Tensor | None = None,
) -> Result:
    """h[t] = tanh(wx[t] + r h[t-1] + b) or max(., 0): :func:`fastiter.elman` on tensors, differentiable like lstm.

    %(sections)s

    See Also
    --------
    gru, lstm : The other cells.
    fastiter.elman : The same on arrays, with references.
    fastiter.torch.nn.RNN : The layer of torch.nn with this recurrence.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> h, _ = fastiter.torch.elman(torch.ones(1, 3, 1, 1, 1), torch.ones(1, 1, 1, 1), activation="relu")
    >>> h.flatten().tolist()
    [1.0, 2.0, 3.0]
    """
    options = (reverse, lengths, return_all_states, cu_seqlens, reset, clip_state, clip_grad, checkpoint, out)
    return run(elman, elman_cell(activation), wx, r, b, state, Requested(*options))


@typed
@_like(arrays.slstm)
def slstm(
    wx: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    state: Sequence[Tensor] | None = None,
    *,
    reverse: bool = False,
    lengths: Integers | None = None,
    return_all_states: bool = False,
    cu_seqlens: Integers | None = None,
    reset: Tensor | None = None,
    checkpoint: int | None = None,
    clip_grad: float | None = None,
    clip_state: float | None = None,
    out: Tensor | None = None,
) -> Result:
    """h[t] = o c[t] / n[t]: :func:`fastiter.slstm` on tensors, differentiable like :func:`lstm`.

    The gradients include the path through the stabiliser m, so they are also correct for losses on c, n and m.

    %(sections)s

    See Also
    --------
    lstm : The cell without exponential gates.
    paraslstm : The same cell with diagonal weights.
    fastiter.slstm : The same on arrays, with references.
    fastiter.torch.nn.sLSTM : A layer with this recurrence.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> wx, r = torch.randn(2, 7, 4, 1, 5), torch.randn(4, 1, 5, 5)
    >>> h, (last, c, n, m) = fastiter.torch.slstm(wx, r)
    >>> bool((n >= 1).all())
    True
    """
    options = (reverse, lengths, return_all_states, cu_seqlens, reset, clip_state, clip_grad, checkpoint, out)
    return run(slstm, "slstm", wx, r, b, state, Requested(*options))


#: The functions by the names of their cells
FUNCTIONS = {"lstm": lstm, "gru": gru, "elman": elman, "slstm": slstm}
