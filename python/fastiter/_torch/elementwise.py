"""Functions of single numbers on tensors, with results that do not depend on an element's place.

torch's own functions round whole vectors and the elements that remain after the last one differently, so that a row
would have other bits alone than in a batch, or with another number of threads. The kernels' functions have the same
bits everywhere. On a GPU, where each element goes through the same operations, torch's functions are used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from .. import _core
from .autograd import applied, one_by_one
from .op import Op
from .ops import exports_to_onnx

#: The numbering of csrc/core/cpu/kernels.hpp
_EXP, _SIGMOID, _SOFTPLUS = range(3)
_OF_TORCH: dict[int, Callable[[Tensor], Tensor]] = {
    _EXP: torch.exp,
    _SIGMOID: torch.sigmoid,
    _SOFTPLUS: torch.nn.functional.softplus,
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


def gated(y: Tensor, z: Tensor) -> Tensor:
    """Return y z sigmoid(z), a product with SiLU, for y and z of one shape in float32 or float64."""
    if not y.is_cpu or exports_to_onnx():
        return y * torch.nn.functional.silu(z)
    has_tangents = forward_ad._current_level >= 0
    if has_tangents or (torch.is_grad_enabled() and (y.requires_grad or z.requires_grad)):
        result: Tensor = _GateWithTangents.apply(y, z) if has_tangents else applied(_Gate, y, z)
        return result
    return gate_fwd(GateForward(y, z))


def _apply(x: Tensor, function: int) -> Tensor:
    if not x.is_cpu or exports_to_onnx():
        return _OF_TORCH[function](x)
    has_tangents = forward_ad._current_level >= 0
    if has_tangents or (torch.is_grad_enabled() and x.requires_grad):
        result: Tensor = _WithTangents.apply(x, function) if has_tangents else applied(_Elementwise, x, function)
        return result
    return elementwise_fwd(ElementwiseForward(x, function))


# ---- Derivatives, any number of times: with create_graph, gradients are composed of these functions again -----------


class _Elementwise(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, function: int) -> Tensor:
        return elementwise_fwd(ElementwiseForward(x, function))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.function = inputs
        saved = x if ctx.function == _SOFTPLUS else output
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
    return saved * (1 - saved) if function == _SIGMOID else sigmoid(saved).masked_fill(saved > 20, 1)


class _Gate(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, z: Tensor) -> Tensor:
        return gate_fwd(GateForward(y, z))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    @one_by_one
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, ...]:
        y, z = ctx.saved_tensors
        if torch.is_grad_enabled() and not is_compiling():
            return gated(d, z), d * y * _slope_of_silu(z)
        return tuple(gate_bwd(GateBackward(y, z, d)))


class _GateWithTangents(_Gate):
    """The same with forward-mode derivatives."""

    @staticmethod
    def jvp(ctx: Any, dy: Tensor, dz: Tensor) -> Tensor:
        y, z = ctx.saved_tensors
        return gated(dy, z) + dz * y * _slope_of_silu(z)


def _slope_of_silu(z: Tensor) -> Tensor:
    s = sigmoid(z)
    return s * (1 + z * (1 - s))


# ---- Ops ------------------------------------------------------------------------------------------------------------


class ElementwiseForward(NamedTuple):
    """The arguments of an op that returns f(x)."""

    x: Tensor
    function: int


class ElementwiseBackward(NamedTuple):
    """The arguments of an op that returns dy f'(x) from f(x), for exp and sigmoid, or x."""

    saved: Tensor
    dy: Tensor
    function: int


class GateForward(NamedTuple):
    """The arguments of an op that returns y z sigmoid(z)."""

    y: Tensor
    z: Tensor


class GateBackward(NamedTuple):
    """The arguments of an op that returns the gradients of y and z from d, that of the result."""

    y: Tensor
    z: Tensor
    d: Tensor


def _like(x: Tensor) -> Tensor:
    return x.new_empty(x.shape) if x.is_contiguous() else torch.empty_like(x)


def _in_order(kernel: Callable[..., Any], *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return results in the memory order of the first tensor, for tensors that the kernel cannot read as they are."""
    shape, strides = tensors[0].shape, _like(tensors[0].to("meta")).stride()
    order = sorted(range(len(shape)), key=lambda axis: -strides[axis])
    flat = kernel(*[x.resolve_neg().permute(order).reshape(-1).contiguous() for x in tensors])
    # set_ instead of a view, as views that autograd functions return cannot be changed in place
    parts = flat if isinstance(flat, tuple) else (flat,)
    return tuple(x.new_empty(0).set_(x.untyped_storage(), 0, shape, strides) for x in parts)


# The kernels return None for tensors that they cannot read.


def _forward(call: ElementwiseForward) -> Tensor:
    x, function = call
    result: Tensor | None = _core.apply_to_tensor(function, x)
    return _in_order(partial(_core.apply_to_tensor, function), x)[0] if result is None else result


def _forward_like(call: ElementwiseForward) -> Tensor:
    return _like(call.x)


def _backward(call: ElementwiseBackward) -> Tensor:
    saved, dy, function = call
    result: Tensor | None = _core.gradient_of_tensor(function, saved, dy)
    return _in_order(partial(_core.gradient_of_tensor, function), saved, dy)[0] if result is None else result


def _backward_like(call: ElementwiseBackward) -> Tensor:
    return _like(call.saved)


def _gate(call: GateForward) -> Tensor:
    result: Tensor | None = _core.gate_tensors(*call)
    return _in_order(_core.gate_tensors, *call)[0] if result is None else result


def _gate_like(call: GateForward) -> Tensor:
    return _like(call.y)


def _gate_gradients(call: GateBackward) -> list[Tensor]:
    result = _core.gate_gradient_of_tensors(*call)
    return list(_in_order(_core.gate_gradient_of_tensors, *call) if result is None else result)


def _gate_gradients_like(call: GateBackward) -> list[Tensor]:
    return [_like(call.y), _like(call.y)]


elementwise_fwd = Op("_elementwise_fwd", ElementwiseForward, _forward, _forward_like)
elementwise_bwd = Op("_elementwise_bwd", ElementwiseBackward, _backward, _backward_like)
gate_fwd = Op("_gate_fwd", GateForward, _gate, _gate_like)
gate_bwd = Op("_gate_bwd", GateBackward, _gate_gradients, _gate_gradients_like)
