"""Replacements for the methods of RecurrentGemmaRglru of transformers, with bitwise equal results."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...scan._torch.functional import linear_scan
from .functions import Function, on_cpu

_RATE = -8.0  # the scale of the logarithm of a, as in the original


def rglru(theirs: Function) -> Function:
    """Return a replacement for forward, whose elementwise operations overwrite their inputs.

    A loop over new memory takes most of the time of an elementwise operation on a CPU. The operations and their order
    are the original's. Calls with gradients, which need the inputs, single steps and mixed dtypes go to the original.
    """

    def forward(self: Any, activations: Tensor, position_ids: Tensor) -> Tensor:
        if not _overwrites(self, activations):
            result: Tensor = theirs(self, activations, position_ids)
            return result
        reset = (position_ids == 0)[:, :, None]
        heads = activations.reshape(-1, self.num_attention_heads, self.block_width).permute(1, 0, 2)
        x = _gate(heads, self.input_gate_weight, self.input_gate_bias, activations).mul_(activations)
        log_a = _gate(heads, self.recurrent_gate_weight, self.recurrent_gate_bias, activations)
        log_a.mul_(_RATE).mul_(nn.functional.softplus(self.recurrent_param))
        scale = (2 * log_a).exp_().neg_().add_(1).sqrt_()  # -y + 1 and 1 - y have the same bits
        x.mul_(scale.mul_(~reset).add_(reset))
        h, self.recurrent_states = self._rnn_scan(
            hidden_states=x, recurrent_gate=log_a.exp_(), reset=reset, recurrent_states=self.recurrent_states
        )
        out: Tensor = h
        return out

    return forward


def _overwrites(self: Any, x: Tensor) -> bool:
    if x.shape[1] == 1 or not on_cpu(x) or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    gates = (self.input_gate_weight, self.input_gate_bias, self.recurrent_gate_weight, self.recurrent_gate_bias)
    return all(w.dtype == x.dtype for w in (*gates, self.recurrent_param))


def _gate(heads: Tensor, weight: Tensor, bias: Tensor, like: Tensor) -> Tensor:
    """Return the sigmoid of a product for each head (heads, B T, D), as a new tensor in the layout (B, T, heads D)."""
    product = torch.baddbmm(bias[:, None, :], heads, weight)
    return product.transpose(0, 1).reshape(like.shape).sigmoid_()


def rnn_scan(theirs: Function) -> Function:
    """Return a replacement for _rnn_scan."""

    def _rnn_scan(
        self: Any,
        hidden_states: Tensor,
        recurrent_gate: Tensor,
        reset: Tensor,
        recurrent_states: Tensor | None,
        acc_dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, Tensor]:
        if hidden_states.shape[1] == 1 or not on_cpu(hidden_states):
            result: tuple[Tensor, Tensor] = theirs(
                self, hidden_states, recurrent_gate, reset, recurrent_states, acc_dtype
            )
            return result
        a, x = (y.to(acc_dtype) for y in (recurrent_gate, hidden_states))
        h0 = None if recurrent_states is None else recurrent_states.to(acc_dtype)
        h, last = linear_scan(a, x, h0, reset=reset[..., 0].expand(x.shape[:2]))
        return h.to(hidden_states.dtype), last

    return _rnn_scan
