"""Modules on fastiter's compiled kernels: those of torch.nn with its names and checkpoints, and further recurrences.

Also layers for quantization-aware training, and the conversion of models to them: see docs/quant_training.md.
"""

from .delta_net import DeltaNet
from .format_quantizers import FormatQuantizer, GradientQuantizer
from .linear_rnn import LinearRNN
from .para import ParaGRU, ParaLSTM
from .quant_layers import QuantAdd, QuantAffine, QuantBatchNorm1d, QuantBatchNorm2d, QuantConv2d, QuantLinear
from .quant_model import quantize_model
from .quant_optimizer import quantize_optimizer
from .quant_plan import QuantPlan
from .quant_rnn import QuantGRU, QuantLSTM
from .quant_summary import summary
from .quantizers import FixedQuantizer, LSQQuantizer, PACTQuantizer
from .rnn import GRU, LSTM, RNN, sLSTM
from .slstm_block import sLSTMBlock
from .streaming import StreamingRNN

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "DeltaNet",
    "FixedQuantizer",
    "FormatQuantizer",
    "GradientQuantizer",
    "LSQQuantizer",
    "LinearRNN",
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
    "quantize_model",
    "quantize_optimizer",
    "sLSTM",
    "sLSTMBlock",
    "summary",
]
