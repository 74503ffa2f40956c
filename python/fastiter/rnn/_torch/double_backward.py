"""The recurrent cells in torch's own operations, step by step: the replay for second derivatives.

The equations are those of `fastiter.reference.rnn`. Instead of wx, a step may take the gates saved by the kernels, from
which wx is recomputed: a second derivative then needs no further memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._torch.replay import Rows, Valued
from .._cells import Cell

State = tuple[Tensor, ...]


# ---- one step of each cell: x and y = R h' + b are (B, G, N, D) ------------------------------------------------------


def _elman_tanh(x: Tensor, y: Tensor, prev: State) -> State:
    return (torch.tanh((x + y)[:, 0]),)


def _elman_relu(x: Tensor, y: Tensor, prev: State) -> State:
    return (torch.relu((x + y)[:, 0]),)


def _lstm(x: Tensor, y: Tensor, prev: State) -> State:
    i, f, g, o = (x + y).unbind(1)
    c = torch.sigmoid(f) * prev[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru(x: Tensor, y: Tensor, prev: State) -> State:
    (x_r, x_z, x_n), (y_r, y_z, y_n) = x.unbind(1), y.unbind(1)
    z = torch.sigmoid(x_z + y_z)
    n = torch.tanh(x_n + torch.sigmoid(x_r + y_r) * y_n)
    return ((1 - z) * n + z * prev[0],)


def _slstm(x: Tensor, y: Tensor, prev: State) -> State:
    _, c, n, m = prev
    a_i, a_f, a_z, a_o = (x + y).unbind(1)
    ell = torch.nn.functional.logsigmoid(a_f) + m
    m = torch.where(n == 0, a_i, torch.maximum(a_i, ell))  # if both are equal, each gets half the gradient
    i, f = torch.exp(a_i - m), torch.exp(torch.where(ell <= m, ell - m, 0))
    c, n = f * c + i * torch.tanh(a_z), f * n + i
    n = torch.where(n >= 1, n, 1)
    return torch.sigmoid(a_o) * c / n, c, n, m


# ---- wx from the kernels' saved values, in the shape of wx: the gates, or h for an Elman cell ------------------------


def _x_of_elman_tanh(saved: Tensor, y: Tensor) -> Tensor:
    return torch.atanh(saved) - y


def _x_of_elman_relu(saved: Tensor, y: Tensor) -> Tensor:
    return saved - y


def _x_of_lstm(saved: Tensor, y: Tensor) -> Tensor:
    i, f, g, o = saved.unbind(1)
    return torch.stack([torch.logit(i), torch.logit(f), torch.atanh(g), torch.logit(o)], 1) - y


def _x_of_gru(saved: Tensor, y: Tensor) -> Tensor:
    r, z, n = saved.unbind(1)
    y_r, y_z, y_n = y.unbind(1)
    return torch.stack([torch.logit(r) - y_r, torch.logit(z) - y_z, torch.atanh(n) - r * y_n], 1)


def _x_of_slstm(saved: Tensor, y: Tensor) -> Tensor:
    a_i, a_f, z, o = saved.unbind(1)
    return torch.stack([a_i, a_f, torch.atanh(z), torch.logit(o)], 1) - y


class Equations(NamedTuple):
    """One step of a cell, and wx from its saved values."""

    step: Callable[[Tensor, Tensor, State], State]
    x_of_saved: Callable[[Tensor, Tensor], Tensor]


EQUATIONS = {
    "elman_tanh": Equations(_elman_tanh, _x_of_elman_tanh),
    "elman_relu": Equations(_elman_relu, _x_of_elman_relu),
    "lstm": Equations(_lstm, _x_of_lstm),
    "gru": Equations(_gru, _x_of_gru),
    "slstm": Equations(_slstm, _x_of_slstm),
}


# ---- the loop over time ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """The non-tensor arguments of a call. With ``from_saved`` the first input is the saved gates instead of wx."""

    cell: Cell
    reverse: bool
    all_states: bool
    clip_state: float | None
    clip_grad: float | None
    from_saved: bool = False

    def __call__(self, inputs: Sequence[Any], constants: Sequence[Any]) -> list[Tensor]:
        """Return h, the final states and, with ``all_states``, all states but h.

        ``inputs`` are wx, r, b and the initial states, ``constants`` lengths, batch_sizes, cu_seqlens and reset.
        """
        wx, r, b, *first = inputs
        states, last = self._run(wx, r, b, first, *constants)
        return [states[0], *last, *(states[1:] if self.all_states else ())]

    def _run(
        self,
        wx: Tensor,
        r: Tensor,
        b: Tensor | None,
        first: Sequence[Tensor],
        lengths: Tensor | None,
        batch_sizes: Tensor | None,
        cu_seqlens: Tensor | None,
        reset: Tensor | None,
    ) -> tuple[State, State]:
        """Return the states of all steps, in the layout of wx, and the final states."""
        stored = r.dtype
        rows = Rows(wx, lengths, batch_sizes, cu_seqlens)
        x, flags = rows.padded(_wide(wx)), None if reset is None else rows.flags(reset)
        count = len(self.cell.states)
        now = [_wide(s) for s in first] or [x.new_zeros(x.shape[0], *x.shape[3:]) for _ in range(count)]
        step = _Step(self, _wide(r), None if b is None else _wide(b), stored)
        every: list[State] = []
        for t in range(x.shape[1])[:: -1 if self.reverse else 1]:
            valid = None if rows.valid is None else rows.valid[:, t, None, None]
            drops = None if flags is None else flags[:, t, None, None]
            new = step(x[:, t], valid, drops, now)
            now = list(new) if valid is None else [torch.where(valid, n, s) for n, s in zip(new, now, strict=True)]
            every.append(new if valid is None else tuple([torch.where(valid, n, 0) for n in new]))
        every = every[::-1] if self.reverse else every
        nothing = x.new_zeros(x.shape[0], 0, *x.shape[3:])
        states = [torch.stack(s, 1) for s in zip(*every, strict=True)] if every else [nothing] * count
        h, *others = (rows.back(s) for s in states)
        return (h.to(stored), *others), (now[0].to(stored), *now[1:])


class _Step:
    """One step of all rows, in the precision of the kernels."""

    def __init__(self, call: Call, r: Tensor, b: Tensor | None, stored: torch.dtype) -> None:
        self.call, self.r, self.b, self.stored = call, r, b, stored
        bound = call.clip_state
        self.clip_state = None if bound is None else float(torch.tensor(bound, dtype=stored, device="cpu"))

    def __call__(self, x: Tensor, valid: Tensor | None, drops: Tensor | None, now: Sequence[Tensor]) -> State:
        prev = list(now)
        if drops is not None:
            prev = [torch.where(drops, 0, s) for s in prev]
        if self.call.clip_grad is not None:
            prev[0] = _ClipGradient.apply(prev[0], self.call.clip_grad)
        cell = self.call.cell
        y = torch.einsum("gnij,bnj->bgni", self.r, prev[0])
        if cell.rounds_products:
            y = y.to(self.stored).to(y.dtype)
        y = y if self.b is None else y + self.b
        if self.call.from_saved:
            saved = x.detach()
            x = Valued.apply(x, EQUATIONS[cell.kind].x_of_saved(saved, y.detach()))
        if valid is not None:  # a NaN in the padding times 0 would be NaN
            x = torch.where(valid.unsqueeze(1), x, 0)
        h, *others = EQUATIONS[cell.kind].step(x, y, tuple(prev))
        if self.call.from_saved and not cell.saved:
            h = Valued.apply(h, saved[:, 0])  # the saved h, which is already clamped
        if self.clip_state is not None:
            clamped = h.detach().clamp(-self.clip_state, self.clip_state)
            h = torch.where(h.abs() < self.clip_state, h, clamped)
        if cell.rounds_states:
            others = [s.to(self.stored).to(s.dtype) for s in others]
        return h.to(self.stored).to(h.dtype), *others


class _ClipGradient(torch.autograd.Function):
    """Return h; its gradient is clamped to [-bound, bound], and is 0, even for NaN, if the bound is 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor, bound: float) -> Tensor:
        return h.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.bound = inputs[1]

    @staticmethod
    def backward(ctx: Any, dh: Tensor) -> tuple[Tensor, None]:
        return (dh.clamp(-ctx.bound, ctx.bound) if ctx.bound > 0 else torch.zeros_like(dh)), None


def _wide(x: Tensor) -> Tensor:
    """Return x in the dtype of the computation: float32 for 16-bit floats."""
    return x.float() if x.dtype.itemsize == 2 else x
