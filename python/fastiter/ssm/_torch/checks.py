"""Checks of tensors shared by the functions of the family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..._backend import BackendError
from ..._torch.ops import CPU, GPU_FLOATS, check_dense
from .ops import computed

Integers = Tensor | Sequence[int]


def check_tensors(function: str, tensors: Mapping[str, Any], first: str, devices: Sequence[str] = CPU) -> None:
    """Check types, dtypes and devices: float64 combines only with float64; 16-bit and 32-bit dtypes may be mixed."""
    head = tensors[first]
    dtype = getattr(head, "dtype", None)
    for x in tensors.values():
        if not isinstance(x, Tensor) or x.dtype != dtype or not x.is_cpu or x.layout != torch.strided or x.is_nested:
            break
    else:
        if dtype in GPU_FLOATS:
            return
    for name, x in {first: head, **tensors}.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{function}: {name} must be a torch.Tensor, got {type(x).__qualname__}")
        check_dense(function, name, x)
        if x.dtype not in GPU_FLOATS:
            raise TypeError(
                f"{function}: {name} must have dtype torch.float32, torch.float64, torch.bfloat16 or torch.float16, "
                f"got {x.dtype}"
            )
        if computed(x.dtype) != computed(head.dtype):
            expected = "float64" if head.dtype == torch.float64 else "float32, bfloat16 or float16"
            raise TypeError(
                f"{function}: {name} must have dtype {expected} to go with {head.dtype} {first}, got {x.dtype}"
            )
        if x.device.type not in devices:
            expected = "the CPU or a CUDA device" if "cuda" in devices else "the CPU, as it has no GPU kernels yet"
            raise BackendError(f"{function}: {name} must be on {expected}; got device {x.device}")
        if x.device != head.device:
            raise BackendError(f"{function}: {name} must be on device {head.device} like {first}, got {x.device}")
