"""Recurrent cells on sequences whose steps are sharded over the ranks of a process group: a pipeline of chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from ..._docs import documented_by, parts_of
from ..._torch.distributed.sharded_call import PARTS, Options
from ..._torch.distributed.sharded_function import Function, cell, run_function
from ..._torch.sequences import Integers
from . import functional
from .results import RnnResult


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
    how = {"checkpoint": checkpoint, "clip_grad": clip_grad, "clip_state": clip_state}
    cut = Options(group, "pipeline", chunks, reverse, reset, lengths, cu_seqlens)
    return _run(cell(functional.lstm, {"wx": wx, "r": r, "b": b}, state), cut, how)


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
    how = {"checkpoint": checkpoint, "clip_grad": clip_grad, "clip_state": clip_state}
    cut = Options(group, "pipeline", chunks, reverse, reset, lengths, cu_seqlens)
    return _run(cell(functional.gru, {"wx": wx, "r": r, "b": b}, state), cut, how)


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
    how = {"activation": activation, "checkpoint": checkpoint, "clip_grad": clip_grad, "clip_state": clip_state}
    cut = Options(group, "pipeline", chunks, reverse, reset, lengths, cu_seqlens)
    return _run(cell(functional.elman, {"wx": wx, "r": r, "b": b}, state), cut, how)


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
    how = {"checkpoint": checkpoint, "clip_grad": clip_grad, "clip_state": clip_state}
    cut = Options(group, "pipeline", chunks, reverse, reset, lengths, cu_seqlens)
    return _run(cell(functional.slstm, {"wx": wx, "r": r, "b": b}, state), cut, how)


def _run(function: Function, options: Options, how: Mapping[str, object]) -> RnnResult:
    (h,), last = run_function(function._replace(options=how), options)
    return RnnResult(h, tuple(last))
