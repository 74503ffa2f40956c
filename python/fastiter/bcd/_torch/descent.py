"""Block coordinate descent on functions of torch operations: derivatives of blocks by torch.func."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, grad_and_value, jacrev

from ..._check import check_choice
from .._bcd import RULES, UPDATES, _Run, _Sequence
from .._blocks import Blocks, Partitioned
from .._problem import Quadratic
from .._result import BCDProgress, BCDSolution, Limits, Progress
from .objective import Closure

_RULES, _UPDATES = ("cyclic", "random", "gs"), ("gradient", "newton")
#: The number of greedy updates between two checks; the accuracy of the minimiser of a block's model; the sweeps over it
_EVERY, _INNER, _SWEEPS = 10, 1e-13, 1000
#: Minimum decrease in a line search as a fraction of the model's, maximum number of halvings, and growth factor of a
#: bound
_DECREASE, _HALVINGS, _EASING = 1e-10, 60, 0.7


class Descent:
    """The updates of one call."""

    def __init__(
        self, function: str, closure: Closure, x0: Tensor, blocks: Any, how: tuple[str, str], rng: Any, limits: Limits
    ) -> None:
        rule, update = how
        _check_choices(function, blocks, rule, update, limits)
        self._closure, self._how, self._limits = closure, how, limits
        flat = x0.detach().reshape(-1).clone()
        self.x = torch.minimum(torch.maximum(flat, closure.lower), closure.upper)
        n = len(flat)
        problem: Any = SimpleNamespace(_curvature=np.ones(n))
        parts = Partitioned(function, problem, max(n, 1) if blocks is None else blocks)
        self._sequence = _Sequence(function, parts, rule, rng)
        self._variable, self._blocks = parts.variable, []
        if parts.start is not None and parts.member is not None:
            member = torch.from_numpy(parts.member.astype(np.int64))
            self._blocks = [member[a:b] for a, b in zip(parts.start, parts.start[1:], strict=False) if b > a]
        self._bounds = torch.ones(max(len(self._blocks), 1), dtype=torch.float64, device=flat.device)
        sweep = max(len(self._blocks), 1)
        self._every = limits.check_every or (_EVERY if self._variable or (rule == "gs" and sweep > 1) else sweep)
        self._changed = 0

    def solution(self) -> BCDSolution:
        """Take steps until the residual is small, or until a limit."""
        limits, closure = self._limits, self._closure
        scale = self._gradient(torch.zeros_like(self.x))[0].abs().amax() if len(self.x) else torch.zeros(())
        value = float(scale) if bool(scale.isfinite()) else 0.0
        tolerance = limits.rtol * (value or float(self._gradient(self.x)[0].abs().amax() if len(self.x) else 0.0))
        history: list[float] = []
        objectives: list[float] = []
        patience, steps, reason = self._sequence.patience, 0, "max_steps"
        seen = Progress(patience), Progress(patience)
        largest = torch.finfo(self.x.dtype).max ** 0.5  # the squares of larger steps overflow
        while True:
            g, smooth = self._gradient(self.x)
            residual = float(self._slopes(g).abs().amax()) if len(g) else 0.0
            objective = float(smooth + closure.rest(self.x))
            history.append(residual)
            objectives.append(objective)
            ended = [one.has_ended(x, steps) for one, x in zip(seen, (objective, residual), strict=True)]
            if residual <= tolerance:
                reason = "converged"
            elif not (np.isfinite(objective) and np.isfinite(residual) and bool((self.x.abs() < largest).all())):
                reason = "diverged"
            elif all(ended):
                reason = "stagnated"
            elif limits.ends(BCDProgress(steps, residual, tolerance, objective, self._value)):
                reason = "callback"
            elif steps < limits.max_steps:
                steps = self._steps(steps, min(self._every, limits.max_steps - steps), g)
                continue
            break
        return BCDSolution(
            value=closure.solution("bcd", self.x, g, tolerance),
            converged=reason == "converged",
            steps=steps,
            residual=residual,
            method=f"bcd, {self._how[0]}, {self._how[1]}",
            reason=reason,
            objective=objective,
            gap=float("inf"),
            active=self._active(slice(None)).reshape(closure.shape),
            identified=self._changed,
            tolerance=tolerance,
            history=torch.tensor(history, dtype=torch.float64, device=self.x.device),
            objectives=torch.tensor(objectives, dtype=torch.float64, device=self.x.device),
        )

    def _value(self) -> Tensor:
        return self.x.reshape(self._closure.shape).clone()

    def _gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient and the value of the smooth part."""
        with torch.no_grad():
            return grad_and_value(self._closure.smooth)(x)  # type: ignore[no-any-return]

    def _slopes(self, g: Tensor) -> Tensor:
        """Return the minimum-norm subgradient."""
        x, c = self.x, self._closure
        at_zero = g.sign() * torch.clamp(g.abs() - c.l1, min=0.0)
        s = torch.where(x == 0, at_zero, g + c.l1 * x.sign())
        s = torch.where(x <= c.lower, torch.clamp(s, max=0.0), s)
        return torch.where(x >= c.upper, torch.clamp(s, min=0.0), s)

    def _active(self, chosen: Any) -> Tensor:
        x, c = self.x[chosen], self._closure
        return ((x == 0) & (c.l1[chosen] > 0)) | (x <= c.lower[chosen]) | (x >= c.upper[chosen])

    def _steps(self, steps: int, count: int, g: Tensor) -> int:
        named = self._sequence.next(count)
        for k in range(count):
            if named is None:
                g = g if k == 0 else self._gradient(self.x)[0]
                number, block = self._greedy(g)
            else:
                number = int(named[k])
                block = self._blocks[number]
            steps += 1
            before = self._active(block)
            with torch.no_grad():
                self._step(number, block)
            if bool((before != self._active(block)).any()):
                self._changed = steps
        return steps

    def _greedy(self, g: Tensor) -> tuple[int, Tensor]:
        """Return the block with the largest slopes."""
        scores = self._slopes(g).square()
        if self._variable:
            return 0, torch.topk(scores, min(self._variable, len(scores))).indices
        sums = torch.stack([scores[block].sum() for block in self._blocks])
        number = int(sums.argmax())
        return number, self._blocks[number]

    def _step(self, number: int, block: Tensor) -> None:
        x, start = self.x, self.x[block]

        def of_block(z: Tensor) -> Tensor:
            return self._closure.smooth(x.index_copy(0, block, z))

        g, value = grad_and_value(of_block)(start)
        if self._how[1] == "newton":
            end = self._newton(of_block, block, g, value)
        else:
            end = self._proximal(of_block, number, block, g, value)
        self.x = x.index_copy(0, block, end)

    def _proximal(self, of_block: Any, number: int, block: Tensor, g: Tensor, value: Tensor) -> Tensor:
        """Return the minimiser of the upper bound with L, the first of a growing sequence that gives an upper bound."""
        start, c = self.x[block], self._closure
        bound = float(self._bounds[number])
        for k in range(_HALVINGS):
            z = start - g / bound
            z = z.sign() * torch.clamp(z.abs() - c.l1[block] / bound, min=0.0)
            z = torch.minimum(torch.maximum(z, c.lower[block]), c.upper[block])
            d = z - start
            if self._is_bounded(of_block, z, (g, value), d, bound):
                self._bounds[number] = bound if k else bound * _EASING
                return z
            bound *= 2
        self._bounds[number] = bound
        return start

    def _is_bounded(self, of_block: Any, z: Tensor, at: tuple[Tensor, Tensor], d: Tensor, bound: float) -> bool:
        """Return whether L bounds the curvature on the way to z: by values, or by gradients if values are rounded."""
        g, value = at
        size = bound * (d @ d)
        if bool(size > 64 * torch.finfo(d.dtype).eps * value.abs()):
            return bool(of_block(z) <= value + g @ d + size / 2)
        return bool((grad(of_block)(z) - g) @ d <= size * (1 + 1e-6))

    def _newton(self, of_block: Any, block: Tensor, g: Tensor, value: Tensor) -> Tensor:
        """Return the end of a line search towards the minimiser of the model with the second derivatives."""
        start, c = self.x[block], self._closure
        H = jacrev(grad(of_block))(start).double()  # reverse mode twice: some operations have no forward mode
        end = self._model_minimiser((H + H.mT) / 2, start.double(), g.double(), block).to(start.dtype)
        d, before = end - start, c.rest(start, block)
        fall = float(g @ d + c.rest(end, block) - before)
        rounding, t = 8 * torch.finfo(start.dtype).eps * float((value + before).abs()), 1.0
        for _ in range(_HALVINGS):
            z = end if t == 1 else start + t * d
            if bool(of_block(z) + c.rest(z, block) <= value + before + _DECREASE * t * min(fall, 0.0) + rounding):
                return z
            t /= 2
        return start

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
        own, limits = Partitioned("bcd", model, 1), Limits(_INNER, "slope", _SWEEPS * len(H), None, None, False)
        run = _Run(
            model, own, start.numpy().copy(), ("cyclic", "gradient"), _Sequence("bcd", own, "cyclic", None), limits
        )
        return torch.from_numpy(run.solution().value)


def _check_choices(function: str, blocks: Any, rule: str, update: str, limits: Limits) -> None:
    check_choice(function, "rule", rule, RULES)
    check_choice(function, "update", update, UPDATES)
    for name, given, known in (("rule", rule, _RULES), ("update", update, _UPDATES)):
        if given not in known:
            expected = f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
            why = "for a function, whose curvature has no known bound"
            raise ValueError(f"{function}: {name} must be {expected} {why}, got {given!r}")
    if limits.stop == "gap":
        raise ValueError(f"{function}: stop must be 'slope' for a function, whose dual is not known, got 'gap'")
    if isinstance(blocks, Blocks) and blocks.partition in ("sort", "average"):
        why = "for a function, whose curvature has no known bound"
        raise ValueError(f"{function}: the partition must be 'order' or 'variable' {why}, got {blocks.partition!r}")
    if isinstance(blocks, Blocks) and blocks.partition == "variable" and rule != "gs":
        raise ValueError(f"{function}: rule must be 'gs' for variable blocks, got {rule!r}")
