"""Launch shapes for GPU kernels: a solver of constraints on integers, what is known of cards, and plans."""

from __future__ import annotations

from ._device import DEVICES, Device
from ._rnn_plan import RnnPlan, rnn_constraints, rnn_plan
from ._search import solve

__all__ = ["DEVICES", "Device", "RnnPlan", "rnn_constraints", "rnn_plan", "solve"]
