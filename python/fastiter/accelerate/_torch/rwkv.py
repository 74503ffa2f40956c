"""A replacement for transformers' attention of RWKV-4."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...ssm._torch.ops import computed
from ...ssm._torch.wkv import wkv
from .functions import Function, is_single_step_with_gradients, on_cpu


def linear_attention(theirs: Function) -> Function:
    """Return a replacement for rwkv_linear_attention of transformers; a step with gradients goes to the original."""

    def rwkv_linear_attention(
        time_decay: Tensor,
        time_first: Tensor,
        key: Tensor,
        value: Tensor,
        state: Any = None,
        return_state: bool = False,
    ) -> tuple[Tensor, Any]:
        if not on_cpu(key) or is_single_step_with_gradients(key):
            result: tuple[Tensor, Any] = theirs(time_decay, time_first, key, value, state, return_state)
            return result
        dtype = computed(key.dtype)
        k, v, bonus, w = (x.to(dtype) for x in (key, value, time_first, -torch.exp(time_decay)))
        first = None if state is None else tuple([x.to(dtype) for x in state])
        out, last = wkv(w, bonus, k, v, first)
        return out.to(key.dtype), [*last] if return_state or state is not None else None

    return rwkv_linear_attention
