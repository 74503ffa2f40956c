"""A network as the preconditioner for conjugate directions: trained on one grid, it works on grids of any size.

The network maps a residual r of the five-point Poisson problem A u = b to a direction. It is a multigrid V-cycle
whose smoothers, two convolutions each, and three factors are learned, shared by all levels: 219 parameters. The loss
needs no solutions: ||b - (q.b / q.A q) A q||^2, where q is the network's output for b, is the squared residual after
one conjugate direction. The idea is that of the deep conjugate direction method (Kaneda et al., 2023, arXiv
2205.10763), but the network is a multigrid cycle, and is compared with the same cycle with Jacobi smoothing, which is
not learned.

:Paper: A Deep Conjugate Direction Method for Iteratively Solving Linear Systems (2023), arXiv 2205.10763
:Shows: a learned preconditioner whose number of iterations does not grow with the grid
:Does not show: the paper's convolutional network and fluid simulations; the network here is a learned multigrid cycle
:Starts from: a matrix
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _paper import command_line, figure_option, option, save
from matplotlib import pyplot
from torch import Tensor, nn
from torch.nn import functional

from fastiter.relax import LinearSolution
from fastiter.torch.relax import flexible_cg

RTOL = 1e-4
#: CG iterations for random right-hand sides on N x N in a published run with other random numbers
OF_CG = {16: 36, 32: 69, 64: 128, 128: 247, 256: 470}


@dataclass(frozen=True)
class Options:
    sizes: tuple[int, ...] = option((16, 32, 64, 128, 256), "points on one side of the grids to solve on", (16, 32, 64))
    trained: int = option(32, "points on one side of the grid to train on", 16)
    steps: int = option(1500, "training steps", 200)
    figure: Path = figure_option(__file__)


def poisson(u: Tensor) -> Tensor:
    """Return A u for grids (..., N, N): 4 u minus the four neighbours, 0 outside."""
    whole = functional.pad(u, (1, 1, 1, 1))
    across, down = whole[..., 1:-1, :], whole[..., 1:-1]
    return 4 * u - across[..., :-2] - across[..., 2:] - down[..., :-2, :] - down[..., 2:, :]


class Cycle(nn.Module):
    """One V-cycle from 0 for right-hand sides (B, 1, N, N), N a power of two; all levels share the weights."""

    def __init__(self, *, channels: int = 6) -> None:
        super().__init__()
        self.before, self.after = (
            nn.Sequential(
                nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.Conv2d(channels, 1, 3, padding=1, bias=False)
            )
            for _ in range(2)
        )
        # Jacobi's method with omega = 0.8 before and after, and the whole correction of the coarse grid
        self.factors = nn.Parameter(torch.tensor([0.2, 0.2, 1.0]))

    def forward(self, b: Tensor) -> Tensor:
        """Return the correction. As the coarse operator has the same stencil, r is multiplied by 4 for it."""
        first, last, coarse = self.factors
        x = first * b + self.before(b)
        if b.shape[-1] >= 8:
            below = self(4 * functional.avg_pool2d(b - poisson(x), 2))
            x = x + coarse * functional.interpolate(below, scale_factor=2, mode="bilinear")
        r = b - poisson(x)
        result: Tensor = x + last * r + self.after(r)
        return result

    def precondition(self, r: Tensor) -> Tensor:
        """Return the correction for one grid (N, N) of any dtype, in float32."""
        result: Tensor = self(r.float()[None, None])[0, 0]
        return result


def jacobi_cycle() -> Cycle:
    """Return the classical multigrid cycle: without convolutions, only Jacobi's method remains."""
    cycle = Cycle()
    with torch.no_grad():
        for layer in (*cycle.before, *cycle.after):
            layer.weight.zero_()
    return cycle


def right_hand_sides(n: int, step: int, batch: int, rng: np.random.Generator) -> Tensor:
    """Return random sums of eigenvectors: smooth half scaled by 9, or all divided by lambda^t, t in [0, 1)."""
    k = np.arange(1, n + 1)
    modes = np.sqrt(2 / (n + 1)) * np.sin(np.pi * np.outer(k, k) / (n + 1))
    one = 2 - 2 * np.cos(np.pi * k / (n + 1))
    eigenvalues = one[:, None] + one
    c = rng.standard_normal((batch, n, n))
    if step % 2 == 0:
        c *= np.where(eigenvalues < np.median(eigenvalues), 9, 1)
    else:
        c /= eigenvalues ** rng.random((batch, 1, 1))
    b = modes @ c @ modes
    b /= np.linalg.norm(b, axis=(1, 2), keepdims=True)
    return torch.from_numpy(b[:, None]).float()


def left_by_one_direction(cycle: Cycle, b: Tensor) -> Tensor:
    q = cycle(b)
    image = poisson(q)
    factor = (q * b).sum((1, 2, 3)) / (q * image).sum((1, 2, 3))
    left: Tensor = (b - factor[:, None, None, None] * image).square().sum((1, 2, 3)).mean()
    return left


def train(cycle: Cycle, n: int, steps: int) -> list[float]:
    rng, batch = np.random.default_rng(0), 8
    adam = torch.optim.Adam(cycle.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    losses = []
    for step in range(steps):
        loss = left_by_one_direction(cycle, right_hand_sides(n, step, batch, rng))
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def problems(n: int) -> dict[str, Tensor]:
    x = torch.arange(1, n + 1, dtype=torch.float64) / (n + 1)
    bump = torch.exp(-((x[:, None] - 0.3) ** 2 + (x - 0.6) ** 2) / (2 * 0.1**2))
    return {"random": torch.from_numpy(np.random.default_rng(n).standard_normal((n, n))), "bump": bump}


def main() -> None:
    options = command_line(Options, __doc__)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # these grids are too small for two threads
    learned, classical = Cycle(), jacobi_cycle()
    began = time.perf_counter()
    losses = train(learned, options.trained, options.steps)
    parameters = sum(p.numel() for p in learned.parameters())
    assert parameters == 219
    where, seconds = f"{options.trained} x {options.trained}", time.perf_counter() - began
    print(f"{parameters} parameters, {options.steps} steps on {where} in {seconds:.0f} s: ", end="")
    print(f"loss {np.mean(losses[:50]):.3f} to {np.mean(losses[-50:]):.4f}", flush=True)
    methods = {"CG": None, "Jacobi cycle": classical.precondition, "learned cycle": learned.precondition}
    print(f"{'':22}" + "".join(f"{name:>15}" for name in methods) + f"   directions to {RTOL:g}")
    solutions: dict[tuple[str, str, int], LinearSolution[Tensor]] = {}
    for n in options.sizes:
        for kind, b in problems(n).items():
            for name, precond in methods.items():
                solutions[name, kind, n] = flexible_cg(poisson, b, precond=precond, rtol=RTOL)
            print(f"{n:5} x {n:<5}{kind:9}" + "".join(f"{solutions[name, kind, n].steps:15}" for name in methods))
            # The claim: the same number of directions on every grid, while those of CG grow with N
            assert solutions["learned cycle", kind, n].steps <= 8
            assert n < 256 or solutions["CG", kind, n].steps >= 400
        if n in OF_CG:
            assert abs(solutions["CG", "random", n].steps - OF_CG[n]) <= 0.1 * OF_CG[n]
    draw(solutions, options)


def draw(solutions: dict[tuple[str, str, int], LinearSolution[Tensor]], options: Options) -> None:
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained")
    names = dict.fromkeys(name for name, _, _ in solutions)
    largest = options.sizes[-1]
    for name in names:
        left.loglog(options.sizes, [solutions[name, "random", n].steps for n in options.sizes], "o-", label=name)
        history = solutions[name, "random", largest].history
        right.loglog(np.arange(1, len(history) + 1), history / history[0], label=name)
    left.set(xlabel="N", ylabel=f"directions to {RTOL:g}", title="random right-hand sides on N x N")
    right.set(xlabel="direction + 1", ylabel="||r|| / ||b||", title=f"N = {largest}")
    left.set_xticks(options.sizes, [str(n) for n in options.sizes])
    left.minorticks_off()
    left.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main()
