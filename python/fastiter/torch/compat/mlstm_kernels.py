"""mlstm_kernels' functions, with the argument order, layouts, defaults and results of mlstm_kernels 2.0."""

from __future__ import annotations

from ...ssm._torch.compat.mlstm_kernels import (
    mlstm_chunkwise,
    mlstm_recurrent_sequence,
    mlstm_recurrent_step,
    register,
)

__all__ = ["mlstm_chunkwise", "mlstm_recurrent_sequence", "mlstm_recurrent_step", "register"]
