"""fastiter on torch tensors: differentiable, compilable, exportable; modules are in :mod:`fastiter.torch.nn`."""

from __future__ import annotations

from .rnn import elman, gru, lstm, slstm
from .solve import solve_recurrence

__all__ = ["elman", "gru", "lstm", "slstm", "solve_recurrence"]
