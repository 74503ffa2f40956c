"""Existing models on fastiter's kernels: replaces the recurrences in them, and restores the originals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, overload

from ..._torch.modules.model_report import Model, check_model, finish, text_of
from ...decode._torch.accelerated import attach, detach, steps_of
from ...decode._torch.weights import Weights
from ...rnn._torch.replace import Restored
from .apply import undo, use_kernels

__all__ = ["Accelerated", "accelerate", "restore"]


@dataclass
class Accelerated:
    """The report of :func:`accelerate`; as a string it has a line for each kind of module.

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
    model: Model,
    *,
    products: bool = ...,
    decode: Weights | bool = ...,
    verbose: bool = ...,
    return_report: Literal[False] = ...,
) -> Model: ...
@overload
def accelerate(
    model: Model,
    *,
    products: bool = ...,
    decode: Weights | bool = ...,
    verbose: bool = ...,
    return_report: Literal[True],
) -> tuple[Model, Accelerated]: ...
def accelerate(
    model: Model,
    *,
    products: bool = False,
    decode: Weights | bool = False,
    verbose: bool = False,
    return_report: bool = False,
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
    the recurrences of RecurrentGemma and RWKV-4, and those of related models, which docs/accelerate/models.md lists;
    the mLSTM of mlstm_kernels and of xlstm's blocks; modules of mamba_ssm and layers of flash-linear-attention, which
    do not run on CPUs otherwise; the blocks of mambapy; the policies of sb3-contrib's RecurrentPPO; and torchrl's
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
    decode : bool, str, Format or mapping
        Compute steps with a cache, one token for up to 8 sequences without gradients, by a :class:`Decoder`, so that
        ``model.generate`` runs on it: True with the model's own numbers, a format (or formats by patterns, as there)
        with rounded weights, which prompts without gradients then use too. The model keeps its weights, and those that
        have changed when the next sequence begins are packed again.
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
    TypeError, ValueError
        With ``decode``, as for :class:`Decoder`.

    See Also
    --------
    Decoder : One token of a whole model as one compiled call.
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
    steps = None if decode is None or decode is False else steps_of(model, decode)
    report = Accelerated(*use_kernels(model, products))
    if steps is not None:
        attach(model, steps)
        formats = ", ".join(dict.fromkeys(layer.format for layer in steps.decoder.report.layers))
        report.accelerated[""] = f"{type(model).__name__}, steps with a cache by fastiter.torch.Decoder in {formats}"
    return finish(model, report, verbose, return_report)


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
    report = Restored()
    if detach(model):
        report.restored[""] = type(model).__name__
    undo(model, built, report)
    return finish(model, report, verbose, return_report)
