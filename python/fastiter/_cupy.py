"""CuPy arrays: the array functions forward them to their namesakes in fastiter.torch, which have the GPU kernels."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, TypeVar, cast

from ._backend import BackendError

_Function = TypeVar("_Function", bound=Callable[..., Any])


def takes_cupy(function: _Function) -> _Function:
    """Let a function of NumPy arrays accept CuPy arrays, without a copy and on CuPy's current stream."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        first = args[0] if args else next(iter(options.values()), None)
        return (_to_torch if is_cupy(first) else function)(*args, **options)

    def _to_torch(*args: Any, **options: Any) -> Any:
        name = "fastiter.torch.quant" if function.__module__.startswith("fastiter.quant.") else "fastiter.torch"
        return through_torch(name, function.__name__, args, options)

    return cast(_Function, call)


def is_cupy(x: object) -> bool:
    """Return whether ``x`` is a CuPy array or sparse matrix, or a sequence that begins with a CuPy array."""
    if isinstance(x, tuple) and x:
        x = x[0]
    return type(x).__module__.partition(".")[0] in ("cupy", "cupyx")


def _is_array(x: object) -> bool:
    return not isinstance(x, tuple) and is_cupy(x)


def _device(given: tuple[Any, ...]) -> int:
    """Return the number of the device of the first array."""
    first = given[0]
    return int((first[0] if isinstance(first, tuple) else first).device.id)


def through_torch(
    module: str, function: str, args: tuple[Any, ...], options: dict[str, Any], name: str | None = None
) -> Any:
    """Call a function of tensors on CuPy arrays; ``name`` is the caller's name in messages."""
    name = name or function
    if options.pop("backend", None) is not None:
        raise BackendError(f"{name}: backend must be None for CuPy arrays, whose device decides, got another")
    if importlib.util.find_spec("torch") is None:
        raise BackendError(f"{name}: CuPy arrays need torch, which launches their kernels (pip install fastiter[gpu])")
    # Imported by name: this layer lies below fastiter.torch, and only CuPy arrays need it.
    torch, cupy = importlib.import_module("torch"), importlib.import_module("cupy")
    run = getattr(importlib.import_module(module), function)
    device = _device(args or tuple(options.values()))
    with cupy.cuda.Device(device):
        stream = torch.cuda.ExternalStream(cupy.cuda.get_current_stream().ptr, device=device)
    with torch.cuda.stream(stream), torch.no_grad():
        given = _replaced((args, options), _is_array, torch.from_dlpack)
        found = run(*given[0], **given[1])
        return _replaced(found, lambda x: isinstance(x, torch.Tensor), cupy.from_dlpack)


def _replaced(x: Any, which: Callable[[Any], bool], by: Callable[[Any], Any]) -> Any:
    """Return ``x`` with each item that ``which`` selects replaced, also inside tuples, lists, dicts and dataclasses."""
    if which(x):
        return by(x)
    if dataclasses.is_dataclass(x) and not isinstance(x, type):  # a Solution, say
        fields = {field.name: getattr(x, field.name) for field in dataclasses.fields(x)}
        return dataclasses.replace(x, **_replaced(fields, which, by))
    if isinstance(x, dict):
        return {key: _replaced(value, which, by) for key, value in x.items()}
    if isinstance(x, (tuple, list)):
        parts = [_replaced(part, which, by) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    return x
