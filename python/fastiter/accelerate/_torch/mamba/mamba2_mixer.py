"""Whole mixers of Mamba-2: channels remain contiguous from the input projection to the output projection."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor
from torch.nn.functional import silu

from .... import _core
from ..functions import Function, in_float64_if, step_in_place
from ..layers import Call, convolved, fused_step, has_hooks, masked, product, read_call
from ..rebind import digest_of, unwrapped
from .mamba2 import wide_ssd

#: The digest of the gated norm's forward in Mamba2, Bamba, GraniteMoeHybrid, NemotronH and Zamba2, transformers 5.24
_NORM = "8ded81007a79dd02"


def mamba2_mixer(theirs: Function, of_cache: str) -> Function:
    """Return a replacement for forward of the mixers of Mamba-2; unsupported calls go to the original."""

    def forward(self: Any, *args: Any, **options: Any) -> Tensor:
        call = read_call(self, of_cache, args, options)
        if call is None:
            out: Tensor = theirs(self, *args, **options)
            return out
        fused = _fused_step(self, call) if call.is_step else None
        if fused is not None:
            return fused
        gate, u, dt = _projected(self, masked(call.x, call.mask))
        u = masked(convolved(self, u, call), call.mask)
        y = _step(self, u, dt, call) if call.is_step else _sequence(self, u, dt, call)
        return product(self.out_proj, _gated(self, y, gate).to(call.x.dtype))

    return forward


def _fused_step(self: Any, call: Call) -> Tensor | None:
    """Return the output of one step by one call of a kernel, None if that is unsupported or the norm is another one."""
    norm = getattr(self, "norm", None)  # some models of FalconH1 have none
    if norm is None or not _is_gated_norm(type(norm).forward) or has_hooks(norm):
        return None
    weights = (self.dt_bias, self.A_log, self.D, norm.weight)
    sizes = (self.n_groups, int(norm.group_size), float(norm.variance_epsilon))
    return fused_step(self, call, _core.ssm.mamba2_step, weights, sizes)


@functools.cache
def _is_gated_norm(forward: Any) -> bool:
    """Return whether a forward is the gated norm that the kernel computes."""
    return digest_of(unwrapped(forward)) == _NORM


def _projected(self: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Return the gate, the inputs of the convolution, and the step sizes."""
    if hasattr(self, "mup_vector"):  # FalconH1
        projected = product(self.in_proj, x * self.ssm_in_multiplier) * self.mup_vector
    else:
        projected = product(self.in_proj, x)
    return projected.split([self.intermediate_size, self.conv_dim, self.num_heads], -1)


def _gated(self: Any, y: Tensor, gate: Tensor) -> Tensor:
    if getattr(self, "mamba_rms_norm", True):  # False in some models of FalconH1
        out: Tensor = self.norm(y, gate)
        return out
    return y * silu(gate)


def _heads(self: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the signals (..., H, P), B and C (..., G, N)."""
    states = self.n_groups * self.ssm_state_size
    u, B, C = x.split([self.intermediate_size, states, states], -1)
    return u.unflatten(-1, (-1, self.head_dim)), *(y.unflatten(-1, (self.n_groups, -1)) for y in (B, C))


def _sequence(self: Any, u: Tensor, dt: Tensor, call: Call) -> Tensor:
    """Return the output of a sequence (B, T, D) before the gate."""
    signals, B, C = _heads(self, u)
    weights = (self.D, self.dt_bias, call.states.recurrent)
    limits = {"dt_softplus": True, "dt_limit": self.time_step_limit}
    y, last = wide_ssd(signals, dt, -self.A_log.float().exp(), B, C, *weights, **limits)
    if call.cache is not None:
        call.cache.update_recurrent_state(last, self.layer_idx)
    return y.flatten(2)


def _step(self: Any, u: Tensor, dt: Tensor, call: Call) -> Tensor:
    """Return the output of one step (B, 1, D) before the gate; updates the state in place."""
    state = call.states.recurrent
    signals, B, C = _heads(self, u[:, 0])
    A, D, dt_bias = in_float64_if(u, self.A_log.float().exp().neg_(), self.D, self.dt_bias)
    A = A[:, None, None].expand(-1, *state.shape[2:])
    dt, D, dt_bias = (y[..., None].expand(*y.shape, self.head_dim) for y in (dt[:, 0], D, dt_bias))
    return step_in_place(state, signals, dt, A, B, C, D, None, dt_bias, True).flatten(1)[:, None]
