"""Linear attention, its gated forms and RWKV-6 with the signatures of flash-linear-attention (fla)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..attention import linear_attention
from .common import check_part
from .docs_fla import documented_fla
from .fla_common import FlaState, attend, check_rest, checked

State = Tensor | None
NormalizedState = Tensor | tuple[Tensor | None, Tensor | None] | None


@documented_fla()
def chunk_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: NormalizedState = None,
    output_final_state: bool = False,
    normalize: bool = True,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, NormalizedState]:
    """S = S + k v^T, o = S^T q, divided by q . sum k + 1e-10 with `normalize`: fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    fused_recurrent_linear_attn : Without the normalisation by default, and with ``reverse``.
    fastiter.torch.ssm.linear_attention : The underlying function.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import chunk_linear_attn
    >>> x = torch.ones(1, 4, 1, 4)  # 4 steps of a head of width 4
    >>> o, _ = chunk_linear_attn(x, x, x * torch.arange(4.0).view(4, 1, 1))  # means of the values so far
    >>> o[0, :, 0, 0]
    tensor([0.0000, 0.5000, 1.0000, 1.5000])
    """
    check_rest("chunk_linear_attn", rest)
    state = FlaState("chunk_linear_attn", None, output_final_state, cu_seqlens)
    return _linear(q, k, v, scale, initial_state, normalize, state)


@documented_fla()
def fused_recurrent_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: NormalizedState = None,
    output_final_state: bool = False,
    reverse: bool = False,
    normalize: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, NormalizedState]:
    """S = S + k v^T, o = S^T q: fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    chunk_linear_attn : With the normalisation by default.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import fused_recurrent_linear_attn
    >>> x = torch.ones(1, 4, 1, 4)  # 4 steps of a head of width 4
    >>> o, state = fused_recurrent_linear_attn(x, x, x, scale=1.0, output_final_state=True)
    >>> o[0, :, 0, 0], state.shape
    (tensor([ 4.,  8., 12., 16.]), torch.Size([1, 1, 4, 4]))
    """
    function = "fused_recurrent_linear_attn"
    check_rest(function, rest)
    state = FlaState(function, None, output_final_state, cu_seqlens, reverse=reverse)
    return _linear(q, k, v, scale, initial_state, normalize, state)


def _linear(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None, initial: NormalizedState, normalize: bool, state: FlaState
) -> tuple[Tensor, NormalizedState]:
    if isinstance(initial, tuple) and not normalize:
        raise TypeError(f"{state.function}: initial_state must be a tensor if normalize is False, got a tuple")
    factor = checked(state, q, k, v, scale, {})
    matrix, vector = initial if isinstance(initial, tuple) else (initial, None)
    if matrix is None and vector is not None:
        raise ValueError(f"{state.function}: initial_state must have both its parts if normalize is True, got one")
    first = matrix
    if matrix is not None:
        sequences = q.shape[0] if state.cu_seqlens is None else state.cu_seqlens.shape[0] - 1
        shape = (sequences, v.shape[2], q.shape[3], v.shape[3])
        check_part(state.function, "initial_state", matrix, shape, q)
        first = _joined(state.function, matrix, vector) if normalize else matrix
    if normalize:  # the sum of the keys is an additional column of the state, with values of 1
        v = torch.cat([v, v.new_ones(*v.shape[:3], 1)], -1)
    o, last = linear_attention(q, k, v, scale=factor, **{**state.options(), "state": first})
    wanted = state.last(last)
    if not normalize:
        return o.to(q.dtype), wanted
    o = o[..., :-1] / (o[..., -1:] + 1e-10)
    split = None if wanted is None else (wanted[..., :-1], wanted[..., -1][:, None])
    return o.to(q.dtype), split


def _joined(function: str, matrix: Tensor, vector: Tensor | None) -> Tensor:
    """Return a state (N, H, K, V) and a sum of keys (N, 1, H, K) as one (N, H, K, V + 1)."""
    shape = matrix.shape[:3]
    if vector is None:
        return torch.cat([matrix, matrix.new_zeros(*shape, 1)], -1)
    expected = (shape[0], 1, *shape[1:])
    if not isinstance(vector, Tensor) or vector.shape != expected:
        got = tuple(vector.shape) if isinstance(vector, Tensor) else type(vector).__qualname__
        raise ValueError(f"{function}: initial_state must have a second part of shape {expected}, got {got}")
    return torch.cat([matrix, vector.reshape(*shape, 1).to(matrix.dtype)], -1)


@documented_fla()
def chunk_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """S = e^g S + k v^T with g (B, T, H), or g_gamma (H,), the same at all steps: fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    fused_recurrent_simple_gla : With ``reverse``.
    chunk_gla : With a decay for each key.
    fastiter.torch.ssm.linear_attention : The function that it calls.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import chunk_simple_gla
    >>> x = torch.ones(1, 4, 1, 4)  # 4 steps of a head of width 4
    >>> o, _ = chunk_simple_gla(x, x, x, torch.full((1, 4, 1), 0.5).log(), scale=0.25)  # the state halves each time
    >>> o[0, :, 0, 0]
    tensor([1.0000, 1.5000, 1.7500, 1.8750])
    """
    function = "chunk_simple_gla"
    state = FlaState(function, initial_state, output_final_state, cu_seqlens, state_v_first=state_v_first)
    return _simple_gla(function, q, k, v, (g, g_gamma), scale, rest, state)


@documented_fla()
def fused_recurrent_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    reverse: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """S = e^g S + k v^T with g (B, T, H), or g_gamma (H,), the same at all steps: fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    chunk_simple_gla : Without ``reverse``.
    fused_recurrent_gla : With a decay for each key.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import fused_recurrent_simple_gla
    >>> x = torch.ones(1, 4, 1, 4)  # 4 steps of a head of width 4
    >>> o, _ = fused_recurrent_simple_gla(x, x, x, g_gamma=torch.tensor([0.5]).log(), scale=0.25, reverse=True)
    >>> o[0, :, 0, 0]
    tensor([1.8750, 1.7500, 1.5000, 1.0000])
    """
    function = "fused_recurrent_simple_gla"
    options: dict[str, Any] = {"reverse": reverse, "state_v_first": state_v_first}
    state = FlaState(function, initial_state, output_final_state, cu_seqlens, **options)
    return _simple_gla(function, q, k, v, (g, g_gamma), scale, rest, state)


def _simple_gla(
    function: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: tuple[Tensor | None, Tensor | None],
    scale: float | None,
    rest: dict[str, Any],
    state: FlaState,
) -> tuple[Tensor, State]:
    check_rest(function, rest)
    g, fixed = gates
    factor = checked(state, q, k, v, scale, {}, {"g": (g, "BTN"), "g_gamma": (fixed, "N")})
    if g is not None and fixed is not None:
        g, fixed = g + fixed.to(g.dtype), None
    return attend(q, k, v, fixed if g is None else g, state, scale=factor)


@documented_fla(g="g_keys")
def chunk_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """S = diag(e^g) S + k v^T with g (B, T, H, K): GLA and HGRN-2: fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    fused_recurrent_gla : With ``reverse``, and the decay optional.
    chunk_simple_gla : With one decay for each head.
    fastiter.torch.ssm.linear_attention : The function that it calls.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import chunk_gla
    >>> x = torch.ones(1, 4, 1, 4)  # 4 steps of a head of width 4
    >>> g = torch.tensor([0.0, 0.0, 0.0, -torch.inf]).expand(1, 4, 1, 4)  # the last key forgets at once
    >>> o, _ = chunk_gla(x, x, x, g, scale=1.0)
    >>> o[0, :, 0, 0]
    tensor([ 4.,  7., 10., 13.])
    """
    check_rest("chunk_gla", rest)
    state = FlaState("chunk_gla", initial_state, output_final_state, cu_seqlens, state_v_first=state_v_first)
    factor = checked(state, q, k, v, scale, {"g": (g, "BTNK")})
    return attend(q, k, v, g, state, scale=factor)


@documented_fla()
def fused_recurrent_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gk: Tensor | None = None,
    gv: Tensor | None = None,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    reverse: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """S = diag(e^gk) S + k v^T with gk (B, T, H, K); gv must be None: fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    chunk_gla : The same without ``reverse``.
    fused_recurrent_simple_gla : With one decay for each head.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import fused_recurrent_gla
    >>> x = torch.ones(1, 4, 1, 4)  # 4 steps of a head of width 4
    >>> o, _ = fused_recurrent_gla(x, x, x, torch.full((1, 4, 1, 4), 0.5).log(), scale=0.25)
    >>> o[0, :, 0, 0]
    tensor([1.0000, 1.5000, 1.7500, 1.8750])
    """
    function = "fused_recurrent_gla"
    check_rest(function, {"gv": gv, **rest})
    options: dict[str, Any] = {"reverse": reverse, "state_v_first": state_v_first}
    state = FlaState(function, initial_state, output_final_state, cu_seqlens, **options)
    factor = checked(state, q, k, v, scale, {}, {"gk": (gk, "BTNK")})
    return attend(q, k, v, gk, state, scale=factor)


@documented_fla()
def chunk_rwkv6(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """o = (S + diag(u) k v^T)^T r, then S = diag(e^w) S + k v^T: fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    fused_recurrent_rwkv6 : With ``reverse``.
    chunk_rwkv7 : The rule of RWKV-7.
    fastiter.torch.ssm.linear_attention : The function that it calls, with u as ``bonus``.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import chunk_rwkv6
    >>> x = torch.ones(1, 4, 1, 4)  # 4 steps of a head of width 4
    >>> o, _ = chunk_rwkv6(x, x, x, torch.zeros(1, 4, 1, 4), u=torch.zeros(1, 4), scale=1.0)  # reads, then writes
    >>> o[0, :, 0, 0]
    tensor([ 0.,  4.,  8., 12.])
    """
    check_rest("chunk_rwkv6", rest)
    state = FlaState("chunk_rwkv6", initial_state, output_final_state, cu_seqlens, query="r")
    return _rwkv6(r, k, v, w, u, scale, state)


@documented_fla()
def fused_recurrent_rwkv6(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """o = (S + diag(u) k v^T)^T r, then S = diag(e^w) S + k v^T: fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    chunk_rwkv6 : The same without ``reverse``.
    fused_recurrent_rwkv7 : The rule of RWKV-7.
    fastiter.torch.ssm.linear_attention : The function that it calls, with u as ``bonus``.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import fused_recurrent_rwkv6
    >>> x = torch.ones(1, 4, 1, 4)  # 4 steps of a head of width 4
    >>> o, _ = fused_recurrent_rwkv6(x, x, x, torch.zeros(1, 4, 1, 4), u=torch.ones(1, 4), scale=1.0, reverse=True)
    >>> o[0, :, 0, 0]
    tensor([16., 12.,  8.,  4.])
    """
    check_rest("fused_recurrent_rwkv6", rest)
    options: dict[str, Any] = {"reverse": reverse, "query": "r"}
    state = FlaState("fused_recurrent_rwkv6", initial_state, output_final_state, cu_seqlens, **options)
    return _rwkv6(r, k, v, w, u, scale, state)


def _rwkv6(
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, scale: float | None, state: FlaState
) -> tuple[Tensor, State]:
    factor = checked(state, r, k, v, scale, {"w": (w, "BTNK"), "u": (u, "NK")})
    return attend(r, k, v, w, state, scale=factor, bonus=u)


fused_chunk_linear_attn = chunk_linear_attn
