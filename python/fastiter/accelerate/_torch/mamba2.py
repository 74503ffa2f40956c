"""Mamba-2's functions in place of transformers': the same arguments, and theirs where ours do not apply."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ...ssm._torch.ops import computed
from ...ssm._torch.ssd import ssd
from .functions import Function, on_cpu


def chunk_scan(theirs: Function) -> Function:
    """Return mamba2_chunk_scan of transformers, whose output has the dtype of its arithmetic."""

    def mamba2_chunk_scan(
        hidden_states: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        chunk_size: int,
        D: Tensor | None = None,
        dt_bias: Tensor | None = None,
        initial_states: Tensor | None = None,
        dt_softplus: bool = False,
        dt_limit: tuple[float, float] = (0.0, math.inf),
        return_final_states: bool = False,
        **options: Any,
    ) -> Any:
        given = (hidden_states, dt, A, B, C)
        how: dict[str, Any] = {"dt_softplus": dt_softplus, "dt_limit": dt_limit}
        if not on_cpu(hidden_states):
            states = {"initial_states": initial_states, "return_final_states": return_final_states}
            return theirs(*given, chunk_size, D, dt_bias, **states, **how, **options)
        dtype = computed(hidden_states.dtype)
        x, dt, A, B, C = (y.to(dtype) for y in given)
        D, dt_bias, initial_states = (None if y is None else y.to(dtype) for y in (D, dt_bias, initial_states))
        out, last = ssd(x, dt, A, B, C, D, None, dt_bias, initial_state=initial_states, **how)
        return (out, last) if return_final_states else out

    return mamba2_chunk_scan
