"""torch's classes in place of LSTM, GRU and RNN, for torch's tools that support only its own classes."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn
from torch.nn import RNNBase
from torch.nn.utils.parametrize import is_parametrized

from .checks import OPTIONS, heads_of, module_name

OF_TORCH: dict[str, type[RNNBase]] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN_TANH": nn.RNN, "RNN_RELU": nn.RNN}


def plain_class(module: nn.Module) -> type[nn.Module]:
    """Return the class of a module, without the derived class that parametrizations add."""
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def set_class(module: nn.Module, plain: type[nn.Module]) -> None:
    """Change the class of a module, or the base class of a parametrized module."""
    own = type(module)
    if is_parametrized(module):
        namespace = {name: x for name, x in vars(own).items() if name not in ("__dict__", "__weakref__", "__doc__")}
        plain = type(own.__name__, (plain,), namespace)
    module.__class__ = plain


def reason_against_torch(module: RNNBase) -> str | None:
    """Return why no class of torch computes the same as this layer, None if one does."""
    if module.mode not in OF_TORCH:
        return f"torch has no {module_name(module)}"
    if heads_of(module) != 1:
        return f"torch's has no num_heads, which is {heads_of(module)}"
    for option in OPTIONS:
        if getattr(module, option, None) is not None:
            return f"torch's has no {option}, which is {getattr(module, option)}"
    return None


def take_qconfig(module: RNNBase, qconfig: Any) -> None:
    """Turn a layer that torch.ao.quantization is to quantize into torch's, or warn that it stays in float.

    Quantization workflows look modules up by their exact class, so they would silently skip fastiter's. All of them
    begin by setting the qconfig of every module of a model, to None for classes that are not to be quantized.
    """
    theirs, why = OF_TORCH.get(module.mode), reason_against_torch(module)
    name, plain = module_name(module), plain_class(module)
    if why is None and plain.__module__ != "fastiter.torch.nn":
        why = f"{plain.__module__}.{plain.__qualname__} is none of torch's classes"
    if why is None and getattr(nn, plain.__name__) is not theirs:  # the name that quantization looks up again
        why = f"torch.nn.{plain.__name__} is not torch's own any more"
    if qconfig is not None and why is None and theirs is not None:
        set_class(module, theirs)
        return
    why = why or f"it was asked to quantize no {plain.__module__}.{plain.__name__}"
    warnings.warn(
        f"{name}({module.extra_repr()}): torch.ao.quantization leaves this layer in float, as {why}; "
        "fastiter.torch.restore(model) makes layers torch's, and fastiter.torch.nn.QuantLSTM and QuantGRU round",
        stacklevel=3,
    )
