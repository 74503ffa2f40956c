"""Classes derived from users' module classes, with fastiter's layers before torch's in the MRO."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from typing import Any
from weakref import WeakValueDictionary

from torch import nn

from ..._torch.modules.derived_class import derive
from .nn.checks import OPTIONS
from .nn.modules import GRU, LSTM, RNN
from .replace_slstm import forward_of_cell, name_of_function

OURS: dict[type[nn.Module], type[nn.Module]] = {nn.LSTM: LSTM, nn.GRU: GRU, nn.RNN: RNN}
_THEIRS = {ours: theirs for theirs, ours in OURS.items()}
_DERIVED: WeakValueDictionary[type[nn.Module], type[nn.Module]] = WeakValueDictionary()


def derived(of: type[nn.Module]) -> type[nn.Module]:
    """Return the class derived from `of` in which ``super()`` finds fastiter's layer before torch's.

    `of` is its first base, as Python allows the class of an object to change only to one with the same layout.
    """
    created = _DERIVED.get(of)
    if created is not None:
        return created
    ours = next((OURS[base] for base in of.__mro__ if base in OURS), None)
    created = derive(of, () if ours is None else (ours,), {"forward": forward_of_cell} if ours is None else {}, derived)
    _DERIVED[of] = created
    return created


def replaced_by(plain: type[nn.Module]) -> type[nn.Module] | None:
    """Return the original class that `plain` replaced, None if `plain` was not created by replace."""
    return _THEIRS.get(plain) or vars(plain).get("_in_place_of")


def name_of_ours(module: nn.Module) -> str:
    """Return the name, below ``fastiter.torch``, of what a module that was replaced runs."""
    ours = next((base for base in type(module).__mro__ if base in _THEIRS), None)
    return name_of_function(module) if ours is None else f"nn.{ours.__name__}"


def is_replaced(module: nn.Module) -> bool:
    """Return whether a module's class is a derived class made here."""
    return hasattr(type(module), "_in_place_of")


def reason_against_deriving(of: type[nn.Module]) -> str | None:
    """Return why no class can be derived from `of`, None if one can."""
    try:
        object.__new__(of).__class__ = derived(of)
    except Exception as error:  # whatever its __init_subclass__ or metaclass raises
        return f"no class can be derived from {of.__module__}.{of.__qualname__}: {error}"
    return None


def reason_against_class(module: nn.Module, plain: type[nn.Module]) -> str | None:
    """Return why torch's layer cannot be replaced as the base of the module's class, None if it can."""
    theirs = next((base for base in plain.__mro__ if base in OURS), None)
    name = f"{plain.__module__}.{plain.__qualname__}"
    if theirs is None:
        return f"it is of a class of its own, {name}"
    own = [base for base in plain.__mro__ if base not in theirs.__mro__]
    for step in sorted(_steps_of_forward(theirs)):
        if any(step in vars(base) for base in own):
            return f"its class, {name}, has a {step} of its own, which torch's forward calls"
    if any("forward" in vars(base) for base in own) and not any(map(_calls_forward_of_super, _functions(own))):
        return f"the forward of its class, {name}, does not call super().forward"
    for option in ("num_heads", *OPTIONS):
        if hasattr(module, option):
            return f"its class, {name}, has a {option}, which is an option of fastiter's"
    return None


def _steps_of_forward(theirs: type[nn.Module]) -> set[str]:
    """Return the methods that the forward of torch's layer calls, except flatten_parameters."""
    methods: dict[str, Any] = {**vars(nn.RNNBase), **vars(theirs)}
    result: set[str] = set()
    left = ["forward"]
    while left:
        for name in methods[left.pop()].__code__.co_names:
            if isinstance(methods.get(name), types.FunctionType) and name not in {*result, "flatten_parameters"}:
                result.add(name)
                left.append(name)
    return result


def _functions(classes: list[type]) -> Iterator[types.CodeType]:
    for base in classes:
        for value in vars(base).values():
            function = inspect.unwrap(value) if callable(value) else None
            if isinstance(function, types.FunctionType):
                yield function.__code__


def _calls_forward_of_super(code: types.CodeType) -> bool:
    if {"super", "forward"} <= set(code.co_names):
        return True
    return any(_calls_forward_of_super(inner) for inner in code.co_consts if isinstance(inner, types.CodeType))
