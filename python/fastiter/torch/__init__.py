"""fastiter on torch tensors: differentiable, compilable, exportable; modules are in :mod:`fastiter.torch.nn`."""

from __future__ import annotations

from . import quant
from .delta import delta_scan
from .hls import export_hls
from .newton import paragru, paralstm, paraslstm
from .relax import relax_solve, sweeps
from .relaxation import Relaxation
from .rnn import elman, gru, lstm, slstm
from .scan import block_scan, linear_scan
from .solve import solve_recurrence

__all__ = [
    "Relaxation",
    "block_scan",
    "delta_scan",
    "elman",
    "export_hls",
    "gru",
    "linear_scan",
    "lstm",
    "paragru",
    "paralstm",
    "paraslstm",
    "quant",
    "relax_solve",
    "slstm",
    "solve_recurrence",
    "sweeps",
]
