"""State-space models on NumPy arrays."""

from __future__ import annotations

from .._public import publish
from ._attention import linear_attention
from ._causal_conv import causal_conv1d, causal_conv1d_update, causal_conv1d_varlen_states
from ._functional import selective_scan, selective_state_update
from ._low_rank import dplr_delta_rule
from ._mlstm import mlstm
from ._ssd import ssd

__all__ = [
    "causal_conv1d",
    "causal_conv1d_update",
    "causal_conv1d_varlen_states",
    "dplr_delta_rule",
    "linear_attention",
    "mlstm",
    "selective_scan",
    "selective_state_update",
    "ssd",
]

publish(globals())
