"""Parts of fla's layers in torch's operations: norms, activations, rotary embeddings, shifts of tokens, RWKV-7's gates.

fla's are Triton kernels, which compute in float32 and round once; these compute float64 in float64, others in float32.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear, logsigmoid, relu, silu

from ....ssm._torch.norm import with_residual_stream
from ....ssm._torch.ops import computed
from ..functions import Function, on_cpus
from ..rebind import owner_of


def _wide(x: Tensor) -> Tensor:
    """Return a tensor in the dtype of the arithmetic."""
    return x.to(computed(x.dtype))


# ---- Norms ----------------------------------------------------------------------------------------------------------


def _normalised(
    x: Tensor, residual: Tensor | None, eps: float, is_rms_norm: bool, groups: int
) -> tuple[Tensor, Tensor]:
    """Return x + residual normalised in groups of channels, and unchanged, both in the dtype of the arithmetic."""
    total = _wide(x) if residual is None else _wide(x) + _wide(residual)
    rows = total.unflatten(-1, (groups, -1))
    rows = rows if is_rms_norm else rows - rows.mean(-1, keepdim=True)
    return (rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + eps)).flatten(-2), total


def _scaled(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y if weight is None else y * weight.to(y.dtype)
    return y if bias is None else y + bias.to(y.dtype)


def layer_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
    num_groups: int = 1,
) -> Any:
    """Return norm(x + residual), in groups of channels, and the sum with ``prenorm``."""
    y, total = _normalised(x, residual, eps, is_rms_norm, num_groups)
    return with_residual_stream(_scaled(y, weight, bias), total, x, residual, prenorm, residual_in_fp32)


def layer_norm_gated(
    x: Tensor,
    g: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: str = "swish",
    residual: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    eps: float = 1e-6,
    is_rms_norm: bool = False,
) -> Any:
    """Return norm(x + residual) times the gate, and the sum with ``prenorm``."""
    y, total = _normalised(x, residual, eps, is_rms_norm, 1)
    gate = (torch.sigmoid if activation == "sigmoid" else silu)(_wide(g))
    return with_residual_stream(_scaled(y, weight, bias) * gate, total, x, residual, prenorm, residual_in_fp32)


def _with_product(y: Any, weight: Tensor, bias: Tensor | None) -> Any:
    """Return the product of a normalised input with a weight, and the sum before the norm if there is one."""
    x = y[0] if isinstance(y, tuple) else y
    out = linear(x.to(weight.dtype), weight, bias)
    return (out, y[1]) if isinstance(y, tuple) else out


def layer_norm_linear(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    *rest: Any,
    **options: Any,
) -> Any:
    """Return layer_norm(x, ...) W^T + b."""
    return _with_product(layer_norm(x, norm_weight, norm_bias, *rest, **options), linear_weight, linear_bias)


def layer_norm_swish_gate_linear(
    x: Tensor,
    g: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    *rest: Any,
    **options: Any,
) -> Any:
    """Return layer_norm_gated(x, g, ...) W^T + b."""
    y = layer_norm_gated(x, g, norm_weight, norm_bias, "swish", *rest, **options)
    return _with_product(y, linear_weight, linear_bias)


# ---- Activations ----------------------------------------------------------------------------------------------------


def swiglu(x: Tensor, y: Tensor) -> Tensor:
    """Return silu(x) y."""
    return (silu(_wide(x)) * _wide(y)).to(x.dtype)


def swiglu_linear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return (silu(x) y) W^T + b."""
    return linear(swiglu(x, y).to(weight.dtype), weight, bias)


def log_sigmoid(x: Tensor, temperature: float = 1.0) -> Tensor:
    """Return log(sigmoid(x)) / temperature."""
    return (logsigmoid(_wide(x)) / temperature).to(x.dtype)


def _squared_relu(x: Tensor) -> Tensor:
    return relu(_wide(x)).square().to(x.dtype)


#: Replacements for activations that layers store as attributes, by the names of fla's autograd functions
_REPLACEMENTS: dict[str, Function] = {
    "FastGeLUFunction": partial(gelu, approximate="tanh"),
    "SigmoidFunction": torch.sigmoid,
    "SquaredReLUFunction": _squared_relu,
    "SwishFunction": silu,
}


def activation(theirs: Function) -> Function:
    """Return the replacement for an activation that a layer of fla stores as an attribute, else the original."""
    ours = _REPLACEMENTS.get(getattr(owner_of(theirs), "__name__", ""))
    return theirs if ours is None else on_cpus(ours)(theirs)


# ---- Positions and tokens -------------------------------------------------------------------------------------------


def rotary_embedding(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool = False,
    inplace: bool = False,
    seqlen_offsets: int | Tensor = 0,
    cu_seqlens: Tensor | None = None,
    *_: Any,
    **options: Any,
) -> Tensor:
    """Return x (B, T, H, D) with its first 2 R channels rotated by the angles (positions, R) of cos and sin.

    Rotated channels are 0 at positions that the angles do not have, as in left padding.
    """
    steps = _steps(x.shape[1], seqlen_offsets, cu_seqlens, x.device)
    inside = ((steps >= 0) & (steps < len(cos)))[..., None, None]
    rows = steps.clamp(0, max(len(cos) - 1, 0))
    c, s = (_wide(y)[rows][..., None, :] * inside for y in (cos, sin))
    width = 2 * cos.shape[1]
    rotated, rest = _wide(x[..., :width]), x[..., width:]
    first, second = rotated.unflatten(-1, (-1, 2)).unbind(-1) if interleaved else rotated.chunk(2, -1)
    parts = first * c - second * s, first * s + second * c
    y = torch.stack(parts, -1).flatten(-2) if interleaved else torch.cat(parts, -1)
    y = torch.cat([y.to(x.dtype), rest], -1)
    return x.copy_(y) if inplace else y


def _steps(time: int, offsets: int | Tensor, cu_seqlens: Tensor | None, device: torch.device) -> Tensor:
    """Return the positions (T,), or (B, T) with an offset for each sequence."""
    steps = torch.arange(time, device=device)
    if cu_seqlens is None:
        return steps + (offsets[:, None] if isinstance(offsets, Tensor) else offsets)
    lengths = cu_seqlens.diff()
    steps = steps - cu_seqlens[:-1].repeat_interleave(lengths)
    return steps + (offsets.repeat_interleave(lengths) if isinstance(offsets, Tensor) else offsets)


def token_shift(
    x: Tensor,
    cu_seqlens: Tensor | None = None,
    cache: Tensor | None = None,
    output_cache: bool = False,
    *_: Any,
    **options: Any,
) -> Any:
    """Return the previous step minus each step of x (B, T, D), and with ``output_cache`` the last steps (N, D).

    The step before the first is the cache (N, D), or 0.
    """
    rows = x.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    first = x.new_zeros(rows, x.shape[2]) if cache is None else cache.reshape(rows, x.shape[2]).to(x.dtype)
    if cu_seqlens is None:
        both = torch.cat([first[:, None], x], 1)
        before, last = both[:, :-1], both[:, -1]
    else:
        some = cu_seqlens.diff() > 0
        starts, ends = cu_seqlens[:-1][some], cu_seqlens[1:][some]
        before = x.roll(1, 1).index_copy(1, starts.long(), first[some][None])
        last = first.index_copy(0, some.nonzero()[:, 0], x[0, ends.long() - 1])
    return (before - x, last) if output_cache else before - x


# ---- RWKV-7 ---------------------------------------------------------------------------------------------------------


def fused_addcmul_rwkv7(
    hidden_states: Tensor,
    delta: Tensor,
    xr: Tensor,
    xw: Tensor,
    xk: Tensor,
    xv: Tensor,
    xa: Tensor,
    xg: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Return x + delta m for each mixture m."""
    factors = (xr, xw, xk, xv, xa, xg)
    return tuple(None if m is None else torch.addcmul(hidden_states, delta, m) for m in factors)


def fused_k_rwkv7(k: Tensor, a: Tensor, ka: Tensor, *_: Any, **options: Any) -> Tensor:
    """Return k (1 + (a - 1) ka)."""
    return k.addcmul(k * (a - 1), ka)


def gate_output_correction(o: Tensor, r: Tensor, k: Tensor, r_k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """Return (o + (sum over channels of r k r_k) v) g, for r, k, v (B, T, H, D) and o, g (B, T, H D)."""
    weight = (_wide(r) * _wide(k) * _wide(r_k)).sum(-1, keepdim=True)
    return ((_wide(o) + (weight * _wide(v)).flatten(2)) * _wide(g)).to(o.dtype)


def l2_norm(x: Tensor, eps: float = 1e-6, output_dtype: torch.dtype | None = None) -> Tensor:
    """Return x / sqrt(sum of squares + eps)."""
    wide = _wide(x)
    return (wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + eps)).to(output_dtype or x.dtype)


_X, _NORM, _GATED = ("x",), ("x", "weight", "bias", "residual"), ("x", "g", "weight", "bias", "activation")
_PRODUCT = ("x", "norm_weight", "norm_bias", "linear_weight", "linear_bias", "residual")
_GATED_PRODUCT = ("x", "g", *_PRODUCT[1:])
#: The originals' first parameters and the replacements, by the originals' names
FUNCTIONS: dict[str, tuple[tuple[str, ...], Function]] = {
    "fast_gelu_impl": (("input",), _REPLACEMENTS["FastGeLUFunction"]),
    "fused_addcmul_rwkv7": (("hidden_states", "delta", "xr", "xw", "xk", "xv", "xa", "xg"), fused_addcmul_rwkv7),
    "fused_k_rwkv7": (("k", "a", "ka"), fused_k_rwkv7),
    "gate_output_correction": (("o", "r", "k", "r_k", "v", "g"), gate_output_correction),
    "group_norm": (_NORM, layer_norm),
    "group_norm_linear": (_PRODUCT, layer_norm_linear),
    "l2_norm": (("x", "eps"), l2_norm),
    "l2norm": (("x", "eps"), l2_norm),
    "layer_norm": (_NORM, layer_norm),
    "layer_norm_gated": (_GATED, layer_norm_gated),
    "layer_norm_linear": (_PRODUCT, layer_norm_linear),
    "layer_norm_swish_gate_linear": (_GATED_PRODUCT, layer_norm_swish_gate_linear),
    "logsigmoid": (("x", "temperature"), log_sigmoid),
    "rms_norm": (_NORM, partial(layer_norm, is_rms_norm=True)),
    "rms_norm_gated": (_GATED, partial(layer_norm_gated, is_rms_norm=True)),
    "rms_norm_linear": (_PRODUCT, partial(layer_norm_linear, is_rms_norm=True)),
    "rms_norm_swish_gate_linear": (_GATED_PRODUCT, partial(layer_norm_swish_gate_linear, is_rms_norm=True)),
    "rotary_embedding": (("x", "cos", "sin", "interleaved", "inplace", "seqlen_offsets"), rotary_embedding),
    "sigmoid": (_X, torch.sigmoid),
    "sqrelu": (("input",), _squared_relu),
    "swiglu": (("x", "y"), swiglu),
    "swiglu_linear": (("x", "y", "weight", "bias"), swiglu_linear),
    "swish": (_X, silu),
    "token_shift": (("x", "cu_seqlens"), token_shift),
}
