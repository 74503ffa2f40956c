"""The argument ``out``, a tensor that the caller provides for the result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .._check import overlaps_itself
from .op import count_change
from .ops import CPU_AND_CUDA, check_tensors, needs_no_dispatch, unit_stride, unwatched


def check_out(
    function: str,
    out: Tensor,
    shape: Sequence[int],
    inputs: Sequence[tuple[str, Tensor]],
    dtypes: Sequence[torch.dtype],
) -> None:
    """Check that ``out`` has this shape and the first input's dtype, requires no gradient and overlaps no input."""
    (name, x), *_ = inputs
    check_tensors(function, (name, "out"), (x, out), dtypes, CPU_AND_CUDA)
    if tuple(out.shape) != tuple(shape):
        raise ValueError(f"{function}: out must have shape {tuple(shape)}, got {tuple(out.shape)}")
    if torch.is_grad_enabled() and any(y.requires_grad for _, y in [*inputs, ("out", out)]):
        raise RuntimeError(f"{function}: out must be None if an argument requires a gradient, got a tensor")
    if not unwatched():
        return
    if overlaps_itself(out.shape, out.stride(), 1):
        raise ValueError(f"{function}: out must have one place for each element, got strides {out.stride()}")
    for name, y in inputs:
        if may_share_memory(out, y):
            raise ValueError(f"{function}: out must not share memory with the inputs, got the memory of {name}")


def may_share_memory(x: Tensor, y: Tensor) -> bool:
    """Return whether the memory between the first and the last element of x overlaps that of y."""

    def ends(z: Tensor) -> tuple[int, int]:
        span = 1 + sum((size - 1) * stride for size, stride in zip(z.shape, z.stride(), strict=True))
        return z.data_ptr(), z.data_ptr() + span * z.element_size()

    if x.numel() == 0 or y.numel() == 0:
        return False
    (x_start, x_end), (y_start, y_end) = ends(x), ends(y)
    return x_start < y_end and y_start < x_end


def named(names: Iterable[str], tensors: Iterable[Tensor | None]) -> list[tuple[str, Tensor]]:
    """Return the tensors that are not None, with their names."""
    return [(name, x) for name, x in zip(names, tensors, strict=True) if x is not None]


def is_written_by_kernels(out: Tensor, *inputs: object) -> bool:
    """Return whether a kernel may write to ``out`` itself; otherwise the result is copied to it."""
    return needs_no_dispatch((out, *inputs)) and not out.is_neg() and unit_stride(out) is out


def written(out: Tensor) -> Tensor:
    """Return ``out`` after a kernel has written to it, and increment its version for autograd."""
    count_change(out)
    return out
