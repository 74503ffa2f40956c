"""Existing models on fastiter's kernels: their torch.nn.LSTM, GRU and RNN become fastiter's, in place, and back."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from .._rnn import kind
from ._replace_classes import (
    OURS,
    derived,
    is_replaced,
    reason_against_class,
    reason_against_deriving,
    replaced_by,
)
from ._replace_slstm import is_slstm_cell, reason_against_cell
from .nn._rnn_checks import CPU_FLOATS
from .nn._rnn_module import Recurrent
from .nn._rnn_torch import plain_class, reason_against_torch, set_class

__all__ = ["Replaced", "Restored", "replace", "restore"]

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

    A module of a class derived from torch's gets a class derived from its own, of the same name, in which ``super()``
    finds fastiter's layer before torch's. It stays an instance of its class, with all that this adds, and its copies,
    pickles and checkpoints are what they were. So do the cells of sLSTMs, those of the packages xlstm and tirex, whose
    forward then runs :func:`fastiter.torch.slstm`. They are known by the names of their parameters and of their config,
    and are taken if they compute what that does, which is tried out with a few numbers.

    Left as they are, with a reason: derived classes whose forward does not call ``super().forward``, or which change
    what torch's forward calls; modules whose forward has been replaced on the instance; scripted ones; parameters that
    are not float32, float64 or bfloat16 on the CPU; and torch.nn's cells, which run one step at a time.

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
        plain = plain_class(module)
        if not _is_candidate(module, plain):
            continue
        why = _reason_against(module, plain)
        if why is not None:
            report.left[name] = why
            continue
        report.replaced[name] = f"{plain.__name__}({module.extra_repr()})"
        set_class(module, OURS.get(plain) or derived(plain))
        setattr(module, _MARK, True)
    return report


def restore(model: nn.Module, *, built: bool = False) -> Restored:
    """Turn what :func:`replace` replaced back into the classes that it had, in place, and return the names.

    Parametrisations, hooks and weights that came or went in between stay as they are now. What torch's classes lack, as
    a clip_state that was set in between, does not act in them.

    Left as it is, with a reason in the result's `left`: what has got another class since then, by hand or by a library
    that puts its own before ours, as FSDP2's fully_shard does.

    Parameters
    ----------
    model : Module
        Any; it may be such a layer itself.
    built : bool
        Turn the layers that were built as fastiter's into torch's, too: for torch's tools that take no other classes,
        such as torch.jit.script and torch.ao.quantization. Those that have options which torch's lack are left.

    Raises
    ------
    TypeError
        For what is no Module.

    Examples
    --------
    >>> import fastiter.torch
    >>> model = torch.nn.Sequential(fastiter.torch.nn.GRU(5, 8))
    >>> fastiter.torch.restore(model), fastiter.torch.restore(model, built=True)
    ([], ['0'])
    """
    _check("restore", model)
    if not isinstance(built, bool):
        raise TypeError(f"restore: built must be a bool, got {kind(built)}")
    restored = Restored()
    for name, module in model.named_modules():
        plain = plain_class(module)
        if _MARK not in module.__dict__:
            if built and isinstance(module, Recurrent):
                _restore_built(module, plain, name, restored)
            continue
        before = replaced_by(plain)
        if before is not None:
            set_class(module, before)
            restored.append(name)
        else:
            restored.left[name] = f"its class was changed after replace, to {kind(module)}"
        if before is not None or not (
            isinstance(module, Recurrent) or is_replaced(module)
        ):  # else it may get ours back
            delattr(module, _MARK)
    return restored


def _restore_built(module: Recurrent, plain: type[nn.Module], name: str, restored: Restored) -> None:
    """Turn a layer into torch's that was never another."""
    before, why = replaced_by(plain), reason_against_torch(module)
    if why is None and before is not None:
        set_class(module, before)
        restored.append(name)
    else:
        restored.left[name] = why or f"it is of a class of its own, {kind(module)}"


def _check(function: str, model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: model must be a torch.nn.Module, got {kind(model)}")


def _is_candidate(module: nn.Module, plain: type[nn.Module]) -> bool:
    """Say whether a module is one that replace has to take, or say why not."""
    if isinstance(module, torch.jit.ScriptModule):
        return getattr(module, "original_name", "") in ("LSTM", "GRU", "RNN")
    if isinstance(module, Recurrent) or is_replaced(module) or plain.__module__.startswith("fastiter."):
        return False
    return isinstance(module, (nn.RNNBase, nn.RNNCellBase)) or is_slstm_cell(module)


def _reason_against(module: nn.Module, plain: type[nn.Module]) -> str | None:
    """Say why a recurrent module is left as it is."""
    if isinstance(module, torch.jit.ScriptModule):
        return "it is scripted"
    if isinstance(module, nn.RNNCellBase):
        return "it is a cell, which runs one step at a time"
    if "forward" in module.__dict__:
        return "its forward was replaced"
    for name, p in module.named_parameters():
        if p.dtype not in CPU_FLOATS or p.device.type != "cpu":
            return f"its {name} is {str(p.dtype).removeprefix('torch.')} on {p.device}"
    if plain in OURS:
        return None
    why = reason_against_class(module, plain) if isinstance(module, nn.RNNBase) else reason_against_cell(module)
    return why or reason_against_deriving(plain)
