"""The compiled proximal operators in torch operations, for GPUs, where the kernels do not run.

As in :mod:`fastiter.fixedpoint.reference_prox`, each group has one unknown, which is found in float64. The numbers of
halvings and steps are fixed, so that nothing synchronizes and results do not depend on the rest of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

#: Number of halvings that reduce a float64 interval to adjacent numbers, and of Newton steps for a root
HALVINGS, STEPS = 56, 8


def simplex(y: Tensor, r: float) -> Tensor:
    """Return max(y - tau, 0) along the last axis, with the tau of the largest k where y_k > (sum of k - r) / k."""
    top = y.amax(-1, keepdim=True)
    z = torch.where(y == -math.inf, y, y - top)
    falling = z.sort(dim=-1, descending=True).values
    k = torch.arange(1, y.shape[-1] + 1, dtype=y.dtype, device=y.device)
    of_k = (torch.where(falling == -math.inf, 0, falling).cumsum(-1) - r) / k
    count = ((falling > of_k) & (falling > -math.inf)).sum(-1, keepdim=True).clamp(min=1)
    x = (z - of_k.gather(-1, count - 1)).clamp(min=0)
    return torch.where(top.isfinite(), x, math.nan)


def l1_ball(y: Tensor, r: float) -> Tensor:
    """Return y inside the ball, and outside the projection of |y| onto the simplex with the signs of y."""
    if y.shape[-1] == 0:
        return y.clone()
    size = y.abs().sum(-1, keepdim=True)
    x = torch.where(size <= r, y, simplex(y.abs(), r).copysign(y))
    return torch.where(size.isfinite(), x, math.nan)


def softmax_entropy(y: Tensor, a: float) -> Tensor:
    """Return x with a (1 + log x) + (1 - a) x = y + nu, by halvings of an interval of nu around sum x = 1."""
    top = y.amax(-1, keepdim=True)
    z = y - top
    if a == 1:
        return torch.where(top.isfinite(), torch.softmax(z, -1), math.nan)

    def of(nu: Tensor) -> Tensor:
        """Return x: with c = (1 - a) / a, log(c x) + c x = log c + (z + nu) / a - 1."""
        c = (1 - a) / a
        return _exp_of_root(math.log(c) + (z + nu) / a - 1) / c

    smallest = -math.log(y.shape[-1])
    low = torch.full_like(top, a * (1 + smallest) + (1 - a) * math.exp(smallest))
    high = torch.ones_like(top)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = of(middle).sum(-1, keepdim=True) > 1
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    x = of((low + high) / 2)
    return torch.where(top.isfinite(), x / x.sum(-1, keepdim=True), math.nan)


def entropy(y: Tensor, a: float) -> Tensor:
    """Return x with a (1 + log x) + x = y: log(x / a) + x / a = y / a - 1 - log a."""
    w = _exp_of_root(y / a - 1 - math.log(a))
    x = a * w
    # y - a (1 + log x) keeps the digits of a large x.
    x = torch.where(x > a, y - a * (1 + x.log()), x)
    # Where y / a overflows, x is y up to rounding.
    return torch.where(y / a == math.inf, y, torch.where(y == -math.inf, 0, x))


def _exp_of_root(s: Tensor) -> Tensor:
    """Return w with log w + w = s, by Newton steps for l = log w, which decrease to the root from the right."""
    l = torch.where(s > 1, s.clamp(min=1).log(), s)
    for _ in range(STEPS):
        w = l.exp()
        l = l - (w + l - s) / (w + 1)
    return torch.where(s == -math.inf, 0, l.exp())


#: The operators by the kernels' numbers
OPERATORS: tuple[Callable[[Tensor, float], Tensor], ...] = (simplex, l1_ball, softmax_entropy, entropy)


def along(y: Tensor, kind: int, parameter: float, axis: int) -> Tensor:
    """Return the operator with the number ``kind`` of each group along an axis, in the dtype of y."""
    moved = y.detach().double().movedim(axis, -1)
    result = moved.clone() if moved.numel() == 0 else OPERATORS[kind](moved, parameter)
    return result.movedim(-1, axis).to(y.dtype).contiguous()
