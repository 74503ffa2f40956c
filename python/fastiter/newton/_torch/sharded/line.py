"""The exchanges between ranks in each iteration of Newton's method on sharded steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...._torch.distributed.affine import Affine
from ...._torch.distributed.collectives import Line
from ....scan._torch.functional import block_scan, linear_scan


class Steps:
    """The steps of all ranks in order of time, and this rank's range of them.

    Parameters
    ----------
    line : Line
        The ranks in order of time.
    counts : sequence of int
        The number of steps of each rank, by rank.
    is_open : Tensor (B,) of bool
        Whether the state after this rank's steps depends on the state before them.

    Attributes
    ----------
    total, start, count : int
        The numbers of all steps, of the steps before this rank's, and of this rank's steps.
    source : int or None
        The last rank before this one that has steps.
    """

    def __init__(self, line: Line, counts: Sequence[int], is_open: Tensor) -> None:
        self.line, self._is_open = line, is_open
        at, ordered = line.position, [counts[line.rank(position)] for position in range(line.size)]
        self.total, self.start, self.count = sum(ordered), sum(ordered[:at]), ordered[at]
        self.source = next((line.rank(k) for k in range(at - 1, -1, -1) if ordered[k]), None)
        after = next((k for k in range(at + 1, line.size) if ordered[k]), line.size - 1)
        self._readers = [line.rank(k) for k in range(at + 1, after + 1)] if self.count else []

    def before(self, first: Tensor, y: Tensor) -> Tensor:
        """Return the states (B, D, K) before this rank's steps, ``first`` if there are no earlier steps: one round."""
        ranks = self.line.ranks
        last = y[:, -1].contiguous() if self._readers else first
        result = first.clone() if self.source is None else torch.empty_like(first)
        works = [] if self.source is None else [(ranks.start_receive(self.source, result), self.source)]
        works += [(ranks.start(rank, last), rank) for rank in self._readers]
        ranks.wait_all(works)
        return result

    def gathered(self, *numbers: Tensor) -> Tensor:
        """Return values (B,) of all ranks in order of time, as (P, n, B): one round."""
        every = self.line.ranks.all_gather(torch.stack([x.double() for x in numbers]))
        return torch.stack([every[self.line.rank(position)] for position in range(self.line.size)]).to(
            numbers[0].device
        )

    def scan(self, jacobian: Tensor, x: Tensor) -> Tensor:
        """Return d[t] = J[t] d[t-1] + x[t] (B, T, D, K) over the steps of all ranks, from zero: ceil(log2 P) rounds."""
        line, affine = self.line, Affine(_nothing, self._is_open, "vector")
        alone = _scan(jacobian, x, None)
        c = alone[:, -1] if self.count else torch.zeros_like(x[:, :0].sum(1))
        own = affine.constant(c)
        if not (line.is_first or line.is_last):
            own = [self.product(jacobian), self._is_open, c]
        elif line.is_last:
            own = affine.constant(torch.zeros_like(c))
        entering = line.exclusive_prefix(own, affine.combine)
        return alone if entering is None or not self.count else _scan(jacobian, x, entering[2])

    def product(self, jacobian: Tensor) -> Tensor:
        """Return the product of the Jacobians of this rank's steps, the first rightmost, (B, D, K, K)."""
        size = jacobian.shape[-1]
        unit = torch.eye(size, dtype=jacobian.dtype, device=jacobian.device)
        unit = unit.expand(*jacobian.shape[:1], *jacobian.shape[2:])
        if not self.count:
            return unit.clone()
        none = jacobian.new_zeros(()).expand(jacobian.shape[:-1])
        return torch.stack([_scan(jacobian, none, unit[..., j].contiguous())[:, -1] for j in range(size)], -1)


def _nothing(tensors: Sequence[Tensor | None]) -> Tensor:
    raise AssertionError("products are made by Steps.product")


def _scan(jacobian: Tensor, x: Tensor, first: Tensor | None) -> Tensor:
    if not x.shape[1]:
        return x
    if x.shape[3] == 1:
        state = None if first is None else first[..., 0]
        return linear_scan(jacobian[..., 0, 0].contiguous(), x[..., 0].contiguous(), state)[0].unsqueeze(3)
    return block_scan(jacobian.contiguous(), x.contiguous(), first)[0]
