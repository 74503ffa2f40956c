"""The functions of the family example on tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._torch.ops import check_tensors
from .ops import Softsign
from .ops import softsign as op


class _Function(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return op(Softsign(x))[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return dy / (ctx.saved_tensors[0].abs() + 1) ** 2


def softsign(x: Tensor) -> Tensor:
    """y = x / (1 + |x|): :func:`fastiter.example.softsign` on tensors, differentiable."""
    check_tensors("softsign", ("x",), (x,))
    y: Tensor = _Function.apply(x)
    return y
