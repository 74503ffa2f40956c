"""Public names of a package: its ``dir()``, and the ``__module__`` of its functions and classes."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from importlib import import_module
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
        Names that are imported on first access, as this takes long, and the relative modules that define them.
    """
    names.setdefault("__dir__", lambda: sorted(names["__all__"]))
    for name in names["__all__"]:
        if name in names:  # others are imported on first access
            _rename(names[name], names["__name__"])
    if later is None:
        return

    def imported(name: str) -> Any:
        """Import a name on first access."""
        if name not in later:
            raise AttributeError(f"module {names['__name__']!r} has no attribute {name!r}")
        names[name] = getattr(import_module(later[name], names["__name__"]), name)
        _rename(names[name], names["__name__"])
        return names[name]

    names["__getattr__"] = imported


def _rename(exported: Any, package: str) -> None:
    module = getattr(exported, "__module__", None)
    if isinstance(module, str) and module.startswith("fastiter.") and "._" in module:
        exported.__module__ = package
