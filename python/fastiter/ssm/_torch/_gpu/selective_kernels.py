"""The ops of the selective scan on a GPU: CUDA kernels where they reach the call, else Triton's."""

from __future__ import annotations

import torch
from torch import Tensor

from ...._backend import OLDEST, is_installed
from ..ops import SelectiveBackward, SelectiveForward, selective_bwd, selective_fwd
from . import cuda_selective, triton_selective


def choose(call: SelectiveForward | SelectiveBackward) -> str:
    """Return "cuda" if its kernels reach the call, CuPy is installed and the card is recent, else "triton".

    The batch and the number of steps have no influence, so that a row has the same bits in any batch.
    """
    if not cuda_selective.reaches(call) or not is_installed("cupy"):
        return "triton"
    return "cuda" if torch.cuda.get_device_capability(call.u.device) >= OLDEST else "triton"


def forward(call: SelectiveForward) -> list[Tensor]:
    """Implement the forward op on a GPU."""
    return (cuda_selective if choose(call) == "cuda" else triton_selective).forward(call)


def backward(call: SelectiveBackward) -> list[Tensor]:
    """Implement the backward op on a GPU."""
    return (cuda_selective if choose(call) == "cuda" else triton_selective).backward(call)


selective_fwd.on_cuda(forward)
selective_bwd.on_cuda(backward)
