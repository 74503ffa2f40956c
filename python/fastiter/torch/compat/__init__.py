"""Functions with the names, arguments and results of other libraries, one module per library."""

from __future__ import annotations

from ..._public import publish
from ...ssm._torch.compat.install import install, uninstall
from . import causal_conv1d, fla, mamba_ssm, mlstm_kernels

__all__ = ["causal_conv1d", "fla", "install", "mamba_ssm", "mlstm_kernels", "uninstall"]

publish(globals())
