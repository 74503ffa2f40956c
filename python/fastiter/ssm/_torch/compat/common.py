"""Checks shared by the functions with the signatures of other libraries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_NARROW = frozenset((torch.float32, torch.bfloat16, torch.float16))
#: For each dtype the dtypes that it may be combined with
TOGETHER = {torch.float64: frozenset((torch.float64,)), **dict.fromkeys(_NARROW, _NARROW)}


def check_part(function: str, name: str, x: Any, shape: tuple[int, ...], q: Tensor, first: str = "q") -> None:
    """Check the type and shape of an argument, and that its dtype is compatible with that of the first argument, q."""
    if isinstance(x, Tensor) and x.shape == shape and x.dtype in TOGETHER.get(q.dtype, ()):
        return
    if not isinstance(x, Tensor):
        raise TypeError(f"{function}: {name} must be a torch.Tensor, got {type(x).__qualname__}")
    if x.shape != shape:
        raise ValueError(f"{function}: {name} must have shape {shape} to go with {first}, got {tuple(x.shape)}")
    if x is q:
        raise TypeError(f"{function}: {name} must have dtype float32, float64, bfloat16 or float16, got {x.dtype}")
    expected = "float64" if q.dtype == torch.float64 else "float32, bfloat16 or float16"
    raise TypeError(f"{function}: {name} must have dtype {expected} to go with {q.dtype} {first}, got {x.dtype}")
