"""Launch shapes for GPU kernels: a solver for integer constraints, data about GPUs, and launch plans."""

from __future__ import annotations

from ._device import DEVICES, Device
from ._rnn_plan import RnnPlan, rnn_constraints, rnn_plan
from ._search import solve

__all__ = ["DEVICES", "Device", "RnnPlan", "rnn_constraints", "rnn_plan", "solve"]
