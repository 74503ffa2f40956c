"""State-space models on NumPy arrays."""

from __future__ import annotations

from .._public import publish
from ._attention import linear_attention
from ._functional import selective_scan, selective_state_update

__all__ = ["linear_attention", "selective_scan", "selective_state_update"]

publish(globals())
