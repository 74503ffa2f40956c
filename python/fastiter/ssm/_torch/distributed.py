"""State-space models on sequences whose steps are sharded over the ranks of a process group."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..._docs import documented_by, parts_of
from ..._torch.distributed.in_place import Optional
from ..._torch.distributed.sharded import Split
from ..._torch.distributed.sharded_call import PARTS, Exchange, Maps, Options
from ..._torch.distributed.sharded_function import Function, run_function, valid_steps
from ..._torch.sequences import Integers
from . import functional
from .attention import linear_attention as local_attention
from .low_rank import dplr_delta_rule as local_dplr
from .mlstm import mlstm as local_mlstm
from .ops import computed
from .ssd import ssd as local_ssd
from .ssd import step_sizes

#: Minimum number of channels per chunk of selective_scan
_UNIT = 16
Tensors = Mapping[str, Tensor | None]


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
    initial_state: Tensor | None = None,
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
    tensors = {"q": q, "k": k, "v": v, "log_decay": log_decay, "decay": decay, "bonus": bonus}
    maps = Maps(_attention_factors, "rows")
    options = Options(group, exchange, chunks, False, reset, lengths, cu_seqlens)
    name, how = "linear_attention", {"scale": scale}
    return _run(Function(name, local_attention, tensors, _timed(tensors), initial_state, _heads, maps, how), options)


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
    initial_state: Tensor | None = None,
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
    tensors = {"q": q, "k": k, "v": v, "a": a, "b": b, "log_decay": log_decay, "decay": decay}
    maps = Maps(_dplr_product, "matrix")
    options = Options(group, exchange, chunks, False, reset, lengths, cu_seqlens)
    name, how = "dplr_delta_rule", {"scale": scale}
    return _run(Function(name, local_dplr, tensors, _timed(tensors), initial_state, _heads, maps, how), options)


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
    initial_state: Tensor | None = None,
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
    tensors = {"x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D, "z": z, "dt_bias": dt_bias}
    how = {"dt_softplus": dt_softplus, "dt_limit": dt_limit}
    maps = Maps(partial(_ssd_factors, dt_softplus, dt_limit), "rows")
    timed = dict.fromkeys(("x", "dt", "B", "C", "z"), 1)
    options = Options(group, exchange, chunks, False, reset, lengths, cu_seqlens)
    return _run(Function("ssd", local_ssd, tensors, timed, initial_state, _ssd_heads, maps, how), options)


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
    initial_state: Tensor | None = None,
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
    tensors = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}
    timed = {"u": 2, "delta": 2, "z": 2}
    timed |= {n: y.dim() - 1 for n, y in (("B", B), ("C", C)) if isinstance(y, Tensor) and y.dim() > 2}
    maps = Maps(partial(_selective_factors, delta_softplus), "numbers")
    how = {"delta_softplus": delta_softplus, "return_last_state": True}
    options = Options(group, exchange, chunks, False, reset, lengths, cu_seqlens)
    local: Callable[..., Any] = functional.selective_scan
    return _run(Function("selective_scan", local, tensors, timed, initial_state, _channels, maps, how), options)


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
    initial_state: tuple[Tensor, Tensor, Tensor] | None = None,
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
    tensors = {"q": q, "k": k, "v": v, "i": i, "f": f}
    how = {"scale": scale, "eps": eps, "normalizer_gradient": normalizer_gradient}
    options = Options(group, "pipeline", chunks, False, reset, lengths, cu_seqlens)
    function = Function("mlstm", local_mlstm, tensors, _timed(tensors), initial_state, _heads, None, how)
    (h,), last = run_function(function._replace(state_name="initial_state"), options)
    return h, tuple(last)


def _run(function: Function, options: Options) -> tuple[Tensor, Tensor]:
    (result,), (last,) = run_function(function._replace(state_name="initial_state"), options)
    return result, last


def _timed(tensors: Tensors) -> dict[str, int]:
    """Return the tensors with a time axis, which is the second axis: all those with more axes than parameters have."""
    return {name: 1 for name, x in tensors.items() if isinstance(x, Tensor) and x.dim() > 2}


def _by_head(shared: tuple[str, str], every: str, tensors: Tensors) -> list[Split]:
    """Return the axis of rows and, unless several heads of ``shared`` each serve several of ``every``, of heads."""
    few, many, timed = tensors[shared[0]], tensors[every], _timed(tensors)
    assert few is not None and many is not None
    splits = [Split(many.shape[0], 1, tuple(0 if name in timed else None for name in tensors), 0, 0)]
    if few.shape[2] in (1, many.shape[2]):
        whole = shared if few.shape[2] != many.shape[2] else ()
        axes = (None if x is None or n in whole else 2 if n in timed else 0 for n, x in tensors.items())
        splits.append(Split(many.shape[2], 1, tuple(axes), 2, 1))
    return splits


_heads, _ssd_heads = partial(_by_head, ("q", "k"), "v"), partial(_by_head, ("B", "C"), "x")


def _channels(tensors: Tensors) -> list[Split]:
    u, A, B, C = tensors["u"], tensors["A"], tensors["B"], tensors["C"]
    assert u is not None and A is not None and B is not None and C is not None
    if A.is_complex():
        raise TypeError(f"selective_scan: A must be real if steps are sharded, got dtype {A.dtype}")
    rows = tuple(
        0 if n in ("u", "delta", "z") or (n in ("B", "C") and x is not None and x.dim() > 2) else None
        for n, x in tensors.items()
    )
    splits = [Split(u.shape[0], 1, rows, 0, 0)]
    if all(x.dim() < 4 or x.shape[1] == 1 for x in (B, C)):  # otherwise each group of channels has its own
        axes = {"u": 1, "delta": 1, "A": 0, "D": 0, "z": 1, "delta_bias": 0}
        axes |= {n: 0 for n, x in (("B", B), ("C", C)) if x.dim() == 2}
        splits.append(Split(u.shape[1], _UNIT, tuple(axes.get(name) for name in tensors), 1, 1))
    return splits


def _attention_factors(tensors: Optional, reset: Tensor | None, lengths: Tensor | None) -> Tensor:
    """Return the product of the decays, (B, N, K, 1)."""
    q, _, v, log_decay, decay, _ = tensors
    assert q is not None and v is not None
    dtype, (batch, time, heads) = computed(q.dtype), v.shape[:3]
    factors = q.new_ones(batch, heads, dtype=dtype)
    for given in (log_decay, decay):
        if given is not None:
            every = (given if given.dim() > 1 else given.expand(batch, time, heads)).to(dtype)
            is_log = given is log_decay
            every = valid_steps(every, lengths, 0.0 if is_log else 1.0)
            factors = every.sum(1).exp() if is_log else every.prod(1)
    return factors.unsqueeze(-1 if factors.dim() == 3 else 2).reshape(batch, heads, -1, 1).expand(-1, -1, q.shape[3], 1)


def _dplr_product(tensors: Optional, reset: Tensor | None, lengths: Tensor | None) -> Tensor:
    """Return the product of the transition matrices: the last state from the identity without inputs."""
    q, k, v, a, b, log_decay, decay = tensors
    assert q is not None and k is not None and v is not None and a is not None and b is not None
    heads, width = v.shape[2], q.shape[3]
    identity = torch.eye(width, dtype=computed(q.dtype), device=q.device).expand(v.shape[0], heads, width, width)
    nothing, values = torch.zeros_like(k), v.new_zeros((*v.shape[:3], width))
    how: dict[str, Any] = {"decay": decay, "initial_state": identity, "lengths": lengths}
    return local_dplr(nothing, nothing, values, a, b, log_decay, **how)[1]


def _ssd_factors(
    use_softplus: bool,
    limits: tuple[float, float],
    tensors: Optional,
    reset: Tensor | None,
    lengths: Tensor | None,
) -> Tensor:
    """Return the product of the factors of each head, (B, H, P, 1)."""
    x, dt, A, _, _, _, _, bias = tensors
    assert x is not None and dt is not None and A is not None
    d = step_sizes(dt, bias, use_softplus, (float(limits[0]), float(limits[1])))
    rates = valid_steps(d * A.to(d.dtype), lengths, 0.0)
    return rates.sum(1).exp()[:, :, None, None].expand(-1, -1, x.shape[3], 1)


def _selective_factors(use_softplus: bool, tensors: Optional, reset: Tensor | None, lengths: Tensor | None) -> Tensor:
    """Return exp(A sum d), (B, D, N)."""
    u, delta, A, _, _, _, _, bias = tensors
    assert u is not None and delta is not None and A is not None
    d = step_sizes(delta, None if bias is None else bias.unsqueeze(1), use_softplus, (-math.inf, math.inf))
    total = valid_steps(d, lengths, 0.0, 2).sum(2)
    factors = torch.exp(total.unsqueeze(2) * A.to(d.dtype))
    ended = torch.tensor([d.shape[2] == 0]) if lengths is None else lengths == 0  # no steps, also with A = -inf
    return factors.masked_fill(ended.to(d.device).view(-1, 1, 1), 1)
