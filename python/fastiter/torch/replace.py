"""Existing models on fastiter's kernels: their torch.nn.LSTM, GRU and RNN become fastiter's, in place, and back."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from .._rnn import kind
from .nn import GRU, LSTM, RNN
from .nn._rnn_checks import CPU_FLOATS

__all__ = ["Replaced", "Restored", "replace", "restore"]

_OURS: dict[type[nn.Module], type[nn.Module]] = {nn.LSTM: LSTM, nn.GRU: GRU, nn.RNN: RNN}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}
_MARK = "_replaced_by_fastiter"  # on the instance, so that copies know it, too


@dataclass
class Replaced:
    """What :func:`replace` did: names in the model of what it replaced, with the class, and what it left, with why."""

    replaced: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"replaced {name or 'the model itself'}: {what}" for name, what in self.replaced.items()]
        lines += [f"left {name or 'the model itself'}: {why}" for name, why in self.left.items()]
        return "\n".join(lines) or "no recurrent layers"


class Restored(list[str]):
    """The names of what :func:`restore` restored; `left` has those of what it could not, with why."""

    def __init__(self) -> None:
        super().__init__()
        self.left: dict[str, str] = {}


def replace(model: nn.Module) -> Replaced:
    """Turn each torch.nn.LSTM, GRU and RNN of a model into fastiter's, in place, and say which.

    Modules stay the objects that they are, with their parameters, shared ones too, hooks, parametrisations and training
    mode; only their class changes. Whoever holds them (optimizers, wrappers, other models) notices nothing.

    Left as they are, with a reason: subclasses, since their own code may count on torch's; modules whose forward has
    been replaced on the instance; scripted ones; parameters that are not float32, float64 or bfloat16 on the CPU; and
    cells, which run one step at a time.

    Parameters
    ----------
    model : Module
        Any; it may be such a layer itself.

    Returns
    -------
    Replaced
        `replaced`, `left`, and a text of both.

    Raises
    ------
    TypeError
        For what is no Module.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch import replace, restore
    >>> model = torch.nn.ModuleDict({"encoder": torch.nn.GRU(5, 8), "head": torch.nn.Linear(8, 2)})
    >>> print(replace(model))
    replaced encoder: GRU(5, 8)
    >>> restore(model)
    ['encoder']
    """
    _check("replace", model)
    report = Replaced()
    for name, module in model.named_modules():
        plain = _plain_class(module)
        why = _reason_against(module, plain)
        if why is not None:
            report.left[name] = why
        elif plain in _OURS:
            report.replaced[name] = f"{plain.__name__}({module.extra_repr()})"
            _set_class(module, _OURS[plain])
            setattr(module, _MARK, True)
    return report


def restore(model: nn.Module) -> Restored:
    """Turn what :func:`replace` replaced back into torch's classes, in place, and return the names.

    Parametrisations, hooks and weights that came or went in between stay as they are now. What torch's classes lack, as
    a clip_state that was set in between, does not act in them.

    Left as it is, with a reason in the result's `left`: what has got another class since then, by hand or by a library
    that puts its own before ours, as FSDP2's fully_shard does.

    Raises
    ------
    TypeError
        For what is no Module.
    """
    _check("restore", model)
    restored = Restored()
    for name, module in model.named_modules():
        if _MARK not in module.__dict__:
            continue
        plain = _plain_class(module)
        if plain in _THEIRS:
            _set_class(module, _THEIRS[plain])
            restored.append(name)
        else:
            restored.left[name] = f"its class was changed after replace, to {kind(module)}"
        if plain in _THEIRS or plain in _OURS:  # else it may get ours back, and can be restored then
            delattr(module, _MARK)
    return restored


def _check(function: str, model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: model must be a torch.nn.Module, got {kind(model)}")


def _plain_class(module: nn.Module) -> type[nn.Module]:
    """Return the class without what parametrisations have put before it."""
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def _reason_against(module: nn.Module, plain: type[nn.Module]) -> str | None:
    """Say why a recurrent module of torch is left as it is."""
    if isinstance(module, torch.jit.ScriptModule) and getattr(module, "original_name", "") in ("LSTM", "GRU", "RNN"):
        return "it is scripted"
    if isinstance(module, nn.RNNCellBase):
        return "it is a cell, which runs one step at a time"
    if not isinstance(module, nn.RNNBase) or plain in _THEIRS or plain.__module__.startswith("fastiter."):
        return None
    if plain not in _OURS:
        return f"it is of a class of its own, {kind(module)}"
    if "forward" in module.__dict__:
        return "its forward was replaced"
    for name, p in module.named_parameters():
        if p.dtype not in CPU_FLOATS or p.device.type != "cpu":
            return f"its {name} is {str(p.dtype).removeprefix('torch.')} on {p.device}"
    return None


def _set_class(module: nn.Module, plain: type[nn.Module]) -> None:
    """Change the class, and below a parametrised one the class that it stands on."""
    own = type(module)
    if is_parametrized(module):
        namespace = {name: x for name, x in vars(own).items() if name not in ("__dict__", "__weakref__", "__doc__")}
        plain = type(own.__name__, (plain,), namespace)
    module.__class__ = plain
