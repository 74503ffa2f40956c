"""RWKV-4's attention on tensors, differentiable to any order: weighted means of values, whose weights decay in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..._torch.autograd import one_by_one
from ..._torch.autograd_twice import differentiable
from .checks import needs_autograd
from .ops_wkv import WkvBackward, WkvForward, wkv_bwd, wkv_fwd

State = tuple[Tensor, Tensor, Tensor]
_NO_MAXIMUM = -1e38  # the scale of a state without steps


def wkv(w: Tensor, bonus: Tensor, k: Tensor, v: Tensor, first: State | None = None) -> tuple[Tensor, State]:
    """Return the output (B, T, D) and the last state: numerator and denominator divided by e^m, and m, each (B, D).

    ``fastiter.ssm.reference_wkv`` has the equations. The arguments are trusted: all are of one dtype, float32 or
    float64, and on the CPU; w and bonus are (D,), k and v (B, T, D). The gradient includes that through m.
    """
    inputs: tuple[Any, ...] = (w, bonus, k, v, *((None, None, None) if first is None else first))
    if needs_autograd(inputs):
        out, *last = _Wkv.apply(*inputs)[:4]
    else:
        call: tuple[Any, ...] = (*inputs, False)
        out, *last = wkv_fwd(WkvForward(*call))
    return out, (last[0], last[1], last[2])


class _Wkv(torch.autograd.Function):
    """Map the arguments to (out, *last state, saved states); the backward pass reads the latter."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        call: tuple[Any, ...] = (*inputs, True)
        return tuple(wkv_fwd(WkvForward(*call)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs, output[4])
        ctx.mark_non_differentiable(output[4])
        ctx.set_materialize_grads(False)

    @staticmethod
    @one_by_one
    def backward(ctx: Any, *flows: Tensor | None) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad
        if all(flow is None for flow in flows[:4]):
            return (None,) * 7
        saved: tuple[Any, ...] = ctx.saved_tensors
        requested = sum(1 << i for i, need in enumerate(needs) if need)
        call: tuple[Any, ...] = (*saved, *flows[:4], requested)
        with torch.no_grad():
            found = iter(wkv_bwd(WkvBackward(*call)))
        gradients = [next(found) if need else None for need in needs]
        return tuple(differentiable(_steps, gradients, saved[:7], (), flows[:4]))


def _steps(inputs: Sequence[Any], constants: Sequence[Any]) -> list[Tensor]:
    """Return the output and the last state in torch's operations, step by step: the replay for second derivatives."""
    w, bonus, k, v, p, q, m = inputs
    if p is None:
        p, q = (torch.zeros_like(k[:, :1]).squeeze(1) for _ in range(2))
        m = torch.full_like(p, _NO_MAXIMUM)
    outputs = []
    for key, value in zip(k.unbind(1), v.unbind(1), strict=True):
        top = torch.maximum(m, key + bonus)
        kept, added = torch.exp(m - top), torch.exp(key + bonus - top)
        outputs.append((kept * p + added * value) / (kept * q + added))
        top = torch.maximum(m + w, key)
        kept, added = torch.exp(m + w - top), torch.exp(key - top)
        p, q, m = kept * p + added * value, kept * q + added, top
    return [torch.stack(outputs, 1) if outputs else torch.zeros_like(v), p, q, m]
