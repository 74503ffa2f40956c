"""Recurrences over a sequence whose steps are sharded over ranks: a pipeline of chunks, and a scan of affine maps.

In the pipeline a rank computes one chunk of independent rows, channels or heads after another, each as soon as its
state has arrived: C chunks on P ranks take C + P - 1 turns, with the arithmetic of one process. In the scan of maps,
for recurrences that are affine in the state, each rank reduces its shard to one map S -> M S + c, all ranks exchange
these maps in ceil(log2 P) rounds, and then each computes its steps from the resulting initial state. Gradients pass the
ranks in the opposite order by the same methods, with the adjoint maps M^H.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..autograd import differentiable_once
from ..ops import empty
from .affine import Affine
from .borders import Border
from .chunks import Chunk, Run, Tape, computed, computed_in_place, last_states
from .collectives import Line
from .in_place import Kernels, Optional, gradient_like
from .speculative import Shard


class Split(NamedTuple):
    """The axis of independent rows, channels or heads along which a call can be divided into chunks.

    Attributes
    ----------
    size, unit : int
        Size of the axis, and the granularity of chunks.
    tensors : tuple of (int or None)
        The axis in each tensor; None for one that all chunks share.
    results, state : int
        The axis in the results and in the states.
    smallest : int
        The minimum size of chunks that are worthwhile, used if the number of chunks is not specified.
    """

    size: int
    unit: int
    tensors: tuple[int | None, ...]
    results: int
    state: int
    smallest: int = 1

    def paying(self, chunks: int) -> int:
        """Return the number of worthwhile chunks, at most ``chunks``."""
        return max(1, min(chunks, self.size // self.smallest))

    def sizes(self, chunks: int) -> list[int]:
        """Return the sizes of at most ``chunks`` chunks."""
        units = -(-self.size // self.unit)
        chunks = max(1, min(chunks, units))
        ends = [min(self.size, units * i // chunks * self.unit) for i in range(chunks + 1)]
        return [b - a for a, b in itertools.pairwise(ends)]


class Entered(NamedTuple):
    """The initial states of this rank's shard, None on the first rank, and the Jacobian of its steps, for gradients."""

    states: list[Tensor] | None
    transition: Tensor | None


@dataclass
class Call:
    """A call on one rank.

    Attributes
    ----------
    function : str
        The name of the public function.
    line, border : Line, Border
        The ranks in order of time, and the border of this rank's shard.
    run : callable
        Computes this rank's steps.
    split, chunks : Split, list of int
        The axis along which chunks are taken, and their sizes.
    states : list of Tensor
        The default initial states.
    affine : Affine, optional
        The maps, for a scan of maps; None for the pipeline.
    kernels : Kernels, optional
        Kernels that compute parts in place; None to use ``run``, with a graph for each part.
    bounds : Tensor, optional
        The bounds of packed sequences on this rank.
    shard : Shard, optional
        Segments that are computed before the initial state has arrived; None for the pipeline and the scan.
    entered : Entered, optional
        The initial states, if they are known in advance; the maps are then used only for gradients.
    early : bool
        Whether the final states of a first chunk are worth computing ahead of its results, as others wait for them.
    """

    function: str
    line: Line
    border: Border
    run: Run
    split: Split
    chunks: list[int]
    states: list[Tensor]
    affine: Affine | None = None
    kernels: Kernels | None = None
    bounds: Tensor | None = None
    shard: Shard | None = None
    entered: Entered | None = None
    early: bool = False

    def sends_early(self, line: Line) -> bool:
        """Whether this rank sends the final states of its first chunk early. It then computes that chunk last."""
        return self.early and self.affine is None and not line.is_last and (line.is_first or len(self.chunks) == 1)


def computed_steps(
    call: Call, tensors: Sequence[Tensor | None], state: Sequence[Tensor] | None, needs_grad: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Compute this rank's steps; return the results and the final states of the sequences that end on this rank."""
    inputs = [*tensors, *(state or ())]
    if not needs_grad:
        return _forward(call, inputs, None)[:2]
    anchor = torch.empty(0, requires_grad=True)  # a rank may have no tensor of its own that requires a gradient
    every = _Sharded.apply(call, anchor, *inputs)
    count = len(every) - len(call.states)
    return list(every[:count]), list(every[count:])


class _Sharded(torch.autograd.Function):
    """Map the tensors and the initial states to the results and the final states."""

    @staticmethod
    def forward(ctx: Any, call: Call, _: Tensor, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        results, last, ctx.tape = _forward(call, inputs, ctx.needs_input_grad[2:])
        ctx.call, ctx.count = call, len(inputs)
        ctx.save_for_backward(
            *inputs, *ctx.tape.saved.tensors
        )  # the version reveals a tensor that has been written to since
        ctx.tape.saved.tensors = []
        ctx.set_materialize_grads(False)
        return (*results, *last)

    @staticmethod
    @differentiable_once(lambda ctx: ctx.call.function)
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        every = ctx.saved_tensors  # read only once, as checkpointing requires
        inputs, ctx.tape.saved.tensors = every[: ctx.count], list(every[ctx.count :])
        count = len(gradients) - len(ctx.call.states)
        try:
            result = _backward(ctx.call, ctx.tape, gradients[:count], gradients[count:])[: ctx.count]
        finally:
            ctx.tape.saved.tensors = []
        # A tensor that did not influence this rank's results gets zeros, as DistributedDataParallel waits for all.
        needs = ctx.needs_input_grad[2:]
        filled = (
            torch.zeros_like(x) if g is None and need and x is not None else g
            for x, g, need in zip(inputs, result, needs, strict=True)
        )
        return None, None, *(g if need else None for g, need in zip(filled, needs, strict=True))


def _pieces(x: Tensor | None, axis: int | None, sizes: Sequence[int]) -> list[Tensor | None]:
    if x is None or axis is None or len(sizes) == 1:
        return [x] * len(sizes)
    return list(x.split(list(sizes), axis))


def _joined(parts: Sequence[Tensor | None], axis: int | None) -> Tensor | None:
    """Concatenate the gradients of divided tensors; add up those of shared tensors."""
    present = [x for x in parts if x is not None]
    if len(present) < len(parts) and axis is not None:
        present = [] if not present else [_like_its_neighbours(x, present[0]) for x in parts]
    if not present:
        return None
    if len(present) == 1:
        return present[0]
    return _whole(present, axis) if axis is not None else torch.stack(present).sum(0)


def _like_its_neighbours(x: Tensor | None, other: Tensor) -> Tensor:
    return torch.zeros_like(other) if x is None else x


def _forward(
    call: Call, inputs: Sequence[Tensor | None], needs: Sequence[bool] | None
) -> tuple[list[Tensor], list[Tensor], Tape]:
    """Compute all chunks; ``needs`` is which inputs need a gradient, or None if no rank needs any."""
    if call.shard is not None:
        return call.shard.forward(inputs, needs)
    split, count, tape = call.split, len(call.split.tensors), Tape()
    cut = [_pieces(x, axis, call.chunks) for x, axis in zip(inputs[:count], split.tensors, strict=True)]
    first = [_pieces(x, split.state, call.chunks) for x in inputs[count:]]
    likes = [_pieces(x, split.state, call.chunks) for x in call.states]
    whole = [] if call.kernels is None else call.kernels.results(inputs[: count - 2])
    into = [_pieces(x, split.results, call.chunks) for x in whole]
    waits, expected = [], []
    if call.affine is None and call.entered is None and not call.line.is_first:
        expected = [call.line.expect(call.border.message(like)) for like in zip(*likes, strict=True)]

    def entering(at: int) -> list[Tensor] | None:
        own: Any = [x[at] for x in first] or None
        like: Any = [x[at] for x in likes]
        if call.entered is not None:
            received, tape.transition = call.entered
        elif call.affine is None:
            received = expected[at]() if expected else None
        else:
            received = _entering(call, call.affine, [x[at] for x in cut], own, like, tape)
        return call.border.entry(own, received, like)

    order, sent, chunks = list(range(len(call.chunks))), dict[int, Any](), dict[int, Chunk]()
    if call.kernels is not None and call.sends_early(call.line):
        order, sent[0] = [*order[1:], 0], entering(0)
        last_of_first = last_states(call.kernels, call.bounds, [x[0] for x in cut], sent[0])
        waits.append(call.line.send(call.border.leaving(last_of_first)))
    for at in order:
        entry, pieces = sent[at] if at in sent else entering(at), [x[at] for x in cut]
        chunk: Chunk
        if call.kernels is None:
            chunk = computed(call.run, pieces, entry, needs, tape.saved)
        else:
            chunk = computed_in_place(
                call.kernels, call.bounds, pieces, entry, needs, tape.saved, [x[at] for x in into]
            )
        if call.affine is None and not call.line.is_last and at not in sent:
            waits.append(call.line.send(call.border.leaving(chunk.last)))
        elif call.affine is not None and call.line.is_first and call.entered is None:
            _exchange(call.line, call.affine, _constant(call.affine, call.border.leaving(chunk.last)))
        chunks[at] = chunk
    tape.chunks = [chunks[at] for at in range(len(chunks))]
    for wait in waits:
        wait()
    last = zip(*[call.border.final(chunk.last) for chunk in tape.chunks], strict=True)
    if call.kernels is None:
        results = zip(*[[x.detach() for x in chunk.results] for chunk in tape.chunks], strict=True)
        whole = [_whole(x, split.results) for x in results]
    return whole, [_whole(x, split.state) for x in last], tape


def _whole(parts: Sequence[Tensor], axis: int) -> Tensor:
    """Concatenate into memory that is reused if it is large, as mapping new pages takes longer than copying."""
    if len(parts) == 1:
        return parts[0]
    sizes = [x.shape[axis] for x in parts]
    shape = list(parts[0].shape)
    shape[axis] = sum(sizes)
    result = empty(parts[0], shape)
    for x, to in zip(parts, result.split(sizes, axis), strict=True):
        to.copy_(x)
    return result


def _entering(
    call: Call, affine: Affine, pieces: Sequence[Tensor | None], own: Any, like: list[Tensor], tape: Tape
) -> list[Tensor] | None:
    """Exchange maps; return the initial states. The first rank, whose map is constant, does so after its steps."""
    if call.line.is_first:
        return None
    if call.line.is_last:  # no rank needs its map
        return _exchange(call.line, affine, _constant(affine, call.border.message(like)))
    _, last = call.run(pieces, call.border.entry(own, None, like))
    c = affine.packed(call.border.leaving(last))
    tape.transition = affine.transition(pieces) if call.border.is_crossed else affine.constant(c)[0]
    return _exchange(call.line, affine, [tape.transition, affine.is_open, c])


def _exchange(line: Line, affine: Affine, own: list[Tensor]) -> list[Tensor] | None:
    before = line.exclusive_prefix(own, affine.combine)
    return None if before is None else affine.unpacked(before[2])


def _constant(affine: Affine, parts: Sequence[Tensor]) -> list[Tensor]:
    return affine.constant(affine.packed(parts))


def _backward(call: Call, tape: Tape, d_results: Optional, d_last: Optional) -> list[Tensor | None]:
    if call.shard is not None:
        return call.shard.backward(tape, d_results, d_last)
    split, border, back = call.split, call.border, call.line.turned()
    results = [_pieces(g, split.results, call.chunks) for g in d_results]
    finals = [_pieces(g, split.state, call.chunks) for g in d_last]
    result: dict[int, list[Tensor | None]] = {}
    whole, into = _gradients_in_place(call, tape)
    waits, expected = [], []
    if call.affine is None and not back.is_first:
        expected = [back.expect(border.message(chunk.last)) for chunk in tape.chunks]

    def entering(at: int) -> list[Tensor]:
        chunk, of_last = tape.chunks[at], [g[at] for g in finals]
        if call.affine is None:
            received = expected[at]() if expected else None
        else:
            received = _entering_gradient(call, call.affine, tape, chunk, [g[at] for g in results], of_last)
        return border.last_gradient(of_last, received, chunk.last)

    order, sent = list(range(len(tape.chunks))), dict[int, list[Tensor]]()
    if call.sends_early(back):
        order, sent[0] = [*order[1:], 0], entering(0)
        of_first = tape.chunks[0].entry_gradients([g[0] for g in results], sent[0])
        waits.append(back.send(border.entering(of_first)))
    for at in order:
        after = sent[at] if at in sent else entering(at)
        gradients, entry = tape.chunks[at].gradients([g[at] for g in results], after, [x[at] for x in into])
        if call.affine is None and not back.is_last and at not in sent:
            waits.append(back.send(border.entering(entry)))
        elif call.affine is not None and back.is_first:
            _exchange(back, call.affine, _constant(call.affine, border.entering(entry)))
        result[at] = [*gradients, *[None] * (len(split.tensors) - len(gradients)), *border.started(entry)]
    for wait in waits:
        wait()
    axes = (*split.tensors, *(split.state for _ in call.states))
    whole += [None] * (len(axes) - len(whole))
    every = zip(whole, zip(*(result[at] for at in sorted(result)), strict=True), axes, strict=True)
    return [_joined(parts, axis) if x is None else x for x, parts, axis in every]


def _gradients_in_place(call: Call, tape: Tape) -> tuple[list[Tensor | None], list[list[Tensor | None]]]:
    """Allocate the gradients that kernels write: the whole ones, None for those that are joined, and their slices."""
    if call.kernels is None:
        return [], []
    whole: list[Tensor | None] = []
    parts: list[list[Tensor | None]] = []
    for leaves, axis in zip(
        zip(*[chunk.tensors for chunk in tape.chunks], strict=True), call.split.tensors, strict=False
    ):
        x = leaves[0]
        if x is None or not x.requires_grad or axis is None or len(leaves) == 1:
            whole.append(None)
            parts.append([gradient_like(leaf) for leaf in leaves])
        else:
            whole.append(empty(x, [*x.shape[:axis], sum(call.chunks), *x.shape[axis + 1 :]]))
            parts.append(_pieces(whole[-1], axis, call.chunks))
    return whole, parts


def _entering_gradient(
    call: Call, affine: Affine, tape: Tape, chunk: Chunk, of_results: Optional, of_last: Optional
) -> list[Tensor] | None:
    """Exchange adjoint maps; return the gradients of the final states. The last rank does so after its steps."""
    back, border = call.line.turned(), call.border
    if back.is_first:
        return None
    if back.is_last:
        return _exchange(back, affine, _constant(affine, border.message(chunk.last)))
    alone = border.last_gradient(of_last, None, chunk.last)
    c = affine.packed(border.entering(chunk.entry_gradients(of_results, alone)))
    assert tape.transition is not None  # set by the forward pass on every rank but the first and last
    return _exchange(back, affine, [affine.adjoint(tape.transition), affine.is_open, c])
