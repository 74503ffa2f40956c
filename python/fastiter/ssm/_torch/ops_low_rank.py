"""The private ops of the generalised delta rule: their argument tuples, and their CPU implementations."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from ... import _core
from ..._torch.differentiable import Differentiable
from ..._torch.op import Op
from ..._torch.ops import contiguous, empty
from .ops import GPU_TILE, checked_sequences, computed, count_of, like_heads, plain, saved_tiles


class LowRankForward(NamedTuple):
    """The arguments of the forward op, which returns o, the last state and, with ``save``, w and saved states.

    The decay is (B, T, N) or (B, T, N, K); the states and w have the dtype of the arithmetic. With beta, (B, T, N),
    a and b are absent: the op is the delta rule, S = R + beta k (v - R^T k)^T with R = diag(decay) S.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    decay: Tensor | None
    a: Tensor | None
    b: Tensor | None
    beta: Tensor | None
    state: Tensor | None
    form: int
    scale: float
    reset: Tensor | None
    lengths: Tensor | None
    cu_seqlens: Tensor | None
    save: bool


class LowRankBackward(NamedTuple):
    """The arguments of the backward op, which returns the requested gradients in the order of the arguments.

    Bit i of ``requested`` refers to argument i of the forward op, from q to state.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    decay: Tensor | None
    a: Tensor | None
    b: Tensor | None
    beta: Tensor | None
    w: Tensor
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
    (batch, time, heads, values), (key_heads, keys) = call.v.shape, call.q.shape[2:]
    sequences = checked_sequences("dplr_delta_rule", call, batch, time)
    return sequences, heads, heads // key_heads, keys, values, float(call.scale), call.form


def _state_shape(call: Any) -> tuple[int, int, int]:
    heads, values = call.v.shape[2:]
    return heads, call.q.shape[3], values


def forward_outputs(call: LowRankForward, tile: int) -> list[Tensor]:
    """Allocate o, the last state, w and the saved states, one for every ``tile`` steps."""
    batch, time = call.q.shape[:2]
    count, dtype = count_of(call, batch), computed(call.v.dtype)
    last = call.v.new_empty((count, *_state_shape(call)), dtype=dtype)
    outputs = [like_heads(call.v, call.v.shape, call.v.dtype), last]
    if call.save:
        tiles = saved_tiles(tile, count, time, call.cu_seqlens is not None)
        outputs += [empty(call.v, call.v.shape, dtype=dtype), empty(call.v, (tiles, *_state_shape(call)), dtype=dtype)]
    return outputs


def _outputs(call: LowRankForward) -> list[Tensor]:
    return forward_outputs(call, GPU_TILE if call.v.is_cuda else _core.ssm.attention_tile)


def _forward(call: LowRankForward) -> list[Tensor]:
    o, last, *saved = outputs = forward_outputs(call, _core.ssm.attention_tile)
    w, states = saved or (None, None)
    inputs = (*(plain(x) for x in call[:7]), contiguous(call.state))
    _core.ssm.low_rank_forward(_shape(call), inputs, o, last, states, w)
    return outputs


def empty_gradients(call: LowRankBackward) -> list[Tensor | None]:
    """Allocate the requested gradients in the kernel's form: of shared q and k in the dtype of the arithmetic."""
    dtype, shared = computed(call.v.dtype), call.v.shape[2] != call.q.shape[2]
    gradients: list[Tensor | None] = [
        like_heads(call.v, x.shape, dtype if shared and place < 2 else x.dtype)
        if call.requested >> place & 1 and x is not None
        else None
        for place, x in enumerate(call[:7])
    ]
    first = (count_of(call, call.q.shape[0]), *_state_shape(call))
    gradients.append(call.v.new_empty(first, dtype=dtype) if call.requested >> 7 & 1 else None)
    return gradients


def as_arguments(call: LowRankBackward, gradients: list[Tensor | None]) -> list[Tensor]:
    """Return the gradients that exist with the dtypes of their arguments."""
    both = (None if x is None else x.to(own.dtype) for x, own in zip(gradients[:2], call[:2], strict=True))
    return [x for x in (*both, *gradients[2:]) if x is not None]


def _backward_outputs(call: LowRankBackward) -> list[Tensor]:
    return as_arguments(call, empty_gradients(call))


def _backward(call: LowRankBackward) -> list[Tensor]:
    gradients = empty_gradients(call)
    signals = tuple([plain(x) for x in call[:7]])
    states, dlast = contiguous(call.states), contiguous(call.dlast)
    saved = (states, plain(call.w), plain(call.dout), dlast)
    _core.ssm.low_rank_backward(_shape(call), signals, *saved, tuple(gradients))
    return as_arguments(call, gradients)


low_rank_fwd = Op("_low_rank_fwd", LowRankForward, _forward, _outputs)
low_rank_bwd = Op("_low_rank_bwd", LowRankBackward, _backward, _backward_outputs)
low_rank = Differentiable("dplr_delta_rule", low_rank_fwd, low_rank_bwd, "out last w states")
