"""The delta rule's kernels on slices of tensors, for sequences whose steps are sharded over ranks."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ..._torch.distributed.in_place import Backward, Forward, Kernels, Optional
from ..._torch.ops import empty
from .ops import DeltaBackward, DeltaForward, backward, forward, gradients_of

#: All gradients are requested
_ALL = 0b111111


def kernels(method: str, chunk: int) -> Kernels:
    """Return the kernels of the delta rule; their tensors are q, k, v, beta and decay."""
    return Kernels(_results, partial(_forward, (method, chunk)), partial(_backward, (method, chunk)))


def _results(tensors: Optional) -> list[Tensor]:
    q, _, v, *_ = tensors
    assert q is not None and v is not None
    return [empty(q, (*q.shape[:3], v.shape[-1]))]


def _forward(chosen: tuple[str, int], call: Forward) -> tuple[list[Tensor], list[Tensor]]:
    state = None if call.state is None else call.state[0]
    arguments: tuple[Any, ...] = (*call.tensors, state, *chosen, *call.cut, call.saves)
    _, last, *saved = forward(DeltaForward(*arguments), call.results[0])
    return [last], saved


def _backward(chosen: tuple[str, int], call: Backward) -> list[Tensor]:
    q, k, _, beta, decay = call.tensors
    e, states = call.saved
    (d_o,), (dlast,) = call.d_results, call.d_last
    arguments: tuple[Any, ...] = (q, k, beta, decay, None, e, states, d_o, dlast, *chosen, *call.cut, _ALL)
    backwards = DeltaBackward(*arguments)
    result = gradients_of(backwards)
    wanted = [*call.gradients[:4], *([] if decay is None else call.gradients[4:]), None]
    # The kernel writes to slices of dq, dk and dv; dbeta, ddecay and unwanted gradients go to tensors of their own.
    into = [y if x is None or at > 2 else x for at, (x, y) in enumerate(zip(wanted, result, strict=True))]
    backward(backwards, into)
    for x, y in zip(wanted[3:], result[3:], strict=True):
        if x is not None:
            x.copy_(y)
    return [result[-1]]
