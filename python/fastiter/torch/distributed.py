"""Sequences, heads, linear systems and decision processes on tensors, distributed over ranks of torch.distributed."""

from __future__ import annotations

from .._public import publish
from .._torch.distributed.collectives import CommunicationError, Traffic, record_traffic
from ..delta._torch.distributed import delta_scan
from ..mdp._torch.distributed import MDP
from ..newton._torch.distributed import paragru, paralstm, paraslstm
from ..relax._torch.distributed.matrix import RowMatrix
from ..relax._torch.distributed.options import AdditiveSchwarz, ColouredSSOR
from ..relax._torch.distributed.partition import partition
from ..relax._torch.distributed.solve import solve
from ..rnn._torch.distributed import elman, gru, lstm, slstm
from ..rnn._torch.nn.head_parallel import HeadParallel
from ..scan._torch.distributed import block_scan, linear_scan
from ..ssm._torch.distributed import dplr_delta_rule, linear_attention, mlstm, selective_scan, ssd

__all__ = [
    "MDP",
    "AdditiveSchwarz",
    "ColouredSSOR",
    "CommunicationError",
    "HeadParallel",
    "RowMatrix",
    "Traffic",
    "block_scan",
    "delta_scan",
    "dplr_delta_rule",
    "elman",
    "gru",
    "linear_attention",
    "linear_scan",
    "lstm",
    "mlstm",
    "paragru",
    "paralstm",
    "paraslstm",
    "partition",
    "record_traffic",
    "selective_scan",
    "slstm",
    "solve",
    "ssd",
]

publish(globals())
