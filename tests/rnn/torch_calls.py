"""Calls of the recurrent cells on tensors, with gradients, and the specification of these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import fastiter.torch
from fastiter.reference import rnn as reference
from tests.rnn.calls import Output, cast, options
from tests.support.cases import Array, RnnInputs, normal_like
from tests.support.torch_bounds import held


class Leaves(NamedTuple):
    """Arguments of a cell as tensors that require gradients."""

    wx: Tensor
    r: Tensor
    b: Tensor
    state: tuple[Tensor, ...]

    def all(self) -> tuple[Tensor, ...]:
        return (self.wx, self.r, self.b, *self.state)


class Cotangents(NamedTuple):
    """One array for each output, None for a zero cotangent: h, the final states, the states of all steps."""

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
    """Keep one cotangent (h, a final state or a state of all steps) and set the others to None."""
    nothing: tuple[None, ...] = (None,) * len(cotangents.last)
    alone = getattr(cotangents, kind)
    if kind == "h":
        return Cotangents(alone, nothing, nothing)
    one = tuple(c if i == k else None for i, c in enumerate(alone))
    return Cotangents(None, one, nothing) if kind == "last" else Cotangents(None, nothing, one)


def pull(
    cell: str, activation: str, inputs: Leaves, cotangents: Cotangents, wanted: Sequence[Tensor], **more: Any
) -> Any:
    """Return gradients of the wanted inputs; states of all steps are requested only if they have a cotangent."""
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


# --- an independent loop ---------------------------------------------------------------------------------------------


def step(kind: str, x: Any, r: Any, b: Any, s: list[Any]) -> list[Any]:
    """One step of all rows: x (B, G, N, D), r (G, N, D, D), b (G, N, D), every state (B, N, D)."""
    p = torch.einsum("gnij,bnj->bgni", r, s[0]) + b
    if kind in ("elmantanh", "elmanrelu"):
        return [getattr(torch, kind.removeprefix("elman"))((x + p)[:, 0])]
    if kind == "gru":
        gate, update = torch.sigmoid((x + p)[:, 0]), torch.sigmoid((x + p)[:, 1])
        return [torch.lerp(torch.tanh(x[:, 2] + gate * p[:, 2]), s[0], update)]
    a = (x + p).unbind(1)
    if kind == "lstm":
        c = torch.sigmoid(a[1]) * s[1] + torch.sigmoid(a[0]) * torch.tanh(a[2])
        return [torch.sigmoid(a[3]) * torch.tanh(c), c]
    log_f = torch.nn.functional.logsigmoid(a[1]) + s[3]
    m = torch.where(s[2] == 0, a[0], torch.maximum(a[0], log_f))
    i, f = torch.exp(held(a[0] - m, high=0)), torch.exp(held(log_f - m, high=0))
    c, n = f * s[1] + i * torch.tanh(a[2]), held(f * s[2] + i, low=1)
    return [torch.sigmoid(a[3]) * c / n, c, n, m]


def loop(
    kind: str,
    given: Leaves,
    reverse: bool = False,
    lengths: Any = None,
    reset: Any = None,
    clip_state: float | None = None,
    clip_grad: float | None = None,
) -> Any:
    """(h, final states, states of all steps)."""
    wx, r, b, now = given.wx, given.r, given.b, list(given.state)
    B, T = wx.shape[:2]
    every: list[Any] = [None] * T
    for t in range(T)[:: -1 if reverse else 1]:
        valid = torch.tensor([lengths is None or t < lengths[row] for row in range(B)])[:, None, None]
        before = [s.clone() for s in now]
        if clip_grad is not None:
            before[0].register_hook(lambda g: g.clamp(-clip_grad, clip_grad))
        if reset is not None:
            before = [torch.where(tensor(reset[:, t])[:, None, None], 0.0, s) for s in before]
        after = step(kind, wx[:, t], r, b, before)
        if clip_state is not None:
            after[0] = after[0].clamp(-clip_state, clip_state)
        now = [torch.where(valid, new, old) for new, old in zip(after, now, strict=True)]
        every[t] = [torch.where(valid, new, 0.0) for new in after]
    states = [torch.stack([s[k] for s in every], 1) for k in range(len(now))]
    return states[0], now, states
