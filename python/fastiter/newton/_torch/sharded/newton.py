"""Newton's method on the steps of all ranks at once: each rank linearises its own, and one scan corrects all of them.

The iteration, its stopping rules and its tolerances are those of :func:`fastiter.torch.solve_recurrence` without
damping, on one window. See docs/newton/distributed.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .cells import linearised
from .line import Steps

#: A sequence is given up if its residual has not fallen to a quarter in this many iterations.
_PATIENCE = 12


class Options(NamedTuple):
    """The tolerances, and the maximum number of iterations."""

    rtol: float
    atol: float
    max_steps: int


@dataclass
class Local:
    """This rank's steps in order of time.

    Attributes
    ----------
    name : str
        The function's name.
    x, a, p : Tensor
        Inputs (B, T, G, D) and weights.
    first : Tensor (B, D, K)
        The states before the first step of all ranks.
    guess : Tensor (B, T or 1, D, K)
        The initial state of each step's sequence.
    starts : list of (int, Tensor (D, K))
        The steps of this rank at which packed sequences start, and the states before them.
    resets : Tensor (B, T) of bool, optional
        Steps before which the state counts as zero.
    valid : Tensor (B, T) of bool, optional
        Steps that are computed; the others keep the state.
    """

    name: str
    x: Tensor
    a: Tensor
    p: Tensor | None
    first: Tensor
    guess: Tensor
    starts: list[tuple[int, Tensor]]
    resets: Tensor | None
    valid: Tensor | None

    def proposed(self) -> Tensor:
        """Return the state after each step if the state before it is its sequence's initial state."""
        shape = (*self.x.shape[:2], *self.first.shape[1:])
        return linearised(self.name, self.x, self.a, self.p, self.guess.expand(shape))[0]

    def linearised(self, y: Tensor, entry: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state after each step from y at the step before, and the Jacobians."""
        before = torch.cat([entry.unsqueeze(1), y], 1)[:, :-1]
        for t, state in self.starts:
            before[:, t] = state
        if self.resets is not None:
            before.masked_fill_(self.resets[:, :, None, None], 0)
        f, jacobian = linearised(self.name, self.x, self.a, self.p, before)
        if self.valid is not None:
            valid = self.valid[:, :, None, None]
            unit = torch.eye(y.shape[3], dtype=y.dtype, device=y.device)
            f, jacobian = torch.where(valid, f, before), torch.where(valid.unsqueeze(4), jacobian, unit)
        for t, _ in self.starts:
            jacobian[:, t] = 0
        if self.resets is not None:
            jacobian.masked_fill_(self.resets[:, :, None, None, None], 0)
        return f, jacobian


class Solved(NamedTuple):
    """The states of this rank's steps, the iterations of each row, and whether it converged."""

    y: Tensor
    steps: Tensor
    converged: Tensor


def newton(local: Local, steps: Steps, options: Options) -> Solved:
    """Iterate until each row converges or is given up, on all ranks at the same iteration."""
    proposed = local.proposed()
    batch, device = proposed.shape[0], proposed.device
    result = Solved(proposed.clone(), torch.zeros(batch, dtype=torch.int64), torch.zeros(batch, dtype=torch.bool))
    active, unimproved = torch.ones(batch, dtype=torch.bool), torch.zeros(batch, dtype=torch.int64)
    milestone = torch.full((batch,), torch.inf, dtype=torch.float64)
    index = torch.arange(steps.start, steps.start + steps.count, device=device)
    for step in range(1, options.max_steps + 1):
        if not bool(active.any()):
            break
        result.steps[active] = step
        y = proposed
        f, jacobian = local.linearised(y, steps.before(local.first, y))
        r = f - y
        merit, frozen = _reduced(steps, r, y, options)
        right = (frozen == steps.total) & merit.isfinite()
        unchanged = index < torch.where(right, 0, frozen).to(device).unsqueeze(1)
        correction = steps.scan(jacobian, r.masked_fill(unchanged[:, :, None, None], 0))
        proposed = y + correction
        done = lost = torch.zeros(batch, dtype=torch.bool)
        if bool((right & active).any()):
            rounding = steps.scan(jacobian, _errors(steps, proposed))
            small = [_is_small(change, proposed, options) for change in (rounding, correction)]
            stable, ends = steps.gathered(*small).amin(0).bool().cpu()
            done, lost = right & stable & ends, right & ~stable
        fell = merit <= 0.25 * milestone
        milestone, unimproved = torch.where(fell, merit, milestone), torch.where(fell, 0, unimproved + 1)
        lost = lost | (((unimproved >= _PATIENCE) | ~merit.isfinite()) & ~done)
        done = done & active
        result.y[done.to(device)] = proposed[done.to(device)]
        result.converged[done] = True
        active = active & ~done & ~lost
    return result


def _reduced(steps: Steps, r: Tensor, y: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """Return for each row the sum of |r| over all steps, and the number of leading steps that have converged."""
    size = r.abs()
    good = _within(size, y, options.rtol, options.atol)
    every = steps.gathered(size.sum((1, 2, 3)), good.cumprod(1).sum(1), good.all(1)).cpu()
    merit, frozen = torch.zeros_like(every[0, 0]), torch.zeros_like(every[0, 1])
    before = torch.ones_like(merit)
    for one in every:
        merit, frozen, before = merit + one[0], frozen + before * one[1], before * one[2]
    return merit, frozen.long()


def _within(size: Tensor, y: Tensor, rtol: float, atol: float) -> Tensor:
    """Return for each step whether all elements are at most atol + rtol |y|; false for NaN."""
    return (torch.sub(size, y.abs(), alpha=rtol) <= atol).flatten(2).all(2)


def _is_small(change: Tensor, y: Tensor, options: Options) -> Tensor:
    """Return for each row whether a change is within the tolerances, or so small that its square is negligible."""
    limit = torch.finfo(y.dtype).eps ** 0.5 / 8
    return _within(change.abs(), y, max(limit, options.rtol), max(limit, options.atol)).all(1)


def _errors(steps: Steps, y: Tensor) -> Tensor:
    """Return a rounding error for each step: if these grow, no two computations agree, and only the loop's is valid."""
    generator, width = torch.Generator().manual_seed(0), y.shape[2] * y.shape[3]
    signs = torch.randint(2, (steps.total + width,), generator=generator, device="cpu").to(y) * 2 - 1
    own, units = signs[steps.start : steps.start + steps.count], signs[steps.total :].view(y.shape[2:])
    eps = torch.finfo(y.dtype).eps
    return torch.add(eps, y.abs(), alpha=eps) * own[:, None, None] * units
