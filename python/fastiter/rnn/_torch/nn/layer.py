"""h[t] = cell(W x[t] + b_ih + R h[t-1] + b_hh, states[t-1]): one direction of one layer as one node of autograd.

With input projection and recurrence in one node, views are free and checks are not repeated, so a small layer takes
half the time of the public functions: a chain of ten small nodes costs 60 microseconds forward and backward.

Inputs are time-major: x (T, B, I), or the data (M, I) of a PackedSequence together with its batch_sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .... import _core
from ...._torch.autograd import applied_directly, one_by_one
from ...._torch.autograd_twice import differentiable
from ...._torch.linear import LinearBackward, LinearForward, linear_bwd, linear_fwd
from ...._torch.ops import grad_enabled, transformed, unwatched
from ..._cells import Cell
from .. import ops, work
from ..double_backward import Call

State = tuple[Tensor, ...]


class Direction(NamedTuple):
    """Options of one direction. batch_sizes: None unless packed; the last three are those of fastiter.torch.lstm."""

    cell: Cell
    heads: int
    reverse: bool
    batch_sizes: Tensor | None
    clip_state: float | None = None
    clip_grad: float | None = None
    checkpoint: int = 0


#: clip_state, clip_grad and checkpoint of a direction without options
NO_OPTIONS = (None, None, 0)


class Steps(NamedTuple):
    """Division of steps into sequences, as in the ops: lengths (B,), cu_seqlens (S + 1,), reset (B, T), or None."""

    lengths: Tensor | None = None
    cu_seqlens: Tensor | None = None
    reset: Tensor | None = None


ALL_STEPS = Steps()


class Parameters(NamedTuple):
    """Parameters of one direction of one layer, with the shapes of torch.nn."""

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None
    b_hh: Tensor | None


def layer(
    direction: Direction,
    x: Tensor,
    parameters: Parameters,
    first: State = (),
    to_first: Tensor | None = None,
    sequences: Steps = ALL_STEPS,
    *,
    plain: bool,
) -> tuple[Tensor, State]:
    """Return h (T, B, H) or (M, H), and the final states, each (1, B, H). Arguments are not checked.

    `first` contains the initial states (B, N, D), or is () for zeros. `to_first` (B, G * H) is added to the gates of
    the first step that each row computes. `plain`: whether nothing observes the call (:func:`unwatched`).
    """
    inputs = (*sequences, x, *parameters, to_first, *first)
    needs_grad = False
    if torch.is_grad_enabled() if plain else grad_enabled():
        for tensor in inputs:
            if tensor is not None and tensor.requires_grad:
                needs_grad = True
                break
    if not plain and transformed():
        h, *last = _Transformed.apply(direction, *inputs)[: 1 + len(direction.cell.states)]
    elif needs_grad or forward_ad._current_level >= 0:  # under forward mode the autograd function raises
        call = ((direction, plain), *inputs)
        h, *last = applied_directly(_Layer, *call) if plain else _Layer.apply(*call)
    else:
        h, last, _ = _run(direction, inputs, plain, save=False)
    return h, tuple(last)


class _Layer(torch.autograd.Function):
    """Map (lengths, cu_seqlens, reset, x, w_ih, w_hh, b_ih, b_hh, to_first, *first) to (h, *final states)."""

    @staticmethod
    def forward(ctx: Any, call: tuple[Direction, bool], *inputs: Any) -> tuple[Tensor, ...]:
        direction, plain = call
        h, last, saved = _run(direction, inputs, plain, save=True)
        _save(ctx, direction, inputs, saved)
        return h, *last

    @staticmethod
    @one_by_one
    def backward(ctx: Any, *d_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        count = len(ctx.needs_input_grad) - 4
        if d_outputs[0] is None and all(d_output is None for d_output in d_outputs):
            return (None,) * (4 + count)
        tensors = ctx.saved_tensors  # read only once, as torch.utils.checkpoint requires
        if not torch.is_grad_enabled():
            return (None, None, None, None, *_gradients(ctx, tensors, d_outputs[0], d_outputs[1:]))
        with torch.no_grad():
            result = _gradients(ctx, tensors, d_outputs[0], d_outputs[1:])
        x, w_ih, w_hh, _, b_ih, b_hh, to_first, *rest = tensors
        sequences = ALL_STEPS if ctx.is_plain else Steps(*rest[:3])
        inputs = (x, w_ih, w_hh, b_ih, b_hh, to_first, *rest[len(rest) - count + 6 :])
        result = differentiable(_Again(ctx.direction), result, inputs, sequences, d_outputs)
        return (None, None, None, None, *result)


class _Transformed(torch.autograd.Function):
    """The variant of _Layer for torch.func, which requires all saved tensors to be outputs."""

    generate_vmap_rule = True

    @staticmethod
    def forward(direction: Direction, *inputs: Any) -> tuple[Tensor, ...]:
        h, last, saved = _run(direction, inputs, unwatched(), save=True)
        return (h, *last, *saved)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        direction, *others = inputs
        saved = output[1 + len(direction.cell.states) :]
        _save(ctx, direction, others, saved)
        ctx.mark_non_differentiable(*saved)

    @staticmethod
    def backward(ctx: Any, *d_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        return _Layer.backward(ctx, *d_outputs[: 1 + len(ctx.direction.cell.states)])


@dataclass(frozen=True)
class _Again:
    """A direction of a layer in torch's own operations: the replay for second derivatives."""

    direction: Direction

    def __call__(self, inputs: Sequence[Any], constants: Sequence[Any]) -> list[Tensor]:
        direction, sequences = self.direction, Steps(*constants)
        x, w_ih, w_hh, b_ih, b_hh, to_first, *first = inputs
        parameters = Parameters(w_ih, w_hh, b_ih, b_hh)
        wx, b = _gates(direction, sequences, x, parameters, to_first, torch.nn.functional.linear)
        call = Call(direction.cell, direction.reverse, False, direction.clip_state, direction.clip_grad)
        cut = (sequences.lengths, direction.batch_sizes, sequences.cu_seqlens, sequences.reset)
        h, *last = call((wx, _blocks(direction, w_hh), b, *first), cut)
        return [_lines(direction, h), *[s.reshape(1, s.shape[0], -1) for s in last]]


def _save(ctx: Any, direction: Direction, inputs: Sequence[Any], saved: Sequence[Tensor]) -> None:
    """Save the tensors of the backward pass; biases are needed only for second derivatives and checkpoints."""
    lengths, cu_seqlens, reset, x, w_ih, w_hh, b_ih, b_hh, to_first, *first = inputs
    sequences = Steps(lengths, cu_seqlens, reset)
    ctx.is_plain = not direction.checkpoint and lengths is None and cu_seqlens is None and reset is None
    h, *rest = saved
    ctx.save_for_backward(x, w_ih, w_hh, h, b_ih, b_hh, to_first, *(() if ctx.is_plain else sequences), *rest, *first)
    ctx.direction, ctx.saved_count = direction, len(rest)
    ctx.set_materialize_grads(False)


def _gradients(
    ctx: Any, tensors: Sequence[Tensor], dh: Tensor | None, dlast: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Return the gradients of all differentiable inputs of the node."""
    direction: Direction = ctx.direction
    need_x, need_ih, need_hh, need_b_ih, need_b_hh, need_to_first, *need_first = ctx.needs_input_grad[4:]
    # Either the biases are separate, or they are summed and share one gradient.
    separate = direction.cell.separates
    needs = (need_x, need_ih, need_hh, need_b_ih, need_b_hh, any(need_first))
    gradients, dto_first = None if need_to_first else _short_gradients(ctx, tensors, dh, dlast, needs), None
    if gradients is None:
        gradients, dto_first = _longer_gradients(ctx, tensors, dh, dlast, needs, need_to_first)
    left = iter(gradients)
    dx, dw_ih, dw_hh = [next(left) if need else None for need in needs[:3]]
    db = next(left) if need_b_hh or (need_b_ih and not separate) else None
    db_ih = db if not separate else next(left) if need_b_ih else None
    dfirst = list(left) if needs[-1] else [None] * len(need_first)
    return [dx, dw_ih, dw_hh, db_ih, db, dto_first, *dfirst]


Needs = tuple[bool, bool, bool, bool, bool, bool]  # x, w_ih, w_hh, b_ih, b_hh, initial states


def _short_gradients(
    ctx: Any, tensors: Sequence[Tensor], dh: Tensor | None, dlast: Sequence[Tensor | None], needs: Needs
) -> list[Tensor] | None:
    """Compute dx, dw_ih, dw_hh, db_hh, db_ih and dfirst, as needed, in one C++ call; None if that is not possible."""
    direction: Direction = ctx.direction
    if direction.batch_sizes is not None or direction[4:] != NO_OPTIONS or not unwatched():
        return None
    x, w_ih, w_hh, h, _, _, _, *rest = tensors
    sequences: Sequence[Tensor | None] = ALL_STEPS
    if not ctx.is_plain:
        sequences, rest = rest[:3], rest[3:]
    saved, first, others = rest[: ctx.saved_count], rest[ctx.saved_count :], len(direction.cell.states) - 1
    need_x, need_ih, need_hh, need_b_ih, need_b_hh, need_first = needs
    cut: Any = tuple(sequences)
    gradients: list[Tensor] | None = _core.rnn.backward_tensors(
        direction.cell.code,
        (x, w_ih, direction.heads, need_x, need_ih, need_b_ih),
        *(w_hh, first, [h, *saved[:others]], saved[others:], [dh], dlast, cut),
        direction.reverse,
        (need_hh, need_b_hh, need_first),
    )
    return gradients


def _longer_gradients(
    ctx: Any,
    tensors: Sequence[Tensor],
    dh: Tensor | None,
    dlast: Sequence[Tensor | None],
    needs: Needs,
    need_to_first: bool,
) -> tuple[list[Tensor], Tensor | None]:
    """Compute the same with separate ops, and also the gradient of `to_first` if it is needed."""
    direction: Direction = ctx.direction
    need_x, need_ih, need_hh, need_b_ih, need_b_hh, need_first = needs
    x, w_ih, w_hh, h, b_ih, b_hh, to_first, *rest = tensors
    sequences, wx, b = ALL_STEPS, None, None
    if not ctx.is_plain:
        lengths, cu_seqlens, reset, *rest = rest
        sequences = Steps(lengths, cu_seqlens, reset)
        if direction.checkpoint:
            wx, b = _gates(direction, sequences, x, Parameters(w_ih, w_hh, b_ih, b_hh), to_first)
    saved, first = rest[: ctx.saved_count], rest[ctx.saved_count :]
    separate = direction.cell.separates
    needed = (need_hh, need_b_hh or (need_b_ih and not separate), need_first)
    dwx, *result = _recurrence_backward(direction, sequences, w_hh, h, saved, first, dh, dlast, needed, wx, b)
    biases = int(need_hh) + int(needed[1])
    of_hh = [result[0].view(w_hh.shape)] if need_hh else []
    of_recurrence = [*of_hh, *(x.flatten() for x in result[len(of_hh) : biases]), *result[biases:]]
    of_product = linear_bwd(LinearBackward(dwx, x, w_ih, [need_x, need_ih, need_b_ih and separate]))
    weights = int(need_x) + int(need_ih)
    gradients = [*of_product[:weights], *of_recurrence[:biases], *of_product[weights:], *of_recurrence[biases:]]
    return gradients, _of_first_steps(direction, sequences, dwx) if need_to_first else None


def _gates(
    direction: Direction,
    sequences: Steps,
    x: Tensor,
    parameters: Parameters,
    to_first: Tensor | None,
    product: Callable[[Tensor, Tensor, Tensor | None], Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return W x + b_ih in the shape of the recurrence's wx, and its b."""
    w_ih, w_hh, b_ih, b_hh = parameters
    outer, inner = b_ih, b_hh
    if b_ih is not None and b_hh is not None and not direction.cell.separates:
        outer, inner = _sum_of_biases(x, b_ih, b_hh)
    call = LinearForward(x, w_ih, outer)
    wx = product(*call) if product else linear_fwd(call)
    if to_first is not None:
        _add_to_first_steps(direction, sequences, wx, to_first)
    gates = (direction.cell.gates, direction.heads, w_hh.shape[1])
    return _steps(direction, wx, gates), None if inner is None else inner.view(gates)


def _sum_of_biases(x: Tensor, b_ih: Tensor, b_hh: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return the biases of the product and of the recurrence, divided so that no sum is rounded to 16 bits."""
    if x.is_cuda and x.dtype.itemsize == 2:
        return b_ih, b_hh
    return None, b_ih.to(ops.carried(x)) + b_hh


def _run(
    direction: Direction, inputs: Sequence[Any], plain: bool, *, save: bool
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return h, the final states, and with `save` the tensors of the backward pass: all states and the gates.

    If nothing observes the call, one C++ call runs a layer over all steps, in a fraction of the time.
    """
    lengths, cu_seqlens, reset, x, w_ih, w_hh, b_ih, b_hh, to_first, *first = inputs
    if plain and to_first is None and direction.batch_sizes is None and direction[4:] == NO_OPTIONS:
        arrays = (x, (w_ih, b_ih, direction.heads), w_hh, b_hh, first, (lengths, cu_seqlens, reset))
        results = _core.rnn.forward_tensors(direction.cell.code, *arrays, direction.reverse, False, save)
        if results is not None:
            count = 1 + len(direction.cell.states)
            return results[0], results[1:count], results[count:]
    sequences, parameters = Steps(lengths, cu_seqlens, reset), Parameters(w_ih, w_hh, b_ih, b_hh)
    cell, _, reverse, sizes, *_ = direction
    wx, b = _gates(direction, sequences, x, parameters, to_first)
    r, options = _blocks(direction, w_hh), _options(direction, sequences)
    arguments = (cell, wx, r, b, first, reverse, lengths, sizes, False, options)
    saved: list[Tensor] = []
    if save:
        (h, *rest), saved = ops.rnn_fwd_saved(*arguments)
        saved[0] = _lines(direction, saved[0])
    else:
        h, *rest = ops.rnn_fwd(*arguments)
    last = [state.view(1, *state.shape[:-2], w_hh.shape[0] // cell.gates) for state in rest]
    h, *last = _no_views(_lines(direction, h), *last)
    return h, last, saved


def _options(direction: Direction, sequences: Steps) -> work.Options:
    limits = direction.clip_state, direction.clip_grad
    return work.options_of(sequences.cu_seqlens, sequences.reset, *limits, direction.checkpoint)


def _no_views(*tensors: Tensor) -> Sequence[Tensor]:
    """Unmark views, as autograd refuses detach_() on them; not while tracing, as that would fix their length."""
    return [x.unsafe_chunk(1)[0] for x in tensors] if unwatched() else tensors


def _recurrence_backward(
    direction: Direction,
    sequences: Steps,
    w_hh: Tensor,
    h: Tensor,
    saved: list[Tensor],
    first: list[Tensor],
    dh: Tensor | None,
    dlast: Sequence[Tensor | None],
    needs: tuple[bool, bool, bool],
    wx: Tensor | None,
    b: Tensor | None,
) -> list[Tensor]:
    """Return dwx (T, B, G * H) or (M, G * H), and the gradients of r, b and first that are needed."""
    cell, heads, reverse, sizes, *_ = direction
    others, block = len(cell.states) - 1, (heads, w_hh.shape[1])
    count = 0 if direction.checkpoint else others
    states, rest = [_steps(direction, h, block), *saved[:count]], saved[count:]
    # Only h is returned for all steps, so the other states have no gradient except at the end.
    dstates = [None if dh is None else _steps(direction, dh, block), *[None] * others]
    last = [None if d is None else d.squeeze(0).unflatten(1, block) for d in dlast]
    r, options = _blocks(direction, w_hh), _options(direction, sequences)
    arguments = (first, states, rest, dstates, last, reverse, sequences.lengths, sizes, *needs)
    dwx, *gradients = ops.rnn_bwd(cell, r, *arguments, options, wx, b)
    return [_lines(direction, dwx), *gradients]


def _blocks(direction: Direction, w_hh: Tensor) -> Tensor:
    """View weight_hh (G * H, D) as r (G, N, D, D)."""
    width = w_hh.shape[1]
    return w_hh.view(direction.cell.gates, direction.heads, width, width)


def _steps(direction: Direction, lines: Tensor, shape: tuple[int, ...]) -> Tensor:
    """View (T, B, C) as (B, T, *shape), or (M, C) as (M, *shape), the layout of the ops of this family."""
    steps = lines.view(*lines.shape[:-1], *shape)
    return steps.transpose(0, 1) if direction.batch_sizes is None else steps


def _lines(direction: Direction, steps: Tensor) -> Tensor:
    """Invert _steps, without a copy, as the ops return time-major memory for time-major input."""
    return steps.transpose(0, 1).flatten(2) if direction.batch_sizes is None else steps.flatten(1)


def _first_steps(direction: Direction, sequences: Steps) -> tuple[int | Tensor, ...]:
    """Return the index of the first step that each row computes: time or (times, rows) in (T, B, C), lines in (M, C).

    The index of a row without steps is arbitrary.
    """
    batch_sizes, reverse = direction.batch_sizes, direction.reverse
    if batch_sizes is not None:
        rows = torch.arange(int(batch_sizes[0]), device=batch_sizes.device)
        if not reverse:
            return (rows,)
        lengths = len(batch_sizes) - torch.searchsorted(batch_sizes.flip(0), rows, right=True)
        return ((batch_sizes.cumsum(0) - batch_sizes)[lengths - 1] + rows,)
    if sequences.lengths is not None and reverse:
        return sequences.lengths - 1, torch.arange(sequences.lengths.shape[0], device=sequences.lengths.device)
    return (-1 if reverse else 0,)


def _first_lines(direction: Direction, bounds: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return the index for concatenated sequences, and a mask (S, 1) of the empty ones, whose index is arbitrary."""
    lines = bounds[1:] - 1 if direction.reverse else bounds[:-1]
    return lines.clamp(0, steps - 1), (bounds.diff() == 0).unsqueeze(1)


def _add_to_first_steps(direction: Direction, sequences: Steps, wx: Tensor, to_first: Tensor) -> None:
    """Add to_first to the first computed step of each row of wx, in place."""
    if sequences.cu_seqlens is None:
        wx[_first_steps(direction, sequences)] += to_first
        return
    lines, is_empty = _first_lines(direction, sequences.cu_seqlens, len(wx))
    wx.squeeze(1).index_add_(0, lines, to_first.masked_fill(is_empty, 0))


def _of_first_steps(direction: Direction, sequences: Steps, dwx: Tensor) -> Tensor:
    """Return the gradient (B, G * H) of the argument to_first of :func:`_add_to_first_steps`."""
    if sequences.cu_seqlens is None:
        return dwx[_first_steps(direction, sequences)]
    lines, is_empty = _first_lines(direction, sequences.cu_seqlens, len(dwx))
    return dwx.squeeze(1)[lines].masked_fill(is_empty, 0)
