"""Fast iterations x <- f(x) on NumPy arrays: recurrences along time, number formats. Tensors: :mod:`fastiter.torch`."""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from . import _moved as _moved  # finds modules by their former names
from ._backend import BackendError
from ._config import __version__, get_num_threads, release_memory, set_num_threads, show_config
from ._public import publish as _publish
from ._solution import Solution
from .delta import delta_scan
from .newton import paragru, paralstm, paraslstm
from .rnn import elman, gru, lstm, slstm
from .scan import block_scan, linear_scan

if _TYPE_CHECKING:
    from . import quant, relax, ssm, tune

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
    "ssm",
    "tune",
]

_publish(globals())


def __getattr__(name: str) -> _Any:
    """Import a family's module on first access: these take longer to import than all the rest."""
    if name in ("quant", "relax", "ssm", "tune"):
        return _import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
