"""Runs the public functions of fastiter.torch.quant with their GPU kernels, with or without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastiter.quant._torch import autograd, functional
from fastiter.quant._torch import matmul as product
from fastiter.quant._torch import triton_backward as bwd
from fastiter.quant._torch import triton_codes as codes
from fastiter.quant._torch import triton_forward as forward
from fastiter.quant._torch import triton_matmul as gpu_product

_NAN_FILLED = ("empty_like", "empty")


def _filled(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return an allocator that fills its tensors with NaN or 77, which reveals elements that are never written."""

    def call(*args: Any, **options: Any) -> Tensor:
        made = make(*args, **options)
        return made.fill_(float("nan") if made.is_floating_point() else 77)

    return call


class Gpu:
    """`run(f)` calls f with the GPU kernels; `put(x)` moves x to their device."""

    def __init__(self, device: str) -> None:
        self.device = device

    def put(self, x: Any) -> Any:
        if isinstance(x, np.ndarray):
            x = torch.from_numpy(x)
        return x.to(self.device) if isinstance(x, Tensor) else x

    def run(self, call: Callable[[], Any]) -> Any:
        with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
            for name in _NAN_FILLED:
                patch.setattr(torch, name, _filled(getattr(torch, name)))
            patch.setattr(Tensor, "new_empty", _filled(Tensor.new_empty))
            if self.device == "cpu":
                _use_kernels(patch)
            return call()


def _use_kernels(patch: pytest.MonkeyPatch) -> None:
    """Route CPU tensors to the GPU kernels, with few programs, as the interpreter takes the same time for each."""
    patch.setattr(autograd, "quantize_op", forward.quantize)
    patch.setattr(autograd, "step_op", bwd.step)
    patch.setattr(autograd, "quantize_bwd", bwd.backward)
    patch.setattr(product, "linear_op", gpu_product.linear)
    patch.setattr(functional, "encode_op", forward.encode)
    patch.setattr(functional, "decode_op", codes.decode)
    for module in (forward, bwd, codes):
        patch.setattr(module, "BLOCK", 1 << 14)
    patch.setattr(forward, "COUNTERS", 1 << 12)
    patch.setattr(forward, "TILE", 1 << 14)


def same(actual: Tensor, expected: Any, what: object = "") -> None:
    """Assert equal bits, and NaN in the same places."""
    theirs = expected if isinstance(expected, Tensor) else torch.from_numpy(np.asarray(expected))
    mine = actual.detach().cpu()
    assert mine.dtype == theirs.dtype and mine.shape == theirs.shape, what
    if mine.dtype.is_floating_point:
        mine, theirs = mine.double(), theirs.detach().double()
        equal = (mine == theirs) & (torch.signbit(mine) == torch.signbit(theirs)) | mine.isnan() & theirs.isnan()
    else:
        equal = torch.from_numpy(mine.numpy() == theirs.numpy())
    wrong = torch.nonzero(~equal.flatten())[:4, 0]
    shown = [(int(i), mine.flatten()[i].item(), theirs.flatten()[i].item()) for i in wrong]
    assert not shown, f"{what}: {(~equal).sum()} of {equal.numel()} differ: {shown}"
