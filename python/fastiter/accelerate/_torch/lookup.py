"""Lookup of the rule for a function of a model, by the function's name and package."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import FunctionType
from typing import Any

from torch import nn

from .fla import functions as fla
from .fla import losses as fla_losses
from .fla import parts as fla_parts
from .functions import Function, on_cpus
from .mamba import ssm as mamba_ssm
from .rebind import globals_of, owner_of
from .rules import CLASSES, GLOBALS, IN_TORCH, METHODS, Rule

#: Functions used by modules' methods that have no replacement
FUNCTIONS_NOT_YET = {"mamba_chunk_scan_combined", "chunk_kda", "mamba3_siso_combined"}
_NO_KERNEL = "for which there is no kernel yet"
_LIGHT, _MINIMAL = ("LiGRU", "LiGRU_Layer", "SLiGRU", "SLiGRU_Layer"), ("minGRU", "MinGRU", "minLSTM", "MinLSTM")
#: Why modules of these classes, known by name, are left: recurrences of speechbrain, the minGRU packages, transformers
CLASSES_NOT_YET = {
    **dict.fromkeys(_LIGHT, f"it is a light gated recurrent unit, {_NO_KERNEL}"),
    **dict.fromkeys(_MINIMAL, f"it is a minimal recurrent unit, {_NO_KERNEL}"),
    "ZayaCCAProjection": f"it convolves with groups of channels, {_NO_KERNEL}",
}
#: Functions of fla, and the forwards of its modules; they have no trial, as the originals do not run on CPUs
OF_FLA = {name: Rule(names, make, by, list) for name, (names, make, by) in fla.RULES.items()}
FORWARDS_OF_FLA = {name: Rule(names, make, by, list) for name, (names, make, by) in fla.FORWARDS.items()}
#: Loss classes, of which fla's models construct objects in each call
LOSSES_OF_FLA = {name: Rule((), fla_losses.derived, IN_TORCH, list) for name in fla_losses.FORWARDS}
#: Attributes that layers of fla set to one of its activations
OF_ACTIVATIONS = Rule((), fla_parts.activation, IN_TORCH, list)
ACTIVATIONS = ("act", "act_fn", "gate_fn")
#: Functions of mamba_ssm and causal_conv1d, which have no trial for the same reason
OF_MAMBA_SSM = {
    name: Rule(names, on_cpus(ours), by, list, may_be_none=True)
    for name, (names, ours, by) in mamba_ssm.FUNCTIONS.items()
}
OF_MAMBA_SSM["decode"] = Rule(("input_ids", "model", "max_length"), mamba_ssm.decode, IN_TORCH, list)
_OF_PACKAGES = {"fla": OF_FLA, "mamba_ssm": OF_MAMBA_SSM, "causal_conv1d": OF_MAMBA_SSM}


def rule_for_global(method: Function, name: str, theirs: Any) -> Rule | None:
    """Return the rule for a function that a method uses by a global name, None if it is not known.

    transformers binds functions of fla to the names of its own; fla's layers use only fla's. In the modules of
    mamba_ssm, the functions of packages that are not installed are None.
    """
    if isinstance(theirs, type):
        return LOSSES_OF_FLA.get(name) if _package_of(theirs) == "fla" else None
    package = _package_of(method)
    own = _OF_PACKAGES.get(package if theirs is None else _package_of(owner_of(theirs)), {}).get(name)
    return own if own is not None or package in _OF_PACKAGES else GLOBALS.get(name)


def rule_of(of: type, method: str) -> Rule | None:
    """Return the rule for a method of a class, None if the method is not known."""
    package = _package_of(of)
    if package in _OF_PACKAGES:
        return FORWARDS_OF_FLA.get(of.__name__) if package == "fla" and method == "forward" else None
    owner = next(base for base in of.__mro__ if method in vars(base))
    known = CLASSES.get(owner.__name__) or CLASSES.get(f"{_package_of(owner)}.{owner.__name__}", {})
    return METHODS.get(method) or known.get(method)


def keeps_activations(used: dict[str, Any]) -> bool:
    """Return whether an __init__ that uses these global names takes activations from fla's table."""
    table = used.get("ACT2FN")
    return isinstance(table, dict) and any(_package_of(owner_of(f)) == "fla" for f in table.values())


def missing_in(of: type, methods: Mapping[str, Any], known: Collection[str]) -> str | None:
    """Return a function that the methods of a class use and that has no replacement, None if there is none.

    In a layer of fla, this is a function of fla.ops if none of its recurrences is known, as replacing only norms and
    the like would not be enough.
    """
    is_layer_of_fla = of.__module__.startswith("fla.layers.")
    if fla.RECURRENCES & {*known} if is_layer_of_fla else known:
        return None
    used = {name: f for method in methods.values() for name, f in globals_of(method).items()}
    missing = {name for name, f in used.items() if is_layer_of_fla and _is_recurrence_of_fla(f)}
    return min(missing | (used.keys() & FUNCTIONS_NOT_YET), default=None)


def _is_recurrence_of_fla(f: Any) -> bool:
    home = str(getattr(f, "__module__", ""))
    return isinstance(f, FunctionType) and home.startswith("fla.ops.") and not home.startswith("fla.ops.utils")


def methods_mixed_in(of: type[nn.Module]) -> dict[str, Any]:
    """Return the functions of a class's non-module bases, in packages whose functions are known."""
    bases = [base for base in reversed(of.__mro__) if not issubclass(base, nn.Module)]
    result = (vars(base).items() for base in bases if _package_of(base) in _OF_PACKAGES)
    return {name: value for items in result for name, value in items if isinstance(value, FunctionType)}


def _package_of(x: Any) -> str:
    return str(getattr(x, "__module__", "")).partition(".")[0]
