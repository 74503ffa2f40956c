"""Losses of fla's models in torch's operations, instead of Triton kernels, which refuse tensors on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from ....ssm._torch.compat.fla_common import check_off
from ....ssm._torch.ops import computed
from ..functions import Function, on_cpu
from ..rebind import parameters_of


def _terms(loss: Any, logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross entropy (N,) of logits (N, V), which are scaled and capped first; 0 for ignored targets."""
    group = getattr(loss, "process_group", None)  # in fla 0.5.2 the loss with a product has no such attribute
    check_off(type(loss).__qualname__, process_group=group)
    y = _as_read(loss, logits)
    return cross_entropy(
        y, target, ignore_index=loss.ignore_index, reduction="none", label_smoothing=loss.label_smoothing
    )


def _as_read(loss: Any, logits: Tensor) -> Tensor:
    y = logits.to(computed(logits.dtype)) * loss.logit_scale
    cap = loss.logit_softcapping
    return y if cap is None else cap * torch.tanh(y / cap)


def _reduced(loss: Any, terms: Tensor, target: Tensor) -> Tensor:
    if loss.reduction == "none":
        return terms
    return terms.sum() / (target != loss.ignore_index).sum() if loss.reduction == "mean" else terms.sum()


def _cross_entropy_loss(theirs: Function) -> Function:
    """Return a replacement for FusedCrossEntropyLoss.forward of fla, which adds a multiple of the squared logsumexp."""

    def forward(self: Any, input: Tensor, target: Tensor) -> Any:
        if not on_cpu(input):
            return theirs(self, input, target)
        terms = _terms(self, input, target)
        if not self.lse_square_scale and not self.return_z_loss:
            return _reduced(self, terms, target)
        squares = self.lse_square_scale * _as_read(self, input).logsumexp(-1).square()
        squares = squares.masked_fill(target == self.ignore_index, 0)
        total = _reduced(self, terms + squares, target)
        return (total, _reduced(self, squares.detach(), target)) if self.return_z_loss else total

    return forward


def _linear_cross_entropy_loss(theirs: Function) -> Function:
    """Return a replacement for FusedLinearCrossEntropyLoss.forward of fla, whose penalty has only a gradient."""

    def forward(self: Any, x: Tensor, target: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not on_cpu(x):
            result: Tensor = theirs(self, x, target, weight, bias)
            return result
        target = target.flatten()
        logits = linear(x.flatten(0, -2), weight, bias)
        total = _reduced(self, _terms(self, logits, target), target)
        if not self.use_l2warp:
            return total
        penalty = self.l2_penalty_factor / len(logits) / 2 * logits.max(-1).values.to(total.dtype).square().sum()
        return total + (penalty - penalty.detach())

    return forward


#: By class name: the parameters of the original forward, and the function that makes the replacement from it
FORWARDS = {
    "FusedCrossEntropyLoss": (("self", "input", "target"), _cross_entropy_loss),
    "FusedLinearCrossEntropyLoss": (("self", "x", "target", "weight", "bias"), _linear_cross_entropy_loss),
}


def derived(theirs: Any) -> Any:
    """Return a loss class with the replaced forward, for losses that models construct in each call."""
    names, make = FORWARDS[theirs.__name__]
    parameters = parameters_of(theirs.forward)
    if parameters[: len(names)] != names:
        expected = f"{', '.join(parameters)}, not {', '.join(names)}, ..."
        raise TypeError(f"the forward of its {theirs.__name__} has the parameters {expected}")
    members = {"forward": make(theirs.forward), "__module__": theirs.__module__, "__doc__": theirs.__doc__}
    return type(theirs.__name__, (theirs,), members)
