"""Replacements for transformers' causal convolutions, with the same arguments; the originals run unsupported calls."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import torch
from torch import Tensor

from ...ssm._conv_shapes import Activation
from ...ssm._torch.causal_conv import causal_conv1d, causal_conv1d_update
from .functions import Function, in_float64_if, on_cpu

SILU: tuple[Activation, ...] = ("silu", "swish")
ACTIVATIONS: tuple[Activation | None, ...] = (None, *SILU)  # those that fastiter's convolutions support
_PACKED = ("seq_idx", "cu_seqlens")  # options for packed sequences


def _takes(x: Tensor, weight: Tensor) -> bool:
    return on_cpu(x) and (weight.dtype != torch.float64 or x.dtype == torch.float64)


def convolution(theirs: Function) -> Function:
    """Return a replacement for causal_conv1d_fn of transformers; packed sequences go to the original."""

    def causal_conv1d_fn(
        hidden_states: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        activation: Activation | None = None,
        **options: Any,
    ) -> Any:
        is_packed = any(options.get(name) is not None for name in _PACKED)
        if is_packed or activation not in ACTIVATIONS or not _takes(hidden_states, weight):
            return theirs(hidden_states, weight, bias, activation, **options)
        weight, bias = in_float64_if(hidden_states, weight, bias)
        return causal_conv1d(hidden_states, weight, bias, activation=activation)

    return causal_conv1d_fn


def convolution_step(theirs: Function, activations: Container[Activation | None] = ACTIVATIONS) -> Function:
    """Return a replacement for causal_conv1d_update of transformers.

    Other activations, and calls that need a gradient, go to the original. Before transformers 5.15, it applied SiLU
    whatever the activation.
    """

    def causal_conv1d_step(
        hidden_states: Tensor,
        conv_state: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        activation: Activation | None = None,
    ) -> Tensor:
        tensors = (hidden_states, conv_state, weight, bias)
        needs_grad = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
        if needs_grad or activation not in activations or not _takes(hidden_states, weight):
            out: Tensor = theirs(hidden_states, conv_state, weight, bias, activation)
            return out
        weight, bias = in_float64_if(hidden_states, weight, bias)
        return causal_conv1d_update(hidden_states, conv_state, weight, bias, activation)

    return causal_conv1d_step
