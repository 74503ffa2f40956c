"""Existing models on fastiter's kernels: replaces the recurrences in them, and restores the originals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, overload

from torch import nn

from ..._check import type_name
from ..._torch.modules.model_report import Model, check_model, finish, text_of
from ...rnn._torch.nn.torch_layer import plain_class, set_class
from ...rnn._torch.replace import Restored, replace_layers, restore_layers
from ...rnn._torch.replace_classes import name_of_ours
from .classes import (
    Plan,
    derived,
    is_accelerated,
    original_of,
    plan_for,
    reason_against_instance,
    rebind_hooks,
)
from .functions import on_cpu

__all__ = ["Accelerated", "accelerate", "restore"]


@dataclass
class Accelerated:
    """The report of :func:`accelerate`; as a string it has a line for each module.

    Attributes
    ----------
    accelerated : dict of str to str
        The functions that each module now uses, by module name.
    left : dict of str to str
        The recurrences that were not accelerated: the reasons by module name.

    See Also
    --------
    accelerate : Returns it with ``return_report=True``.
    Restored : The report of :func:`restore`.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch import accelerate
    >>> model, report = accelerate(torch.nn.Sequential(torch.nn.GRU(5, 8)), return_report=True)
    >>> report.accelerated, report.left
    ({'0': 'GRU(5, 8) by fastiter.torch.nn.GRU'}, {})
    """

    accelerated: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return text_of("accelerated", self.accelerated, self.left, "nothing to accelerate")


@overload
def accelerate(
    model: Model, *, products: bool = ..., verbose: bool = ..., return_report: Literal[False] = ...
) -> Model: ...
@overload
def accelerate(
    model: Model, *, products: bool = ..., verbose: bool = ..., return_report: Literal[True]
) -> tuple[Model, Accelerated]: ...
def accelerate(
    model: Model, *, products: bool = False, verbose: bool = False, return_report: bool = False
) -> Model | tuple[Model, Accelerated]:
    """Run the recurrences of an existing model on fastiter's kernels, in place, and return the model.

    Modules remain the same objects with their parameters, hooks, training mode and state_dict, and give the same
    results and gradients up to rounding. Only their class changes, to a derived class in which some functions are
    fastiter's; other models do not change. Copies and pickles of a model remain accelerated. :func:`restore` undoes
    this.

    It covers torch.nn.LSTM, GRU and RNN and the sLSTM cells of xlstm and tirex, by :func:`replace`; in models of
    transformers, the selective scans of Mamba, FalconMamba, Jamba and Zamba, Mamba-2's scan in Mamba2, Bamba, FalconH1,
    GraniteMoeHybrid, NemotronH and Zamba2, the gated delta rule of Qwen3-Next, Qwen3.5 and OlmoHybrid, the delta
    attention of KimiLinear, the causal convolutions of these and of Lfm2, MiniMax's lightning attention, xLSTM's mLSTM,
    the recurrences of RecurrentGemma and RWKV-4, and those of related models, which docs/accelerate/index.md lists; the
    mLSTM of mlstm_kernels and of xlstm's blocks; modules of mamba_ssm and layers of flash-linear-attention, which do
    not run on CPUs otherwise; the blocks of mambapy; the policies of sb3-contrib's RecurrentPPO; and torchrl's
    LSTMModule and GRUModule. Most are recognised by function, not by class: a module whose methods use one of these
    functions is accelerated if the function has the expected parameters and a trial on a small input gives the same
    results. Mixers whose code is known run as a whole: those of Mamba, FalconMamba, Jamba, Mamba-2's models, Qwen3-Next
    and Qwen3.5.

    For tensors that are not on the CPU, for packed sequences, and in steps with a cache if a gradient is needed, an
    accelerated model runs its own functions.

    Parameters
    ----------
    model : Module
        Any module; it may be such a layer itself.
    products : bool
        Also let every torch.nn.Linear use fastiter's matrix product, for float32, at least 64 rows and 2^24
        multiplications, with gradients 2^26. On AMD's Zen 4 it is 1.05 to 1.3 times as fast.
    verbose : bool
        Print the report.
    return_report : bool
        Return the report too.

    Returns
    -------
    model : Module
        The same object.
    report : Accelerated
        Only with ``return_report``: `accelerated`, the functions in use by module name; `left`, the recurrences that
        were not accelerated, with the reason; as a string, both.

    Raises
    ------
    TypeError
        If the model is no Module, or an option no bool.

    See Also
    --------
    replace : Replaces only torch.nn.LSTM, GRU and RNN.
    restore : Undoes the replacement.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch import accelerate, restore
    >>> model = torch.nn.Sequential(torch.nn.GRU(5, 8))
    >>> model = accelerate(model, verbose=True)
    accelerated 0: GRU(5, 8) by fastiter.torch.nn.GRU
    >>> model = restore(model, verbose=True)
    restored 0: GRU(5, 8)
    """
    check_model("accelerate", model, products=products, verbose=verbose, return_report=return_report)
    layers = replace_layers(model)
    report = Accelerated(left=layers.left)
    for name, what in layers.replaced.items():
        report.accelerated[name] = f"{what} by fastiter.torch.{name_of_ours(model.get_submodule(name))}"
    plans: dict[type[nn.Module], Plan | None] = {}
    for name, module in model.named_modules():
        plain = plain_class(module)
        is_product = products and plain is nn.Linear
        if is_accelerated(module) or (plain.__module__.startswith(("torch.", "fastiter.")) and not is_product):
            continue
        if plain not in plans:
            plans[plain] = plan_for(plain)
        plan = plans[plain]
        if plan is not None:
            _follow(plan, name, module, report)
    return finish(model, report, verbose, return_report)


def _follow(plan: Plan, name: str, module: nn.Module, report: Accelerated) -> None:
    """Change a module's class to the one of the plan, or report why that is not possible."""
    plain = plain_class(module)
    why = plan.why or reason_against_instance(module, plain) or _reason_against_parameters(module)
    if why is None:
        try:
            replacement = derived(plain, plan)
        except Exception as error:  # whatever its __init_subclass__ or metaclass raises
            why = f"no class can be derived from {plain.__module__}.{plain.__qualname__}: {error}"
    if why is not None:
        report.left[name] = why
        return
    set_class(module, replacement)
    rebind_hooks(module, plain, replacement)
    functions = ", ".join(f"{theirs} by {ours}" for theirs, ours in plan.swapped.items())
    report.accelerated[name] = f"{replacement.__name__}{' as a whole' if plan.is_whole else ''}, {functions}"


def _reason_against_parameters(module: nn.Module) -> str | None:
    for name, p in module.named_parameters():
        if not on_cpu(p):
            return f"its {name} is on {p.device}"
    return None


@overload
def restore(model: Model, *, built: bool = ..., verbose: bool = ..., return_report: Literal[False] = ...) -> Model: ...
@overload
def restore(
    model: Model, *, built: bool = ..., verbose: bool = ..., return_report: Literal[True]
) -> tuple[Model, Restored]: ...
def restore(
    model: Model, *, built: bool = False, verbose: bool = False, return_report: bool = False
) -> Model | tuple[Model, Restored]:
    """Undo :func:`accelerate` and :func:`replace` in place, and return the model.

    Modules get their original classes back. Parametrisations, hooks and weights that were changed in the meantime are
    kept. Options that torch's classes lack, such as a clip_state that was set in the meantime, have no effect there.

    Not restored, with a reason in the report's `left`: modules whose class has been changed since, by hand or by a
    library that derives its own class from fastiter's, such as FSDP2's fully_shard.

    Parameters
    ----------
    model : Module
        Any module; it may be such a layer itself.
    built : bool
        Also turn layers that were built as fastiter's into torch's, for torch's tools that support no other classes,
        such as torch.jit.script and torch.ao.quantization. Layers with options that torch's lack are not changed.
    verbose : bool
        Print the report.
    return_report : bool
        Return the report too.

    Returns
    -------
    model : Module
        The same object.
    report : Restored
        Only with ``return_report``: `restored`, the original classes by module name; `left`, the modules that were not
        restored, with the reason; as a string, both.

    Raises
    ------
    TypeError
        If the model is no Module, or an option no bool.

    See Also
    --------
    accelerate, replace : The functions that this one undoes.

    Examples
    --------
    >>> import torch
    >>> import fastiter.torch.nn
    >>> model = torch.nn.Sequential(fastiter.torch.nn.GRU(5, 8))
    >>> model = fastiter.torch.restore(model, verbose=True)
    nothing to restore
    >>> model = fastiter.torch.restore(model, built=True, verbose=True)
    restored 0: GRU(5, 8)
    """
    check_model("restore", model, built=built, verbose=verbose, return_report=return_report)
    report = restore_layers(model, built)
    for name, module in model.named_modules():
        if not is_accelerated(module):
            continue
        plain = plain_class(module)
        before = original_of(plain)
        if before is None:
            report.left[name] = f"its class was changed after accelerate, to {type_name(module)}"
            continue
        set_class(module, before)
        rebind_hooks(module, plain, before)
        report.restored[name] = before.__name__
    return finish(model, report, verbose, return_report)
