"""Small problems and scalars, on which the time between two evaluations counts, against SciPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.harness import tables
from bench.harness.contest import Record
from bench.harness.gate import GateError
from bench.harness.session import Options
from bench.harness.timing import Competitor, interleave, load_average, use_threads
from fastiter.fixedpoint import fixed_point

HEADER = f"{'small problems':44}{'threads':>8}  {'peer':28}{'us':>10}{'ours, us':>10}{'ours / peer':>12}{'calls':>10}"
#: The largest difference of two solutions: rtol ||E|| / (1 - e) = 5e-5 for 20,000 scalars as one problem
LARGEST_ERROR = 1e-4


@dataclass(frozen=True)
class Contest:
    """One problem: both calls return the solution; ``calls`` counts evaluations of f."""

    name: str
    peer: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    calls: list[int]
    #: Most times SciPy's time
    goal: float


def few_unknowns(n: int) -> Contest:
    """x = tanh(W x + c) with ||W|| = 0.8: one solution of n unknowns."""
    from scipy import optimize

    rng = np.random.default_rng(n)
    W, c, calls, x0 = rng.normal(size=(n, n)), 0.5 * rng.normal(size=n), [0], np.zeros(n)
    W *= 0.8 / np.linalg.norm(W, 2)

    def f(x: Any) -> Any:
        calls[0] += 1
        return np.tanh(W @ x + c)

    return Contest(
        f"{n} unknowns, 1e-8",
        "scipy root, hybr",
        lambda: fixed_point(f, x0, batched=False).value,
        lambda: optimize.root(lambda x: f(x) - x, x0).x,
        calls,
        2.0,
    )


def kepler(samples: int, eccentricity: float, *, batched: bool) -> Contest:
    """Kepler's equation E = M + e sin E, as a batch of scalars or as one problem; SciPy's is Steffensen's method."""
    from scipy import optimize

    M, calls = np.random.default_rng(0).uniform(0, 2 * np.pi, samples), [0]

    def f(E: Any, M: Any) -> Any:
        calls[0] += 1
        return M + eccentricity * np.sin(E)

    column = M[:, None]
    ours = (
        (lambda: fixed_point(f, column, args=(column,)).value[:, 0])
        if batched
        else (lambda: fixed_point(f, M, args=(M,), batched=False).value)
    )
    return Contest(
        f"Kepler, {samples} scalars, e = {eccentricity:g}{', batched' if batched else ''}",
        "scipy fixed_point",
        ours,
        lambda: optimize.fixed_point(f, M, args=(M,), xtol=1e-8),
        calls,
        1.0,
    )


def contests(quick: bool) -> Iterator[Contest]:
    for n in (3,) if quick else (2, 3, 10):
        yield few_unknowns(n)
    for eccentricity in (0.3,) if quick else (0.3, 0.9):
        for batched in (False, True):
            yield kepler(500 if quick else 20_000, eccentricity, batched=batched)


def section(options: Options) -> Iterator[Record]:
    for contest in contests(options.quick):
        values, counts = [], []
        for call in (contest.ours, contest.theirs):
            contest.calls[0] = 0
            values.append(call())
            counts.append(contest.calls[0])
        error = float(np.abs(values[0] - values[1]).max())
        if not error <= LARGEST_ERROR:
            raise GateError(f"{contest.name}: both must have the same solution, got a difference of {error:.2g}")
        for threads in options.threads:
            use_threads(threads)
            entrants = [Competitor("ours", contest.ours, threads), Competitor("scipy", contest.theirs, threads)]
            timings = interleave(entrants, options.budget, options.stirring())
            mine, theirs = (timings[name].minimum for name in ("ours", "scipy"))
            yield {
                "work": contest.name,
                "threads": threads,
                "peer": contest.peer,
                "us": 1e6 * mine,
                "peer_us": 1e6 * theirs,
                "ratio": mine / theirs,
                "goal": contest.goal,
                "calls": counts[0],
                "peer_calls": counts[1],
                "load": load_average(),
            }


def row(r: Record) -> str:
    times = f"{r['peer_us']:10.1f}{r['us']:10.1f}{r['ratio']:12.2f}"
    calls = f"{r['peer_calls']} / {r['calls']}"
    return f"{r['work']:44}{r['threads']:8}  {r['peer']:28}{times}{calls:>10}  load {r['load']:.1f}"


def markdown(records: Sequence[Record]) -> list[str]:
    rows = [
        [
            r["work"],
            tables.on_threads(r["threads"]),
            tables.at_most(f"{r['ratio']:.2f}", f"{r['goal']:g}", r["ratio"] <= r["goal"]),
            f"{r['us']:.0f} ({r['peer_us']:.0f})",
            f"{r['calls']} ({r['peer_calls']})",
            r["peer"],
        ]
        for r in records
    ]
    header = ["work", "", "time over SciPy's", "us (SciPy's)", "calls of f (SciPy's)", "peer"]
    return ["### Small problems", tables.markdown_table(header, rows)]


__all__ = ["HEADER", "markdown", "row", "section"]
