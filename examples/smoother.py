"""The sweeps of fastiter.relax inside PyAMG's multigrid: the same cycles, with another smoother on every level.

    python examples/smoother.py               # 3 to 60 seconds; 512 x 512 points; writes smoother.png next to this file
    python examples/smoother.py --help

The change is one import: fastiter.relax.compat has the functions of pyamg.relaxation.relaxation. A second way prepares
the matrix of each level itself, which offers orders that PyAMG does not have. Needs pyamg.

:Starts from: a matrix
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyamg
from _script import OURS, THEIRS, command_line, figure_option, option, progress, save
from matplotlib.figure import Figure
from pyamg.relaxation import relaxation as theirs

from fastiter.relax import Relaxation, compat


@dataclass(frozen=True)
class Options:
    points: int = option(512, "points along one axis", 40)
    figure: Path = figure_option(__file__)


Smoother = Callable[[Any, Any, Any], None]


def pyamg_sweeps(level: Any) -> tuple[Smoother, Smoother]:
    return (
        lambda A, x, b: theirs.gauss_seidel(A, x, b, sweep="forward"),
        lambda A, x, b: theirs.gauss_seidel(A, x, b, sweep="backward"),
    )


def compat_sweeps(level: Any) -> tuple[Smoother, Smoother]:
    return (
        lambda A, x, b: compat.gauss_seidel(A, x, b, sweep="forward"),
        lambda A, x, b: compat.gauss_seidel(A, x, b, sweep="backward"),
    )


def coloured_sweeps(level: Any) -> tuple[Smoother, Smoother]:
    sweeps = Relaxation(level.A, "gauss_seidel", order="color")

    def forward(A: Any, x: Any, b: Any) -> None:
        sweeps.sweep(x, b)

    def backward(A: Any, x: Any, b: Any) -> None:
        sweeps.sweep(x, b, backward=True)

    return forward, backward


SMOOTHERS = {
    "pyamg gauss_seidel": pyamg_sweeps,
    "fastiter.relax.compat gauss_seidel": compat_sweeps,
    "fastiter Relaxation, colours": coloured_sweeps,
}


def solve(A: Any, b: Any, smoothers: Callable[[Any], tuple[Smoother, Smoother]]) -> tuple[float, list[float]]:
    """Seconds of the cycles, and the residuals."""
    hierarchy = pyamg.ruge_stuben_solver(A)
    for level in hierarchy.levels[:-1]:
        level.presmoother, level.postsmoother = smoothers(level)
    hierarchy.solve(b, maxiter=1)  # warm-up: the first cycle prepares the smoothers
    residuals: list[float] = []
    started = time.perf_counter()
    hierarchy.solve(b, tol=1e-8, residuals=residuals)
    return time.perf_counter() - started, residuals


def draw(solved: dict[str, tuple[float, list[float]]], points: int, path: Path) -> None:
    """Plot the residual after each cycle; the first two curves coincide."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    styles: list[dict[str, Any]] = [
        {"color": THEIRS, "linewidth": 1.2, "zorder": 3},
        {"color": OURS, "linewidth": 6, "alpha": 0.6},
        {"color": "tab:blue", "marker": "o", "markersize": 4},
    ]
    for (name, (seconds, residuals)), style in zip(solved.items(), styles, strict=True):
        relative = [residual / residuals[0] for residual in residuals]
        axes.semilogy(relative, label=f"{name}, {seconds:.2f} s", **style)
    axes.set(xlabel="cycle", ylabel="residual, relative to the first", xlim=(0, None))
    axes.set_title(f"Smoothers in PyAMG's multigrid, {points} x {points} points")
    axes.legend(frameon=False)
    save(figure, path)


def main() -> None:
    options = command_line(Options, __doc__)
    points = options.points
    A = pyamg.gallery.poisson((points, points), format="csr")
    b = np.random.default_rng(0).standard_normal(A.shape[0])
    print(f"{points} x {points} points\n\n{'smoother':36}{'cycles':>8}{'factor':>8}{'seconds':>9}")
    solved: dict[str, tuple[float, list[float]]] = {}
    with progress(len(SMOOTHERS), "smoothers") as bar:
        for name, smoothers in SMOOTHERS.items():
            seconds, residuals = solved[name] = solve(A, b, smoothers)
            factor = (residuals[-1] / residuals[0]) ** (1 / (len(residuals) - 1))
            bar.write(f"{name:36}{len(residuals) - 1:8}{factor:8.3f}{seconds:9.2f}")
            bar.update()
    print()
    draw(solved, points, options.figure)


if __name__ == "__main__":
    main()
