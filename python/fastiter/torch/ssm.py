"""State-space models on tensors, with gradients."""

from __future__ import annotations

from .._public import publish
from ..ssm._torch.functional import selective_scan, selective_state_update

__all__ = ["selective_scan", "selective_state_update"]

publish(globals())
