"""Mamba in transformers before 5.15: its path for GPUs, with functions for the CPU in place of those of GPU packages.

Such a mixer has a ``slow_forward``, which is a loop over time in torch's operations, and a ``cuda_kernels_forward``,
which calls functions of mamba_ssm and causal_conv1d by global names. Both compute the same. The second one with other
functions takes the place of the first.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv1d, silu

from ...ssm._torch.functional import selective_scan, selective_state_update
from .functions import in_float64_if, on_cpu
from .rebind import names_of, parameters_of, rebound

SLOW, FAST = "slow_forward", "cuda_kernels_forward"
_NEEDED = {"selective_scan_fn", "selective_state_update"}


def is_older(methods: dict[str, types.FunctionType]) -> bool:
    """Return whether a class with these methods is such a mixer."""
    return SLOW in methods and FAST in methods and names_of(methods[FAST]) >= _NEEDED


def reason_against(methods: dict[str, types.FunctionType]) -> str | None:
    """Return why one path cannot take the place of the other, None if it can."""
    slow, fast = (parameters_of(methods[name])[2:] for name in (SLOW, FAST))
    return None if slow == fast else f"its {FAST} takes {', '.join(fast)}, and its {SLOW} {', '.join(slow)}"


def forward_of(methods: dict[str, types.FunctionType]) -> Any:
    """Return the ``slow_forward`` that calls our functions.

    The model's own one runs for tensors that are not on the CPU, and for a step with a cache where gradients are
    enabled.
    """
    theirs, ours = methods[SLOW], rebound(methods[FAST], _FUNCTIONS)

    def slow_forward(self: Any, input_states: Tensor, cache_params: Any = None, *args: Any, **options: Any) -> Any:
        is_step = cache_params is not None and input_states.shape[1] == 1
        if (is_step and torch.is_grad_enabled()) or not on_cpu(input_states):
            return theirs(self, input_states, cache_params, *args, **options)
        return ours(_Evaluated(self), input_states, cache_params, *args, **options)

    return slow_forward


class _Evaluated:
    """A mixer as it is in eval mode: in training mode it would call one function for all of its parts.

    That function normalises FalconMamba's step sizes after their projection, while ``slow_forward`` does it before.
    """

    training = False

    def __init__(self, mixer: Any) -> None:
        self._mixer = mixer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mixer, name)


# ---- The functions of mamba_ssm and causal_conv1d that it calls -----------------------------------------------------


def _selective_scan_fn(u: Tensor, delta: Tensor, *rest: Tensor | None, **options: Any) -> Any:
    return selective_scan(u, *in_float64_if(u, delta, *rest), **options)


def _selective_state_update(state: Tensor, x: Tensor, *rest: Tensor | None, **options: Any) -> Tensor:
    return selective_state_update(state, x, *in_float64_if(x, *rest), **options)


def _causal_conv1d_fn(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None) -> Tensor:
    """Convolve (B, D, T) over time with one filter (D, W) for each channel."""
    channels, width = weight.shape
    y = conv1d(x, weight[:, None], bias, padding=width - 1, groups=channels)[..., : x.shape[-1]]
    return silu(y) if activation in ("silu", "swish") else y


def _causal_conv1d_update(
    x: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """Append x (B, D) to the state (B, D, W) in place, and return one step of the convolution."""
    conv_state.copy_(torch.cat([conv_state[..., 1:], x[..., None].to(conv_state.dtype)], -1))
    y = (conv_state[..., -weight.shape[-1] :] * weight).sum(-1)
    y = y if bias is None else y + bias
    return (silu(y) if activation in ("silu", "swish") else y).to(x.dtype)


_FUNCTIONS: dict[str, Any] = {
    "selective_scan_fn": _selective_scan_fn,
    "selective_state_update": _selective_state_update,
    "causal_conv1d_fn": _causal_conv1d_fn,
    "causal_conv1d_update": _causal_conv1d_update,
    "_lazy_load_causal_conv1d": lambda: (_causal_conv1d_update, _causal_conv1d_fn),
}
