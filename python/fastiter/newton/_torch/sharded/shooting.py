"""Multiple shooting: Newton's method for the states at the borders only; between them each rank runs the loop.

Let F_r map the state before the steps of rank r to the state after them, computed by the loop, and let M_r be its
Jacobian. One iteration replaces the states y at the borders by the solution of y'_(r+1) = F_r(y_r) + M_r (y'_r - y_r),
a scan of affine maps. Rank r is exact after r iterations, and after two if the steps forget their past.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...._torch.distributed.affine import Affine
from ...._torch.distributed.engine import Entered
from ...._torch.distributed.sharding import Meeting
from ..._cells import NewtonInfo
from .newton import Options

#: Maximum factor by which a shard may amplify an error of its initial state, as in one process
_GROWTH = 256.0

#: Runs this rank's steps from initial states and returns the final states
Run = Callable[[Sequence[Tensor] | None], Sequence[Tensor]]


class Shard:
    """This rank's steps as a map from the states before them to the states after them.

    Parameters
    ----------
    met : Meeting
        The ranks and the borders.
    run : callable
        Runs the steps.
    own : sequence of Tensor, optional
        The user's initial states.
    like : sequence of Tensor
        Zeros to use instead of them.
    """

    def __init__(self, met: Meeting, run: Run, own: Sequence[Tensor] | None, like: Sequence[Tensor]) -> None:
        self._met, self._run, self._own, self._like = met, run, own, like
        self._first: Tensor | None = None

    def guess(self) -> Tensor:
        """Return the initial guess of the states before this rank's steps, (B, D, K)."""
        source = self._like if self._own is None or self._met.border.packed else self._own
        return torch.stack([x.clone() for x in self._met.border.message(source)], -1)

    def constant(self) -> Tensor:
        """Return the states after the steps of the first rank, which receives no states."""
        if self._first is None:
            with torch.no_grad():
                last = self._run(self._met.border.entry(self._own, None, self._like))
            self._first = torch.stack(self._met.border.leaving(last), -1)
        return self._first

    def linearised(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states after this rank's steps (B, D, K), and their Jacobian (B, D, K, K)."""
        border = self._met.border
        entry = border.entry(self._own, list(y.unbind(-1)), self._like) or self._like
        with torch.enable_grad():
            leaves = [x.detach().clone().requires_grad_() for x in entry]
            leaving = border.leaving(self._run(leaves))
        rows = []
        for part in leaving:
            result: Sequence[Tensor | None] = [None] * len(leaves)
            if part.requires_grad:  # otherwise no packed sequence continues on the next rank
                ones = torch.ones_like(part)
                result = torch.autograd.grad(part, leaves, ones, retain_graph=True, allow_unused=True)
            filled = [torch.zeros_like(x) if g is None else g for g, x in zip(result, leaves, strict=True)]
            rows.append(torch.stack(border.entering(filled), -1))
        return torch.stack([x.detach() for x in leaving], -1), torch.stack(rows, -2)


def shoot(shard: Shard, met: Meeting, options: Options, info: list[NewtonInfo]) -> Entered | None:
    """Iterate until the states at all borders have converged; None on all ranks if they do not converge."""
    line, affine = met.line, Affine(_nothing, met.is_open, "parts")
    y = shard.guess()
    steps, active = torch.zeros(len(y), dtype=torch.int64), torch.ones(len(y), dtype=torch.bool)
    lost, jacobian = torch.zeros_like(active), None
    for step in range(1, options.max_steps + 1):
        if not bool(active.any()) or bool(lost.any()):
            break
        steps[active] = step
        grown = torch.zeros(len(y), dtype=torch.bool)
        if line.is_first:
            own = affine.constant(shard.constant())
        elif line.is_last:  # no rank needs its map
            own = affine.constant(torch.zeros_like(y))
        else:
            after, jacobian = shard.linearised(y)
            through = torch.where(met.is_open[:, None, None], affine.times(jacobian, y), 0)
            own = [jacobian, met.is_open, after - through]
            grown = ~(jacobian.abs().sum(3) <= _GROWTH).flatten(1).all(1).cpu() & met.is_open.cpu()
        before = line.exclusive_prefix(own, affine.combine)
        new = y if before is None else before[2]
        near = ((new - y).abs() <= options.atol + options.rtol * new.abs()).flatten(1).all(1).cpu()
        every = line.ranks.all_gather(torch.stack([near, ~grown & new.isfinite().flatten(1).all(1).cpu()]))
        ends, fine = torch.stack(every).amin(0)
        lost = active & ~fine
        active = active & ~ends
        y = new
    failed = active | lost
    info.append(NewtonInfo("newton", steps, failed.long()))
    if bool(failed.any()):
        return None
    return Entered(None if line.is_first else [x.contiguous() for x in y.unbind(-1)], jacobian)


def _nothing(tensors: Sequence[Tensor | None]) -> Tensor:
    raise AssertionError("products are those of Shard.linearised")
