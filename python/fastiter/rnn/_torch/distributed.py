"""Recurrent cells on sequences whose steps are sharded over the ranks of a process group: a pipeline of chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor

from ..._docs import documented_by, parts_of
from ..._torch.distributed.docs import PARTS
from ..._torch.distributed.sharded import sharded
from ..._torch.distributed.sharding import Sharding
from ..._torch.sequences import Integers
from . import functional
from .results import RnnResult


def _cell(local: Callable[..., Any]) -> Sharding[RnnResult]:
    return Sharding(local, {"wx": "BT.N.", "r": ".N..", "b": ".N."}, "BTN.", RnnResult)


_LSTM, _GRU, _ELMAN, _SLSTM = map(_cell, (functional.lstm, functional.gru, functional.elman, functional.slstm))


@documented_by(parts_of(functional.lstm) | PARTS)
def lstm(
    wx: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    state: Sequence[Tensor] | None = None,
    *,
    group: Any = None,
    chunks: int | None = None,
    reverse: bool = False,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
    reset: Tensor | None = None,
    checkpoint: int | None = None,
    clip_grad: float | None = None,
    clip_state: float | None = None,
) -> RnnResult:
    """c[t] = f c[t-1] + i g, h[t] = o tanh(c[t]) over the steps of all ranks.

    This is :func:`fastiter.torch.lstm` on sharded steps, in a pipeline of chunks of rows, or of heads where these
    make more chunks: a rank computes one chunk after another, each when its state has arrived, with the bits of one
    process. Differentiable once; gradients go through the pipeline backwards.

    Parameters
    ----------
    %(parameters)s

    Returns
    -------
    output : Tensor (B, T, N, D)
        h at this rank's steps.
    %(final)s

    Raises
    ------
    %(errors)s

    See Also
    --------
    gru, slstm, elman : The other cells.
    fastiter.torch.lstm : The same in one process.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> def shard(wx, r):  # on each rank, after torch.distributed.init_process_group
    ...     return fastiter.torch.distributed.lstm(wx, r, chunks=4)
    """
    return sharded(_LSTM, locals())


@documented_by(parts_of(functional.gru) | PARTS)
def gru(
    wx: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    state: Tensor | Sequence[Tensor] | None = None,
    *,
    group: Any = None,
    chunks: int | None = None,
    reverse: bool = False,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
    reset: Tensor | None = None,
    checkpoint: int | None = None,
    clip_grad: float | None = None,
    clip_state: float | None = None,
) -> RnnResult:
    """h[t] = (1 - z) n + z h[t-1] over the steps of all ranks.

    This is :func:`fastiter.torch.gru` on sharded steps, in a pipeline of chunks of rows, or of heads where these
    make more chunks: a rank computes one chunk after another, each when its state has arrived, with the bits of one
    process. Differentiable once; gradients go through the pipeline backwards.

    Parameters
    ----------
    %(parameters)s

    Returns
    -------
    output : Tensor (B, T, N, D)
        h at this rank's steps.
    %(final)s

    Raises
    ------
    %(errors)s

    See Also
    --------
    lstm, slstm, elman : The other cells.
    fastiter.torch.gru : The same in one process.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> def shard(wx, r):  # on each rank, after torch.distributed.init_process_group
    ...     return fastiter.torch.distributed.gru(wx, r, chunks=4)
    """
    return sharded(_GRU, locals())


@documented_by(parts_of(functional.elman) | PARTS)
def elman(
    wx: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    state: Tensor | Sequence[Tensor] | None = None,
    *,
    group: Any = None,
    chunks: int | None = None,
    activation: Literal["tanh", "relu"] = "tanh",
    reverse: bool = False,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
    reset: Tensor | None = None,
    checkpoint: int | None = None,
    clip_grad: float | None = None,
    clip_state: float | None = None,
) -> RnnResult:
    """h[t] = tanh(wx[t] + r h[t-1] + b) over the steps of all ranks.

    This is :func:`fastiter.torch.elman` on sharded steps, in a pipeline of chunks of rows, or of heads where these
    make more chunks: a rank computes one chunk after another, each when its state has arrived, with the bits of one
    process. Differentiable once; gradients go through the pipeline backwards.

    Parameters
    ----------
    %(parameters)s

    Returns
    -------
    output : Tensor (B, T, N, D)
        h at this rank's steps.
    %(final)s

    Raises
    ------
    %(errors)s

    See Also
    --------
    lstm, gru, slstm : The other cells.
    fastiter.torch.elman : The same in one process.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> def shard(wx, r):  # on each rank, after torch.distributed.init_process_group
    ...     return fastiter.torch.distributed.elman(wx, r, chunks=4)
    """
    return sharded(_ELMAN, locals())


@documented_by(parts_of(functional.slstm) | PARTS)
def slstm(
    wx: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    state: Sequence[Tensor] | None = None,
    *,
    group: Any = None,
    chunks: int | None = None,
    reverse: bool = False,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
    reset: Tensor | None = None,
    checkpoint: int | None = None,
    clip_grad: float | None = None,
    clip_state: float | None = None,
) -> RnnResult:
    """h[t] = o c[t] / n[t] over the steps of all ranks.

    This is :func:`fastiter.torch.slstm` on sharded steps, in a pipeline of chunks of rows, or of heads where these
    make more chunks: a rank computes one chunk after another, each when its state has arrived, with the bits of one
    process. Differentiable once; gradients go through the pipeline backwards.

    Parameters
    ----------
    %(parameters)s

    Returns
    -------
    output : Tensor (B, T, N, D)
        h at this rank's steps.
    %(final)s

    Raises
    ------
    %(errors)s

    See Also
    --------
    lstm, gru, elman : The other cells.
    fastiter.torch.slstm : The same in one process.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> def shard(wx, r):  # on each rank, after torch.distributed.init_process_group
    ...     return fastiter.torch.distributed.slstm(wx, r, chunks=4)
    """
    return sharded(_SLSTM, locals())
