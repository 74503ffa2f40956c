"""The private ops of causal convolutions: their argument tuples, and their CPU implementations, which call kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import _core
from ..._check import overlaps_itself
from ..._torch.differentiable import Differentiable
from ..._torch.op import Changed, Op, count_change
from ..._torch.ops import contiguous, unwatched
from .._conv_shapes import check_label_range
from .ops import checked_sequences, computed, count_of, like, plain
from .step import check_rows


class ConvForward(NamedTuple):
    """The arguments of the forward op, which returns out and, with ``keep``, the last W - 1 inputs.

    weight and bias have the dtype of the arithmetic, state the dtype of x.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    state: Tensor | None
    silu: bool
    seq_idx: Tensor | None
    lengths: Tensor | None
    cu_seqlens: Tensor | None
    keep: bool


class ConvBackward(NamedTuple):
    """The arguments of the backward op, which returns the requested gradients in the order of the arguments.

    Bit i of ``requested`` refers to argument i of the forward op, from x to state.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    state: Tensor | None
    dout: Tensor | None
    dlast: Tensor | None
    silu: bool
    seq_idx: Tensor | None
    lengths: Tensor | None
    cu_seqlens: Tensor | None
    requested: int


def _states(x: Tensor | None, width: int) -> Tensor | None:
    return None if width == 1 else plain(x)


def _count(call: Any) -> int:
    return count_of(call, call.x.shape[0])


def _work(call: Any) -> tuple[Any, ...]:
    """Return the kernels' description of the work; check the values that are unknown while tracing."""
    function = "causal_conv1d"
    batch, channels, time = call.x.shape
    sequences = checked_sequences(function, call, batch, time)
    labels = call.seq_idx
    if labels is not None:
        if labels.numel():
            check_label_range(function, int(labels.min()), int(labels.max()))
        labels = contiguous(labels).to(torch.int32)
    return sequences, channels, call.weight.shape[1], call.silu, labels


def forward_outputs(call: ConvForward) -> list[Tensor]:
    outputs = [like(call.x)]
    if call.keep:
        outputs.append(call.x.new_empty((_count(call), call.x.shape[1], call.weight.shape[1] - 1)))
    return outputs


def _forward(call: ConvForward) -> list[Tensor]:
    out, *last = outputs = forward_outputs(call)
    weight, bias = contiguous(call.weight), contiguous(call.bias)
    width = weight.shape[1]
    states = (_states(x, width) for x in (call.state, last[0] if last else None))
    _core.ssm.conv_forward(_work(call), plain(call.x), out, weight, bias, *states)
    return outputs


def empty_gradients(call: ConvBackward) -> list[Tensor | None]:
    shapes = (None, call.weight.shape, call.x.shape[1:2], (_count(call), call.x.shape[1], call.weight.shape[1] - 1))
    dtypes = (None, *[computed(call.x.dtype)] * 2, call.x.dtype)
    gradients: list[Tensor | None] = []
    for i, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True)):
        if not call.requested >> i & 1:
            gradients.append(None)
        else:
            gradients.append(like(call.x) if shape is None else call.x.new_empty(shape, dtype=dtype))
    return gradients


def _backward_outputs(call: ConvBackward) -> list[Tensor]:
    return [g for g in empty_gradients(call) if g is not None]


def _backward(call: ConvBackward) -> list[Tensor]:
    results = dx, dweight, dbias, dfirst = empty_gradients(call)
    weight, bias = contiguous(call.weight), contiguous(call.bias)
    width = weight.shape[1]
    inputs = (plain(call.x), weight, bias, _states(call.state, width))
    gradients = (dx, dweight, dbias, _states(dfirst, width))
    _core.ssm.conv_backward(_work(call), inputs, plain(call.dout), _states(call.dlast, width), gradients)
    return [g for g in results if g is not None]


conv_fwd = Op("_causal_conv_fwd", ConvForward, _forward, forward_outputs)
conv_bwd = Op("_causal_conv_bwd", ConvBackward, _backward, _backward_outputs)
conv = Differentiable("causal_conv1d", conv_fwd, conv_bwd, "out last")


class ConvUpdate(NamedTuple):
    """The arguments of the op for the next steps, which updates the state and returns the output."""

    conv_state: Changed
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    silu: bool
    cache_seqlens: Tensor | None
    rows: Tensor | None


def _update(call: ConvUpdate) -> Tensor:
    function, conv_state, x, rows = "causal_conv1d_update", call.conv_state, call.x, call.rows
    if rows is not None:
        rows = contiguous(rows)
        check_rows(rows, conv_state.shape[0], function, "conv_state_indices", "conv_state")
    if not conv_state.is_contiguous() and overlaps_itself(conv_state.shape, conv_state.stride(), 1):
        got = f"strides {conv_state.stride()}"
        raise ValueError(f"{function}: conv_state must have one place for each element, got {got}")
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    if out.numel() == 0:
        return out
    memory = conv_state.resolve_neg() if conv_state.is_neg() else conv_state
    positions = contiguous(call.cache_seqlens)
    _core.ssm.conv_update(plain(x), memory, plain(call.weight), plain(call.bias), call.silu, positions, rows, out)
    if memory is not conv_state:
        conv_state.copy_(memory)
    return out


def _update_output(call: ConvUpdate) -> Tensor:
    return call.x.new_empty(call.x.shape)


conv_update = Op("_causal_conv_update", ConvUpdate, _update, _update_output)


def plain_conv_update(x: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor | None:
    """Run the op on plain tensors without checks in Python, which take longer than a step; return None for others."""
    if not unwatched():
        return None
    out: Tensor | None = _core.ssm.conv_update_tensors(x, conv_state, weight, bias, silu)
    if out is not None:
        count_change(conv_state)
    return out
