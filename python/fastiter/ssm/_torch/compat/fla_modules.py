"""The parts of flash-linear-attention's modules that its backends replace: convolutions and l2 norms.

Signals are (B, T, D), or (B, T, heads, width) with D = heads width; states are (N, D, W), the last W inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...._torch.ops import checked_bounds
from ..._conv_shapes import Activation
from ..causal_conv import causal_conv1d
from ..causal_conv import causal_conv1d_update as _update
from ..ops import computed

#: Options of fla's kernels that do not affect results
_IGNORED = {"cu_seqlens_cpu", "chunk_indices", "chunk_size", "BT", "layout_fallback"}


def check_options(function: str, options: dict[str, Any]) -> None:
    """Refuse unknown options."""
    for name in options:
        if name not in _IGNORED:
            raise TypeError(f"{function}: options must be those of fla, got an unexpected keyword argument {name!r}")


def causal_conv1d_fwd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    activation: Activation | None = None,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, Tensor | None]:
    """act(bias + sum over j of weight[j] x[t - W + 1 + j]) + residual, and the last inputs; see fla's function."""
    check_options("causal_conv1d_fwd", rest)
    signal = x.reshape(*x.shape[:2], -1)
    first = None if initial_state is None else initial_state[..., 1:]
    options: dict[str, Any] = {"state": first, "activation": activation, "cu_seqlens": cu_seqlens}
    y = causal_conv1d(signal.transpose(1, 2), weight, bias, **options)
    assert isinstance(y, Tensor)  # for the type checker
    y = y.transpose(1, 2).reshape(x.shape)
    last = None
    if output_final_state:
        last = causal_conv1d_update_states(signal, weight.shape[1], initial_state, cu_seqlens)
    return y if residual is None else y + residual.reshape(x.shape), last


def causal_conv1d_bwd(
    x: Tensor,
    dy: Tensor,
    dht: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    initial_state: Tensor | None = None,
    activation: Activation | None = None,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight, bias, residual and the initial state; see fla's function."""
    check_options("causal_conv1d_bwd", rest)
    arguments = {"x": x, "weight": weight, "bias": bias, "initial_state": initial_state}
    leaves: dict[str, Any] = {name: y.detach().requires_grad_() for name, y in arguments.items() if y is not None}
    with torch.enable_grad():
        options: dict[str, Any] = {"activation": activation, "cu_seqlens": cu_seqlens}
        y, last = causal_conv1d_fwd(**leaves, output_final_state=dht is not None, **options)
    pairs = [(y, dy.reshape(y.shape))] if last is None or dht is None else [(y, dy.reshape(y.shape)), (last, dht)]
    outputs, gradients = zip(*pairs, strict=True)
    result = dict(zip(leaves, torch.autograd.grad(outputs, list(leaves.values()), gradients), strict=True))
    dx, dweight, dbias, dfirst = (result.get(name) for name in arguments)
    return dx, dweight, dbias, None if residual is None else dy, dfirst


def causal_conv1d_update_states(
    x: Tensor, state_len: int, initial_state: Tensor | None = None, cu_seqlens: Tensor | None = None
) -> Tensor:
    """The last inputs of each sequence, preceded in a short one by the last inputs of its initial state."""
    x = x[None] if x.dim() == 2 else x
    batch, time, channels = x.shape
    bounds = torch.tensor([0, time])
    if cu_seqlens is not None:
        bounds = checked_bounds("causal_conv1d_update_states", cu_seqlens, time, x.device)
    steps = bounds[1:, None] + torch.arange(-state_len, 0)  # (sequences, state_len)
    before = steps - bounds[:-1, None]
    inside = (before >= 0)[..., None]
    rows = x if time else x.new_zeros(batch, 1, channels)
    result = rows[:, steps.clamp(min=0)] * inside  # (B, sequences, state_len, D)
    result = result.flatten(0, 1)
    if initial_state is not None:
        columns = (before + state_len).clamp(0, state_len - 1).repeat(batch, 1)
        rest = initial_state.gather(2, columns[:, None].expand_as(initial_state)).transpose(1, 2)
        result = torch.where(inside.repeat(batch, 1, 1), result, rest.to(result.dtype))
    return result.transpose(1, 2).contiguous()


def causal_conv1d_update(
    x: Tensor,
    cache: Tensor,
    residual: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    activation: Activation | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute one step of each sequence, x (N, D), (1, N, D) or (N, 1, D), and update the cache; see fla's function."""
    if weight is None:
        raise ValueError("causal_conv1d_update: weight must be a tensor, got None")
    with torch.no_grad():
        y = _update(x.reshape(-1, weight.shape[0]), cache, weight, bias, activation).reshape(x.shape)
        return y if residual is None else y + residual.reshape(x.shape), cache


def l2norm_fwd(x: Tensor, eps: float = 1e-6, output_dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """x / sqrt(sum x^2 + eps), and the factor of each row; see fla's function."""
    wide = x.to(computed(x.dtype))
    factor = torch.rsqrt(wide.square().sum(-1) + eps)
    return (wide * factor[..., None]).to(output_dtype or x.dtype), factor


def l2norm_bwd(y: Tensor, rstd: Tensor, dy: Tensor, eps: float = 1e-6) -> Tensor:
    """The gradient of x from y and the factors; see fla's function."""
    wide, gradient = y.to(rstd.dtype), dy.to(rstd.dtype)
    along = (gradient * wide).sum(-1, keepdim=True)
    return ((gradient - along * wide) * rstd[..., None]).to(y.dtype)
