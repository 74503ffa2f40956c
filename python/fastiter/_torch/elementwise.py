"""Functions of single numbers on tensors, with results that do not depend on an element's place.

torch's own functions round whole vectors and the elements that remain after the last one differently, so that a row
would have other bits alone than in a batch, or with another number of threads. The kernels' functions have the same
bits everywhere. On a GPU, where each element goes through the same operations, torch's functions are used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from .. import _core
from .autograd import applied, one_by_one
from .op import Op
from .ops import empty, exports_to_onnx

_APPLY = {torch.float32: _core.apply_f32, torch.float64: _core.apply_f64}
_APPLY_GRADIENT = {torch.float32: _core.apply_gradient_f32, torch.float64: _core.apply_gradient_f64}
#: The numbering of csrc/core/cpu/kernels.hpp
_EXP, _SIGMOID, _SOFTPLUS, _SILU = range(4)
_OF_TORCH: dict[int, Callable[[Tensor], Tensor]] = {
    _EXP: torch.exp,
    _SIGMOID: torch.sigmoid,
    _SOFTPLUS: torch.nn.functional.softplus,
    _SILU: torch.nn.functional.silu,
}


def exp(x: Tensor) -> Tensor:
    """Return e^x for x in float32 or float64."""
    return _apply(x, _EXP)


def sigmoid(x: Tensor) -> Tensor:
    """Return 1 / (1 + e^-x) for x in float32 or float64."""
    return _apply(x, _SIGMOID)


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + e^x), above 20 x itself, as in torch, for x in float32 or float64."""
    return _apply(x, _SOFTPLUS)


def silu(x: Tensor) -> Tensor:
    """Return x sigmoid(x) for x in float32 or float64."""
    return _apply(x, _SILU)


def _apply(x: Tensor, function: int) -> Tensor:
    if not x.is_cpu or exports_to_onnx():
        return _OF_TORCH[function](x)
    has_tangents = forward_ad._current_level >= 0
    if has_tangents or (torch.is_grad_enabled() and x.requires_grad):
        result: Tensor = _WithTangents.apply(x, function) if has_tangents else applied(_Elementwise, x, function)
        return result
    return elementwise_fwd(ElementwiseForward(x, function))


class _Elementwise(torch.autograd.Function):
    """Any number of derivatives: with ``create_graph`` the gradient is composed of these functions again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, function: int) -> Tensor:
        return elementwise_fwd(ElementwiseForward(x, function))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.function = inputs
        saved = output if ctx.function in (_EXP, _SIGMOID) else x
        ctx.save_for_backward(saved)
        ctx.save_for_forward(saved)

    @staticmethod
    @one_by_one
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (saved,) = ctx.saved_tensors
        if torch.is_grad_enabled() and not is_compiling():
            return dy * _slope(saved, ctx.function), None
        return elementwise_bwd(ElementwiseBackward(saved, dy, ctx.function)), None


class _WithTangents(_Elementwise):
    """The same with forward-mode derivatives, which torch.compile does not support in any autograd function."""

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, _: None) -> Tensor:
        return dx * _slope(ctx.saved_tensors[0], ctx.function)


def _slope(saved: Tensor, function: int) -> Tensor:
    """Return the derivative, from the result for exp and sigmoid, else from x."""
    if function == _EXP:
        return saved
    if function == _SIGMOID:
        return saved * (1 - saved)
    s = sigmoid(saved)
    return s.masked_fill(saved > 20, 1) if function == _SOFTPLUS else s * (1 + saved * (1 - s))


class ElementwiseForward(NamedTuple):
    """The arguments of the forward op, which returns f(x), with the strides of x if x is dense."""

    x: Tensor
    function: int


class ElementwiseBackward(NamedTuple):
    """The arguments of the backward op, which returns dy f'(x) from f(x), for exp and sigmoid, or x."""

    saved: Tensor
    dy: Tensor
    function: int


def _like(x: Tensor) -> Tensor:
    return empty(x, x.shape) if x.is_contiguous() else torch.empty_like(x)


def _forward(call: ElementwiseForward) -> Tensor:
    made: Tensor | None = _core.apply_to_tensor(call.function, call.x)
    if made is not None:
        return made
    x, y = call.x, _like(call.x)
    if x.stride() != y.stride() or x.is_neg():
        x = y.copy_(x)
    _APPLY[x.dtype](call.function, x, y, y.numel())
    return y


def _backward(call: ElementwiseBackward) -> Tensor:
    made: Tensor | None = _core.gradient_of_tensor(call.function, call.saved, call.dy)
    if made is not None:
        return made
    saved, dx = call.saved, _like(call.saved)
    dy = call.dy if call.dy.stride() == dx.stride() and not call.dy.is_neg() else dx.copy_(call.dy)
    if saved.stride() != dx.stride() or saved.is_neg():
        saved = torch.empty_like(dx).copy_(saved)
    _APPLY_GRADIENT[dx.dtype](call.function, saved, dy, dx, dx.numel())
    return dx


def _result(call: ElementwiseForward) -> Tensor:
    return _like(call.x)


def _gradient(call: ElementwiseBackward) -> Tensor:
    return _like(call.saved)


elementwise_fwd = Op("_elementwise_fwd", ElementwiseForward, _forward, _result)
elementwise_bwd = Op("_elementwise_bwd", ElementwiseBackward, _backward, _gradient)
