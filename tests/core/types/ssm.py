"""State-space models and linear attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import assert_type

from fastiter import ssm

Array = npt.NDArray[Any]


def arrays() -> None:
    """Run each recurrence, and take its last state."""
    rng = np.random.default_rng(0)
    u, B = rng.standard_normal((2, 4, 9)), rng.standard_normal((2, 3, 9))
    A = -np.ones((4, 3))
    h = np.zeros((2, 4, 3))
    assert_type(ssm.selective_state_update(h, u[..., 0], abs(u[..., 0]), A, B[..., 0], B[..., 0]), Array)
    q, k, v = rng.standard_normal((3, 2, 9, 2, 4))
    assert_type(ssm.linear_attention(q, k, v), tuple[Array, Array])
    out, state = ssm.mlstm(q, k, v, q[..., 0], q[..., 0])
    assert_type(out, Array)
    assert_type(state, tuple[Array, Array, Array])


def tensors() -> None:
    """The same on tensors."""
    import torch
    from torch import Tensor

    from fastiter.torch import ssm as tensors_ssm

    u, B = torch.randn(2, 4, 9), torch.randn(2, 3, 9)
    A = -torch.ones(4, 3)
    h = torch.zeros(2, 4, 3)
    step = tensors_ssm.selective_state_update(h, u[..., 0], u[..., 0].abs(), A, B[..., 0], B[..., 0])
    assert_type(step, Tensor)
    q = torch.randn(2, 9, 2, 4)
    assert_type(tensors_ssm.linear_attention(q, q, q), tuple[Tensor, Tensor])
    assert_type(tensors_ssm.mlstm(q, q, q, q[..., 0], q[..., 0])[1], tuple[Tensor, Tensor, Tensor])
