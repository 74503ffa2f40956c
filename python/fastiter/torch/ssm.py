"""State-space models on tensors, with gradients."""

from __future__ import annotations

from .._public import publish
from ..ssm._torch.attention import linear_attention
from ..ssm._torch.causal_conv import causal_conv1d, causal_conv1d_update, causal_conv1d_varlen_states
from ..ssm._torch.functional import selective_scan, selective_state_update
from ..ssm._torch.low_rank import dplr_delta_rule
from ..ssm._torch.mamba import mamba_inner
from ..ssm._torch.mamba2 import mamba2_inner
from ..ssm._torch.mlstm import mlstm
from ..ssm._torch.norm import gated_rms_norm
from ..ssm._torch.ssd import ssd

__all__ = [
    "causal_conv1d",
    "causal_conv1d_update",
    "causal_conv1d_varlen_states",
    "dplr_delta_rule",
    "gated_rms_norm",
    "linear_attention",
    "mamba2_inner",
    "mamba_inner",
    "mlstm",
    "selective_scan",
    "selective_state_update",
    "ssd",
]

publish(globals())
