"""The recurrent cells as a node of autograd, and as one that torch.func's transforms take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._rnn import Cell
from ._autograd import differentiable_once
from ._rnn_op import rnn_bwd, rnn_fwd, rnn_fwd_together
from ._rnn_work import Options, options


class Recurrence(torch.autograd.Function):
    """wx, r, b, *state -> h, *final states, *all states but h"""

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
        how = options(cu_seqlens, reset, clip_state, clip_grad, checkpoint)
        outputs = rnn_fwd(cell, wx, r, b, first, reverse, lengths, batch_sizes, all_states, True, how)
        _keep(ctx, cell, reverse, lengths, batch_sizes, how, wx, r, b, first, outputs)
        return tuple(outputs[: _returned(cell, all_states)])

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dh: Tensor | None, *dothers: Tensor | None) -> tuple[Tensor | None, ...]:
        r, lengths, batch_sizes, cu_seqlens, reset, wx, b, h, *others = ctx.saved_tensors
        kept, first, count = others[: ctx.kept], others[ctx.kept :], len(ctx.cell.states)
        dlast, drest = dothers[:count], dothers[count:]
        needs = ctx.needs_input_grad[10:]
        if dh is None and all(x is None for x in dothers):
            return (None,) * (10 + len(needs))
        need_r, need_b, need_first = needs[1], needs[2], any(needs[3:])
        how = options(cu_seqlens, reset, *ctx.rest)
        others_kept = 0 if how.checkpoint else count - 1
        dwx, *gradients = rnn_bwd(
            ctx.cell,
            r,
            first,
            [h, *kept[:others_kept]],
            kept[others_kept:],
            [dh, *drest],
            dlast,
            ctx.reverse,
            lengths,
            batch_sizes,
            need_r,
            need_b,
            need_first,
            how,
            wx,
            b,
        )
        return (*[None] * 10, dwx, *_placed(gradients, need_r, need_b, len(first)))


def _placed(gradients: list[Tensor], need_r: bool, need_b: bool, count: int) -> list[Tensor | None]:
    """Return those of r, b and `count` initial states, None for what was not needed."""
    dr = gradients.pop(0) if need_r else None
    db = gradients.pop(0) if need_b else None
    rest: list[Tensor | None] = [*gradients] or [None] * count
    return [dr, db, *rest]


def _returned(cell: Cell, all_states: bool) -> int:
    """Return how many of the op's outputs are those of the node: h, the final states, all states but h."""
    return 2 * len(cell.states) if all_states else 1 + len(cell.states)


def _keep(
    ctx: Any,
    cell: Cell,
    reverse: bool,
    lengths: Tensor | None,
    batch_sizes: Tensor | None,
    how: Options,
    wx: Tensor,
    r: Tensor,
    b: Tensor | None,
    first: Sequence[Tensor],
    outputs: Sequence[Tensor],
) -> None:
    """Save what the backward pass reads."""
    count = len(cell.states)
    # With a checkpoint the states of all steps but h are not kept, even where they are returned.
    h, kept = outputs[0], outputs[-count:] if how.checkpoint else outputs[1 + count :]
    again = (wx, b) if how.checkpoint else (None, None)
    ctx.save_for_backward(r, lengths, batch_sizes, how.cu_seqlens, how.reset, *again, h, *kept, *first)
    ctx.cell, ctx.reverse, ctx.kept, ctx.rest = cell, reverse, len(kept), how[2:]
    ctx.set_materialize_grads(False)


class Together(torch.autograd.Function):
    """wx, r, b, *state -> the states of all steps as one tensor (S, B, T, N, D), *final states"""

    @staticmethod
    def forward(
        ctx: Any, cell: Cell, how: Options, wx: Tensor, r: Tensor, b: Tensor | None, *first: Tensor
    ) -> tuple[Tensor, ...]:
        states, *outputs = rnn_fwd_together(cell, wx, r, b, first, True, how)
        *last, saved = outputs
        ctx.save_for_backward(r, states, saved, *first)
        ctx.cell, ctx.how = cell, how
        ctx.set_materialize_grads(False)
        return states, *last

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dstates: Tensor | None, *dlast: Tensor | None) -> tuple[Tensor | None, ...]:
        r, states, saved, *first = ctx.saved_tensors
        needs = ctx.needs_input_grad[2:]
        if dstates is None and all(x is None for x in dlast):
            return (None,) * (2 + len(needs))
        need_r, need_b, need_first = needs[1], needs[2], any(needs[3:])
        each: list[Tensor | None] = [None] * len(states) if dstates is None else [*dstates.unbind(0)]
        given = (first, [*states.unbind(0)], [saved], each, dlast)
        needed = (need_r, need_b, need_first)
        dwx, *gradients = rnn_bwd(ctx.cell, r, *given, False, None, None, *needed, ctx.how)
        return None, None, dwx, *_placed(gradients, need_r, need_b, len(first))


class Transformed(torch.autograd.Function):
    """The same for torch.func, which wants all that is kept among the outputs."""

    generate_vmap_rule = True

    @staticmethod
    def forward(cell: Cell, reverse: bool, *inputs: Any) -> tuple[Tensor, ...]:
        lengths, batch_sizes, all_states, *asked = inputs[:8]
        how, (wx, r, b, *first) = options(*asked), inputs[8:]
        return tuple(rnn_fwd(cell, wx, r, b, first, reverse, lengths, batch_sizes, all_states, True, how))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        cell, reverse, lengths, batch_sizes, all_states, *asked = inputs[:10]
        wx, r, b, *first = inputs[10:]
        _keep(ctx, cell, reverse, lengths, batch_sizes, options(*asked), wx, r, b, first, output)
        ctx.returned = _returned(cell, all_states)
        ctx.mark_non_differentiable(*output[ctx.returned :])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return Recurrence.backward(ctx, *gradients[: ctx.returned])
