"""torch.func.vmap rules of the ops: one call for each slice, as a kernel takes only one set of weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .ops import LIBRARY


def register(name: str) -> None:
    """Register a vmap rule for an op of fastiter that is already defined."""
    torch.library.register_vmap(f"fastiter::{name}", _rule(name), lib=LIBRARY)


def _rule(name: str) -> Any:
    op = getattr(torch.ops.fastiter, name).default

    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        count = info.batch_size
        results = [op(*_slice(args, in_dims, i if count else None)) for i in range(count or 1)]
        if isinstance(results[0], Tensor):
            return torch.stack(results)[:count], 0
        outputs = [torch.stack(parts)[:count] for parts in zip(*results, strict=True)]
        return outputs, [0] * len(outputs)

    return rule


def _slice(x: Any, dim: Any, i: int | None) -> Any:
    """Return slice i of all tensors that have the vmap axis, including those in lists and tuples.

    If i is None, for an empty batch, return a slice of zeros, which determines the shapes of the op's results.
    """
    if isinstance(x, (list, tuple)):
        dims = dim if isinstance(dim, (list, tuple)) else [None] * len(x)
        return [_slice(part, d, i) for part, d in zip(x, dims, strict=True)]
    if not isinstance(x, Tensor) or dim is None:
        return x
    return x.new_zeros([n for k, n in enumerate(x.shape) if k != dim % x.dim()]) if i is None else x.select(dim, i)
