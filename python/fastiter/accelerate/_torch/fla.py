"""Functions and modules of fla (flash-linear-attention), whose own are Triton kernels and do not run on CPUs.

There is no trial: the functions are those of a package with documented interfaces, and theirs could not be called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from ...ssm._torch.causal_conv import causal_conv1d, causal_conv1d_update, causal_conv1d_varlen_states
from ...ssm._torch.compat import fla_attention, fla_delta, fla_low_rank
from ...ssm._torch.ops import computed
from .functions import Function, on_cpu

Result = tuple[Tensor, Tensor | None]


def on_cpus(ours: Function) -> Callable[[Function], Function]:
    """Return what makes, from theirs, a function that calls ours where its first tensor is on a CPU."""

    def make(theirs: Function) -> Function:
        def function(*args: Any, **options: Any) -> Any:
            first = next(x for x in (*args, *options.values()) if isinstance(x, Tensor))
            return (ours if on_cpu(first) else theirs)(*args, **options)

        return function

    return make


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
    """Return causal_conv1d of fla: x (B, T, D), weight (D, W), states (N, D, W) of all last W inputs."""
    if options.get("cp_context") is not None:
        raise ValueError("causal_conv1d: cp_context must be None on a CPU")
    how: dict[str, Any] = {"activation": activation, "cu_seqlens": cu_seqlens}
    if initial_state is not None:
        how["initial_states"] = initial_state[..., 1:]
    y = causal_conv1d(x.transpose(1, 2), weight, bias, **how)
    assert isinstance(y, Tensor)  # for the type checker: the last inputs were not asked for
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
    """Return ShortConvolution.forward of fla, which changes a given cache in place in steps without gradients."""

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
            found: Result = theirs(self, x, residual, mask, cache, output_final_state, cu_seqlens, *rest, **options)
            return found
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


def _normalised(self: Any, x: Tensor, residual: Tensor | None, in_fp32: bool) -> tuple[Tensor, Tensor]:
    """Return the RMS norm of x in the dtype of its arithmetic, and the sum with the residual before it."""
    wide = x.to(computed(x.dtype))
    if residual is not None:
        wide = wide + residual.to(wide.dtype)
    after = wide if residual is not None and (in_fp32 or residual.dtype == torch.float32) else wide.to(x.dtype)
    y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
    y = y if self.weight is None else y * self.weight.to(y.dtype)
    return y if self.bias is None else y + self.bias.to(y.dtype), after


def rms_norm(theirs: Function) -> Function:
    """Return RMSNorm.forward of fla."""

    def forward(
        self: Any, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Any:
        if not on_cpu(x):
            return theirs(self, x, residual, prenorm, residual_in_fp32)
        y, after = _normalised(self, x, residual, residual_in_fp32)
        return (y.to(x.dtype), after) if prenorm else y.to(x.dtype)

    return forward


def gated_rms_norm(theirs: Function) -> Function:
    """Return FusedRMSNormGated.forward of fla, which normalises before the gate."""

    def forward(
        self: Any,
        x: Tensor,
        g: Tensor,
        residual: Tensor | None = None,
        prenorm: bool = False,
        residual_in_fp32: bool = False,
    ) -> Any:
        if not on_cpu(x):
            return theirs(self, x, g, residual, prenorm, residual_in_fp32)
        y, after = _normalised(self, x, residual, residual_in_fp32)
        gate = (torch.sigmoid if self.activation == "sigmoid" else silu)(g.to(y.dtype))
        return ((y * gate).to(x.dtype), after) if prenorm else (y * gate).to(x.dtype)

    return forward


def swiglu_linear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return (silu(x) y) W^T + b."""
    return linear((silu(x) * y).to(weight.dtype), weight, bias)


_OF_COMPAT: tuple[Function, ...] = (
    fla_attention.chunk_gla,
    fla_attention.chunk_linear_attn,
    fla_attention.chunk_simple_gla,
    fla_attention.fused_recurrent_gla,
    fla_attention.fused_recurrent_linear_attn,
    fla_attention.fused_recurrent_simple_gla,
    fla_delta.chunk_delta_rule,
    fla_delta.chunk_gated_delta_product,
    fla_delta.chunk_gated_delta_rule,
    fla_delta.fused_recurrent_delta_rule,
    fla_delta.fused_recurrent_gated_delta_rule,
    fla_low_rank.chunk_kda,
    fla_low_rank.fused_recurrent_kda,
)
#: Ours by the names of functions in fla's layers, with the first parameters of theirs
OPS: dict[str, tuple[tuple[str, ...], Function]] = {op.__name__: (("q", "k", "v"), op) for op in _OF_COMPAT}
FUNCTIONS: dict[str, tuple[tuple[str, ...], Function]] = {
    "causal_conv1d": (("x", "weight", "bias", "residual", "initial_state"), convolution),
    "swiglu_linear": (("x", "y", "weight", "bias"), swiglu_linear),
}
_NORM = ("residual", "prenorm", "residual_in_fp32")
#: What makes ours from the forward of fla's modules, by the names of their classes, with the parameters of theirs
FORWARDS: dict[str, tuple[tuple[str, ...], Callable[[Function], Function]]] = {
    "ShortConvolution": (("self", "x", "residual", "mask", "cache", "output_final_state"), short_convolution),
    "RMSNorm": (("self", "x", *_NORM), rms_norm),
    "FusedRMSNormGated": (("self", "x", "g", *_NORM), gated_rms_norm),
}
