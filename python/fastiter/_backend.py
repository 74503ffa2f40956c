"""Which backends exist, which can run here, and why the others cannot."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Mapping

#: What runs where the data lies on a card.
_ON_CARDS = ("cuda", "triton")


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
    which = "NumPy arrays (CuPy arrays and CUDA tensors run on their card)" if name in _ON_CARDS else "this function"
    raise BackendError(f"{function}: backend must be one of {known} for {which}, got {name!r}")


def availability() -> dict[str, str]:
    """Return for each backend ``"available"`` or the reason why not; only what is installed is looked at."""
    installed = {name: importlib.util.find_spec(name) is not None for name in ("torch", "triton", "cupy")}
    state = {"cpu": "available", "reference": "available"}
    state["torch"] = "available" if installed["torch"] else "not installed (pip install fastiter[torch])"
    for name, packages in (("triton", ("torch", "triton")), ("cuda", ("torch", "cupy"))):
        missing = [package for package in packages if not installed[package]]
        state[name] = _card() if not missing else f"{' and '.join(missing)} not installed (pip install fastiter[gpu])"
    return state


def _card() -> str:
    """Return ``"available"`` where NVIDIA's driver finds a card, or what is missing."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver on this machine"
    count = ctypes.c_int()
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return "available" if not failed and count.value else "the NVIDIA driver finds no card"
