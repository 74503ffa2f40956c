"""Modules on fastiter's compiled kernels: those of torch.nn with its names and checkpoints, and further recurrences."""

from .delta_net import DeltaNet
from .linear_rnn import LinearRNN
from .para import ParaGRU, ParaLSTM
from .rnn import GRU, LSTM, RNN, sLSTM

__all__ = ["GRU", "LSTM", "RNN", "DeltaNet", "LinearRNN", "ParaGRU", "ParaLSTM", "sLSTM"]
