"""State-space models on sequences whose steps are sharded over the ranks of a process group."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from ..._docs import documented_by, parts_of
from ..._torch.distributed.docs import PARTS
from ..._torch.distributed.sharded import Exchange, sharded
from ..._torch.distributed.sharding import Maps, Sharding, Tensors, pair, valid_steps
from ..._torch.sequences import Integers
from . import functional
from .attention import linear_attention as local_attention
from .low_rank import dplr_delta_rule as local_dplr
from .mlstm import mlstm as local_mlstm
from .ops import computed
from .ssd import ssd as local_ssd
from .ssd import step_sizes


def _attention_factors(tensors: Tensors, lengths: Tensor | None, options: Mapping[str, Any]) -> Tensor:
    """Return the product of the decays, (B, N, K, 1)."""
    q, v, log_decay, decay = (tensors[name] for name in ("q", "v", "log_decay", "decay"))
    assert q is not None and v is not None
    dtype, (batch, time, heads) = computed(q.dtype), v.shape[:3]
    factors = q.new_ones(batch, heads, dtype=dtype)
    for source in (log_decay, decay):
        if source is not None:
            every = (source if source.dim() > 1 else source.expand(batch, time, heads)).to(dtype)
            is_log = source is log_decay
            every = valid_steps(every, lengths, 0.0 if is_log else 1.0)
            factors = every.sum(1).exp() if is_log else every.prod(1)
    return factors.unsqueeze(-1 if factors.dim() == 3 else 2).reshape(batch, heads, -1, 1).expand(-1, -1, q.shape[3], 1)


def _dplr_product(tensors: Tensors, lengths: Tensor | None, options: Mapping[str, Any]) -> Tensor:
    """Return the product of the transition matrices: the last state from the identity without inputs."""
    q, k, v, a, b = (tensors[name] for name in ("q", "k", "v", "a", "b"))
    assert q is not None and k is not None and v is not None and a is not None and b is not None
    heads, width = v.shape[2], q.shape[3]
    identity = torch.eye(width, dtype=computed(q.dtype), device=q.device).expand(v.shape[0], heads, width, width)
    nothing, values = torch.zeros_like(k), v.new_zeros((*v.shape[:3], width))
    passed: dict[str, Any] = {"decay": tensors["decay"], "state": identity, "lengths": lengths}
    return local_dplr(nothing, nothing, values, a, b, tensors["log_decay"], **passed)[1]


def _ssd_factors(tensors: Tensors, lengths: Tensor | None, options: Mapping[str, Any]) -> Tensor:
    """Return the product of the factors of each head, (B, H, P, 1)."""
    x, dt, A = tensors["x"], tensors["dt"], tensors["A"]
    assert x is not None and dt is not None and A is not None
    low, high = options["dt_limit"]
    d = step_sizes(dt, tensors["dt_bias"], options["dt_softplus"], (float(low), float(high)))
    rates = valid_steps(d * A.to(d.dtype), lengths, 0.0)
    return rates.sum(1).exp()[:, :, None, None].expand(-1, -1, x.shape[3], 1)


def _selective_factors(tensors: Tensors, lengths: Tensor | None, options: Mapping[str, Any]) -> Tensor:
    """Return exp(A sum d), (B, D, N)."""
    delta, A, bias = tensors["delta"], tensors["A"], tensors["delta_bias"]
    assert delta is not None and A is not None
    bias = None if bias is None else bias.unsqueeze(1)
    d = step_sizes(delta, bias, options["delta_softplus"], (-math.inf, math.inf))
    total = valid_steps(d, lengths, 0.0, 2).sum(2)
    factors = torch.exp(total.unsqueeze(2) * A.to(d.dtype))
    ended = torch.tensor([d.shape[2] == 0]) if lengths is None else lengths == 0  # no steps, also with A = -inf
    return factors.masked_fill(ended.to(d.device).view(-1, 1, 1), 1)


@wraps(functional.selective_scan)
def _real_selective_scan(**arguments: Any) -> Any:
    """Return the outputs and the last state of a scan with real rates."""
    A = arguments["A"]
    if isinstance(A, Tensor) and A.is_complex():
        raise TypeError(f"selective_scan: A must be real if steps are sharded, got dtype {A.dtype}")
    return functional.selective_scan(**arguments, return_last_state=True)


_DECAY = "N BTN BTN."
_ATTENTION = Sharding(
    local_attention,
    {"q": "BTN.", "k": "BTN.", "v": "BTN.", "log_decay": _DECAY, "decay": _DECAY, "bonus": "N."},
    "BTN.",
    pair,
    maps=Maps(_attention_factors, "rows"),
)
_DPLR = Sharding(
    local_dplr,
    {"q": "BTN.", "k": "BTN.", "v": "BTN.", "a": "BTN.", "b": "BTN.", "log_decay": _DECAY, "decay": _DECAY},
    "BTN.",
    pair,
    maps=Maps(_dplr_product, "matrix"),
)
_SSD = Sharding(
    local_ssd,
    {"x": "BTN.", "dt": "BTN", "A": "N", "B": "BTN.", "C": "BTN.", "D": "N N.", "z": "BTN.", "dt_bias": "N"},
    "BTN.",
    pair,
    maps=Maps(_ssd_factors, "rows"),
)
_WEIGHTS = "N. B.T BN.T"
_SELECTIVE = Sharding(
    _real_selective_scan,
    {
        "u": "BNT",
        "delta": "BNT",
        "A": "N.",
        "B": _WEIGHTS,
        "C": _WEIGHTS,
        "D": "N",
        "z": "BNT",
        "delta_bias": "N",
    },
    "BNT",
    pair,
    unit=16,
    maps=Maps(_selective_factors, "numbers"),
)
_MLSTM = Sharding(
    local_mlstm,
    {"q": "BTN.", "k": "BTN.", "v": "BTN.", "i": "BTN", "f": "BTN"},
    "BTN.",
    lambda h, last: (h, last),
)


@documented_by(parts_of(local_attention) | PARTS)
def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None = None,
    *,
    group: Any = None,
    exchange: Exchange = "auto",
    chunks: int | None = None,
    decay: Tensor | None = None,
    bonus: Tensor | None = None,
    scale: float = 1.0,
    state: Tensor | None = None,
    reset: Tensor | None = None,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
) -> tuple[Tensor, Tensor]:
    """S[t] = decay[t] S[t-1] + k[t] v[t]^T, o[t] = scale S[t]^T q[t] over the steps of all ranks.

    This is :func:`fastiter.torch.ssm.linear_attention` on sharded steps: gated linear attention, RetNet and RWKV. A
    shard's map S -> diag(m) S + c has a factor m for each row of the state, whatever the number of steps.
    Differentiable once in every floating-point tensor.

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
    ssd : The same with Mamba-2's names and layout.
    fastiter.torch.ssm.linear_attention : The same in one process.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> def shard(q, k, v, log_decay):  # on each rank, after torch.distributed.init_process_group
    ...     return fastiter.torch.distributed.linear_attention(q, k, v, log_decay)
    """
    return sharded(_ATTENTION, locals())


@documented_by(parts_of(local_dplr) | PARTS)
def dplr_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    log_decay: Tensor | None = None,
    *,
    group: Any = None,
    exchange: Exchange = "auto",
    chunks: int | None = None,
    decay: Tensor | None = None,
    scale: float = 1.0,
    state: Tensor | None = None,
    reset: Tensor | None = None,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
) -> tuple[Tensor, Tensor]:
    """S[t] = (diag(decay[t]) + b[t] a[t]^T) S[t-1] + k[t] v[t]^T, o[t] = scale S[t]^T q[t] over the steps of all ranks.

    This is :func:`fastiter.torch.ssm.dplr_delta_rule`, RWKV-7's recurrence, on sharded steps. A shard's map has a K x K
    matrix for each head. Differentiable once in every floating-point tensor.

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
    delta_scan : The delta rule with a beta for each step.
    fastiter.torch.ssm.dplr_delta_rule : The same in one process.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> def shard(q, k, v, a, b):  # on each rank, after torch.distributed.init_process_group
    ...     return fastiter.torch.distributed.dplr_delta_rule(q, k, v, a, b, exchange="scan")
    """
    return sharded(_DPLR, locals())


@documented_by(parts_of(local_ssd) | PARTS)
def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    *,
    group: Any = None,
    exchange: Exchange = "auto",
    chunks: int | None = None,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    state: Tensor | None = None,
    reset: Tensor | None = None,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
) -> tuple[Tensor, Tensor]:
    """S[t] = exp(d A) S[t-1] + d x B^T, out[t] = (S[t] C + D x) z s(z) over the steps of all ranks.

    This is :func:`fastiter.torch.ssm.ssd`, Mamba-2's recurrence, on sharded steps. A shard's map has one factor for
    each head. Differentiable once in every tensor.

    Parameters
    ----------
    %(parameters)s

    Returns
    -------
    out : Tensor (B, T, H, P)
        The outputs of this rank's steps.
    %(last)s

    Raises
    ------
    %(errors)s

    See Also
    --------
    linear_attention : The recurrence with the names of queries, keys and values.
    fastiter.torch.ssm.ssd : The same in one process.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> def shard(x, dt, A, B, C):  # on each rank, after torch.distributed.init_process_group
    ...     return fastiter.torch.distributed.ssd(x, dt, A, B, C, dt_softplus=True)
    """
    return sharded(_SSD, locals())


@documented_by(parts_of(functional.selective_scan) | PARTS)
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    group: Any = None,
    exchange: Exchange = "auto",
    chunks: int | None = None,
    state: Tensor | None = None,
    reset: Tensor | None = None,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
) -> tuple[Tensor, Tensor]:
    """h[t] = exp(d[t] A) h[t-1] + d[t] B[t] u[t], out[t] = (C[t] h[t] + D u[t]) z s(z) over the steps of all ranks.

    This is :func:`fastiter.torch.ssm.selective_scan`, Mamba's recurrence, on sharded steps, which are the last axis. A
    shard's map has a factor for each element of the state. The last state is always returned. Differentiable once in
    every tensor.

    Parameters
    ----------
    %(parameters)s

    Returns
    -------
    out : Tensor (B, D, T)
        The outputs of this rank's steps.
    %(last)s

    Raises
    ------
    %(errors)s

    See Also
    --------
    ssd : Mamba-2's recurrence, with one rate for each head.
    fastiter.torch.ssm.selective_scan : The same in one process.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> def shard(u, delta, A, B, C):  # on each rank, after torch.distributed.init_process_group
    ...     return fastiter.torch.distributed.selective_scan(u, delta, A, B, C, delta_softplus=True)
    """
    return sharded(_SELECTIVE, locals())


@documented_by(parts_of(local_mlstm) | PARTS)
def mlstm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    *,
    group: Any = None,
    chunks: int | None = None,
    state: tuple[Tensor, Tensor, Tensor] | None = None,
    scale: float | None = None,
    eps: float = 1e-6,
    normalizer_gradient: bool = True,
    reset: Tensor | None = None,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """C = F C + I k v^T, n = F n + I k, h = C^T q / (max(|n q|, e^-m) + eps) over the steps of all ranks.

    This is :func:`fastiter.torch.ssm.mlstm` on sharded steps, in a pipeline of chunks, as the stabiliser m is not
    affine in the state. Differentiable once in every floating-point tensor.

    Parameters
    ----------
    %(parameters)s

    Returns
    -------
    h : Tensor (B, T, N, V)
        The outputs of this rank's steps.
    %(last)s

    Raises
    ------
    %(errors)s

    See Also
    --------
    linear_attention : The memory without normaliser and stabiliser.
    fastiter.torch.ssm.mlstm : The same in one process.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> def shard(q, k, v, i, f):  # on each rank, after torch.distributed.init_process_group
    ...     return fastiter.torch.distributed.mlstm(q, k, v, i, f)
    """
    return sharded(_MLSTM, locals())
