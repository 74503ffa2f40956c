"""Replacements for functions and modules of fla (flash-linear-attention), which are Triton kernels and need a GPU.

There is no trial: the interfaces are documented by the package, and the originals could not be called on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ....ssm._torch.causal_conv import causal_conv1d, causal_conv1d_update, causal_conv1d_varlen_states
from ....ssm._torch.compat import fla_attention, fla_fixed, fla_low_rank, mamba_ssm_norms
from ....ssm._torch.compat.fla_common import check_off
from ....ssm._torch.compat.packages import PACKAGES
from ..functions import Function, on_cpu, on_cpus
from ..rebind import parameters_of
from . import composed as fla_composed
from . import losses as fla_losses
from . import parts as fla_parts

Result = tuple[Tensor, Tensor | None]


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    activation: str | None = None,
    backend: str | None = None,
    cu_seqlens: Tensor | None = None,
    *_: Any,
    **options: Any,
) -> Result:
    """Compute causal_conv1d of fla: x (B, T, D), weight (D, W), states (N, D, W) with the last W inputs."""
    check_off("causal_conv1d", cp_context=options.get("cp_context"))
    arguments: dict[str, Any] = {"activation": activation, "cu_seqlens": cu_seqlens}
    if initial_state is not None:
        arguments["state"] = initial_state[..., 1:]
    y = causal_conv1d(x.transpose(1, 2), weight, bias, **arguments)
    assert isinstance(y, Tensor)  # for the type checker: the last inputs were not requested
    out = y.transpose(1, 2) if residual is None else y.transpose(1, 2) + residual
    last = _last_inputs(x, initial_state, cu_seqlens, weight.shape[1]) if output_final_state else None
    return out, last


def _last_inputs(x: Tensor, first: Tensor | None, cu_seqlens: Tensor | None, width: int) -> Tensor:
    if cu_seqlens is not None and first is None:
        return causal_conv1d_varlen_states(x[0], cu_seqlens, width)
    if cu_seqlens is None:
        parts = [x.transpose(1, 2)]
    else:
        parts = [part.T[None] for part in x[0].split(cu_seqlens.diff().tolist())]
    before = x.new_zeros(x.shape[0], x.shape[2], width) if first is None else first.to(x.dtype)
    starts = [before] if cu_seqlens is None else before[:, None].unbind()
    return torch.cat([torch.cat(pair, -1)[..., -width:] for pair in zip(starts, parts, strict=True)])


def short_convolution(theirs: Function) -> Function:
    """Return a replacement for ShortConvolution.forward of fla; steps without gradients update a cache in place."""

    def forward(
        self: Any,
        x: Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Tensor | None = None,
        output_final_state: bool = False,
        cu_seqlens: Tensor | None = None,
        *rest: Any,
        **options: Any,
    ) -> Result:
        if not on_cpu(x):
            result: Result = theirs(self, x, residual, mask, cache, output_final_state, cu_seqlens, *rest, **options)
            return result
        if mask is not None:
            if cu_seqlens is not None:
                raise ValueError("ShortConvolution: mask must be None with cu_seqlens, got both")
            x = x * mask[..., None].to(x.dtype)
        weight, rows = self.weight[:, 0], x.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
        is_step = not torch.is_grad_enabled() and x.shape[0] * x.shape[1] == rows
        if not is_step or (cu_seqlens is not None and not bool((cu_seqlens.diff() == 1).all())):
            both = (cache, output_final_state)
            return convolution(x, weight, self.bias, residual, *both, self.activation, None, cu_seqlens)
        state = x.new_zeros(rows, *weight.shape) if cache is None else cache
        y = causal_conv1d_update(x.reshape(rows, -1), state, weight, self.bias, self.activation).view_as(x)
        return y if residual is None else y + residual, state if output_final_state else None

    return forward


def parallel_retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    output_attentions: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """Return the output of a retention, and None for the attention weights."""
    check_off("parallel_retention", output_attentions=output_attentions)
    return fla_fixed.chunk_retention(q, k, v, scale, cu_seqlens=cu_seqlens)


def fused_mul_recurrent_rwkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    kk: Tensor,
    a: Tensor,
    scale: float = 1.0,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """Compute fused_recurrent_rwkv7 with a = -kk and b = kk a."""
    check_off("fused_mul_recurrent_rwkv7", reverse=reverse)
    inputs = (r, w, k, v, -kk, kk * a, scale, initial_state, output_final_state, cu_seqlens)
    return fla_low_rank.fused_recurrent_rwkv7(*inputs)


def _products(x: Tensor) -> Tensor:
    """Return scaled pairwise products of channels: inner products of results are squared inner products of x."""
    i, j = torch.triu_indices(x.shape[-1], x.shape[-1], device=x.device)
    return x[..., i] * x[..., j] * torch.where(i == j, 1.0, 2**0.5).to(x.dtype)


def _quotient(q: Tensor, k: Tensor, v: Tensor, eps: float | None) -> tuple[Tensor, Tensor]:
    """Return sums of v over past steps with weights q k, divided by (the sums of the weights + eps), and these sums."""
    ones = v.new_ones(*v.shape[:-1], 1)
    sums, _ = fla_attention.chunk_linear_attn(q, k, torch.cat([v, ones], -1), scale=1.0, normalize=False)
    o, weights = sums[..., :-1], sums[..., -1:]
    return (o if eps is None else o / (weights + eps)), weights


def parallel_based(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, use_norm: bool = True) -> Tensor:
    """Return attention with weights 1 + s + s^2 / 2, for inner products s of queries and keys."""
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    q, k = (torch.cat([x.new_ones(*x.shape[:-1], 1), x, _products(x) * 2**-0.5], -1) for x in (q, k))
    return _quotient(q, k, v, 1e-6 if use_norm else None)[0]


def parallel_rebased(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eps: float = 1e-5,
    use_scale: bool = True,
    use_normalize: bool = True,
    return_both: bool = False,
) -> Any:
    """Return attention with weights s^2, for inner products s of queries and keys; ``return_both``: its two sums."""
    q, k = _products(q * q.shape[-1] ** -0.5 if use_scale else q), _products(k)
    if not return_both:
        return _quotient(q, k, v, eps if use_normalize else None)[0]
    o, weights = _quotient(q, k, v, None)
    return o.transpose(1, 2), weights[..., 0].transpose(1, 2)


_OPS: dict[str, Function] = PACKAGES["fla"].modules["ops"]
_DPLR = "compat.fla.chunk_dplr_delta_rule"
#: By the original's name: its first parameters, the function that makes the replacement from it, and the replacement's
#: name, which is empty if it uses only torch's operations
RULES: dict[str, tuple[tuple[str, ...], Callable[[Function], Function], str]] = {
    # fla's own fused_chunk_delta_rule raises an error
    **{
        name: (parameters_of(op)[:3], on_cpus(op), f"compat.fla.{name}")
        for name, op in _OPS.items()
        if name != "fused_chunk_delta_rule"
    },
    "fused_chunk_retention": (("q", "k", "v"), on_cpus(fla_fixed.chunk_retention), "compat.fla.chunk_retention"),
    "parallel_retention": (("q", "k", "v"), on_cpus(parallel_retention), "compat.fla.chunk_retention"),
    "parallel_based": (("q", "k", "v", "scale"), on_cpus(parallel_based), "compat.fla.chunk_linear_attn"),
    "parallel_rebased": (("q", "k", "v", "eps"), on_cpus(parallel_rebased), "compat.fla.chunk_linear_attn"),
    "chunk_comba": (("q", "k", "v", "p", "g", "beta"), on_cpus(fla_composed.chunk_comba), _DPLR),
    "fused_recurrent_comba": (
        ("q", "k", "p", "v", "g", "beta"),
        on_cpus(fla_composed.fused_recurrent_comba),
        _DPLR,
    ),
    "chunk_gdn2": (("q", "k", "v", "g", "b", "w", "scale"), on_cpus(fla_composed.chunk_gdn2), _DPLR),
    "fused_recurrent_gdn2": (
        ("q", "k", "v", "g", "b", "w", "A_log", "dt_bias", "scale"),
        on_cpus(fla_composed.fused_recurrent_gdn2),
        _DPLR,
    ),
    **{
        name: (("q", "k", "v", "s", "g", "scale"), on_cpus(fla_composed.chunk_gsa), "compat.fla.chunk_gla")
        for name in ("chunk_gsa", "fused_recurrent_gsa")
    },
    "chunk_lightnet": (("q", "k", "v", "scale"), on_cpus(fla_composed.chunk_lightnet), "compat.fla.chunk_gla"),
    "fused_recurrent_lightnet": (
        ("q", "k", "v", "scale"),
        on_cpus(fla_composed.chunk_lightnet),
        "compat.fla.chunk_gla",
    ),
    "fused_mul_recurrent_rwkv7": (
        ("r", "w", "k", "v", "kk", "a"),
        on_cpus(fused_mul_recurrent_rwkv7),
        "compat.fla.fused_recurrent_rwkv7",
    ),
    **{name: (names, on_cpus(ours), "") for name, (names, ours) in fla_parts.FUNCTIONS.items()},
    "rmsnorm_fn": (("x", "weight", "bias", "z"), on_cpus(mamba_ssm_norms.rmsnorm_fn), "compat.mamba_ssm.rmsnorm_fn"),
    "causal_conv1d": (
        ("x", "weight", "bias", "residual", "initial_state"),
        on_cpus(convolution),
        "ssm.causal_conv1d",
    ),
}
#: The same for the forwards of fla's modules, by class name
FORWARDS: dict[str, tuple[tuple[str, ...], Callable[[Function], Function], str]] = {
    "ShortConvolution": (
        ("self", "x", "residual", "mask", "cache", "output_final_state"),
        short_convolution,
        "ssm.causal_conv1d",
    ),
    **{name: (names, make, "") for name, (names, make) in fla_losses.FORWARDS.items()},
}
#: The names of the recurrences among them
RECURRENCES = {name for name, (_, _, by) in RULES.items() if by.startswith("compat.fla.")}
