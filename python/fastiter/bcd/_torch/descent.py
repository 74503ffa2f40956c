"""Block coordinate descent on functions of torch operations, whose derivatives autograd computes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._call.iterate import Limits, Step, iterate
from .. import _bcd
from .._bcd import Method, Sequence, default_interval
from .._blocks import Blocks, Partitioned
from .._problem import Quadratic
from .._result import BCDSolution, Checks, Stalled
from .objective import Closure

_RULES, _UPDATES = ("cyclic", "random", "gs"), ("gradient", "newton")
#: The number of greedy updates between two checks; the accuracy of the minimiser of a block's model; the sweeps over it
_EVERY, _INNER, _SWEEPS = 10, 1e-13, 1000
#: Minimum decrease in a line search as a fraction of the model's, maximum number of halvings, and growth factor of a
#: bound
_DECREASE, _HALVINGS, _EASING = 1e-10, 60, 0.9


class _Point:
    """The smooth part at a point: its value, whose graph gives the gradient, and its graph the second derivatives.

    A step calls f once and differentiates it once, whatever the blocks: a point that ends a step begins the next one.
    """

    def __init__(self, closure: Closure, x: Tensor, twice: bool) -> None:
        self._twice = twice
        with torch.enable_grad():
            self._leaf = x.detach().requires_grad_()
            self._graph = closure.smooth(self._leaf)
        self.x, self.value = x, self._graph.detach()

    @cached_property
    def _slope(self) -> Tensor:
        if not self._graph.requires_grad:
            return torch.zeros_like(self.x)
        with torch.enable_grad():
            g = torch.autograd.grad(self._graph, self._leaf, create_graph=self._twice, materialize_grads=True)[0]
        self._graph = self.value  # the graph would keep its intermediate results
        return g

    @property
    def gradient(self) -> Tensor:
        return self._slope.detach()

    def second_derivatives(self, block: Tensor) -> Tensor:
        """Return those by the coordinates of a block."""
        g = self._slope
        if not g.requires_grad:
            return g.new_zeros(len(block), len(block))
        ones = torch.zeros(len(block), len(g), dtype=g.dtype, device=g.device)
        ones[torch.arange(len(block)), block] = 1
        options = {"is_grads_batched": True, "allow_unused": True}
        (rows,) = torch.autograd.grad(g, self._leaf, ones, retain_graph=True, **options)
        return g.new_zeros(len(block), len(block)) if rows is None else rows[:, block]


class Descent:
    """The updates of one call."""

    def __init__(self, function: str, closure: Closure, x0: Tensor, blocks: Any, method: Method, rng: Any) -> None:
        _check_choices(function, blocks, method)
        self._closure, self._method = closure, method
        flat = x0.detach().reshape(-1).clone()
        self._is_smooth = closure.is_smooth
        self._now = self._at(torch.minimum(torch.maximum(flat, closure.lower), closure.upper))
        self._active_mask, n = self._active(slice(None)), len(flat)
        problem: Any = SimpleNamespace(_curvature=np.ones(n))
        parts = Partitioned(function, problem, max(n, 1) if blocks is None else blocks)
        self._sequence = Sequence(function, parts, method.rule, rng)
        self._variable, self._blocks = parts.variable, []
        if parts.start is not None and parts.member is not None:
            member = torch.from_numpy(parts.member.astype(np.int64))
            self._blocks = [member[a:b] for a, b in zip(parts.start, parts.start[1:], strict=False) if b > a]
        self._bounds = torch.ones(max(len(self._blocks), 1), dtype=torch.float64, device=flat.device)
        self._changed = 0

    def default_interval(self) -> int:
        """Return the number of updates between two checks."""
        sweep = max(len(self._blocks), 1)
        return _EVERY if self._variable or (self._method.is_greedy and sweep > 1) else sweep

    def solution(self, limits: Limits) -> BCDSolution[Tensor]:
        """Take steps until the residual is small, or until a limit."""
        closure = self._closure
        record = iterate(self._checks(limits), limits, Checks(overflows=False))
        results = record.results()
        for name in ("history", "objectives"):
            results[name] = torch.tensor(results[name], dtype=torch.float64, device=self.x.device)
        return BCDSolution(
            value=closure.solution("bcd", self.x, self._now.gradient, results["tolerance"]),
            method=str(self._method),
            objective=record.objectives[-1],
            gap=float("inf"),
            active=self._active(slice(None)).reshape(closure.shape),
            identified=self._changed,
            **results,
        )

    def _checks(self, limits: Limits) -> Iterator[Step]:
        at_zero = self._now if not bool(self.x.any()) else self._at(torch.zeros_like(self.x))
        scale = _largest(at_zero.gradient)
        assert limits.rtol is not None  # as bcd has a default
        tolerance = limits.rtol * ((scale if np.isfinite(scale) else 0.0) or _largest(self._now.gradient))
        tolerance, done = tolerance + limits.atol, 0
        stalled = Stalled(self._sequence.patience), Stalled(self._sequence.patience)
        largest = torch.finfo(self.x.dtype).max ** 0.5  # the squares of larger steps overflow
        while True:
            objective = float(self._now.value + self._closure.rest(self.x))
            residual = _largest(self._slopes(self._now.gradient)) if objective == objective else objective
            is_stalled = [each.check(x, done) for each, x in zip(stalled, (objective, residual), strict=True)]
            is_finite = np.isfinite(objective) and bool((self.x.abs() < largest).all())
            step = Step(done, residual, tolerance, self._value, partial(dict, objective=objective))
            yield step._replace(diverged=not is_finite, stagnated=all(is_stalled))
            done = self._steps(done, min(limits.check_every, limits.max_steps - done))

    def _value(self) -> Tensor:
        return self.x.reshape(self._closure.shape).clone()

    def _at(self, x: Tensor) -> _Point:
        return _Point(self._closure, x, self._method.update == "newton")

    @property
    def x(self) -> Tensor:
        return self._now.x

    def _slopes(self, g: Tensor) -> Tensor:
        """Return the minimum-norm subgradient."""
        x, c = self.x, self._closure
        if self._is_smooth:
            return g
        at_zero = g.sign() * torch.clamp(g.abs() - c.l1, min=0.0)
        s = torch.where(x == 0, at_zero, g + c.l1 * x.sign())
        if not c.has_bounds:
            return s
        s = torch.where(x <= c.lower, torch.clamp(s, max=0.0), s)
        return torch.where(x >= c.upper, torch.clamp(s, min=0.0), s)

    def _active(self, chosen: Any) -> Tensor:
        x, c = self.x[chosen], self._closure
        at_zero = (x == 0) & (c.l1[chosen] > 0)
        return at_zero if not c.has_bounds else at_zero | (x <= c.lower[chosen]) | (x >= c.upper[chosen])

    def _steps(self, steps: int, count: int) -> int:
        named = self._sequence.next(count)
        for k in range(count):
            number, block = self._greedy(self._now.gradient) if named is None else self._named(int(named[k]))
            steps += 1
            with torch.no_grad():
                self._now = self._newton(block) if self._method.update == "newton" else self._proximal(number, block)
            active = self._active_mask[block] if self._is_smooth else self._active(block)
            if not torch.equal(active, self._active_mask[block]):
                self._active_mask, self._changed = self._active_mask.index_copy(0, block, active), steps
        return steps

    def _named(self, number: int) -> tuple[int, Tensor]:
        return number, self._blocks[number]

    def _greedy(self, g: Tensor) -> tuple[int, Tensor]:
        """Return the block with the largest slopes."""
        scores = self._slopes(g).square()
        if self._variable:
            return 0, torch.topk(scores, min(self._variable, len(scores))).indices
        sums = torch.stack([scores[block].sum() for block in self._blocks])
        number = int(sums.argmax())
        return number, self._blocks[number]

    def _moved(self, block: Tensor, z: Tensor) -> _Point:
        """Return the point whose block is z."""
        return self._at(self.x.index_copy(0, block, z))

    def _proximal(self, number: int, block: Tensor) -> _Point:
        """Return the minimiser of the upper bound with L, the first of a growing sequence that gives an upper bound."""
        start, g, c = self.x[block], self._now.gradient[block], self._closure
        bound = float(self._bounds[number])
        for k in range(_HALVINGS):
            z = start - g / bound
            if not self._is_smooth:
                z = z.sign() * torch.clamp(z.abs() - c.l1[block] / bound, min=0.0)
                z = torch.minimum(torch.maximum(z, c.lower[block]), c.upper[block]) if c.has_bounds else z
            ahead = self._moved(block, z)
            if self._is_bounded(ahead, block, z - start, bound):
                self._bounds[number] = bound if k else bound * _EASING
                return ahead
            bound *= 2
        self._bounds[number] = bound
        return self._now

    def _is_bounded(self, ahead: _Point, block: Tensor, d: Tensor, bound: float) -> bool:
        """Return whether L bounds the curvature on the way: by values, or by gradients if values are rounded."""
        g, value = self._now.gradient[block], self._now.value
        size = bound * (d @ d)
        if bool(size > 64 * torch.finfo(d.dtype).eps * value.abs()):
            return bool(ahead.value <= value + g @ d + size / 2)
        return bool((ahead.gradient[block] - g) @ d <= size * (1 + 1e-6))

    def _newton(self, block: Tensor) -> _Point:
        """Return the end of a line search towards the minimiser of the model with the second derivatives."""
        start, c, value = self.x[block], self._closure, self._now.value
        H = self._now.second_derivatives(block).double()
        g = self._now.gradient[block]
        end = self._model_minimiser((H + H.mT) / 2, start.double(), g.double(), block).to(start.dtype)
        d, before = end - start, c.rest(start, block)
        fall = float(g @ d + c.rest(end, block) - before)
        rounding, t = 8 * torch.finfo(start.dtype).eps * float((value + before).abs()), 1.0
        for _ in range(_HALVINGS):
            z = end if t == 1 else start + t * d
            ahead = self._moved(block, z)
            if bool(ahead.value + c.rest(z, block) <= value + before + _DECREASE * t * min(fall, 0.0) + rounding):
                return ahead
            t /= 2
        return self._now

    def _model_minimiser(self, H: Tensor, start: Tensor, g: Tensor, block: Tensor) -> Tensor:
        values = torch.linalg.eigvalsh(H) if bool(H.isfinite().all()) else H.new_zeros(1)
        scale = float(values.abs().amax())
        shift = max(0.0, 1e-12 * len(H) * scale - float(values[0])) if scale else 1.0
        H = H + shift * torch.eye(len(H), dtype=H.dtype, device=H.device)
        c = self._closure
        if c.is_smooth:
            return start - torch.linalg.solve(H, g)
        parts = {name: getattr(c, name)[block].double().numpy() for name in ("l1", "lower", "upper")}
        model = Quadratic(H.numpy(), (H @ start - g).numpy(), **parts)
        own, method = Partitioned("bcd", model, 1), Method()
        limits = Limits(_INNER, max_steps=_SWEEPS * len(H), check_every=default_interval(own, method))
        sequence = Sequence("bcd", own, method.rule, None)
        descent = _bcd.Descent(model, own, start.numpy().copy(), method, sequence, limits)
        return torch.from_numpy(descent.solution().value)


def _largest(x: Tensor) -> float:
    """Return the largest magnitude, 0 for an empty tensor."""
    return float(x.abs().amax()) if len(x) else 0.0


def _check_choices(function: str, blocks: Any, method: Method) -> None:
    method.check(function)
    for name, choice, known in (("rule", method.rule, _RULES), ("update", method.update, _UPDATES)):
        if choice not in known:
            expected = f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
            why = "for a function, whose curvature has no known bound"
            raise ValueError(f"{function}: {name} must be {expected} {why}, got {choice!r}")
    if method.stop == "gap":
        raise ValueError(f"{function}: stop must be 'slope' for a function, whose dual is not known, got 'gap'")
    if isinstance(blocks, Blocks) and blocks.partition in ("sort", "average"):
        why = "for a function, whose curvature has no known bound"
        raise ValueError(f"{function}: the partition must be 'order' or 'variable' {why}, got {blocks.partition!r}")
    if isinstance(blocks, Blocks) and blocks.partition == "variable" and method.rule != "gs":
        raise ValueError(f"{function}: rule must be 'gs' for variable blocks, got {method.rule!r}")
