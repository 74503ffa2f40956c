"""Whole mixers of Mamba: channels remain contiguous from the input projection to the output projection."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import linear

from .... import _core
from ....ssm._torch.functional import selective_scan
from ..functions import Function, in_float64_if, step_in_place
from ..layers import Call, convolved, fused_step, is_plain, masked, product, product_with, read_call


def mamba_mixer(theirs: Function, of_cache: str) -> Function:
    """Return a replacement for forward of the mixers of Mamba, FalconMamba and Jamba.

    Unsupported calls go to the original.
    """

    def forward(self: Any, *args: Any, **options: Any) -> Tensor:
        call = None if hasattr(self.config, "_is_quantized") else read_call(self, of_cache, args, options)
        if call is None:
            out: Tensor = theirs(self, *args, **options)
            return out
        fused = _fused_step(self, call) if call.is_step else None
        if fused is not None:
            return fused
        u, gate = product(self.in_proj, masked(call.x, call.mask)).chunk(2, -1)
        u = masked(convolved(self, u, call), call.mask)
        return _step(self, u, gate, call) if call.is_step else _sequence(self, u, gate, call)

    return forward


def _fused_step(self: Any, call: Call) -> Tensor | None:
    """Return the output of one step by one call of a kernel, None if that is unsupported."""
    if hasattr(self, "dt_layernorm") or not (is_plain(self.x_proj) and is_plain(self.dt_proj)):
        return None
    if self.x_proj.bias is not None:
        return None
    weights = (self.x_proj.weight, self.dt_proj.weight, self.dt_proj.bias, self.A_log, self.D)
    return fused_step(self, call, _core.ssm.mamba_step, weights)


def _sequence(self: Any, u: Tensor, gate: Tensor, call: Call) -> Tensor:
    dt, B, C = _projected(self, product(self.x_proj, u))
    dt = product_with(self.dt_proj.weight, dt)
    weights = -self.A_log.float().exp(), self.D.float(), _bias_of(self.dt_proj)
    A, D, dt_bias = in_float64_if(u, *weights)
    u, dt, B, C, gate = (y.transpose(1, 2) for y in (u, dt, B, C, gate))
    y, last = selective_scan(u, dt, A, B, C, D, gate, dt_bias, delta_softplus=True, return_last_state=True)
    if call.cache is not None:
        call.cache.update_recurrent_state(last, self.layer_idx)
    return product(self.out_proj, y.transpose(1, 2))


def _step(self: Any, u: Tensor, gate: Tensor, call: Call) -> Tensor:
    """Return the output of one step (B, 1, D); updates the state in place."""
    u, gate = u[:, 0], gate[:, 0]
    dt, B, C = _projected(self, _applied(self.x_proj, u))
    dt = linear(dt, self.dt_proj.weight)
    A, D, dt_bias = in_float64_if(u, self.A_log.float().exp().neg_(), self.D, _bias_of(self.dt_proj))
    y = step_in_place(call.states.recurrent, u, dt, A, B, C, D, gate, dt_bias, True)
    return _applied(self.out_proj, y)[:, None]


def _applied(layer: Any, x: Tensor) -> Tensor:
    """Return layer(x) for few rows."""
    out: Tensor = linear(x, layer.weight, layer.bias) if is_plain(layer) else layer(x)
    return out


def _bias_of(layer: Any) -> Tensor | None:
    return None if layer.bias is None else layer.bias.float()


def _projected(self: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Return the step sizes before their own projection, B and C, normalised if the model does so."""
    dt, B, C = x.split([self.time_step_rank, self.ssm_state_size, self.ssm_state_size], -1)
    if hasattr(self, "dt_layernorm"):
        return self.dt_layernorm(dt), self.b_layernorm(B), self.c_layernorm(C)
    return dt, B, C
