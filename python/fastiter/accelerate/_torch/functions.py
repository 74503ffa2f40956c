"""Replacements for transformers' functions, with the same arguments.

Each function here takes the model's function, ``theirs``, and returns its replacement, which calls the original if
tensors are not on the CPU, or if fastiter does not support the call.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ...delta._torch.functional import delta_scan
from ...ssm._torch.functional import selective_scan, selective_state_update

Function = Callable[..., Any]
_FEW_STEPS = 4  # for which a loop in torch's operations takes less time than an autograd function
_L2NORM_EPS = 1e-6  # as in transformers and fla


def on_cpu(x: Tensor) -> bool:
    """Return whether fastiter's CPU kernels, or their shape functions, support a tensor."""
    return x.device.type in ("cpu", "meta")


def is_single_step_with_gradients(x: Tensor) -> bool:
    """Return whether x (B, T, ...) is one step and gradients are enabled: a few operations of torch are then faster."""
    return x.shape[1] == 1 and torch.is_grad_enabled()


def has_few_steps_with_gradients(x: Tensor) -> bool:
    """Return whether this is so for x, or its rows together have only a few steps."""
    return torch.is_grad_enabled() and (x.shape[1] == 1 or x.shape[0] * x.shape[1] <= _FEW_STEPS)


def on_cpus(ours: Function) -> Callable[[Function], Function]:
    """Return a function that maps an original to one that calls ``ours`` if its first tensor is on the CPU."""

    def make(theirs: Function) -> Function:
        def function(*args: Any, **options: Any) -> Any:
            first = next((x for x in (*args, *options.values()) if isinstance(x, Tensor)), None)
            return (theirs if first is None or not on_cpu(first) else ours)(*args, **options)

        return function

    return make


def in_float64_if(x: Tensor, *weights: Tensor | None) -> tuple[Any, ...]:
    """Return weights in float64 if x is float64, as transformers keeps them in float32 in models of every dtype."""
    if x.dtype != torch.float64:
        return weights
    return tuple(None if w is None else w.double() for w in weights)


class WithCuda:
    """The module torch with other functions in torch.cuda, for code that uses a GPU explicitly."""

    def __init__(self, **functions: Any) -> None:
        self.cuda = SimpleNamespace(**functions)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def scan(theirs: Function) -> Function:
    """Return a replacement for mamba_selective_scan of transformers."""

    def mamba_selective_scan(
        hidden_states: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        z: Tensor | None = None,
        delta_bias: Tensor | None = None,
        delta_softplus: bool = False,
        return_last_state: bool = False,
        **options: Any,
    ) -> Any:
        if not on_cpu(hidden_states):
            both = (delta_softplus, return_last_state)
            return theirs(hidden_states, dt, A, B, C, D, z, delta_bias, *both, **options)
        A, D, delta_bias = in_float64_if(hidden_states, A, D, delta_bias)
        dt, B, C, z = in_float64_if(hidden_states, dt, B, C, z)
        return selective_scan(hidden_states, dt, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)

    return mamba_selective_scan


def step_in_place(state: Tensor, x: Tensor, *arguments: Any) -> Tensor:
    """Call selective_state_update, also for the float32 states of a float64 model."""
    if x.dtype != torch.float64 or state.dtype == torch.float64:
        return selective_state_update(state, x, *arguments)
    wide = state.double()
    out = selective_state_update(wide, x, *arguments)
    state.copy_(wide)
    return out


def step(theirs: Function) -> Function:
    """Return a replacement for mamba_selective_state_update of transformers; the original computes gradients."""

    def mamba_selective_state_update(
        state: Tensor,
        hidden_states: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        dt_bias: Tensor | None = None,
        dt_softplus: bool = False,
        z: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        tensors = (state, hidden_states, dt, A, B, C, D, dt_bias, z)
        needs_grad = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
        if needs_grad or not on_cpu(hidden_states):
            out: Tensor = theirs(state, hidden_states, dt, A, B, C, D, dt_bias, dt_softplus, z, **options)
            return out
        A, D, dt_bias = in_float64_if(hidden_states, A, D, dt_bias)
        dt, B, C, z = in_float64_if(hidden_states, dt, B, C, z)
        return step_in_place(state, hidden_states, dt, A, B, C, D, z, dt_bias, dt_softplus)

    return mamba_selective_state_update


def unfused(theirs: Function) -> Function:
    """Return a replacement for mamba_inner_fn of transformers; on the CPU it returns None, which means not fused."""

    def mamba_inner_fn(xz: Tensor, *arguments: Any, **options: Any) -> Any:
        return None if on_cpu(xz) else theirs(xz, *arguments, **options)

    return mamba_inner_fn


def _normalised(x: Tensor, length: float) -> Tensor:
    """Return vectors normalised to this length."""
    return x * (length * torch.rsqrt((x * x).sum(-1, keepdim=True) + _L2NORM_EPS))


def delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Tensor | None,
    use_norm: bool,
) -> tuple[Tensor, Tensor]:
    """Return the output of transformers' gated delta rule, and the last state, for decays e^g."""
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    # The output of a convolution has time contiguous: one transposition here is faster than strided passes below.
    q, k, v, decay, b = (x.to(dtype).contiguous() for x in (query, key, value, g, beta))
    h0 = None if initial_state is None else initial_state.to(dtype)
    scale = q.shape[-1] ** -0.5
    q, k = (_normalised(q, scale), _normalised(k, 1.0)) if use_norm else (q * scale, k)
    groups = v.shape[2] // k.shape[2]
    if groups > 1:
        q, k = (x.repeat_interleave(groups, 2) for x in (q, k))
    o, last = delta_scan(q, k, v, b, h0, decay=decay.exp())
    return o.to(query.dtype), last


def gated_delta_rule(theirs: Function) -> Function:
    """Return a replacement for torch_chunk_gated_delta_rule or torch_recurrent_gated_delta_rule of transformers.

    Packed sequences (cu_seqlens) go to the original, which knows whether the convolution before it supports them.
    """

    def gated_delta_rule(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        g: Tensor,
        beta: Tensor,
        *rest: Any,
        initial_state: Tensor | None = None,
        output_final_state: bool = False,
        use_qk_l2norm_in_kernel: bool = False,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if rest or options.get("cu_seqlens") is not None or not on_cpu(query):
            flags = {"output_final_state": output_final_state, "use_qk_l2norm_in_kernel": use_qk_l2norm_in_kernel}
            result: tuple[Tensor, Tensor | None] = theirs(
                query, key, value, g, beta, *rest, initial_state=initial_state, **flags, **options
            )
            return result
        o, last = delta_rule(query, key, value, g, beta, initial_state, use_qk_l2norm_in_kernel)
        return o, last if output_final_state else None

    return gated_delta_rule


def mambapy_scan(theirs: Function) -> Function:
    """Return a replacement for MambaBlock.selective_scan and selective_scan_seq of mambapy: time before channels.

    The original is faster for single steps and, with gradients, for a few.
    """

    def selective_scan_of_block(
        self: Any, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor
    ) -> Tensor:
        if not on_cpu(x) or x.shape[1] == 1 or has_few_steps_with_gradients(x):
            out: Tensor = theirs(self, x, delta, A, B, C, D)
            return out
        A, D = in_float64_if(x, A, D)
        u, d, b, c = (y.transpose(1, 2) for y in (x, delta, B, C))
        y = selective_scan(u, d, A, b, c, D)
        assert isinstance(y, Tensor)  # for the type checker: the last state was not requested
        return y.transpose(1, 2)

    return selective_scan_of_block
