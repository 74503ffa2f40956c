"""fastiter on torch tensors: differentiable, compilable, exportable; modules are in :mod:`fastiter.torch.nn`."""

from __future__ import annotations

from .delta import delta_scan
from .newton import paragru, paralstm, paraslstm
from .rnn import elman, gru, lstm, slstm

__all__ = ["delta_scan", "elman", "gru", "lstm", "paragru", "paralstm", "paraslstm", "slstm"]
