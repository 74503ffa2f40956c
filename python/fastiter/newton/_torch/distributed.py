"""Cells with diagonal weights on sequences whose steps are sharded over the ranks of a process group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from ..._docs import documented_by, parts_of
from ..._torch.distributed.sharded_call import Options
from ..._torch.distributed.sharded_function import Function, cell, run_function
from ..._torch.sequences import Integers
from .._cells import NewtonInfo
from .._results import Method
from . import functional
from .results import ParaResult, ParaResultInfo, typed_sharded
from .sharded.entered import EXCHANGES, PARTS, Solver

#: Minimum number of channels per chunk: two cache lines of float32
_UNIT = 32


@typed_sharded
@documented_by(parts_of(functional.paragru) | PARTS)
def paragru(
    wx: Tensor,
    a: Tensor,
    state: Tensor | tuple[Tensor] | None = None,
    *,
    group: Any = None,
    exchange: Literal["auto", "pipeline", "scan", "shooting"] = "auto",
    chunks: int | None = None,
    method: Method = "auto",
    reverse: bool = False,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
    reset: Tensor | None = None,
    window: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int | None = None,
    return_info: bool = False,
) -> ParaResult | ParaResultInfo:
    """h[t] = z q + (1 - z) h[t-1] over the steps of all ranks.

    This is :func:`fastiter.torch.paragru` on sharded steps: in a pipeline of chunks of rows or channels, which are
    independent, or by Newton's method on the steps of all ranks at once. Differentiable once.

    Parameters
    ----------
    %(parameters)s

    Returns
    -------
    output : Tensor (B, T, D)
        h at this rank's steps.
    %(final)s
    info : NewtonInfo
        With ``return_info``.

    Raises
    ------
    %(errors)s

    See Also
    --------
    paralstm, paraslstm : The other cells.
    fastiter.torch.paragru : The same in one process.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> def shard(wx, a):  # on each rank, after torch.distributed.init_process_group
    ...     return fastiter.torch.distributed.paragru(wx, a)
    """
    tensors = {"wx": wx, "a": a}
    how = Solver(exchange, method, window, rtol, atol, max_steps, return_info)
    cut = Options(group, exchange, chunks, reverse, reset, lengths, cu_seqlens)
    return _run(cell(functional.paragru, tensors, state, _UNIT), cut, how)


@typed_sharded
@documented_by(parts_of(functional.paralstm) | PARTS)
def paralstm(
    wx: Tensor,
    a: Tensor,
    p: Tensor,
    state: Sequence[Tensor] | None = None,
    *,
    group: Any = None,
    exchange: Literal["auto", "pipeline", "scan", "shooting"] = "auto",
    chunks: int | None = None,
    method: Method = "auto",
    reverse: bool = False,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
    reset: Tensor | None = None,
    window: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int | None = None,
    return_info: bool = False,
) -> ParaResult | ParaResultInfo:
    """c[t] = f c[t-1] + (1 - f) q, h[t] = o tanh(c[t]) over the steps of all ranks.

    This is :func:`fastiter.torch.paralstm` on sharded steps: in a pipeline of chunks of rows or channels, which are
    independent, or by Newton's method on the steps of all ranks at once. Differentiable once.

    Parameters
    ----------
    %(parameters)s

    Returns
    -------
    output : Tensor (B, T, D)
        h at this rank's steps.
    %(final)s
    info : NewtonInfo
        With ``return_info``.

    Raises
    ------
    %(errors)s

    See Also
    --------
    paragru, paraslstm : The other cells.
    fastiter.torch.paralstm : The same in one process.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> def shard(wx, a, p):  # on each rank, after torch.distributed.init_process_group
    ...     return fastiter.torch.distributed.paralstm(wx, a, p)
    """
    tensors = {"wx": wx, "a": a, "p": p}
    how = Solver(exchange, method, window, rtol, atol, max_steps, return_info)
    cut = Options(group, exchange, chunks, reverse, reset, lengths, cu_seqlens)
    return _run(cell(functional.paralstm, tensors, state, _UNIT), cut, how)


@typed_sharded
@documented_by(parts_of(functional.paraslstm) | PARTS)
def paraslstm(
    wx: Tensor,
    a: Tensor,
    state: Sequence[Tensor] | None = None,
    *,
    group: Any = None,
    exchange: Literal["auto", "pipeline", "scan", "shooting"] = "auto",
    chunks: int | None = None,
    method: Method = "auto",
    reverse: bool = False,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
    reset: Tensor | None = None,
    window: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int | None = None,
    return_info: bool = False,
) -> ParaResult | ParaResultInfo:
    """h[t] = o c[t] / n[t] over the steps of all ranks.

    This is :func:`fastiter.torch.paraslstm` on sharded steps: in a pipeline of chunks of rows or channels, which are
    independent, or by Newton's method on the steps of all ranks at once. Differentiable once.

    Parameters
    ----------
    %(parameters)s

    Returns
    -------
    output : Tensor (B, T, D)
        h at this rank's steps.
    %(final)s
    info : NewtonInfo
        With ``return_info``.

    Raises
    ------
    %(errors)s

    See Also
    --------
    paragru, paralstm : The other cells.
    fastiter.torch.paraslstm : The same in one process.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> def shard(wx, a):  # on each rank, after torch.distributed.init_process_group
    ...     return fastiter.torch.distributed.paraslstm(wx, a)
    """
    tensors = {"wx": wx, "a": a}
    how = Solver(exchange, method, window, rtol, atol, max_steps, return_info)
    cut = Options(group, exchange, chunks, reverse, reset, lengths, cu_seqlens)
    return _run(cell(functional.paraslstm, tensors, state, _UNIT), cut, how)


def _run(function: Function, options: Options, solver: Solver) -> ParaResult | ParaResultInfo:
    info: list[NewtonInfo] = []
    function = function._replace(**solver.parts(function, info))
    options = options._replace(others=tuple(solver._asdict().items()), exchanges=EXCHANGES)
    (h,), last = run_function(function, options)
    return ParaResultInfo(h, tuple(last), info[0]) if info and solver.return_info else ParaResult(h, tuple(last))
