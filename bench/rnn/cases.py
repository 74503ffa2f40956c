"""The contest of the family rnn: the cases, the floor under each, our side, torch.nn's side, and the gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import fastiter.torch
import fastiter.torch.nn
from bench.harness import gate
from bench.harness.contest import BOTH, Call, run, with_gradients
from fastiter._torch.linear import linear


@dataclass(frozen=True)
class Cell:
    gates: int
    function: Callable[..., tuple[Tensor, tuple[Tensor, ...]]]
    layer: str | None  # torch.nn's name; None for sLSTM, which has no peer there


CELLS = {
    "lstm": Cell(4, fastiter.torch.lstm, "LSTM"),
    "gru": Cell(3, fastiter.torch.gru, "GRU"),
    "elman": Cell(1, fastiter.torch.elman, "RNN"),
    "slstm": Cell(4, fastiter.torch.slstm, None),
}


@dataclass(frozen=True)
class Case:
    cell: str
    B: int
    T: int
    H: int

    def __str__(self) -> str:
        return f"{self.cell} B {self.B} T {self.T} H {self.H}"


# ---- The floor ------------------------------------------------------------------------------------------------------


def recurrent_flops(case: Case, mode: str) -> float:
    """r h at every step; in the backward pass, r' dgates and the gradient of r cost the same each."""
    flops = 2.0 * case.B * case.T * CELLS[case.cell].gates * case.H**2
    return flops * (3 if mode == BOTH else 1)


def recurrent_bytes(case: Case, mode: str) -> float:
    """r is read at every step, however few the rows; the backward pass reads it once more."""
    return float(bytes_of_r(case)) * case.T * (2 if mode == BOTH else 1)


def bytes_of_r(case: Case) -> int:
    return 4 * CELLS[case.cell].gates * case.H**2


def floor_seconds(case: Case, mode: str, flop_rate: float, read_rate: float) -> tuple[float, str]:
    """The minimum time of the recurrence on this machine, and what limits it."""
    by_flops, by_bytes = recurrent_flops(case, mode) / flop_rate, recurrent_bytes(case, mode) / read_rate
    return (by_flops, "flops") if by_flops >= by_bytes else (by_bytes, "bytes of r")


# ---- The competitors ------------------------------------------------------------------------------------------------


class Recurrence:
    """Our recurrence alone: wx is given."""

    def __init__(self, case: Case, wx: Tensor, r: Tensor, b: Tensor, cotangent: Tensor) -> None:
        self.function = CELLS[case.cell].function
        self.inputs = [tensor.detach().requires_grad_() for tensor in (wx, r, b)]
        self.cotangent = cotangent

    @classmethod
    def random(cls, case: Case) -> Recurrence:
        shape = (CELLS[case.cell].gates, 1, case.H)
        wx = torch.randn(case.B, case.T, *shape)
        r, b = (case.H**-0.5 * torch.randn(*size) for size in ((*shape, case.H), shape))
        return cls(case, wx, r, b, torch.randn(case.B, case.T, 1, case.H))

    def __call__(self) -> Tensor:
        return self.function(*self.inputs)[0]

    def timed(self, mode: str) -> Call:
        return run(self, self.inputs, self.cotangent, mode)

    def results(self) -> dict[str, Tensor]:
        return with_gradients(self(), dict(zip(("wx", "r", "b"), self.inputs, strict=True)), self.cotangent)


class Layer:
    """A whole layer, including W x, in torch.nn's own layout (T, B, H)."""

    def __init__(self, layer: torch.nn.Module, x: Tensor, cotangent: Tensor) -> None:
        self.layer, self.cotangent = layer, cotangent
        self.x = x.detach().requires_grad_()
        self.inputs = [self.x, *layer.parameters()]

    def __call__(self) -> Tensor:
        h: Tensor = self.layer(self.x)[0]
        return h

    def timed(self, mode: str) -> Call:
        return run(self, self.inputs, self.cotangent, mode)

    def results(self) -> dict[str, Tensor]:
        h, state = self.layer(self.x)
        last = torch.cat([part.detach() for part in (state if isinstance(state, tuple) else (state,))])
        inputs = {"x": self.x, **dict(self.layer.named_parameters())}
        return {"state": last, **with_gradients(h, inputs, self.cotangent)}


@dataclass
class Rivals:
    """All competitors for one case."""

    recurrence: Recurrence
    ours: Layer | None = None
    peer: Layer | None = None


def rivals(case: Case) -> Rivals:
    cell = CELLS[case.cell]
    if cell.layer is None:
        return Rivals(Recurrence.random(case))
    peer_layer = getattr(torch.nn, cell.layer)(case.H, case.H)
    our_layer = getattr(fastiter.torch.nn, cell.layer)(case.H, case.H)
    our_layer.load_state_dict(peer_layer.state_dict())
    x, cotangent = torch.randn(case.T, case.B, case.H), torch.randn(case.T, case.B, case.H)
    shape = (cell.gates, 1, case.H)
    with torch.no_grad():
        wx = torch.nn.functional.linear(x.transpose(0, 1), peer_layer.weight_ih_l0, peer_layer.bias_ih_l0)
    recurrence = Recurrence(
        case,
        wx.reshape(case.B, case.T, *shape),
        peer_layer.weight_hh_l0.view(*shape, case.H),
        peer_layer.bias_hh_l0.view(shape),
        cotangent.transpose(0, 1).unsqueeze(2).contiguous(),
    )
    return Rivals(recurrence, Layer(our_layer, x, cotangent), Layer(peer_layer, x, cotangent))


# ---- Heads ----------------------------------------------------------------------------------------------------------


class SeparateLayers:
    """A block-diagonal network in torch.nn: N layers of width D, each on its own slice of the input, (T, B, D)."""

    def __init__(self, case: Case, N: int) -> None:
        layer = getattr(torch.nn, str(CELLS[case.cell].layer))
        self.layers = [layer(case.H, case.H) for _ in range(N)]
        self.x = [torch.randn(case.T, case.B, case.H).requires_grad_() for _ in range(N)]
        self.cotangents = [torch.randn(case.T, case.B, case.H) for _ in range(N)]

    def __call__(self) -> list[Tensor]:
        return [layer(x)[0] for layer, x in zip(self.layers, self.x, strict=True)]

    def parameters(self) -> list[Tensor]:
        return [parameter for layer in self.layers for parameter in layer.parameters()]

    def timed(self, mode: str) -> Call:
        return run(self, [*self.x, *self.parameters()], self.cotangents, mode)

    def stacked(self, name: str) -> Tensor:
        return torch.stack([getattr(layer, name).detach() for layer in self.layers])

    def results(self) -> dict[str, Tensor]:
        """The results in the layout of BlockDiagonal."""
        gradients = torch.autograd.grad(self(), [*self.x, *self.parameters()], self.cotangents)
        N = len(self.layers)
        per_layer = [torch.stack(gradients[N + i :: 4]) for i in range(4)]  # weight_ih, weight_hh, bias_ih, bias_hh
        h = torch.stack([part.detach() for part in self()]).permute(2, 1, 0, 3)
        names = ("dweight_ih", "dweight_hh", "dbias_ih", "dbias_hh")
        return {"h": h, "dx": torch.stack(gradients[:N]), **dict(zip(names, per_layer, strict=True))}


class BlockDiagonal:
    """The same network on our side: W x head by head, then one recurrence of N heads, or N recurrences in turn.

    A layer with num_heads=N would multiply all of x by one dense W, N times the work of the peers, so W x is `linear`
    on each head's slice of x (N, T, B, D). One recurrence processes all heads at once, on both cores even with few
    rows, but needs them interleaved in wx, which costs a copy there and back; N recurrences do not.
    """

    def __init__(self, case: Case, peer: SeparateLayers, *, together: bool) -> None:
        self.case, self.N, self.together = case, len(peer.layers), together
        self.function = CELLS[case.cell].function
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        tensors = {"x": torch.stack(peer.x), **{name: peer.stacked(f"{name}_l0") for name in names}}
        self.inputs = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
        self.cotangent = torch.stack(peer.cotangents).permute(2, 1, 0, 3).contiguous()

    def __call__(self) -> Tensor:
        B, T, D, N, G = self.case.B, self.case.T, self.case.H, self.N, CELLS[self.case.cell].gates
        x, weight_ih, weight_hh, bias_ih, bias_hh = self.inputs.values()
        products = [linear(*head).view(T, B, G, D) for head in zip(x, weight_ih, bias_ih, strict=True)]
        r, b = weight_hh.view(N, G, D, D), bias_hh.view(N, G, D)
        if self.together:
            wx = torch.stack(products).permute(2, 1, 3, 0, 4)
            return self.function(wx, r.transpose(0, 1), b.transpose(0, 1))[0]
        heads = zip(products, r, b, strict=True)
        every_h = [
            self.function(wx.transpose(0, 1).unsqueeze(3), r.unsqueeze(1), b.unsqueeze(1))[0] for wx, r, b in heads
        ]
        return torch.cat(every_h, 2)

    def timed(self, mode: str) -> Call:
        return run(self, list(self.inputs.values()), self.cotangent, mode)

    def results(self) -> dict[str, Tensor]:
        return with_gradients(self(), self.inputs, self.cotangent)


# ---- The gate -------------------------------------------------------------------------------------------------------


def slstm_loop(wx: Tensor, r: Tensor, b: Tensor) -> Tensor:
    """h of a stabilised sLSTM, one step at a time, for autograd to differentiate."""
    h, c, n, m = (torch.zeros_like(wx[:, 0, 0]) for _ in range(4))
    every_h = []
    for wx_t in wx.unbind(1):
        a_i, a_f, a_z, a_o = (wx_t + torch.einsum("gnde,bne->bgnd", r, h) + b).unbind(1)
        before = logsigmoid(a_f) + m
        m = torch.where(n == 0, a_i, torch.maximum(a_i, before))
        i, f = torch.exp(a_i - m), torch.exp(before - m)
        c, n = f * c + i * torch.tanh(a_z), f * n + i
        h = torch.sigmoid(a_o) * c / n
        every_h.append(h)
    return torch.stack(every_h, 1)


def as_layer_results(results: dict[str, Tensor], weight_ih: Tensor) -> dict[str, Tensor]:
    """The results as those of a layer of the same network, by the chain rule through wx = W x + b."""
    B, T, G, _, H = results["dwx"].shape
    dwx = results["dwx"].reshape(B, T, G * H)
    return {
        "h": results["h"].squeeze(2).transpose(0, 1),
        "dx": (dwx @ weight_ih).transpose(0, 1),
        "dweight_hh_l0": results["dr"].reshape(G * H, H),
        "dbias_hh_l0": results["db"].reshape(G * H),
        "dbias_ih_l0": dwx.sum((0, 1)),
    }


def check_against_loop(case: Case, recurrence: Recurrence) -> float:
    """Compare sLSTM, which has no peer in torch, with a loop under autograd, as far as its memory allows.

    Rows are independent and the recurrence is causal: with a zero cotangent outside a corner of rows and steps, the
    whole case must give the gradients of that corner.
    """
    rows, steps = min(case.B, 8), min(case.T, 64)
    wx, r, b = recurrence.inputs
    cotangent = torch.zeros_like(recurrence.cotangent)
    cotangent[:rows, :steps] = recurrence.cotangent[:rows, :steps]
    results = with_gradients(recurrence(), {"wx": wx, "r": r, "b": b}, cotangent)
    results = {name: value[:rows, :steps] if name in ("h", "dwx") else value for name, value in results.items()}
    corner = {"wx": wx.detach()[:rows, :steps].clone().requires_grad_(), "r": r, "b": b}
    expected = with_gradients(slstm_loop(*corner.values()), corner, cotangent[:rows, :steps])
    return gate.check(f"{case}, recurrence", results, expected, case.T)


def check(case: Case, contest: Rivals) -> float:
    """Compare the results of every pair that will be timed; return the largest relative difference."""
    if contest.peer is None or contest.ours is None:
        return check_against_loop(case, contest.recurrence)
    expected = contest.peer.results()
    worst = gate.check(f"{case}, layer", contest.ours.results(), expected, case.T)
    result = as_layer_results(contest.recurrence.results(), contest.peer.layer.weight_ih_l0.detach())
    return max(worst, gate.check(f"{case}, recurrence", result, {name: expected[name] for name in result}, case.T))
