"""Normalisation of groups of channels with a gate, on tensors: RMSNorm(x) z s(z), or RMSNorm(x z s(z))."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.functional import layer_norm, rms_norm
from torch.overrides import has_torch_function

from ..._check import check_flag, fits_float, type_name
from ..._torch.elementwise import gated
from ..._torch.ops import cast
from ..._torch.overrides import dispatched
from .checks import check_tensors
from .ops import computed


class Norm(NamedTuple):
    """The options of a normalisation: the number of groups of channels, and whether the gate comes before or after."""

    eps: float
    groups: int = 1
    norm_before_gate: bool = True
    centered: bool = False


def gated_rms_norm(
    x: Tensor,
    weight: Tensor,
    z: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-6,
    groups: int = 1,
    norm_before_gate: bool = True,
) -> Tensor:
    """(y weight + bias) z s(z) with y = x / rms(x), or y weight + bias with y = x z s(z) / rms(x z s(z)).

    rms(x) is sqrt(mean of x^2 + eps), over the channels of a group, and s is the sigmoid. Mamba-2 applies the gate
    first.

    Parameters
    ----------
    x : Tensor (..., D), float32, float64, float16 or bfloat16
        Inputs of D channels. 16-bit and 32-bit inputs are computed in float32.
    weight : Tensor (D,)
        Factors of the channels.
    z : Tensor (..., D), optional
        The gate; none by default.
    bias : Tensor (D,), optional
        Added to the channels; 0 by default.
    eps : float
        Added to the mean of the squares.
    groups : int
        Number of groups of D / groups adjacent channels, each of which is normalised separately.
    norm_before_gate : bool
        Multiply by the gate after the normalisation, not before.

    Returns
    -------
    Tensor (..., D)
        The result, in the dtype of x. Differentiable in every tensor, any number of times.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.

    See Also
    --------
    mamba2_inner : The mixer that applies this normalisation before its last projection.

    References
    ----------
    Zhang and Sennrich (2019), Root mean square layer normalization; Dao and Gu (2024), Transformers are SSMs.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> x = torch.tensor([3.0, -3.0, 0.5, 0.5])
    >>> fastiter.torch.ssm.gated_rms_norm(x, torch.ones(4), groups=2)
    tensor([ 1.0000, -1.0000,  1.0000,  1.0000])
    """
    if has_torch_function((x, weight, z, bias)):
        options = {"eps": eps, "groups": groups, "norm_before_gate": norm_before_gate}
        result: Tensor = dispatched(gated_rms_norm, x, weight, z, bias, **options)
        return result
    return checked_norm("gated_rms_norm", x, weight, z, bias, Norm(eps, groups, norm_before_gate))


def checked_norm(function: str, x: Tensor, weight: Tensor, z: Tensor | None, bias: Tensor | None, norm: Norm) -> Tensor:
    """Check the arguments of ``function`` and normalise."""
    check_flag(function, "norm_before_gate", norm.norm_before_gate)
    check_normalized(function, x, norm.eps, {"weight": weight, "bias": bias}, {"z": z})
    width, groups = x.shape[-1], norm.groups
    if not isinstance(groups, int) or isinstance(groups, bool):
        raise TypeError(f"{function}: groups must be an int, got {type_name(groups)}")
    if groups < 1 or width % groups:
        raise ValueError(f"{function}: groups must be a divisor of D = {width}, got {groups!r}")
    return normalized(x, weight, z, bias, norm)


def check_normalized(
    function: str, x: Tensor, eps: object, of_channels: dict[str, Tensor | None], of_x: dict[str, Tensor | None]
) -> None:
    """Check x (..., D) and the tensors (D,) and (..., D) that go with it, of which all but the weight may be None."""
    every = {"x": x, **of_channels, **of_x}
    tensors: dict[str, Any] = {name: y for name, y in every.items() if y is not None or name in ("x", "weight")}
    check_tensors(function, tensors, "x")
    check_eps(function, "eps", eps)
    if x.dim() < 1 or x.shape[-1] < 1:
        raise ValueError(f"{function}: x must have shape (..., D) with D at least 1, got {tuple(x.shape)}")
    for name, y in tensors.items():
        expected = tuple(x.shape[-1:] if name in of_channels else x.shape)
        if y.shape != expected:
            raise ValueError(f"{function}: {name} must have shape {expected} to go with x, got {tuple(y.shape)}")


def with_residual_stream(
    y: Tensor, total: Tensor, x: Tensor, residual: Tensor | None, prenorm: bool, residual_in_fp32: bool
) -> Tensor | tuple[Tensor, Tensor]:
    """Return y in the dtype of x, and with ``prenorm`` the sum, x + residual, in the dtype of the residual stream.

    y and the sum are in the dtype of the arithmetic.
    """
    if not prenorm:
        return cast(y, x.dtype)
    if residual is not None:
        return cast(y, x.dtype), cast(total, residual.dtype)
    return cast(y, x.dtype), total if residual_in_fp32 else x


def check_eps(function: str, name: str, eps: object) -> None:
    """Check the eps that is added to a mean square."""
    if not isinstance(eps, Real) or isinstance(eps, bool):
        raise TypeError(f"{function}: {name} must be a number, got {type_name(eps)}")
    if not fits_float(eps) or not 0 <= float(eps) < math.inf:
        raise ValueError(f"{function}: {name} must be finite and at least 0, got {eps}")


def normalized(x: Tensor, weight: Tensor | None, z: Tensor | None, bias: Tensor | None, norm: Norm) -> Tensor:
    """Return the normalised inputs in the dtype of x; a weight of None is 1."""
    y = cast(x, computed(x.dtype))
    if z is not None and not norm.norm_before_gate:
        y = gated(y, cast(z, y.dtype))
    width = y.shape[-1] // norm.groups
    y = y.contiguous()  # sums over a strided axis would depend on the number of rows
    parts = y.unflatten(-1, (norm.groups, width)) if norm.groups > 1 else y
    eps = float(norm.eps)
    parts = layer_norm(parts, (width,), eps=eps) if norm.centered else rms_norm(parts, (width,), eps=eps)
    y = parts.flatten(-2) if norm.groups > 1 else parts
    if weight is not None:
        y = y * cast(weight, y.dtype)
    if bias is not None:
        y = y + cast(bias, y.dtype)
    if z is not None and norm.norm_before_gate:
        y = gated(y, cast(z, y.dtype))
    return cast(y, x.dtype)
