"""Dispatch of layers whose input, states or weights define __torch_function__, as in torch.nn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import RNNBase
from torch.nn.utils.rnn import PackedSequence

from ...._torch.overrides import dispatched
from .checks import module_name
from .torch_layer import OF_TORCH, reason_against_torch

#: (module, input, hx, requested, weights) -> output and final states
Run = Callable[[RNNBase, Any, Any, Any, list[list[Tensor]]], tuple[Any, Any]]


def run_overridden(
    run: Run, module: RNNBase, input: Any, hx: Any, requested: Any, weights: list[list[Tensor]]
) -> tuple[Any, Any]:
    """Dispatch a call of ``run`` to its override; a packed input is passed as the tuple of its fields."""
    from torch.nn.utils._expanded_weights.expanded_weights_impl import ExpandedWeight

    if any(isinstance(weight, ExpandedWeight) for some in weights for weight in some):
        return _per_sample(module, input, hx, requested)
    plain = tuple(input) if isinstance(input, PackedSequence) else input
    output, last = dispatched(run, module, plain, hx, requested, weights)
    return input._replace(data=output) if isinstance(input, PackedSequence) else output, tuple(last)


def _per_sample(module: RNNBase, input: Any, hx: Any, requested: Any) -> tuple[Any, Any]:
    """Run torch.nn's layer, which call_for_per_sample_grads supports, or raise with the reason why it cannot."""
    name, why = module_name(module), reason_against_torch(module)
    if why is None and any(x is not None for x in requested):
        why = "torch's has no reset, lengths and cu_seqlens"
    if why is not None:
        instead = "torch.func.vmap of torch.func.grad has those of this layer too"
        raise RuntimeError(f"{name}: call_for_per_sample_grads needs a layer that torch has, and {why}; {instead}")
    output, last = OF_TORCH[module.mode].forward(module, input, hx)
    return output, last if isinstance(last, tuple) else (last,)
