"""Replacements for transformers' functions of Mamba-2, with the same arguments; the originals run unsupported calls."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ....ssm._torch.ops import computed
from ....ssm._torch.ssd import ssd
from ..functions import Function, on_cpu

_NO_LIMITS = (0.0, math.inf)


def wide_ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *rest: Tensor | None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = _NO_LIMITS,
) -> tuple[Tensor, Tensor]:
    """Call ssd with D, dt_bias and the state converted to the dtype of its arithmetic; the states are contiguous.

    The steps that follow update the states in place, and would be slower with states that are not contiguous.
    """
    dtype = computed(x.dtype)
    x, dt, A, B, C = (y.to(dtype) for y in (x, dt, A, B, C))
    D, dt_bias, first = (None if y is None else y.to(dtype) for y in rest)
    limits: dict[str, Any] = {"dt_softplus": dt_softplus, "dt_limit": dt_limit}
    out, last = ssd(x, dt, A, B, C, D, None, dt_bias, state=first, **limits)
    return out, last.contiguous()


def chunk_scan(theirs: Function) -> Function:
    """Return a replacement for mamba2_chunk_scan of transformers, whose output has the dtype of its arithmetic."""

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
        dt_limit: tuple[float, float] = _NO_LIMITS,
        return_final_states: bool = False,
        **options: Any,
    ) -> Any:
        inputs = (hidden_states, dt, A, B, C)
        limits: dict[str, Any] = {"dt_softplus": dt_softplus, "dt_limit": dt_limit}
        if not on_cpu(hidden_states):
            states = {"initial_states": initial_states, "return_final_states": return_final_states}
            return theirs(*inputs, chunk_size, D, dt_bias, **states, **limits, **options)
        out, last = wide_ssd(*inputs, D, dt_bias, initial_states, **limits)
        return (out, last) if return_final_states else out

    return mamba2_chunk_scan
