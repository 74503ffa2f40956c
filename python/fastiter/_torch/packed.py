"""Checks of PackedSequence, which users may construct with arbitrary contents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from .._backend import BackendError


def checked_sizes(name: str, packed: PackedSequence) -> list[int]:
    """Check and return the batch_sizes of a PackedSequence, with which kernels index memory.

    The values of its indices are checked by index_select.
    """
    data, batch_sizes, *orders = packed
    check_batch_sizes(name, batch_sizes)
    sizes: list[int] = batch_sizes.tolist()
    if not sizes or sum(sizes) != data.shape[0] or sizes[-1] < 1 or sizes != sorted(sizes, reverse=True):
        lines = f"batch_sizes that decrease to 1 or more and have the sum {data.shape[0]} of its lines"
        raise RuntimeError(f"{name}: a PackedSequence must have {lines}, got {sizes}")
    for label, order in zip(("sorted_indices", "unsorted_indices"), orders, strict=True):
        if order is not None:
            _check_order(name, label, order, sizes[0], data.device)
    return sizes


def _check_order(name: str, label: str, order: Any, batch: int, device: torch.device) -> None:
    if not isinstance(order, Tensor) or order.dtype not in (torch.int64, torch.int32):
        got = str(order.dtype).removeprefix("torch.") if isinstance(order, Tensor) else type(order).__name__
        raise TypeError(f"{name}: {label} of a PackedSequence must be int64 or int32, got {got}")
    if order.shape != (batch,):
        expected = f"shape (B,) = ({batch},)"
        raise ValueError(f"{name}: {label} of a PackedSequence must have {expected}, got {tuple(order.shape)}")
    if order.device != device:
        raise BackendError(f"{name}: {label} of a PackedSequence must be on {device} like its data, got {order.device}")


def check_batch_sizes(function: str, batch_sizes: Tensor) -> None:
    """Check the type, dtype, device and shape of batch_sizes, not its values."""
    if not isinstance(batch_sizes, Tensor) or batch_sizes.dtype != torch.int64 or not batch_sizes.is_cpu:
        raise TypeError(
            f"{function}: batch_sizes must be an int64 tensor on the CPU, got {_type_and_device(batch_sizes)}"
        )
    if batch_sizes.dim() != 1:
        raise ValueError(f"{function}: batch_sizes must have shape (T,), got {tuple(batch_sizes.shape)}")


def _type_and_device(x: object) -> str:
    return f"{x.dtype} on {x.device}" if isinstance(x, Tensor) else type(x).__qualname__
