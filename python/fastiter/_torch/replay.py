"""Helpers for the replays of recurrences for second derivatives: padded rows, and substituted values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .launch import clamped_bounds


class Valued(torch.autograd.Function):
    """Return ``value``; the gradient goes to x."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor, None]:
        return dx, None


class Rows:
    """Conversion of sequences to rows (B, T) of a padded batch, and back; ``valid`` (B, T) masks padding, or None."""

    def __init__(
        self, x: Tensor, lengths: Tensor | None, batch_sizes: Tensor | None, cu_seqlens: Tensor | None
    ) -> None:
        self.lines: Tensor | None = None
        self.valid: Tensor | None = None
        self.is_one_row = cu_seqlens is not None
        if batch_sizes is not None:
            batch = int(batch_sizes[0]) if len(batch_sizes) else 0
            rows = torch.arange(batch, device=batch_sizes.device).unsqueeze(1)
            valid, self.lines = rows < batch_sizes, batch_sizes.cumsum(0) - batch_sizes + rows
        elif cu_seqlens is not None:
            bounds = cu_seqlens if cu_seqlens.is_cpu else clamped_bounds(cu_seqlens, x.shape[1])
            begin, counts = bounds[:-1].unsqueeze(1), bounds.diff().unsqueeze(1)
            steps = torch.arange(int(counts.max()) if len(counts) else 0, device=bounds.device)
            valid, self.lines = steps < counts, begin + steps
        elif lengths is not None:
            valid = torch.arange(x.shape[1], device=lengths.device) < lengths.unsqueeze(1)
        else:
            return
        self.valid = valid.to(x.device)
        if self.lines is not None:
            self.lines = self.lines.where(valid, 0).to(x.device)

    def padded(self, x: Tensor) -> Tensor:
        """Convert a tensor in the layout of the call's x to (B, T, ...), with zeros in the padding."""
        if self.valid is None:
            return x
        if self.lines is not None:
            x = x[0] if self.is_one_row else x
            x = x.index_select(0, self.lines.flatten()).unflatten(0, self.lines.shape)
        valid = self.valid.reshape(*self.valid.shape, *(1,) * (x.dim() - 2))
        return torch.where(valid, x, torch.zeros((), dtype=x.dtype, device=x.device))

    def flags(self, reset: Tensor) -> Tensor:
        """Return the reset flags as (B, T), also if given as (T,), and padded for concatenated sequences."""
        if self.is_one_row:
            return self.padded(reset.reshape(1, -1))
        return reset if reset.dim() == 2 else reset.unsqueeze(0)

    def back(self, states: Tensor) -> Tensor:
        """Convert states (B, T, N, D) back to the layout of the call."""
        if self.lines is None or self.valid is None:
            return states
        count = int(self.valid.sum())
        where = self.lines[self.valid]
        lines = states.new_zeros(count, *states.shape[2:]).index_copy(0, where, states[self.valid])
        return lines.unsqueeze(0) if self.is_one_row else lines
