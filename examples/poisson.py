"""A Poisson problem by every method: steps, seconds, and convergence of the residual.

    python examples/poisson.py                # 1 to 12 minutes; 1024 x 1024 points; writes poisson.png
    python examples/poisson.py --points 255   # 3 to 60 seconds
    python examples/poisson.py --help

The problem is -Laplace u = 1 on the unit square with u = 0 on its edge, by the 5-point stencil. Needs scipy and
matplotlib.

:Starts from: a matrix
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from _script import command_line, figure_option, option, progress, save
from matplotlib.colors import TABLEAU_COLORS
from matplotlib.figure import Figure

from fastiter import ConvergenceWarning
from fastiter.relax import Anderson, Chebyshev, LinearSolution, Relaxation, Stencil, chebyshev, ssor_cg

CHECK_EVERY = 10  # steps between two residuals
GROUPS = {
    "Relaxation": (
        "Jacobi",
        "Gauss-Seidel, natural",
        "Gauss-Seidel, colours",
        "Gauss-Seidel, clusters",
        "lines by block Gauss-Seidel",
        "Kaczmarz",
    ),
    "Over-relaxation": (
        "SOR, omega by itself",
        "SOR, best omega, colours",
        "SOR, without a matrix",
        "SSOR",
    ),
    "Acceleration": (
        "Anderson of Gauss-Seidel",
        "Chebyshev",
        "Chebyshev of SSOR",
        "SSOR-CG",
    ),
}
#: Lines that coincide with others
STYLES = {"Gauss-Seidel, colours": "--", "Gauss-Seidel, clusters": ":", "SOR, without a matrix": "--"}


@dataclass(frozen=True)
class Options:
    points: int = option(1024, "points along one axis", 31)
    steps: int = option(6000, "maximum number of steps")
    slow: int = option(500, "maximum number of steps of a slow method", 6000)
    rtol: float = option(1e-6, "tolerance, relative to the initial residual")
    figure: Path = figure_option(__file__)


def laplacian(m: int) -> Any:
    line = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m))
    eye = scipy.sparse.eye_array(m)
    return (scipy.sparse.kron(line, eye) + scipy.sparse.kron(eye, line)).tocsr()


def methods(options: Options) -> dict[str, Callable[[], LinearSolution[Any]]]:
    """Solve the problem with each method; the slow ones stop after fewer steps."""
    m = options.points
    A, b = laplacian(m), np.ones(m * m)
    grid, wide = Stencil((m, m), np.array([4.0, -1.0, -1.0, -1.0, -1.0])), np.ones((m, m))
    best = 2 / (1 + math.sin(math.pi / (m + 1)))
    settings: dict[str, Any] = {"rtol": options.rtol, "max_steps": options.steps, "check_every": CHECK_EVERY}
    slow, fewer = ({**settings, "max_steps": n} for n in (options.slow, options.slow // 5))
    ssor = Relaxation(A, "ssor")
    return {
        "Jacobi": lambda: Relaxation(A, "jacobi").solve(b, **slow),
        "Gauss-Seidel, natural": lambda: Relaxation(A, "gauss_seidel").solve(b, **slow),
        "Gauss-Seidel, colours": lambda: Relaxation(A, "gauss_seidel", order="color").solve(b, **slow),
        "Gauss-Seidel, clusters": lambda: Relaxation(A, "gauss_seidel", order="cluster").solve(b, **slow),
        "lines by block Gauss-Seidel": lambda: Relaxation(A, "block_gauss_seidel", block_size=8).solve(b, **slow),
        "Kaczmarz": lambda: Relaxation(A, "kaczmarz").solve(b, **slow),
        "Anderson of Gauss-Seidel": lambda: Anderson(Relaxation(A, "gauss_seidel", order="color")).solve(b, **fewer),
        "SOR, omega by itself": lambda: Relaxation(A, "sor").solve(b, **settings),
        "SOR, best omega, colours": lambda: Relaxation(A, "sor", omega=best, order="color").solve(b, **settings),
        "SOR, without a matrix": lambda: Relaxation(grid, "sor", omega=best, order="red-black").solve(wide, **settings),
        "Chebyshev": lambda: chebyshev(A, b, **slow),
        "SSOR": lambda: ssor.solve(b, **slow),
        "Chebyshev of SSOR": lambda: Chebyshev(ssor).solve(b, **settings),
        "SSOR-CG": lambda: ssor_cg(A, b, omega="auto", **settings),
    }


def draw(solutions: dict[str, LinearSolution[Any]], title: str, path: Path) -> None:
    """Plot the residuals: a panel for each group of methods, and a color for each method."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    panels = figure.subplots(1, len(GROUPS), sharey=False)
    colors = iter([*TABLEAU_COLORS, "black", "gold", "navy", "limegreen"])
    for axes, (group, names) in zip(panels, GROUPS.items(), strict=True):
        for name in names:
            history = solutions[name].history
            steps = np.minimum(CHECK_EVERY * np.arange(len(history)), max(solutions[name].steps, 1))
            axes.semilogy(steps, history / history[0], color=next(colors), linestyle=STYLES.get(name, "-"), label=name)
        axes.set(title=group, xlabel="steps", xlim=(0, None))
        axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.14), frameon=False)
    panels[0].set_ylabel("residual, relative to the first")
    figure.suptitle(title)
    save(figure, path)


def main() -> None:
    options = command_line(Options, __doc__)
    solutions = {}
    warnings.simplefilter("ignore", ConvergenceWarning)  # the table has the reason of each
    print(f"{options.points} x {options.points} points, to {options.rtol:.0e}\n")
    print(f"{'method':30}{'steps':>8}{'residual':>11}{'seconds':>9}")
    every = methods(options)
    with progress(len(every), "methods") as bar:
        for name, solve in every.items():
            started = time.perf_counter()
            solutions[name] = solution = solve()
            seconds, residual = time.perf_counter() - started, solution.residual / solution.history[0]
            bar.write(f"{name:30}{solution.steps:8}{residual:11.1e}{seconds:9.2f}  {solution.reason}")
            bar.update()
    print()
    draw(solutions, f"-Laplace u = 1, {options.points} x {options.points} points", options.figure)


if __name__ == "__main__":
    main()
