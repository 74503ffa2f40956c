"""Control by a Poisson equation: a state near a target, with a small source, by Newton steps from random rows.

:Paper: Constrained Optimization via Exact Augmented Lagrangian and Randomized Iterative Sketching (2023), arXiv
    2305.18379
:Shows: the paper's control problem and its number of Newton steps
:Does not show: the comparison with other constrained solvers
:Starts from: a matrix
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _paper import OTHERS, OURS, command_line, figure_option, option, save
from matplotlib import pyplot

import fastiter
from fastiter.bcd import sketched_newton

PRICE = 0.1  # weight of the source's penalty
PUBLISHED = 3  # Newton steps on a grid of 3 x 3, with a residual of 4.1e-6 at the end


@dataclass(frozen=True)
class Options:
    grid: int = option(3, "nodes in each direction; the published problem has 3", 3)
    runs: int = option(20, "runs with different random rows", 3)
    figure: Path = figure_option(__file__)


def wanted(n: int) -> Any:
    """Return the target state at the nodes, a wave with small curvature."""
    at = 0.1 / np.sqrt(15) * (np.arange(1, n + 1) - (n + 1) / 2)
    return (np.sin(4 + at)[:, None] + np.cos(3 + at)).ravel()


def laplacian(n: int) -> Any:
    """Return the five-point Laplacian of a square of side 2, which is 0 on the boundary."""
    line = (np.eye(n, k=1) + np.eye(n, k=-1) - 2 * np.eye(n)) * ((n + 1) / 2) ** 2
    return np.kron(line, np.eye(n)) + np.kron(np.eye(n), line)


def main() -> None:
    options = command_line(Options, __doc__)
    warnings.simplefilter("ignore", fastiter.ConvergenceWarning)  # from the truncated runs
    n, nodes = options.grid, options.grid**2
    target, jacobian = wanted(n), np.hstack([laplacian(n), np.eye(nodes)])
    second = np.diag(np.repeat([1.0, PRICE], nodes))
    pull = np.append(target, np.zeros(nodes))

    def cost(x: Any) -> tuple[float, Any, Any]:
        away = x - pull
        return float(away @ second @ away / 2), second @ away, second

    def equation(x: Any, multipliers: Any) -> tuple[Any, Any, Any]:
        return jacobian @ x, jacobian, np.zeros_like(second)

    def solve(seed: int, max_steps: int = 100) -> Any:
        return sketched_newton(
            cost, equation, np.ones(2 * nodes), multipliers0=np.ones(nodes), rng=seed, max_steps=max_steps
        )

    solutions = [solve(seed) for seed in range(options.runs)]
    assert all(each.converged for each in solutions)
    steps = [each.steps for each in solutions]
    projections = np.mean([each.projections for each in solutions])
    print(f"grid of {n} x {n}: {min(steps)} to {max(steps)} Newton steps, {projections:,.0f} projections on average")
    if n == 3:
        assert max(steps) <= PUBLISHED + 1
    matrix = np.block([[second, jacobian.T], [jacobian, np.zeros((nodes, nodes))]])
    exact = np.linalg.solve(matrix, np.append(second @ pull, np.zeros(nodes)))[: 2 * nodes]
    apart = max(float(abs(each.value - exact).max()) for each in solutions)
    print(f"largest difference from the solution of the linear system: {apart:.1e}")
    assert apart < 1e-3
    worst = max(float(abs(jacobian @ each.value).max()) for each in solutions)
    lowest, without = solutions[0].objective, cost(0 * exact)[0]
    print(f"equation at the end: {worst:.1e}, cost {lowest:.6f} instead of {without:.6f} without")
    assert worst < 1e-4 and lowest < without
    histories = [[solve(seed, k).residual for k in range(steps[seed] + 1)] for seed in range(min(options.runs, 5))]
    draw(n, target, solutions[0].value, histories, options.figure)


def draw(n: int, target: Any, x: Any, histories: list[list[float]], to: Path) -> None:
    figure, axes = pyplot.subplots(1, 4, figsize=(12, 3), layout="constrained")
    fields = {"wanted state": target, "state": x[: n * n], "source": x[n * n :]}
    for ax, (title, field) in zip(axes, fields.items(), strict=False):
        image = ax.imshow(np.pad(field.reshape(n, n), 1), cmap="viridis", extent=(-1, 1, -1, 1), origin="lower")
        ax.set(title=title, xlabel="x", ylabel="y", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        figure.colorbar(image, ax=ax, shrink=0.7)
    for history in histories:
        axes[3].semilogy(history, "o-", color=OURS, alpha=0.6)
    axes[3].axhline(1e-4, color=OTHERS, linestyle="--", label="tolerance")
    axes[3].set(
        title="first-order conditions", xlabel="Newton steps", ylabel="residual", xticks=range(len(histories[0]))
    )
    axes[3].legend()
    save(figure, to)


if __name__ == "__main__":
    main()
