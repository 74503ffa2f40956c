"""Newton's method on a window of steps: linearise all of them at once, solve the linear recurrence, correct.

With r[t] = f(h[t-1], x[t]) - h[t] and J[t] = df/dh at h[t-1] the correction is d[t] = J[t] d[t-1] + r[t], a scan.
Damped with a gain k it is d[t] = (1 - k) (J[t] d[t-1] + r[t]), which for s = h + d is the filter
s[t] = (1 - k) (J[t] s[t-1] + b[t]) + k h[t] with b[t] = f(h[t-1], x[t]) - J[t] h[t-1]. See docs/newton/solve_theory.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import count

import torch
from torch import Tensor

from ...._call.iterate import Limits, Record, Step, iterate
from ....scan._torch.functional import block_scan, linear_scan
from .cell import WIDEST, Cell, Linearised, Structure

#: Growth factor of the residual above which an iteration is undone and damped.
_GROWTH = 16.0
#: Factors of the weight 1 - k after a bad iteration and after a good one.
_WEAKER, _STRONGER = 0.5, 2.0
#: For the Lyapunov exponent: steps over which blocks are multiplied; samples over which diagonals are averaged.
_STRETCH, _SAMPLES = 32, 256
#: A sequence is given up if its residual has not fallen to a quarter in this many iterations.
_PATIENCE = 12


@dataclass(frozen=True)
class Options:
    """Options of the iteration. ``gain`` is the initial gain; ``adapt`` is whether it adapts to the residual."""

    rtol: float
    atol: float
    limits: Limits  # for each window; its throw is whether to raise if a row does not converge
    gain: float
    adapt: bool
    contracting: bool  # give up if the Jacobians stretch differences


@dataclass
class Outcome:
    """The result of each of B rows; the value of a row that did not converge is meaningless."""

    value: Tensor
    converged: Tensor
    steps: Tensor
    residual: Tensor
    lyapunov: Tensor


@dataclass
class _Iterate:
    """The rows still being iterated. The proposal replaces the iterate unless its residual grows too much."""

    rows: Tensor  # (A,) their indices in the batch
    first: Tensor  # (A, n) the state before the window
    x: list[Tensor]  # (A, W, ...)
    proposed: Tensor  # (A, W, n)
    h: Tensor  # (A, W, n) the iterate
    frozen: Tensor  # (A,) number of its leading steps that have converged and no longer change
    r: Tensor  # (A, W, n) its residual
    merit: Tensor  # (A,) sum of |r|
    jacobian: Tensor  # (A, W, n) or (A, W, N, K, K)
    weight: Tensor  # (A,) 1 - k
    milestone: Tensor  # (A,) the merit when it last fell to a quarter
    unimproved: Tensor  # (A,) iterations since then

    def keep(self, saved: Tensor) -> None:
        """Drop the other rows."""
        self.x = [part[saved] for part in self.x]
        for field in fields(self):
            if field.name != "x":
                setattr(self, field.name, getattr(self, field.name)[saved])


def scan(jacobian: Tensor, x: Tensor, *, reverse: bool = False) -> Tensor:
    """Return h[t] = J[t] h[t-1] + x[t] from h = 0, for x (B, W, n) and J (B, W, n) or blocks (B, W, N, K, K)."""
    if jacobian.dim() == 3:
        return linear_scan(jacobian, x, reverse=reverse)[0]
    size = jacobian.shape[-1]
    if size <= WIDEST:
        return block_scan(jacobian, x.unflatten(2, (x.shape[2] // size, size)), reverse=reverse)[0].flatten(2)
    dense, result = jacobian[:, :, 0], torch.empty_like(x)
    h = torch.zeros_like(x[:, 0])
    order = range(x.shape[1])
    for t in reversed(order) if reverse else order:
        h = torch.baddbmm(x[:, t, :, None], dense[:, t], h.unsqueeze(2)).squeeze(2)
        result[:, t] = h
    return result


def before(first: Tensor, h: Tensor) -> Tensor:
    """Return the previous state of each step of a window h (B, W, n)."""
    return torch.cat([first.unsqueeze(1), h[:, :-1]], 1)


def flat_steps(x: Sequence[Tensor]) -> list[Tensor]:
    """Flatten x (B, W, ...) to (B W, ...): a cell treats steps as rows."""
    return [part.flatten(0, 1) for part in x]


def jacobians(linear: Linearised, structure: Structure, h: Tensor) -> Tensor:
    """Return the Jacobians of a window (B, W, n) or (B, W, N, K, K)."""
    return linear.jacobian(structure).unflatten(0, h.shape[:2])


def lyapunov(jacobian: Tensor) -> Tensor:
    """Return the Lyapunov exponents (B,): the mean over the window of the logarithm of each step's growth factor."""
    limits = torch.finfo(jacobian.dtype)
    if jacobian.dim() == 3:
        some = jacobian[:, :: -(-jacobian.shape[1] // _SAMPLES)]
        return some.abs().clamp(limits.tiny, limits.max).log().mean(1).amax(1)
    batch, steps, count, size, _ = jacobian.shape
    # in short stretches, whose products neither overflow nor underflow
    stretch = min(steps, _STRETCH)
    parts = jacobian[:, : steps // stretch * stretch].reshape(-1, stretch, count, size, size)
    x = parts.new_zeros((len(parts), stretch, count * size))
    x[:, 0] = 1
    lengths = scan(parts, x)[:, -1].unflatten(1, (count, size)).norm(dim=2) / size**0.5
    logarithms = lengths.nan_to_num(limits.max).clamp(limits.tiny, limits.max).log() / max(stretch - 1, 1)
    return logarithms.view(batch, -1, count).mean(1).amax(1)


def newton(cell: Cell, structure: Structure, first: Tensor, x: Sequence[Tensor], options: Options) -> Outcome:
    """Iterate on a window x (B, W, ...) from the states ``first`` (B, n) until each row converges or is given up."""
    state = _start(cell, first, x, options)
    limits = Limits(max_steps=options.limits.max_steps)
    return iterate(_steps(cell, structure, state, options), limits, _Rows(state)).outcome


def _steps(cell: Cell, structure: Structure, state: _Iterate, options: Options) -> Iterator[Step]:
    """Correct the iterate; a row can converge after its last correction, and stagnates where a loop is faster."""
    for step in count(1):
        better, right = _evaluate(cell, structure, state, options)
        correction = _correction(state, right)
        state.proposed = state.h + correction
        done = lost = torch.zeros_like(right)
        if bool(right.any()):
            stable = _is_small(_rounding(state), state.proposed, options)
            done = right & stable & _is_small(correction, state.proposed, options)
            lost = right & ~stable
        lost = lost | _is_lost(state, better, options, step) & ~done
        yield Step(step, state.merit, None, state.h.clone, can_converge=done, stagnated=lost)


class _Rows(Record):
    """The record of a window: its rows converge one by one, or are given up."""

    def __init__(self, state: _Iterate) -> None:
        super().__init__()
        first, self._state = state.first, state
        batch = len(first)
        self.outcome = Outcome(
            torch.empty_like(state.h),
            first.new_zeros(batch, dtype=torch.bool),
            first.new_zeros(batch, dtype=torch.int64),
            first.new_zeros(batch),
            first.new_full((batch,), torch.nan),
        )

    def check(self, step: Step) -> bool:
        """Record the rows that end, and drop them; return whether all have ended."""
        outcome, state, done = self.outcome, self._state, step.can_converge
        outcome.steps[state.rows] = step.steps
        leaving = done | step.stagnated
        if not bool(leaving.any()):
            return False
        rows = state.rows[done]
        outcome.value[rows] = state.proposed[done]
        outcome.converged[rows] = True
        outcome.residual[rows] = state.r[done].abs().flatten(1).amax(1)
        outcome.lyapunov[state.rows[leaving]] = lyapunov(state.jacobian[leaving])
        if bool(leaving.all()):
            return True
        state.keep(~leaving)
        return False


def _start(cell: Cell, first: Tensor, x: Sequence[Tensor], options: Options) -> _Iterate:
    """Propose f(state, x[t]) for each t, which is exact for the first step."""
    batch, steps = x[0].shape[:2]
    with torch.no_grad():
        guess = cell(first.repeat_interleave(steps, 0), flat_steps(x))
    guess = guess.unflatten(0, (batch, steps))
    none = first.new_zeros(batch, dtype=torch.int64)
    infinite = first.new_full((batch,), torch.inf, dtype=torch.float64)
    weight = first.new_full((batch,), 1 - options.gain)
    nothing = guess.new_empty((batch, 0))
    return _Iterate(
        rows=torch.arange(batch, device=first.device),
        first=first,
        x=list(x),
        proposed=guess,
        h=guess,
        frozen=none,
        r=nothing,
        merit=infinite,
        jacobian=nothing,
        weight=weight,
        milestone=infinite,
        unimproved=none,
    )


def _evaluate(cell: Cell, structure: Structure, state: _Iterate, options: Options) -> tuple[Tensor, Tensor]:
    """Accept the proposals with small enough residuals; return masks of accepted rows and of converged ones."""
    h = state.proposed
    linear = Linearised(cell, before(state.first, h).flatten(0, 1), flat_steps(state.x))
    r = linear.f.view_as(h) - h
    size = r.abs()
    merit = size.sum((1, 2)).double()
    better = merit.isfinite() & (merit <= _GROWTH * state.merit if options.adapt else True)
    if options.adapt:
        # the residual fell by at least half of what the weight predicts
        fell = state.merit.isfinite() & (merit <= (1 - 0.5 * state.weight) * state.merit)
        stronger = (state.weight * _STRONGER).clamp(max=1)
        state.weight = torch.where(fell, stronger, torch.where(better, state.weight, state.weight * _WEAKER))
    frozen = _none_above(size, h, options.rtol, options.atol).cumprod(1).sum(1)
    right = (frozen == h.shape[1]) & better
    # for the last correction, the previous Jacobians are accurate enough
    last = state.jacobian.dim() > 2 and bool(right.all())
    jacobian = state.jacobian if last else jacobians(linear, structure, h)
    news = {"h": h, "r": r, "jacobian": jacobian, "merit": merit, "frozen": frozen}
    for name, new in news.items():
        old = getattr(state, name)
        chosen = better.view(-1, *[1] * (new.dim() - 1))
        setattr(state, name, new if old.dim() < new.dim() or bool(better.all()) else torch.where(chosen, new, old))
    return better, right


def _correction(state: _Iterate, right: Tensor) -> Tensor:
    """Solve for the correction: zero on frozen steps, undamped at the step after them, which thus becomes exact.

    If all steps of a row have converged, all of them receive a last correction.
    """
    after = torch.arange(state.h.shape[1], device=state.h.device) - torch.where(right, 0, state.frozen).unsqueeze(1)
    full, none = (state.weight == 1).unsqueeze(1), after < 0
    weight = torch.where(right.unsqueeze(1) | full | (after == 0), 1, state.weight.unsqueeze(1)).unsqueeze(2)
    r = state.r * torch.where(none.unsqueeze(2), 0, weight)
    if bool((weight == 1).all()):
        return scan(state.jacobian, r)
    return scan(state.jacobian * weight.view(*weight.shape, *[1] * (state.jacobian.dim() - 3)), r)


def _none_above(size: Tensor, h: Tensor, rtol: float, atol: float) -> Tensor:
    """Return for each step whether all units are at most atol + rtol |h|; false for NaN."""
    return torch.sub(size, h.abs(), alpha=rtol).amax(2) <= atol


def _is_small(change: Tensor, h: Tensor, options: Options) -> Tensor:
    """Return for each row whether a change is within the tolerances, or so small that its square is negligible."""
    limit = torch.finfo(h.dtype).eps ** 0.5 / 8
    return _none_above(change.abs(), h, max(limit, options.rtol), max(limit, options.atol)).all(1)


def _rounding(state: _Iterate) -> Tensor:
    """Propagate rounding errors: if they grow, no two computations agree, and only the loop's result is valid."""
    h, generator = state.proposed, torch.Generator().manual_seed(0)  # on the CPU: the same signs on every device
    _, steps, width = h.shape
    signs = torch.randint(2, (steps + width,), generator=generator, device="cpu").to(h) * 2 - 1
    eps = torch.finfo(h.dtype).eps
    errors = torch.add(eps, h.abs(), alpha=eps) * signs[:steps, None] * signs[steps:]
    return scan(state.jacobian, errors)


def _is_lost(state: _Iterate, better: Tensor, options: Options, step: int) -> Tensor:
    """Return for each row whether to give up, as a loop would be faster."""
    fell = better & (state.merit <= 0.25 * state.milestone)
    state.milestone = torch.where(fell, state.merit, state.milestone)
    state.unimproved = torch.where(fell, 0, state.unimproved + 1)
    lost = (state.unimproved >= _PATIENCE) | ~state.merit.isfinite()
    if not options.adapt:
        lost |= ~better
    if options.contracting and step == 2:
        lost |= lyapunov(state.jacobian) > 0
    return lost
