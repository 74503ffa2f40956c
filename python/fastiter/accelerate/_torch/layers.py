"""Products with the weights of layers, and the check whether fastiter's mixers support a call."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook  # private, as torch has no public function for it

from ..._torch.linear import linear
from ..._torch.op import count_change
from ..._torch.ops import unwatched
from ...ssm._torch.causal_conv import causal_conv1d, causal_conv1d_update
from .conv import ACTIVATIONS, SILU
from .functions import in_float64_if, on_cpu

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_PLAIN = (Tensor, nn.Parameter)
_PLAIN_OR_NONE = {*_PLAIN, type(None)}
#: Rows of a product, and its multiplications without and with gradients, from which fastiter's is faster than torch's
_MIN_ROWS, _MIN_PRODUCTS, _MIN_PRODUCTS_WITH_GRADIENTS = 64, 1 << 24, 1 << 26
_PACKED = ("seq_idx", "cu_seqlens", "cu_seq_lens_q", "cu_seq_lens_k")  # options for packed sequences
_MASK, _FORMER_CACHE = "attention_mask", "cache_params"  # the cache's name before transformers 5.24


def is_plain(layer: Any) -> bool:
    """Return whether a layer computes just x W^T + b: no derived class of layers or weights, and no hooks."""
    kind = type(layer)
    if nn.Linear not in (kind, vars(kind).get("_in_place_of")):  # the latter if products are fastiter's
        return False
    return type(layer.weight) in _PLAIN and not has_hooks(layer)


def has_hooks(layer: Any) -> bool:
    """Return whether calling a layer does more than the forward of its class."""
    own = layer.__dict__
    return "forward" in own or any(own[name] for name in _HOOKS) or _has_any_global_hook()


def pays(x: Tensor, weight: Tensor) -> bool:
    """Return whether fastiter's product of the rows of x with a weight is faster than torch's: for large ones."""
    if not x.dtype == weight.dtype == torch.float32 or x.numel() < _MIN_ROWS * x.shape[-1]:
        return False
    minimum = _MIN_PRODUCTS_WITH_GRADIENTS if torch.is_grad_enabled() else _MIN_PRODUCTS
    return x.numel() * weight.shape[0] >= minimum


def product(layer: Any, x: Tensor) -> Tensor:
    """Return layer(x), by fastiter's product where it is faster."""
    if not is_plain(layer) or not pays(x, layer.weight):
        out: Tensor = layer(x)
        return out
    return linear(x, layer.weight, layer.bias)


def linear_forward(self: nn.Linear, input: Tensor) -> Tensor:
    """Return x W^T + b: the forward of torch.nn.Linear by fastiter's product where it is faster."""
    weight, bias = self.weight, self.bias
    if not pays(input, weight) or not on_cpu(input) or {type(input), type(weight), type(bias)} - _PLAIN_OR_NONE:
        return nn.functional.linear(input, weight, bias)
    if torch.is_autocast_enabled("cpu") or (bias is not None and bias.dtype != torch.float32):
        return nn.functional.linear(input, weight, bias)
    return linear(input, weight, bias)


def product_with(weight: Tensor, x: Tensor) -> Tensor:
    """Return x W^T."""
    if type(weight) in _PLAIN and pays(x, weight):
        return linear(x, weight)
    return nn.functional.linear(x, weight)


class States(NamedTuple):
    """The states of a layer, which are views of its cache; None before the first call."""

    conv: Any = None
    recurrent: Any = None


class Call(NamedTuple):
    """Arguments of a mixer's forward, and its initial states.

    `is_step` is whether x is a single step, and the cache has states to update in place.
    """

    x: Tensor
    cache: Any
    mask: Tensor | None
    states: States
    is_step: bool


def read_call(mixer: Any, of_cache: str, args: tuple[Any, ...], options: dict[str, Any]) -> Call | None:
    """Return the arguments of a call if fastiter's mixers support it, else None.

    Unsupported are calls on other devices, in mixed precision, with packed sequences, with another activation, with
    hooks that move weights before they are used, with a cache of all past inputs, and steps with gradients enabled, as
    caches are updated in place.
    """
    arguments = dict(zip(("hidden_states", of_cache, _MASK), args, strict=False)) | options if args else options
    x: Tensor = arguments["hidden_states"]
    cache: Any = arguments.get(of_cache)
    if not on_cpu(x) or mixer.activation not in ACTIVATIONS or torch.is_autocast_enabled("cpu"):
        return None
    if x.dtype != torch.float64 and mixer.conv1d.weight.dtype == torch.float64:
        return None
    if any(arguments.get(name) is not None for name in _PACKED) or "_hf_hook" in mixer.conv1d.__dict__:
        return None
    if of_cache != _FORMER_CACHE and _FORMER_CACHE in arguments:
        return None
    states = States() if cache is None else _states_of(cache, mixer.layer_idx)
    is_step = x.shape[1] == 1 and states.recurrent is not None
    if is_step and (torch.is_grad_enabled() or getattr(cache.layers[mixer.layer_idx], "record_past", False)):
        return None
    return Call(x, cache, arguments.get(_MASK), states, is_step)


def _states_of(cache: Any, layer: int) -> States:
    if hasattr(cache, "get_conv_state"):  # since transformers 5.24
        return States(cache.get_conv_state(layer, state_idx=0), cache.get_recurrent_state(layer, state_idx=0))
    if not cache.has_previous_state(layer):
        return States()
    return States(cache.layers[layer].conv_states[0], cache.layers[layer].recurrent_states[0])


def fused_step(mixer: Any, call: Call, step: Any, weights: tuple[Any, ...], *sizes: Any) -> Tensor | None:
    """Return the output of a whole step by one call of a kernel, which updates the states; None if that is unsupported.

    The kernel supports plain layers and tensors, up to 8 rows, and no mask.

    Parameters
    ----------
    mixer, call
        The mixer and its arguments, which are for one step.
    step
        The kernel's function.
    weights
        The weights between the convolution and the output projection.
    *sizes
        Further arguments of the kernel.
    """
    layers = (mixer.in_proj, mixer.conv1d, mixer.out_proj)
    if call.mask is not None or mixer.activation not in SILU or not unwatched():
        return None
    if not (is_plain(layers[0]) and is_plain(layers[2])):
        return None
    states = call.states
    out: Tensor | None = step(call.x, tuple([w for y in layers for w in (y.weight, y.bias)]), weights, *states, *sizes)
    if out is not None:
        count_change(states.conv)
        count_change(states.recurrent)
    return out


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return x (B, T, D) with zeros where the mask (B, T) is zero."""
    return x if mask is None else (x * mask[:, :, None]).to(x.dtype)


def convolved(mixer: Any, x: Tensor, call: Call) -> Tensor:
    """Return a mixer's convolution of x (B, T, D) along time; its state in a cache is updated in place."""
    layer, signals = mixer.conv1d, x.transpose(1, 2)
    weight, bias = in_float64_if(x, layer.weight.squeeze(1), layer.bias)
    if call.is_step:
        return causal_conv1d_update(signals, call.states.conv, weight, bias, mixer.activation).transpose(1, 2)
    if call.cache is not None:  # returns the inputs preceded by the cached ones
        signals = call.cache.update_conv_state(signals, mixer.layer_idx, conv_kernel_size=mixer.conv_kernel_size)
    out = causal_conv1d(signals, weight, bias, activation=mixer.activation)
    assert isinstance(out, Tensor)  # for the type checker: the last inputs were not requested
    return out[:, :, -x.shape[1] :].transpose(1, 2)
