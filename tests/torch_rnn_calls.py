"""Calls of the recurrent cells on tensors, with gradients, and the specification of these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import fastiter.torch
from cases import Array, RnnInputs, normal_like
from fastiter.reference import rnn as reference
from rnn_calls import Output, cast, options


class Leaves(NamedTuple):
    """Arguments of a cell as tensors that require gradients."""

    wx: Tensor
    r: Tensor
    b: Tensor
    state: tuple[Tensor, ...]

    def all(self) -> tuple[Tensor, ...]:
        return (self.wx, self.r, self.b, *self.state)


class Cotangents(NamedTuple):
    """One array for each output, None where nothing flows: h, the final states, the states of all steps."""

    h: Array | None
    last: tuple[Array | None, ...]
    states: tuple[Array | None, ...]


def tensor(x: Array) -> Tensor:
    return torch.from_numpy(np.array(x))


def leaves(inputs: RnnInputs, time_major: bool = False) -> Leaves:
    wx = tensor(inputs.wx)
    if time_major:
        wx = wx.transpose(0, 1).contiguous().transpose(0, 1)
    tensors = (wx, tensor(inputs.r), tensor(inputs.b), *map(tensor, inputs.state))
    wx, r, b, *state = (x.requires_grad_() for x in tensors)
    return Leaves(wx, r, b, tuple(state))


def run(cell: str, activation: str, inputs: Leaves, **more: Any) -> Any:
    """(h, final states, states of all steps)."""
    how = options(activation, return_all_states=True, **more)
    return getattr(fastiter.torch, cell)(*inputs, **how)


def numpy(x: Any) -> Any:
    return tuple(map(numpy, x)) if isinstance(x, (tuple, list)) else x.detach().numpy()


def random_cotangents(output: Output, seed: int = 0) -> Cotangents:
    h, last, states = output
    drawn = normal_like((h, *last, *states), seed)
    return Cotangents(drawn[0], drawn[1 : 1 + len(last)], drawn[1 + len(last) :])


def only(cotangents: Cotangents, kind: str, k: int = 0) -> Cotangents:
    """The cotangent of h, of one final state or of one state of all steps; the others None."""
    nothing: tuple[None, ...] = (None,) * len(cotangents.last)
    alone = getattr(cotangents, kind)
    if kind == "h":
        return Cotangents(alone, nothing, nothing)
    one = tuple(c if i == k else None for i, c in enumerate(alone))
    return Cotangents(None, one, nothing) if kind == "last" else Cotangents(None, nothing, one)


def pull(
    cell: str, activation: str, inputs: Leaves, cotangents: Cotangents, wanted: Sequence[Tensor], **more: Any
) -> Any:
    """Gradients of the wanted inputs; states of all steps are asked for only where they have a cotangent."""
    all_states = any(c is not None for c in cotangents.states)
    how = options(activation, return_all_states=all_states, **more)
    h, last, *states = getattr(fastiter.torch, cell)(*inputs, **how)
    outputs = (h, *last, *(states[0] if states else ()))
    given = (cotangents.h, *cotangents.last, *(cotangents.states if states else ()))
    pairs = [(y, tensor(c)) for y, c in zip(outputs, given, strict=True) if c is not None]
    return torch.autograd.grad([y for y, _ in pairs], wanted, [c for _, c in pairs])


def specified_gradients(
    cell: str, activation: str, inputs: RnnInputs, cotangents: Cotangents, **more: Any
) -> tuple[Array, ...]:
    """(dwx, dr, db, *dstate) of the specification in float64, rounded to the dtype of the inputs."""
    arrays = cast(tuple(inputs), np.float64)

    def filled(parts: tuple[Array | None, ...], shapes: list[tuple[int, ...]]) -> list[Array]:
        return [np.zeros(s) if c is None else c.astype(np.float64) for c, s in zip(parts, shapes, strict=True)]

    wx, state = inputs.wx, inputs.state
    dlast = filled(cotangents.last, [s.shape for s in state])
    dstates = filled(cotangents.states, [(*wx.shape[:2], *wx.shape[3:])] * len(state))
    dh = None if cotangents.h is None else cotangents.h.astype(np.float64)
    dwx, dr, db, dstate = reference.backward(cell, *arrays, dh, dlast, dstates, **options(activation, **more))
    gradients: tuple[Array, ...] = cast((dwx, dr, db, *dstate), wx.dtype)
    return gradients
