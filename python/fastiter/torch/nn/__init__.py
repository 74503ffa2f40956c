"""Modules with the names, parameters and checkpoints of torch.nn, on fastiter's compiled kernels."""

from .rnn import GRU, LSTM, RNN, sLSTM

__all__ = ["GRU", "LSTM", "RNN", "sLSTM"]
