"""Stand-in until the scans are there."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_scan(a: Tensor, x: Tensor, h0: Tensor | None = None, *, reverse: bool = False) -> tuple[Tensor, Tensor]:
    h = torch.zeros_like(x[:, 0]) if h0 is None else h0
    out = torch.empty_like(x)
    order = range(x.shape[1])
    for t in reversed(order) if reverse else order:
        h = a[:, t] * h + x[:, t]
        out[:, t] = h
    return out, h


def block_scan(A: Tensor, x: Tensor, h0: Tensor | None = None, *, reverse: bool = False) -> tuple[Tensor, Tensor]:
    h = torch.zeros_like(x[:, 0]) if h0 is None else h0
    out = torch.empty_like(x)
    order = range(x.shape[1])
    for t in reversed(order) if reverse else order:
        h = (A[:, t] @ h.unsqueeze(-1)).squeeze(-1) + x[:, t]
        out[:, t] = h
    return out, h
