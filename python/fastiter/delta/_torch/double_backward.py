"""The delta rule in torch's own operations, step by step: the replay for second derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..._torch.replay import Rows, Valued


def replay(inputs: Sequence[Any], constants: Sequence[Any]) -> list[Tensor]:
    """Return o and the final states.

    ``inputs`` are q, k, e, beta, decay and state, where e = v - S^T k, saved by the kernels, stands for v and receives
    its gradient; ``constants`` are reset, lengths and cu_seqlens.
    """
    q, k, e, beta, decay, state = inputs
    reset, lengths, cu_seqlens = constants
    if k.dim() == 4:
        k, e, beta = (x.unsqueeze(2) for x in (k, e, beta))
    rows = Rows(q, lengths, None, cu_seqlens)
    flags = None if reset is None else rows.flags(reset)
    q, k, e, beta = (rows.padded(x) for x in (q, k, e, beta))
    decay = None if decay is None else rows.padded(decay)
    S = q.new_zeros(q.shape[0], *q.shape[2:], e.shape[-1]) if state is None else state
    every = []
    for t in range(q.shape[1]):
        before = S
        if decay is not None:
            S = decay[:, t, :, None, None] * S
        if flags is not None:
            S = torch.where(flags[:, t, None, None, None], 0, S)
        for m in range(k.shape[2]):
            S = _factor(S, k[:, t, m], e[:, t, m], beta[:, t, m])
        o = _product(S, q[:, t])
        if rows.valid is not None:
            valid = rows.valid[:, t, None, None]
            S, o = torch.where(valid.unsqueeze(-1), S, before), torch.where(valid, o, 0)
        every.append(o)
    o = torch.stack(every, 1) if every else e.new_zeros(q.shape[0], 0, q.shape[2], e.shape[-1])
    return [rows.back(o), S]


def _factor(S: Tensor, k: Tensor, e: Tensor, beta: Tensor) -> Tensor:
    """S + beta k (v - S^T k)^T."""
    product = _product(S, k)
    v = Valued.apply(e, (e + product).detach())
    return S + k.unsqueeze(-1) * (beta.unsqueeze(-1) * (v - product)).unsqueeze(-2)


def _product(S: Tensor, k: Tensor) -> Tensor:
    """S^T k for every head."""
    return (S * k.unsqueeze(-1)).sum(-2)
