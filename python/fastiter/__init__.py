"""Fast iterations x <- f(x) on NumPy arrays: recurrences along time, number formats. Tensors: :mod:`fastiter.torch`."""

from __future__ import annotations

from . import quant, relax
from ._backend import BackendError
from ._config import __version__, get_num_threads, release_memory, set_num_threads, show_config
from ._solution import Solution
from .delta import delta_scan
from .newton import paragru, paralstm, paraslstm
from .rnn import elman, gru, lstm, slstm
from .scan import block_scan, linear_scan

__all__ = [
    "BackendError",
    "Solution",
    "__version__",
    "block_scan",
    "delta_scan",
    "elman",
    "get_num_threads",
    "gru",
    "linear_scan",
    "lstm",
    "paragru",
    "paralstm",
    "paraslstm",
    "quant",
    "relax",
    "release_memory",
    "set_num_threads",
    "show_config",
    "slstm",
]
