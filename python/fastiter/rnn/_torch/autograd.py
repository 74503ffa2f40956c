"""The recurrent cells as an autograd function, and as another one for torch.func's transforms.

The saved tensors are private to the node, as users may write to h. Without checkpoints, the last of them (the gates, or
a copy of h for an Elman cell) is also a hidden output of the node, called the link. Its gradient is added to that of
wx: second derivatives reach wx through the link, so wx need not be saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..._torch.autograd import one_by_one
from ..._torch.autograd_twice import differentiable
from ..._torch.ops import own_copy
from .._cells import Cell
from .double_backward import Call
from .ops import rnn_bwd, rnn_fwd_saved, rnn_fwd_together
from .work import PLAIN, Options, options_of


class Recurrence(torch.autograd.Function):
    """Map (wx, r, b, *state) to (h, *final states, *all states but h, link)."""

    @staticmethod
    def forward(
        ctx: Any,
        cell: Cell,
        reverse: bool,
        lengths: Tensor | None,
        batch_sizes: Tensor | None,
        all_states: bool,
        cu_seqlens: Tensor | None,
        reset: Tensor | None,
        clip_state: float | None,
        clip_grad: float | None,
        checkpoint: int,
        wx: Tensor,
        r: Tensor,
        b: Tensor | None,
        *first: Tensor,
    ) -> tuple[Tensor, ...]:
        options = options_of(cu_seqlens, reset, clip_state, clip_grad, checkpoint)
        outputs, saved = rnn_fwd_saved(cell, wx, r, b, first, reverse, lengths, batch_sizes, all_states, options)
        _save(ctx, cell, reverse, all_states, options, lengths, batch_sizes, wx, r, b, first, saved)
        return tuple(outputs) if checkpoint else (*outputs, saved[-1])

    @staticmethod
    @one_by_one
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        dlink = None if ctx.options.checkpoint else gradients[-1]
        d_outputs, tensors = gradients[: ctx.returned], ctx.saved_tensors
        result: list[Tensor | None] = [None] * len(ctx.needs_input_grad[10:])
        if d_outputs[0] is not None or any(d_output is not None for d_output in d_outputs):
            if torch.is_grad_enabled():
                with torch.no_grad():
                    result = _gradients(ctx, tensors, d_outputs)
                result = _twice(ctx, tensors, result, d_outputs)
            else:
                result = _gradients(ctx, tensors, d_outputs)
        if dlink is not None:
            result[0] = _with_link(ctx.cell, result[0], dlink)
        return (*[None] * 10, *result)


def _save(
    ctx: Any,
    cell: Cell,
    reverse: bool,
    all_states: bool,
    options: Options,
    lengths: Tensor | None,
    batch_sizes: Tensor | None,
    wx: Tensor,
    r: Tensor,
    b: Tensor | None,
    first: Sequence[Tensor],
    saved: Sequence[Tensor],
) -> None:
    """Save the tensors of the backward pass; b serves second derivatives and checkpoints, wx only checkpoints."""
    again = wx if options.checkpoint else None
    ctx.save_for_backward(r, b, lengths, batch_sizes, options.cu_seqlens, options.reset, again, *first, *saved)
    ctx.cell, ctx.reverse, ctx.all_states, ctx.saved_count = cell, reverse, all_states, len(saved)
    ctx.returned = 2 * len(cell.states) if all_states else 1 + len(cell.states)
    ctx.options = options._replace(cu_seqlens=None, reset=None) if options is not PLAIN else PLAIN
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, tensors: Sequence[Tensor], d_outputs: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return the gradients of wx, r, b and the initial states, None for those not needed."""
    r, b, lengths, batch_sizes, cu_seqlens, reset, wx, *others = tensors
    cell, count, options = ctx.cell, len(ctx.cell.states), ctx.options
    if options is not PLAIN:
        options = options_of(cu_seqlens, reset, *options[2:])
    first, saved = others[: len(others) - ctx.saved_count], others[len(others) - ctx.saved_count :]
    needs = ctx.needs_input_grad[10:]
    states, rest = (saved[:1], saved[1:]) if options.checkpoint else (saved[:count], saved[count:])
    arguments = (first, states, rest, [d_outputs[0], *d_outputs[1 + count :]], d_outputs[1 : 1 + count], ctx.reverse)
    if len(d_outputs) == 1 + count:
        arguments[3].extend([None] * (count - 1))
    needed = (needs[1], needs[2], any(needs[3:]))
    again = (wx, b) if options.checkpoint else (None, None)
    dwx, *gradients = rnn_bwd(cell, r, *arguments, lengths, batch_sizes, *needed, options, *again)
    return [dwx, *_placed(gradients, *needed[:2], len(first))]


def _placed(gradients: Sequence[Tensor], need_r: bool, need_b: bool, count: int) -> list[Tensor | None]:
    """Return the gradients of r, b and `count` initial states, None for those not needed."""
    of_weights = need_r + need_b
    dr = gradients[0] if need_r else None
    db = gradients[of_weights - 1] if need_b else None
    rest: list[Tensor | None] = [*gradients[of_weights:]] or [None] * count
    return [dr, db, *rest]


def _twice(
    ctx: Any, tensors: Sequence[Tensor], result: Sequence[Tensor | None], d_outputs: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Return the gradients, made differentiable."""
    r, b, lengths, batch_sizes, cu_seqlens, reset, wx, *others = tensors
    first, options = others[: len(others) - ctx.saved_count], ctx.options
    of_gates = wx if options.checkpoint else _as_gates(ctx.cell, others[-1])
    call = Call(ctx.cell, ctx.reverse, ctx.all_states, options.clip_state, options.clip_grad, not options.checkpoint)
    return differentiable(call, result, (of_gates, r, b, *first), (lengths, batch_sizes, cu_seqlens, reset), d_outputs)


def _as_gates(cell: Cell, link: Tensor) -> Tensor:
    """Return the part of `link`, or of its gradient, that corresponds to wx, in the shape of wx."""
    return link.narrow(-3, 0, cell.gates) if cell.saved else link.unsqueeze(-3)


def _with_link(cell: Cell, dwx: Tensor | None, dlink: Tensor) -> Tensor:
    """Add the gradient of `link` to the gradient of wx."""
    dlink = _as_gates(cell, dlink)
    return dlink if dwx is None else dwx + dlink.to(dwx.dtype)


class Together(torch.autograd.Function):
    """Map (wx, r, b, *state) to (all steps' states as one tensor (S, B, T, N, D), *final states, link)."""

    @staticmethod
    def forward(
        ctx: Any, cell: Cell, options: Options, wx: Tensor, r: Tensor, b: Tensor | None, *first: Tensor
    ) -> tuple[Tensor, ...]:
        states, *last, gates = rnn_fwd_together(cell, wx, r, b, first, True, options)
        ctx.save_for_backward(r, b, states, gates, *first)
        ctx.cell, ctx.options = cell, options
        ctx.set_materialize_grads(False)
        return own_copy(states), *last, gates

    @staticmethod
    @one_by_one
    def backward(ctx: Any, dstates: Tensor | None, *dothers: Tensor | None) -> tuple[Tensor | None, ...]:
        cell, options, (r, b, states, gates, *first) = ctx.cell, ctx.options, ctx.saved_tensors
        *dlast, dlink = dothers
        needs = ctx.needs_input_grad[2:]
        result: list[Tensor | None] = [None] * len(needs)
        if dstates is not None or any(d is not None for d in dlast):
            each: list[Tensor | None] = [None] * len(states) if dstates is None else [*dstates.unbind(0)]
            needed = (needs[1], needs[2], any(needs[3:]))
            with torch.no_grad():
                arguments = (first, [*states.unbind(0)], [gates], each, dlast)
                dwx, *gradients = rnn_bwd(cell, r, *arguments, False, None, None, *needed, options)
            result = [dwx, *_placed(gradients, *needed[:2], len(first))]
            if torch.is_grad_enabled():
                call = Call(cell, False, True, options.clip_state, options.clip_grad, True)
                inputs, d_outputs = (_as_gates(cell, gates), r, b, *first), (each[0], *dlast, *each[1:])
                result = differentiable(call, result, inputs, (None,) * 4, d_outputs)
        if dlink is not None:
            result[0] = _with_link(cell, result[0], dlink)
        return None, None, *result


class Transformed(torch.autograd.Function):
    """The same as Recurrence for torch.func, which requires all saved tensors to be outputs."""

    generate_vmap_rule = True

    @staticmethod
    def forward(cell: Cell, reverse: bool, *inputs: Any) -> tuple[Tensor, ...]:
        lengths, batch_sizes, all_states, *requested = inputs[:8]
        wx, r, b, *first = inputs[8:]
        outputs, saved = rnn_fwd_saved(
            cell, wx, r, b, first, reverse, lengths, batch_sizes, all_states, options_of(*requested)
        )
        return (*outputs, *saved)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        cell, reverse, lengths, batch_sizes, all_states, *requested = inputs[:10]
        (wx, r, b, *first), options = inputs[10:], options_of(*requested)
        saved = output[2 * len(cell.states) if all_states else 1 + len(cell.states) :]
        _save(ctx, cell, reverse, all_states, options, lengths, batch_sizes, wx, r, b, first, saved)
        ctx.mark_non_differentiable(*(saved if options.checkpoint else saved[:-1]))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return Recurrence.backward(ctx, *gradients)
