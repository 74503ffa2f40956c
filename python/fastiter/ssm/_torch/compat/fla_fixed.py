"""Decays that are the same at all steps, and HGRN, with the signatures of flash-linear-attention (fla)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...._torch.elementwise import exp
from ....scan._torch.functional import linear_scan
from ..ops import computed
from .common import check_part
from .docs_fla import documented_fla
from .fla_common import FlaState, attend, check_rest, checked

State = Tensor | None


@documented_fla()
def chunk_retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """S = (1 - 2^(-5 - h)) S + k v^T in head h: fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    fused_recurrent_retention : With ``reverse``.
    chunk_simple_gla : With a decay that depends on the step.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import chunk_retention
    >>> x = torch.ones(1, 4, 1, 4)  # 4 steps of a head of width 4
    >>> o, _ = chunk_retention(x, x, x, scale=0.25)
    >>> o[0, :, 0, 0]
    tensor([1.0000, 1.9688, 2.9072, 3.8164])
    """
    state = FlaState("chunk_retention", initial_state, output_final_state, cu_seqlens)
    return _fixed(q, k, v, _retention, scale, rest, state)


@documented_fla()
def fused_recurrent_retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    reverse: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """S = (1 - 2^(-5 - h)) S + k v^T in head h: fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    chunk_retention : The same without ``reverse``.
    fused_recurrent_simple_gla : With a decay that depends on the step.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import fused_recurrent_retention
    >>> x = torch.ones(1, 4, 1, 4)  # 4 steps of a head of width 4
    >>> o, _ = fused_recurrent_retention(x, x, x, scale=0.25, reverse=True)
    >>> o[0, :, 0, 0]
    tensor([3.8164, 2.9072, 1.9688, 1.0000])
    """
    options: dict[str, Any] = {"reverse": reverse, "state_v_first": state_v_first}
    state = FlaState("fused_recurrent_retention", initial_state, output_final_state, cu_seqlens, **options)
    return _fixed(q, k, v, _retention, scale, rest, state)


def _retention(heads: Tensor) -> Tensor:
    return torch.log1p(-torch.exp2(-5 - heads))


@documented_fla()
def chunk_lightning_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layer_idx: int,
    num_layers: int,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """S = e^(-(8 / H) (1 - layer_idx / num_layers) h) S + k v^T in head h: fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    fused_recurrent_lightning_attn : With ``reverse``.
    chunk_retention : With decays that do not depend on the layer.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import chunk_lightning_attn
    >>> x = torch.ones(1, 4, 2, 4)  # 4 steps of two heads of width 4
    >>> o, _ = chunk_lightning_attn(x, x, x, layer_idx=5, num_layers=6, scale=0.25)
    >>> o[0, :, 1, 0]
    tensor([1.0000, 1.5134, 1.7770, 1.9123])
    """
    state = FlaState("chunk_lightning_attn", initial_state, output_final_state, cu_seqlens)
    return _fixed(q, k, v, _lightning(state.function, layer_idx, num_layers), scale, rest, state)


@documented_fla()
def fused_recurrent_lightning_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layer_idx: int,
    num_layers: int,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """S = e^(-(8 / H) (1 - layer_idx / num_layers) h) S + k v^T in head h: fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    chunk_lightning_attn : The same without ``reverse``.
    fused_recurrent_retention : With decays that do not depend on the layer.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import fused_recurrent_lightning_attn
    >>> x = torch.ones(1, 4, 2, 4)  # 4 steps of two heads of width 4
    >>> o, _ = fused_recurrent_lightning_attn(x, x, x, layer_idx=5, num_layers=6, scale=0.25, reverse=True)
    >>> o[0, :, 1, 0]
    tensor([1.9123, 1.7770, 1.5134, 1.0000])
    """
    state = FlaState("fused_recurrent_lightning_attn", initial_state, output_final_state, cu_seqlens, reverse=reverse)
    return _fixed(q, k, v, _lightning(state.function, layer_idx, num_layers), scale, rest, state)


def _lightning(function: str, layer_idx: int, num_layers: int) -> Callable[[Tensor], Tensor]:
    if not num_layers:
        raise ValueError(f"{function}: num_layers must not be 0, got {num_layers!r}")

    def decay(heads: Tensor) -> Tensor:
        return -(8 / heads.numel() * (1 - layer_idx / num_layers)) * heads

    return decay


def _fixed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Callable[[Tensor], Tensor],
    scale: float | None,
    rest: dict[str, Any],
    state: FlaState,
) -> tuple[Tensor, State]:
    """Compute (o, final state or None); the logarithm of the decay of each head is a function of its index."""
    check_rest(state.function, rest)
    factor = checked(state, q, k, v, scale, {})
    heads = torch.arange(v.shape[2], dtype=torch.float32, device=q.device)
    return attend(q, k, v, decay(heads).to(computed(q.dtype)), state, scale=factor)


@documented_fla(g="g_channels", initial_state="initial_vector", result="hgrn")
def fused_recurrent_hgrn(
    x: Tensor,
    g: Tensor,
    initial_state: State = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, State]:
    """h = e^g h + x over (B, T, D): fla's function of this name.

    Parameters
    ----------
    %(parameters)s

    %(result)s

    See Also
    --------
    fastiter.torch.linear_scan : The underlying function.
    chunk_gla : With a matrix as state, as in HGRN-2.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.fla import fused_recurrent_hgrn
    >>> h, last = fused_recurrent_hgrn(torch.ones(1, 4, 1), torch.full((1, 4, 1), 0.5).log(), output_final_state=True)
    >>> h.flatten(), last
    (tensor([1.0000, 1.5000, 1.7500, 1.8750]), tensor([[1.8750]]))
    """
    function = "fused_recurrent_hgrn"
    check_rest(function, rest)
    state = FlaState(function, initial_state, output_final_state, cu_seqlens)
    if not isinstance(x, Tensor) or x.dim() != 3:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__qualname__
        raise ValueError(f"{function}: x must have shape (B, T, D), got {got}")
    sequences = state.check_cut(x, "x")
    check_part(function, "x", x, tuple(x.shape), x, "x")
    check_part(function, "g", g, tuple(x.shape), x, "x")
    if initial_state is not None:
        check_part(function, "initial_state", initial_state, (sequences, x.shape[2]), x, "x")
    wide = torch.promote_types(x.dtype, torch.float32)
    first = None if initial_state is None else initial_state.to(wide)
    h, last = linear_scan(exp(g.to(wide)), x.to(wide), first, cu_seqlens=state.cu_seqlens)
    return h.to(x.dtype), last if output_final_state else None


chunk_hgrn = fused_recurrent_hgrn
