"""fastiter on torch tensors: differentiable, compilable, exportable; modules are in :mod:`fastiter.torch.nn`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _torch as _torch  # raises with installation advice if PyTorch is missing
from .._public import publish
from .._torch import op as _op  # noqa: F401  (registers all ops, so that exported programs can be loaded)

if TYPE_CHECKING:
    from ..decode._torch.decoder import Decoder
    from ..delta._torch.functional import delta_scan
    from ..newton._torch.functional import paragru, paralstm, paraslstm
    from ..newton._torch.solve.functional import solve_recurrence
    from ..newton._torch.solve.result import RecurrenceSolution
    from ..rnn._torch.flashrnn import FlashRNNConfig, flashrnn
    from ..rnn._torch.functional import elman, gru, lstm, slstm
    from ..rnn._torch.results import RnnResult, RnnStates
    from ..scan._torch.functional import block_scan, linear_scan
    from . import bcd, compat, decode, distributed, experimental, fixedpoint, mdp, nn, onnx, quant, relax, ssm
    from ._models import Accelerated, Replaced, Restored, accelerate, replace, restore

__all__ = [
    "Accelerated",
    "Decoder",
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
    "decode",
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

#: Names imported on first access: families together take six times as long as everything else
publish(
    globals(),
    {
        "Accelerated": "._models",
        "Decoder": "..decode._torch.decoder",
        "FlashRNNConfig": "..rnn._torch.flashrnn",
        "RecurrenceSolution": "..newton._torch.solve.result",
        "Replaced": "._models",
        "Restored": "._models",
        "RnnResult": "..rnn._torch.results",
        "RnnStates": "..rnn._torch.results",
        "accelerate": "._models",
        "bcd": ".bcd",
        "block_scan": "..scan._torch.functional",
        "compat": ".compat",
        "decode": ".decode",
        "delta_scan": "..delta._torch.functional",
        "distributed": ".distributed",
        "elman": "..rnn._torch.functional",
        "experimental": ".experimental",
        "fixedpoint": ".fixedpoint",
        "flashrnn": "..rnn._torch.flashrnn",
        "gru": "..rnn._torch.functional",
        "linear_scan": "..scan._torch.functional",
        "lstm": "..rnn._torch.functional",
        "mdp": ".mdp",
        "nn": ".nn",
        "onnx": ".onnx",
        "paragru": "..newton._torch.functional",
        "paralstm": "..newton._torch.functional",
        "paraslstm": "..newton._torch.functional",
        "quant": ".quant",
        "relax": ".relax",
        "replace": "._models",
        "restore": "._models",
        "slstm": "..rnn._torch.functional",
        "solve_recurrence": "..newton._torch.solve.functional",
        "ssm": ".ssm",
    },
)
