"""The delta rule on sequences whose steps are sharded over the ranks of a process group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ..._docs import documented_by, parts_of
from ..._torch.distributed.docs import PARTS
from ..._torch.distributed.in_place import Kernels
from ..._torch.distributed.sharded import Exchange, sharded
from ..._torch.distributed.sharding import Maps, Sharding, Tensors, pair
from ..._torch.sequences import Integers
from . import functional
from .in_place import kernels
from .ops import carried


def _kernels(options: Mapping[str, Any]) -> Kernels | None:
    return None if options["reverse"] else kernels(options["method"], options["chunk"])


def _product(tensors: Tensors, lengths: Tensor | None, options: Mapping[str, Any]) -> Tensor:
    """Return the product of the transition matrices: the final state from the identity with all values v = 0."""
    q, k, beta = tensors["q"], tensors["k"], tensors["beta"]
    assert q is not None and k is not None and beta is not None
    batch, _, heads, width = q.shape
    identity = torch.eye(width, dtype=carried(q.dtype), device=q.device).expand(batch, heads, width, width)
    nothing = k.new_zeros(()).expand_as(k)
    queries = nothing[:, :, 0] if k.dim() > q.dim() else nothing
    passed: dict[str, Any] = {"decay": tensors["decay"], "reverse": options["reverse"], "lengths": lengths}
    return functional.delta_scan(queries, k, nothing, beta, identity, **passed)[1]


#: k, v and beta have another axis if a step has several of them.
_DELTA = Sharding(
    functional.delta_scan,
    {"q": "BTN.", "k": "BTN. BT.N.", "v": "BTN. BT.N.", "beta": "BTN BT.N", "decay": "BTN"},
    "BTN.",
    pair,
    maps=Maps(_product, "matrix"),
    kernels=_kernels,
)


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
    return sharded(_DELTA, locals())
