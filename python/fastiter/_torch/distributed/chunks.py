"""Computed chunks of a call with sharded steps, which the backward pass uses: with autograd graphs, or in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from ..sequences import Sequences
from .in_place import Backward, Forward, Kernels, Optional

#: Computes chunks of the tensors from a state: the results for each step, and the final states.
Run: TypeAlias = "Callable[[Optional, Sequence[Tensor] | None], tuple[Sequence[Tensor], Sequence[Tensor]]]"


@dataclass
class Chunk:
    """A computed chunk and its graph, from its tensors and initial states, if any, to its results and final states."""

    tensors: list[Tensor | None]
    entry: list[Tensor] | None
    results: list[Tensor]
    last: list[Tensor]

    def gradients(self, d_results: Optional, d_last: Sequence[Tensor], into: Optional) -> tuple[Optional, list[Tensor]]:
        """Return the gradients of the chunk's tensors, None for those that have none, and of its initial states."""
        result = self._gradients([*self.tensors, *(self.entry or ())], d_results, d_last)
        return result[: len(self.tensors)], self._of_entry(result[len(self.tensors) :])

    def entry_gradients(self, d_results: Optional, d_last: Sequence[Tensor]) -> list[Tensor]:
        """Return the gradients of the initial states."""
        return self._of_entry(self._gradients(self.entry or (), d_results, d_last))

    def _gradients(self, of: Optional, d_results: Optional, d_last: Optional) -> list[Tensor | None]:
        pairs = zip((*self.results, *self.last), (*d_results, *d_last), strict=True)
        differentiated = [(y, g) for y, g in pairs if g is not None and y.requires_grad]
        needed = [x for x in of if x is not None and x.requires_grad]
        if not differentiated or not needed:
            return [None] * len(of)
        outputs, cotangents = zip(*differentiated, strict=True)
        result = iter(torch.autograd.grad(outputs, needed, cotangents, retain_graph=True, allow_unused=True))
        return [next(result) if x is not None and x.requires_grad else None for x in of]

    def _of_entry(self, result: Optional) -> list[Tensor]:
        """Return the gradients of the initial states, zeros for those that have none."""
        every = result or [None] * len(self.last)
        return [torch.zeros_like(x) if g is None else g for g, x in zip(every, self.last, strict=True)]


@dataclass
class Saved:
    """The tensors that the graphs of the chunks have saved.

    The autograd function saves them as its own, so that activation checkpointing frees and recomputes them once on all
    ranks, and not separately for each graph. The graphs refer to this object, which must not refer to them: the garbage
    collector would not find such a cycle.
    """

    tensors: list[Tensor] = field(default_factory=list)

    def pack(self, x: Tensor) -> int:
        """Store a tensor of a chunk's graph and return its index."""
        self.tensors.append(x.detach())
        return len(self.tensors) - 1

    def unpack(self, place: int) -> Tensor:
        """Return the tensor at an index."""
        return self.tensors[place]


@dataclass
class Part(Chunk):
    """A chunk that kernels have computed in place; ``places`` are the indices of its saved tensors among the call's."""

    kernels: Kernels
    cut: Sequences
    saved: Saved
    places: list[int]

    def gradients(self, d_results: Optional, d_last: Sequence[Tensor], into: Optional) -> tuple[Optional, list[Tensor]]:
        """Write the gradients of the chunk's tensors; return them and those of the initial states."""
        saved = [self.saved.unpack(place) for place in self.places]
        call = Backward(self.tensors, self.entry, self.cut, saved, d_results, d_last, into)
        return into, self.kernels.backward(call)

    def entry_gradients(self, d_results: Optional, d_last: Sequence[Tensor]) -> list[Tensor]:
        """Return the gradients of the initial states."""
        return self.gradients(d_results, d_last, [None] * len(self.tensors))[1]


@dataclass
class Tape:
    """The record for the backward pass: the chunks, their saved tensors, and the matrix of this rank's map."""

    chunks: list[Chunk] = field(default_factory=list)
    saved: Saved = field(default_factory=Saved)
    transition: Tensor | None = None


def computed(
    run: Run, pieces: Optional, entry: list[Tensor] | None, needs: Sequence[bool] | None, saved: Saved
) -> Chunk:
    """Compute a chunk; if a gradient is needed, with a graph whose leaves are its own tensors."""
    if needs is None:
        results, last = run(pieces, entry)
        return Chunk([], entry, list(results), list(last))
    leaves = _leaves(pieces, needs)
    states = None if entry is None else [x.detach().requires_grad_() for x in entry]
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
        results, last = run(leaves, states)
    return Chunk(leaves, states, list(results), list(last))


def _leaves(pieces: Optional, needs: Sequence[bool]) -> list[Tensor | None]:
    return [
        None if x is None else x.detach().requires_grad_(need)
        for x, need in zip(pieces, needs[: len(pieces)], strict=True)
    ]


def last_states(kernels: Kernels, bounds: Tensor | None, pieces: Optional, entry: list[Tensor] | None) -> list[Tensor]:
    """Return the final states of a chunk whose results are computed later."""
    assert kernels.last is not None
    return kernels.last(Forward(pieces[:-2], entry, Sequences(pieces[-2], pieces[-1], bounds), [], False))


def computed_in_place(
    kernels: Kernels,
    bounds: Tensor | None,
    pieces: Optional,
    entry: list[Tensor] | None,
    needs: Sequence[bool] | None,
    saved: Saved,
    into: Optional,
) -> Part:
    """Compute a chunk with kernels that write to slices of the results."""
    cut = Sequences(pieces[-2], pieces[-1], bounds)
    tensors = list(pieces[:-2]) if needs is None else _leaves(pieces[:-2], needs)
    results = [x for x in into if x is not None]
    last, residuals = kernels.forward(Forward(tensors, entry, cut, results, needs is not None))
    return Part(tensors, entry, [], last, kernels, cut, saved, [saved.pack(x) for x in residuals])
