"""The private ops of mLSTM: their argument tuples, and their CPU implementations, which call the kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from ... import _core
from ..._torch.differentiable import Differentiable
from ..._torch.op import Op
from ..._torch.ops import contiguous, empty
from .ops import GPU_TILE, checked_sequences, computed, count_of, like_heads, plain, saved_tiles


class MlstmForward(NamedTuple):
    """The arguments of the forward op, which returns h, the last C, n and m and, with ``save``, those before tiles.

    The states have the dtype of the arithmetic. Only the backward op reads ``through_normalizer``.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    i: Tensor
    f: Tensor
    C: Tensor | None
    n: Tensor | None
    m: Tensor | None
    scale: float
    eps: float
    through_normalizer: bool
    reset: Tensor | None
    lengths: Tensor | None
    cu_seqlens: Tensor | None
    save: bool


class MlstmBackward(NamedTuple):
    """The arguments of the backward op, which returns the requested gradients in the order of the arguments.

    Bit i of ``requested`` refers to argument i of the forward op, from q to m. ``states`` are those of the forward op:
    the first, last and saved states, with three parts each; the first may be missing.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    i: Tensor
    f: Tensor
    C: Tensor | None
    n: Tensor | None
    m: Tensor | None
    last_C: Tensor
    last_n: Tensor
    saved_C: Tensor
    saved_n: Tensor
    saved_m: Tensor
    dh: Tensor | None
    dlast_C: Tensor | None
    dlast_n: Tensor | None
    dlast_m: Tensor | None
    scale: float
    eps: float
    through_normalizer: bool
    reset: Tensor | None
    lengths: Tensor | None
    cu_seqlens: Tensor | None
    requested: int


def _shape(call: Any) -> tuple[Any, ...]:
    """Return the kernels' description of the work."""
    (batch, time, heads, values), (key_heads, keys) = call.v.shape, call.q.shape[2:]
    sequences = checked_sequences("mlstm", call, batch, time)
    return sequences, heads, heads // key_heads, keys, values, float(call.scale), 1


def _states(call: Any, count: int) -> list[Tensor]:
    """Allocate the states of ``count`` sequences."""
    heads, values = call.v.shape[2:]
    full, dtype = (count, heads, call.q.shape[3], values), computed(call.v.dtype)
    return [empty(call.v, full[:axes], dtype=dtype) for axes in (4, 3, 2)]


def forward_outputs(call: MlstmForward, tile: int) -> list[Tensor]:
    """Allocate h, the last states and the saved states, one for every ``tile`` steps."""
    count = count_of(call, call.v.shape[0])
    outputs = [like_heads(call.v, call.v.shape, call.v.dtype), *_states(call, count)]
    if call.save:
        tiles = saved_tiles(tile, count, call.v.shape[1], call.cu_seqlens is not None)
        outputs += _states(call, tiles)
    return outputs


def _outputs(call: MlstmForward) -> list[Tensor]:
    return forward_outputs(call, GPU_TILE if call.v.is_cuda else _core.ssm.attention_tile)


def _forward(call: MlstmForward) -> list[Tensor]:
    h, last, last_n, last_m, *saved = outputs = forward_outputs(call, _core.ssm.attention_tile)
    states, states_n, states_m = saved or (None, None, None)
    C, n, m = (contiguous(x) for x in (call.C, call.n, call.m))
    inputs = (plain(call.q), plain(call.k), plain(call.v), None, None, C)
    gates = (plain(call.i), plain(call.f), float(call.eps), n, m, last_n, last_m, states_n, states_m)
    _core.ssm.attention_forward(_shape(call), inputs, gates, h, last, states)
    return outputs


def empty_gradients(call: MlstmBackward) -> list[Tensor | None]:
    """Allocate the gradients in the kernel's form: those of shared q and k in the dtype of the arithmetic.

    The gradient of m is always computed.
    """
    shared, dtype = call.v.shape[2] != call.q.shape[2], computed(call.v.dtype)
    gradients: list[Tensor | None] = [
        like_heads(call.v, x.shape, dtype if shared and place < 2 else x.dtype) if call.requested >> place & 1 else None
        for place, x in enumerate(call[:5])
    ]
    states = _states(call, count_of(call, call.v.shape[0]))
    return gradients + [x if call.requested >> place & 1 or place == 7 else None for place, x in enumerate(states, 5)]


def as_arguments(call: MlstmBackward, gradients: list[Tensor | None]) -> list[Tensor]:
    """Return the requested gradients with the dtypes of their arguments."""
    dq, dk = (None if x is None else x.to(own.dtype) for x, own in zip(gradients[:2], call[:2], strict=True))
    every = (dq, dk, *gradients[2:])
    return [x for place, x in enumerate(every) if x is not None and call.requested >> place & 1]


def _backward_outputs(call: MlstmBackward) -> list[Tensor]:
    return as_arguments(call, empty_gradients(call))


def along_m(state: Tensor, gradient: Tensor | None) -> Tensor | float:
    """Return the sums of the products of a state and its gradient, (sequences, heads), in one order for all strides."""
    return 0.0 if gradient is None else (state * gradient).contiguous().flatten(2).sum(-1)


def _backward(call: MlstmBackward) -> list[Tensor]:
    results = empty_gradients(call)
    dq, dk, dv, di, df, dC, dn, dm = results
    assert dm is not None  # for the type checker
    # The last C and n are relative to m, so a larger m makes them smaller.
    dm.zero_().sub_(along_m(call.last_C, call.dlast_C)).sub_(along_m(call.last_n, call.dlast_n))
    if call.dlast_m is not None:
        dm += call.dlast_m
    needs_m = bool(call.requested >> 7 & 1)
    if needs_m:
        states = _states(call, dm.shape[0])
        dC, dn = (states[i] if x is None else x for i, x in enumerate((dC, dn)))
    inputs = (plain(call.q), plain(call.k), plain(call.v), None, None)
    saved, saved_n, saved_m = (contiguous(x) for x in (call.saved_C, call.saved_n, call.saved_m))
    gates = (plain(call.i), plain(call.f), float(call.eps), None, None, None, None, saved_n, saved_m)
    dlast, dlast_n = contiguous(call.dlast_C), contiguous(call.dlast_n)
    of_gates = (dlast_n, call.through_normalizer, di, df, dn, dm)
    gradients = (dq, dk, dv, None, None, dC)
    _core.ssm.attention_backward(_shape(call), inputs, gates, saved, plain(call.dh), dlast, gradients, of_gates)
    if needs_m:  # a larger first m gives the first C and n more weight
        for state, gradient in ((call.C, dC), (call.n, dn)):
            dm += 0.0 if state is None else along_m(state, gradient)
    return as_arguments(call, results)


mlstm_fwd = Op("_mlstm_fwd", MlstmForward, _forward, _outputs)
mlstm_bwd = Op("_mlstm_bwd", MlstmBackward, _backward, _backward_outputs)
mlstm = Differentiable("mlstm", mlstm_fwd, mlstm_bwd, "h last_C last_n last_m saved_C saved_n saved_m")
