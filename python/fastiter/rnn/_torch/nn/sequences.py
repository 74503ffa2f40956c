"""lengths, cu_seqlens and reset of the recurrent layers: their checks, and their conversion for each direction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...._sequences import check_absent, check_packing
from ...._torch.launch import in_range
from ...._torch.ops import check_reset, checked_bounds, checked_lengths
from .layer import ALL_STEPS, Steps


def checked_steps(name: str, x: Tensor, batch_first: bool, reset: Any, lengths: Any, cu_seqlens: Any) -> Steps:
    """Check and return the division into sequences of x (T, B, I), or (B, T, I) if batch_first, or (T, I)."""
    batched = x.dim() == 3
    if cu_seqlens is not None:
        check_packing(name, 1, lengths)
        if batched:
            shape = tuple(x.shape)
            raise ValueError(f"{name}: input must have 2 dimensions (M, I) if cu_seqlens is given, got {shape}")
        cu_seqlens = checked_bounds(name, cu_seqlens, x.shape[0], x.device)
    batch, time = (x.shape[1 - batch_first], x.shape[int(batch_first)]) if batched else (1, x.shape[0])
    if lengths is not None:
        if not batched:
            check_absent(name, "unbatched input", lengths=lengths)
        lengths = checked_lengths(name, lengths, batch, time, x.device)
    flags = None if reset is None else _checked_flags(name, reset, x, batch, time, batched and not batch_first)
    return Steps(*in_range(lengths, cu_seqlens, time), flags)


def checked_packed(name: str, data: Tensor, batch: int, time: int, batch_first: bool, *requested: Any) -> Steps:
    """Check and return the division of a PackedSequence; the reset flags are in the order of the unsorted rows."""
    reset, lengths, cu_seqlens = requested
    check_absent(name, "a PackedSequence", lengths=lengths, cu_seqlens=cu_seqlens)
    if reset is None:
        return ALL_STEPS
    return Steps(reset=_checked_flags(name, reset, data, batch, time, not batch_first))


def _checked_flags(name: str, reset: Any, x: Tensor, batch: int, time: int, time_major: bool) -> Tensor:
    """Check the flags and return a copy as (B, T)."""
    check_reset(name, reset, x, batch, time, "input", time_major)
    flags: Tensor = reset.t() if time_major else reset
    return flags.expand(batch, time).clone(memory_format=torch.contiguous_format)


def without_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """Return x (T, B, I) with zeros in the padding.

    A NaN in the padding, multiplied by a gradient of 0, would make the gradients of the weights NaN.
    """
    behind = torch.arange(x.shape[0], device=lengths.device).unsqueeze(1) >= lengths
    return x.masked_fill(behind.unsqueeze(-1).to(x.device), 0)


def turned_steps(steps: Steps, batch_sizes: Tensor | None) -> Steps:
    """Return the steps for the reverse direction.

    A reset at t separates t from t - 1. The reverse direction goes from t to t - 1, so its flag is at t - 1; flags
    beyond a row's last step have no effect.
    """
    lengths, bounds, reset = steps
    if reset is None:
        return steps
    time = reset.shape[1]
    not_last = torch.arange(time, device=reset.device) < time - 1
    back = reset.roll(-1, 1) & not_last  # a slice [1:] could be exported only for T > 2
    if bounds is not None:
        back[:, bounds[1:] - 1] = False
    if batch_sizes is not None:
        lengths = (batch_sizes > torch.arange(reset.shape[0], device=batch_sizes.device).unsqueeze(1)).sum(1)
    if lengths is not None:
        following = torch.arange(1, reset.shape[1] + 1, device=lengths.device)
        back &= (following < lengths.unsqueeze(1)).to(back.device)
    return steps._replace(reset=back)


def begins_anew(steps: Steps, reverse: bool) -> Tensor | None:
    """Return a mask (B,) of the rows that reset at their first step; None if there is none."""
    if steps.reset is None or reverse:
        return None
    if steps.cu_seqlens is None:
        return steps.reset[:, 0]
    return steps.reset[0, steps.cu_seqlens[:-1].clamp(max=steps.reset.shape[1] - 1)]


def has_no_steps(steps: Steps) -> Tensor | None:
    """Return a mask (B,) of the rows without steps; None if all have steps."""
    if steps.cu_seqlens is not None:
        return steps.cu_seqlens.diff() == 0
    return None if steps.lengths is None else steps.lengths == 0
