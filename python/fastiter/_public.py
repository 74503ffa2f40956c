"""Names public functions and classes after the module that users import them from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def publish(names: Mapping[str, Any]) -> None:
    """Set ``__module__`` of the functions and classes that a package exports to the package's name.

    Files with whole modules or objects in them then stay readable when a private module moves. Objects that another
    package has published keep its name.

    Parameters
    ----------
    names : mapping
        The package's ``globals()``, with ``__all__``.
    """
    for name in names["__all__"]:
        module = getattr(names.get(name), "__module__", None)  # families that are imported on first access are missing
        if isinstance(module, str) and module.startswith("fastiter.") and "._" in module:
            names[name].__module__ = names["__name__"]
