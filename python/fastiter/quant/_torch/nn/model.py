"""quantize_model: replaces the layers of a model by quantized ones, with a plan for each name."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import nn

from ...._check import type_name
from ....rnn._torch.nn.modules import GRU, LSTM
from ..._check import is_format
from ..arguments import FormatLike
from .layers import QuantBatchNorm1d, QuantBatchNorm2d, QuantConv2d, QuantLayer, QuantLinear
from .plan import QuantPlan, plan_of_weights
from .rnn import QuantGRU, QuantLSTM

_M = TypeVar("_M", bound=nn.Module)

#: Quantized class of each layer class
REPLACEMENTS: dict[type[nn.Module], type[QuantLayer]] = {
    nn.Linear: QuantLinear,
    nn.Conv2d: QuantConv2d,
    nn.BatchNorm1d: QuantBatchNorm1d,
    nn.BatchNorm2d: QuantBatchNorm2d,
    nn.LSTM: QuantLSTM,
    nn.GRU: QuantGRU,
    LSTM: QuantLSTM,
    GRU: QuantGRU,
}


def quantize_model(
    model: _M, plan: QuantPlan | FormatLike | Mapping[str, QuantPlan | FormatLike | None], *, inplace: bool = False
) -> _M:
    """Return the model with its layers quantized according to the plan: Linear becomes QuantLinear, and so on.

    Everything else in a layer is kept: its parameters (the same objects with ``inplace``, so that optimizers stay
    valid), buffers, hooks, mode, name. A layer that is already quantized gets the new plan.

    Parameters
    ----------
    model : Module
        Its layers Linear, Conv2d, BatchNorm1d, BatchNorm2d, LSTM and GRU of torch.nn, and LSTM, GRU and quantized
        layers of this package are changed. Other modules are left unchanged.
    plan : QuantPlan, Format, str or dtype, or mapping of str to one of these or None
        One plan for all layers, or one for each name: shell patterns ("encoder.*.fc?"), of which the first match
        counts. None: unchanged. Layers that no pattern matches are left unchanged. A format is a plan whose weights
        alone are rounded, with scale="amax" if the format takes a scale: integers, floats, posits, NVFP4.
    inplace : bool
        Change the model itself.

    Returns
    -------
    model : Module
        A copy, or with ``inplace`` the model itself.

    Raises
    ------
    TypeError, ValueError
        For a wrong model or plan; for a pattern that matches no layer that can be quantized; for a layer that would
        lose something: of a class derived from torch.nn's, parametrized, or with a replaced forward.

    See Also
    --------
    summary : The formats, errors and costs of the result.
    quantize_optimizer : Rounding of an optimizer's states.
    fastiter.torch.quant.export_hls : The result as HLS C++.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import FixedQuantizer, QuantPlan, quantize_model
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> plan = QuantPlan(weight=FixedQuantizer(4), input=FixedQuantizer(8))
    >>> quantize_model(model, {"0": None, "*": plan})
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)
      (1): ReLU()
      (2): QuantLinear(
        in_features=8, out_features=2, bias=True
        (weight_quantizer): FixedQuantizer(4)
        (input_quantizer): FixedQuantizer(8)
      )
    )
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"quantize_model: model must be a torch.nn.Module, got {type_name(model)}")
    if not isinstance(inplace, bool):
        raise TypeError(f"quantize_model: inplace must be a bool, got {type_name(inplace)}")
    plans = _checked_plans(plan)
    chosen = _chosen(model, plans)
    if not inplace:
        copied = copy.deepcopy(model)
        chosen = [(copied.get_submodule(name), name, of) for _, name, of in chosen]
        model = copied
    _leave_fast_paths(model, {module for module, _, _ in chosen})
    for module, _, of in chosen:
        if not isinstance(module, QuantLayer):
            module.__class__ = REPLACEMENTS[type(module)]
        assert isinstance(module, QuantLayer)
        module.set_plan(of)
    return model


def _checked_plans(plan: object) -> dict[str, QuantPlan | None]:
    if isinstance(plan, QuantPlan):
        return {"*": plan}
    if is_format(plan):
        return {"*": plan_of_weights("quantize_model", plan, "plan")}  # type: ignore[arg-type]
    if not isinstance(plan, Mapping):
        expected = "a QuantPlan, a format for the weights, or a mapping of names to these"
        raise TypeError(f"quantize_model: plan must be {expected}, got {type_name(plan)}")
    plans: dict[str, QuantPlan | None] = {}
    for name, each in plan.items():
        if not isinstance(name, str):
            raise TypeError(f"quantize_model: plan must have names that are str, got {type_name(name)}")
        if is_format(each):
            plans[name] = plan_of_weights("quantize_model", each, f"plan[{name!r}]")
        elif each is None or isinstance(each, QuantPlan):
            plans[name] = each
        else:
            expected = "a QuantPlan, a format for the weights, or None"
            raise TypeError(f"quantize_model: plan[{name!r}] must be {expected}, got {type_name(each)}")
    return plans


def _chosen(model: nn.Module, plans: dict[str, QuantPlan | None]) -> list[tuple[nn.Module, str, QuantPlan]]:
    """Return the layers to change, each with its first name and its plan; change nothing yet."""
    chosen: dict[int, tuple[nn.Module, str, QuantPlan | None]] = {}
    useless: dict[str, str | None] = dict.fromkeys(plans)
    matched: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        pattern = next((p for p in plans if fnmatchcase(name, p)), None)
        if pattern is None:
            continue
        if not _can_round(module):
            useless[pattern] = f"{name!r}, a {type(module).__name__}"
            continue
        matched.add(pattern)
        of = plans[pattern]
        if id(module) in chosen and chosen[id(module)][2] is not of:
            both = f"{chosen[id(module)][1]!r} and {name!r}"
            raise ValueError(f"quantize_model: plan must be one for both names of a module, got two for {both}")
        if of is not None:
            _refuse_loss(module, name)
        chosen.setdefault(id(module), (module, name, of))
    for pattern in plans:
        if pattern not in matched:
            got = useless[pattern] or "no module of that name"
            raise ValueError(f"quantize_model: plan[{pattern!r}] must match a layer that can round, got {got}")
    return [(module, name, of) for module, name, of in chosen.values() if of is not None]


def _can_round(module: nn.Module) -> bool:
    return isinstance(module, (QuantLayer, *REPLACEMENTS)) and not _belongs_to_another(module)


def _belongs_to_another(module: nn.Module) -> bool:
    # MultiheadAttention reads the weights of this Linear and never calls it.
    return type(module).__name__ == "NonDynamicallyQuantizableLinear"


def _refuse_loss(module: nn.Module, name: str) -> None:
    if isinstance(module, QuantLayer):
        return
    what = f"quantize_model: {name!r} must be"
    if nn.utils.parametrize.is_parametrized(module):
        raise ValueError(f"{what} without parametrizations, which would be lost, got {type(module).__name__}")
    if type(module) not in REPLACEMENTS:
        raise ValueError(
            f"{what} a layer of torch.nn or fastiter itself, as what its class adds would be lost, "
            f"got {type(module).__module__}.{type(module).__qualname__}"
        )
    is_clipped = any(getattr(module, option, None) is not None for option in ("clip_state", "clip_grad"))
    if getattr(module, "proj_size", 0) or getattr(module, "num_heads", 1) != 1 or is_clipped:
        raise ValueError(f"{what} an LSTM or GRU of one head without proj_size, clip_state and clip_grad, got {module}")
    if "forward" in vars(module):
        raise ValueError(f"{what} a layer whose forward is its class's own, got one that was replaced")


def _leave_fast_paths(model: nn.Module, changed: set[nn.Module]) -> None:
    """Disable the fast path of Transformer layers, which in eval mode uses their submodules' weights directly."""
    for parent in model.modules():
        if isinstance(parent, nn.TransformerEncoderLayer) and changed & set(parent.modules()):
            parent.activation_relu_or_gelu = 0
