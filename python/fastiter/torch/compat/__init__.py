"""Functions with the names, arguments and results of other libraries, by the libraries' names."""

from __future__ import annotations

from ..._public import publish
from . import fla, mlstm_kernels

__all__ = ["fla", "mlstm_kernels"]

publish(globals())
