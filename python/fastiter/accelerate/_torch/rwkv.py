"""A replacement for transformers' attention of RWKV-4: two linear recurrences with a common scale, against overflow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...scan._torch.functional import linear_scan
from ...ssm._torch.ops import computed
from .functions import Function, on_cpu

_NO_MAXIMUM = -1e38  # transformers' scale of an empty state


def linear_attention(theirs: Function) -> Function:
    """Return a replacement for rwkv_linear_attention of transformers.

    With w = -exp(time_decay), the numerator and the denominator of the output follow s[t] = e^w s[t-1] + e^k[t] x[t],
    where x is the value or 1. Both are stored divided by e^m, m[t] = max(m[t-1] + w, k[t]), which cancels in the
    output, so gradients treat it as a constant.
    """

    def rwkv_linear_attention(
        time_decay: Tensor,
        time_first: Tensor,
        key: Tensor,
        value: Tensor,
        state: Any = None,
        return_state: bool = False,
    ) -> tuple[Tensor, Any]:
        if not on_cpu(key) or key.shape[1] == 1:
            found: tuple[Tensor, Any] = theirs(time_decay, time_first, key, value, state, return_state)
            return found
        dtype = computed(key.dtype)
        k, v, first, w = (x.to(dtype) for x in (key, value, time_first, -torch.exp(time_decay)))
        numerator = denominator = None
        start = torch.full_like(k[:, 0], _NO_MAXIMUM)
        if state is not None:
            numerator, denominator, start = (x.to(dtype) for x in state)
        m = _scales(k.detach(), w.detach(), start)
        decay, weight = torch.exp(m[:, :-1] + w - m[:, 1:]), torch.exp(k - m[:, 1:])
        above, last_above = _scan(decay, weight * v, numerator)
        below, last_below = _scan(decay, weight, denominator)
        now = k + first
        top = torch.maximum(m[:, :-1], now.detach())
        before, current = torch.exp(m[:, :-1] - top), torch.exp(now - top)
        out = (before * above + current * v) / (before * below + current)
        last = [last_above, last_below, m[:, -1]] if return_state or state is not None else None
        return out.to(key.dtype), last

    return rwkv_linear_attention


def _scales(k: Tensor, w: Tensor, start: Tensor) -> Tensor:
    """Return m (B, T + 1, D), beginning with that before the first step, by a running maximum of k[t] - t w.

    Its rounding errors, which grow with t w, do not matter, as all factors come from the rounded m.
    """
    steps = torch.arange(k.shape[1] + 1, dtype=torch.float64, device=k.device)[:, None]
    lines = torch.cat([start[:, None], k], 1).double() - steps * w.double()
    return (lines.cummax(1).values + steps * w.double()).to(k.dtype)


def _scan(a: Tensor, x: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the states before each step, and the last one."""
    h, last = linear_scan(a, x, first)
    start = torch.zeros_like(h[:, :1]) if first is None else first[:, None]
    return torch.cat([start, h[:, :-1]], 1), last
