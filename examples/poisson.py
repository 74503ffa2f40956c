"""A Poisson problem by every method: steps, seconds, and how the residual falls.

    python examples/poisson.py                # 1024 x 1024 points; minutes on one core
    python examples/poisson.py --points 255   # seconds
    python examples/poisson.py --help

The problem is -Laplace u = 1 on the unit square with u = 0 on its edge, by the 5-point stencil. Needs scipy and
matplotlib.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from fastiter import ConvergenceWarning
from fastiter.relax import Anderson, Chebyshev, LinearSolution, Relaxation, Stencil, chebyshev, ssor_cg


def laplacian(m: int) -> Any:
    line = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m))
    eye = scipy.sparse.eye_array(m)
    return (scipy.sparse.kron(line, eye) + scipy.sparse.kron(eye, line)).tocsr()


def methods(m: int, steps: int, slow_steps: int, rtol: float) -> Iterator[tuple[str, Callable[[], LinearSolution]]]:
    """(name, how to solve); the slow ones stop after so many steps."""
    A, b = laplacian(m), np.ones(m * m)
    grid, wide = Stencil((m, m), np.array([4.0, -1.0, -1.0, -1.0, -1.0])), np.ones((m, m))
    best = 2 / (1 + math.sin(math.pi / (m + 1)))
    how: dict[str, Any] = {"rtol": rtol, "max_steps": steps, "check_every": 10}
    slow, fewer = ({**how, "max_steps": n} for n in (slow_steps, slow_steps // 5))
    ssor = Relaxation(A, "ssor")
    yield "Jacobi", lambda: Relaxation(A, "jacobi").solve(b, **slow)
    yield "Gauss-Seidel, natural", lambda: Relaxation(A, "gauss_seidel").solve(b, **slow)
    yield "Gauss-Seidel, colours", lambda: Relaxation(A, "gauss_seidel", order="color").solve(b, **slow)
    yield "Gauss-Seidel, clusters", lambda: Relaxation(A, "gauss_seidel", order="cluster").solve(b, **slow)
    yield "lines by block Gauss-Seidel", lambda: Relaxation(A, "block_gauss_seidel", block_size=8).solve(b, **slow)
    yield "Kaczmarz", lambda: Relaxation(A, "kaczmarz").solve(b, **slow)
    yield "Anderson of Gauss-Seidel", lambda: Anderson(Relaxation(A, "gauss_seidel", order="color")).solve(b, **fewer)
    yield "SOR, omega by itself", lambda: Relaxation(A, "sor").solve(b, **how)
    yield "SOR, best omega, colours", lambda: Relaxation(A, "sor", omega=best, order="color").solve(b, **how)
    yield "SOR, without a matrix", lambda: Relaxation(grid, "sor", omega=best, order="red-black").solve(wide, **how)
    yield "Chebyshev", lambda: chebyshev(A, b, **slow)
    yield "SSOR", lambda: ssor.solve(b, **slow)
    yield "Chebyshev of SSOR", lambda: Chebyshev(ssor).solve(b, **how)
    yield "SSOR-CG", lambda: ssor_cg(A, b, omega="auto", **how)


def draw(solutions: dict[str, LinearSolution], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 6))
    for name, solution in solutions.items():
        steps = np.minimum(10 * np.arange(len(solution.history)), max(solution.steps, 1))
        axes.loglog(np.maximum(steps, 1), solution.history / solution.history[0], label=name)
    axes.set_xlabel("steps")
    axes.set_ylabel("residual")
    axes.legend(fontsize="small", loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="A Poisson problem by every method.")
    parser.add_argument("--points", type=int, default=1024, help="along one axis (%(default)s)")
    parser.add_argument("--steps", type=int, default=6000, help="that a method may take (%(default)s)")
    parser.add_argument("--slow", type=int, default=500, help="steps of one that will not get there (%(default)s)")
    parser.add_argument("--rtol", type=float, default=1e-6, help="of the residual (%(default)s)")
    parser.add_argument("--figure", type=Path, default=Path("poisson.png"), help="where the figure goes (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="31 points, to see that it runs")
    if parser.parse_args().quick:
        parser.set_defaults(points=31, slow=6000)
    options = parser.parse_args()
    points = options.points
    solutions = {}
    warnings.simplefilter("ignore", ConvergenceWarning)  # the table has the reason of each
    print(
        f"{points} x {points} points, to {options.rtol:.0e}\n\n{'method':30}{'steps':>8}{'residual':>11}{'seconds':>9}"
    )
    for name, solve in methods(points, options.steps, options.slow, options.rtol):
        started = time.perf_counter()
        solutions[name] = solution = solve()
        seconds, residual = time.perf_counter() - started, solution.residual / solution.history[0]
        print(f"{name:30}{solution.steps:8}{residual:11.1e}{seconds:9.2f}  {solution.reason}", flush=True)
    draw(solutions, options.figure)
    print(f"\nwritten: {options.figure}")


if __name__ == "__main__":
    main()
