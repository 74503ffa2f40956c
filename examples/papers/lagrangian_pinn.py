"""Networks that follow the flow: errors of at most .05 and .1 at speeds 10 and 50, where the usual ones have .5.

u_t + c u_x = 0 with u = sin x at first only carries the sine along. A physics-informed network (PINN) of (x, t)
learns that badly if c is large: the solution oscillates in t, and the initial values reach it slowly. The Lagrangian
one (LPINN) has two networks of a label x_0 and t: the place of the characteristic, X = x_0 + c y, with y_t = 1, and
the value along it, with u_t = 0. Nothing there depends on c, and the same training gives the same error at any speed,
as the displacement is scaled by c.

Both take (sin x, cos x, t), have three layers of 32, and are trained by Adam on 256 new points a step. The
derivatives by t and x are carried through the layers with the values.

For Burgers' equation without viscosity the characteristics need no network: x_0 = x - t u_0(x_0) is a fixed point for
each place until the shock. With u_0 = sin x + 2 and t = 1/2, Picard and Anderson agree to 1e-12; Picard takes the 40
steps of the contraction 1/2.

    python examples/papers/lagrangian_pinn.py  # 10 seconds to 3 minutes; writes lagrangian_pinn.png next to this file

:Paper: Lagrangian PINNs: A Causality-Conforming Solution to Failure Modes of Physics-Informed Neural Networks (2022),
    arXiv 2205.02902
:Shows: the failure of PINNs for fast convection, and that networks along characteristics have none
:Does not show: viscosity, speeds that depend on the solution in the trained networks, and the comparison of costs
:Starts from: a map
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _paper import OTHERS, OURS, command_line, figure_option, option, save
from matplotlib import pyplot
from torch import Tensor

from fastiter.fixedpoint import fixed_point

SPEEDS, WIDTH, POINTS = (10.0, 50.0), 32, 256


@dataclass(frozen=True)
class Options:
    steps: int = option(1200, "steps of Adam", 120)
    figure: Path = figure_option(__file__)


class Network(torch.nn.Module):
    """One network for each speed: three tanh layers of (sin x, cos x, t), with the derivatives by t and by x."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [3, WIDTH, WIDTH, WIDTH, 1]
        shapes = [(len(SPEEDS), a, b) for a, b in pairwise(sizes)]
        self.weights = torch.nn.ParameterList([torch.randn(shape) / shape[1] ** 0.5 for shape in shapes])
        self.biases = torch.nn.ParameterList([torch.zeros(shape[0], 1, shape[2]) for shape in shapes])

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values, derivatives by t and by x (speeds, points), for points (points,)."""
        zero, one = torch.zeros_like(x), torch.ones_like(x)
        h = torch.stack([x.sin(), x.cos(), t], -1).expand(len(SPEEDS), -1, -1)
        by_t = torch.stack([zero, zero, one], -1).expand(len(SPEEDS), -1, -1)
        by_x = torch.stack([x.cos(), -x.sin(), zero], -1).expand(len(SPEEDS), -1, -1)
        for i, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            h, by_t, by_x = h @ W + b, by_t @ W, by_x @ W
            if i < len(self.weights) - 1:
                h = h.tanh()
                slope = 1 - h * h
                by_t, by_x = slope * by_t, slope * by_x
        return h[..., 0], by_t[..., 0], by_x[..., 0]


def train(steps: int, is_lagrangian: bool) -> tuple[Network, Network]:
    """Return the networks of the value and, for LPINN, of the displacement."""
    torch.manual_seed(0)
    value, place = Network(), Network()
    speeds = torch.tensor(SPEEDS)[:, None]
    parameters = [*value.parameters(), *(place.parameters() if is_lagrangian else ())]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    for _ in range(steps):
        x, x0 = 2 * torch.pi * torch.rand(2, POINTS)
        t, zero = torch.rand(POINTS), torch.zeros(POINTS)
        _, u_t, u_x = value(x, t)
        residual = u_t if is_lagrangian else u_t + speeds * u_x
        losses = residual.square().mean() + (value(x0, zero)[0] - x0.sin()).square().mean()
        if is_lagrangian:
            losses = losses + (place(x, t)[1] - 1).square().mean() + place(x0, zero)[0].square().mean()
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
    return value, place


@torch.no_grad()
def errors(networks: tuple[Network, Network], is_lagrangian: bool) -> tuple[Any, Any]:
    """The relative error for each speed over all times, and at each of 101 times; LPINN's along its characteristics."""
    value, place = networks
    x = torch.linspace(0, 2 * torch.pi, 200)
    squares = []
    for t in torch.linspace(0, 1, 101):
        at = t.expand(len(x))
        speeds = torch.tensor(SPEEDS)[:, None]
        X = x + speeds * place(x, at)[0] if is_lagrangian else x
        exact = torch.sin(X - speeds * t)
        squares.append(torch.stack([(value(x, at)[0] - exact).square().mean(1), exact.square().mean(1)]))
    by_time = torch.stack(squares, 1).numpy()  # (2, times, speeds)
    return np.sqrt(by_time[0].mean(axis=0) / by_time[1].mean(axis=0)), np.sqrt(by_time[0] / by_time[1])


def check_burgers(points: int = 400, t: float = 0.5) -> None:
    """The labels of the characteristics through points at time t, by two methods."""
    x = np.linspace(0, 2 * np.pi, points)[:, None]

    def label(x0: Any, x: Any) -> Any:
        return x - t * (np.sin(x0) + 2)

    found = {
        method: fixed_point(label, x, args=(x,), method=method, rtol=0.0, atol=1e-12)
        for method in ("picard", "anderson")
    }
    steps = {method: int(np.max(solution.steps)) for method, solution in found.items()}
    apart = float(np.abs(found["picard"].value - found["anderson"].value).max())
    print(f"characteristics of Burgers' equation: {steps} steps, differ by {apart:.0e}")
    assert apart <= 4e-12 and 38 <= steps["picard"] <= 44 and steps["anderson"] < steps["picard"] / 2


def main(options: Options) -> None:
    torch.set_num_threads(1)
    check_burgers()
    results = {}
    print(f"{'relative error':16}" + "".join(f"{f'c = {speed:.0f}':>10}" for speed in SPEEDS))
    for name, is_lagrangian in (("PINN", False), ("LPINN", True)):
        results[name] = errors(train(options.steps, is_lagrangian), is_lagrangian)
        print(f"{name:16}" + "".join(f"{error:10.3f}" for error in results[name][0]))

    usual, along = results["PINN"][0], results["LPINN"][0]
    assert usual.min() >= 0.5 and (along <= 0.7 * usual).all()
    if options.steps >= 1200:
        assert along[0] <= 0.05 and along[1] <= 0.1

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for (name, (_, by_time)), color in zip(results.items(), (OTHERS, OURS), strict=True):
        for column, speed in enumerate(SPEEDS):
            line = "-" if column else "--"
            axes.semilogy(
                np.linspace(0, 1, 101), by_time[:, column], line, color=color, label=f"{name}, c = {speed:.0f}"
            )
    axes.set(xlabel="t", ylabel="relative error", title="Convection with speed c")
    axes.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
