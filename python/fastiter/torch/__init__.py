"""fastiter on torch tensors: differentiable, compilable, exportable; modules are in :mod:`fastiter.torch.nn`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _torch as _torch  # raises with installation advice if PyTorch is missing
from .._public import publish
from .._torch import op as _op  # noqa: F401  (registers all ops, so that exported programs can be loaded)

if TYPE_CHECKING:
    from ..delta._torch.functional import delta_scan
    from ..newton._torch.functional import paragru, paralstm, paraslstm
    from ..newton._torch.solve.functional import solve_recurrence
    from ..newton._torch.solve.result import RecurrenceSolution
    from ..rnn._torch.flashrnn import FlashRNNConfig, flashrnn
    from ..rnn._torch.functional import elman, gru, lstm, slstm
    from ..rnn._torch.results import RnnResult, RnnStates
    from ..scan._torch.functional import block_scan, linear_scan
    from . import bcd, compat, distributed, experimental, fixedpoint, mdp, nn, onnx, quant, relax, ssm
    from ._models import Accelerated, Replaced, Restored, accelerate, replace, restore

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

#: The modules of names that are imported on first access: together they take six times as long as all others
_MODULES = {
    "..delta._torch.functional": "delta_scan",
    "..newton._torch.functional": "paragru paralstm paraslstm",
    "..newton._torch.solve.functional": "solve_recurrence",
    "..newton._torch.solve.result": "RecurrenceSolution",
    "..rnn._torch.flashrnn": "FlashRNNConfig flashrnn",
    "..rnn._torch.functional": "elman gru lstm slstm",
    "..rnn._torch.results": "RnnResult RnnStates",
    "..scan._torch.functional": "block_scan linear_scan",
    "._models": "Accelerated Replaced Restored accelerate replace restore",
}
_PARTS = ("bcd", "compat", "distributed", "experimental", "fixedpoint", "mdp", "nn", "onnx", "quant", "relax", "ssm")

_LATER = {name: module for module, names in _MODULES.items() for name in names.split()}

publish(globals(), _LATER | {name: f".{name}" for name in _PARTS})
