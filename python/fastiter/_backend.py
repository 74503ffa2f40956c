"""The backends: which one a call uses, which are available on this machine, and why the others are not."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, TypeAlias, TypeVar

#: The backends for NumPy arrays
Backend: TypeAlias = Literal["cpu", "reference"]
#: The backends for data in GPU memory
_ON_CARDS = ("cuda", "triton")
#: The lowest compute capability that the CUDA kernels support: the first whose tensor cores have bfloat16
OLDEST = (8, 0)


class BackendError(RuntimeError):
    """The backend that was named, or that the location of the data requires, cannot run.

    See Also
    --------
    show_config : The backends, and why one cannot run.

    Examples
    --------
    >>> import fastiter
    >>> try:
    ...     device = fastiter.tune.Device.current()
    ... except fastiter.BackendError:  # there is no GPU on this machine
    ...     device = fastiter.tune.DEVICES["H100"]
    >>> device.warp
    32
    """


@cache
def is_installed(package: str) -> bool:
    """Return whether a package is installed; a search in vain takes as long as several launches, so it is done once."""
    return importlib.util.find_spec(package) is not None


@dataclasses.dataclass(frozen=True)
class Cuda:
    """The entry ``"cuda"`` of a table of backends: the tensor function that computes on CuPy arrays.

    It is given by name and imported on first use, as it belongs to a layer above the tables, and as only CuPy arrays
    need torch.
    """

    module: str
    function: str

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the function on CuPy arrays, without a copy and on CuPy's current stream.

        The arguments are the user's own. Options that are None are left out, as some do not exist for tensors.
        """
        torch, cupy = importlib.import_module("torch"), importlib.import_module("cupy")
        run = getattr(importlib.import_module(self.module), self.function)
        device = _device_of(args)
        stream = torch.cuda.ExternalStream(cupy.cuda.get_current_stream(device).ptr, device=device)
        # torch's guard leaves a device without a context as it is; those of streams and of CuPy would create one there.
        with torch.cuda.device(device), torch.cuda.stream(stream), torch.no_grad():
            passed = {name: x for name, x in options.items() if x is not None}
            tensors, named = _replaced((args, passed), _is_array, torch.from_dlpack)
            result = run(*tensors, **named)
            return _replaced(result, lambda x: isinstance(x, torch.Tensor), cupy.from_dlpack)


_Result = TypeVar("_Result")
#: The implementations of a function: "cpu" and "reference", which are chosen by name, and "cuda", for CuPy arrays
Backends: TypeAlias = Mapping[str, Callable[..., _Result]]


def choose(function: str, table: Backends[_Result], backend: str | None, *arrays: object) -> Callable[..., _Result]:
    """Return the entry of ``table`` that the arrays' device or ``backend`` selects; ``None`` means ``"cpu"``."""
    if "cuda" in table and any(map(is_cupy, arrays)):
        return _cuda_row(function, table, backend)
    if backend is None:
        return table["cpu"]
    if not isinstance(backend, str):
        raise TypeError(f"{function}: backend must be a str or None, got {type(backend).__name__}")
    if backend in table and backend not in _ON_CARDS:
        return table[backend]
    known = ", ".join(repr(key) for key in table if key not in _ON_CARDS)
    if backend in _ON_CARDS:
        which = "NumPy arrays (CuPy arrays and CUDA tensors run on their card)"
        raise BackendError(f"{function}: backend must be one of {known} for {which}, got {backend!r}")
    raise ValueError(f"{function}: backend must be one of {known}, got {backend!r}")


def is_cuda(run: Callable[..., Any]) -> bool:
    """Return whether an entry is the one for CuPy arrays, which takes the user's own arguments and checks them."""
    return isinstance(run, Cuda)


def _cuda_row(function: str, table: Backends[_Result], backend: str | None) -> Callable[..., _Result]:
    if backend is not None:
        raise BackendError(f"{function}: backend must be None for CuPy arrays, whose device decides, got another")
    if not is_installed("torch"):
        raise BackendError(
            f"{function}: CuPy arrays need torch, which launches their kernels (pip install fastiter-kernels[gpu])"
        )
    return table["cuda"]


def is_cupy(x: object) -> bool:
    """Return whether ``x`` is a CuPy array or sparse matrix, or a sequence that begins with a CuPy array."""
    while isinstance(x, tuple) and x:
        x = x[0]
    module = type(x).__module__
    return module.startswith("cupy") and module.partition(".")[0] in ("cupy", "cupyx")


def _is_array(x: object) -> bool:
    return not isinstance(x, tuple) and is_cupy(x)


def _device_of(args: tuple[Any, ...]) -> int:
    """Return the number of the device of the first CuPy array."""
    first = next(x for x in args if is_cupy(x))
    while isinstance(first, tuple):
        first = first[0]
    return int(first.device.id)


def _replaced(x: Any, which: Callable[[Any], bool], by: Callable[[Any], Any]) -> Any:
    """Return ``x`` with each item that ``which`` selects replaced, also inside tuples, lists, dicts and dataclasses.

    An argument without such items is returned itself, so that formats, for instance, are not rebuilt.
    """
    if which(x):
        return by(x)
    if dataclasses.is_dataclass(x) and not isinstance(x, type):  # for instance a Solution
        fields = {field.name: getattr(x, field.name) for field in dataclasses.fields(x)}
        result = _replaced(fields, which, by)
        changed = {name: value for name, value in result.items() if value is not fields[name]}
        return dataclasses.replace(x, **changed) if changed else x
    if isinstance(x, dict):
        result = {key: _replaced(value, which, by) for key, value in x.items()}
        return x if all(result[key] is value for key, value in x.items()) else result
    if isinstance(x, (tuple, list)):
        parts = [_replaced(part, which, by) for part in x]
        if all(part is old for part, old in zip(parts, x, strict=True)):
            return x
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    return x


def availability() -> dict[str, str]:
    """Map each backend to ``"available"`` or the reason why it cannot run, from the installed packages and driver."""
    installed = {name: importlib.util.find_spec(name) is not None for name in ("torch", "triton", "cupy")}
    state = {"cpu": "available", "reference": "available"}
    state["torch"] = "available" if installed["torch"] else "not installed (pip install fastiter-kernels[torch])"
    for name, packages, oldest in (("triton", ("torch", "triton"), (0, 0)), ("cuda", ("torch", "cupy"), OLDEST)):
        missing = [package for package in packages if not installed[package]]
        reason = f"{' and '.join(missing)} not installed (pip install fastiter-kernels[gpu])"
        state[name] = reason if missing else _card(oldest)
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
        needed, own = (".".join(map(str, capability)) for capability in (oldest, newest))
        return f"needs a card of compute capability {needed} or more, and finds {own}"
    return "available"


def _capability(driver: ctypes.CDLL, number: int) -> tuple[int, int]:
    """Return the compute capability of a GPU."""
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), number)
    for value, attribute in ((major, 75), (minor, 76)):
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return major.value, minor.value
