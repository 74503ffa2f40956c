"""The delta rule on sequences whose steps are sharded over the ranks of a process group."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ..._docs import documented_by, parts_of
from ..._torch.distributed.in_place import Optional
from ..._torch.distributed.sharded import Split
from ..._torch.distributed.sharded_call import PARTS, Exchange, Maps, Options
from ..._torch.distributed.sharded_function import Function, run_function
from ..._torch.sequences import Integers
from . import functional
from .in_place import kernels
from .ops import carried


@documented_by(parts_of(functional.delta_scan) | PARTS)
def delta_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    state: Tensor | None = None,
    *,
    group: Any = None,
    exchange: Exchange = "auto",
    chunks: int | None = None,
    decay: Tensor | None = None,
    method: Literal["auto", "sequential", "chunk"] = "auto",
    chunk: int = 64,
    reverse: bool = False,
    reset: Tensor | None = None,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
) -> tuple[Tensor, Tensor]:
    """S[t] = decay[t] (I - beta k k^T) S[t-1] + beta k v^T, o[t] = S[t]^T q[t] over the steps of all ranks.

    This is :func:`fastiter.torch.delta_scan` on sharded steps. A shard maps S to M S + c, with a K x K matrix M for
    each head, whatever its number of steps. Differentiable once in q, k, v, beta, decay and state. The results of the
    pipeline equal those of one process bit for bit with method="sequential", and with "chunk" if the number of steps of
    every shard but the last in time is a multiple of ``chunk``.

    Parameters
    ----------
    %(parameters)s

    Returns
    -------
    o : Tensor (B, T, N, V)
        The outputs of this rank's steps.
    %(last)s

    Raises
    ------
    %(errors)s

    See Also
    --------
    linear_scan : The recurrence with a scalar factor for each element.
    fastiter.torch.delta_scan : The same in one process.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> def shard(q, k, v, beta):  # on each rank, after torch.distributed.init_process_group
    ...     return fastiter.torch.distributed.delta_scan(q, k, v, beta)
    """
    tensors = {"q": q, "k": k, "v": v, "beta": beta, "decay": decay}
    function = Function(
        "delta_scan",
        functional.delta_scan,
        tensors,
        dict.fromkeys(tensors, 1),
        state,
        _splits,
        Maps(partial(_product, reverse), "matrix"),
        {"method": method, "chunk": chunk},
        has_reverse=True,
        kernels=None if reverse else kernels(method, chunk),
    )
    (o,), (last,) = run_function(function, Options(group, exchange, chunks, reverse, reset, lengths, cu_seqlens))
    return o, last


def _splits(tensors: Mapping[str, Tensor | None]) -> list[Split]:
    q, k = tensors["q"], tensors["k"]
    assert q is not None and k is not None
    heads = 2 + (k.dim() > q.dim())
    decay = None if tensors["decay"] is None else 2
    return [
        Split(q.shape[0], 1, (0,) * len(tensors), 0, 0),
        Split(q.shape[2], 1, (2, heads, heads, heads, decay), 2, 1),
    ]


def _product(reverse: bool, tensors: Optional, reset: Tensor | None, lengths: Tensor | None) -> Tensor:
    """Return the product of the transition matrices: the final state from the identity with all values v = 0."""
    q, k, _, beta, decay = tensors
    assert q is not None and k is not None and beta is not None
    batch, _, heads, width = q.shape
    identity = torch.eye(width, dtype=carried(q.dtype), device=q.device).expand(batch, heads, width, width)
    nothing = k.new_zeros(()).expand_as(k)
    queries = nothing[:, :, 0] if k.dim() > q.dim() else nothing
    how: dict[str, Any] = {"decay": decay, "reverse": reverse, "lengths": lengths}
    return functional.delta_scan(queries, k, nothing, beta, identity, **how)[1]
