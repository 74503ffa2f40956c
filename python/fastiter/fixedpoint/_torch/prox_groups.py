"""The compiled proximal operators as an op, with their derivatives.

The Jacobian of a proximal operator is symmetric, so that one function serves backward and forward mode:

    simplex          the differences from the mean, of the numbers above the threshold
    l1_ball          the same with the signs of x; outside of the ball
    softmax_entropy  diag(g) - g g^T / sum g,  g = x / (a + (1 - a) x)
    entropy          diag(x / (x + a))

It is composed of torch's operations on the result, so that it can be differentiated again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ... import _core
from ..._torch.autograd import one_by_one
from ..._torch.op import Op
from ..._torch.ops import contiguous, empty
from .._prox.groups import KINDS, layout
from . import prox_plain


class Prox(NamedTuple):
    """A call of the op: the operator's number, its parameter, and the axis of the groups."""

    y: Tensor
    kind: int
    parameter: float
    axis: int


def _prox(call: Prox) -> Tensor:
    y = contiguous(call.y.detach())
    out = empty(y, y.shape)
    shape = layout(tuple(y.shape), call.axis)
    _core.fixedpoint.prox(call.kind, y.element_size() * 8, shape, call.parameter, y, out)
    return out


def _prox_fake(call: Prox) -> Tensor:
    return torch.empty(call.y.shape, dtype=call.y.dtype, device=call.y.device)


def _plain(call: Prox) -> Tensor:
    return prox_plain.along(*call)


_OP = Op("_fixedpoint_prox", Prox, _prox, _prox_fake)
_OP.on_cuda(_plain)


def _derivative(kind: int, x: Tensor, parameter: float, axis: int, outside: Tensor, d: Tensor) -> Tensor:
    """Return the Jacobian times d; outside: 1 in groups outside of the ball, else 0."""
    if kind == KINDS["entropy"]:
        x = x.clamp(max=torch.finfo(x.dtype).max / 4)  # inf / inf is NaN; the parameter is at most 1e30
        return d * (x / (x + parameter))
    if kind == KINDS["softmax_entropy"]:
        g = x / (parameter + (1 - parameter) * x)
        gradient = g * d
        return gradient - g * (gradient.sum(axis, keepdim=True) / g.sum(axis, keepdim=True))
    constant = x.detach()
    sign = constant.sign()
    count = (sign * sign).sum(axis, keepdim=True).clamp(min=1)
    gradient = sign * d
    projected = sign * (gradient - (sign * sign) * (gradient.sum(axis, keepdim=True) / count))
    return torch.where(outside, projected, d) + 0 * constant  # NaN where x is


class _Prox(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, kind: int, parameter: float, axis: int) -> tuple[Tensor, Tensor]:
        x = _OP(Prox(y, kind, parameter, axis))
        if kind == KINDS["l1_ball"]:
            return x, (x != y).any(axis, keepdim=True)
        return x, torch.ones((), dtype=torch.bool, device=y.device)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, ctx.kind, ctx.parameter, ctx.axis = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output)
        ctx.save_for_forward(*output)

    @staticmethod
    @one_by_one
    def backward(ctx: Any, d: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        x, outside = ctx.saved_tensors
        return _derivative(ctx.kind, x, ctx.parameter, ctx.axis, outside, d), None, None, None


class _ProxBothWays(_Prox):
    """The same with forward mode, which Dynamo cannot trace."""

    @staticmethod
    def jvp(ctx: Any, d: Tensor, *_: Any) -> tuple[Tensor, None]:
        x, outside = ctx.saved_tensors
        return _derivative(ctx.kind, x, ctx.parameter, ctx.axis, outside, d), None


def run(name: str, y: Tensor, parameter: float, axis: int) -> Tensor:
    """Return an operator of the groups along an axis, differentiable to any order."""
    function = _Prox if is_compiling() else _ProxBothWays
    x: Tensor = function.apply(y, KINDS[name], parameter, axis)[0]
    return x
