"""torch's classes in place of LSTM, GRU and RNN, for tools of torch that know its own classes alone."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn
from torch.nn import RNNBase
from torch.nn.utils.parametrize import is_parametrized

from ._rnn_checks import OPTIONS, heads_of, module_name

OF_TORCH: dict[str, type[RNNBase]] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN_TANH": nn.RNN, "RNN_RELU": nn.RNN}


def plain_class(module: nn.Module) -> type[nn.Module]:
    """Return the class without what parametrizations have put before it."""
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def set_class(module: nn.Module, plain: type[nn.Module]) -> None:
    """Change the class, and below a parametrized one the class that it stands on."""
    own = type(module)
    if is_parametrized(module):
        namespace = {name: x for name, x in vars(own).items() if name not in ("__dict__", "__weakref__", "__doc__")}
        plain = type(own.__name__, (plain,), namespace)
    module.__class__ = plain


def reason_against_torch(module: RNNBase) -> str | None:
    """Say why no class of torch computes what one of our layers does."""
    if module.mode not in OF_TORCH:
        return f"torch has no {module_name(module)}"
    if heads_of(module) != 1:
        return f"torch's has no num_heads, which is {heads_of(module)}"
    for option in OPTIONS:
        if getattr(module, option, None) is not None:
            return f"torch's has no {option}, which is {getattr(module, option)}"
    return None


def take_qconfig(module: RNNBase, qconfig: Any) -> None:
    """Make a layer torch's that torch.ao.quantization wants to quantize, or warn that it stays in float.

    Its flows look modules up by their exact class, so that ours would stay as they are without a word. All of them
    begin by giving every module of a model its qconfig, None for those whose class they were not asked to quantize.
    """
    theirs, why = OF_TORCH.get(module.mode), reason_against_torch(module)
    name, plain = module_name(module), plain_class(module)
    if why is None and plain.__module__ != f"{__package__}.rnn":
        why = f"{plain.__module__}.{plain.__qualname__} is none of torch's classes"
    if why is None and getattr(nn, plain.__name__) is not theirs:  # by which it asks again when it quantizes
        why = f"torch.nn.{plain.__name__} is not torch's own any more"
    if qconfig is not None and why is None and theirs is not None:
        set_class(module, theirs)
        return
    why = why or f"it was asked to quantize no {plain.__module__.rpartition('.')[0]}.{plain.__name__}"
    warnings.warn(
        f"{name}({module.extra_repr()}): torch.ao.quantization leaves this layer in float, as {why}; "
        "fastiter.torch.restore(model) makes layers torch's, and fastiter.torch.nn.QuantLSTM and QuantGRU round",
        stacklevel=3,
    )
