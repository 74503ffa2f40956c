"""Existing models on fastiter's kernels: replacement of their torch.nn.LSTM, GRU and RNN in place, and restoration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, overload

import torch
from torch import nn

from ..._check import type_name
from ..._torch.modules.model_report import Model, check_model, finish, text_of
from .nn.base import Recurrent
from .nn.checks import CPU_FLOATS
from .nn.torch_layer import plain_class, reason_against_torch, set_class
from .replace_classes import OURS, derived, is_replaced, reason_against_class, reason_against_deriving, replaced_by
from .replace_slstm import is_slstm_cell, reason_against_cell

__all__ = ["Replaced", "Restored", "replace"]

_SCRIPTED = {"LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"}
_MARK = "_replaced_by_fastiter"  # on the instance, so that copies have it, too


@dataclass
class Replaced:
    """The report of :func:`replace`; as a string it has a line for each kind of module.

    Attributes
    ----------
    replaced : dict of str to str
        The new classes by module name.
    left : dict of str to str
        The recurrent layers that were not replaced: the reasons by module name.

    See Also
    --------
    replace : Returns it with ``return_report=True``.
    Restored : The report of :func:`restore`.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch import replace
    >>> model, report = replace(torch.nn.Sequential(torch.nn.LSTM(5, 8)), return_report=True)
    >>> report.replaced, report.left
    ({'0': 'LSTM(5, 8)'}, {})
    """

    replaced: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return text_of("replaced", self.replaced, self.left, "no recurrent layers")


@dataclass
class Restored:
    """The report of :func:`restore`; as a string it has a line for each kind of module.

    Attributes
    ----------
    restored : dict of str to str
        The original classes by module name.
    left : dict of str to str
        The modules that were not restored: the reasons by module name.

    See Also
    --------
    restore : Returns it with ``return_report=True``.
    Replaced, Accelerated : The reports of replacement.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch import replace, restore
    >>> model, report = restore(replace(torch.nn.Sequential(torch.nn.LSTM(5, 8))), return_report=True)
    >>> print(report)
    restored 0: LSTM(5, 8)
    """

    restored: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return text_of("restored", self.restored, self.left, "nothing to restore")


@overload
def replace(model: Model, *, verbose: bool = ..., return_report: Literal[False] = ...) -> Model: ...
@overload
def replace(model: Model, *, verbose: bool = ..., return_report: Literal[True]) -> tuple[Model, Replaced]: ...
def replace(model: Model, *, verbose: bool = False, return_report: bool = False) -> Model | tuple[Model, Replaced]:
    """Replace each torch.nn.LSTM, GRU and RNN of a model by fastiter's, in place, and return the model.

    Modules remain the same objects, with their parameters (including shared ones), hooks, parametrisations and training
    mode; only their class changes. References to them (in optimizers, wrappers, other models) remain valid.

    A module whose class is derived from torch's gets a class derived from its own, with the same name, in which
    ``super()`` finds fastiter's layer before torch's. It remains an instance of its own class, with everything that the
    class adds, and its copies, pickles and checkpoints do not change. The same holds for the sLSTM cells of the
    packages xlstm and tirex, whose forward then runs :func:`fastiter.torch.slstm`. They are recognised by the names of
    their parameters and of their config, and replaced if a trial on a small input gives the same results.

    Not replaced, with a reason: derived classes whose forward does not call ``super().forward``, or that override
    methods that torch's forward calls; modules whose forward was replaced on the instance; scripted modules; parameters
    that are not float32, float64 or bfloat16 on the CPU; and torch.nn's cells, which run one step at a time.

    Parameters
    ----------
    model : Module
        Any module; it may be such a layer itself.

    verbose : bool
        Print the report.
    return_report : bool
        Return the report too.

    Returns
    -------
    model : Module
        The same object.
    report : Replaced
        Only with ``return_report``: `replaced`, the new classes by module name; `left`, the recurrent layers that were
        not replaced, with the reason; as a string, both.

    Raises
    ------
    TypeError
        If the model is not a Module, or an option not a bool.

    See Also
    --------
    accelerate : Also replaces the recurrences of Mamba, DeltaNet, xLSTM and others.
    restore : Undoes the replacement.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch import replace, restore
    >>> model = torch.nn.ModuleDict({"encoder": torch.nn.GRU(5, 8), "head": torch.nn.Linear(8, 2)})
    >>> model = replace(model, verbose=True)
    replaced encoder: GRU(5, 8)
    >>> model = restore(model, verbose=True)
    restored encoder: GRU(5, 8)
    """
    check_model("replace", model, verbose=verbose, return_report=return_report)
    return finish(model, replace_layers(model), verbose, return_report)


def replace_layers(model: nn.Module) -> Replaced:
    """Replace the recurrent layers of a model in place, and return the report."""
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


def restore_layers(model: nn.Module, built: bool) -> Restored:
    """Undo :func:`replace_layers` in place; with ``built``, also turn layers built as fastiter's into torch's."""
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
            restored.restored[name] = f"{before.__name__}({module.extra_repr()})"
        else:
            restored.left[name] = f"its class was changed after replace, to {type_name(module)}"
        if before is not None or not (
            isinstance(module, Recurrent) or is_replaced(module)
        ):  # otherwise it could get fastiter's class back
            delattr(module, _MARK)
    return restored


def _restore_built(module: Recurrent, plain: type[nn.Module], name: str, restored: Restored) -> None:
    """Turn a layer that was built as fastiter's into torch's."""
    before, why = replaced_by(plain), reason_against_torch(module)
    if why is None and before is not None:
        set_class(module, before)
        restored.restored[name] = f"{before.__name__}({module.extra_repr()})"
    else:
        restored.left[name] = why or f"it is of a class of its own, {type_name(module)}"


def _is_candidate(module: nn.Module, plain: type[nn.Module]) -> bool:
    """Return whether replace must either replace a module or report why it was not replaced."""
    if isinstance(module, torch.jit.ScriptModule):
        return getattr(module, "original_name", "") in _SCRIPTED
    if isinstance(module, Recurrent) or is_replaced(module) or plain.__module__.startswith("fastiter."):
        return False
    return isinstance(module, (nn.RNNBase, nn.RNNCellBase)) or is_slstm_cell(module)


def _reason_against(module: nn.Module, plain: type[nn.Module]) -> str | None:
    """Return why a recurrent module cannot be replaced, None if it can."""
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
