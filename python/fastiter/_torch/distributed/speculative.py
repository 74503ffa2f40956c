"""Shards that are all computed at once from zero states, and corrected when their initial states arrive.

A recurrence that forgets its state gives the same results from any state after some steps, bit for bit. So each rank
computes its steps from zero, in segments. When its state arrives, it repeats the first segment, and further segments
until the state after one is bitwise equal to the previous one: all later steps are then correct, as they depend on
nothing else. If nothing is forgotten, all segments are repeated. Gradients pass the segments in the opposite order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ..ops import empty
from .borders import Border
from .chunks import Part, Saved, Tape, computed_in_place
from .collectives import Line
from .in_place import Kernels, Optional, gradient_like

States: TypeAlias = "list[Tensor]"
#: Steps of the first segment as a multiple of the number of steps after which a state should be forgotten; the minimum
_MARGIN, _SHORTEST = 4, 256
#: Minimum ratio of the steps of a shard to those of its first segment
_LONG = 16


def segments(steps: int, memory: float) -> list[int]:
    """Return the bounds of three segments, the first and last of which are long enough to forget the state before them.

    ``memory`` is the number of steps after which a state should be forgotten. If it is large, there is one segment.
    """
    first = math.ceil(max(_SHORTEST, _MARGIN * min(memory, steps)))
    return [0, steps] if first > steps // _LONG else [0, first, steps - first, steps]


class Shard:
    """The segments of this rank's steps, and their computation.

    Parameters
    ----------
    line, border : Line, Border
        The ranks in order of time, and the border of this rank's shard.
    kernels : Kernels
        The kernels that compute segments.
    timed : sequence of (int or None)
        The time axis of each tensor, and of the reset flags.
    bounds : sequence of int
        The bounds of the segments.
    states : list of Tensor
        The default initial states.
    """

    def __init__(
        self,
        line: Line,
        border: Border,
        kernels: Kernels,
        timed: Sequence[int | None],
        bounds: Sequence[int],
        states: States,
    ) -> None:
        self._line, self._border, self._kernels = line, border, kernels
        self._timed, self._states, self._steps = timed, states, bounds[-1]
        # First step and number of steps of each segment, in the order in which they are computed
        self._segments = [(a, b - a) for a, b in itertools.pairwise(bounds)][:: -1 if line.reverse else 1]

    def forward(self, inputs: Optional, needs: Sequence[bool] | None) -> tuple[list[Tensor], list[Tensor], Tape]:
        """Compute results and final states from tensors, reset flags, lengths (always None) and initial states."""
        count, parts = len(self._timed) + 1, [None] * len(self._segments)
        whole = self._kernels.results(inputs[: count - 2])
        own = [x for x in inputs[count:] if x is not None] or None
        result: dict[int, Part] = {}

        def compute(at: int, entry: States | None) -> States:
            pieces = [*(self._cut(x, axis, at) for x, axis in zip(inputs, self._timed, strict=False)), None]
            into = [self._cut(x, 1, at) for x in whole]
            result[at] = computed_in_place(self._kernels, None, pieces, entry, needs, Saved(), into)
            return result[at].last

        expected = None if self._line.is_first else self._line.expect(self._border.message(self._states))

        def entering() -> States:
            assert expected is not None
            return self._border.entry(own, expected(), self._states) or []

        start = self._border.entry(own, None, self._states) if self._line.is_first else None
        last = _speculate(len(parts), compute, start, None if self._line.is_first else entering)
        if not self._line.is_last:
            self._line.send(self._border.leaving(last))()
        return whole, self._border.final(last), _tape([result[at] for at in range(len(parts))])

    def backward(self, tape: Tape, d_results: Optional, d_last: Optional) -> list[Tensor | None]:
        """Return the gradients of the tensors, None for flags and lengths, and those of the initial states."""
        parts, back, border = [x for x in tape.chunks if isinstance(x, Part)], self._line.turned(), self._border
        whole, into = self._gradients(parts)
        like = parts[-1].last
        expected = None if back.is_first else back.expect(border.message(like))

        def compute(step: int, d_state: States | None) -> States:
            at = len(parts) - 1 - step
            of_results = [self._cut(g, 1, at) for g in d_results]
            assert d_state is not None
            return parts[at].gradients(of_results, d_state, into[at])[1]

        def entering() -> States:
            assert expected is not None
            return border.last_gradient(d_last, expected(), like)

        alone = border.last_gradient(d_last, None, like)
        entry = _speculate(len(parts), compute, alone, None if back.is_first else entering)
        if not back.is_last:
            back.send(border.entering(entry))()
        shared = ([x[i] for x in into] for i in range(len(whole)))
        every = (_sum(x) if y is None else y for x, y in zip(shared, whole, strict=True))
        return [*every, None, None, *border.started(entry)]

    def _cut(self, x: Tensor | None, axis: int | None, at: int) -> Tensor | None:
        """Return the steps of a segment; a tensor without a time axis is shared by all segments."""
        if x is None or axis is None or x.shape[axis] != self._steps:
            return x
        return x.narrow(axis, *self._segments[at])

    def _gradients(self, parts: Sequence[Part]) -> tuple[list[Tensor | None], list[list[Tensor | None]]]:
        """Allocate the gradients: the whole ones, None for those to be added up, and each segment's slices."""
        whole: list[Tensor | None] = []
        columns: list[list[Tensor | None]] = []
        for axis, *leaves in zip(self._timed[:-1], *(part.tensors for part in parts), strict=True):
            x = leaves[0]
            is_timed = x is not None and axis is not None and x.shape[axis] == self._segments[0][1]
            if x is None or axis is None or not x.requires_grad or not is_timed:
                whole.append(None)
                columns.append([gradient_like(leaf) for leaf in leaves])
                continue
            shape = [*x.shape[:axis], self._steps, *x.shape[axis + 1 :]]
            whole.append(empty(x, shape))
            columns.append([self._cut(whole[-1], axis, at) for at in range(len(parts))])
        return whole, [list(row) for row in zip(*columns, strict=True)]


def _speculate(
    count: int,
    compute: Callable[[int, States | None], States],
    start: States | None,
    entering: Callable[[], States] | None,
) -> States:
    """Compute segments, each from the final state of the one before; return the final state of the last one.

    If a state is received, it replaces the first one, and segments are repeated until a final state does not change.
    """
    state, left = start, []
    for at in range(count):
        state = compute(at, state)
        left.append(state)
    if entering is None:
        return left[-1]
    state = entering()
    for at in range(count):
        state = compute(at, state)
        if _same_bits(state, left[at]):
            return left[-1]
    return state


def _same_bits(first: States, second: States) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(x.contiguous().view(torch.uint8), y.contiguous().view(torch.uint8)) for x, y in pairs)


def _tape(parts: Sequence[Part]) -> Tape:
    """Return a tape of the segments, with their saved tensors in one list."""
    tape = Tape()
    for part in parts:
        part.places = [tape.saved.pack(part.saved.unpack(place)) for place in part.places]
        part.saved = tape.saved
        tape.chunks.append(part)
    return tape


def _sum(parts: Optional) -> Tensor | None:
    present = [x for x in parts if x is not None]
    return torch.stack(present).sum(0) if present else None
