"""FlashRNN's equations as a loop over the steps, in its default layouts, and the tasks on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import fastiter.torch
from bench.harness.contest import FRESH, REUSED, Call, Results, Work, leaves, on_fresh_pages

#: Gates of R, of Wx and of b, and the number of states.
COUNTS = {"lstm": (4, 4, 4, 2), "slstm": (4, 4, 4, 4), "gru": (3, 3, 4, 1), "elman": (1, 1, 1, 1)}
#: Evaluations of each function per unit and step, forward and backward, without the divisions of sLSTM
FUNCTIONS = {
    "lstm": {"sigmoid": 3, "tanh": 3},
    "slstm": {"log_sigmoid": 2, "tanh": 1, "sigmoid": 1, "exp": 2},
    "gru": {"sigmoid": 2, "tanh": 1},
    "elman": {"tanh": 1},
}


def elman_step(x: Tensor, p: Tensor, b: Tensor, state: list[Tensor]) -> list[Tensor]:
    return [torch.tanh(x[:, 0] + p[:, 0] + b[0])]


def lstm_step(x: Tensor, p: Tensor, b: Tensor, state: list[Tensor]) -> list[Tensor]:
    i, f, z, o = (x + p + b).unbind(1)
    c = f.sigmoid() * state[1] + i.sigmoid() * z.tanh()
    return [o.sigmoid() * c.tanh(), c]


def gru_step(x: Tensor, p: Tensor, b: Tensor, state: list[Tensor]) -> list[Tensor]:
    (x_r, x_z, x_n), (p_g, p_r, p_z), (b_g, b_r, b_z, b_n) = x.unbind(1), p.unbind(1), b
    r, z = (x_r + p_r + b_r).sigmoid(), (x_z + p_z + b_z).sigmoid()
    return [z * state[0] + (1 - z) * torch.tanh(x_n + b_n + r * (p_g + b_g))]


def slstm_step(x: Tensor, p: Tensor, b: Tensor, state: list[Tensor]) -> list[Tensor]:
    i, f, z, o = (x + p + b).unbind(1)
    _, c, n, m = state
    l = logsigmoid(f) + m
    m = torch.where(n == 0, i, torch.maximum(i, l))
    i, f = torch.exp(i - m), torch.exp(l - m)
    c, n = f * c + i * z.tanh(), f * n + i
    n = torch.where(n < 1, 1.0, n)
    return [o.sigmoid() * c / n, c, n, m]


STEPS = {"lstm": lstm_step, "slstm": slstm_step, "gru": gru_step, "elman": elman_step}


def loop(Wx: Tensor, R: Tensor, b: Tensor, states: Tensor | None, function: str) -> tuple[Tensor, Tensor]:
    """(states_all, last_states) of FlashRNN's function, one step at a time."""
    batch, time, _, heads, width = Wx.shape
    count = COUNTS[function][3]
    first = Wx.new_zeros(count, batch, 1, heads, width) if states is None else states
    state, every = list(first[:, :, 0].unbind(0)), []
    for t in range(time):
        state = STEPS[function](Wx[:, t], torch.einsum("gndp,bnp->bgnd", R, state[0]), b, state)
        every.append(torch.stack(state))
    return torch.stack(every, 2), every[-1].unsqueeze(2)


def inputs(function: str, B: int, T: int, N: int, D: int, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    """Wx, R, b and states from the middle of a sequence, drawn in float64."""
    generator = torch.Generator().manual_seed(seed)
    gates_r, gates_w, gates_b, count = COUNTS[function]

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    states = randn(count, B, 1, N, D)
    if count == 4:
        states[2] = states[2].abs() + 1
    drawn = [randn(B, T, gates_w, N, D), randn(gates_r, N, D, D) / D**0.5, randn(gates_b, N, D), states]
    return [x.to(dtype) for x in drawn]


# # ---- The tasks
# ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    function: str
    B: int
    T: int
    N: int
    D: int

    def __str__(self) -> str:
        return f"{self.function} B {self.B} T {self.T} N {self.N} D {self.D}"

    def flops(self) -> float:
        """r h at every step; in the backward pass, r' dgates and the gradient of r cost the same each."""
        return 3 * 2.0 * self.B * self.T * COUNTS[self.function][0] * self.N * self.D**2

    def nbytes(self) -> float:
        """The memory traffic in bytes: Wx, its gradient, the states and their gradients once each.

        The states are read again in the backward pass, and the saved gates are written and read.
        """
        gates, states = COUNTS[self.function][1], COUNTS[self.function][3]
        saved = 0 if self.function == "elman" else 4
        return 4.0 * self.units() * (2 * gates + 3 * states + 2 * saved)

    def functions(self) -> dict[str, float]:
        """Evaluations of each function, forward and backward."""
        return {name: float(count * self.units()) for name, count in FUNCTIONS[self.function].items()}

    def units(self) -> int:
        return self.B * self.T * self.N * self.D


FULL = tuple(Case(function, 16, 256, 4, D) for D in (64, 128) for function in COUNTS)
QUICK = tuple(Case(function, 2, 16, 2, 8) for function in COUNTS)
LONG, QUICK_LONG = Case("lstm", 4, 4096, 4, 32), Case("lstm", 2, 32, 2, 8)


def h_of_loop(function: str, Wx: Tensor, R: Tensor, b: Tensor) -> Tensor:
    return loop(Wx, R, b, None, function)[0][0]


def work_of(case: Case) -> Work:
    """h, on which alone the loss depends, and its gradients; float32."""
    Wx, R, b, _ = inputs(case.function, case.B, case.T, case.N, case.D, torch.float32)
    return Work(
        str(case),
        lambda *tensors: fastiter.torch.flashrnn(*tensors, function=case.function)[0][0],
        partial(h_of_loop, case.function),
        leaves(Wx=Wx, R=R, b=b),
        torch.randn(case.B, case.T, case.N, case.D, generator=torch.Generator().manual_seed(1)),
        case.T,
    )


@dataclass(frozen=True)
class Backward:
    """The gradients of a task alone."""

    work: Work

    @property
    def name(self) -> str:
        return f"{self.work.name}, backward"

    def check(self) -> float:
        return self.work.check()

    def compare(self, name: str, results: Results) -> float:
        return self.work.compare(name, results)

    def forms(self) -> dict[str, Call]:
        values = list(self.work.inputs.values())
        call = gradients_alone(self.work.ours(*values), values, self.work.cotangent)
        return {FRESH: on_fresh_pages(call), REUSED: call}


def gradients_alone(h: Tensor, values: Sequence[Tensor], cotangent: Tensor) -> Call:
    return lambda: torch.autograd.grad(h, values, cotangent, retain_graph=True)
