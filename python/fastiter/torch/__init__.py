"""fastiter on torch tensors: differentiable, compilable, exportable; modules are in :mod:`fastiter.torch.nn`."""

from __future__ import annotations

from .rnn import elman, gru, lstm, slstm
from .scan import block_scan, linear_scan
from .solve import solve_recurrence

__all__ = ["block_scan", "elman", "gru", "linear_scan", "lstm", "slstm", "solve_recurrence"]
