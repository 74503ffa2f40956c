"""Mamba's and Mamba-2's functions with the signatures of mamba_ssm."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...._check import check_flag
from ...._sequences import check_packing
from ...._torch.autograd import names_errors
from ...._torch.ops import checked_bounds
from ..._conv_shapes import Activation
from ..._ssd_shapes import check_ssd_shapes, check_ssd_state, checked_limits
from .. import functional
from ..checks import Integers, check_tensors
from ..mamba import mamba_inner
from ..mamba2 import checked_labels, mamba2_inner, resets
from ..ssd import ssd
from .docs_mamba import documented_mamba


@names_errors
@documented_mamba()
def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """h = exp(d A) h + d B u, out = (C h + D u) z s(z), over (B, D, T): mamba_ssm's function of this name.

    Unlike in the original, gradients from the last state are taken into account.

    Parameters
    ----------
    %(parameters)s

    Returns
    -------
    out : Tensor (B, D, T)
        The outputs, in the dtype of u. Differentiable once in every tensor.
    last_state : Tensor (B, D, N)
        The state after the last step; only with ``return_last_state``.

    %(raises)s

    See Also
    --------
    fastiter.torch.ssm.selective_scan : The scan with resets, packed sequences and initial states.
    selective_state_update : Computes one step at a time.
    mamba_inner_fn : The mixer of Mamba that contains this scan.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.mamba_ssm import selective_scan_fn
    >>> u = one = torch.ones(1, 1, 4)
    >>> A = torch.tensor([[0.5]]).log()  # the state halves with each step
    >>> selective_scan_fn(u, one, A, one, one).flatten()
    tensor([1.0000, 1.5000, 1.7500, 1.8750])
    """
    return functional.selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)


@names_errors
@documented_mamba(B="B_given", C="C_given")
def mamba_inner_fn(
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
    checkpoint_lvl: int = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
) -> Tensor:
    """Mamba's mixer after in_proj: xz (B, 2 D, T) to (B, T, M): mamba_ssm's function of this name.

    ``checkpoint_lvl`` determines what the original saves for its backward pass, and has no effect here. Gradients pass
    through the normalisations of B, C and dt and to their weights, which the original omits.

    Parameters
    ----------
    %(parameters)s

    Returns
    -------
    Tensor (B, T, M)
        The projected result. Differentiable once in every tensor.

    %(raises)s

    See Also
    --------
    fastiter.torch.ssm.mamba_inner : The underlying function.
    selective_scan_fn : The recurrence in the mixer.
    mamba_split_conv1d_scan_combined : The mixer of Mamba-2.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.mamba_ssm import mamba_inner_fn
    >>> xz = torch.randn(2, 32, 20)  # 16 channels and their gates, 20 steps
    >>> weights = torch.randn(16, 1, 4), None, torch.randn(9, 16), torch.randn(16, 1), torch.randn(8, 16), None
    >>> mamba_inner_fn(xz, *weights, -torch.ones(16, 4)).shape
    torch.Size([2, 20, 8])
    """
    if checkpoint_lvl not in (0, 1):
        raise ValueError(f"mamba_inner_fn: checkpoint_lvl must be 0 or 1, got {checkpoint_lvl!r}")
    weights: tuple[Any, ...] = (x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias)
    scan: tuple[Any, ...] = (A, B, C, D, delta_bias, B_proj_bias, C_proj_bias, delta_softplus)
    norms: dict[str, Any] = {"b_rms_weight": b_rms_weight, "c_rms_weight": c_rms_weight}
    norms |= {"dt_rms_weight": dt_rms_weight, "b_c_dt_rms_eps": b_c_dt_rms_eps}
    return mamba_inner(xz, conv1d_weight, conv1d_bias, *weights, *scan, **norms)


@documented_mamba(x="x_step", dt="dt_step", A="A_step", B="B_step", C="C_step", D="D_step")
def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Integers | None = None,
) -> Tensor:
    """Compute one step and update the state in place: mamba_ssm's function of this name.

    As in the original, the result has no gradient, even if an argument requires one.

    Parameters
    ----------
    %(parameters)s

    Returns
    -------
    Tensor (B, D) or (B, H, P)
        The output of the step.

    %(raises)s

    See Also
    --------
    fastiter.torch.ssm.selective_state_update : The underlying function, which refuses gradients.
    selective_scan_fn : Computes whole sequences.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.mamba_ssm import selective_state_update
    >>> state, one = torch.zeros(1, 1, 1), torch.ones(1, 1)
    >>> [selective_state_update(state, one, one, torch.zeros(1, 1), one, one).item() for _ in range(3)]
    [1.0, 2.0, 3.0]
    """
    with torch.no_grad():
        tensors = (state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, state_batch_indices)
        return functional.selective_state_update(*tensors)


@names_errors
@documented_mamba(A="A_heads", B="B_heads", C="C_heads", D="D_heads")
def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Integers | None = None,
    cu_seqlens: Integers | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    return_final_states: bool = False,
    return_varlen_states: bool = False,
) -> Any:
    """S = exp(d A) S + d x B^T, y = S C + D x, over (B, T, H, P): mamba_ssm's function of this name.

    ``chunk_size`` is an option of the original's kernels, and has no effect here. The state is dropped where
    ``seq_idx`` changes; ``initial_states`` are those of the sequences with index 0. ``cu_seqlens`` is used only for the
    states of packed sequences, each of which begins with zeros; unlike in the original, these states are
    differentiable.

    Parameters
    ----------
    %(parameters)s

    Returns
    -------
    out : Tensor (B, T, H, P)
        The outputs, in the dtype of x. Differentiable once in every tensor.
    final_states : Tensor (B, H, P, N)
        The states after the last step; only with ``return_final_states``.
    varlen_states : Tensor (S, H, P, N)
        The states after the packed sequences; only with ``return_varlen_states``.

    %(raises)s

    See Also
    --------
    fastiter.torch.ssm.ssd : The scan with resets and packed sequences.
    mamba_split_conv1d_scan_combined : The mixer of Mamba-2 that contains this scan.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.mamba_ssm import mamba_chunk_scan_combined
    >>> x, one = torch.ones(1, 4, 1, 1), torch.ones(1, 4, 1, 1)
    >>> A = torch.tensor([0.5]).log()  # the state halves with each step
    >>> mamba_chunk_scan_combined(x, torch.ones(1, 4, 1), A, one, one, chunk_size=64).flatten()
    tensor([1.0000, 1.5000, 1.7500, 1.8750])
    """
    function = "mamba_chunk_scan_combined"
    for name, flag in (("return_final_states", return_final_states), ("return_varlen_states", return_varlen_states)):
        check_flag(function, name, flag)
    required = {"x": x, "dt": dt, "A": A, "B": B, "C": C}
    optional = {"D": D, "z": z, "dt_bias": dt_bias, "initial_states": initial_states}
    tensors: dict[str, Any] = required | {name: y for name, y in optional.items() if y is not None}
    check_tensors(function, tensors, "x")
    shapes = {name: y.shape for name, y in tensors.items()}
    batch, _ = check_ssd_shapes(function, shapes)
    checked_limits(function, dt_limit)
    if initial_states is not None:
        check_ssd_state(function, initial_states.shape, batch, shapes, "initial_states")
    labels = checked_labels(function, seq_idx, x)
    bounds = _bounds(function, cu_seqlens, initial_states, x) if return_varlen_states else None
    arguments = (x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    starts = None if labels is None else resets(labels)
    out, last = ssd(*arguments, dt_limit=dt_limit, state=initial_states, reset=starts)
    states = [last] if return_final_states else []
    if bounds is not None:
        states.append(ssd(*arguments, dt_limit=dt_limit, cu_seqlens=bounds)[1])
    return (out, *states) if states else out


def _bounds(function: str, cu_seqlens: Integers | None, initial_states: Tensor | None, x: Tensor) -> Tensor:
    """Return the bounds of the sequences whose states are returned."""
    if cu_seqlens is None:
        raise ValueError(f"{function}: cu_seqlens must be given if return_varlen_states is True, got None")
    if initial_states is not None:
        raise ValueError(f"{function}: initial_states must be None if return_varlen_states is True, got a tensor")
    check_packing(function, x.shape[0], None, "x")
    return checked_bounds(function, cu_seqlens, x.shape[1], x.device)


@names_errors
@documented_mamba(
    conv1d_weight="conv1d_weight_heads",
    conv1d_bias="conv1d_bias_heads",
    dt_bias="dt_bias_given",
    A="A_heads",
    D="D_given",
)
def mamba_split_conv1d_scan_combined(
    zxbcdt: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    chunk_size: int,
    initial_states: Tensor | None = None,
    seq_idx: Integers | None = None,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    return_final_states: bool = False,
    activation: Activation | None = "silu",
    rmsnorm_weight: Tensor | None = None,
    rmsnorm_eps: float = 1e-6,
    outproj_weight: Tensor | None = None,
    outproj_bias: Tensor | None = None,
    headdim: int | None = None,
    ngroups: int = 1,
    norm_before_gate: bool = True,
) -> Tensor | tuple[Tensor, Tensor]:
    """Mamba-2's mixer after in_proj: convolution, scan, gated norm, out_proj: mamba_ssm's function of this name.

    ``chunk_size`` is an option of the original's kernels, and has no effect here. Without ``rmsnorm_weight``,
    ``rmsnorm_eps`` is ignored.

    Parameters
    ----------
    %(parameters)s

    Returns
    -------
    out : Tensor (B, T, M + H P), or (B, T, O) if it is projected
        The result. Differentiable once in every tensor.
    final_states : Tensor (B, H, P, N)
        The states after the last step; only with ``return_final_states``.

    %(raises)s

    See Also
    --------
    fastiter.torch.ssm.mamba2_inner : The underlying function.
    mamba_chunk_scan_combined : The recurrence in the mixer.
    mamba_inner_fn : The mixer of Mamba.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.mamba_ssm import mamba_split_conv1d_scan_combined
    >>> zxbcdt = torch.randn(1, 20, 2 * 32 + 2 * 8 + 4)  # 4 heads of 8 channels, one group of 8 states
    >>> bias, A, D = torch.zeros(4), -torch.ones(4), torch.ones(4)
    >>> mamba_split_conv1d_scan_combined(zxbcdt, torch.randn(48, 4), None, bias, A, D, 256, headdim=8).shape
    torch.Size([1, 20, 32])
    """
    options: dict[str, Any] = {"state": initial_states, "seq_idx": seq_idx, "dt_limit": dt_limit}
    options |= {"return_last_state": return_final_states, "activation": activation}
    if rmsnorm_weight is not None:
        options |= {"rmsnorm_weight": rmsnorm_weight, "rmsnorm_eps": rmsnorm_eps}
    options |= {"outproj_weight": outproj_weight, "outproj_bias": outproj_bias}
    options |= {"headdim": headdim, "ngroups": ngroups, "norm_before_gate": norm_before_gate}
    return mamba2_inner(zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, **options)
