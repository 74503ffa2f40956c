"""Calls of the diagonal cells on tensors, with gradients, and the specification of these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import fastiter.torch
from fastiter.reference import newton as reference
from tests.newton.calls import Output, ParaInputs
from tests.rnn.calls import cast
from tests.rnn.torch_calls import numpy, tensor
from tests.support.cases import Array, normal_like

__all__ = ["Leaves", "leaves", "numpy", "pull", "random_cotangents", "run", "specified_gradients", "tensor"]


class Leaves(NamedTuple):
    """Arguments of a cell as tensors that require gradients; the weights are a and, in cells with peepholes, p."""

    wx: Tensor
    weights: tuple[Tensor, ...]
    state: tuple[Tensor, ...]

    def all(self) -> tuple[Tensor, ...]:
        return (self.wx, *self.weights, *self.state)

    def replaced(self, tensors: Sequence[Any]) -> Leaves:
        """Return a copy with other tensors, in the order of `all`."""
        count = 1 + len(self.weights)
        return Leaves(tensors[0], tuple(tensors[1:count]), tuple(tensors[count:]))

    def detached(self) -> Leaves:
        return self.replaced([x.detach() for x in self.all()])


def leaves(inputs: ParaInputs, time_major: bool = False) -> Leaves:
    wx = tensor(inputs.wx)
    if time_major:
        wx = wx.transpose(0, 1).contiguous().transpose(0, 1)
    weights, state = tuple(map(tensor, inputs.weights())), tuple(map(tensor, inputs.state))
    for x in (wx, *weights, *state):
        x.requires_grad_()
    return Leaves(wx, weights, state)


def run(cell: str, given: Leaves, **more: Any) -> Any:
    """Return (h, final states)."""
    state = given.state if len(given.state) > 1 else given.state[0]
    return getattr(fastiter.torch, cell)(given.wx, *given.weights, state, **more)


def random_cotangents(output: Output, seed: int = 0) -> tuple[Array, ...]:
    """Return random cotangents of h and of each final state."""
    return normal_like((output[0], *output[1]), seed)


def pull(cell: str, given: Leaves, cotangents: Sequence[Array | None], wanted: Sequence[Tensor], **more: Any) -> Any:
    """Gradients of the wanted inputs; None where nothing flows."""
    h, last = run(cell, given, **more)
    pairs = [(y, tensor(c)) for y, c in zip((h, *last), cotangents, strict=True) if c is not None]
    return torch.autograd.grad([y for y, _ in pairs], wanted, [c for _, c in pairs])


def specified_gradients(
    cell: str, inputs: ParaInputs, cotangents: Sequence[Array | None], **more: Any
) -> tuple[Array, ...]:
    """The gradients of `Leaves.all` by the specification in float64, rounded to the dtype of the inputs."""
    wx, a, p, state = cast(tuple(inputs), np.float64)
    dh, *dlast = (None if c is None else c.astype(np.float64) for c in cotangents)
    dstate = [np.zeros_like(s) if c is None else c for c, s in zip(dlast, state, strict=True)]
    dwx, da, dp, dfirst = reference.backward(cell, wx, a, p, state, dh, dstate, **more)
    gradients: tuple[Array, ...] = cast((dwx, da, *([dp] if len(p) else []), *dfirst), inputs.wx.dtype)
    return gradients
