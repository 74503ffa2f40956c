"""The private ops of RWKV-4's attention: their argument tuples, and their CPU implementations, which call kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from ... import _core
from ..._torch.op import Op
from ..._torch.ops import contiguous, empty, unit_stride


class WkvForward(NamedTuple):
    """The arguments of the forward op, which returns out, the last state and, with ``save``, states before each tile.

    w and bonus are (D,), k and v (B, T, D), and each part of the initial state, all or none of which are given, (B, D).
    """

    w: Tensor
    bonus: Tensor
    k: Tensor
    v: Tensor
    numerator: Tensor | None
    denominator: Tensor | None
    m: Tensor | None
    save: bool


class WkvBackward(NamedTuple):
    """The arguments of the backward op, which returns the requested gradients in the order of the arguments.

    Bit i of ``requested`` refers to argument i of the forward op, from w to m.
    """

    w: Tensor
    bonus: Tensor
    k: Tensor
    v: Tensor
    numerator: Tensor | None
    denominator: Tensor | None
    m: Tensor | None
    states: Tensor
    dout: Tensor | None
    dlast_numerator: Tensor | None
    dlast_denominator: Tensor | None
    dlast_m: Tensor | None
    requested: int


def _outputs(call: WkvForward) -> list[Tensor]:
    batch, time, width = call.k.shape
    outputs = [empty(call.k, call.k.shape), *(call.k.new_empty((batch, width)) for _ in range(3))]
    if call.save:
        outputs.append(empty(call.k, (batch, -(-time // _core.ssm.wkv_tile), 3, width)))
    return outputs


def _arguments(call: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
    """Return the inputs and the initial state in the layout of the kernels."""
    inputs = (contiguous(call.w), contiguous(call.bonus), unit_stride(call.k), unit_stride(call.v))
    return inputs, tuple([contiguous(x) for x in call[4:7]])


def _forward(call: WkvForward) -> list[Tensor]:
    out, *last = outputs = _outputs(call)
    states = last.pop() if call.save else None
    _core.ssm.wkv_forward(*_arguments(call), out, tuple(last), states)
    return outputs


def _gradients(call: WkvBackward) -> list[Tensor | None]:
    return [
        empty(x, x.shape) if call.requested >> place & 1 and x is not None else None for place, x in enumerate(call[:7])
    ]


def _backward_outputs(call: WkvBackward) -> list[Tensor]:
    return [x for x in _gradients(call) if x is not None]


def _backward(call: WkvBackward) -> list[Tensor]:
    gradients = _gradients(call)
    dout = None if call.dout is None else unit_stride(call.dout)
    dlast = tuple([contiguous(x) for x in call[9:12]])
    states = contiguous(call.states)
    _core.ssm.wkv_backward(*_arguments(call), states, dout, dlast, tuple(gradients[:4]), tuple(gradients[4:]))
    return [x for x in gradients if x is not None]


wkv_fwd = Op("_wkv_fwd", WkvForward, _forward, _outputs)
wkv_bwd = Op("_wkv_bwd", WkvBackward, _backward, _backward_outputs)
