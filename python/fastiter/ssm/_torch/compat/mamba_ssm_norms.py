"""Normalisations with the signatures of mamba_ssm: gated ones (layernorm_gated), and those that add a residual."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...._check import check_flag
from ..norm import Norm, check_normalized, checked_norm, normalized, with_residual_stream
from ..ops import computed
from .docs_mamba import documented_mamba

Normed = Tensor | tuple[Tensor, Tensor]


@documented_mamba(x="x_rows")
def layernorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    is_rms_norm: bool = False,
) -> Tensor:
    """norm(x) z s(z), or norm(x z s(z)), in groups of channels: the function of mamba_ssm's layernorm_gated.

    Parameters
    ----------
    %(parameters)s

    Returns
    -------
    Tensor (..., D)
        The result, in the dtype of x. Differentiable in every tensor, any number of times.

    %(raises)s

    See Also
    --------
    rmsnorm_fn : Without subtracting the mean.
    layer_norm_fn : Adds a residual instead of a gate.
    LayerNormGated : The module with these weights.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.mamba_ssm import layernorm_fn
    >>> layernorm_fn(torch.tensor([1.0, 3.0]), torch.ones(2), None)
    tensor([-1.0000,  1.0000])
    """
    function = "rmsnorm_fn" if is_rms_norm else "layernorm_fn"
    groups = 1
    if group_size is not None:
        width = x.shape[-1] if isinstance(x, Tensor) and x.dim() else 0
        if not isinstance(group_size, int) or isinstance(group_size, bool) or group_size < 1 or width % group_size:
            raise ValueError(f"{function}: group_size must be a divisor of D = {width}, got {group_size!r}")
        groups = max(width // group_size, 1)
    return checked_norm(function, x, weight, z, bias, Norm(eps, groups, norm_before_gate, not is_rms_norm))


@documented_mamba(x="x_rows")
def rmsnorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
) -> Tensor:
    """RMSNorm(x) z s(z), or RMSNorm(x z s(z)), in groups: the function of mamba_ssm's layernorm_gated.

    Parameters
    ----------
    %(parameters)s

    Returns
    -------
    Tensor (..., D)
        The result, in the dtype of x. Differentiable in every tensor, any number of times.

    %(raises)s

    See Also
    --------
    fastiter.torch.ssm.gated_rms_norm : The same with the number of groups.
    rms_norm_fn : Adds a residual instead of a gate.
    RMSNormGated : The module with this weight.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.mamba_ssm import rmsnorm_fn
    >>> rmsnorm_fn(torch.tensor([3.0, -3.0, 0.5, 0.5]), torch.ones(4), None, group_size=2)
    tensor([ 1.0000, -1.0000,  1.0000,  1.0000])
    """
    return layernorm_fn(x, weight, bias, z, eps, group_size, norm_before_gate, True)


@documented_mamba()
class RMSNormGated(torch.nn.Module):
    """RMSNorm(x) z s(z), or RMSNorm(x z s(z)): the class RMSNorm of mamba_ssm's layernorm_gated.

    Parameters
    ----------
    %(parameters)s

    %(raises)s

    See Also
    --------
    rmsnorm_fn : The function.
    LayerNormGated : Subtracts the mean first.
    RMSNorm : Adds a residual instead of a gate.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.mamba_ssm import RMSNormGated
    >>> norm = RMSNormGated(2, eps=0.0, norm_before_gate=False)
    >>> norm(torch.tensor([3.0, -3.0]), torch.ones(2)).tolist()
    [1.0, -1.0]
    """

    __call__: Callable[..., Tensor]

    centered = False
    bias: torch.nn.Parameter | None

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        group_size: int | None = None,
        norm_before_gate: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps, self.group_size, self.norm_before_gate = eps, group_size, norm_before_gate
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        bias = torch.nn.Parameter(torch.zeros(hidden_size, device=device, dtype=dtype)) if self.centered else None
        self.register_parameter("bias", bias)

    def reset_parameters(self) -> None:
        """Set the weight to 1 and the bias to 0."""
        torch.nn.init.ones_(self.weight)
        if self.bias is not None:
            torch.nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """Return the normalised x, gated by z.

        Parameters
        ----------
        x : Tensor (..., D)
            The numbers to be normalised.
        z : Tensor (..., D), optional
            The gate, to which SiLU is applied.

        Returns
        -------
        Tensor (..., D)
            The product, in the dtype of x.
        """
        options = (z, self.eps, self.group_size, self.norm_before_gate, not self.centered)
        return layernorm_fn(x, self.weight, self.bias, *options)


@documented_mamba()
class LayerNormGated(RMSNormGated):
    """LayerNorm(x) z s(z), or LayerNorm(x z s(z)): the class LayerNorm of mamba_ssm's layernorm_gated.

    Parameters
    ----------
    %(parameters)s

    %(raises)s

    See Also
    --------
    layernorm_fn : The function.
    RMSNormGated : Does not subtract the mean.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.mamba_ssm import LayerNormGated
    >>> LayerNormGated(2, eps=0.0)(torch.tensor([1.0, 3.0])).tolist()
    [-1.0, 1.0]
    """

    centered = True


@documented_mamba(x="x_rows")
def layer_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
    return_dropout_mask: bool = False,
) -> Normed:
    """norm(x + residual), and the sum with ``prenorm``: the function of mamba_ssm's layer_norm.

    x1, weight1, bias1, dropout_p, rowscale and return_dropout_mask must have their defaults.

    Parameters
    ----------
    %(parameters)s

    Returns
    -------
    out : Tensor (..., D)
        The result, in the dtype of x. Differentiable in every tensor, any number of times.
    total : Tensor (..., D)
        The sum with the residual; only with ``prenorm``.

    %(raises)s

    See Also
    --------
    rms_norm_fn : Without subtracting the mean.
    layernorm_fn : With a gate instead of a residual.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.mamba_ssm import layer_norm_fn
    >>> x, residual = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])
    >>> layer_norm_fn(x, torch.ones(2), None, residual, prenorm=True)
    (tensor([-1.0000,  1.0000]), tensor([1., 3.]))
    """
    function = "rms_norm_fn" if is_rms_norm else "layer_norm_fn"
    refused = {"x1": x1, "weight1": weight1, "bias1": bias1, "rowscale": rowscale}
    for name, value in refused.items():
        if value is not None:
            raise NotImplementedError(f"{function}: {name} must be None, as it is not supported, got a value")
    if dropout_p:
        raise NotImplementedError(f"{function}: dropout_p must be 0, as dropout is not supported, got {dropout_p!r}")
    if return_dropout_mask:
        raise NotImplementedError(f"{function}: return_dropout_mask must be False, as there is no dropout, got True")
    for name, flag in (("prenorm", prenorm), ("residual_in_fp32", residual_in_fp32)):
        check_flag(function, name, flag)
    check_normalized(function, x, eps, {"weight": weight, "bias": bias}, {"residual": residual})
    wide = computed(x.dtype)
    total = x.to(wide) if residual is None else x.to(wide) + residual.to(wide)
    y = normalized(total, weight, None, bias, Norm(eps, centered=not is_rms_norm))
    return with_residual_stream(y, total, x, residual, prenorm, residual_in_fp32)


@documented_mamba(x="x_rows")
def rms_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    return_dropout_mask: bool = False,
) -> Normed:
    """RMSNorm(x + residual), and the sum with ``prenorm``: the function of mamba_ssm's layer_norm.

    Parameters
    ----------
    %(parameters)s

    Returns
    -------
    out : Tensor (..., D)
        The result, in the dtype of x. Differentiable in every tensor, any number of times.
    total : Tensor (..., D)
        The sum with the residual; only with ``prenorm``.

    %(raises)s

    See Also
    --------
    layer_norm_fn : Subtracts the mean first.
    rmsnorm_fn : With a gate instead of a residual.
    RMSNorm : The module with this weight.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.mamba_ssm import rms_norm_fn
    >>> rms_norm_fn(torch.tensor([1.0, -2.0]), torch.ones(2), None, torch.tensor([1.0, 0.0]))
    tensor([ 1.0000, -1.0000])
    """
    rest: tuple[Any, ...] = (eps, dropout_p, rowscale, prenorm, residual_in_fp32, True, return_dropout_mask)
    return layer_norm_fn(x, weight, bias, residual, x1, weight1, bias1, *rest)


@documented_mamba()
class RMSNorm(torch.nn.Module):
    """RMSNorm(x + residual): the class of mamba_ssm's layer_norm. ``dropout_p`` must be 0.

    Parameters
    ----------
    %(parameters)s

    %(raises)s

    See Also
    --------
    rms_norm_fn : The function.
    RMSNormGated : With a gate instead of a residual.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.mamba_ssm import RMSNorm
    >>> RMSNorm(2, eps=0.0)(torch.tensor([1.0, -2.0]), residual=torch.tensor([1.0, 0.0])).tolist()
    [1.0, -1.0]
    """

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        dropout_p: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if dropout_p:
            raise NotImplementedError(f"RMSNorm: dropout_p must be 0, as dropout is not supported, got {dropout_p!r}")
        self.eps, self.drop = eps, None
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)

    def reset_parameters(self) -> None:
        """Set the weight to 1."""
        torch.nn.init.ones_(self.weight)

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Normed:
        """Return the normalised x + residual, and the sum with ``prenorm``.

        Parameters
        ----------
        x : Tensor (..., D)
            The numbers to be normalised.
        residual : Tensor (..., D), optional
            A tensor that is added first.
        prenorm : bool
            Whether the sum is also returned.
        residual_in_fp32 : bool
            Whether the sum is in float32.

        Returns
        -------
        Tensor (..., D), or two of them
            The normalised sum, and the sum.
        """
        options: dict[str, Any] = {"prenorm": prenorm, "residual_in_fp32": residual_in_fp32}
        return rms_norm_fn(x, self.weight, None, residual, eps=self.eps, **options)
