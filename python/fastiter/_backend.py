"""Which backends exist, which can run here, and why the others cannot."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping


class BackendError(RuntimeError):
    """A backend was named, or is needed for where the data lives, and cannot run."""


def choose(function: str, table: Mapping[str, object], backend: str | None) -> str:
    """Return the key of ``table`` that ``backend`` names; ``None`` is ``"cpu"``, where NumPy arrays live."""
    name = "cpu" if backend is None else backend
    if not isinstance(name, str):
        raise TypeError(f"{function}: backend must be a str or None, got {type(name).__name__}")
    if name in table:
        return name
    known = ", ".join(repr(key) for key in table)
    raise BackendError(f"{function}: backend must be one of {known} for this function, got {name!r}")


def availability() -> dict[str, str]:
    """Return for each backend ``"available"`` or the reason why not, without importing anything."""
    state = {"cpu": "available", "reference": "available"}
    missing = [name for name in ("torch", "triton", "cupy") if importlib.util.find_spec(name) is None]
    state["torch"] = "not installed (pip install fastiter[torch])" if "torch" in missing else "available"
    for name, package in (("triton", "triton"), ("cuda", "cupy")):
        reason = f"{package} is not installed; " if package in missing else ""
        state[name] = f"{reason}this version has no GPU kernels yet"
    return state
