"""Classes with fastiter's kernels for the modules of a model, and back."""

from __future__ import annotations

from torch import nn

from ..._check import type_name
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


def use_kernels(model: nn.Module, products: bool = False) -> tuple[dict[str, str], dict[str, str]]:
    """Change the classes of a model's modules; return what was accelerated, and why others were left."""
    layers = replace_layers(model)
    done, left = {}, layers.left
    for name, what in layers.replaced.items():
        done[name] = f"{what} by fastiter.torch.{name_of_ours(model.get_submodule(name))}"
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
            why = _follow(plan, name, module, done)
            left |= {} if why is None else {name: why}
    return done, left


def _follow(plan: Plan, name: str, module: nn.Module, done: dict[str, str]) -> str | None:
    """Change a module's class to the one of the plan, or return why that is not possible."""
    plain = plain_class(module)
    why = plan.why or reason_against_instance(module, plain) or _reason_against_parameters(module)
    if why is None:
        try:
            replacement = derived(plain, plan)
        except Exception as error:  # whatever its __init_subclass__ or metaclass raises
            why = f"no class can be derived from {plain.__module__}.{plain.__qualname__}: {error}"
    if why is not None:
        return why
    set_class(module, replacement)
    rebind_hooks(module, plain, replacement)
    functions = ", ".join(f"{theirs} by {ours}" for theirs, ours in plan.swapped.items())
    done[name] = f"{replacement.__name__}{' as a whole' if plan.is_whole else ''}, {functions}"
    return None


def _reason_against_parameters(module: nn.Module) -> str | None:
    for name, p in module.named_parameters():
        if not on_cpu(p):
            return f"its {name} is on {p.device}"
    return None


def undo(model: nn.Module, built: bool = False, report: Restored | None = None) -> Restored:
    """Give the modules of a model their original classes back, and return which."""
    report = Restored() if report is None else report
    layers = restore_layers(model, built)
    report.restored |= layers.restored
    report.left |= layers.left
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
    return report
