"""The description of the work for the kernels of the family rnn: options, rows, and the position of each sequence."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._torch.packed import check_batch_sizes
from ..._torch.sequences import check_values
from .._cells import Cell


class Options(NamedTuple):
    """Rarely used options, in the order of the ops' arguments. clip_grad affects only the backward pass."""

    cu_seqlens: Tensor | None = None
    reset: Tensor | None = None
    clip_state: float | None = None
    clip_grad: float | None = None
    checkpoint: int = 0


PLAIN = Options()


def options_of(
    cu_seqlens: Tensor | None,
    reset: Tensor | None,
    clip_state: float | None,
    clip_grad: float | None,
    checkpoint: int,
) -> Options:
    """Return the options; PLAIN itself if none is set."""
    if cu_seqlens is None and reset is None and clip_state is None and clip_grad is None and not checkpoint:
        return PLAIN
    return Options(cu_seqlens, reset, clip_state, clip_grad, checkpoint)


Work = tuple[Any, ...]


def work_of(
    cell: Cell,
    lines: Sequence[int],
    heads: int,
    width: int,
    reverse: bool,
    lengths: Tensor | None,
    batch_sizes: Tensor | None,
    options: Options,
) -> Work:
    """Return the kernels' description of the work."""
    rows = rows_of(cell, lines, heads, width, reverse, lengths, batch_sizes, options.cu_seqlens)
    starts, reset, clip_state, clip_grad, _ = options
    if starts is None and reset is None and clip_state is None and clip_grad is None:
        return rows
    if starts is not None:
        starts = starts.contiguous()
    if reset is not None:
        reset = reset.expand(lines if batch_sizes is None else rows[1:3]).contiguous()
    return (*rows, starts, reset, inf if clip_state is None else clip_state, inf if clip_grad is None else clip_grad)


def rows_of(
    cell: Cell,
    lines: Sequence[int],
    heads: int,
    width: int,
    reverse: bool,
    lengths: Tensor | None,
    batch_sizes: Tensor | None,
    cu_seqlens: Tensor | None,
) -> Work:
    """Return the part without options: cell, B, T, N, D, reverse, lengths, offsets of packed steps, packed lines."""
    if cu_seqlens is not None:
        return _cut_work(cell, lines[1], heads, width, reverse, cu_seqlens)
    if batch_sizes is not None:
        return _packed_work(cell, lines[0], heads, width, reverse, batch_sizes)
    batch, time = lines
    if lengths is None:
        return cell.code, batch, time, heads, width, reverse, None, None, 0
    check_values(cell.name, batch, time, lengths, None)
    return cell.code, batch, time, heads, width, reverse, lengths.contiguous(), None, 0


def _packed_work(cell: Cell, rows: int, heads: int, width: int, reverse: bool, batch_sizes: Tensor) -> Work:
    offsets = torch.cumsum(batch_sizes, 0) - batch_sizes
    batch, time = int(batch_sizes[0]) if len(batch_sizes) else 0, len(batch_sizes)
    lengths = (batch_sizes > torch.arange(batch, device=batch_sizes.device).unsqueeze(1)).sum(1)
    return cell.code, batch, time, heads, width, reverse, lengths, offsets, rows


def _cut_work(cell: Cell, steps: int, heads: int, width: int, reverse: bool, cu_seqlens: Tensor) -> Work:
    check_values(cell.name, 1, steps, None, cu_seqlens)
    lengths = cu_seqlens.diff()
    time = int(lengths.max()) if len(lengths) else 0
    return cell.code, len(lengths), time, heads, width, reverse, lengths, None, steps


def checked_batch_sizes(function: str, batch_sizes: Tensor) -> tuple[int, int]:
    """Return B and M of a packed batch; the kernels rely on batch_sizes never increasing."""
    check_batch_sizes(function, batch_sizes)
    if not batch_sizes.is_contiguous():
        raise ValueError(f"{function}: batch_sizes must be contiguous with shape (T,), got {tuple(batch_sizes.shape)}")
    if len(batch_sizes) == 0:
        return 0, 0
    if int(batch_sizes[-1]) < 1 or bool((batch_sizes[1:] > batch_sizes[:-1]).any()):
        raise ValueError(f"{function}: batch_sizes must not increase nor fall below 1, got {batch_sizes.tolist()}")
    return int(batch_sizes[0]), int(batch_sizes.sum())
