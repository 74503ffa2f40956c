"""Long sequences: computations of one process, sharded functions and their peers on each rank, forward and backward.

The peers exchange whole arguments where a sharded function exchanges states:

all-gather    each rank gathers the arguments of all steps, as torch's context parallelism gathers keys and values, and
              runs the function of one process on the steps up to its own last one
later ranks   the same, but each rank sends its arguments to later ranks only
all-to-all    each rank gets all steps of its part of the channels or heads, as in DeepSpeed-Ulysses, and runs the
              function of one process on them
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import normalize

import fastiter.torch
from fastiter.torch import distributed

Gradients = list[Tensor]


@dataclass(frozen=True)
class Work:
    """A function on a sequence of ``steps`` steps, (1, steps, ...) in float32.

    With ``forgets`` the factors of linear_scan are uniform in [0, 1); else they are within 1e-3 of 1.
    """

    name: str
    steps: int
    forgets: bool = True

    @cached_property
    def tensors(self) -> list[Tensor]:
        """The arguments for all steps, the same on every rank."""
        random = torch.Generator().manual_seed(self.steps)
        if self.name == "linear_scan":
            gates = torch.rand(1, self.steps, 256, generator=random)
            return [gates if self.forgets else 1 - 1e-3 * gates, torch.randn(1, self.steps, 256, generator=random)]
        q, k, v = torch.randn(3, 1, self.steps, 8, 32, generator=random)
        return [q, normalize(k, dim=-1), v, torch.rand(1, self.steps, 8, generator=random)]

    @cached_property
    def cotangent(self) -> Tensor:
        """The gradient of the results for all steps."""
        shape = self.tensors[2 if self.name == "delta_scan" else 1].shape
        return torch.randn(shape, generator=torch.Generator().manual_seed(1))

    @property
    def shape(self) -> str:
        """The function with its sizes."""
        memory = "" if self.forgets else ", a near 1"
        return f"{self.name} (1, {self.steps}, {'8, 32' if self.name == 'delta_scan' else '256'}){memory}"

    @property
    def state_bytes(self) -> int:
        """Bytes of the state that crosses a shard boundary."""
        return 4 * (256 if self.name == "linear_scan" else 8 * 32 * 32)

    @property
    def map_bytes(self) -> int:
        """Bytes of the matrix of a shard's map."""
        return 4 * (256 if self.name == "linear_scan" else 8 * 32 * 32)

    def one(self, dtype: torch.dtype = torch.float32) -> Gradients:
        """Results and gradients of one process."""
        local = getattr(fastiter.torch, self.name)
        return gradients(local, [x.to(dtype) for x in self.tensors], self.cotangent.to(dtype))


def gradients(function: Callable[..., Any], tensors: Sequence[Tensor], cotangent: Tensor, **options: Any) -> Gradients:
    """Return the results and the gradients of all tensors."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    y, _ = function(*leaves, **options)
    return [y.detach(), *torch.autograd.grad(y, leaves, cotangent)]


class Shard:
    """A rank's part of the work, and how it is computed.

    Attributes
    ----------
    sent : int
        Bytes that this rank has passed to a peer's collectives since the attribute was last set to 0.
    """

    def __init__(self, work: Work, group: dist.ProcessGroup) -> None:
        self.work, self.group = work, group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.ends = [work.steps * r // self.size for r in range(self.size + 1)]
        self.mine = slice(self.ends[self.rank], self.ends[self.rank + 1])
        self.local = [x[:, self.mine].contiguous() for x in work.tensors]
        self.cotangent = work.cotangent[:, self.mine].contiguous()
        self.sent = 0

    @property
    def counts(self) -> list[int]:
        """The number of steps of each rank."""
        return [b - a for a, b in itertools.pairwise(self.ends)]

    def ours(self, exchange: str, chunks: int | None = None) -> Gradients:
        """The sharded function."""
        function = getattr(distributed, self.work.name)
        return gradients(function, self.local, self.cotangent, group=self.group, exchange=exchange, chunks=chunks)

    def gathered(self, *, later_only: bool) -> Gradients:
        """The peer that gathers the arguments for all steps, or sends them to the ranks that need them."""
        function = getattr(fastiter.torch, self.work.name)
        rows = [x[0].flatten(1) for x in self.local]
        widths = [x.shape[1] for x in rows]
        message = torch.cat(rows, 1)
        everything = self._to_later(message) if later_only else self._all_gather(message)
        known = everything[: self.ends[self.rank + 1]]
        leaves = [
            x.reshape(1, len(known), *y.shape[2:]).requires_grad_()
            for x, y in zip(known.split(widths, 1), self.local, strict=True)
        ]
        y, _ = function(*leaves)
        # A zero cotangent for the steps of earlier ranks, whose results this rank does not use
        cotangent = torch.cat([torch.zeros_like(y[:, : self.ends[self.rank]]), self.cotangent], 1)
        gradients = torch.autograd.grad(y, leaves, cotangent)
        back = self._to_owners(torch.cat([x[0].flatten(1) for x in gradients], 1))
        own = [
            x.reshape(1, -1, *z.shape[2:]).contiguous() for x, z in zip(back.split(widths, 1), self.local, strict=True)
        ]
        return [y.detach()[:, self.ends[self.rank] :], *own]

    def _exchange(self, rows: Tensor, to: Sequence[int], come: Sequence[int]) -> Tensor:
        """Send the given number of rows to each rank; return the received rows, in the order of the ranks."""
        received = rows.new_empty(sum(come), *rows.shape[1:])
        dist.all_to_all_single(received, rows.contiguous(), list(come), list(to), group=self.group)
        others = sum(to) - to[self.rank]
        self.sent += others * rows[:1].numel() * rows.element_size()
        return received

    def _all_gather(self, message: Tensor) -> Tensor:
        if len(set(self.counts)) > 1:  # pads all ranks to the same number of rows
            raise ValueError("all-gather: the steps must be a multiple of the ranks")
        everything = message.new_empty(self.ends[-1], message.shape[1])
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its name before torch 2.13
        gather(everything, message, group=self.group)
        self.sent += (self.size - 1) * message.numel() * message.element_size()
        return everything

    def _to_later(self, message: Tensor) -> Tensor:
        to = [len(message) if r >= self.rank else 0 for r in range(self.size)]
        come = [n if r <= self.rank else 0 for r, n in enumerate(self.counts)]
        copies = message.repeat(self.size - self.rank, 1) if self.rank < self.size - 1 else message
        return self._exchange(copies, to, come)

    def _to_owners(self, gradient: Tensor) -> Tensor:
        """Add up, over all ranks that have used them, the gradients of this rank's arguments."""
        to = [n if r <= self.rank else 0 for r, n in enumerate(self.counts)]
        own = self.counts[self.rank]
        come = [own if r >= self.rank else 0 for r in range(self.size)]
        received = self._exchange(gradient, to, come)
        return received if self.rank == self.size - 1 else received.view(-1, own, gradient.shape[1]).sum(0)

    def all_to_all(self) -> Gradients:
        """The peer that gets all steps of a part of the channels or heads."""
        function = getattr(fastiter.torch, self.work.name)
        parts = [self._by_part(x) for x in self.local]
        leaves = [x.requires_grad_() for x in self._to_parts(parts, [x.shape[3:] for x in self.local])]
        y, _ = function(*leaves)
        (cotangent,) = self._to_parts([self._by_part(self.cotangent)], [self.cotangent.shape[3:]])
        gradients = torch.autograd.grad(y, leaves, cotangent)
        return self._to_steps([y.detach(), *gradients])

    def _by_part(self, x: Tensor) -> Tensor:
        """Return (P, steps, numbers): the channels or heads of each rank."""
        width = x.shape[2] // self.size
        return torch.stack([part[0].flatten(1) for part in x.split(width, 2)])

    def _to_parts(self, parts: Sequence[Tensor], tails: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Return all steps of this rank's part of each tensor."""
        widths = [x.shape[2] for x in parts]
        own = self.counts[self.rank]
        message = torch.cat(list(parts), 2).flatten(0, 1)
        received = self._exchange(message, [own] * self.size, self.counts)
        return [
            x.reshape(1, self.ends[-1], -1, *tail) for x, tail in zip(received.split(widths, 1), tails, strict=True)
        ]

    def _to_steps(self, parts: Sequence[Tensor]) -> Gradients:
        """Return this rank's steps of all channels or heads of each tensor."""
        rows = [x[0].flatten(1) for x in parts]
        own, widths = self.counts[self.rank], [x.shape[1] for x in rows]
        received = self._exchange(torch.cat(rows, 1), self.counts, [own] * self.size)
        by_rank = received.view(self.size, own, -1).split(widths, 2)
        return [
            torch.cat(list(x.view(self.size, own, *y.shape[2:])), 1).unsqueeze(0)
            for x, y in zip(by_rank, parts, strict=True)
        ]
