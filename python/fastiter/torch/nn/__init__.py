"""Modules on fastiter's compiled kernels: torch.nn's, with the same names and checkpoints, and further recurrences.

Also layers for quantization-aware training, and the conversion of models to them: see docs/quant/training.md.
"""

from __future__ import annotations

from ..._public import publish
from ...delta._torch.nn import DeltaNet
from ...fixedpoint._torch.nn.deq import DEQ
from ...fixedpoint._torch.nn.hopfield import Hopfield
from ...fixedpoint._torch.nn.hopfield_layers import HopfieldLayer, HopfieldPooling
from ...fixedpoint._torch.nn.monotone_deq import MonotoneDEQ
from ...newton._torch.nn import ParaGRU, ParaLSTM
from ...quant._torch.nn.elementwise import QuantAdd, QuantAffine
from ...quant._torch.nn.format_quantizers import FormatQuantizer, GradientQuantizer
from ...quant._torch.nn.layers import (
    QuantBatchNorm1d,
    QuantBatchNorm2d,
    QuantConv2d,
    QuantLinear,
)
from ...quant._torch.nn.learned_quantizers import FixedQuantizer, LSQQuantizer, PACTQuantizer
from ...quant._torch.nn.model import quantize_model
from ...quant._torch.nn.optimizer import OptimizerQuantizer, quantize_optimizer
from ...quant._torch.nn.plan import QuantPlan
from ...quant._torch.nn.rnn import QuantGRU, QuantLSTM
from ...quant._torch.nn.summary import Summary, SummaryRow, summary
from ...rnn._torch.nn.modules import GRU, LSTM, RNN, sLSTM
from ...rnn._torch.nn.slstm_block import sLSTMBlock
from ...rnn._torch.nn.streaming import StreamingRNN
from ...scan._torch.nn import LinearRNN

__all__ = [
    "DEQ",
    "GRU",
    "LSTM",
    "RNN",
    "DeltaNet",
    "FixedQuantizer",
    "FormatQuantizer",
    "GradientQuantizer",
    "Hopfield",
    "HopfieldLayer",
    "HopfieldPooling",
    "LSQQuantizer",
    "LinearRNN",
    "MonotoneDEQ",
    "OptimizerQuantizer",
    "PACTQuantizer",
    "ParaGRU",
    "ParaLSTM",
    "QuantAdd",
    "QuantAffine",
    "QuantBatchNorm1d",
    "QuantBatchNorm2d",
    "QuantConv2d",
    "QuantGRU",
    "QuantLSTM",
    "QuantLinear",
    "QuantPlan",
    "StreamingRNN",
    "Summary",
    "SummaryRow",
    "quantize_model",
    "quantize_optimizer",
    "sLSTM",
    "sLSTMBlock",
    "summary",
]

publish(globals())
