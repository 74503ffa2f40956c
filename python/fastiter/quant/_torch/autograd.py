"""Straight-through gradients as nodes of autograd."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..._check import type_name
from ..._torch.autograd import differentiable_once
from ..._torch.ops import refuse_transforms
from .._check import check_nan
from .arguments import Rng, checked_seed, facts, largest_scale, number_or_tensor
from .ops import Quantize, Step, quantize_op, step_op
from .ops_backward import QuantizeBackward, quantize_bwd


class Options(NamedTuple):
    """Options of rounding. is_point: the scale is 2^-point; factor: multiplies the gradient of scale or point."""

    function: str
    text: str
    zero_point: Tensor | None
    axis: int
    seed: Tensor | None
    refuse_nan: bool
    nan: float | None
    clip: bool
    is_point: bool = False
    factor: float = 1.0


def checked_options(
    function: str,
    x: Tensor,
    text: str,
    zero_point: int | Tensor | None,
    axis: int,
    rng: Rng,
    nan: str | float,
    ste: str,
    can_keep: bool = True,
) -> Options:
    """Check the arguments common to all functions and return them."""
    refuse, stands_for = check_nan(function, nan, can_keep)
    zero = None if zero_point is None else number_or_tensor(function, "zero_point", zero_point, x, floats=False)
    if not isinstance(ste, str):
        raise TypeError(f"{function}: ste must be a str, got {type_name(ste)}")
    if ste not in ("clip", "pass"):
        raise ValueError(f"{function}: ste must be 'clip' or 'pass', got {ste!r}")
    needs_seed = facts(text).stochastic
    seed = checked_seed(function, rng, x, needs_seed) if needs_seed or rng is not None else None
    missing = isinstance(stands_for, float) and math.isnan(stands_for)
    return Options(function, text, zero, axis, seed, refuse, None if missing else stands_for, ste == "clip")


def apply(x: Tensor, parameter: Tensor | None, options: Options) -> Tensor:
    """Return x rounded; ``parameter``: the scale or the binary point, or None."""
    refuse_transforms(options.function)
    if torch.is_grad_enabled() and (x.requires_grad or (parameter is not None and parameter.requires_grad)):
        result: Tensor = Rounded.apply(x, parameter, *options)
        return result
    if forward_ad._current_level >= 0:  # Rounded refuses forward-mode gradients
        return Rounded.apply(x, parameter, *options)
    return _forward(x, parameter, options)[0]


def _forward(x: Tensor, parameter: Tensor | None, options: Options) -> tuple[Tensor, Tensor | None]:
    """Return y, and the scale."""
    scale = step_op(Step(parameter, options.function)) if options.is_point and parameter is not None else parameter
    own = (options.zero_point, options.axis, options.seed, options.function, options.refuse_nan, options.nan)
    return quantize_op(Quantize(x, options.text, scale, *own)), scale


class Rounded(torch.autograd.Function):
    """Map (x, scale or point, fields of Options) to y, with straight-through gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, parameter: Tensor | None, *fields: Any) -> Tensor:
        options = Options(*fields)
        y, scale = _forward(x, parameter, options)
        learns = parameter is not None and parameter.requires_grad
        ctx.save_for_backward(x, y if learns else None, scale, options.zero_point)
        ctx.text, ctx.clip, ctx.learns, ctx.is_point, ctx.factor = (
            options.text,
            options.clip,
            learns,
            options.is_point,
            options.factor,
        )
        ctx.dtype = None if parameter is None else parameter.dtype
        ctx.function = options.function
        return y

    @staticmethod
    @differentiable_once(lambda ctx: ctx.function)
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, zero_point = ctx.saved_tensors
        y = x if y is None else y
        dx, *rest = quantize_bwd(QuantizeBackward(dy, x, y, ctx.text, scale, zero_point, ctx.clip, ctx.learns))
        dparameter = None
        if rest:  # the sum of dy (y - x) in range and dy y out of range
            wide = rest[0] * (-math.log(2.0) * ctx.factor if ctx.is_point else ctx.factor)
            dparameter = (wide if ctx.is_point else wide / scale).to(ctx.dtype)
        return (dx, dparameter, *[None] * 10)


class Pact(torch.autograd.Function):
    """Clip x to 0 .. alpha, then round to ``steps`` + 1 uniform levels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, text: str, steps: int, seed: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, alpha)
        scale = alpha.detach().to(torch.promote_types(x.dtype, torch.float32)) / steps
        return quantize_op(Quantize(x, text, scale, None, -1, seed, "pact", False, None))

    @staticmethod
    @differentiable_once("pact")
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, alpha = ctx.saved_tensors
        above = x >= alpha
        dx = torch.where((x >= 0) & ~above, dy, 0)
        wide = torch.promote_types(x.dtype, torch.float32)
        dalpha = torch.where(above, dy, 0).sum(dtype=wide).reshape(alpha.shape).to(alpha.dtype)
        return dx, dalpha, None, None, None


class RoundedGradient(torch.autograd.Function):
    """Return x; its gradient is rounded."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, text: str, scale: Tensor | None, by_largest: bool, axis: int, seed: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(scale, seed)
        ctx.text, ctx.by_largest, ctx.axis = text, by_largest, axis
        return x.view_as(x)

    @staticmethod
    @differentiable_once("quantize_gradient")
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        scale, seed = ctx.saved_tensors
        if ctx.by_largest:
            scale = largest_scale("quantize_gradient", dy, ctx.text)
        call = Quantize(dy, ctx.text, scale, None, ctx.axis, seed, "quantize_gradient", False, None)
        return quantize_op(call), None, None, None, None, None
