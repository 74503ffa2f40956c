"""Fast iterations x <- f(x) on NumPy arrays: recurrent networks along time, number formats. Tensors: :mod:`fastiter.torch`."""

from __future__ import annotations

from . import quant
from ._backend import BackendError
from ._config import __version__, get_num_threads, release_memory, set_num_threads, show_config
from .rnn import elman, gru, lstm, slstm

__all__ = [
    "BackendError",
    "__version__",
    "elman",
    "get_num_threads",
    "gru",
    "lstm",
    "quant",
    "release_memory",
    "set_num_threads",
    "show_config",
    "slstm",
]
