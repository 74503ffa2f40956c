"""Checks of the arguments of proximal operators on tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._check import fits_float, type_name
from ..._torch.ops import CPU_AND_CUDA, check_tensors
from .._prox.groups import check_broadcast


def check_points(function: str, y: Any, **others: Any) -> None:
    """Check that y, and further arguments by name, are tensors that the operators support."""
    check_tensors(function, ("y", *others), (y, *others.values()), devices=CPU_AND_CUDA)


def bound_of(function: str, name: str, x: Any, y: Tensor) -> Tensor:
    """Return a number, or a tensor that broadcasts to y, as a tensor."""
    if isinstance(x, Tensor):
        check_points(function, y, **{name: x})
        check_broadcast(function, name, tuple(x.shape), tuple(y.shape))
        return x
    if isinstance(x, bool) or not isinstance(x, (int, float)) or not fits_float(x):
        raise TypeError(f"{function}: {name} must be a number or a tensor, got {type_name(x)}")
    return torch.tensor(x, dtype=torch.float64, device="cpu").to(y)


def tensor(x: Any) -> Tensor:
    """Return x as a Tensor for the type checker: the formulas are shared by arrays and tensors."""
    assert isinstance(x, Tensor)
    return x
