"""The family bcd against scikit-learn, celer, LIBLINEAR and SciPy.

solvers    to the same objective, one thread
lattice    one sweep over all forest blocks of a lattice in float64, against a copy
kaczmarz   one step, against a NumPy loop, and against reading the rows in order
cutest     number of sketched Newton steps on CUTEst problems, against the numbers that the method's authors report
never-slower  estimators as constructed, against scikit-learn's, at a duality gap that is no larger
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np

from bench.bcd import cases, cutest, never_slower, table
from bench.harness import limits, session
from bench.harness.contest import Record
from bench.harness.session import Options
from bench.harness.timing import Competitor, interleave, load_average, use_threads

SECTIONS = ("solvers", "lattice", "kaczmarz", "cutest", "never-slower")
SIDE, QUICK_SIDE = 1000, 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_arguments(parser, SECTIONS)


def solvers(options: Options) -> Iterator[Record]:
    use_threads(1)
    for make in cases.QUICK if options.quick else cases.FULL:
        case = make()
        chosen = [case.solvers[0]]
        chosen += [s for s in case.solvers[1:] if not options.peers or any(word in s.name for word in options.peers)]
        best = {solver.name: float("inf") for solver in chosen}
        solutions = {}
        began = time.perf_counter()
        for rounds in range(100):
            if rounds >= 2 and time.perf_counter() - began > options.budget:
                break
            for solver in chosen:
                started = time.process_time()
                solutions[solver.name] = solver.solve()
                best[solver.name] = min(best[solver.name], time.process_time() - started)
        excess = cases.checked(case, solutions)
        for peer in chosen[1:]:
            yield {
                "work": case.name,
                "peer": peer.name,
                "ms": 1e3 * best["fastiter"],
                "peer_ms": 1e3 * best[peer.name],
                "ratio": best[peer.name] / best["fastiter"],
                "goal": peer.goal,
                "excess": excess["fastiter"],
                "peer_excess": excess[peer.name],
                "load": load_average(),
            }


def lattice(options: Options) -> Iterator[Record]:
    use_threads(1)
    side = QUICK_SIDE if options.quick else SIDE
    for name, blocks, sweep, nbytes in cases.lattices(side):
        copies = limits.copies(nbytes // 2, 1)
        entrants = [Competitor("sweep", sweep), *(Competitor(copy.name, copy.call) for copy in copies)]
        timings = interleave(entrants, options.budget, options.stirring(), min_samples=3)
        seconds = timings["sweep"].minimum
        rate = max(copy.rate(timings[copy.name]) for copy in copies)
        yield {
            "work": f"{side} x {side}, {name}",
            "blocks": blocks,
            "ms": 1e3 * seconds,
            "gbs": nbytes / seconds / 1e9,
            "share": nbytes / seconds / rate,
            "load": load_average(),
        }


def kaczmarz(options: Options) -> Iterator[Record]:
    use_threads(1)
    n = 100 if options.quick else 1000
    for m, dtype in ((200, "float64"), (2000, "float64"), (2000, "float32")):
        case = cases.kaczmarz(m, n, dtype)
        calls = {"ours": (case.ours, case.count), "loop": (case.loop, case.loops), "read": (case.read, case.count)}
        best = dict.fromkeys(calls, float("inf"))
        began = time.perf_counter()
        while time.perf_counter() - began < options.budget:
            for name, (call, count) in calls.items():
                started = time.process_time()
                call()
                best[name] = min(best[name], (time.process_time() - started) / count)
        yield {
            "work": case.name,
            "us": 1e6 * best["ours"],
            "peer_us": 1e6 * best["loop"],
            "ratio": best["loop"] / best["ours"],
            "share": best["read"] / best["ours"],
            "load": load_average(),
        }


def newton(options: Options) -> Iterator[Record]:
    for problem in cutest.problems():
        started = time.process_time()
        solution = problem.solve(5 if options.quick else 200)
        published = cutest.PUBLISHED.get(problem.name, ())
        yield {
            "work": problem.name,
            "reason": solution.reason,
            "steps": solution.steps,
            "published": None if published is None else list(published),
            "residual": solution.residual,
            "calls": problem.calls,
            "projections": solution.projections,
            "ms": 1e3 * (time.process_time() - started),
        }


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row as soon as it is known; return what bench/__main__.py writes to --out."""
    options = session.read_options("bcd", arguments, SECTIONS)
    with np.errstate(all="ignore"):
        sections = {"solvers": solvers, "lattice": lattice, "kaczmarz": kaczmarz, "cutest": newton}
        sections["never-slower"] = never_slower.measured
        return session.measure("bcd", options, sections, table.HEADERS, table.ROWS)
