"""Which backends exist, which can run here, and why the others cannot."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Mapping

#: The backends for data in GPU memory
_ON_CARDS = ("cuda", "triton")
#: The oldest compute capability that the CUDA kernels are compiled for: tensor cores with bfloat16.
OLDEST = (8, 0)


class BackendError(RuntimeError):
    """The backend that was named, or that the location of the data requires, cannot run."""


def choose(function: str, table: Mapping[str, object], backend: str | None) -> str:
    """Return the key of ``table`` that ``backend`` names; ``None`` means ``"cpu"``, where NumPy arrays live."""
    name = "cpu" if backend is None else backend
    if not isinstance(name, str):
        raise TypeError(f"{function}: backend must be a str or None, got {type(name).__name__}")
    if name in table:
        return name
    known = ", ".join(repr(key) for key in table)
    which = "NumPy arrays (CuPy arrays and CUDA tensors run on their card)" if name in _ON_CARDS else "this function"
    raise BackendError(f"{function}: backend must be one of {known} for {which}, got {name!r}")


def availability() -> dict[str, str]:
    """Map each backend to ``"available"`` or the reason why it cannot run, judged by what is installed."""
    installed = {name: importlib.util.find_spec(name) is not None for name in ("torch", "triton", "cupy")}
    state = {"cpu": "available", "reference": "available"}
    state["torch"] = "available" if installed["torch"] else "not installed (pip install fastiter[torch])"
    for name, packages, oldest in (("triton", ("torch", "triton"), (0, 0)), ("cuda", ("torch", "cupy"), OLDEST)):
        missing = [package for package in packages if not installed[package]]
        told = f"{' and '.join(missing)} not installed (pip install fastiter[gpu])"
        state[name] = told if missing else _card(oldest)
    return state


def _card(oldest: tuple[int, int]) -> str:
    """Return ``"available"`` if NVIDIA's driver finds a recent enough GPU, else what is missing."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver on this machine"
    count = ctypes.c_int()
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if failed or not count.value:
        return "the NVIDIA driver finds no card"
    newest = max(_capability(driver, number) for number in range(count.value))
    if newest < oldest:
        needed, found = (".".join(map(str, capability)) for capability in (oldest, newest))
        return f"needs a card of compute capability {needed} or more, and finds {found}"
    return "available"


def _capability(driver: ctypes.CDLL, number: int) -> tuple[int, int]:
    """Return the compute capability of a GPU."""
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), number)
    for value, attribute in ((major, 75), (minor, 76)):
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return major.value, minor.value
