"""fastiter on torch tensors: differentiable, compilable, exportable; modules are in :mod:`fastiter.torch.nn`."""

from __future__ import annotations

from . import _vmap, onnx, quant
from .delta import delta_scan
from .flashrnn import FlashRNNConfig, flashrnn
from .hls import export_hls
from .newton import paragru, paralstm, paraslstm
from .relax import relax_solve, sweeps
from .relax_chebyshev import Chebyshev
from .relaxation import Relaxation
from .replace import Replaced, Restored, replace, restore
from .rnn import elman, gru, lstm, slstm
from .scan import block_scan, linear_scan
from .solve import solve_recurrence

_vmap.register()

__all__ = [
    "Chebyshev",
    "FlashRNNConfig",
    "Relaxation",
    "Replaced",
    "Restored",
    "block_scan",
    "delta_scan",
    "elman",
    "export_hls",
    "flashrnn",
    "gru",
    "linear_scan",
    "lstm",
    "onnx",
    "paragru",
    "paralstm",
    "paraslstm",
    "quant",
    "relax_solve",
    "replace",
    "restore",
    "slstm",
    "solve_recurrence",
    "sweeps",
]
