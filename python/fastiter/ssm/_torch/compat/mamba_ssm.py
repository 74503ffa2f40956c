"""Mamba's and Mamba-2's functions with the signatures of mamba_ssm."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...._check import check_flag
from ...._sequences import check_packing
from ...._torch.ops import checked_bounds
from ..._conv_shapes import Activation
from ..._ssd_shapes import check_ssd_shapes, check_ssd_state, checked_limits
from .. import functional
from ..checks import Integers, check_tensors
from ..mamba import mamba_inner
from ..mamba2 import checked_labels, mamba2_inner, resets
from ..ssd import ssd


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
    """h = exp(d A) h + d B u, out = (C h + D u) z s(z), over (B, D, T); see mamba_ssm's function of this name.

    The last state has a gradient here, which the original ignores.
    """
    return functional.selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)


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
    """Mamba's mixer after in_proj: xz (B, 2 D, T) to (B, T, M); see mamba_ssm's function of this name.

    ``checkpoint_lvl`` says what the original keeps for its backward pass, and changes nothing here. Gradients go
    through the normalisations of B, C and dt and to their weights, which the original leaves out.
    """
    if checkpoint_lvl not in (0, 1):
        raise ValueError(f"mamba_inner_fn: checkpoint_lvl must be 0 or 1, got {checkpoint_lvl!r}")
    weights: tuple[Any, ...] = (x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias)
    scan: tuple[Any, ...] = (A, B, C, D, delta_bias, B_proj_bias, C_proj_bias, delta_softplus)
    norms: dict[str, Any] = {"b_rms_weight": b_rms_weight, "c_rms_weight": c_rms_weight}
    norms |= {"dt_rms_weight": dt_rms_weight, "b_c_dt_rms_eps": b_c_dt_rms_eps}
    return mamba_inner(xz, conv1d_weight, conv1d_bias, *weights, *scan, **norms)


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
    """One step, which changes the state in place; see mamba_ssm's function of this name.

    As in the original, the result has no gradient, whether an argument requires one or not.
    """
    with torch.no_grad():
        given = (state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, state_batch_indices)
        return functional.selective_state_update(*given)


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
    """S = exp(d A) S + d x B^T, y = S C + D x, over (B, T, H, P); see mamba_ssm's function of this name.

    ``chunk_size`` says how the original computes, and changes nothing here. The state is dropped where ``seq_idx``
    changes; ``initial_states`` are those of the sequences with number 0. ``cu_seqlens`` is read for the states of
    packed sequences alone, each of which begins with zeros; these states have a gradient here.
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
    given = (x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    starts = None if labels is None else resets(labels)
    out, last = ssd(*given, dt_limit=dt_limit, initial_state=initial_states, reset=starts)
    states = [last] if return_final_states else []
    if bounds is not None:
        states.append(ssd(*given, dt_limit=dt_limit, cu_seqlens=bounds)[1])
    return (out, *states) if states else out


def _bounds(function: str, cu_seqlens: Integers | None, initial_states: Tensor | None, x: Tensor) -> Tensor:
    """Return the bounds of the sequences whose states are returned."""
    if cu_seqlens is None:
        raise ValueError(f"{function}: cu_seqlens must be given where return_varlen_states is True, got None")
    if initial_states is not None:
        raise ValueError(f"{function}: initial_states must be None where return_varlen_states is True, got a tensor")
    check_packing(function, x.shape[0], None, "x")
    return checked_bounds(function, cu_seqlens, x.shape[1], x.device)


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
    """Mamba-2's mixer after in_proj: convolution, scan, gated norm, out_proj; see mamba_ssm's function of this name.

    ``chunk_size`` says how the original computes, and changes nothing here. Without ``rmsnorm_weight``, ``rmsnorm_eps``
    is not read.
    """
    options: dict[str, Any] = {"initial_states": initial_states, "seq_idx": seq_idx, "dt_limit": dt_limit}
    options |= {"return_final_states": return_final_states, "activation": activation}
    if rmsnorm_weight is not None:
        options |= {"rmsnorm_weight": rmsnorm_weight, "rmsnorm_eps": rmsnorm_eps}
    options |= {"outproj_weight": outproj_weight, "outproj_bias": outproj_bias}
    options |= {"headdim": headdim, "ngroups": ngroups, "norm_before_gate": norm_before_gate}
    return mamba2_inner(zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, **options)
