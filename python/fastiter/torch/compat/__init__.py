"""Functions with the names, arguments and results of other libraries, by the libraries' names."""

from __future__ import annotations

from ..._public import publish
from . import causal_conv1d, fla, mamba_ssm, mlstm_kernels

__all__ = ["causal_conv1d", "fla", "mamba_ssm", "mlstm_kernels"]

publish(globals())
