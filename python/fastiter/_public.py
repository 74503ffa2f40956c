"""Public names of a package: its ``dir()``, and the ``__module__`` of its functions and classes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import is_dataclass
from importlib import import_module
from importlib.util import resolve_name
from inspect import isclass, isfunction
from types import FunctionType
from typing import Any

from ._suggest import suggesting


def publish(names: MutableMapping[str, Any], later: Mapping[str, str] | None = None) -> None:
    """Set ``__module__`` of the functions and classes that a package exports to the package's name, and its ``dir()``.

    Pickled modules and objects then remain loadable when a private module moves. Objects that another package has
    published keep that package's name. ``dir()`` lists only public names, as SPEC 1 of Scientific Python recommends.

    Solvers, which are the functions and methods with a ``callback``, and constructors with optional parameters say
    which parameter was meant by an unknown keyword (:mod:`fastiter._suggest`). Functions of single kernels do not:
    they take microseconds, of which this would be some percent.

    Parameters
    ----------
    names : mapping
        The package's ``globals()``, with ``__all__``. A ``__dir__`` that is defined there is kept.
    later : mapping of str to str, optional
        Names that are imported on first access, as this takes long, and the relative modules that define them, or that
        they are.
    """
    names.setdefault("__dir__", lambda: sorted(names["__all__"]))
    for name in names["__all__"]:
        if name in names:  # others are imported on first access
            names[name] = _published(names[name], names["__name__"])
    if later is None:
        return
    package = names["__name__"]
    modules = {name: resolve_name(module, package) for name, module in later.items()}

    def imported(name: str) -> Any:
        """Import a name on first access, and set every other name whose module this has loaded."""
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        import_module(modules[name])  # sets the name if it is that of a submodule
        for each, defined_in in modules.items():
            if each not in names and defined_in in sys.modules and defined_in != f"{package}.{each}":
                names[each] = _published(getattr(sys.modules[defined_in], each), package)
        return names[name]

    names["__getattr__"] = imported


def _published(exported: Any, package: str) -> Any:
    module = getattr(exported, "__module__", None)
    if not isinstance(module, str) or not module.startswith("fastiter."):
        return exported
    if "._" in module:
        exported.__module__ = package
    if isclass(exported):
        for name, method in list(vars(exported).items()):
            if isfunction(method) and _has_suggestions(exported, name, method):
                setattr(exported, name, suggesting(method))
    elif isfunction(exported) and "callback" in _parameters(exported):
        return suggesting(exported)
    return exported


def _has_suggestions(cls: type, name: str, method: FunctionType) -> bool:
    """Return whether a method is a solver, or a constructor of objects that are not results."""
    if name == "__init__":
        is_result = is_dataclass(cls) and not hasattr(cls, "__post_init__")  # arguments of users are checked
        return not is_result and bool(method.__defaults__ or method.__kwdefaults__)
    return not name.startswith("_") and "callback" in _parameters(method)


def _parameters(function: FunctionType) -> tuple[str, ...]:
    """Return the names of the parameters, in less time than their signature takes."""
    code = function.__code__
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
