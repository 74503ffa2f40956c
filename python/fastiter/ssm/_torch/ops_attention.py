"""The private ops of linear attention: their argument tuples, and their CPU implementations, which call the kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import _core
from ..._torch.differentiable import Differentiable
from ..._torch.op import Op
from ..._torch.ops import contiguous, empty
from .ops import GPU_TILE, checked_sequences, computed, count_of, like_heads, plain, saved_tiles


class AttentionForward(NamedTuple):
    """The arguments of the forward op, which returns o, the last state and, with ``save``, states before each tile.

    The decay is (B, T, N) or (B, T, N, K); bonus and the states have the dtype of the arithmetic.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    decay: Tensor | None
    bonus: Tensor | None
    state: Tensor | None
    form: int
    scale: float
    reset: Tensor | None
    lengths: Tensor | None
    cu_seqlens: Tensor | None
    save: bool


class AttentionBackward(NamedTuple):
    """The arguments of the backward op, which returns the requested gradients in the order of the arguments.

    Bit i of ``requested`` refers to argument i of the forward op, from q to state.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    decay: Tensor | None
    bonus: Tensor | None
    states: Tensor
    dout: Tensor | None
    dlast: Tensor | None
    form: int
    scale: float
    reset: Tensor | None
    lengths: Tensor | None
    cu_seqlens: Tensor | None
    requested: int


def _shape(call: Any) -> tuple[Any, ...]:
    """Return the kernels' description of the work."""
    (_, _, heads, values), (key_heads, keys) = call.v.shape, call.q.shape[2:]
    sequences = checked_sequences("linear_attention", call, call.q.shape[0], call.q.shape[1])
    return sequences, heads, heads // key_heads, keys, values, float(call.scale), call.form


def _state_shape(call: Any) -> tuple[int, int, int]:
    heads, values = call.v.shape[2:]
    return heads, call.q.shape[3], values


def forward_outputs(call: AttentionForward, tile: int) -> list[Tensor]:
    """Allocate o, the last state and the saved states, one for every ``tile`` steps."""
    batch, time = call.q.shape[:2]
    count, dtype = count_of(call, batch), computed(call.v.dtype)
    outputs = [
        like_heads(call.v, call.v.shape, call.v.dtype),
        call.v.new_empty((count, *_state_shape(call)), dtype=dtype),
    ]
    if call.save:
        tiles = saved_tiles(tile, count, time, call.cu_seqlens is not None)
        outputs.append(empty(call.v, (tiles, *_state_shape(call)), dtype=dtype))
    return outputs


def _forward(call: AttentionForward) -> list[Tensor]:
    o, last, *states = outputs = forward_outputs(call, _core.ssm.attention_tile)
    signals = (plain(call.q), plain(call.k), plain(call.v), plain(call.decay))
    exact = (contiguous(call.bonus), contiguous(call.state))
    _core.ssm.attention_forward(_shape(call), (*signals, *exact), None, o, last, states[0] if states else None)
    return outputs


def _outputs(call: AttentionForward) -> list[Tensor]:
    return forward_outputs(call, GPU_TILE if call.v.is_cuda else _core.ssm.attention_tile)


def empty_gradients(call: AttentionBackward) -> list[Tensor | None]:
    """Allocate the requested gradients in the kernel's form.

    Value heads that share q and k add to the same gradients one after the other, in the dtype of the arithmetic; the
    gradient of the bonus has an axis of sequences.
    """
    dtype, heads = computed(call.v.dtype), call.v.shape[2]
    count = count_of(call, call.q.shape[0])
    shared = heads != call.q.shape[2]
    shapes = [None if x is None else x.shape for x in call[:5]]
    dtypes = [dtype if shared and i < 2 else None if x is None else x.dtype for i, x in enumerate(call[:5])]
    shapes[4] = None if call.bonus is None else torch.Size((count, heads, call.q.shape[3]))
    gradients: list[Tensor | None] = [
        like_heads(call.v, shape, dtypes[i] or dtype) if call.requested >> i & 1 and shape is not None else None
        for i, shape in enumerate(shapes)
    ]
    first = (count, *_state_shape(call))
    gradients.append(call.v.new_empty(first, dtype=dtype) if call.requested >> 5 & 1 else None)
    return gradients


def as_arguments(call: AttentionBackward, gradients: list[Tensor | None]) -> list[Tensor]:
    """Return the gradients that exist with the shapes and dtypes of their arguments."""
    dq, dk, dv, ddecay, dbonus, dfirst = gradients
    bonus = None if dbonus is None else dbonus.sum(0)
    dq, dk = (None if x is None else x.to(own.dtype) for x, own in ((dq, call.q), (dk, call.k)))
    every = (dq, dk, dv, ddecay, bonus, dfirst)
    return [x for x in every if x is not None]


def _backward_outputs(call: AttentionBackward) -> list[Tensor]:
    return as_arguments(call, empty_gradients(call))


def _backward(call: AttentionBackward) -> list[Tensor]:
    gradients = empty_gradients(call)
    signals = (plain(call.q), plain(call.k), plain(call.v), plain(call.decay), contiguous(call.bonus))
    states, dlast = contiguous(call.states), contiguous(call.dlast)
    _core.ssm.attention_backward(_shape(call), signals, None, states, plain(call.dout), dlast, tuple(gradients), None)
    return as_arguments(call, gradients)


attention_fwd = Op("_attention_fwd", AttentionForward, _forward, _outputs)
attention_bwd = Op("_attention_bwd", AttentionBackward, _backward, _backward_outputs)
attention = Differentiable("linear_attention", attention_fwd, attention_bwd, "out last states")
