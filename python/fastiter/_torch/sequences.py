"""Checks of the tensors that divide steps into sequences: reset, lengths and cu_seqlens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .._sequences import check_bounds, check_lengths, check_packing
from .ops import check_reset, checked_bounds, checked_lengths

Integers = Tensor | Sequence[int]


class Sequences(NamedTuple):
    """The checked division of B rows of T steps into sequences; each field is None if it is not given."""

    reset: Tensor | None
    lengths: Tensor | None
    cu_seqlens: Tensor | None

    def count(self, batch: int) -> int:
        """Return the number of sequences."""
        return batch if self.cu_seqlens is None else self.cu_seqlens.shape[0] - 1


_WHOLE_ROWS = Sequences(None, None, None)


def checked_sequences(
    function: str,
    x: Tensor,
    reset: Tensor | None,
    lengths: Integers | None,
    cu_seqlens: Integers | None,
    name: str,
    size: tuple[int, int] | None = None,
) -> Sequences:
    """Check the arguments that divide the steps of x, the argument called ``name``, into sequences.

    ``size`` is B and T, by default the sizes of the first two axes of x.
    """
    if reset is None and lengths is None and cu_seqlens is None:
        return _WHOLE_ROWS
    batch, time = x.shape[:2] if size is None else size
    if reset is not None:
        check_reset(function, reset, x, batch, time, name)
    if cu_seqlens is not None:
        check_packing(function, batch, lengths, name)
        return Sequences(reset, None, checked_bounds(function, cu_seqlens, time, x.device))
    whole = None if lengths is None else checked_lengths(function, lengths, batch, time, x.device)
    return Sequences(reset, whole, None)


def in_reverse(function: str, sequences: Sequences, *tensors: Tensor | None) -> tuple[Any, ...]:
    """Return tensors (B, T, ...) with the steps of each sequence reversed; padding stays in place, None stays None."""
    _, lengths, bounds = sequences
    first = next(x for x in tensors if x is not None)
    batch, time = first.shape[:2]
    if lengths is None and bounds is None:
        return tuple([None if x is None else x.flip(1) for x in tensors])
    if not is_compiling():
        check_values(function, batch, time, lengths, bounds)
    t = torch.arange(time, device=first.device)
    if lengths is None:
        assert bounds is not None  # for the type checker
        sequence = torch.searchsorted(bounds[1:].contiguous(), t, right=True).clamp(max=bounds.shape[0] - 2)
        index = (bounds[:-1] + bounds[1:])[sequence] - 1 - t
        return tuple([None if x is None else x.index_select(1, index.clamp(0, time - 1)) for x in tensors])
    ends = lengths.unsqueeze(1)
    index = torch.where(t < ends, ends - 1 - t, t).clamp(0, max(time - 1, 0))
    rows = torch.arange(batch, device=index.device).unsqueeze(1)
    return tuple([None if x is None else x[rows, index] for x in tensors])


def backwards(function: str, sequences: Sequences, *tensors: Any) -> tuple[list[Any], Sequences]:
    """Return tensors (B, T, ...), and their division into sequences, with the steps of each sequence reversed."""
    flags = None if sequences.reset is None else sequences.reset.expand(tensors[0].shape[:2])
    *turned, flags = in_reverse(function, sequences, *tensors, flags)
    return turned, sequences._replace(reset=flags)


def check_values(function: str, batch: int, time: int, lengths: Tensor | None, cu_seqlens: Tensor | None) -> None:
    """Check lengths or cu_seqlens when an op runs, as their values are unknown while tracing.

    Values on a GPU are not read back: the kernels clamp them into range.
    """
    if cu_seqlens is not None and cu_seqlens.is_cpu:
        falls = bool((cu_seqlens[1:] < cu_seqlens[:-1]).any())
        check_bounds(function, cu_seqlens.shape, int(cu_seqlens[0]), int(cu_seqlens[-1]), falls, time)
    if lengths is not None and lengths.is_cpu:
        shortest, longest = (int(lengths.min()), int(lengths.max())) if batch else (0, 0)
        check_lengths(function, lengths.shape, shortest, longest, batch, time)
