"""Mamba-2's scan on tensors, differentiable: S = exp(d A) S + d x B^T, y = S C + D x, out = y z s(z)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from ..._check import check_flag
from ..._torch.autograd import names_errors
from ..._torch.distributed.dtensors import CUTS, Axes, is_dtensor, on_shards
from ..._torch.elementwise import gated, softplus
from ..._torch.ops import CPU_AND_CUDA
from ..._torch.overrides import dispatched
from ..._torch.sequences import checked_sequences
from .._ssd_shapes import check_ssd_shapes, check_ssd_state, checked_limits
from .attention import linear_attention
from .checks import Integers, check_tensors
from .ops import computed

#: The axes of the arguments, in the letters of `Axes`: N heads, which share the weights B and C of H groups
_AXES: Axes = {
    "x": ("BTNP",),
    "dt": ("BTN",),
    "A": ("N",),
    "B": ("BTHS",),
    "C": ("BTHS",),
    "D": ("N", "NP"),
    "z": ("BTNP",),
    "dt_bias": ("N",),
    "state": ("BNPS",),
    **CUTS,
}


@names_errors
def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    *,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    state: Tensor | None = None,
    reverse: bool = False,
    reset: Tensor | None = None,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
) -> tuple[Tensor, Tensor]:
    """S[t] = exp(d A) S[t-1] + d x B^T, out[t] = (S[t] C + D x) z s(z): Mamba-2's recurrence on tensors.

    The step size d is dt + dt_bias, or its softplus with ``dt_softplus``, clamped to ``dt_limit``. This is
    :func:`linear_attention` with C as queries, B as keys, d x as values, and exp(d A) as the decay of a head.

    Tensors may be DTensors sharded by heads or by rows: each rank computes its own.

    Parameters
    ----------
    x : Tensor (B, T, H, P), float32, float64, float16 or bfloat16
        Inputs of H heads of P channels. 16-bit and 32-bit inputs are computed in float32.
    dt : Tensor (B, T, H)
        Step sizes.
    A : Tensor (H,)
        Rates, usually negative.
    B, C : Tensor (B, T, G, N)
        Weights of input and output for N states, shared by the H / G heads of each of G groups.
    D : Tensor (H,) or (H, P), optional
        Weight of x in the output.
    z : Tensor (B, T, H, P), optional
        The gate of the output.
    dt_bias : Tensor (H,), optional
        Added to dt.
    dt_softplus : bool
        Apply log(1 + e^x) to dt + dt_bias.
    dt_limit : pair of float
        Bounds of d; where d is clamped, its gradient is 0.
    state : Tensor (B, H, P, N), optional
        State before the first step; zero by default.
    reverse : bool
        Run from the last step to the first, on reversed copies of the signals.
    reset : bool Tensor (B, T) or (T,), optional
        True where the previous state counts as zero.
    lengths : integers (B,), optional
        Valid steps of each row, 0 to T; later steps are not computed and their out is 0.
    cu_seqlens : integers (S + 1,), optional
        S sequences packed into one row (B = 1): sequence s is the steps cu_seqlens[s] to cu_seqlens[s + 1]. The states
        are then (S, H, P, N).

    Returns
    -------
    out : Tensor (B, T, H, P)
        In the dtype of x.
    last : Tensor (B, H, P, N), float32 or float64
        State after the last valid step.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.

    See Also
    --------
    linear_attention : The recurrence with the names of queries, keys and values.
    mamba2_inner : The mixer of Mamba-2 that contains this scan.
    fastiter.ssm.ssd : The same on arrays.

    References
    ----------
    Dao and Gu (2024), Transformers are SSMs: structured state-space duality.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> x, dt = torch.randn(1, 20, 4, 8), torch.randn(1, 20, 4)
    >>> B, C = torch.randn(2, 1, 20, 1, 16).unbind()
    >>> out, last = fastiter.torch.ssm.ssd(x, dt, -torch.ones(4), B, C, dt_softplus=True)
    >>> out.shape, last.shape
    (torch.Size([1, 20, 4, 8]), torch.Size([1, 4, 8, 16]))
    """
    function = "ssd"
    inputs = (x, dt, A, B, C, D, z, dt_bias)
    options: dict[str, Any] = {"state": state, "reset": reset}
    cuts: dict[str, Any] = {"reverse": reverse, "lengths": lengths, "cu_seqlens": cu_seqlens}
    if has_torch_function((*inputs, *options.values(), *cuts.values())):
        rest = {**options, **cuts, "dt_limit": dt_limit}
        result: tuple[Tensor, Tensor] = dispatched(ssd, *inputs, dt_softplus, **rest)
        return result
    if type(x) is not Tensor and is_dtensor(x):
        whole = dict(zip(("x", "dt", "A", "B", "C", "D", "z", "dt_bias"), inputs, strict=True))
        rest = {"dt_softplus": dt_softplus, "dt_limit": dt_limit, **options, **cuts}
        result = on_shards(ssd, {**whole, **rest}, _AXES, ("BTNP", "BNPS"))
        return result
    check_flag(function, "dt_softplus", dt_softplus)
    names = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "state")
    optional = names[5:]
    every: dict[str, Any] = dict(zip(names, (*inputs, state), strict=True))
    tensors = {name: y for name, y in every.items() if y is not None or name not in optional}
    check_tensors(function, tensors, "x", CPU_AND_CUDA)
    shapes = {name: y.shape for name, y in tensors.items()}
    size = check_ssd_shapes(function, shapes)
    limits = checked_limits(function, dt_limit)
    check_flag(function, "reverse", reverse)
    cut = checked_sequences(function, x, reset, lengths, cu_seqlens, "x")
    if state is not None:
        check_ssd_state(function, state.shape, cut.count(size[0]), shapes)
    if cut.lengths is not None:
        x, dt, z = (_valid(y, cut.lengths) for y in (x, dt, z))
    d = step_sizes(dt, dt_bias, dt_softplus, limits)
    first = None if state is None else state.transpose(2, 3)
    values = (x * d.unsqueeze(-1)).to(computed(x.dtype))
    y, last = linear_attention(C, B, values, d * A.to(d.dtype), state=first, reset=reset, **cuts)
    if D is not None:
        y = y + (D if D.dim() == 2 else D.unsqueeze(1)).to(y.dtype) * x
    if z is not None:
        y = gated(y, z.to(y.dtype))
    if cut.lengths is not None:
        y = _valid(y, cut.lengths)  # masks the gradients beyond the lengths
    return y.to(x.dtype), last.transpose(2, 3)


def _valid(x: Any, lengths: Tensor) -> Any:
    """Return a signal (B, T, ...) with zeros beyond the valid steps of each row, where its gradient is also 0."""
    if x is None:
        return None
    beyond = torch.arange(x.shape[1], device=x.device) >= lengths.to(x.device, non_blocking=True).unsqueeze(1)
    return x.masked_fill(beyond.reshape(*beyond.shape, *[1] * (x.dim() - 2)), 0)


def step_sizes(dt: Tensor, bias: Tensor | None, use_softplus: bool, limits: tuple[float, float]) -> Tensor:
    """Return d in the dtype of the arithmetic."""
    d = dt.to(computed(dt.dtype))
    if bias is not None:
        d = d + bias.to(d.dtype)
    if use_softplus:
        d = softplus(d)
    if limits != (-math.inf, math.inf) and not (use_softplus and limits == (0.0, math.inf)):
        d = torch.clamp(d, *limits)
    return d
