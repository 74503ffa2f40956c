"""Classes derived from models' classes, in which fastiter's functions replace the models'."""

from __future__ import annotations

import inspect
import types
import warnings
from functools import update_wrapper
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from torch import nn

from ..._torch.modules.derived_class import derive
from . import gpu_paths, lookup, rules
from .functions import on_cpus
from .layers import linear_forward
from .mixers import whole_mixer
from .rebind import globals_of, methods_of, names_of, rebound

Class = type[nn.Module]
_DERIVED: WeakValueDictionary[Class, Class] = WeakValueDictionary()
_SWAPPED = "_accelerated_by_fastiter"  # class attribute: replacements by the names of the originals


class Plan(NamedTuple):
    """The methods of a derived class, and the replacements by the originals' names; or why there is no such class.

    `is_whole` is whether its whole forward is replaced, and calls the functions in another order or in one pass.
    """

    overrides: dict[str, Any]
    swapped: dict[str, str]
    why: str | None
    is_whole: bool = False


class _Exchange(NamedTuple):
    """A name that a method uses, or the method's own name, with its rule and the model's function."""

    key: str
    rule: rules.Rule
    theirs: Any


def plan_for(of: Class) -> Plan | None:
    """Return how to accelerate objects of a class, None if it has no known recurrence."""
    if of is nn.Linear:
        return Plan({"forward": linear_forward}, {"forward": "fastiter's matrix product"}, None)
    methods = lookup.methods_mixed_in(of) | methods_of(of)
    paths = gpu_paths.paths_of(methods)
    if paths is not None:
        return _plan_for_gpu_path(paths, _attributes_of(of, methods))
    overrides: dict[str, Any] = {}
    swapped: dict[str, str] = {}
    for name, method in methods.items():
        exchanges = _exchanges(of, name, method)
        why = next(filter(None, (rules.reason_against(rule, key, theirs) for key, rule, theirs in exchanges)), None)
        if why is not None:
            return Plan({}, {}, why)
        try:
            overrides |= _overrides(of, name, method, exchanges)
        except TypeError as error:
            return Plan({}, {}, str(error))
        swapped |= {key: _named(rule.by) for key, rule, _ in exchanges if rule.by is not None}
    missing = lookup.missing_in(of, methods, swapped)
    if missing is not None:
        return Plan({}, {}, f"there is nothing for its {missing} yet")
    if not swapped:
        why = lookup.CLASSES_NOT_YET.get(of.__name__)
        return None if why is None else Plan({}, {}, why)
    whole = whole_mixer(of, overrides["forward"]) if "forward" in overrides else None
    return Plan(overrides | ({} if whole is None else {"forward": whole}), swapped, None, whole is not None)


def _named(by: str) -> str:
    if by == rules.IN_TORCH:
        return "operations of torch"
    return by if by == rules.KERNEL else f"fastiter.torch.{by}"


def _plan_for_gpu_path(paths: gpu_paths.Paths, attributes: dict[str, Any]) -> Plan:
    why = gpu_paths.reason_against(paths)
    if why is not None:
        return Plan({}, {}, why)
    overrides = {paths.name: gpu_paths.forward_of(paths), **attributes}
    return Plan(overrides, {paths.name: f"fastiter.torch.{paths.by}"}, None)


def _attributes_of(of: Class, methods: dict[str, types.FunctionType]) -> dict[str, Any]:
    """Return the attributes of the derived class for functions that the __init__ of a class stores on its objects."""
    method = methods.get("__init__")
    return {} if method is None else _overrides(of, "__init__", method, _exchanges(of, "__init__", method))


def _exchanges(of: Class, name: str, method: types.FunctionType) -> list[_Exchange]:
    """Return what can be replaced in a method: itself, functions that it uses, or those that __init__ stores."""
    rule = lookup.rule_of(of, name)
    if rule is not None:
        return [_Exchange(name, rule, method)]
    used = globals_of(method)
    if name != "__init__":
        result = ((key, lookup.rule_for_global(method, key, theirs), theirs) for key, theirs in used.items())
        return [_Exchange(key, rule, theirs) for key, rule, theirs in result if rule is not None]
    names = names_of(method)
    replaced = {key: name for key, name in rules.ATTRIBUTES.items() if key in names and name in used}
    exchanges = [_Exchange(key, rules.GLOBALS[name], used[name]) for key, name in replaced.items()]
    if lookup.keeps_activations(used):
        table = used["ACT2FN"].get
        exchanges += [_Exchange(key, lookup.OF_ACTIVATIONS, table) for key in lookup.ACTIVATIONS if key in names]
    return exchanges


def _overrides(of: Class, name: str, method: types.FunctionType, exchanges: list[_Exchange]) -> dict[str, Any]:
    """Return the attributes of the derived class that install the replacements."""
    if not exchanges:
        return {}
    if name == "__init__":
        return {key: _attribute(key, rule) for key, rule, _ in exchanges}
    ours = {key: rule.make(theirs) for key, rule, theirs in exchanges}
    built = ours[name] if lookup.rule_of(of, name) is not None else rebound(method, ours)
    # A name that is None makes the method take another path, which must not change on other devices.
    if any(theirs is None for _, _, theirs in exchanges):
        built = update_wrapper(on_cpus(built)(method), method)
    return {name: staticmethod(built) if isinstance(inspect.getattr_static(of, name), staticmethod) else built}


def _attribute(name: str, rule: rules.Rule) -> property:
    """Return a property that replaces a function in the dict of the class's objects."""

    def read(self: Any) -> Any:
        if name not in self.__dict__:
            raise AttributeError(f"{type(self).__qualname__!r} object has no attribute {name!r}", name=name, obj=self)
        return rule.make(self.__dict__[name])

    def write(self: Any, function: Any) -> None:
        self.__dict__[name] = function

    return property(read, write)


def derived(of: Class, plan: Plan) -> Class:
    """Return the derived class, in which the model's functions are replaced."""
    result = _DERIVED.get(of)
    if result is None:
        result = derive(of, (), {**plan.overrides, _SWAPPED: plan.swapped}, derived_again)
        _DERIVED[of] = result
    return result


def derived_again(of: Class) -> Class:
    """Return the class for an unpickled object: the original class, with a warning, if it cannot be accelerated."""
    plan = plan_for(of)
    if plan is not None and plan.why is None:
        return derived(of, plan)
    why = "it has no recurrence that is known" if plan is None else plan.why
    warnings.warn(
        f"accelerate: a {of.__module__}.{of.__qualname__} that was saved accelerated is loaded as it was before: {why}",
        stacklevel=3,
    )
    return of


def is_accelerated(module: nn.Module) -> bool:
    """Return whether a module's class, or one of its bases, was created here."""
    return hasattr(type(module), _SWAPPED)


def original_of(plain: Class) -> Class | None:
    """Return the class that `plain` was derived from, None if it was not created here."""
    return vars(plain)["_in_place_of"] if _SWAPPED in vars(plain) else None


def rebind_hooks(module: nn.Module, before: Class, after: Class) -> None:
    """Rebind the forward that a library has set on the instance, to run hooks around the class's, to the new class.

    Hugging Face's accelerate stores the class's method as ``_old_forward``, and later restores it as ``forward``.
    """
    for name in ("forward", "_old_forward"):
        method = module.__dict__.get(name)
        if _is_forward_of(method, before):
            module.__dict__[name] = types.MethodType(after.forward, module)


def _is_forward_of(method: Any, of: Class) -> bool:
    return isinstance(method, types.MethodType) and method.__func__ is of.forward


def reason_against_instance(module: nn.Module, plain: Class) -> str | None:
    """Return why the methods of a class derived from a module's would not run, None if they would."""
    own = module.__dict__
    if "forward" in own and not any(_is_forward_of(own.get(name), plain) for name in ("forward", "_old_forward")):
        return "its forward was replaced"
    methods = methods_of(plain)
    if gpu_paths.paths_of(methods) is not None and (why := gpu_paths.reason_against_module(module)) is not None:
        return why
    for name, method in methods.items():
        rule = lookup.rule_of(plain, name)
        why = None if rule is None else rules.reason_against_instance(rule, name, method, module)
        if why is not None:
            return why
    return None
