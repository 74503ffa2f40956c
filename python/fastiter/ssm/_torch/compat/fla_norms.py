"""The normalisations of flash-linear-attention's modules that its backends replace; rows are (T, D)."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..ops import computed

#: Output gates by their names in fla: the gate and its derivative, as functions of g and its sigmoid
_GATES: dict[str, Any] = {
    "silu": (lambda g, s: g * s, lambda g, s: s * (1 + g * (1 - s))),
    "sigmoid": (lambda g, s: s, lambda g, s: s * (1 - s)),
}
_GATES["swish"] = _GATES["silu"]
ACTIVATIONS = tuple(_GATES)
Activation: TypeAlias = Literal["swish", "silu", "sigmoid"]


class _Norm(NamedTuple):
    """The weight and bias of D channels for each group, to which rows belong cyclically, and the gate's name."""

    weight: Tensor | None
    bias: Tensor | None
    groups: int = 1
    activation: Activation = "swish"

    def scaled(self, rows: Tensor, biased: bool = True) -> Tensor:
        """Return rows times the weight plus the bias, if these are given."""
        parts = self._split(rows)
        if self.weight is not None:
            parts = parts * self.weight.to(rows.dtype).view(parts.shape[1:])
        if self.bias is not None and biased:
            parts = parts + self.bias.to(rows.dtype).view(parts.shape[1:])
        return parts.reshape(rows.shape)

    def summed(self, rows: Tensor, like: Tensor | None) -> Tensor | None:
        """Return the gradient of the weight or the bias, which is the sum of these rows."""
        if like is None:
            return None
        return self._split(rows).sum(0).view(like.shape).to(like.dtype)

    def _split(self, rows: Tensor) -> Tensor:
        """Return rows (T, D) as (T / groups, groups, D)."""
        return rows.view(rows.shape[0] // self.groups, self.groups, rows.shape[1])


class _Gradients(NamedTuple):
    """Gradients of the output and of the sum with the residual, and the tensors that determine the results' dtypes."""

    dy: Tensor
    dresidual: Tensor | None
    has_residual: bool
    x_dtype: torch.dtype | None
    recompute_output: bool


def layer_norm_fwd(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    residual_dtype: torch.dtype | None = None,
    is_rms_norm: bool = False,
    num_groups: int = 1,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """norm(x + residual), the rows' means and factors, and the sum; see fla's function."""
    y, mean, factor, total = _forward(x, residual, residual_dtype, eps, is_rms_norm)
    return _Norm(weight, bias, num_groups).scaled(y).to(out_dtype or x.dtype), mean, factor, total


def layer_norm_gated_fwd(
    x: Tensor,
    g: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: Activation = "swish",
    eps: float = 1e-5,
    residual: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    residual_dtype: torch.dtype | None = None,
    is_rms_norm: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """norm(x + residual) times the gate, the rows' means and factors, and the sum; see fla's function."""
    y, mean, factor, total = _forward(x, residual, residual_dtype, eps, is_rms_norm)
    wide = g.to(y.dtype)
    y = _Norm(weight, bias).scaled(y) * _GATES[activation][0](wide, wide.sigmoid())
    return y.to(out_dtype or x.dtype), mean, factor, total


def _forward(
    x: Tensor, residual: Tensor | None, residual_dtype: torch.dtype | None, eps: float, is_rms_norm: bool
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Return the normalised rows in the dtype of the arithmetic, means, factors, and the sum in the form fla keeps."""
    wide = x.to(computed(x.dtype))
    total = x
    if residual is not None:
        wide = wide + residual.to(wide.dtype)
        total = wide.to(residual.dtype)
    elif residual_dtype not in (None, x.dtype):
        total = wide.to(residual_dtype)
    mean = None if is_rms_norm else wide.mean(1)
    centered = wide if mean is None else wide - mean[:, None]
    factor = torch.rsqrt(centered.square().mean(1) + eps)
    return centered * factor[:, None], mean, factor, total


def layer_norm_bwd(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None = None,
    rstd: Tensor | None = None,
    dres: Tensor | None = None,
    has_residual: bool = False,
    is_rms_norm: bool = False,
    x_dtype: torch.dtype | None = None,
    recompute_output: bool = False,
    num_groups: int = 1,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight, bias and the residual, and the output if requested; see fla's function."""
    tensors = _Gradients(dy, dres, has_residual, x_dtype, recompute_output)
    rows = _rows(x, mean, rstd)
    dx, _, *rest = _backward(tensors, x, rows, rstd, _Norm(weight, bias, num_groups), None, is_rms_norm)
    return (dx, *rest)


def layer_norm_gated_bwd(
    dy: Tensor,
    x: Tensor,
    g: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: Activation = "swish",
    eps: float = 1e-5,
    mean: Tensor | None = None,
    rstd: Tensor | None = None,
    dresidual: Tensor | None = None,
    has_residual: bool = False,
    is_rms_norm: bool = False,
    x_dtype: torch.dtype | None = None,
    recompute_output: bool = False,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, g, weight, bias and the residual, and the output if requested; see fla's function."""
    tensors = _Gradients(dy, dresidual, has_residual, x_dtype, recompute_output)
    rows = _rows(x, mean, rstd)
    return _backward(tensors, x, rows, rstd, _Norm(weight, bias, activation=activation), g, is_rms_norm)


def _rows(x: Tensor, mean: Tensor | None, factor: Any) -> Tensor:
    """Recompute the normalised rows."""
    wide = x.to(factor.dtype)
    return (wide if mean is None else wide - mean[:, None]) * factor[:, None]


def _backward(
    tensors: _Gradients, x: Tensor, rows: Tensor, factor: Any, norm: _Norm, g: Tensor | None, is_rms_norm: bool
) -> tuple[Tensor | None, ...]:
    """With h the normalised rows and d their gradient, dx = (d - h mean(h d) - mean(d)) factor."""
    d = tensors.dy.to(rows.dtype)
    dtype = tensors.x_dtype or x.dtype
    y, dg = norm.scaled(rows), None
    if g is not None:
        wide = g.to(rows.dtype)
        gate, slope = (f(wide, wide.sigmoid()) for f in _GATES[norm.activation])
        dg = (d * y * slope).to(tensors.x_dtype or g.dtype)
        y, d = y * gate, d * gate
    dweight, dbias = norm.summed(d * rows, norm.weight), norm.summed(d, norm.bias)
    d = norm.scaled(d, biased=False)
    dx = d - rows * (rows * d).mean(1, keepdim=True)
    dx = (dx if is_rms_norm else dx - d.mean(1, keepdim=True)) * factor[:, None]
    if tensors.dresidual is not None:
        dx = dx + tensors.dresidual.to(dx.dtype)
    result = (dx.to(dtype), dg, dweight, dbias, dx.to(x.dtype) if tensors.has_residual else None)
    return (*result, y.to(tensors.dy.dtype)) if tensors.recompute_output else result
