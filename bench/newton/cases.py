"""The tasks of the family newton: the cells alone, whole layers, and loops over the steps for the gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import fastiter.torch
from bench.harness.contest import Work, leaves
from fastiter._torch.linear import linear


def gru_loop(wx: Tensor, a: Tensor) -> Tensor:
    """ParaGRU, as in the paper."""
    h = torch.zeros_like(wx[:, 0, 0])
    every_h = []
    for z, r, s in (step.unbind(1) for step in wx.unbind(1)):
        z, r = torch.sigmoid(a[0] * h + z), torch.sigmoid(a[1] * h + r)
        h = z * torch.tanh(a[2] * h * r + s) + (1 - z) * h
        every_h.append(h)
    return torch.stack(every_h, 1)


def lstm_loop(wx: Tensor, a: Tensor, p: Tensor) -> Tensor:
    """ParaLSTM: the input gate is 1 - f, and the gates see c."""
    h = c = torch.zeros_like(wx[:, 0, 0])
    every_h = []
    for f, o, q in (step.unbind(1) for step in wx.unbind(1)):
        f = torch.sigmoid(a[0] * h + p[0] * c + f)
        c = f * c + (1 - f) * torch.tanh(a[2] * h + q)
        h = torch.sigmoid(a[1] * h + p[1] * c + o) * torch.tanh(c)
        every_h.append(h)
    return torch.stack(every_h, 1)


@dataclass(frozen=True)
class Cell:
    """`parameters` is the number of rows of the recurrent weights, by name."""

    function: Callable[..., tuple[Tensor, tuple[Tensor, ...]]]
    loop: Callable[..., Tensor]
    parameters: dict[str, int]


CELLS = {
    "paragru": Cell(fastiter.torch.paragru, gru_loop, {"a": 3}),
    "paralstm": Cell(fastiter.torch.paralstm, lstm_loop, {"a": 3, "p": 2}),
}


@dataclass(frozen=True)
class Case:
    cell: str
    B: int
    T: int
    H: int

    def __str__(self) -> str:
        return f"{self.cell} B {self.B} T {self.T} H {self.H}"

    def weights(self) -> dict[str, Tensor]:
        """The recurrent weights, drawn as in the paper."""
        std = 2 / (5 * self.H) ** 0.5
        return {name: std * torch.randn(rows, self.H) for name, rows in CELLS[self.cell].parameters.items()}


SHAPES = ((16, 256, 256), (4, 2048, 64))
QUICK_SHAPES = ((2, 32, 16),)


def cell_work(case: Case, method: str = "auto") -> Work:
    """The recurrence alone: wx is given."""
    torch.manual_seed(0)
    cell = CELLS[case.cell]
    return Work(
        str(case),
        lambda *inputs: cell.function(*inputs, method=method)[0],
        cell.loop,
        leaves(wx=torch.randn(case.B, case.T, 3, case.H), **case.weights()),
        torch.randn(case.B, case.T, case.H),
        case.T,
    )


def layer_work(case: Case) -> Work:
    """Input projection and recurrence, as in the peer's module."""
    torch.manual_seed(0)
    cell, shape = CELLS[case.cell], (case.B, case.T, 3, case.H)

    def ours(x: Tensor, weight: Tensor, bias: Tensor, *weights: Tensor) -> Tensor:
        return cell.function(linear(x, weight, bias).view(shape), *weights)[0]

    def loop(x: Tensor, weight: Tensor, bias: Tensor, *weights: Tensor) -> Tensor:
        return cell.loop(torch.nn.functional.linear(x, weight, bias).view(shape), *weights)

    inputs = leaves(
        x=torch.randn(case.B, case.T, case.H),
        weight=case.H**-0.5 * torch.randn(3 * case.H, case.H),
        bias=0.1 * torch.randn(3 * case.H),
        **case.weights(),
    )
    return Work(f"{case}, layer", ours, loop, inputs, torch.randn(case.B, case.T, case.H), case.T)
