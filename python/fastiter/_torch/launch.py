"""Launching kernels on tensors: CUDA kernels on torch's current stream, Triton kernels on the tensors' device."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from .. import _cuda
from .._backend import BackendError, is_installed

#: An argument of a CUDA kernel: a tensor's pointer, a scalar of the parameter's type, or None for a null pointer.
Argument = Tensor | np.generic | None
_Function = TypeVar("_Function", bound=Callable[..., Any])


def launch_cuda(
    stem: str,
    kernel: str,
    grid: Sequence[int],
    block: Sequence[int],
    args: Sequence[Argument],
    *,
    shared: int = 0,
    cooperative: bool = False,
    defines: Mapping[str, object] | None = None,
) -> None:
    """Launch a kernel of kernels/<stem>.cu on the device and the current stream of its tensors.

    No axis of the grid may be 0: callers return early if there is no work.
    """
    first = next(x for x in args if isinstance(x, Tensor))
    device = first.device
    numbers = [np.uint64(x.data_ptr()) if isinstance(x, Tensor) else np.uint64(0) if x is None else x for x in args]
    with on(first):  # a device that was current before and has no context gets none, as it would from CuPy's guard
        _cuda.launch(
            stem,
            kernel,
            grid,
            block,
            numbers,
            device=device.index,
            stream=torch.cuda.current_stream(device).cuda_stream,
            shared=shared,
            cooperative=cooperative,
            defines=defines,
        )


def active_clusters(
    stem: str, kernel: str, threads: int, x: Tensor, *, shared: int, defines: Mapping[str, object]
) -> int:
    """Return how many clusters of a kernel fit at once on the device of ``x``."""
    with on(x):
        return _cuda.active_clusters(stem, kernel, threads, shared, _cuda.settings_of(defines), x.device.index)


def on(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Make the device of ``x`` the current one, as Triton launches there."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def triton_kernels(function: str, stem: str) -> ModuleType:
    """Import kernels/<stem>.py; raise if Triton is not installed."""
    if not is_installed("triton"):
        raise BackendError(
            f"{function}: Triton compiles the GPU kernels and is not installed (pip install fastiter-kernels[gpu])"
        )
    return importlib.import_module(f"fastiter.kernels.{stem.replace('/', '.')}")


def constants_of(function: _Function) -> _Function:
    """Cache a function that copies constants to a device. Nothing is dropped, as CUDA graphs keep the addresses."""
    return cache(function)  # type: ignore[return-value]


def as_int64(x: Tensor | None, like: Tensor) -> Tensor | None:
    """Return integers such as lengths as int64 on the device of ``like``, without synchronizing."""
    return None if x is None else x.to(like.device, torch.int64, non_blocking=True).contiguous()


def in_range(lengths: Tensor | None, bounds: Tensor | None, time: int) -> tuple[Tensor | None, Tensor | None]:
    """Return lengths of rows and bounds of sequences; on a GPU they are unchecked, so they are clamped into range."""
    if lengths is not None and not lengths.is_cpu:
        lengths = clamped_lengths(lengths, time)
    if bounds is not None and not bounds.is_cpu:
        bounds = clamped_bounds(bounds, time)
    return lengths, bounds


def clamped_lengths(lengths: Tensor, time: int) -> Tensor:
    """Clamp lengths to 0 .. ``time`` on the device, so that kernels can rely on them without a synchronization."""
    return lengths.clamp(0, time)


def clamped_bounds(bounds: Tensor, time: int) -> Tensor:
    """Clamp bounds in the same way: make them nondecreasing, from 0 to ``time``."""
    result = bounds.clamp(0, time)
    result.narrow(0, 0, 1).zero_()  # filled on the device: a copy from the host would synchronize
    result = result.cummax(0).values
    if len(result) > 1:
        result.narrow(0, len(result) - 1, 1).fill_(time)
    return result


def multiprocessors(x: Tensor) -> int:
    """Return the number of multiprocessors of the device of ``x``; 1 for a CPU, where kernels are interpreted."""
    return int(torch.cuda.get_device_properties(x.device).multi_processor_count) if x.is_cuda else 1
