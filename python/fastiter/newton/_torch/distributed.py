"""Cells with diagonal weights on sequences whose steps are sharded over the ranks of a process group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor

from ..._docs import documented_by, parts_of
from ..._torch.distributed.sharding import Sharding
from ..._torch.sequences import Integers
from .._results import Method
from . import functional
from .results import ParaResult, ParaResultInfo, typed_sharded
from .sharded.initial_states import EXCHANGES, PARTS, solved

#: Minimum number of channels per chunk: two cache lines of float32
_UNIT = 32


def _cell(local: Callable[..., Any], **more: str) -> Sharding[ParaResult]:
    tensors = {"wx": "BT.N", "a": ".N", **more}
    return Sharding(local, tensors, "BTN", ParaResult, _UNIT, exchanges=EXCHANGES)


_PARAGRU, _PARASLSTM = _cell(functional.paragru), _cell(functional.paraslstm)
_PARALSTM = _cell(functional.paralstm, p=".N")


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
    return solved(_PARAGRU, locals())


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
    return solved(_PARALSTM, locals())


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
    return solved(_PARASLSTM, locals())
