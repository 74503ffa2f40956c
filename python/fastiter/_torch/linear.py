"""y = x W^T + b with fastiter's own matrix product, which is as fast as the recurrence's products on every machine.

A row of y does not depend on the number of rows, so single steps are bitwise equal to all steps at once. On a GPU
torch's products are used, which are the fastest there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import _core
from .autograd import applied, one_by_one
from .autograd_twice import differentiable
from .op import Op
from .ops import CPU_AND_CUDA, FLOATS, GPU_FLOATS, check_tensors, contiguous, empty

_GEMM = {
    torch.float32: _core.dense.gemm_f32,
    torch.float64: _core.dense.gemm_f64,
    torch.bfloat16: _core.dense.gemm_bf16,
}
_COLUMN_SUMS = {
    torch.float32: _core.dense.column_sums_f32,
    torch.float64: _core.dense.column_sums_f64,
    torch.bfloat16: _core.dense.column_sums_bf16,
}
_DTYPES = (*FLOATS, torch.bfloat16)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + bias for x (..., I), weight (O, I), bias (O,), as ``torch.nn.functional.linear`` does."""
    inputs = (x, weight) if bias is None else (x, weight, bias)
    dtypes = GPU_FLOATS if isinstance(x, Tensor) and x.is_cuda else _DTYPES
    check_tensors("linear", ("x", "weight", "bias"), inputs, dtypes, CPU_AND_CUDA)
    if x.dim() < 1 or weight.dim() != 2 or weight.shape[1] != x.shape[-1]:
        raise ValueError(
            f"linear: weight must have shape (O, I) to go with x {tuple(x.shape)}, got {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"linear: bias must have shape (O,) = ({weight.shape[0]},), got {tuple(bias.shape)}")
    if (torch.is_grad_enabled() and any(i.requires_grad for i in inputs)) or forward_ad._current_level >= 0:
        result: Tensor = applied(_Linear, x, weight, bias)
        return result
    return linear_fwd(LinearForward(x, weight, bias))


class _Linear(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return linear_fwd(LinearForward(x, weight, bias))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @one_by_one
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        with torch.no_grad():
            gradients = iter(linear_bwd(LinearBackward(dy, x, weight, list(ctx.needs_input_grad))))
        of_inputs = [next(gradients) if need else None for need in ctx.needs_input_grad]
        return tuple(differentiable(_again, of_inputs, (x, weight, bias), (), (dy,)))


def _again(inputs: Sequence[Any], constants: Sequence[Any]) -> list[Tensor]:
    return [torch.nn.functional.linear(*inputs)]


class LinearForward(NamedTuple):
    """The arguments of the forward op, which returns y."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None


class LinearBackward(NamedTuple):
    """The arguments of the backward op, which returns the requested gradients of x, weight and bias."""

    dy: Tensor
    x: Tensor
    weight: Tensor
    need: Sequence[bool]


def _lines(x: Tensor) -> Tensor:
    return contiguous(x).view(math.prod(x.shape[:-1]), x.shape[-1])


def _forward(call: LinearForward) -> Tensor:
    x, weight, bias = call
    result: Tensor | None = _core.dense.product_of_tensors(x, weight, bias)
    if result is not None:
        return result
    lines, weight = _lines(x), contiguous(weight)
    if bias is not None:
        bias = contiguous(bias.float() if bias.dtype == torch.bfloat16 else bias)
    y = _output(call)
    (rows, inputs), outputs = lines.shape, weight.shape[0]
    _GEMM[x.dtype](rows, outputs, inputs, lines, inputs, 1, weight, 1, inputs, bias, y)
    return y


def _backward(call: LinearBackward) -> list[Tensor]:
    dy, x, weight, need = call
    result: list[Tensor] | None = _core.dense.gradients_of_tensors(contiguous(dy), x, weight, *need)
    if result is not None:
        return result
    lines, weight, dlines = _lines(x), contiguous(weight), _lines(dy)
    (rows, inputs), outputs = lines.shape, weight.shape[0]
    gemm = _GEMM[x.dtype]
    gradients = _gradients(call)
    left = iter(gradients)
    if need[0]:
        gemm(rows, inputs, outputs, dlines, outputs, 1, weight, inputs, 1, None, next(left))
    if need[1]:
        gemm(outputs, inputs, rows, dlines, 1, outputs, lines, inputs, 1, None, next(left))
    if need[2]:
        _COLUMN_SUMS[x.dtype](dlines, rows, outputs, next(left))
    return gradients


def _output(call: LinearForward) -> Tensor:
    return empty(call.x, (*call.x.shape[:-1], call.weight.shape[0]))


def _gradients(call: LinearBackward) -> list[Tensor]:
    shapes = (call.x.shape, call.weight.shape, call.weight.shape[:1])
    return [empty(call.x, shape) for shape, wanted in zip(shapes, call.need, strict=True) if wanted]


def _forward_torch(call: LinearForward) -> Tensor:
    with _in_its_dtype(call.x):
        return torch.nn.functional.linear(*call).contiguous()


def _backward_torch(call: LinearBackward) -> list[Tensor]:
    dy, x, weight, need = call
    lines, gradients = _lines(dy), []
    with _in_its_dtype(x):
        if need[0]:
            gradients.append((lines @ weight).view(x.shape))
        if need[1]:
            gradients.append(lines.t() @ _lines(x))
        if need[2]:
            gradients.append(lines.sum(0))
    return gradients


def _in_its_dtype(x: Tensor) -> torch.autocast:
    """Disable autocast, as the forward pass has already determined the dtypes, also for the backward pass."""
    return torch.autocast(x.device.type, enabled=False)


linear_fwd = Op("_linear_fwd", LinearForward, _forward, _output)
linear_bwd = Op("_linear_bwd", LinearBackward, _backward, _gradients)
linear_fwd.on_cuda(_forward_torch)
linear_bwd.on_cuda(_backward_torch)
