"""RWKV-4's attention on tensors, differentiable to any order: weighted means of values, whose weights decay in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..._torch.differentiable import Differentiable
from .ops_wkv import wkv_bwd, wkv_fwd

State = tuple[Tensor, Tensor, Tensor]
_NO_MAXIMUM = -1e38  # the scale of a state without steps


def wkv(w: Tensor, bonus: Tensor, k: Tensor, v: Tensor, first: State | None = None) -> tuple[Tensor, State]:
    """Return the output (B, T, D) and the last state: numerator and denominator divided by e^m, and m, each (B, D).

    ``fastiter.ssm.reference_wkv`` has the equations. The arguments are trusted: all are of one dtype, float32 or
    float64, and on the CPU; w and bonus are (D,), k and v (B, T, D). The gradient includes that through m.
    """
    out, *last = _wkv(w, bonus, k, v, *((None, None, None) if first is None else first))[:4]
    return out, (last[0], last[1], last[2])


def _steps(inputs: Sequence[Any], constants: Sequence[Any]) -> list[Tensor]:
    """Return the output and the last state in torch's operations, step by step: the replay for second derivatives."""
    w, bonus, k, v, p, q, m = inputs
    if p is None:
        p, q = (torch.zeros_like(k[:, :1]).squeeze(1) for _ in range(2))
        m = torch.full_like(p, _NO_MAXIMUM)
    outputs = []
    for key, value in zip(k.unbind(1), v.unbind(1), strict=True):
        top = torch.maximum(m, key + bonus)
        former, added = torch.exp(m - top), torch.exp(key + bonus - top)
        outputs.append((former * p + added * value) / (former * q + added))
        top = torch.maximum(m + w, key)
        former, added = torch.exp(m + w - top), torch.exp(key - top)
        p, q, m = former * p + added * value, former * q + added, top
    return [torch.stack(outputs, 1) if outputs else torch.zeros_like(v), p, q, m]


_wkv = Differentiable("wkv", wkv_fwd, wkv_bwd, "out last_numerator last_denominator last_m states", replay=_steps)
