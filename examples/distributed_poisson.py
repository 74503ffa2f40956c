"""Solve a Poisson problem whose unknowns are divided over processes, and compare with SciPy's conjugate gradients.

Each process has a strip of the grid. A product with the matrix exchanges one line of points with each neighbour while
the inner points are computed; a step of conjugate gradients also needs one reduction of a few numbers.

    torchrun --nproc-per-node 2 examples/distributed_poisson.py            # 10 seconds to 3 minutes
    torchrun --nproc-per-node 2 examples/distributed_poisson.py --help

The problem is -Laplace u = 1 on the unit square with u = 0 on its edge, by the 5-point stencil. Needs scipy and
matplotlib.

:Starts from: a matrix
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
import torch.distributed as dist
from _script import OTHERS, OURS, THEIRS, command_line, figure_option, option, save
from matplotlib.figure import Figure

import fastiter
from fastiter.torch import distributed


@dataclass(frozen=True)
class Options:
    points: int = option(400, "points along one axis", 40)
    rtol: float = option(1e-8, "tolerance of the residual, relative to b")
    omega: float = option(1.9, "relaxation factor of the block preconditioner", 1.5)
    figure: Path = figure_option(__file__)


def laplacian(m: int, first: int, last: int) -> Any:
    """Return the matrix rows of grid lines first to last - 1, with all columns."""
    line = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m))
    lines = scipy.sparse.csr_array(line)[first:last]
    eye = scipy.sparse.eye_array(m, format="csr")
    matrix = scipy.sparse.csr_array(scipy.sparse.kron(lines, eye) + scipy.sparse.kron(eye[first:last], line))
    matrix.eliminate_zeros()
    return matrix


class Timed:
    """Elapsed seconds and CPU seconds of this process in a with block."""

    def __enter__(self) -> Timed:
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.elapsed = time.perf_counter() - self._start[0]
        self.cpu = time.process_time() - self._start[1]

    def __str__(self) -> str:
        return f"{self.elapsed:.2f} s, {self.cpu:.2f} s of CPU time in the first process"


def solve(options: Options) -> tuple[dict[str, list[float]], torch.Tensor]:
    """Solve by each method; return the residuals after each step, and this process's rows of the best method's u."""
    rank, size, m = dist.get_rank(), dist.get_world_size(), options.points
    A = distributed.RowMatrix(laplacian(m, m * rank // size, m * (rank + 1) // size))
    b = torch.ones(len(A.rows), dtype=torch.float64)
    block: dict[str, Any] = {"preconditioner": "block_jacobi", "omega": options.omega}
    ways: dict[str, dict[str, Any]] = {
        "CG": {},
        "Chebyshev, block Jacobi": {"method": "chebyshev", **block},
        "CG, block Jacobi": block,
    }
    histories = {}
    u = b
    for name, settings in ways.items():
        with Timed() as timed, distributed.record_traffic() as sent:
            solution = distributed.solve(A, b, rtol=options.rtol, throw=True, **settings)
        histories[name], u = solution.history.tolist(), solution.value
        if rank == 0:
            said = f"{sent.rounds} rounds, {sent.bytes} bytes"
            print(f"{name}: {solution.steps} steps, residual {solution.residual:.1e}, {timed}, {said}")
    return histories, u


def solve_by_scipy(options: Options, u: np.ndarray[Any, Any]) -> int:
    """Solve the whole problem in this process and compare; return the number of steps."""
    m = options.points
    A, b = laplacian(m, 0, m), np.ones(m * m)
    steps: list[float] = []
    with Timed() as timed:
        x, info = scipy.sparse.linalg.cg(A, b, rtol=options.rtol, callback=lambda x: steps.append(0.0))
    off = np.abs(x - u).max() / np.abs(x).max()
    print(f"SciPy's CG, one process: {len(steps)} steps, {timed}, info {info}; off by {off:.1e}")
    return len(steps)


def draw(options: Options, u: np.ndarray[Any, Any], histories: dict[str, list[float]], by_scipy: int) -> None:
    """Plot u with the boundaries between processes, and the residuals."""
    m, size = options.points, dist.get_world_size()
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    scaled = u.reshape(m, m) / (m + 1) ** 2  # the stencil without its factor 1 / h^2
    figure.colorbar(left.imshow(scaled, extent=(0, 1, 1, 0), cmap="viridis"), ax=left, label="u")
    for rank in range(1, size):
        left.axhline((m * rank // size) / m, color="white", linestyle="--")
    left.set(xlabel="x", ylabel="y", title=f"u, divided over {size} processes")
    styles = {"CG": (OTHERS, "-"), "Chebyshev, block Jacobi": (OURS, ":"), "CG, block Jacobi": (OURS, "-")}
    for name, history in histories.items():
        color, line = styles[name]
        right.semilogy(np.array(history) / history[0], color=color, linestyle=line, label=name)
    right.axvline(by_scipy, color=THEIRS, linewidth=1, label="end of SciPy's CG")
    right.set(xlabel="steps", ylabel="residual relative to the first")
    right.legend(frameon=False)
    save(figure, options.figure)


def main() -> None:
    options = command_line(Options, __doc__)
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    fastiter.set_num_threads(1)
    histories, own = solve(options)
    every: list[Any] = [None] * dist.get_world_size()
    dist.gather_object(own.numpy(), every if dist.get_rank() == 0 else None)
    if dist.get_rank() == 0:
        u = np.concatenate(every)
        draw(options, u, histories, solve_by_scipy(options, u))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
