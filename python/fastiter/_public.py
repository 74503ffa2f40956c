"""Public names of a package: its ``dir()``, and the ``__module__`` of its functions and classes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, MutableMapping
from importlib import import_module
from importlib.util import resolve_name
from typing import Any


def publish(names: MutableMapping[str, Any], later: Mapping[str, str] | None = None) -> None:
    """Set ``__module__`` of the functions and classes that a package exports to the package's name, and its ``dir()``.

    Pickled modules and objects then remain loadable when a private module moves. Objects that another package has
    published keep that package's name. ``dir()`` lists only public names, as SPEC 1 of Scientific Python recommends.

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
            _rename(names[name], names["__name__"])
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
                names[each] = getattr(sys.modules[defined_in], each)
                _rename(names[each], package)
        return names[name]

    names["__getattr__"] = imported


def _rename(exported: Any, package: str) -> None:
    module = getattr(exported, "__module__", None)
    if isinstance(module, str) and module.startswith("fastiter.") and "._" in module:
        exported.__module__ = package
