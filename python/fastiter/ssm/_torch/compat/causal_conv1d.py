"""Causal convolutions with the signatures of causal_conv1d."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._conv_shapes import Activation
from .. import causal_conv
from ..checks import Integers


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Integers | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: Activation | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """act(bias + sum over j of weight[j] x[t - W + 1 + j]) over (B, D, T); see causal_conv1d's function of this name.

    ``final_states_out`` (B, D, W - 1) is read only with ``return_final_states``: then it is filled and returned.
    """
    options: dict[str, Any] = {
        "seq_idx": seq_idx,
        "initial_states": initial_states,
        "return_final_states": return_final_states,
    }
    found = causal_conv.causal_conv1d(x, weight, bias, **options, activation=activation)
    if isinstance(found, Tensor) or final_states_out is None:
        return found
    out, last = found
    if not isinstance(final_states_out, Tensor) or final_states_out.shape != last.shape:
        got = tuple(final_states_out.shape) if isinstance(final_states_out, Tensor) else type(final_states_out).__name__
        raise ValueError(f"causal_conv1d_fn: final_states_out must have shape {tuple(last.shape)}, got {got}")
    return out, final_states_out.copy_(last)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: Activation | None = None,
    cache_seqlens: Integers | None = None,
    conv_state_indices: Integers | None = None,
) -> Tensor:
    """The next steps, which change the state in place; see causal_conv1d's function of this name.

    The result has no gradient, whether an argument requires one or not.
    """
    with torch.no_grad():
        given = (x, conv_state, weight, bias, activation, cache_seqlens, conv_state_indices)
        return causal_conv.causal_conv1d_update(*given)


causal_conv1d_varlen_states = causal_conv.causal_conv1d_varlen_states
