"""Mamba's mixer between its projections, on tensors: convolution, selection, scan, gate and output."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor
from torch.overrides import has_torch_function

from ..._check import check_flag
from ..._torch.autograd import names_errors
from ..._torch.ops import cast
from ..._torch.overrides import dispatched
from .causal_conv import causal_conv1d
from .checks import check_tensors
from .functional import selective_scan
from .norm import Norm, check_eps, normalized
from .ops import product


class _Selection(NamedTuple):
    """The parameters that determine B, C and the step size; B and C are projections of the channels unless given."""

    x_proj_weight: Tensor
    delta_proj_weight: Tensor
    B: Tensor | None
    C: Tensor | None
    B_proj_bias: Tensor | None
    C_proj_bias: Tensor | None
    b_rms_weight: Tensor | None
    c_rms_weight: Tensor | None
    dt_rms_weight: Tensor | None
    eps: float
    states: int
    is_complex: bool


@names_errors
def mamba_inner(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    *,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
) -> Tensor:
    """out_proj(selective_scan(x, delta, A, B, C) z s(z)) with x = silu(causal_conv1d(x)): Mamba's mixer after in_proj.

    The weights are the parameters of the corresponding layers. B, C and the input of delta_proj are parts of x_proj(x).

    Parameters
    ----------
    xz : Tensor (B, 2 D, T), float32, float64, float16 or bfloat16
        x and the gate z, with any strides; a transposed (B, T, 2 D) needs no copy.
    conv1d_weight, conv1d_bias : Tensor (D, 1, W) or (D, W), and (D,) or None
        The convolution.
    x_proj_weight : Tensor (R + 2 N, D)
        Projection to R inputs of the step size, to B and to C; without the rows of B or C if these are given.
    delta_proj_weight : Tensor (D, R)
        Projection to the step sizes.
    out_proj_weight, out_proj_bias : Tensor (M, D), and (M,) or None
        Projection of the result.
    A : Tensor (D, N)
        As in :func:`selective_scan`.
    B, C : Tensor, optional
        As in :func:`selective_scan`, instead of the projected ones.
    D, delta_bias : Tensor (D,), optional
        As in :func:`selective_scan`.
    B_proj_bias, C_proj_bias : Tensor (N,), optional
        Added to the projected B and C.
    delta_softplus : bool
        Apply log(1 + e^x) to delta + delta_bias.
    b_rms_weight, c_rms_weight, dt_rms_weight : Tensor (N,), (N,) and (D,), optional
        If given, the projected B, C or delta is divided by its root mean square and multiplied by the weight.
    b_c_dt_rms_eps : float
        Added to these mean squares.

    Returns
    -------
    Tensor (B, T, M)
        The projected result. Differentiable once in every tensor.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.

    See Also
    --------
    selective_scan : The recurrence in the mixer.
    causal_conv1d : The convolution in the mixer.
    mamba2_inner : The mixer of Mamba-2.

    References
    ----------
    Gu and Dao (2023), Mamba: linear-time sequence modeling with selective state spaces.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> hidden, in_proj = torch.randn(2, 20, 8), torch.randn(32, 8)  # 8 features, 16 channels, 4 states, rank 1
    >>> xz = (hidden @ in_proj.T).transpose(1, 2)
    >>> weights = torch.randn(16, 1, 4), None, torch.randn(9, 16), torch.randn(16, 1), torch.randn(8, 16), None
    >>> fastiter.torch.ssm.mamba_inner(xz, *weights, -torch.ones(16, 4)).shape
    torch.Size([2, 20, 8])
    """
    weights = (conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias)
    inputs = (xz, *weights, A, B, C, D, delta_bias, B_proj_bias, C_proj_bias)
    norms = {"b_rms_weight": b_rms_weight, "c_rms_weight": c_rms_weight, "dt_rms_weight": dt_rms_weight}
    if has_torch_function((*inputs, *norms.values())):
        result: Tensor = dispatched(mamba_inner, *inputs, delta_softplus, **norms, b_c_dt_rms_eps=b_c_dt_rms_eps)
        return result
    check_flag("mamba_inner", "delta_softplus", delta_softplus)
    check_eps("mamba_inner", "b_c_dt_rms_eps", b_c_dt_rms_eps)
    _check_inner("mamba_inner", dict(zip(_NAMES, inputs, strict=True)) | norms)
    x, z = xz.chunk(2, 1)
    u = causal_conv1d(x, conv1d_weight.flatten(1), conv1d_bias, activation="silu")
    assert isinstance(u, Tensor)  # for the type checker
    chosen = (x_proj_weight, delta_proj_weight, B, C, B_proj_bias, C_proj_bias)
    sizes = (b_c_dt_rms_eps, A.shape[1], A.is_complex())
    delta, B, C = _selected(u, _Selection(*chosen, b_rms_weight, c_rms_weight, dt_rms_weight, *sizes))
    y = selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    assert isinstance(y, Tensor)
    bias = None if out_proj_bias is None else cast(out_proj_bias, y.dtype)
    return product(y.transpose(1, 2), cast(out_proj_weight, y.dtype), bias)


def _selected(u: Tensor, selection: _Selection) -> tuple[Tensor, Tensor, Tensor]:
    """Return delta, B and C in the form that the scan takes."""
    rank, rows = selection.delta_proj_weight.shape[1], selection.states * (2 if selection.is_complex else 1)
    parts = _projected(selection.x_proj_weight, u)
    delta = _projected(selection.delta_proj_weight, parts[:, :rank])
    if selection.dt_rms_weight is not None:
        delta = _normalized(delta, selection.dt_rms_weight, selection.eps)
    B, C = selection.B, selection.C
    if B is None:
        B = _weights(parts[:, rank : rank + rows], selection.B_proj_bias, selection.b_rms_weight, selection)
    if C is None:
        C = _weights(parts[:, parts.shape[1] - rows :], selection.C_proj_bias, selection.c_rms_weight, selection)
    return delta, B, C


def _projected(weight: Tensor, x: Tensor) -> Tensor:
    """Return weight x for each step of x (B, D, T), with the channels contiguous."""
    return product(x.transpose(1, 2), cast(weight, x.dtype)).transpose(1, 2)


def _normalized(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return normalized(x.transpose(1, 2), weight, None, None, Norm(eps)).transpose(1, 2)


def _weights(x: Tensor, bias: Tensor | None, norm: Tensor | None, selection: _Selection) -> Tensor:
    """Return a projected B or C (B, N, T) in the form that the scan takes."""
    if bias is not None:
        x = x + cast(bias, x.dtype)[:, None]
    if norm is not None:
        x = _normalized(x, norm, selection.eps)
    if (
        selection.is_complex
    ):  # real and imaginary parts, next to each other along the states, go next to each other in time
        x = x.unflatten(1, (selection.states, 2)).transpose(2, 3).flatten(2)
    return x


_NAMES = (
    *("xz", "conv1d_weight", "conv1d_bias", "x_proj_weight", "delta_proj_weight", "out_proj_weight", "out_proj_bias"),
    *("A", "B", "C", "D", "delta_bias", "B_proj_bias", "C_proj_bias"),
)
_REQUIRED = {"xz", "conv1d_weight", "x_proj_weight", "delta_proj_weight", "out_proj_weight", "A"}


def _check_inner(function: str, inputs: dict[str, Any]) -> None:
    """Check types, dtypes, devices and shapes, except those of A, B and C, which the scan checks."""
    tensors = {name: x for name, x in inputs.items() if x is not None or name in _REQUIRED}
    A = tensors["A"]
    is_complex = isinstance(A, Tensor) and A.is_complex()
    check_tensors(function, {n: x for n, x in tensors.items() if not (is_complex and n in ("A", "B", "C"))}, "xz")
    xz, weight = tuple(tensors["xz"].shape), tuple(tensors["conv1d_weight"].shape)
    if len(xz) != 3 or xz[1] % 2:
        raise ValueError(f"{function}: xz must have shape (B, 2 D, T), got {xz}")
    channels = xz[1] // 2
    if A.dim() != 2 or A.shape[0] != channels:
        raise ValueError(f"{function}: A must have shape (D, N) = ({channels}, N) to go with xz, got {tuple(A.shape)}")
    if len(weight) not in (2, 3) or weight[0] != channels or weight[-1] < 1 or weight[1:-1] not in ((), (1,)):
        raise ValueError(f"{function}: conv1d_weight must have shape (D, 1, W) = ({channels}, 1, W), got {weight}")
    _check_selection(function, tensors, is_complex)
    rows = A.shape[1] * (2 if is_complex else 1)
    for name in ("delta_proj_weight", "out_proj_weight"):
        if tensors[name].dim() != 2:
            raise ValueError(f"{function}: {name} must have two axes, got shape {tuple(tensors[name].shape)}")
    projected = sum(rows for name in "BC" if name not in tensors)
    rank, outputs = tensors["delta_proj_weight"].shape[1], tensors["out_proj_weight"].shape[0]
    shapes: dict[str, tuple[int, ...]] = {"delta_proj_weight": (channels, rank)}
    shapes |= {
        "out_proj_weight": (outputs, channels),
        "x_proj_weight": (rank + projected, channels),
        "out_proj_bias": (outputs,),
    }
    shapes |= dict.fromkeys(("conv1d_bias", "D", "delta_bias", "dt_rms_weight"), (channels,))
    shapes |= dict.fromkeys(("B_proj_bias", "C_proj_bias", "b_rms_weight", "c_rms_weight"), (rows,))
    for name, expected in shapes.items():
        if name in tensors and tensors[name].shape != expected:
            raise ValueError(f"{function}: {name} must have shape {expected}, got {tuple(tensors[name].shape)}")


def _check_selection(function: str, tensors: dict[str, Any], is_complex: bool) -> None:
    """Check that no parameters are given for a B or C that is not projected, and no norm for complex ones."""
    for name, norm in (("B", "b_rms_weight"), ("C", "c_rms_weight")):
        for other in (norm, f"{name}_proj_bias"):
            if other in tensors and name in tensors:
                raise ValueError(f"{function}: {other} must be None if {name} is given, got both")
        if norm in tensors and is_complex:
            raise ValueError(f"{function}: {norm} must be None if A is complex, got both")
