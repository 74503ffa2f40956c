"""Fast iterations x <- f(x), compiled, on NumPy arrays; :mod:`fastiter.torch` has the same on tensors.

====================  ================================================================================================
recurrent networks    :func:`lstm`, :func:`gru`, :func:`elman`, :func:`slstm`
linear recurrences    :func:`linear_scan`, :func:`block_scan`
the delta rule        :func:`delta_scan`
Newton along time     :func:`paragru`, :func:`paralstm`, :func:`paraslstm`
state-space models    :mod:`fastiter.ssm`
number formats        :mod:`fastiter.quant`
linear systems        :mod:`fastiter.relax`
decision processes    :mod:`fastiter.mdp`
fixed points          :mod:`fastiter.fixedpoint`
coordinate descent    :mod:`fastiter.bcd`
GPU kernel shapes     :mod:`fastiter.tune`
no stable interface   :mod:`fastiter.experimental`
this machine          :func:`show_config`, :func:`set_num_threads`, :func:`release_memory`
====================  ================================================================================================
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from ._backend import BackendError
from ._call.iterate import Progress
from ._config import __version__, get_num_threads, release_memory, set_num_threads, show_config
from ._public import publish as _publish
from ._solution import ConvergenceError, ConvergenceWarning, Solution
from .delta import delta_scan
from .newton import paragru, paralstm, paraslstm
from .rnn import RnnResult, RnnStates, elman, gru, lstm, slstm
from .scan import block_scan, linear_scan

if _TYPE_CHECKING:
    from . import bcd, experimental, fixedpoint, mdp, quant, relax, ssm, tune

__all__ = [
    "BackendError",
    "ConvergenceError",
    "ConvergenceWarning",
    "Progress",
    "RnnResult",
    "RnnStates",
    "Solution",
    "__version__",
    "bcd",
    "block_scan",
    "delta_scan",
    "elman",
    "experimental",
    "fixedpoint",
    "get_num_threads",
    "gru",
    "linear_scan",
    "lstm",
    "mdp",
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

_ON_FIRST_ACCESS = ("bcd", "experimental", "fixedpoint", "mdp", "quant", "relax", "ssm", "torch", "tune")

_publish(globals())


def __getattr__(name: str) -> _Any:
    """Import a submodule on first access: these take longer to import than the rest of the package."""
    if name in _ON_FIRST_ACCESS:
        return _import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "torch"])  # not in __all__, as a star import would import PyTorch
