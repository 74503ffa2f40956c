"""Layers of torch.nn whose weights, inputs, outputs and gradients are rounded to the formats of a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...._torch.modules.layer_docs import documented_layer
from ..arguments import text_of
from ..matmul import conv2d
from .format_quantizers import GradientQuantizer
from .loss import warn_of_loss
from .plan import QuantPlan, check_plan, new_gradient_quantizer, new_quantizer, plan_linear
from .quantizer import Quantizer


class QuantLayer(nn.Module):
    """Base of layers with a plan. Each quantizer is a submodule, or None if the plan has none."""

    weight_quantizer: Quantizer | None
    bias_quantizer: Quantizer | None
    input_quantizer: Quantizer | None
    output_quantizer: Quantizer | None
    gradient_quantizer: GradientQuantizer | None
    plan: QuantPlan

    #: The fields of a plan for which the layer has a quantizer; others are ignored.
    rounds: tuple[str, ...] = ("weight", "bias", "input", "output")
    #: Whether the quantizers of weights round the parameters themselves
    _rounds_parameters = True

    def set_plan(self, plan: QuantPlan) -> None:
        """Replace the layer's quantizers by new ones for this plan.

        Parameters
        ----------
        plan : QuantPlan
            The formats.
        """
        self.plan = check_plan(type(self).__name__, plan)
        for what in self.rounds:
            parameter = getattr(self, what, None)
            shape = tuple(parameter.shape) if isinstance(parameter, Tensor) else None
            quantizer = None if what == "bias" and parameter is None else new_quantizer(getattr(plan, what), shape)
            self._give(f"{what}_quantizer", quantizer)
        self._give("gradient_quantizer", new_gradient_quantizer(plan.gradient))

    def _give(self, name: str, quantizer: Quantizer | None) -> None:
        if hasattr(self, name):
            delattr(self, name)
        setattr(self, name, None if quantizer is None else quantizer.train(self.training))
        parameter = getattr(self, name.removesuffix("_quantizer"), None)
        if self._rounds_parameters and name.startswith("weight") and isinstance(parameter, Tensor):
            warn_of_loss(type(self).__name__, name.removesuffix("_quantizer"), parameter, quantizer)

    def products(self, output: Any) -> dict[str, tuple[int, str]]:
        """Return for each weight the number of multiplications of a call, and the name of the other factor.

        Parameters
        ----------
        output : Tensor
            The result of the call.

        Returns
        -------
        dict of str to (int, str)
            By the weight's name: the number, and the name of the other factor.
        """
        return {}

    def _rounded(self, what: str, x: Tensor) -> Tensor:
        quantizer: Quantizer | None = getattr(self, f"{what}_quantizer")
        return x if quantizer is None else quantizer(x)

    def _finished(self, y: Tensor) -> Tensor:
        """Return the layer's output: y rounded, with its gradient rounded in the backward pass."""
        return self._rounded("output", self._rounded("gradient", y))

    def initialize(self) -> None:
        """Initialize the parameters' quantizers from the parameters, as the first call would."""
        for what in ("weight", "bias"):
            quantizer, parameter = getattr(self, f"{what}_quantizer", None), getattr(self, what, None)
            if isinstance(quantizer, Quantizer) and isinstance(parameter, Tensor):
                quantizer.initialize(parameter)


@documented_layer(dtype="dtype_quantized")
class QuantLinear(QuantLayer, nn.Linear):
    """y = Q_output(Q_input(x) Q_weight(W)^T + Q_bias(b)), with each Q from the plan; dy is rounded before it is used.

    A torch.nn.Linear with the same parameter names. Products and sums are torch's, or with ``plan.accumulator`` those
    of :func:`fastiter.torch.quant.linear`.

    Parameters
    ----------
    %(parameters)s

    See Also
    --------
    quantize_model : Replaces the layers of a model.
    QuantPlan : The formats.
    fastiter.torch.quant.linear : The product with a chosen accumulator.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import FixedQuantizer, QuantLinear, QuantPlan
    >>> layer = QuantLinear(8, 4, plan=QuantPlan(weight=FixedQuantizer(4), output="fixed<8,4,RND,SAT>"))
    >>> y = layer(torch.randn(2, 8))
    >>> y.shape, torch.equal(y * 16, (y * 16).round())
    (torch.Size([2, 4]), True)
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        plan: QuantPlan | None = None,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias, device, dtype)
        self.set_plan(QuantPlan() if plan is None else plan)

    def forward(self, input: Tensor) -> Tensor:
        """Return the product, rounded by the plan.

        Parameters
        ----------
        input : Tensor (..., in_features)
            The input.

        Returns
        -------
        Tensor (..., out_features)
            The rounded output.
        """
        x, weight = self._rounded("input", input), self._rounded("weight", self.weight)
        bias = None if self.bias is None else self._rounded("bias", self.bias)
        return self._finished(plan_linear(self.plan, x, weight, bias))

    def products(self, output: Tensor) -> dict[str, tuple[int, str]]:
        return {"weight": (int(output.numel()) * self.in_features, "input")}


@documented_layer(dtype="dtype_quantized")
class QuantConv2d(QuantLayer, nn.Conv2d):
    """y = Q_output(Q_input(x) * Q_weight(W) + Q_bias(b)), with each Q from the plan; dy is rounded before it is used.

    A torch.nn.Conv2d with the same parameter names.

    Parameters
    ----------
    %(parameters)s

    See Also
    --------
    quantize_model : Replaces the layers of a model.
    QuantPlan : The formats.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import FixedQuantizer, QuantConv2d, QuantPlan
    >>> layer = QuantConv2d(3, 4, 3, padding=1, plan=QuantPlan(weight=FixedQuantizer(4, axis=0), input="uint8"))
    >>> layer(torch.rand(2, 3, 5, 5)).shape, layer.weight_quantizer.point.shape
    (torch.Size([2, 4, 5, 5]), torch.Size([4]))
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        plan: QuantPlan | None = None,
    ) -> None:
        arguments = (stride, padding, dilation, groups, bias, padding_mode, device, dtype)
        nn.Conv2d.__init__(self, in_channels, out_channels, kernel_size, *arguments)
        self.set_plan(QuantPlan() if plan is None else plan)

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution, rounded by the plan.

        Parameters
        ----------
        input : Tensor (B, in_channels, H, W) or (in_channels, H, W)
            The images.

        Returns
        -------
        Tensor (B, out_channels, H', W') or (out_channels, H', W')
            The rounded output.
        """
        x, weight = self._rounded("input", input), self._rounded("weight", self.weight)
        bias = None if self.bias is None else self._rounded("bias", self.bias)
        return self._finished(self._product(x, weight, bias))

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.plan.accumulator is None:
            return self._conv_forward(x, weight, bias)
        padding: Any = self.padding
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x, padding = F.pad(x, self._reversed_padding_repeated_twice, mode), (0, 0)
        text = text_of("QuantPlan", self.plan.accumulator)
        arguments = (text, self.plan.accumulate_every, self.stride, padding, self.dilation, self.groups)
        return conv2d(x, weight, bias, *arguments)

    def products(self, output: Tensor) -> dict[str, tuple[int, str]]:
        return {"weight": (int(output.numel()) * int(self.weight[0].numel()), "input")}


class _QuantNorm(QuantLayer, nn.modules.batchnorm._BatchNorm):
    """y = Q_output(Q_input(x) Q_weight(g) + Q_bias(b)): normalisation as a factor and a shift for each channel.

    g = weight / sqrt(var + eps) and b = bias - mean g, with the batch's statistics in training mode or if there are no
    others. g and b are rounded, as hardware stores them.
    """

    __call__: Callable[..., Tensor]

    _rounds_parameters = False  # but factors and shifts made of them

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        x = self._rounded("input", input)
        channels = (1, -1) + (1,) * (x.dim() - 2)
        mean, variance = self._statistics(x)
        factor = torch.rsqrt(variance + self.eps)
        factor = factor if self.weight is None else factor * self.weight
        shift = -mean * factor if self.bias is None else self.bias - mean * factor
        factor, shift = self._rounded("weight", factor), self._rounded("bias", shift)
        return self._finished(x * factor.view(channels) + shift.view(channels))

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        means, variances = self.running_mean, self.running_var
        if not self.training and means is not None and variances is not None:
            return means, variances
        others = [k for k in range(x.dim()) if k != 1]
        count = x.numel() // max(x.shape[1], 1)
        if self.training and count < 2:
            raise ValueError(
                f"{type(self).__name__}: input must have more than one value per channel in training, "
                f"got shape {tuple(x.shape)}"
            )
        variance, mean = torch.var_mean(x, others, correction=0)
        if self.training and means is not None and variances is not None:
            assert self.num_batches_tracked is not None
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                means.lerp_(mean.to(means.dtype), share)
                variances.lerp_((variance * (count / (count - 1))).to(variances.dtype), share)
        return mean, variance

    def set_plan(self, plan: QuantPlan) -> None:
        super().set_plan(plan)
        if self.bias is None:  # there is still a shift, by the mean
            self._give("bias_quantizer", new_quantizer(plan.bias, (self.num_features,)))
        for quantizer in (self.weight_quantizer, self.bias_quantizer):
            if quantizer is not None:
                quantizer.place((self.num_features,))

    def products(self, output: Tensor) -> dict[str, tuple[int, str]]:
        return {"weight": (int(output.numel()), "input")}

    def initialize(self) -> None:
        """Do nothing: the rounded factor and shift are known only with the first input."""


@documented_layer(dtype="dtype_quantized", plan="plan_of_norm")
class QuantBatchNorm2d(_QuantNorm, nn.BatchNorm2d):
    """y = Q_output(Q_input(x) Q_weight(g) + Q_bias(b)), g = weight / sqrt(var + eps), b = bias - mean g.

    A torch.nn.BatchNorm2d with the same parameter and buffer names, for (B, C, H, W). The factor and the shift of each
    channel are rounded, as hardware stores them; in training mode they use the batch's statistics.

    Parameters
    ----------
    %(parameters)s

    See Also
    --------
    QuantBatchNorm1d : For (B, C) and (B, C, T).
    QuantAffine : Without statistics.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import QuantBatchNorm2d, QuantPlan
    >>> layer = QuantBatchNorm2d(3, plan=QuantPlan(weight="fixed<8,2,RND,SAT>", bias="fixed<8,2,RND,SAT>"))
    >>> layer(torch.randn(4, 3, 5, 5)).shape
    torch.Size([4, 3, 5, 5])
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        plan: QuantPlan | None = None,
    ) -> None:
        nn.BatchNorm2d.__init__(self, num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self.set_plan(QuantPlan() if plan is None else plan)


@documented_layer(dtype="dtype_quantized", plan="plan_of_norm")
class QuantBatchNorm1d(_QuantNorm, nn.BatchNorm1d):
    """y = Q_output(Q_input(x) Q_weight(g) + Q_bias(b)): :class:`QuantBatchNorm2d` for (B, C) and (B, C, T).

    A torch.nn.BatchNorm1d with the same parameter and buffer names.

    Parameters
    ----------
    %(parameters)s

    See Also
    --------
    QuantBatchNorm2d : For images.
    QuantAffine : Without statistics.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import QuantBatchNorm1d, QuantPlan
    >>> layer = QuantBatchNorm1d(3, plan=QuantPlan(weight="fixed<8,2,RND,SAT>", bias="fixed<8,2,RND,SAT>"))
    >>> layer(torch.randn(4, 3)).shape
    torch.Size([4, 3])
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        plan: QuantPlan | None = None,
    ) -> None:
        nn.BatchNorm1d.__init__(self, num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self.set_plan(QuantPlan() if plan is None else plan)
