"""fastiter on torch tensors: differentiable, compilable, exportable; modules are in :mod:`fastiter.torch.nn`."""

from __future__ import annotations

from .. import _torch as _torch  # raises with installation advice if PyTorch is missing
from .._public import publish
from ..accelerate._torch.accelerate import Accelerated, accelerate, restore
from ..delta._torch.functional import delta_scan
from ..newton._torch.functional import paragru, paralstm, paraslstm
from ..newton._torch.solve.functional import solve_recurrence
from ..newton._torch.solve.result import RecurrenceSolution
from ..rnn._torch.functional import elman, gru, lstm, slstm
from ..rnn._torch.results import RnnResult, RnnStates
from ..scan._torch.functional import block_scan, linear_scan
from . import bcd, compat, distributed, experimental, fixedpoint, mdp, nn, onnx, quant, relax, ssm
from .flashrnn import FlashRNNConfig, flashrnn
from .replace import Replaced, Restored, replace

__all__ = [
    "Accelerated",
    "FlashRNNConfig",
    "RecurrenceSolution",
    "Replaced",
    "Restored",
    "RnnResult",
    "RnnStates",
    "accelerate",
    "bcd",
    "block_scan",
    "compat",
    "delta_scan",
    "distributed",
    "elman",
    "experimental",
    "fixedpoint",
    "flashrnn",
    "gru",
    "linear_scan",
    "lstm",
    "mdp",
    "nn",
    "onnx",
    "paragru",
    "paralstm",
    "paraslstm",
    "quant",
    "relax",
    "replace",
    "restore",
    "slstm",
    "solve_recurrence",
    "ssm",
]

publish(globals())
