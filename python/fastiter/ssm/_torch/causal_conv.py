"""Causal convolutions of channels along time on tensors, differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from ..._check import check_flag
from ..._docs import documented_like
from ..._torch import launch
from ..._torch.ops import CPU_AND_CUDA, cast, checked_bounds, checked_integers, grad_enabled
from ..._torch.overrides import dispatched
from ..._torch.sequences import backwards, checked_sequences, in_reverse
from .. import _causal_conv as arrays
from .._conv_shapes import (
    Activation,
    check_activation,
    check_conv_shapes,
    check_conv_state,
    check_seq_idx,
    check_state_len,
    check_update_shapes,
)
from .._shapes import present_in
from ._gpu import triton_conv  # noqa: F401 (the ops of CUDA tensors)
from .checks import Integers, check_tensors
from .ops import computed
from .ops_conv import ConvUpdate, conv, conv_update, plain_conv_update


@documented_like(arrays.causal_conv1d)
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    seq_idx: Integers | None = None,
    state: Tensor | None = None,
    return_last_state: bool = False,
    activation: Activation | None = None,
    reverse: bool = False,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """out[t] = act(bias + sum over j of weight[j] x[t - W + 1 + j]): each channel has its own W taps, on tensors.

    The state may have any of the dtypes and is converted. Differentiable once in x, weight, bias and state, with
    gradients from the output and from the last state; second derivatives are refused.

    %(sections)s

    See Also
    --------
    causal_conv1d_update : Convolves one step at a time, with a state.
    causal_conv1d_varlen_states : Returns the states after packed sequences.
    fastiter.ssm.causal_conv1d : The same on arrays.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> x = torch.randn(2, 20, 8).transpose(1, 2)  # two rows of 8 channels and 20 steps
    >>> weight = torch.randn(8, 4, requires_grad=True)
    >>> out = fastiter.torch.ssm.causal_conv1d(x, weight, activation="silu")
    >>> out.shape, torch.autograd.grad(out.sum(), weight)[0].shape
    (torch.Size([2, 8, 20]), torch.Size([8, 4]))
    """
    function = "causal_conv1d"
    cuts = {"seq_idx": seq_idx, "lengths": lengths, "cu_seqlens": cu_seqlens}
    if has_torch_function((x, weight, bias, state, *cuts.values())):
        options = {"return_last_state": return_last_state, "activation": activation, "reverse": reverse}
        every: dict[str, Any] = {**cuts, "state": state, **options}
        result: Tensor | tuple[Tensor, Tensor] = dispatched(causal_conv1d, x, weight, bias, **every)
        return result
    silu = check_activation(function, activation)
    check_flag(function, "return_last_state", return_last_state)
    tensors = present_in({"x": x, "weight": weight, "bias": bias, "state": state}, "bias", "state")
    check_tensors(function, tensors, "x", CPU_AND_CUDA)
    sizes = check_conv_shapes(function, {name: y.shape for name, y in tensors.items()})
    labels: Tensor | None = None
    if seq_idx is not None:
        others = {"state": state, "lengths": lengths, "cu_seqlens": cu_seqlens}
        labels = checked_integers(function, "seq_idx", seq_idx, x.device)
        absent = {name: y is not None for name, y in others.items()}
        check_seq_idx(function, labels.shape, sizes, {**absent, "return_last_state": return_last_state})
    check_flag(function, "reverse", reverse)
    cut = checked_sequences(function, x, None, lengths, cu_seqlens, "x", (sizes.batch, sizes.time))
    if state is not None:
        check_conv_state(function, state.shape, cut.count(sizes.batch), sizes, cut.cu_seqlens is not None)
        state = cast(state, x.dtype)
    dtype = computed(x.dtype)
    if reverse:
        (x, labels), _ = backwards(function, cut, x.movedim(-1, 1), labels)
        x = x.movedim(1, -1)
    inputs = (x, cast(weight, dtype), None if bias is None else cast(bias, dtype), state)
    out, *last = conv(*inputs, silu, labels, *cut[1:], return_last_state)
    if reverse:
        out = in_reverse(function, cut, out.movedim(-1, 1))[0].movedim(1, -1)
    return (out, last[0]) if return_last_state else out


@documented_like(arrays.causal_conv1d_update)
def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: Activation | None = None,
    cache_seqlens: Integers | None = None,
    conv_state_indices: Integers | None = None,
) -> Tensor:
    """out = act(bias + sum over j of weight[j] x[t - W + 1 + j]) for the next steps, updating a state, on tensors.

    Not differentiable, as a step updates the state in place: arguments that require a gradient are refused.

    %(sections)s

    See Also
    --------
    causal_conv1d : Convolves whole sequences.
    fastiter.ssm.causal_conv1d_update : The same on arrays.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> state, weight = torch.zeros(1, 8, 4), torch.randn(8, 4)
    >>> fastiter.torch.ssm.causal_conv1d_update(torch.randn(1, 8), state, weight, activation="silu").shape
    torch.Size([1, 8])
    """
    function = "causal_conv1d_update"
    arguments = (x, conv_state, weight, bias, activation, cache_seqlens, conv_state_indices)
    if has_torch_function(arguments):
        result: Tensor = dispatched(causal_conv1d_update, *arguments)
        return result
    silu = check_activation(function, activation)
    if cache_seqlens is None and conv_state_indices is None and not torch.is_grad_enabled():
        out = plain_conv_update(x, conv_state, weight, bias, silu)
        if out is not None:
            return out
    tensors = present_in({"x": x, "conv_state": conv_state, "weight": weight, "bias": bias}, "bias")
    check_tensors(function, tensors, "x", CPU_AND_CUDA)
    shapes: dict[str, Any] = {name: y.shape for name, y in tensors.items()}
    positions = rows = None
    if cache_seqlens is not None:
        positions = checked_integers(function, "cache_seqlens", cache_seqlens, x.device)
        shapes["cache_seqlens"] = positions.shape
    if conv_state_indices is not None:
        rows = checked_integers(function, "conv_state_indices", conv_state_indices, x.device)
        shapes["conv_state_indices"] = rows.shape
    check_update_shapes(function, shapes)
    if grad_enabled() and any(y.requires_grad for y in tensors.values()):
        raise RuntimeError(
            f"{function}: arguments must not require a gradient, as the state changes in place; "
            "use torch.no_grad(), or causal_conv1d for training"
        )
    return conv_update(ConvUpdate(conv_state, x, weight, bias, silu, positions, rows))


@documented_like(arrays.causal_conv1d_varlen_states)
def causal_conv1d_varlen_states(x: Tensor, cu_seqlens: Integers, state_len: int) -> Tensor:
    """state = the last ``state_len`` inputs of each packed sequence, preceded by zeros if the sequence is shorter.

    Differentiable in x.

    %(sections)s

    See Also
    --------
    causal_conv1d_update : Continues from these states.
    fastiter.ssm.causal_conv1d_varlen_states : The same on arrays.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> fastiter.torch.ssm.causal_conv1d_varlen_states(torch.arange(1.0, 6)[:, None], [0, 1, 5], 2)
    tensor([[[0., 1.]],
    <BLANKLINE>
            [[4., 5.]]])
    """
    function = "causal_conv1d_varlen_states"
    if has_torch_function((x, cu_seqlens)):
        result: Tensor = dispatched(causal_conv1d_varlen_states, x, cu_seqlens, state_len)
        return result
    check_tensors(function, {"x": x}, "x", CPU_AND_CUDA)
    if x.dim() != 2:
        raise ValueError(f"{function}: x must have shape (T, D), got {tuple(x.shape)}")
    check_state_len(function, state_len)
    bounds = checked_bounds(function, cu_seqlens, x.shape[0], x.device)
    if x.is_cuda:
        bounds = launch.clamped_bounds(bounds.to(x.device, non_blocking=True), x.shape[0])
    steps = bounds[1:, None] + torch.arange(-state_len, 0, device=bounds.device)
    inside = steps >= bounds[:-1, None]
    # a row of zeros after the steps represents the inputs before the start of a sequence
    padded = torch.cat([x, x.new_zeros(1, x.shape[1])])
    return padded[torch.where(inside, steps, x.shape[0])].transpose(1, 2).contiguous()
