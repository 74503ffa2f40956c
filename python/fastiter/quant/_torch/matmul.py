"""Products with a rounded accumulator, as in hardware; the gradient is that of the exact product."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ..._torch.autograd import differentiable_once
from ..._torch.op import Op
from ..._torch.ops import refuse_transforms
from .. import Fixed, quant_matmul
from .ops import read

Array = npt.NDArray[Any]

#: Maximum bits of both factors together, the width of a product
_MAX_BITS = 64


class QuantLinear(NamedTuple):
    """A call of the op that returns the product x weight^T + bias with a rounded accumulator."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    accumulate: str
    every: int


def check_finite(name: str, is_finite: bool) -> None:
    """Check that a factor is finite, for a fixed-point accumulator."""
    if not is_finite:
        raise ValueError(f"linear: {name} must be finite for an accumulator in fixed point, got NaN or infinity")


def check_bits(name: str, bits: int) -> int:
    """Check that a factor's integers leave bits for the other factor."""
    if bits >= _MAX_BITS:
        raise ValueError(f"linear: {name} must be rounded to at most {_MAX_BITS} bits with weights, got {bits} bits")
    return bits


def check_together(of_x: int, of_weight: int) -> None:
    """Check that the products of integers of these widths fit into _MOST_BITS bits."""
    if of_x + of_weight > _MAX_BITS:
        got = f"{of_x} and {of_weight} bits"
        raise ValueError(f"linear: x and weight must be rounded to at most {_MAX_BITS} bits together, got {got}")


def check_float32(name: str, is_exact: bool) -> None:
    """Check that a factor is exact in float32, for a floating-point accumulator."""
    if not is_exact:
        raise ValueError(f"linear: {name} must be numbers of float32 for an accumulator in floating point, got others")


def _codes(name: str, x: Array) -> tuple[Array, Fixed]:
    """Return floats as integers times one common power of two, and the format of these integers.

    Products are exact, so the result depends only on the numbers, not on the formats that they were rounded to.
    """
    check_finite(name, bool(np.isfinite(x).all()))
    significand, exponent = np.frexp(x)
    whole = np.ldexp(significand, 53).astype(np.int64)
    some = whole != 0
    if not some.any():
        return np.zeros(x.shape, np.int64), Fixed(2, 2)
    lowest_bit = np.frexp((whole & -whole).astype(np.float64))[1] - 1
    lowest = int((exponent - 53 + lowest_bit)[some].min())
    codes = np.ldexp(x, -lowest)
    bits = check_bits(name, int(np.frexp(np.abs(codes).max())[1]) + 1)
    return codes.astype(np.int64), Fixed(bits, bits + lowest)


def _in_float32(name: str, x: Array) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore", under="ignore"):
        narrow = x.astype(np.float32)
    check_float32(name, x.dtype == np.float32 or np.array_equal(narrow, x, equal_nan=True))
    return narrow


def _linear(call: QuantLinear) -> Tensor:
    x, weight, bias, accumulate, every = call
    acc, wide = read(accumulate), torch.promote_types(x.dtype, torch.float32)
    a, w = (t.detach().to(wide).resolve_neg().numpy() for t in (x.flatten(0, -2), weight))
    if bias is not None:  # the accumulator starts from the bias, as a first product
        start = bias.detach().to(wide).resolve_neg().numpy()
        a, w = np.insert(a, 0, 1.0, axis=1), np.concatenate([start[:, None], w], axis=1)
    if isinstance(acc, Fixed):
        (codes, of_x), (weights, of_weight) = _codes("x", a.astype(np.float64)), _codes("weight", w.astype(np.float64))
        check_together(of_x.width, of_weight.width)
        y = quant_matmul(codes, weights.T, of_x, of_weight, acc, every)
    else:
        y = quant_matmul(_in_float32("x", a), _in_float32("weight", w).T, "fp32", "fp32", acc, every)
    return torch.from_numpy(y).to(x.dtype).reshape(*x.shape[:-1], weight.shape[0])


def _linear_fake(call: QuantLinear) -> Tensor:
    return call.x.new_empty((*call.x.shape[:-1], call.weight.shape[0]))


linear_op = Op("_quant_linear", QuantLinear, _linear, _linear_fake)


class Accumulated(torch.autograd.Function):
    """Map (x, weight, bias) to the product with a rounded accumulator; backward: gradient of the exact product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, accumulate: str, every: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return linear_op(QuantLinear(x, weight, bias, accumulate, every))

    @staticmethod
    @differentiable_once("linear")
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = dy.flatten(0, -2)
        dbias = rows.sum(0) if ctx.has_bias else None
        return dy @ weight, rows.t() @ x.flatten(0, -2), dbias, None, None


def accumulated(x: Tensor, weight: Tensor, bias: Tensor | None, accumulate: str, every: int) -> Tensor:
    """Return the product (..., N) with a rounded accumulator; its gradient is that of the exact product."""
    refuse_transforms("linear")
    result: Tensor = Accumulated.apply(x, weight, bias, accumulate, every)
    return result


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    accumulate: str,
    every: int,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Tensor:
    """Return the convolution of (B, C, H, W) or (C, H, W); each output sums over (c, r, s) in order, s fastest."""
    images = x if x.dim() == 4 else x.unsqueeze(0)
    columns = F.unfold(images, weight.shape[2:], dilation, padding, stride).transpose(1, 2)
    parts = [None] * groups if bias is None else bias.chunk(groups)
    outs = [
        accumulated(c, w.flatten(1), b, accumulate, every)
        for c, w, b in zip(columns.chunk(groups, -1), weight.chunk(groups), parts, strict=True)
    ]
    sizes = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(images.shape[2:], padding, dilation, weight.shape[2:], stride, strict=True)
    ]
    y = torch.cat(outs, -1).transpose(1, 2).unflatten(-1, sizes)
    return y if x.dim() == 4 else y.squeeze(0)
