"""causal_conv1d's functions, with the names, argument order, layouts, defaults and results of causal_conv1d 1.6."""

from __future__ import annotations

from ...ssm._torch.compat.causal_conv1d import causal_conv1d_fn, causal_conv1d_update, causal_conv1d_varlen_states

__all__ = ["causal_conv1d_fn", "causal_conv1d_update", "causal_conv1d_varlen_states"]
