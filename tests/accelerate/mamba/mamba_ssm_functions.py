"""Functions of mamba_ssm 2.3 and causal_conv1d 1.6: their signatures, for GPUs only, and their equations."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad, silu, softplus

from tests.ssm import mixer_reference
from tests.ssm.mixer_reference import convolution, norm, scan


def for_gpus(package: str, name: str, signature: str) -> Any:
    scope: dict[str, Any] = {"__name__": package}
    exec(f"def {name}({signature}):\n    raise RuntimeError('{name} needs a GPU')", scope)
    return scope[name]


_OPTIONS = "residual=None, x1=None, weight1=None, bias1=None, eps=1e-6, dropout_p=0.0, rowscale=None, prenorm=False"
_GATED = "x, weight, bias, z=None, eps=1e-6, group_size=None, norm_before_gate=True"
selective_scan_fn: Any = for_gpus(
    "mamba_ssm",
    "selective_scan_fn",
    "u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False",
)
mamba_inner_fn: Any = for_gpus(
    "mamba_ssm",
    "mamba_inner_fn",
    "xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias, A, B=None,"
    "C=None, D=None, delta_bias=None, B_proj_bias=None, C_proj_bias=None, delta_softplus=True, checkpoint_lvl=1",
)
selective_state_update: Any = for_gpus(
    "mamba_ssm",
    "selective_state_update",
    "state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False, state_batch_indices=None",
)
mamba_chunk_scan_combined: Any = for_gpus(
    "mamba_ssm",
    "mamba_chunk_scan_combined",
    "x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None, seq_idx=None, cu_seqlens=None,"
    "dt_softplus=False, dt_limit=(0.0, float('inf')), return_final_states=False, return_varlen_states=False",
)
mamba_split_conv1d_scan_combined: Any = for_gpus(
    "mamba_ssm",
    "mamba_split_conv1d_scan_combined",
    "zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, chunk_size, initial_states=None, seq_idx=None,"
    "dt_limit=(0.0, float('inf')), return_final_states=False, activation='silu', rmsnorm_weight=None,"
    "rmsnorm_eps=1e-6, outproj_weight=None, outproj_bias=None, headdim=None, ngroups=1, norm_before_gate=True",
)
layer_norm_fn: Any = for_gpus(
    "mamba_ssm",
    "layer_norm_fn",
    f"x, weight, bias, {_OPTIONS}, residual_in_fp32=False, is_rms_norm=False, return_dropout_mask=False",
)
rms_norm_fn: Any = for_gpus("mamba_ssm", "rms_norm_fn", f"x, weight, bias, {_OPTIONS}, residual_in_fp32=False")
rmsnorm_fn: Any = for_gpus("mamba_ssm", "rmsnorm_fn", _GATED)
causal_conv1d_fn: Any = for_gpus(
    "causal_conv1d",
    "causal_conv1d_fn",
    "x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False, final_states_out=None,"
    "activation=None",
)
causal_conv1d_update: Any = for_gpus(
    "causal_conv1d", "causal_conv1d_update", "x, conv_state, weight, bias=None, activation=None, cache_seqlens=None"
)
causal_conv1d_varlen_states: Any = for_gpus("causal_conv1d", "causal_conv1d_varlen_states", "x, cu_seqlens, state_len")


# ---- The equations, in float64 ---------------------------------------------------------------------------------------


def _double(*given: Any) -> Any:
    return tuple(x.double() if isinstance(x, torch.Tensor) else x for x in given)


def _scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False):
    u, delta, A, B, C, D, z, delta_bias = _double(u, delta, A, B, C, D, z, delta_bias)
    state, found = u.new_zeros(*u.shape[:2], A.shape[1]), []
    for t in range(u.shape[2]):
        y = _step(state, u[..., t], delta[..., t], A, B[..., t], C[..., t], D, z[..., t], delta_bias, delta_softplus)
        state, out = y
        found.append(out)
    return (torch.stack(found, -1), state) if return_last_state else torch.stack(found, -1)


def _step(state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False):
    """Return the next state and the output of one step, for (B, D) or (B, H, P)."""
    d = softplus(dt + dt_bias) if dt_softplus else dt + dt_bias
    if x.dim() == 3:
        B, C = (y.repeat_interleave(x.shape[1] // y.shape[1], 1)[:, :, None] for y in (B, C))
    else:
        B, C = B[:, None], C[:, None]
    state = torch.exp(d[..., None] * A) * state + (d * x)[..., None] * B
    y = (state * C).sum(-1) + D * x
    return state, y if z is None else y * silu(z)


def _update(state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False):
    after, y = _step(*_double(state, x, dt, A, B, C, D, z, dt_bias), dt_softplus)
    state.copy_(after)
    return y


def _inner(xz, conv1d_weight, conv1d_bias, x_proj, dt_proj, out_proj, out_proj_bias, A, B=None, C=None, D=None, **more):
    weights = _double(xz, conv1d_weight, conv1d_bias, x_proj, dt_proj, out_proj)
    biases = {"B_proj_bias": 0, "C_proj_bias": 0, "D": D.double(), "delta_bias": more["delta_bias"].double()}
    return mixer_reference.mamba_inner(*weights, 0 if out_proj_bias is None else out_proj_bias, A.double(), **biases)


def _chunk_scan(x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None, **more):
    x, dt, A, B, C, D, first = _double(x, dt, A, B, C, D, initial_states)
    heads, labels = x.shape[2], more.get("seq_idx")
    labels = torch.zeros(x.shape[:2]) if labels is None else labels
    first = x.new_zeros(len(x), heads, x.shape[3], B.shape[3]) if first is None else first
    B, C = (y.repeat_interleave(heads // y.shape[2], 2) for y in (B, C))
    d = softplus(dt + dt_bias.double()) if more.get("dt_softplus") else dt
    d = d.clamp(*more.get("dt_limit", (0.0, float("inf"))))
    y, last = scan(x, d, A, B, C, first, labels)
    y = y + (D if D.dim() == 2 else D[:, None]) * x
    y, found = y if z is None else y * silu(z), [last] if more.get("return_final_states") else []
    if more.get("return_varlen_states"):
        parts = zip(*(v[0].split(more["cu_seqlens"].diff().tolist()) for v in (x, d, B, C)), strict=True)
        ends = [scan(a[None], b[None], A, p[None], q[None], first * 0, labels * 0)[1] for a, b, p, q in parts]
        found.append(torch.cat(ends))
    return (y, *found) if found else y


def _split(zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, chunk_size, **more):
    given = _double(zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D)
    heads, width = len(A), D.shape[1] if D.dim() == 2 else more["headdim"]
    labels, first = more.get("seq_idx"), more.get("initial_states")
    options = {"headdim": width, "seq_idx": torch.zeros(zxbcdt.shape[:2]) if labels is None else labels}
    states = (len(conv1d_weight) - heads * width) // 2 // more["ngroups"]
    options["state"] = given[0].new_zeros(len(zxbcdt), heads, width, states) if first is None else first
    names = ("ngroups", "norm_before_gate", "rmsnorm_weight", "rmsnorm_eps", "outproj_weight", "dt_limit")
    options |= {name: more[name] for name in names if name in more}
    options["outproj_bias"] = 0 if more["outproj_bias"] is None else more["outproj_bias"]
    return mixer_reference.mamba2_inner(*given, **options)[0]


def _layer_norm(x, weight, bias, residual=None, eps=1e-6, prenorm=False, is_rms_norm=False, **_):
    total = x if residual is None else x + residual
    y = norm(total, weight, None, bias, eps, 1, True, not is_rms_norm)
    return (y, total) if prenorm else y


def _gated_norm(x, weight, bias, z=None, eps=1e-6, group_size=None, norm_before_gate=True):
    groups = 1 if group_size is None else x.shape[-1] // group_size
    return norm(x, weight, z, bias, eps, groups, norm_before_gate)


def _convolution(x, weight, bias=None, seq_idx=None, activation=None):
    return convolution(x.transpose(1, 2), weight, bias, seq_idx).transpose(1, 2)


def _convolution_step(x, conv_state, weight, bias=None, activation=None):
    conv_state.copy_(torch.cat([conv_state[..., 1:], x[..., None]], -1))
    return silu((conv_state * weight).sum(-1) + bias)


def _last_inputs(x, cu_seqlens, state_len):
    parts = x.split(cu_seqlens.diff().tolist())
    return torch.stack([pad(part.T, (state_len, 0))[:, -state_len:] for part in parts])


EQUATIONS: dict[str, Any] = {
    "selective_scan_fn": _scan,
    "mamba_inner_fn": _inner,
    "selective_state_update": _update,
    "mamba_chunk_scan_combined": _chunk_scan,
    "mamba_split_conv1d_scan_combined": _split,
    "layer_norm_fn": _layer_norm,
    "rms_norm_fn": lambda *given, **options: _layer_norm(*given, **options, is_rms_norm=True),
    "rmsnorm_fn": _gated_norm,
    "causal_conv1d_fn": _convolution,
    "causal_conv1d_update": _convolution_step,
    "causal_conv1d_varlen_states": _last_inputs,
}
