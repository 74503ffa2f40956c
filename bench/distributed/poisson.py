"""The section poisson: conjugate gradients on rows divided among ranks, against SciPy's in one process."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from bench.distributed.costs import fastest
from bench.distributed.jobs import Entrant, contest
from bench.distributed.team import Team
from bench.harness import tables
from bench.harness.contest import Record
from bench.harness.gate import GateError
from bench.harness.session import Options
from bench.harness.timing import load_average
from fastiter.torch import distributed

SIZES, QUICK_SIZES = (500, 2000), (60,)
#: Additive Schwarz with overlapping parts, one symmetric sweep each
SCHWARZ = "AdditiveSchwarz(overlap=2)"
#: From this number of points along a side on, a solve takes minutes: done once, and only with a preconditioner
LARGE = 1000
PRECONDITIONERS = ("none", SCHWARZ, "block_jacobi")
RTOL = 1e-6
#: Speedup over SciPy, on two ranks
GOAL = 1.6
SCIPY = "scipy cg, one process"

HEADER = (
    f"{'-Laplace(u) = f, to 1e-6':26}{'way':36}{'ranks':>6}{'steps':>7}{'ms':>11}{'CPU ms':>11}{'ratio':>7}{'CPU':>7}"
)


def row(r: Record) -> str:
    return (
        f"{r['work']:26}{r['way']:36}{r['ranks']:6}{r['steps']:7}{r['ms']:11.1f}{r['cpu_ms']:11.1f}"
        f"{r['ratio']:7.2f}{r['cpu_ratio']:7.2f}  load {r['load']:.1f}"
    )


def laplacian(n: int) -> Any:
    """The five-point matrix of an n x n grid."""
    from scipy import sparse

    line = sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    return sparse.csr_matrix(sparse.kron(sparse.eye_array(n), line) + sparse.kron(line, sparse.eye_array(n)))


class Relaxed:
    """A rank's part of a linear system, and its solutions.

    Attributes
    ----------
    found, steps : dict
        By method: this rank's part of the last solution (SciPy's is the whole solution), and the number of steps.
    """

    def __init__(self, group: dist.ProcessGroup, n: int) -> None:
        self.rank, self.n = dist.get_rank(group), n
        self.whole = laplacian(n)
        self.b = np.random.default_rng(n).standard_normal(n * n)
        ends = [n * r // dist.get_world_size(group) * n for r in range(dist.get_world_size(group) + 1)]
        self.mine = slice(ends[self.rank], ends[self.rank + 1])
        self.matrix = distributed.RowMatrix(self.whole[self.mine], group=group)
        self.solutions: dict[str, Any] = {}
        self.steps: dict[str, int] = {}

    def ours(self, preconditioner: str) -> None:
        """Solve on all ranks; the relaxation factor is optimal for SSOR on the whole grid (Axelsson and Barker)."""
        omega = 2 / (1 + 2 * math.sin(math.pi / (2 * (self.n + 1))))
        options: dict[str, Any] = {} if preconditioner == "none" else {"preconditioner": preconditioner, "omega": omega}
        if preconditioner == SCHWARZ:
            options = {"preconditioner": distributed.AdditiveSchwarz(overlap=2, omega=omega)}
        b = torch.from_numpy(self.b[self.mine])
        solution = distributed.solve(self.matrix, b, rtol=RTOL, throw=True, **options)
        self.solutions[preconditioner], self.steps[preconditioner] = solution.value, solution.steps

    def scipy(self) -> None:
        """Solve by SciPy, on this rank alone."""
        from scipy.sparse import linalg

        steps = 0

        def count(_: Any) -> None:
            nonlocal steps
            steps += 1

        self.solutions[SCIPY], _ = linalg.cg(self.whole, self.b, rtol=RTOL, maxiter=20_000, callback=count)
        self.steps[SCIPY] = steps

    def check(self, group: dist.ProcessGroup, way: str) -> None:
        """Raise if the residual of the solution over all ranks is too large."""
        x = self.solutions[way]
        if way != SCIPY:
            pieces: list[Any] = [None] * dist.get_world_size(group)
            dist.all_gather_object(pieces, x, group=group)
            x = torch.cat(pieces).numpy()
        residual = np.linalg.norm(self.b - self.whole @ x) / np.linalg.norm(self.b)
        if not residual <= 1.01 * RTOL:  # SciPy stops by the residual of its recurrence
            raise GateError(f"Poisson {self.n}^2, {way}: the residual is {residual:.1e}, more than {RTOL:.1e}")


def solutions(group: dist.ProcessGroup, n: int, ways: Sequence[str], peer: bool, budget: float) -> dict[str, Any]:
    """Time all solves, and check the residual of each; a long one has no warm-up."""
    system = Relaxed(group, n)
    entrants = {way: Entrant(partial(system.ours, way)) for way in ways}
    if peer:
        entrants[SCIPY] = Entrant(system.scipy, 1)
    samples = contest(group, entrants, budget, minimum=1, warm=n < LARGE)
    for way in system.solutions:
        system.check(group, way)
    return {"samples": samples, "steps": system.steps}


def poisson(team: Team, options: Options) -> Iterator[Record]:
    """Solve on one rank and on two, and with SciPy."""
    for n in QUICK_SIZES if options.quick else SIZES:
        ways = PRECONDITIONERS if n < LARGE else PRECONDITIONERS[1:]
        both = team.run(2, solutions, n, ways, True, options.budget / 4)
        alone = team.run(1, solutions, n, PRECONDITIONERS[-1:], False, options.budget / 4)
        theirs = fastest(both, SCIPY)
        for ranks, results in ((1, alone), (2, both)):
            for way in results[0]["samples"]:
                sample = fastest(results, way)
                yield {
                    "work": f"{n} x {n} points",
                    "way": way if way == SCIPY else f"cg, preconditioner {way}",
                    "ranks": 1 if way == SCIPY else ranks,
                    "steps": results[0]["steps"][way],
                    "ms": 1e3 * sample.wall,
                    "cpu_ms": 1e3 * sample.cpu,
                    "ratio": theirs.wall / sample.wall,
                    "cpu_ratio": theirs.cpu / sample.cpu,
                    "load": load_average(),
                }


def markdown(records: Sequence[Record]) -> list[str]:
    """A table for all sizes, with the goal for the fastest method on two ranks."""
    note = (
        f"Five-point matrix in float64 to a relative residual of {RTOL:g}, one thread per rank; `block_jacobi` is a "
        "symmetric sweep over each rank's rows, `AdditiveSchwarz` one over these and an overlap. The speedup over "
        "SciPy is in brackets."
    )
    header = ["", "way", "ranks", "steps", "ms", "processor, ms"]
    rows = []
    for r in records:
        best = min((o["ms"] for o in records if o["work"] == r["work"] and o["ranks"] == 2), default=0.0)
        times = f"{r['ratio']:.2f}"
        if r["ms"] == best:
            times = tables.against(times, f"{GOAL:g}", r["ratio"] >= GOAL)
        cpu = f"{r['cpu_ms']:.1f} ({r['cpu_ratio']:.2f})"
        rows.append([r["work"], r["way"], f"{r['ranks']}", f"{r['steps']}", f"{r['ms']:.1f} ({times})", cpu])
    return ["### Poisson's equation on two ranks", note, tables.markdown_table(header, rows)]
