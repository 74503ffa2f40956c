"""The tasks of the family ssm: selective scans in float32, called as in Mamba, forward alone and with gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

import fastiter.torch
from bench.harness import gate
from bench.harness.contest import FRESH, REUSED, Call, Results, Work, leaves, on_fresh_pages

Shape = tuple[int, int, int, int]  # (B, D, T, N)
FORWARD_SHAPES: tuple[Shape, ...] = ((1, 512, 512, 16), (1, 512, 2048, 16), (1, 1024, 2048, 16))
GRADIENT_SHAPES: tuple[Shape, ...] = ((1, 512, 512, 16), (1, 512, 2048, 16))
STEP_SHAPES: tuple[Shape, ...] = ((1, 1024, 1, 16), (8, 1024, 1, 16))
QUICK: Shape = (1, 24, 40, 4)
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")

#: Vector operations on the fused multiply-add units, per channel, step and state: forward the exponential (7), the
#: input, the state and the output; backward all of these except the output, and 8 more
PER_STATE = {"forward": 10, "backward": 17}
#: The same per channel and step: softplus and SiLU; backward also their derivatives
PER_STEP = {"forward": 36, "backward": 60}


@dataclass(frozen=True)
class Inference:
    """A call without gradients, and the same in float64."""

    name: str
    ours: Callable[..., Tensor]
    loop: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    length: int

    @cached_property
    def expected(self) -> Results:
        return {"out": self.loop(*(x.double() for x in self.inputs)).to(self.inputs[0].dtype)}

    def check(self) -> float:
        return self.compare(self.name, {"out": self.ours(*self.inputs)})

    def compare(self, name: str, results: Results) -> float:
        return gate.check(name, results, self.expected, self.length)

    def forms(self) -> dict[str, Call]:
        call = partial(self.ours, *self.inputs)
        return {FRESH: on_fresh_pages(call), REUSED: call}


def ours(*inputs: Tensor) -> Tensor:
    out = fastiter.torch.ssm.selective_scan(*inputs, delta_softplus=True)
    assert isinstance(out, Tensor)
    return out


def selective_loop(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor
) -> Tensor:
    """The equations, one step at a time, trusted by the gate."""
    d = torch.nn.functional.softplus(delta + delta_bias[:, None])
    h = u.new_zeros(*u.shape[:2], A.shape[1])
    outputs = []
    for ut, dt, Bt, Ct in zip(u.unbind(2), d.unbind(2), B.unbind(2), C.unbind(2), strict=True):
        h = torch.exp(dt[..., None] * A) * h + (dt * ut)[..., None] * Bt[:, None]
        outputs.append((h * Ct[:, None]).sum(-1))
    return (torch.stack(outputs, 2) + D[:, None] * u) * torch.nn.functional.silu(z)


def selective_inputs(shape: Shape) -> dict[str, Tensor]:
    """Rates -1 to -N and step sizes around 0.01, as in a Mamba layer at the start of training."""
    torch.manual_seed(0)
    B, D, T, N = shape
    u, delta, z = torch.randn(3, B, D, T).unbind()
    rates = -torch.arange(1.0, N + 1).expand(D, N).contiguous()
    weights = (rates, *torch.randn(2, B, N, T).unbind(), torch.randn(D), z, torch.randn(D) - 4.6)
    return dict(zip(NAMES, (u, delta, *weights), strict=True))


def selective_work(shape: Shape) -> Work:
    inputs = leaves(**selective_inputs(shape))
    return Work(f"selective_scan {shape}", ours, selective_loop, inputs, torch.randn(shape[:3]), shape[2])


def selective_inference(shape: Shape) -> Inference:
    inputs = tuple(selective_inputs(shape).values())
    return Inference(f"selective_scan {shape}", ours, selective_loop, inputs, shape[2])


# ---- One step -------------------------------------------------------------------------------------------------------


def step_loop(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, dt_bias: Tensor
) -> Tensor:
    """One step in torch operations, with the state updated in place."""
    d = torch.nn.functional.softplus(dt + dt_bias)
    state.mul_(torch.exp(d[..., None] * A)).add_((d * x)[..., None] * B[:, None])
    return ((state * C[:, None]).sum(-1) + D * x) * torch.nn.functional.silu(z)


def step_task(shape: Shape) -> Inference:
    """An input of 0 and a decay of 1 leave the state unchanged, so that every call does the same."""
    B, D, _, N = shape
    every = selective_inputs((B, D, 1, N))
    x, dt, b, c, z = (every[name][..., 0] for name in ("u", "delta", "B", "C", "z"))
    state, rates = torch.randn(B, D, N), torch.zeros(D, N)

    def step(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        return function(*inputs)

    inputs = (state, 0 * x, dt, rates, b, c, every["D"], z, every["delta_bias"])
    update = partial(fastiter.torch.ssm.selective_state_update, dt_softplus=True)
    return Inference(f"selective_state_update {B, D, N}", partial(step, update), step_loop, inputs, N)


# ---- The floor ------------------------------------------------------------------------------------------------------


def operations(shape: Shape, direction: str) -> float:
    """Floating-point operations, two for each vector operation counted above."""
    B, D, T, N = shape
    return 2.0 * B * D * T * (PER_STATE[direction] * N + PER_STEP[direction])
