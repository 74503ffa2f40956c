"""Public names of a package: its ``dir()``, and the ``__module__`` of its functions and classes."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any


def publish(names: MutableMapping[str, Any]) -> None:
    """Set ``__module__`` of the functions and classes that a package exports to the package's name, and its ``dir()``.

    Pickled modules and objects then remain loadable when a private module moves. Objects that another package has
    published keep that package's name. ``dir()`` lists only public names, as SPEC 1 of Scientific Python recommends.

    Parameters
    ----------
    names : mapping
        The package's ``globals()``, with ``__all__``. A ``__dir__`` that is defined there is kept.
    """
    names.setdefault("__dir__", lambda: sorted(names["__all__"]))
    for name in names["__all__"]:
        module = getattr(names.get(name), "__module__", None)  # None for families that are imported on first access
        if isinstance(module, str) and module.startswith("fastiter.") and "._" in module:
            names[name].__module__ = names["__name__"]
