"""Layers as steps of an exported network: each function adds a layer's steps and returns its output value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ... import Fixed
from ..._fixed.growth import Shape, product_format, sum_format
from ..nn.elementwise import QuantAdd, QuantAffine
from ..nn.format_quantizers import GradientQuantizer
from ..nn.layers import QuantBatchNorm1d, QuantBatchNorm2d, QuantConv2d, QuantLayer, QuantLinear
from ..nn.quantizer import Quantizer
from .formats import Constant, Step, Value, activation_format, check_bits, check_exact, constant, grown, holding, refuse


@dataclass
class Builder:
    """The steps so far, and the rounded parameters that a run of the network recorded."""

    dtype: torch.dtype
    rounded: dict[nn.Module, Tensor]  # outputs of the parameters' quantizers
    steps: list[Step] = field(default_factory=list)

    def add(self, step: Step) -> Value:
        self.steps.append(step)
        return step.output

    def cast(self, name: str, layer: str, x: Value, quantizer: Quantizer | None) -> Value:
        """Round, if there is a quantizer."""
        if quantizer is None or isinstance(quantizer, GradientQuantizer):
            return x
        fmt = activation_format(layer, quantizer)
        y = Value(name, fmt, x.shape)
        check_exact(layer, y.largest, fmt.fraction, self.dtype)
        check_bits(layer, x.fmt.width + max(0, fmt.fraction - x.fmt.fraction))
        return self.add(Step("cast", layer, (x,), y))

    def constant(self, name: str, layer: str, module: QuantLayer, what: str) -> Constant:
        quantizer = getattr(module, f"{what}_quantizer")
        if quantizer is None:
            refuse(layer, f"have a format for its {what}", f"a {type(module).__name__} that leaves it in float")
        return constant(name, what, layer, quantizer, self.rounded[quantizer])


@dataclass(frozen=True)
class Call:
    """A call of a module: the C name, the module's name, the module, the inputs, and the output's shape."""

    name: str
    layer: str
    module: nn.Module
    inputs: tuple[Value, ...]
    shape: tuple[int, ...]


def check_kind(layer: str, module: nn.Module) -> None:
    """Check that a module's type can be exported; subclasses are refused, as their changes would be lost."""
    if not isinstance(module, Quantizer) and type(module) not in _MAKERS:
        hint = f" (quantize_model makes a Quant{type(module).__name__} of it)" if type(module) in _FLOAT else ""
        refuse(layer, "be a layer that can be exported", f"{type(module).__name__}{hint}")


def add_call(builder: Builder, call: Call) -> Value:
    """Add the steps of a call."""
    module, name, layer = call.module, call.name, call.layer
    if isinstance(module, Quantizer):
        return builder.cast(name, layer, call.inputs[0], module)
    make = _MAKERS[type(module)]
    if not isinstance(module, QuantLayer):
        return make(builder, call)
    quantizers = [module.input_quantizer, getattr(module, "other_quantizer", None)]
    inputs = tuple(
        builder.cast(f"{name}_{what}", layer, x, quantizer)
        for x, quantizer, what in zip(call.inputs, quantizers, ("input", "other"), strict=False)
    )
    y = make(builder, Call(name, layer, module, inputs, call.shape))
    return builder.cast(f"{name}_output", layer, y, module.output_quantizer)


# ---- products -------------------------------------------------------------------------------------------------------


def _product(builder: Builder, call: Call, kind: str, sizes: dict[str, int]) -> Value:
    """Add a layer whose outputs are sums of products over the trailing axes of its weights, plus a bias."""
    module: Any = call.module
    (x,) = call.inputs
    constants = {"weight": builder.constant(call.name, call.layer, module, "weight")}
    weight = constants["weight"]
    product = product_format(x.fmt, weight.fmt)
    check_bits(call.layer, product.width)
    fraction = product.width - product.integer
    has_bias = module.bias_quantizer is not None or module.bias is not None
    if has_bias:
        constants["bias"] = builder.constant(call.name, call.layer, module, "bias")
        fraction = max(fraction, constants["bias"].fmt.fraction)
    largest = _largest(x, weight, constants.get("bias"), fraction)
    accumulator, every = module.plan.accumulator, module.plan.accumulate_every
    if accumulator is None or kind == "affine":
        check_exact(call.layer, largest, fraction, builder.dtype)
        total = result = holding(call.layer, largest, fraction)
        every = 1
    elif isinstance(accumulator, Fixed):
        total = result = accumulator
        y = Value(call.name, result, call.shape)
        check_exact(call.layer, y.largest, result.fraction, builder.dtype)
        if every > 1:  # the largest unrounded sum: the accumulator plus all products
            fraction = max(fraction, result.fraction)
            top = (y.largest << (fraction - result.fraction)) + _largest(x, weight, constants.get("bias"), fraction)
            total = holding(call.layer, top, fraction)
    else:
        refuse(call.layer, "have an accumulator in fixed point", str(accumulator))
    terms: list[Shape] = [product] + [constant.fmt for what, constant in constants.items() if what == "bias"]
    for term in terms:
        check_bits(call.layer, sum_format(total, term).width)
    y = Value(call.name, result, call.shape)
    return builder.add(Step(kind, call.layer, (x,), y, constants, sizes, total, every))


def _largest(x: Value, weight: Constant, bias: Constant | None, fraction: int) -> int:
    """Return a bound of all partial sums of products and bias, as a code with ``fraction`` bits after the point."""
    rows = np.abs(weight.codes).reshape(len(weight.codes), -1).astype(object).sum(1)
    sums = rows * (x.largest << (fraction - x.fmt.fraction - weight.fmt.fraction))
    if bias is not None:
        sums = sums + np.abs(bias.codes).astype(object) * (1 << (fraction - bias.fmt.fraction))
    return int(max(sums, default=0))


def _linear(builder: Builder, call: Call) -> Value:
    module: Any = call.module
    sizes = {"rows": math.prod(call.shape[:-1]), "outputs": module.out_features, "features": module.in_features}
    return _product(builder, call, "linear", sizes)


def _conv2d(builder: Builder, call: Call) -> Value:
    module: Any = call.module
    if module.padding_mode != "zeros":
        refuse(call.layer, "pad with zeros", f"padding_mode={module.padding_mode!r}")
    if len(call.shape) != 3:
        refuse(call.layer, "be called with batches of images", f"a shape of {len(call.shape)} axes for one sample")
    left, _, top, _ = module._reversed_padding_repeated_twice
    if not isinstance(module.padding, str):
        top, left = module.padding
    sizes = {
        **_plane(call, module.kernel_size, module.stride, (top, left), module.dilation),
        "outputs": module.out_channels,
        "groups": module.groups,
    }
    return _product(builder, call, "conv2d", sizes)


def _plane(call: Call, kernel: Any, stride: Any, padding: Any, dilation: Any) -> dict[str, int]:
    (x,) = call.inputs
    names = ("channels", "height", "width")
    sizes = dict(zip(names, x.shape, strict=True)) | dict(zip(("rows", "columns"), call.shape[1:], strict=True))
    for what, value in (("kernel", kernel), ("stride", stride), ("padding", padding), ("dilation", dilation)):
        sizes[f"{what}_y"], sizes[f"{what}_x"] = (value, value) if isinstance(value, int) else value
    return sizes


def _norm(builder: Builder, call: Call) -> Value:
    module: Any = call.module
    if module.running_mean is None:
        refuse(call.layer, "have running statistics", "track_running_stats=False")
    (x,) = call.inputs
    sizes = {"outer": 1, "channels": x.shape[0], "inner": math.prod(x.shape[1:])}
    if module.bias_quantizer is None:
        refuse(call.layer, "have a format for its bias", f"a {type(module).__name__} that leaves it in float")
    return _product(builder, call, "affine", sizes)


def _affine(builder: Builder, call: Call) -> Value:
    (x,) = call.inputs
    sizes = {"outer": math.prod(x.shape[:-1]), "channels": x.shape[-1], "inner": 1}
    return _product(builder, call, "affine", sizes)


# ---- the rest -------------------------------------------------------------------------------------------------------


def _add(builder: Builder, call: Call) -> Value:
    a, b = call.inputs
    if a.shape != b.shape:
        refuse(call.layer, "add arrays of one shape", f"{a.shape} and {b.shape}")
    fmt = grown(call.layer, sum_format(a.fmt, b.fmt))
    y = Value(call.name, fmt, a.shape)
    bound = sum(v.largest << (fmt.fraction - v.fmt.fraction) for v in (a, b))
    check_exact(call.layer, bound, fmt.fraction, builder.dtype)
    return builder.add(Step("add", call.layer, (a, b), y))


def _same(builder: Builder, call: Call) -> Value:
    return call.inputs[0]


def _relu(builder: Builder, call: Call) -> Value:
    (x,) = call.inputs
    return builder.add(Step("relu", call.layer, (x,), Value(call.name, x.fmt, x.shape)))


def _flatten(builder: Builder, call: Call) -> Value:
    module: Any = call.module
    if module.start_dim != 1 or module.end_dim != -1:
        got = f"Flatten({module.start_dim}, {module.end_dim})"
        refuse(call.layer, "flatten all axes but the first", got)
    return Value(call.inputs[0].name, call.inputs[0].fmt, call.shape)


def _max_pool(builder: Builder, call: Call) -> Value:
    module: Any = call.module
    if module.return_indices:
        refuse(call.layer, "return its values alone", "return_indices=True")
    (x,) = call.inputs
    sizes = _plane(call, module.kernel_size, module.stride, module.padding, module.dilation)
    return builder.add(Step("max_pool", call.layer, (x,), Value(call.name, x.fmt, call.shape), sizes=sizes))


def _average(builder: Builder, call: Call) -> Value:
    module: Any = call.module
    (x,) = call.inputs
    if isinstance(module, nn.AdaptiveAvgPool2d):
        if call.shape[1:] != (1, 1):
            refuse(call.layer, "average over whole images", f"output_size={module.output_size}")
        sizes, count = _plane(call, x.shape[1:], 1, 0, 1), math.prod(x.shape[1:])
    else:
        sizes = _plane(call, module.kernel_size, module.stride, module.padding, 1)
        padded = sizes["padding_y"] or sizes["padding_x"]
        if module.ceil_mode or (padded and not module.count_include_pad and module.divisor_override is None):
            refuse(call.layer, "divide all sums by one number", f"{module}")
        count = module.divisor_override or sizes["kernel_y"] * sizes["kernel_x"]
    if count & (count - 1):
        refuse(call.layer, "divide by a power of two", f"{count}")
    bound = x.largest * sizes["kernel_y"] * sizes["kernel_x"]
    check_exact(call.layer, bound, x.fmt.fraction + count.bit_length() - 1, builder.dtype)
    total = holding(call.layer, bound, x.fmt.fraction)
    check_bits(call.layer, sum_format(total, x.fmt).width)
    fmt = Fixed(total.width, total.integer - count.bit_length() + 1)
    sizes["shift"] = count.bit_length() - 1
    return builder.add(Step("average", call.layer, (x,), Value(call.name, fmt, call.shape), {}, sizes, total))


_MAKERS: dict[type[nn.Module], Callable[[Builder, Call], Value]] = {
    QuantLinear: _linear,
    QuantConv2d: _conv2d,
    QuantBatchNorm1d: _norm,
    QuantBatchNorm2d: _norm,
    QuantAffine: _affine,
    QuantAdd: _add,
    nn.Identity: _same,
    nn.Dropout: _same,
    nn.Dropout2d: _same,
    nn.ReLU: _relu,
    nn.Flatten: _flatten,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _average,
    nn.AdaptiveAvgPool2d: _average,
}
_FLOAT = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d)
