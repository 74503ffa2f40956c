"""Checks that the functions with the signatures of other libraries share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops import computed


def check_part(function: str, name: str, x: Any, shape: tuple[int, ...], q: Tensor, first: str = "q") -> None:
    """Check the type and shape of an argument, and that its dtype goes with that of the first, q."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{function}: {name} must be a torch.Tensor, got {type(x).__qualname__}")
    if tuple(x.shape) != shape:
        raise ValueError(f"{function}: {name} must have shape {shape} to go with {first}, got {tuple(x.shape)}")
    if not x.is_floating_point() or computed(x.dtype) != computed(q.dtype):
        expected = "float64" if q.dtype == torch.float64 else "float32, bfloat16 or float16"
        raise TypeError(f"{function}: {name} must have dtype {expected} to go with {q.dtype} {first}, got {x.dtype}")
