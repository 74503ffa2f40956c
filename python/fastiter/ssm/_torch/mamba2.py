"""Mamba-2's mixer between its projections, on tensors: convolution, scan, gated normalisation and output."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from ..._check import check_flag, type_name
from ..._torch.autograd import names_errors
from ..._torch.elementwise import gated
from ..._torch.ops import cast, checked_integers
from ..._torch.overrides import dispatched
from .._conv_shapes import Activation, check_activation
from .._ssd_shapes import checked_limits
from .causal_conv import causal_conv1d
from .checks import Integers, check_tensors
from .norm import Norm, check_eps, normalized
from .ops import computed, product
from .ssd import ssd


class _Sizes(NamedTuple):
    """H heads of P channels, G groups of N states, and the channels of the parallel gated MLP."""

    heads: int
    width: int
    groups: int
    states: int
    mlp: int

    @property
    def channels(self) -> int:
        return self.heads * self.width

    @property
    def parts(self) -> list[int]:
        """Return the widths of the parts of the input: MLP, z, x with B and C, dt."""
        return [2 * self.mlp, self.channels, self.channels + 2 * self.groups * self.states, self.heads]


@names_errors
def mamba2_inner(
    zxbcdt: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    *,
    state: Tensor | None = None,
    seq_idx: Integers | None = None,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    return_last_state: bool = False,
    activation: Activation | None = "silu",
    rmsnorm_weight: Tensor | None = None,
    rmsnorm_eps: float = 1e-6,
    outproj_weight: Tensor | None = None,
    outproj_bias: Tensor | None = None,
    headdim: int | None = None,
    ngroups: int = 1,
    norm_before_gate: bool = True,
) -> Tensor | tuple[Tensor, Tensor]:
    """outproj(norm(ssd(x, dt, A, B, C), z)) with x, B, C = act(causal_conv1d(x, B, C)): Mamba-2's mixer after in_proj.

    Parameters
    ----------
    zxbcdt : Tensor (B, T, 2 M + 2 H P + 2 G N + H), float32, float64, float16 or bfloat16
        The output of in_proj: a gated MLP's two halves (M may be 0), z, x, B, C and dt, of H heads of P channels and G
        groups of N states.
    conv1d_weight, conv1d_bias : Tensor (H P + 2 G N, W), and (H P + 2 G N,) or None
        The convolution of x, B and C; the weight may have an axis of 1 before its last.
    dt_bias, A : Tensor (H,)
        Bias of the step sizes, to which softplus is applied, and rates.
    D : Tensor (H,) or (H, P)
        Weight of x in the output.
    state : Tensor (B, H, P, N), optional
        State before the first step; if seq_idx is given, for the sequences with index 0; zero by default.
    seq_idx : integers (B, T), optional
        Index of each step's sequence: where it changes, the state and the inputs of the convolution are dropped.
    dt_limit : pair of float
        Bounds of the step sizes.
    return_last_state : bool
        Also return the state after the last step.
    activation : None, "silu" or "swish"
        Applied to the convolution's output.
    rmsnorm_weight : Tensor (H P,), optional
        Weight of a gated RMSNorm in each group. Without it, the result is multiplied by z s(z) and not normalised.
    rmsnorm_eps : float
        Added to the mean squares.
    outproj_weight, outproj_bias : Tensor (O, M + H P) and (O,), optional
        Projection of the result.
    headdim : int, optional
        P; required if D is (H,).
    ngroups : int
        G.
    norm_before_gate : bool
        Normalise before applying the gate (True), or after it, as Mamba-2's models do (False).

    Returns
    -------
    out : Tensor (B, T, M + H P), or (B, T, O) if projected
        The result, in the dtype of zxbcdt. Differentiable once in every tensor.
    last : Tensor (B, H, P, N), float32 or float64
        State after the last step. Only with ``return_last_state``. Also differentiable.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.

    See Also
    --------
    ssd : The recurrence in the mixer.
    gated_rms_norm : The normalisation in the mixer.
    mamba_inner : The mixer of Mamba.

    References
    ----------
    Dao and Gu (2024), Transformers are SSMs: structured state-space duality.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> zxbcdt = torch.randn(1, 20, 2 * 32 + 2 * 8 + 4)  # 4 heads of 8 channels, one group of 8 states
    >>> bias, A, D = torch.zeros(4), -torch.ones(4), torch.ones(4)
    >>> fastiter.torch.ssm.mamba2_inner(zxbcdt, torch.randn(48, 4), None, bias, A, D, headdim=8).shape
    torch.Size([1, 20, 32])
    """
    options: dict[str, Any] = {"dt_limit": dt_limit, "return_last_state": return_last_state}
    options |= {"activation": activation, "rmsnorm_eps": rmsnorm_eps, "headdim": headdim, "ngroups": ngroups}
    options["norm_before_gate"] = norm_before_gate
    inputs = (zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D)
    optional = {"state": state, "rmsnorm_weight": rmsnorm_weight}
    optional |= {"outproj_weight": outproj_weight, "outproj_bias": outproj_bias}
    if has_torch_function((*inputs, seq_idx, *optional.values())):
        result: Tensor = dispatched(mamba2_inner, *inputs, seq_idx=seq_idx, **optional, **options)
        return result
    function = "mamba2_inner"
    check_flag(function, "return_last_state", return_last_state)
    check_flag(function, "norm_before_gate", norm_before_gate)
    check_eps(function, "rmsnorm_eps", rmsnorm_eps)
    check_activation(function, activation)
    limits = checked_limits(function, dt_limit)
    every: dict[str, Any] = dict(zip(_NAMES, inputs, strict=True)) | optional
    size = _checked_sizes(function, every, headdim, ngroups)
    labels = checked_labels(function, seq_idx, zxbcdt)
    norm = Norm(rmsnorm_eps, size.groups, norm_before_gate)
    out, last = _mix(every, size, labels, limits, activation, norm)
    return (out, last) if return_last_state else out


def _mix(
    inputs: dict[str, Any],
    size: _Sizes,
    labels: Tensor | None,
    limits: tuple[float, float],
    activation: Activation | None,
    norm: Norm,
) -> tuple[Tensor, Tensor]:
    """Return the output and the last state for checked arguments, which are passed by name."""
    mlp, z, conv, dt = inputs["zxbcdt"].split(size.parts, -1)
    filters = (inputs["conv1d_weight"].flatten(1), inputs["conv1d_bias"])
    mixed = causal_conv1d(conv.transpose(1, 2), *filters, seq_idx=labels, activation=activation)
    assert isinstance(mixed, Tensor)  # for the type checker
    x, B, C = mixed.transpose(1, 2).split([size.channels, *[size.groups * size.states] * 2], -1)
    B, C = (y.unflatten(-1, (size.groups, size.states)) for y in (B, C))
    x, gate = (y.unflatten(-1, (size.heads, size.width)) for y in (x, z))
    starts = None if labels is None else resets(labels)
    weight = inputs["rmsnorm_weight"]
    signals = (x, dt, inputs["A"], B, C, inputs["D"], gate if weight is None else None, inputs["dt_bias"], True)
    y, last = ssd(*signals, dt_limit=limits, state=inputs["state"], reset=starts)
    out = y.flatten(-2) if weight is None else normalized(y.flatten(-2), weight, z, None, norm)
    if size.mlp:
        out = torch.cat([_gated(mlp), out], -1)
    if inputs["outproj_weight"] is not None:
        bias = inputs["outproj_bias"]
        out = product(out, cast(inputs["outproj_weight"], out.dtype), None if bias is None else cast(bias, out.dtype))
    return out, last


def resets(seq_idx: Tensor) -> Tensor:
    """Return where the state is dropped: where the sequence index changes, and at the first step unless it is 0."""
    return torch.cat([seq_idx[:, :1] != 0, seq_idx[:, 1:] != seq_idx[:, :-1]], 1)


def checked_labels(function: str, seq_idx: Integers | None, like: Tensor) -> Tensor | None:
    """Return the sequence indices as a tensor; ``like`` is (B, T, ...)."""
    if seq_idx is None:
        return None
    labels = checked_integers(function, "seq_idx", seq_idx, like.device)
    if labels.shape != like.shape[:2]:
        expected = tuple(like.shape[:2])
        raise ValueError(f"{function}: seq_idx must have shape (B, T) = {expected}, got {tuple(labels.shape)}")
    return labels


def _gated(x: Tensor) -> Tensor:
    """Return silu(a) b for the halves a and b of x."""
    a, b = cast(x, computed(x.dtype)).chunk(2, -1)
    return gated(b, a).to(x.dtype)


_NAMES = ("zxbcdt", "conv1d_weight", "conv1d_bias", "dt_bias", "A", "D")
_OPTIONAL = {"conv1d_bias", "state", "rmsnorm_weight", "outproj_weight", "outproj_bias"}


def _checked_sizes(function: str, inputs: dict[str, Any], headdim: object, ngroups: object) -> _Sizes:
    """Return the sizes if types, dtypes, devices and shapes are right."""
    tensors = {name: x for name, x in inputs.items() if x is not None or name not in _OPTIONAL}
    check_tensors(function, tensors, "zxbcdt")
    shape: dict[str, tuple[int, ...]] = {name: tuple(x.shape) for name, x in tensors.items()}
    if len(shape["zxbcdt"]) != 3:
        raise ValueError(f"{function}: zxbcdt must have shape (B, T, width), got {shape['zxbcdt']}")
    if "outproj_bias" in shape and "outproj_weight" not in shape:
        raise ValueError(f"{function}: outproj_bias must be None if outproj_weight is None, got a tensor")
    heads, width, groups = _checked_heads(function, shape["D"], headdim, ngroups)
    channels, weight = heads * width, shape["conv1d_weight"]
    if len(weight) not in (2, 3) or weight[-1] < 1 or weight[1:-1] not in ((), (1,)):
        raise ValueError(f"{function}: conv1d_weight must have shape (H P + 2 G N, W), got {weight}")
    states, rest = divmod(weight[0] - channels, 2 * groups)
    if states < 1 or rest:
        expected = f"H P + 2 G N = {channels} + {2 * groups} N rows"
        raise ValueError(f"{function}: conv1d_weight must have {expected}, got shape {weight}")
    needed = channels + weight[0] + heads
    mlp, odd = divmod(shape["zxbcdt"][2] - needed, 2)
    if mlp < 0 or odd:
        expected = f"2 M + {needed} columns to go with conv1d_weight and D"
        raise ValueError(f"{function}: zxbcdt must have {expected}, got shape {shape['zxbcdt']}")
    outputs = shape.get("outproj_weight", ())[:1] or (0,)
    wanted = {"conv1d_bias": weight[:1], "dt_bias": (heads,), "A": (heads,), "rmsnorm_weight": (channels,)}
    wanted |= {"outproj_weight": (*outputs, mlp + channels), "outproj_bias": outputs}
    wanted["state"] = (shape["zxbcdt"][0], heads, width, states)
    for name, right in wanted.items():
        if name in shape and shape[name] != right:
            raise ValueError(f"{function}: {name} must have shape {right}, got {shape[name]}")
    return _Sizes(heads, width, groups, states, mlp)


def _checked_heads(function: str, D: tuple[int, ...], headdim: object, ngroups: object) -> tuple[int, int, int]:
    """Return H, P and G."""
    if len(D) not in (1, 2) or 0 in D:
        raise ValueError(f"{function}: D must have shape (H,) or (H, P), got {D}")
    inputs = (("headdim", headdim), ("ngroups", ngroups))
    if len(D) == 2 and headdim is None:
        inputs = (("headdim", D[1]), inputs[1])
    numbers = [D[0]]
    for name, number in inputs:
        needed = ", as D has no axis of them" if name == "headdim" and len(D) == 1 else ""
        if not isinstance(number, int) or isinstance(number, bool):
            raise TypeError(f"{function}: {name} must be an int{needed}, got {type_name(number)}")
        if number < 1:
            raise ValueError(f"{function}: {name} must be at least 1, got {number}")
        numbers.append(number)
    if D[1:] not in ((), (numbers[1],)):
        raise ValueError(f"{function}: headdim must be {D[1]} to go with D, got {headdim}")
    heads, width, groups = numbers
    if heads % groups:
        raise ValueError(f"{function}: ngroups must be a divisor of H = {heads}, got {groups}")
    return heads, width, groups
